"""Arithmetic: what was asked for is what is computed, or it is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fakes import models
from fakes.records import predict_log, record
from tacit.errors import ModelFormatError, RequestError, UsageError
from tacit.programs.model_server.isolation import worker_environment
from tacit.programs.model_server.samples import recorded_samples
from tacit.programs.model_server.server import engine_options
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.onnxruntime import load_onnxruntime
from tacit.serving.engines.openvino import OpenVinoEngine, load_openvino, open_core
from tacit.serving.engines.openvino.reading import _properties
from tacit.serving.engines.tensorflow import load_tensorflow
from tacit.serving.loading.isolation import Workers
from tacit.serving.loading.opening import Loading
from tacit.serving.loading.starting import Command, Isolation
from tacit.serving.repository import ModelConfig, Repository
from tacit.serving.sources import Access, Format
from tacit.serving.tfs.flags import parse_flags
from tacit.serving.tfs.records import NAME
from tacit.wire.tensor import Tensor

RANDOM = np.random.default_rng(3)
ROWS = RANDOM.standard_normal((8, 4)).astype(np.float32)
INT8 = EngineOptions("int8", 1, samples=recorded_samples)


def with_records(model: bytes, *rows: np.ndarray, name: str = "model.onnx") -> MemoryBundle:
    recorded = b"".join(record(predict_log(one)) for one in rows)
    return MemoryBundle({name: model, **({NAME: recorded} if rows else {})})


def convolution() -> bytes:
    """Two convolutions, the second after a rectifier, and a mean over what they see."""
    weights = {"a": (8, 3, 3, 3), "b": (4, 8, 1, 1)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "b"], ["c"]),
            helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3], keepdims=0),
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def infer(engine: Any, rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = engine.infer("serving_default", {"x": Tensor(1, rows)}, ("y",))["y"].array
    return found


def layers(engine: Any) -> set[str]:
    """The arithmetic of an engine's large layers, as the processor runs them."""
    running = engine._compiled.get_runtime_model()
    return {
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in running.get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
    }


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "int8"])
def test_a_precision_is_computed_or_refused_and_never_another(precision: Any) -> None:
    word = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}[precision]
    bundle = with_records(models.onnx_model(), ROWS)
    options = EngineOptions(precision, 1, samples=recorded_samples)
    if word not in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ModelFormatError, match=f"--precision={precision}: this processor does not have it"):
            load_openvino(bundle, options)
        return
    engine = load_openvino(bundle, options)
    assert isinstance(engine, OpenVinoEngine)
    expected = "f32" if precision == "int8" else precision
    assert str(engine._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()) == expected


@pytest.mark.parametrize("load", [load_openvino, load_onnxruntime, load_tensorflow])
def test_a_device_that_is_not_there_is_refused_and_no_other_computes(load: Any) -> None:
    if any(found.startswith("GPU") for found in open_core().available_devices):
        pytest.skip("this machine has a GPU that OpenVINO can use")
    options = EngineOptions(device="gpu")
    contents = (
        {"saved_model.pb": models.saved_model()} if load is load_tensorflow else {"model.onnx": models.onnx_model()}
    )
    with pytest.raises(ModelFormatError, match=r"--device=gpu(: OpenVINO finds none| is OpenVINO's)"):
        load(MemoryBundle(contents), options)


def test_an_attested_server_computes_within_its_tee() -> None:
    flags = parse_flags(["--model_base_path=/m", "--device=gpu"])
    assert engine_options(flags, attested=False).device == "gpu"
    with pytest.raises(UsageError, match="outside of it"):
        engine_options(flags, attested=True)


def test_a_device_that_is_not_the_processor_is_told_nothing_of_processors() -> None:
    assert _properties(EngineOptions("f16", 3, device="gpu")) == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16",
    }
    assert not EngineOptions(device="gpu").has_choice_of_threads


@pytest.mark.parametrize(
    ("model", "rows"),
    [(models.onnx_model(), ROWS), (convolution(), RANDOM.standard_normal((4, 3, 16, 16)).astype(np.float32))],
    ids=["matrix", "convolution"],
)
def test_int8_computes_large_layers_in_integers_close_to_what_they_were(model: bytes, rows: np.ndarray) -> None:
    exact = infer(load_openvino(with_records(model), EngineOptions(threads=1)), rows)
    engine = load_openvino(with_records(model, rows), INT8)
    found = infer(engine, rows)
    assert layers(engine) <= {"u8", "i8"}
    assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


def test_int8_of_a_saved_model_keeps_its_names() -> None:
    recorded = record(predict_log(ROWS, name="image"))
    bundle = MemoryBundle({"saved_model.pb": models.saved_model(), NAME: recorded})
    exact = load_openvino(bundle, EngineOptions(threads=1))
    engine = load_openvino(bundle, INT8)
    assert engine.signatures == exact.signatures
    inputs = {"image": Tensor(1, ROWS)}
    left, right = (
        one.infer("serving_default", inputs, ("probabilities",))["probabilities"].array for one in (exact, engine)
    )
    assert np.abs(left - right).max() < 0.02


def test_int8_without_recorded_requests_says_what_is_missing() -> None:
    with pytest.raises(ModelFormatError, match="assets.extra/tf_serving_warmup_requests"):
        load_openvino(with_records(models.onnx_model()), INT8)


def test_int8_of_a_model_without_large_layers_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="no convolution"):
        load_openvino(with_records(models.half_plus_two(), np.ones(3, np.float32)), INT8)


def test_values_that_are_no_numbers_teach_int8_nothing() -> None:
    rows = np.full((1, 4), np.nan, np.float32)
    with pytest.raises(ModelFormatError, match="no numbers"):
        load_openvino(with_records(models.onnx_model(), rows), INT8)


def test_a_broken_record_is_told_as_that() -> None:
    with pytest.raises(RequestError, match="warmup"):
        load_openvino(MemoryBundle({"model.onnx": models.onnx_model(), NAME: b"no record"}), INT8)


@pytest.mark.parametrize("isolation", [None, Isolation.PROCESS])
def test_the_log_states_engine_and_precision(tmp_path: Path, events: Any, isolation: Isolation | None) -> None:
    folder = tmp_path / "1" / "assets.extra"
    folder.mkdir(parents=True)
    (tmp_path / NAME.replace("assets.extra", "1/assets.extra")).write_bytes(record(predict_log(ROWS)))
    (tmp_path / "1" / "model.onnx").write_bytes(models.onnx_model())
    command = Command("tacit.programs.model_server.worker", worker_environment(os.environ))
    loading = Loading(workers=Workers(isolation, command) if isolation else None)
    config = ModelConfig(tmp_path, Access("m", Format.PLAIN))
    repository = Repository([config], load=load_openvino, options=INT8, observe=events, loading=loading)
    repository.poll()
    (told,) = events.named("model-available")
    assert (told["engine"], told["precision"]) == ("openvino", "int8")
    repository.close()
