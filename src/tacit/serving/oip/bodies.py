"""Inferences as HTTP bodies: JSON, with the tensors in it or as raw bytes behind it.

    {"id": ..., "parameters": {...}, "inputs": [{"name", "shape", "datatype", "parameters", "data"}], "outputs": [...]}

With the header `Inference-Header-Content-Length: N` the first N bytes are the JSON, and the tensors whose parameter
`binary_data_size` says so follow in its order. N = 0: the whole body is the one input of the model.

Source: open-inference-protocol, inference_rest.md; Triton's extension_binary_data.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from tacit.edge.pieces import inflate
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature
from tacit.serving.oip.question import (
    SHARED_MEMORY,
    Found,
    Question,
    Wanted,
    microseconds,
    refuse_shared_memory,
    whole_number,
)
from tacit.serving.plane import Selector
from tacit.serving.tfs.values import check_json_size, encode_value, parse_json, parse_value
from tacit.wire.raw_tensor import count_elements, datatype_of, dtype_of, encode_raw, parse_raw
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, Tensor

MAX_INFLATED = 100 * 1024 * 1024  # bytes of a compressed body once inflated, whatever else is allowed
HEADER = "inference-header-content-length"
_USUAL, _USUAL_PARAMETERS = frozenset(("inputs", "outputs", "parameters")), frozenset(("binary_data_output",))
_REMEMBERED, _REMEMBERED_SIZE = 64, 1024  # texts, and the bytes of one
_BINARY = {"content-type": "application/octet-stream"}
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is written: which outputs go behind the JSON (None: all that are not named), and the request's id."""

    binary: Mapping[str, bool]
    otherwise: bool = False
    id: str | None = None


class _Input(msgspec.Struct, frozen=True):
    """One input: values of JSON, or raw bytes."""

    datatype: str
    shape: tuple[int, ...]
    data: Any
    raw: memoryview | None


@dataclass(frozen=True, slots=True)
class _Asks:
    """What the JSON of a request says: inputs by name, with how many bytes of each stand behind it (None: its values are here)."""

    inputs: Mapping[str, tuple[_Input, int | None]]
    wanted: Sequence[Wanted]
    timeout: int
    form: Form
    usual: bool  # whether nothing stands in it but what is read, and nothing that is another's business

    @classmethod
    def of(cls, text: bytes) -> "_Asks":
        """Read it. Raises: RequestError."""
        document = parse_json(text)
        if not isinstance(document, dict):
            raise _refusal("the request is no JSON object")
        parameters = _object(document, "parameters")
        inputs = _read_inputs(document)
        wanted, binary = _read_outputs(document)
        timeout, found = microseconds(parameters.get("timeout")), document.get("id")
        if found is not None and not isinstance(found, str):
            raise _refusal("'id' is no text")
        if found is not None and any("\ud800" <= sign <= "\udfff" for sign in found):
            raise _refusal("'id' has half a character (a lone surrogate), which no answer can repeat")
        form = Form(binary, otherwise=_flag(parameters, "binary_data_output") or False, id=found)
        usual = document.keys() <= _USUAL and parameters.keys() <= _USUAL_PARAMETERS and bool(inputs)
        return cls(inputs, wanted, timeout, form, usual)


_known: dict[bytes, _Asks] = {}  # a client sends the same JSON again and again, and other bytes behind it


def _read_head(text: bytes) -> _Asks:
    """What the JSON of a request says. Raises: RequestError.

    What holds no value of a tensor, no id and no more than is usual is remembered: the rest is nobody's to keep.
    """
    asks = _known.get(text)
    if asks is None:
        asks = _Asks.of(text)
        if asks.usual and len(text) <= _REMEMBERED_SIZE and all(size is not None for _, size in asks.inputs.values()):
            if len(_known) >= _REMEMBERED:
                _known.clear()
            _known[text] = asks
    return asks


def unpack(body: bytes, encoding: str, *, limit: int) -> bytes:
    """A body without its Content-Encoding, gzip or deflate. Raises: RequestError."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(Status.UNIMPLEMENTED, f"Content-Encoding {encoding[:32]} is not read; gzip and deflate are")
    beyond = RequestError(
        Status.RESOURCE_EXHAUSTED,
        f"the body is more than {limit} bytes once inflated (--max_message_bytes, {MAX_INFLATED} at most); send it in parts",
    )
    return inflate(body, encoding, limit=limit, beyond=beyond)


def read_question(
    selector: Selector, body: bytes, header: str | None, *, max_json: int | None = None
) -> tuple[Question[_Input], Form]:
    """What a body asks, and how the answer is wanted. Raises: RequestError."""
    length = len(body)
    if header is not None:
        length = whole_number("Inference-Header-Content-Length", header)
        if length > len(body):
            raise _refusal(f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes")
    check_json_size(length, max_json)
    head, behind = body[:length], memoryview(body)[length:]
    asks = _read_head(head)
    return Question(selector, _with_bytes(asks.inputs, behind), asks.wanted, timeout=asks.timeout), asks.form


def raw_question(selector: Selector, body: bytes, signature: Signature) -> tuple[Question[_Input], Form]:
    """A body that is nothing but the model's one input; a free size of its shape follows from the bytes.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if len(signature.inputs) != 1:
        raise _refusal(f"a body of raw bytes is for models with one input; this one has {sorted(signature.inputs)}")
    ((alias, spec),) = signature.inputs.items()
    shape = [1] if spec.shape is None else list(spec.shape)
    free = [place for place, size in enumerate(shape) if size < 0]
    raw = memoryview(body)
    if spec.dtype == DT_STRING:
        # The whole body is one element, without a length before it.
        raw = memoryview(len(body).to_bytes(4, "little") + body)
        shape = [1 if size < 0 else size for size in shape]
    elif len(free) > 1:
        raise _refusal(f"input '{alias}' has shape {shape}: raw bytes do not say which of the free sizes are which")
    elif free:
        row = math.prod(size for size in shape if size >= 0) * ELEMENT_TYPES[spec.dtype].memory.itemsize
        if len(body) % row if row else body:
            raise _refusal(
                f"the body has {len(body)} bytes, and input '{alias}' with shape {shape} takes {row} at a time"
            )
        shape[free[0]] = len(body) // row if row else 0
    given = _Input(datatype_of(spec.dtype), tuple(shape), None, raw)
    return Question(selector, {alias: given}), Form({}, otherwise=True)


def decode(name: str, given: _Input) -> Tensor:
    """The tensor of one input. Raises: RequestError."""
    dtype = dtype_of(given.datatype, name=name)
    if given.raw is not None:
        return parse_raw(given.raw, dtype, given.shape, name=name)
    count = count_elements(given.shape, name=name)
    tensor = parse_value(given.data, dtype)
    if tensor.array.size != count:
        raise _refusal(
            f"input '{name}' has {tensor.array.size} values, and its shape {list(given.shape)} has {count} elements"
        )
    return Tensor(dtype, tensor.array.reshape(given.shape))


def write_answer(found: Found, form: Form) -> tuple[bytes, dict[str, str]]:
    """An answer's body and headers. Raises: RequestError for an output that JSON cannot carry."""
    entries, behind = [], []
    for name, tensor in found.outputs.items():
        if form.binary.get(name, form.otherwise):
            raw = encode_raw(tensor)
            behind.append(raw)
            entries.append(_raw_entry(name, tensor.dtype, tensor.shape, len(raw)))
        else:
            head = {"name": name, "datatype": datatype_of(tensor.dtype), "shape": tensor.shape}
            entries.append(orjson.dumps(head)[:-1] + b',"data":' + _encode(name, tensor) + b"}")
    about: dict[str, Any] = {"model_name": found.model, "model_version": str(found.version)}
    if form.id is not None:
        about["id"] = form.id
    text = orjson.dumps(about)[:-1] + b',"outputs":[' + b",".join(entries) + b"]}"
    if not behind:
        return text, _JSON
    return b"".join((text, *behind)), {**_BINARY, HEADER: str(len(text))}


@lru_cache(maxsize=_REMEMBERED)  # a model says the same of its outputs again and again
def _raw_entry(name: str, dtype: int, shape: tuple[int, ...], size: int) -> bytes:
    """What the JSON says of an output whose `size` bytes stand behind it."""
    head = {"name": name, "datatype": datatype_of(dtype), "shape": shape}
    return orjson.dumps({**head, "parameters": {"binary_data_size": size}})


def _encode(name: str, tensor: Tensor) -> bytes:
    if tensor.dtype == DT_STRING:
        try:
            for value in tensor.array.flat:
                value.decode()
        except UnicodeDecodeError as exc:
            raise _refusal(f"output '{name}' has bytes that are no text; ask for it with binary_data") from exc
    return encode_value(Tensor(tensor.dtype, tensor.array.reshape(-1)), as_bytes=False)


# ---- the parts of a request


def _read_inputs(document: Mapping[str, Any]) -> dict[str, tuple[_Input, int | None]]:
    inputs: dict[str, tuple[_Input, int | None]] = {}
    for entry in _list(document, "inputs", needed=True):
        name = _text(entry, "name", "an input")
        if name in inputs:
            raise _refusal(f"input '{name}' is given twice")
        parameters = _object(entry, "parameters")
        if SHARED_MEMORY in parameters:
            raise refuse_shared_memory(name)
        size = None
        if "binary_data_size" in parameters:
            size = whole_number("binary_data_size", parameters["binary_data_size"])
            if entry.get("data"):  # kserve's client sends an empty list beside no bytes
                raise _refusal(f"input '{name}' has both 'data' and 'binary_data_size'")
        elif not isinstance(entry.get("data"), list):
            raise _refusal(f"input '{name}' has no 'data', which is a list, and no 'binary_data_size'")
        given = _Input(_text(entry, "datatype", f"input '{name}'"), _shape(entry, name), entry.get("data"), None)
        inputs[name] = given, size
    return inputs


def _with_bytes(inputs: Mapping[str, tuple[_Input, int | None]], behind: memoryview) -> dict[str, _Input]:
    """The inputs with what stands behind the JSON, in its order. Raises: RequestError."""
    found = {}
    for name, (given, size) in inputs.items():
        if size is None:
            found[name] = given
            continue
        if size > len(behind):
            raise _refusal(f"input '{name}' says {size} binary bytes, and {len(behind)} are left of the body")
        found[name], behind = _Input(given.datatype, given.shape, None, behind[:size]), behind[size:]
    if behind:
        raise _refusal(f"the body has {len(behind)} bytes beyond its inputs")
    return found


def _read_outputs(document: Mapping[str, Any]) -> tuple[list[Wanted], dict[str, bool]]:
    wanted, binary = [], {}
    for entry in _list(document, "outputs"):
        name = _text(entry, "name", "an output")
        parameters = _object(entry, "parameters")
        if SHARED_MEMORY in parameters:
            raise refuse_shared_memory(name)
        wanted.append(Wanted(name, whole_number("classification", parameters.get("classification", 0))))
        flag = _flag(parameters, "binary_data")
        if flag is not None:
            binary[name] = flag
    return wanted, binary


def _shape(entry: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int or not -1 <= size < 2**63 for size in shape):
        raise _refusal(f"input '{name}' has no 'shape', which is a list of whole numbers")
    return tuple(shape)


def _list(document: Mapping[str, Any], key: str, *, needed: bool = False) -> list[Mapping[str, Any]]:
    found = document.get(key)
    if found is None and not needed:  # null is what clients write of a field that they do not use
        return []
    if not isinstance(found, list) or any(not isinstance(entry, dict) for entry in found):
        raise _refusal(f"'{key}' is no list of objects")
    return found


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _refusal(f"'{key}' is no object")
    return found


def _text(entry: Mapping[str, Any], key: str, what: str) -> str:
    found = entry.get(key)
    if not isinstance(found, str):
        raise _refusal(f"{what} has no '{key}', which is text")
    return found


def _flag(parameters: Mapping[str, Any], key: str) -> bool | None:
    found = parameters.get(key)
    if found is not None and not isinstance(found, bool):
        raise _refusal(f"'{key}' is true or false")
    return found


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
