"""Fields of TCB info and QE identity: the one way to take a value out of what Intel signed, with its type checked."""

from collections.abc import Mapping
from typing import Any

from tacit.errors import CollateralError


def take(value: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """The value of a field, which has exactly this type. Raises: CollateralError."""
    found = value.get(name)
    # bool is an int to Python, not to us.
    if not isinstance(found, kind) or isinstance(found, bool):
        raise CollateralError(f"{what}: {name} is missing or not a {kind.__name__}")
    return found


def take_hex(value: Mapping[str, Any], name: str, size: int, what: str) -> bytes:
    """The bytes of a field in hexadecimal text. Raises: CollateralError."""
    try:
        raw = bytes.fromhex(take(value, name, str, what))
    except ValueError as exc:
        raise CollateralError(f"{what}: {name} is not hex") from exc
    if len(raw) != size:
        raise CollateralError(f"{what}: {name} has {len(raw)} bytes, expected {size}")
    return raw


def take_objects(value: Mapping[str, Any], name: str, what: str) -> list[dict[str, Any]]:
    """The objects of a list. Raises: CollateralError."""
    found: list[dict[str, Any]] = take(value, name, list, what)
    if not all(isinstance(one, dict) for one in found):
        raise CollateralError(f"{what}: {name} is not a list of objects")
    return found


def check_text_kind(value: Mapping[str, Any], what: str, kind: str, version: int) -> None:
    """Accept a text that says that it is of this kind and version. Raises: CollateralError."""
    if (value.get("id"), value.get("version")) != (kind, version):
        found = f"{value.get('id')!r} version {value.get('version')!r}"[:80]
        raise CollateralError(f"{what} is for {found}, expected '{kind}' version {version}")
