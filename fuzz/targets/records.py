"""A file of recorded requests, as it lies beside a model: `r` + its bytes, else one record's message."""

from tacit.errors import RequestError
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.bundle import MemoryBundle
from tacit.serving.tfs.records import NAME, masked_crc, parse_records, read_recorded

REFUSALS = (RequestError,)
LIMIT = 8192  # bytes
_SIGNATURES = {
    "serving_default": Signature({"x": TensorSpec("x:0", 1, (-1, 4))}, {"y": TensorSpec("y:0", 1, (-1, 3))}),
    "classify": Signature({"inputs": TensorSpec("e:0", 7, None)}, {"scores": TensorSpec("y:0", 1, None)}),
}


def check(data: bytes) -> None:
    if data[:1] == b"r":
        content = data[1:]
    else:
        length = len(data[1:]).to_bytes(8, "little")
        head = length + masked_crc(length).to_bytes(4, "little")
        content = head + data[1:] + masked_crc(data[1:]).to_bytes(4, "little")
        assert list(parse_records(content)) == [data[1:]]
    bundle = MemoryBundle({"model.onnx": b"", NAME: content})
    for call in read_recorded(bundle, _SIGNATURES):
        assert set(call.inputs) == set(_SIGNATURES[call.signature].inputs)
