"""What an ONNX file says of its inputs, found without reading its weights.

Source: onnx/onnx.proto, ModelProto, GraphProto, ValueInfoProto, TypeProto.
"""

from tacit.errors import ModelFormatError
from tacit.graph.protobuf import fields

_WHAT = "an ONNX model"
_GRAPH, _INPUT, _NAME, _TYPE, _TENSOR = 7, 11, 1, 2, 1  # fields, each in the message before it; the name is an input's
_STRINGS = b"\x08\x08"  # element type 8, as the first field of a tensor's type


def string_inputs(content: memoryview) -> tuple[str, ...]:
    """Names of the inputs that hold text. Raises: ModelFormatError, where it is no ONNX file."""
    graphs = [payload for number, _, payload in fields(content, what=_WHAT) if number == _GRAPH]
    if not graphs:
        raise ModelFormatError(f"not {_WHAT}: it holds no graph")
    inputs = [payload for graph in graphs for number, _, payload in fields(graph, what=_WHAT) if number == _INPUT]
    return tuple(name for name, holds_text in map(_describe, inputs) if holds_text)


def _describe(value: memoryview) -> tuple[str, bool]:
    """Name of an input, and whether it holds text."""
    found = {number: payload for number, _, payload in fields(value, what=_WHAT)}
    kinds = {number: payload for number, _, payload in fields(found.get(_TYPE, memoryview(b"")), what=_WHAT)}
    name = bytes(found.get(_NAME, b"")).decode("utf-8", "replace")
    return name, bytes(kinds.get(_TENSOR, b"")[:2]) == _STRINGS
