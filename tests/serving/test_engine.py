"""OpenVINO on tiny models of every kind that it reads."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fakes import models
from tacit.errors import ModelFormatError, PlaintextError, RequestError, Status
from tacit.serving.bundle import MemoryBundle, recognise
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino, reason_of
from tacit.serving.engines.processors import usable_processors
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

ROWS = np.random.default_rng(7).random((5, 4), dtype=np.float32)


def load(contents: Mapping[str, bytes], staging: Path = Path("/dev/shm")) -> Engine:
    return load_openvino(MemoryBundle(contents), EngineOptions(threads=1, staging=staging))


def run(engine: Engine, alias: str, rows: np.ndarray, signature: str = "serving_default") -> dict[str, np.ndarray]:
    outputs = tuple(engine.signatures[signature].outputs)
    result = engine.infer(signature, {alias: Tensor(1, rows)}, outputs)
    return {name: tensor.array for name, tensor in result.items()}


def test_onnx_is_read_from_memory() -> None:
    engine = load({"model.onnx": models.onnx_model()}, Path("/nowhere"))
    spec = engine.signatures["serving_default"].inputs["x"]
    assert (spec.dtype, spec.shape) == (1, (-1, 4))
    np.testing.assert_allclose(run(engine, "x", ROWS)["y"], ROWS @ models.WEIGHTS, rtol=1e-6)


def test_ir_is_read_from_memory(tmp_path: Path) -> None:
    models.write_ir(tmp_path)
    contents = {name: (tmp_path / name).read_bytes() for name in ("model.xml", "model.bin")}
    engine = load(contents, Path("/nowhere"))
    np.testing.assert_allclose(run(engine, "x", ROWS)["y"], ROWS @ models.WEIGHTS, rtol=1e-6)


def test_a_saved_model_answers_under_its_own_names_in_every_signature() -> None:
    engine = load({"saved_model.pb": models.saved_model()})
    assert set(engine.signatures) == {"serving_default", "logits_only"}
    logits = ROWS @ models.WEIGHTS
    np.testing.assert_allclose(run(engine, "image", ROWS)["probabilities"], models.softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(run(engine, "image", ROWS, "logits_only")["logits"], logits, rtol=1e-6)


def test_every_input_reaches_its_own_port() -> None:
    engine = load({"model.onnx": models.difference()})
    first, second = np.full(3, 7, np.float32), np.full(3, 2, np.float32)
    inputs = {"second": Tensor(1, second), "first": Tensor(1, first)}
    answers = engine.infer("serving_default", inputs, ("negated", "difference"))
    assert answers["difference"].array.tolist() == [5, 5, 5]
    assert answers["negated"].array.tolist() == [-5, -5, -5]


def test_a_saved_model_may_lie_in_a_folder_of_the_bundle() -> None:
    engine = load({"export/saved_model.pb": models.saved_model(), "export/assets/a.pb": b"", "notes.txt": b""})
    assert "serving_default" in engine.signatures


def test_a_frozen_graph_answers_under_its_nodes_names() -> None:
    engine = load({"graph.pb": models.graph_def().SerializeToString()})
    np.testing.assert_allclose(run(engine, "input", ROWS)["predict"], models.softmax(ROWS @ models.WEIGHTS), rtol=1e-5)


def test_the_batch_may_change_from_call_to_call() -> None:
    engine = load({"model.onnx": models.onnx_model()})
    for size in (1, 5, 2, 5, 0):
        rows = np.ones((size, 4), np.float32) * size
        np.testing.assert_allclose(run(engine, "x", rows)["y"], rows @ models.WEIGHTS, rtol=1e-6)


def test_answers_are_the_callers_own() -> None:
    engine = load({"model.onnx": models.onnx_model()})
    first = run(engine, "x", ROWS)["y"]
    kept = first.copy()
    run(engine, "x", ROWS * 100)
    assert np.array_equal(first, kept)


def test_a_shape_that_the_model_does_not_take_is_the_callers_mistake_and_nobody_elses() -> None:
    engine = load({"model.onnx": models.onnx_model()})
    run(engine, "x", ROWS)
    with pytest.raises(RequestError) as refused:
        run(engine, "x", np.zeros((2, 9), np.float32))
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert "src/" not in str(refused.value)
    np.testing.assert_allclose(run(engine, "x", ROWS)["y"], ROWS @ models.WEIGHTS, rtol=1e-6)


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [(1, 1), (11, 2), (6, 3), (2, 4), (3, 6), (7, 9), (9, 10), (10, 19), (16, 14), (12, 22), (4, 17)],
)
def test_element_types_pass_through(onnx_type: int, dtype: int) -> None:
    engine = load({"m.onnx": models.onnx_identity(onnx_type)})
    assert engine.signatures["serving_default"].inputs["x"].dtype == dtype
    memory = ELEMENT_TYPES[dtype].memory
    bits = {14: [0x3F80, 0xC020]}.get(dtype, [1, 0])
    sent = Tensor(dtype, np.array(bits, memory))
    assert engine.infer("serving_default", {"x": sent}, ("y",))["y"].array.tolist() == sent.array.tolist()


@pytest.mark.parametrize(
    ("onnx_type", "dtype", "fits", "wrong"),
    [
        (7, 9, [-(2**31), 2**31 - 1], [2**31, 2**40, -(2**31) - 1, -(2**63)]),
        (12, 22, [0, 2**31 - 1], [2**31, 2**32 - 1]),
        (13, 23, [0, 2**31 - 1], [2**31, 2**32, 2**64 - 1]),
    ],
)
def test_an_integer_that_the_engine_would_cut_is_refused(
    onnx_type: int, dtype: int, fits: list[int], wrong: list[int]
) -> None:
    engine, memory = load({"m.onnx": models.onnx_identity(onnx_type)}), ELEMENT_TYPES[dtype].memory
    for number in wrong:
        sent = Tensor(dtype, np.array([1, number, 0], memory))
        with pytest.raises(RequestError, match=f"input x holds {number}, .* in 32 bits") as refused:
            engine.infer("serving_default", {"x": sent}, ("y",))
        assert refused.value.status is Status.INVALID_ARGUMENT
    for numbers in (fits, []):
        sent = Tensor(dtype, np.array(numbers, memory))
        assert engine.infer("serving_default", {"x": sent}, ("y",))["y"].array.tolist() == numbers


def test_strings_are_refused_by_name_when_the_model_is_loaded() -> None:
    with pytest.raises(ModelFormatError, match="x is of type string"):
        load({"m.onnx": models.onnx_identity(8)})


@pytest.mark.parametrize(
    "contents",
    [
        {"model.onnx": b""},
        {"model.onnx": b"not a model at all"},
        {"model.onnx": models.onnx_model()[:-30]},
        {"model.xml": b"<net/>", "model.bin": b""},
        {"saved_model.pb": b"\xff\xff"},
        {"saved_model.pb": b""},
        {"graph.pb": b"garbage"},
        {"model.xml": b"<net/>"},
        {"readme.txt": b""},
        {"a.onnx": b"", "b.onnx": b""},
        {},
    ],
)
def test_what_is_no_model_is_refused(contents: Mapping[str, bytes]) -> None:
    with pytest.raises(ModelFormatError):
        load(contents)


@pytest.mark.parametrize("names", [["saved_model.pbtxt"], ["m/saved_model.pbtxt", "m/variables/variables.index"]])
def test_a_saved_model_in_text_is_told_how_it_is_to_be_written(names: list[str]) -> None:
    with pytest.raises(ModelFormatError, match=r"saved_model\.pbtxt is a .* export it as saved_model\.pb"):
        recognise(names)
    assert recognise([*names, names[0].removesuffix("txt")]).entry == names[0].removesuffix("txt")


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/model.onnx", "a/../model.onnx", "a\\model.onnx", ""])
def test_t42_a_name_that_leads_out_of_the_model_is_refused(name: str) -> None:
    with pytest.raises(ModelFormatError):
        recognise([name])


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "weights.bin"])
def test_t44_tensors_outside_of_the_model_are_refused(location: str) -> None:
    with pytest.raises(ModelFormatError):
        load({"model.onnx": models.onnx_pointing_at(location)})


def test_tensors_in_a_file_of_the_model_are_read() -> None:
    contents = {"model.onnx": models.onnx_pointing_at("weights.bin"), "weights.bin": models.WEIGHTS.tobytes()}
    np.testing.assert_allclose(run(load(contents), "x", ROWS)["y"], ROWS @ models.WEIGHTS, rtol=1e-6)


def test_t46_a_model_that_needs_a_path_is_refused_where_that_would_be_a_disk(tmp_path: Path) -> None:
    if os.stat(tmp_path).st_dev == os.stat("/dev/shm").st_dev:
        tmp_path = Path("/usr")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PlaintextError):
        load({"saved_model.pb": models.saved_model()}, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_t46_staged_files_are_gone_once_the_model_is_read(memory: Path) -> None:
    load({"saved_model.pb": models.saved_model()}, memory)
    assert not list(memory.iterdir())


def test_t46_a_model_that_a_killed_process_was_reading_is_gone_with_the_next_one(memory: Path) -> None:
    script = (
        "import os, pathlib, signal, sys; sys.path.insert(0, 'tests')\n"
        "from fakes import models\n"
        "from tacit.serving.bundle import MemoryBundle\n"
        "from tacit.serving.engines.staging import staged\n"
        f"with staged(MemoryBundle({{'saved_model.pb': models.saved_model()}}), pathlib.Path('{memory}')):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = memory.iterdir()
    assert (left / "saved_model.pb").exists()
    load({"saved_model.pb": models.saved_model()}, memory)
    assert not list(memory.iterdir())


def test_the_engine_brings_no_telemetry() -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from fakes import models\n"
        "from tacit.serving.bundle import MemoryBundle\n"
        "from tacit.serving.engines.interface import EngineOptions\n"
        "from tacit.serving.engines.openvino import load_openvino\n"
        "load_openvino(MemoryBundle({'m.onnx': models.onnx_model()}), EngineOptions(threads=1))\n"
        "print([name for name in sys.modules if 'telemetry' in name or name == 'requests'])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_signal_after_another_thread_gave_a_model_back_is_a_signal_like_any_other() -> None:
    # OpenVINO gives the thread that loads its plugin a stack for signals, and takes it away with the plugin.
    script = (
        "import signal, sys, threading\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from fakes.models import onnx_model\n"
        "from tacit.serving.bundle import MemoryBundle\n"
        "from tacit.serving.engines.interface import EngineOptions\n"
        "from tacit.serving.engines.openvino import load_openvino\n"
        "engines = [load_openvino(MemoryBundle({'model.onnx': onnx_model()}), EngineOptions(threads=1))]\n"
        "thread = threading.Thread(target=lambda: engines.pop().close())\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('taken'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "taken\n", "")


def test_processors_are_counted_as_the_control_group_allows(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_processors(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_processors(quota) == usable_processors(tmp_path / "none") == len(os.sched_getaffinity(0))


def test_the_engines_words_go_on_without_the_places_in_its_source() -> None:
    said = (
        "Exception from src/inference/src/cpp/core.cpp:109:\n"
        "Check 'x' failed at src/core/y.cpp:1:\n"
        "[CPU] Convolution node src/plugins/intel_cpu/src/nodes/conv.cpp:295: Doesn't support these sizes\n"
    )
    assert reason_of(RuntimeError(said)) == "[CPU] Convolution node Doesn't support these sizes"
    assert reason_of(RuntimeError("src/a.cpp:1:")) == "no reason given"


def test_a_signature_is_never_answered_by_the_tensor_that_another_calls_by_the_same_name() -> None:
    saved = tf.SavedModel(saved_model_schema_version=1)
    meta = saved.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(models.graph_def())
    for key, tensor in (("serving_default", "predict:0"), ("raw", "logits:0"), ("missing", "nowhere:0")):
        signature = meta.signature_def[key]
        for info, name in ((signature.inputs["input"], "input:0"), (signature.outputs["y"], tensor)):
            info.name, info.dtype = name, tf.DT_FLOAT
    engine = load({"saved_model.pb": saved.SerializeToString()})
    assert set(engine.signatures) == {"serving_default", "raw"}
    rows = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(run(engine, "input", rows, "raw")["y"], rows @ models.WEIGHTS, rtol=1e-6)
    assert run(engine, "input", rows)["y"].sum() == pytest.approx(1.0)


def test_a_model_of_tensorflow_lite_answers_under_its_tensors_names() -> None:
    # `y = 0.5 x + 2`, converted by TensorFlow 2.21.
    content = (Path(__file__).parents[1] / "vectors" / "serving" / "half_plus_two.tflite").read_bytes()
    engine = load({"model.tflite": content})
    (alias,) = engine.signatures["serving_default"].inputs
    (found,) = run(engine, alias, np.array([[2.0], [4.0]], np.float32)).values()
    assert found.tolist() == [[3.0], [4.0]]
