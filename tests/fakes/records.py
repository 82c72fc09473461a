"""Requests that were recorded beside a model, as TensorFlow Serving writes them."""

import struct

import numpy as np

from tacit.serving.tfs.records import masked_crc
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.tensor import Tensor, encode_tensor


def record(data: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def predict_log(rows: np.ndarray, *, name: str = "x", signature: str = "") -> bytes:
    """A Predict request with these rows for the input `name`."""
    log = wire.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "another name, which nobody looks at"
    request.model_spec.signature_name = signature
    encode_tensor(Tensor(1, rows), request.inputs[name])
    return log.SerializeToString()
