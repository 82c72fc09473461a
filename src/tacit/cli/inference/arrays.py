"""Arrays in files, as they come and as they go."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tacit.cli.files import read_input
from tacit.errors import InputError

_MAX_ARRAYS = 1 << 30  # bytes; a gRPC message has at most twice that


def check_text(word: str) -> None:
    """Refuse a name that no request can hold. Raises: InputError."""
    try:
        word.encode()
    except UnicodeEncodeError as exc:
        raise InputError(
            f"{word!r} is no text, so nothing is called that; check the name of the model or input"
        ) from exc


def load_arrays(path: Path) -> Any:
    """An array, or arrays by input name, from a file. Pickled objects are refused. Raises: FileInputError, InputError."""
    raw = read_input(path, largest=_MAX_ARRAYS)
    if not raw:
        raise InputError(f"{path} is empty; expected a .npy, .npz or JSON file")
    if path.suffix == ".json":
        return _parse_json(path, raw)
    try:
        loaded = np.load(BytesIO(raw), allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError, TypeError) as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        if "pickle" in reason:
            # An array of Python objects, or a file that is no array at all: numpy tries both as a pickle.
            reason = "it is neither .npy nor .npz, or holds Python objects, which are never loaded"
        raise InputError(
            f"{path} holds no numpy array ({reason[:200]}); numpy.save writes one, or give JSON in a .json file"
        ) from exc


def _parse_json(path: Path, raw: bytes) -> Any:
    """Nested lists as one array, or an object as arrays by input. Raises: InputError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path} is no JSON ({exc})") from exc
    arrays: dict[str, Any] = {}
    for name, item in value.items() if isinstance(value, dict) else [("", value)]:
        check_text(name)
        try:
            array = np.asarray(item)
        except (ValueError, OverflowError) as exc:
            raise InputError(f"{path}: {name or 'the list'} is no array: its rows differ in length or kind") from exc
        if array.dtype == object:
            raise InputError(
                f"{path}: {name or 'the list'} holds null, an object or too large a number; expected numbers or text"
            )
        # Plain lists go on, and not arrays: they take the type that the model declares.
        arrays[name] = item
    return arrays if isinstance(value, dict) else value


def as_npz(named: Mapping[str, Any]) -> bytes:
    """The arrays as numpy's archive."""
    memory = BytesIO()
    np.savez(memory, allow_pickle=False, **{name: np.asarray(value) for name, value in named.items()})
    return memory.getvalue()


def as_jsonable(value: Any) -> Any:
    """Lists of numbers and text; bytes as text, and NaN and the infinities by name, for JSON has no such numbers."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        named = array.astype(object)
        named[~finite] = [_name_of(number) for number in array[~finite]]
        return named.tolist()
    if array.dtype == object or array.dtype.kind == "S":
        return np.vectorize(
            lambda item: item.decode("utf-8", "replace") if isinstance(item, bytes) else item, otypes=[object]
        )(array).tolist()
    return array.tolist()


def _name_of(number: Any) -> str:
    """How protobuf's JSON, and the words of the REST port, call it."""
    return "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"
