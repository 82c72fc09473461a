"""Requests that were recorded beside a model, for it to run before it answers.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of PredictionLog messages:

    length (8 bytes, little endian)  masked CRC-32C of the length  the message  masked CRC-32C of the message

Source: tensorflow/core/lib/io/record_writer.h, tensorflow_serving/servables/tensorflow/saved_model_warmup.cc.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.bundle import Bundle, recognise
from tacit.serving.loading.warmup import Call
from tacit.serving.plane import check_aliases, check_types, choose_outputs
from tacit.serving.tfs.inference import example_inputs
from tacit.serving.tfs.service import decode_tensor, serialized_examples
from tacit.wire.pb import serving_pb2 as wire

NAME = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000  # TensorFlow Serving's own limit
MAX_FILE = 1 << 30  # bytes; a thousand images of 224x224x3 are 600 MB
_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_LANE = 1024  # bytes
_FEW = 8 * _LANE  # bytes; below, one after the other is quicker


def read_recorded(bundle: Bundle, signatures: Mapping[str, Signature]) -> Sequence[Call]:
    """The recorded requests among a model's files, in their order; empty where there are none.

    Raises:
        RequestError: DATA_LOSS for a broken file, INVALID_ARGUMENT for too many requests or one that does not fit the
            signatures.
    """
    name = recognise(bundle.names).root + NAME
    if name not in bundle.names:
        return ()
    if bundle.size(name) > MAX_FILE:
        raise RequestError(Status.INVALID_ARGUMENT, f"{name} is larger than {MAX_FILE} bytes; record fewer requests")
    calls: list[Call] = []
    for place, record in enumerate(parse_records(bundle.read(name))):
        if place >= MAX_RECORDS:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {name}"
            )
        try:
            log = wire.PredictionLog.FromString(record)
        except DecodeError as exc:
            raise RequestError(
                Status.INVALID_ARGUMENT, f"Failed to parse warmup record {place} of {name}: it is no PredictionLog"
            ) from exc
        calls += _calls(log, signatures)
    return calls


def parse_records(content: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """The records of a TFRecord file. Raises: RequestError DATA_LOSS."""
    view, position = memoryview(content), 0
    while position < len(view):
        begin = position + _HEAD.size
        if begin > len(view):
            raise _broken("it ends within a record's length")
        length, check = _HEAD.unpack(view[position:begin])
        if masked_crc(view[position : position + 8]) != check:
            raise _broken("a record's length does not fit its checksum")
        end = begin + length
        if end + _TAIL.size > len(view):
            raise _broken("it ends within a record")
        if masked_crc(view[begin:end]) != _TAIL.unpack(view[end : end + _TAIL.size])[0]:
            raise _broken("a record does not fit its checksum")
        yield bytes(view[begin:end])
        position = end + _TAIL.size


def _broken(reason: str) -> RequestError:
    return RequestError(
        Status.DATA_LOSS,
        f"Failed to read warmup record: {reason}. Please verify your warmup data is in TFRecord format.",
    )


# ---- requests


def _calls(log: wire.PredictionLog, signatures: Mapping[str, Signature]) -> list[Call]:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        key, signature = _find(request.model_spec.signature_name, signatures)
        check_aliases(signature, request.inputs)
        inputs = {alias: decode_tensor(alias, proto) for alias, proto in request.inputs.items()}
        check_types(signature, inputs)
        return [Call(key, inputs, choose_outputs(signature, request.output_filter))]
    if kind in ("classify_log", "regress_log"):
        single = log.classify_log.request if kind == "classify_log" else log.regress_log.request
        return [_of_examples(single.model_spec.signature_name, single.input, signatures)]
    if kind == "multi_inference_log":
        several = log.multi_inference_log.request
        return [_of_examples(task.model_spec.signature_name, several.input, signatures) for task in several.tasks]
    raise RequestError(Status.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind or 'none'}")


def _of_examples(key: str, given: wire.Input, signatures: Mapping[str, Signature]) -> Call:
    key, signature = _find(key, signatures)
    return Call(key, example_inputs(signature, serialized_examples(given)), tuple(signature.outputs))


def _find(key: str, signatures: Mapping[str, Signature]) -> tuple[str, Signature]:
    key = key or SERVING_DEFAULT
    if key not in signatures:
        raise RequestError(Status.INVALID_ARGUMENT, f"a warmup request names signature {key}, which there is not")
    return key, signatures[key]


# ---- CRC-32C, by numpy where it is much: a thousand images byte by byte would take minutes


def masked_crc(data: bytes | memoryview) -> int:
    """CRC-32C, turned and moved so that a checksum of what holds checksums is not a weak one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C: lanes of a kilobyte side by side, then joined. Source: RFC 3720, appendix B.4."""
    if len(data) < _FEW:
        crc, table = 0xFFFFFFFF, _bytes_table()
        for byte in bytes(data):
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    raw = np.frombuffer(data, np.uint8)
    # To begin with a register of ones is to flip the first four bytes, and zeros before them change nothing then.
    padding = -len(raw) % _LANE
    lanes = np.concatenate((np.zeros(padding, np.uint8), raw))
    lanes[padding : padding + 4] ^= 0xFF
    registers = _feed(np.zeros(len(lanes) // _LANE, np.uint32), lanes.reshape(-1, _LANE)).tolist()
    crc, shift = 0, _shift()
    for register in registers:
        crc = (
            shift[0][crc & 255] ^ shift[1][crc >> 8 & 255] ^ shift[2][crc >> 16 & 255] ^ shift[3][crc >> 24] ^ register
        )
    return crc ^ 0xFFFFFFFF


def _feed(registers: NDArray[np.uint32], lanes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    table = _table()
    for column in lanes.T:
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> np.uint32(8))
    return registers


@cache
def _table() -> NDArray[np.uint32]:
    entries = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        entries = np.where(entries & 1, (entries >> 1) ^ np.uint32(_POLYNOMIAL), entries >> 1).astype(np.uint32)
    return entries


@cache
def _bytes_table() -> list[int]:
    return [int(entry) for entry in _table()]


@cache
def _shift() -> list[list[int]]:
    """What a lane of zeros makes of each byte of a register: registers are joined by these."""
    numbers = np.arange(256, dtype=np.uint32)
    zeros = np.zeros((256, _LANE), np.uint8)
    return [_feed(numbers << np.uint32(8 * place), zeros).tolist() for place in range(4)]
