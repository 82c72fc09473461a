"""Requests that were recorded beside a model."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import models
from tacit.errors import RequestError, Status
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import OpenVinoEngine, load_openvino
from tacit.serving.loading.opening import Loading
from tacit.serving.plane import State
from tacit.serving.repository import ModelConfig, Repository
from tacit.serving.sources import Access, Format
from tacit.serving.tfs.records import MAX_RECORDS, NAME, crc32c, masked_crc, parse_records, read_recorded
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.tensor import Tensor, encode_tensor


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def predict_log(rows: int, **more: Any) -> bytes:
    log = wire.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "another name, which nobody looks at"
    request.model_spec.signature_name = more.get("signature", "")
    encode_tensor(Tensor(1, np.ones((rows, more.get("columns", 4)), np.float32)), request.inputs["x"])
    return log.SerializeToString()


def byte_by_byte(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 1025, 8191, 8192, 8193, 10240])
def test_checksums_are_crc32c(size: int) -> None:
    data = bytes(number * 7 % 251 for number in range(size))
    assert crc32c(data) == byte_by_byte(data)


def test_checksums_are_those_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_the_recorded_file_holds_the_recorded_message_twice(shared_vectors: Path) -> None:
    folder = shared_vectors / "serving"
    expected = (folder / "tfs_prediction_log_predict.bin").read_bytes()
    assert list(parse_records((folder / "tf_serving_warmup_requests").read_bytes())) == [expected, expected]


@pytest.mark.parametrize("place", [0, 8, 12, 15, -1])
def test_a_flipped_byte_is_data_loss(place: int) -> None:
    content = bytearray(record(b"payload"))
    content[place] ^= 1
    with pytest.raises(RequestError, match="verify your warmup data is in TFRecord format") as refused:
        list(parse_records(bytes(content)))
    assert refused.value.status is Status.DATA_LOSS


@pytest.mark.parametrize("size", [1, 11, 12, 20, 22])
def test_a_file_that_was_cut_short_is_data_loss(size: int) -> None:
    with pytest.raises(RequestError, match="TFRecord format"):
        list(parse_records(record(b"payload")[:size]))


# ---- a version with recorded requests


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of every call of the engine, in their order."""
    calls: list[tuple[int, ...]] = []
    infer = OpenVinoEngine.infer

    def remember(engine: OpenVinoEngine, signature: str, inputs: Any, outputs: Any) -> Any:
        calls.append(inputs["x"].shape)
        return infer(engine, signature, inputs, outputs)

    monkeypatch.setattr(OpenVinoEngine, "infer", remember)
    return calls


def served(tmp_path: Path, events: Any, content: bytes, **loading: Any) -> Repository:
    folder = tmp_path / "1"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.onnx_model())
    (folder / NAME).write_bytes(content)
    config = ModelConfig(tmp_path, Access("m", Format.PLAIN))
    repository = Repository(
        [config],
        load=load_openvino,
        options=EngineOptions(threads=1),
        observe=events,
        loading=Loading(recorded=read_recorded, **loading),
    )
    repository.poll()
    return repository


def test_recorded_requests_run_before_the_version_answers_in_place_of_zeros(
    tmp_path: Path, events: Any, ran: list[tuple[int, ...]]
) -> None:
    repository = served(tmp_path, events, record(predict_log(2)) + record(predict_log(3)), iterations=2)
    assert ran == [(2, 4), (3, 4), (2, 4), (3, 4)]
    assert repository.statuses("m")[0].state is State.AVAILABLE
    repository.close()


def test_recorded_requests_are_left_where_warming_up_is_off(
    tmp_path: Path, events: Any, ran: list[tuple[int, ...]]
) -> None:
    repository = served(tmp_path, events, b"not even a file of records", warm=False)
    assert (repository.ready, ran) == (True, [])
    repository.close()


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"no records", Status.DATA_LOSS, "TFRecord format"),
        (record(b"\xff"), Status.INVALID_ARGUMENT, "it is no PredictionLog"),
        (record(b""), Status.UNIMPLEMENTED, "Unsupported log_type for warmup: none"),
        (record(predict_log(1, signature="nope")), Status.INVALID_ARGUMENT, "names signature nope"),
        (record(wire.PredictionLog(classify_log={}).SerializeToString()), Status.INVALID_ARGUMENT, "Input is empty."),
        (record(predict_log(1, columns=5)), Status.INVALID_ARGUMENT, "warmup request 0 failed"),
        (record(predict_log(1)) * (MAX_RECORDS + 1), Status.INVALID_ARGUMENT, "exceeds the maximum (1000)"),
    ],
    ids=[
        "no file of records",
        "no message",
        "another kind",
        "no such signature",
        "no examples",
        "it fails",
        "too many",
    ],
)
def test_a_version_that_cannot_run_what_was_recorded_is_not_served(
    tmp_path: Path, events: Any, content: bytes, status: Status, text: str
) -> None:
    repository = served(tmp_path, events, content)
    (found,) = repository.statuses("m")
    assert (found.state, found.code) == (State.END, status)
    assert text in found.message
    assert events.named("model-failed")
    repository.close()


def test_examples_that_were_recorded_are_run_by_their_features(tmp_path: Path, events: Any, ran: list[Any]) -> None:
    from tacit.wire.pb import tensorflow_pb2 as tf

    example = tf.Example()
    example.features.feature["x"].float_list.value.extend([1.0] * 4)
    classify, several = wire.PredictionLog(), wire.PredictionLog()
    classify.classify_log.request.input.example_list.examples.append(example.SerializeToString())
    several.multi_inference_log.request.input.CopyFrom(classify.classify_log.request.input)
    several.multi_inference_log.request.tasks.add()
    several.multi_inference_log.request.tasks.add()
    content = record(classify.SerializeToString()) + record(several.SerializeToString())
    repository = served(tmp_path, events, content)
    assert repository.ready, repository.statuses("m")
    assert ran == [(1, 4)] * 3
    repository.close()
