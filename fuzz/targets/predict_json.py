"""The JSON of a REST prediction. The first byte chooses the element type; what was read can be written and read again."""

import json

from tacit.errors import RequestError
from tacit.serving.tfs import rest
from tacit.serving.tfs.values import encode_value, parse_json, parse_value
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES

REFUSALS = (RequestError,)
LIMIT = 4096  # bytes
_TYPES = sorted(ELEMENT_TYPES)


class _Spec:
    """An input as a signature declares it."""

    shape = None

    def __init__(self, dtype: int) -> None:
        self.dtype = dtype


class _Signature:
    def __init__(self, dtype: int, names: str) -> None:
        self.inputs = {name: _Spec(dtype) for name in names}


def check(data: bytes) -> None:
    chosen = data[0] if data else 0
    dtype, names = _TYPES[chosen % len(_TYPES)], "a" if chosen < 128 else "ab"
    document = parse_json(data[1:])
    if not isinstance(document, dict):
        return  # the router's own refusal
    signature = _Signature(dtype, names)
    in_rows = rest._is_in_rows(document)
    found = rest._parse_rows(document["instances"], signature) if in_rows else rest._parse_columns(document, signature)  # type: ignore[arg-type]
    for name, tensor in found.items():
        text = encode_value(tensor, as_bytes=True)
        again = parse_value(json.loads(text), dtype)
        assert again.shape == tensor.shape or not tensor.array.size, name
        if dtype == DT_STRING:
            assert again.array.tolist() == tensor.array.tolist()
        else:
            assert again.array.tobytes() == tensor.array.tobytes() or _has_nan(tensor.array)
    (rest._encode_rows if in_rows else rest._encode_columns)(found)


def _has_nan(array: object) -> bool:
    """NaN has many forms, and JSON one."""
    return bool((array != array).any())  # type: ignore[attr-defined]
