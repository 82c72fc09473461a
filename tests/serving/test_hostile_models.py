"""Models that name what is not theirs: sealed by whoever has the key, and still confined to their capsule."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from fakes import models
from tacit.errors import ModelFormatError
from tacit.graph.declared import read_signatures
from tacit.graph.savedmodel import parse_saved_model
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.sources import Access, Format, list_sources, open_source
from tacit.vault import seal_folder
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor

KEY = bytes(range(32))


def load_sealed(tmp_path: Path, contents: Mapping[str, bytes]) -> Engine:
    """The engine of a capsule with these files."""
    for name, content in contents.items():
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    seal_folder(tmp_path / "source", tmp_path / "m.capsule", KEY, name="m", version=1)
    access = Access("m", Format.CAPSULE, None, KEY)
    (source,) = list_sources(tmp_path / "m.capsule", access)
    bundle = open_source(source, access)
    try:
        return load_openvino(bundle, EngineOptions(threads=1))
    finally:
        bundle.close()


def saved_model_whose_weights(op: str, *, where: bytes = b"/etc/passwd") -> bytes:
    """The tiny SavedModel, with its weights from a file that the graph names."""
    model = tf.SavedModel.FromString(models.saved_model())
    graph = model.meta_graphs[0].graph_def
    graph.node.remove(next(node for node in graph.node if node.name == "weights"))
    for name, text in (("file", where), ("names", b"w"), ("slices", b"")):
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.DT_STRING
        value = node.attr["value"].tensor
        value.dtype = tf.DT_STRING
        value.string_val.append(text)
    if op == "ReadFile":
        graph.node.add(name="read", op="ReadFile", input=["file"])
        graph.node.add(name="weights", op="DecodeRaw", input=["read"]).attr["out_type"].type = tf.DT_FLOAT
    elif op == "RestoreV2":
        node = graph.node.add(name="weights", op="RestoreV2", input=["file", "names", "slices"])
        node.attr["dtypes"].list.type.append(tf.DT_FLOAT)
    else:
        node = graph.node.add(name="variable", op="VarHandleOp")
        node.attr["dtype"].type = tf.DT_FLOAT
        node.attr["shared_name"].s = where
        for size in (4, 3):
            node.attr["shape"].shape.dim.add(size=size)
        graph.node.add(name="weights", op="ReadVariableOp", input=["variable"]).attr["dtype"].type = tf.DT_FLOAT
    return model.SerializeToString()


def ir(tmp_path: Path) -> tuple[str, bytes]:
    folder = tmp_path / "ir"
    folder.mkdir()
    models.write_ir(folder)
    return (folder / "model.xml").read_text(), (folder / "model.bin").read_bytes()


@pytest.mark.parametrize("op", ["ReadFile", "RestoreV2", "VarHandleOp"])
def test_t43_a_saved_model_reads_no_file_that_its_graph_names(tmp_path: Path, op: str) -> None:
    with pytest.raises(ModelFormatError, match="OpenVINO cannot read"):
        load_sealed(tmp_path, {"saved_model.pb": saved_model_whose_weights(op)})


@pytest.mark.parametrize("where", [b"../outside/w", b"w"])
def test_t42_a_saved_models_variables_come_from_its_own_folder_alone(tmp_path: Path, where: bytes) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w").write_bytes(models.WEIGHTS.tobytes())
    contents = {
        "saved_model.pb": saved_model_whose_weights("VarHandleOp", where=where),
        "variables/variables.index": b"no index" * 10,
        "variables/variables.data-00000-of-00001": models.WEIGHTS.tobytes(),
    }
    with pytest.raises(ModelFormatError, match="index"):
        load_sealed(tmp_path, contents)


def test_assets_lie_beside_a_saved_model_and_change_nothing(tmp_path: Path) -> None:
    contents = {"saved_model.pb": models.saved_model(), "assets/words.txt": b"a\nb\n", "assets.extra/m.onnx": b"no"}
    assert "serving_default" in load_sealed(tmp_path, contents).signatures


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../weights.bin", "./../weights.bin", "data/../../w", "weights.bin"]
)
def test_t42_onnx_tensors_come_from_the_capsule_alone(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(models.WEIGHTS.tobytes())
    with pytest.raises(
        ModelFormatError, match=r"not among the model's files; give the folder that holds both|is no relative name"
    ):
        load_sealed(tmp_path, {"model.onnx": models.onnx_pointing_at(location)})


@pytest.mark.parametrize("place", ["training", "branch", "sparse"])
def test_t42_onnx_tensors_are_looked_for_wherever_they_can_stand(tmp_path: Path, place: str) -> None:
    model = onnx.ModelProto.FromString(models.onnx_pointing_at("/etc/passwd"))
    (tensor,) = model.graph.initializer
    hidden = onnx.TensorProto.FromString(tensor.SerializeToString())
    del model.graph.initializer[:]
    if place == "training":
        model.training_info.add().initialization.initializer.append(hidden)
    elif place == "branch":
        model.graph.node[0].attribute.add(name="then_branch", type=5).g.initializer.append(hidden)
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(hidden)
    with pytest.raises(ModelFormatError, match="'/etc/passwd' is no relative name"):
        load_sealed(tmp_path, {"model.onnx": model.SerializeToString()})


def test_onnx_tensors_in_a_file_of_the_capsule_are_read(tmp_path: Path) -> None:
    contents = {"model.onnx": models.onnx_pointing_at("data/w.bin"), "data/w.bin": models.WEIGHTS.tobytes()}
    rows = np.ones((2, 4), np.float32)
    answer = load_sealed(tmp_path, contents).infer("serving_default", {"x": Tensor(1, rows)}, ("y",))
    np.testing.assert_allclose(answer["y"].array, rows @ models.WEIGHTS, rtol=1e-6)


@pytest.mark.parametrize("offset", ["8", "100000", "-64", "18446744073709551600"])
def test_t42_an_ir_reads_nothing_beyond_its_weights(tmp_path: Path, offset: str) -> None:
    text, weights = ir(tmp_path)
    with pytest.raises(ModelFormatError):
        load_sealed(
            tmp_path, {"model.xml": text.replace('offset="0"', f'offset="{offset}"').encode(), "model.bin": weights}
        )


def test_t43_an_ir_expands_no_entity(tmp_path: Path) -> None:
    text, weights = ir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("canary")
    body = text.replace('<?xml version="1.0"?>', "").replace('name="y"', 'name="&x;"')
    hostile = f'<!DOCTYPE net [<!ENTITY x SYSTEM "file://{secret}">]>{body}'
    try:
        told = str(load_sealed(tmp_path, {"model.xml": hostile.encode(), "model.bin": weights}).signatures)
    except ModelFormatError as refused:
        told = str(refused)
    assert "canary" not in told


def test_signatures_are_those_of_the_whole_file() -> None:
    raw = models.saved_model()
    assert read_signatures(memoryview(raw)) == parse_saved_model(raw)


@pytest.mark.parametrize("cut", [1, 50, 200])
def test_a_saved_model_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ModelFormatError, match=re.escape("not a SavedModel")):
        read_signatures(models.saved_model()[:-cut])


def test_t13_megabytes_of_nothing_are_refused_at_once(tmp_path: Path) -> None:
    """Two zeros read as a field: walking them one by one would hold the loader for minutes."""
    with pytest.raises(ModelFormatError, match="a field has the number 0"):
        load_sealed(tmp_path, {"model.onnx": bytes(64 << 20)})
