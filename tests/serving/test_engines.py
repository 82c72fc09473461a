"""Engines beside OpenVINO, and which one runs a model."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fakes import models
from tacit.errors import ModelFormatError, RequestError, Status, UsageError
from tacit.graph.protobuf import tagged
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines import select
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.onnxruntime import load_onnxruntime
from tacit.serving.engines.select import check_engine, load_model
from tacit.serving.engines.tensorflow import load_tensorflow, refuse_reaching_out
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
ONE = EngineOptions(threads=1)

SAME = {
    1: TensorProto.FLOAT, 2: TensorProto.DOUBLE, 3: TensorProto.INT32, 4: TensorProto.UINT8, 5: TensorProto.INT16,
    6: TensorProto.INT8, 9: TensorProto.INT64, 10: TensorProto.BOOL, 17: TensorProto.UINT16, 19: TensorProto.FLOAT16,
    22: TensorProto.UINT32, 23: TensorProto.UINT64,
}  # fmt: skip


def bundle(content: bytes) -> MemoryBundle:
    return MemoryBundle({"model.onnx": content})


def words(*values: bytes) -> Tensor:
    return Tensor(7, np.array(values, object))


def test_onnx_runtime_computes_what_openvino_computes() -> None:
    engine = load_onnxruntime(bundle(models.onnx_model()), ONE)
    (signature,) = engine.signatures.values()
    assert (signature.inputs["x"].shape, signature.inputs["x"].dtype) == ((-1, 4), 1)
    found = engine.infer("serving_default", {"x": Tensor(1, ROWS)}, ("y",))
    np.testing.assert_allclose(found["y"].array, ROWS @ models.WEIGHTS, rtol=1e-6)
    engine.close()


@pytest.mark.parametrize("dtype", SAME)
def test_onnx_runtime_takes_every_type(dtype: int) -> None:
    engine = load_onnxruntime(bundle(models.onnx_identity(SAME[dtype])), ONE)
    array = np.array([0, 1, 1]).astype(ELEMENT_TYPES[dtype].memory)
    found = engine.infer("serving_default", {"x": Tensor(dtype, array)}, ("y",))["y"]
    assert (found.dtype, found.array.dtype, found.array.tolist()) == (dtype, array.dtype, array.tolist())


def test_onnx_runtime_takes_text_and_refuses_bytes_that_are_none() -> None:
    engine = load_onnxruntime(bundle(models.onnx_identity(TensorProto.STRING)), ONE)
    given = words(b"a", "ü".encode(), b"")
    assert engine.infer("serving_default", {"x": given}, ("y",))["y"].array.tolist() == given.array.tolist()
    with pytest.raises(RequestError, match="UTF-8") as refused:
        engine.infer("serving_default", {"x": words(b"\xff")}, ("y",))
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_onnx_runtime_refuses_shapes_that_the_model_does_not_take_and_goes_on() -> None:
    engine = load_onnxruntime(bundle(models.onnx_model()), ONE)
    with pytest.raises(RequestError, match=r"x \[2, 3\]") as refused:
        engine.infer("serving_default", {"x": Tensor(1, ROWS[:, :3])}, ("y",))
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert engine.infer("serving_default", {"x": Tensor(1, ROWS)}, ("y",))["y"].shape == (2, 3)


@pytest.mark.parametrize("content", [b"", b"no model", models.onnx_model()[:-20]])
def test_t13_what_is_no_model_is_refused_by_onnx_runtime(content: bytes) -> None:
    with pytest.raises(ModelFormatError):
        load_onnxruntime(bundle(content), ONE)


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "absent.bin"])
def test_t42_onnx_runtime_opens_no_file_that_is_not_the_models(location: str) -> None:
    with pytest.raises(ModelFormatError):
        load_onnxruntime(bundle(models.onnx_pointing_at(location)), ONE)


def test_onnx_runtime_reads_tensors_in_a_file_of_the_model(tmp_path: Path) -> None:
    content = {"model.onnx": models.onnx_pointing_at("weights.bin"), "weights.bin": models.WEIGHTS.tobytes()}
    engine = load_onnxruntime(MemoryBundle(content), EngineOptions(threads=1, staging=Path("/dev/shm")))
    found = engine.infer("serving_default", {"x": Tensor(1, ROWS)}, ("y",))
    np.testing.assert_allclose(found["y"].array, ROWS @ models.WEIGHTS, rtol=1e-6)


def test_another_precision_than_the_models_is_openvinos() -> None:
    with pytest.raises(ModelFormatError, match="--precision"):
        load_onnxruntime(bundle(models.onnx_model()), EngineOptions("bf16", 1))


# ---- which engine


def test_openvino_runs_what_it_can() -> None:
    assert load_model(bundle(models.onnx_model()), ONE).platform == "openvino"


def test_what_openvino_does_not_read_goes_to_the_engine_of_its_format() -> None:
    engine = load_model(bundle(models.onnx_identity(TensorProto.STRING)), ONE)
    assert engine.platform == "onnxruntime"


def test_an_engine_that_is_named_is_the_one() -> None:
    options = EngineOptions(threads=1, engine="onnxruntime")
    assert load_model(bundle(models.onnx_model()), options).platform == "onnxruntime"
    with pytest.raises(ModelFormatError, match="string"):
        load_model(bundle(models.onnx_identity(TensorProto.STRING)), EngineOptions(threads=1, engine="openvino"))


def test_an_engine_that_is_not_installed_is_named_in_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "is_installed", lambda _name: False)
    with pytest.raises(ModelFormatError, match=r"pip install 'tacit\[onnxruntime\]'"):
        load_model(bundle(models.onnx_identity(TensorProto.STRING)), ONE)
    with pytest.raises(UsageError, match=r"pip install 'tacit\[onnxruntime\]'"):
        check_engine("onnxruntime")


def test_an_engine_that_nobody_knows_is_refused() -> None:
    assert check_engine("auto") == "auto"
    assert check_engine("openvino") == "openvino"
    with pytest.raises(UsageError, match="expected auto"):
        check_engine("caffe")


def test_what_no_engine_reads_is_refused_in_the_words_of_both() -> None:
    node = helper.make_node("NoSuchOperation", ["x"], ["y"], domain="nobody")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)])
    model.ir_version = 8
    with pytest.raises(ModelFormatError, match="nor does another engine"):
        load_model(bundle(onnx.ModelProto.SerializeToString(model)), ONE)


# ---- TensorFlow, as far as it needs none


@pytest.mark.parametrize(
    "op",
    ["ReadFile", "WriteFile", "PyFunc", "EagerPyFunc", "InitializeTableFromTextFileV2", "TFRecordDatasetV2", "RpcCall",
     "DebugIdentityV3", "DecodeProtoV2", "DataServiceDatasetV2", "CollectiveReduceV2", "ImmutableConst"],
)  # fmt: skip
@pytest.mark.parametrize("inside", ["graph", "function"])
def test_t43_a_graph_that_reaches_out_of_itself_is_refused_before_tensorflow_sees_it(op: str, inside: str) -> None:
    node = tagged(2, op.encode())
    graph = tagged(1, node) if inside == "graph" else tagged(2, tagged(1, tagged(3, node)))
    with pytest.raises(ModelFormatError, match=op):
        refuse_reaching_out(tagged(2, tagged(2, graph)))


def test_what_computes_and_restores_is_let_through() -> None:
    nodes = b"".join(
        tagged(1, tagged(2, op)) for op in (b"MatMul", b"RestoreV2", b"StringJoin", b"LookupTableImportV2")
    )
    refuse_reaching_out(tagged(2, tagged(2, nodes)))


@pytest.mark.parametrize("name", [b"../../etc/passwd", b"/etc/passwd", b"a/../../b"])
def test_t42_an_asset_outside_the_model_is_refused(name: bytes) -> None:
    with pytest.raises(ModelFormatError, match="no relative name"):
        refuse_reaching_out(tagged(2, tagged(6, tagged(2, name))))


def test_tensorflow_serves_saved_models_alone() -> None:
    with pytest.raises(ModelFormatError, match="SavedModels"):
        load_tensorflow(bundle(models.onnx_model()), ONE)


# ---- TensorFlow itself

STRINGS = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
class Words(tf.Module):
    def __init__(self):
        keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def serve(self, x):
        return {"upper": tf.strings.upper(x), "number": self.table.lookup(x)}
made = Words()
tf.saved_model.save(made, folder, signatures={"serving_default": made.serve})

from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.select import load_model
from tacit.errors import RequestError
from tacit.wire.tensor import Tensor
files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
engine = load_model(MemoryBundle(files), EngineOptions(threads=1))
assert engine.platform == "tensorflow", engine.platform
words = np.array([b"a", b"b", b"\\xffz"], object)
found = engine.infer("serving_default", {"x": Tensor(7, words)}, ("upper", "number"))
assert found["upper"].array.tolist() == [b"A", b"B", b"\\xffZ"], found
assert found["number"].array.tolist() == [1, 2, -1], found
try:
    engine.infer("serving_default", {"x": Tensor(1, np.zeros(2, np.float32))}, ("upper",))
except RequestError as exc:
    print(exc.status.name, exc)
engine.close()
print("done")
"""


@pytest.mark.tensorflow
@pytest.mark.skipif(
    "TACIT_TENSORFLOW_PYTHON" not in os.environ,
    reason="TACIT_TENSORFLOW_PYTHON names no interpreter; `make tensorflow` makes one",
)
def test_strings_and_tables_of_a_saved_model_are_tensorflows(tmp_path: Path) -> None:
    ours = f"{Path(select.__file__).parents[3]}:{Path(onnx.__file__).parents[1]}"
    done = subprocess.run(
        [os.environ["TACIT_TENSORFLOW_PYTHON"], "-c", STRINGS, tmp_path / "model"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ours, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-3000:]
    assert "INVALID_ARGUMENT" in done.stdout
