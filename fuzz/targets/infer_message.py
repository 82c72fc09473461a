"""The gRPC message of an inference: what was read has the shape that it claims, and travels raw."""

from tacit.errors import RequestError
from tacit.serving.oip.service import _decode, _read, read_question
from tacit.wire.pb.inference_pb2 import ModelInferRequest
from tacit.wire.raw_tensor import encode_raw, parse_raw

REFUSALS = (RequestError,)
LIMIT = 4096  # bytes


def check(data: bytes) -> None:
    message = _read(ModelInferRequest, data)
    for name, given in read_question(message).inputs.items():
        tensor = _decode(name, given)
        assert tensor.shape == tuple(given[0].shape)
        raw = encode_raw(tensor)
        assert parse_raw(raw, tensor.dtype, tensor.shape, name=name).array.tobytes() == tensor.array.tobytes() or (
            tensor.array.dtype == object
        )
