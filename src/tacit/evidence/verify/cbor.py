"""CBOR as far as RA-TLS needs it: byte strings, text, numbers, arrays, maps and one tag, all of definite length.

Source: RFC 8949, section 3; canonical lengths (section 4.2.1), so that one value has one form.
"""

from dataclasses import dataclass
from typing import TypeAlias

_MAX_DEPTH = 4  # tag, array, map, array: what a claims map has
_MAX_ITEMS = 16
_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = 0, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag before it."""

    tag: int
    value: "Value"


Value: TypeAlias = "int | bytes | str | list[Value] | dict[str, Value] | Tagged"


def parse_cbor(data: bytes) -> Value:
    """The one value that these bytes are. Raises: ValueError."""
    value, end = _parse(data, 0, _MAX_DEPTH)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind the CBOR value")
    return value


def _parse_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(type, number, where it goes on)."""
    if at >= len(data):
        raise ValueError("cut CBOR value")
    kind, short = data[at] >> 5, data[at] & 0x1F
    if short < 24:
        return kind, short, at + 1
    if short > 26:
        raise ValueError("a CBOR length that is indefinite or has more than 4 bytes")
    size = 1 << (short - 24)
    number = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    if len(data) < at + 1 + size or number < (24, 1 << 8, 1 << 16)[short - 24]:
        raise ValueError("a CBOR length that is cut, or longer than it need be")
    return kind, number, at + 1 + size


def _parse(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    kind, number, at = _parse_head(data, at)
    if kind == _UNSIGNED:
        return number, at
    if kind in (_BYTES, _TEXT):
        if number > len(data) - at:
            raise ValueError("cut CBOR string")
        content = data[at : at + number]
        return content if kind == _BYTES else content.decode(), at + number
    if depth == 0 or (number > _MAX_ITEMS and kind in (_ARRAY, _MAP)):
        raise ValueError("CBOR nested too deep, or with too many items")
    if kind == _TAG:
        value, at = _parse(data, at, depth - 1)
        return Tagged(number, value), at
    if kind == _ARRAY:
        items: list[Value] = []
        for _ in range(number):
            value, at = _parse(data, at, depth - 1)
            items.append(value)
        return items, at
    if kind == _MAP:
        return _parse_map(data, at, number, depth)
    raise ValueError(f"a CBOR value of type {kind}")


def _parse_map(data: bytes, at: int, count: int, depth: int) -> tuple[Value, int]:
    found: dict[str, Value] = {}
    for _ in range(count):
        key, at = _parse(data, at, depth - 1)
        value, at = _parse(data, at, depth - 1)
        if not isinstance(key, str) or key in found:
            raise ValueError("a CBOR map with a key that is no text, or stands twice")
        found[key] = value
    return found, at
