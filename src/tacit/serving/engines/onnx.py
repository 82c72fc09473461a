"""What an ONNX file points at: tensors may lie in other files, named by the model itself (threat T44).

OpenVINO would open such a name relative to wherever it looks. So the file is walked first, and a name that is not one
of the model's own files is refused. Only the few fields on the way to a tensor's location are read.

Source: onnx/onnx.proto, ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto.
"""

from collections.abc import Iterator, Sequence

from tacit.errors import ModelFormatError
from tacit.graph.protobuf import fields
from tacit.serving.bundle import Layout, check_name

_WHAT = "an ONNX model"
_MAX_DEPTH = 64  # of graphs inside nodes; real models have two or three

# Message kind -> field number -> kind of the message in that field. Everything else is skipped.
_WAY = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "entry"},
}


def external_files(content: bytes, layout: Layout, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the model's other files that hold tensors; empty where all are in this one.

    Raises:
        ModelFormatError: it points at a file that is not the model's, or is no ONNX file.
    """
    outside = tuple(sorted(set(_locations(memoryview(content), "model", 0))))
    for location in outside:
        check_name(location)
        if layout.root + location not in names:
            raise ModelFormatError(
                f"{layout.entry} has tensors in {location!r}, which is not among the model's files; "
                "give the folder that holds both"
            )
    return outside


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ModelFormatError(f"not an ONNX model: graphs are nested more than {_MAX_DEPTH} deep")
    for number, _, payload in fields(message, what=_WHAT):
        inner = _WAY[kind].get(number)
        if inner == "entry":
            pair = {key: value for key, _, value in fields(payload, what=_WHAT)}
            if bytes(pair.get(1, b"")) == b"location":
                yield bytes(pair.get(2, b"")).decode("utf-8", "replace")
        elif inner:
            yield from _locations(payload, inner, depth + 1)
