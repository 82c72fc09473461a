"""Signatures with inputs of their own, and inputs of any number of dimensions, where the engine has neither."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import models
from tacit.errors import RequestError, Status
from tacit.graph.declared import read_signatures
from tacit.serving.bundle import Bundle, FolderBundle, Layout, MemoryBundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino, ranks, reading
from tacit.vault.files import list_plain_files
from tacit.wire.tensor import Tensor

SAVED = Path(__file__).parents[1] / "vectors" / "serving" / "signatures"
COLUMN = np.array([[1.0], [4.0]], np.float32)


def ask(engine: Engine, signature: str, array: Any) -> Any:
    given = {"x": Tensor(1, np.array(array, np.float32))}
    return engine.infer(signature, given, ("y",))["y"].array.tolist()


def bundle(folder: Path = SAVED) -> MemoryBundle:
    return MemoryBundle(
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    )


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_signature_with_inputs_of_its_own_is_answered_by_itself(place: str) -> None:
    files = bundle() if place == "memory" else FolderBundle(*list_plain_files(SAVED))
    engine = load_openvino(files, EngineOptions(threads=1))
    assert set(engine.signatures) == {"serving_default", "again", "one", "free"}  # `words` is of strings
    assert ask(engine, "serving_default", COLUMN) == ask(engine, "again", COLUMN) == [[3.0], [9.0]]
    assert ask(engine, "one", [1, 4]) == [2.0, 5.0]
    assert ask(engine, "free", COLUMN) == [[2.0], [8.0]]
    names = {key: signature.inputs["x"].name for key, signature in engine.signatures.items()}
    assert names == {key: f"{key}_x:0" for key in names}
    engine.close()


def test_what_is_the_same_under_two_names_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    compiled = reading._compile

    def count(core: Any, model: Any, options: EngineOptions, declared: Any) -> Engine:
        seen.update(list(declared))
        return compiled(core, model, options, declared)

    monkeypatch.setattr(reading, "_compile", count)
    load_openvino(bundle(), EngineOptions(threads=1))
    assert seen == {"serving_default": 1, "one": 1, "free": 1}


def test_the_variables_of_a_model_in_the_clear_are_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(SAVED, tmp_path / "model")
    files = FolderBundle(*list_plain_files(tmp_path / "model"))
    read: list[str] = []
    plain = FolderBundle.read_into

    def watched(bundle: FolderBundle, name: str, target: memoryview) -> None:
        read.append(name)
        plain(bundle, name, target)

    monkeypatch.setattr(FolderBundle, "read_into", watched)
    engine = load_openvino(files, EngineOptions(threads=1))
    assert ask(engine, "again", COLUMN) == [[3.0], [9.0]]
    assert read == []


def test_where_it_cannot_be_taken_apart_the_default_signature_is_served(tmp_path: Path) -> None:
    files = FolderBundle(*list_plain_files(SAVED))
    on_disk = Path(__file__).parent  # no memory, so nothing may be put there
    engine = load_openvino(files, EngineOptions(threads=1, staging=on_disk))
    assert set(engine.signatures) == {"serving_default", "again"}  # which is the same
    assert ask(engine, "serving_default", COLUMN) == ask(engine, "again", COLUMN) == [[3.0], [9.0]]


def test_a_signature_that_openvino_cannot_read_keeps_no_other_from_being_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = reading._read

    def lacking(core: Any, bundle: Bundle, layout: Layout, options: EngineOptions) -> Any:
        if "free_x:0" in read_signatures(bundle.read(layout.entry))["serving_default"].inputs:
            raise RuntimeError("there is no such operation")
        return read(core, bundle, layout, options)

    monkeypatch.setattr(reading, "_read", lacking)
    engine = load_openvino(bundle(), EngineOptions(threads=1))
    assert set(engine.signatures) == {"serving_default", "again", "one"}
    assert ask(engine, "again", COLUMN) == [[3.0], [9.0]]
    assert ask(engine, "one", [1, 4]) == [2.0, 5.0]


def test_an_input_of_any_number_of_dimensions_is_answered_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_KEPT", 2)
    engine = load_openvino(MemoryBundle({"model.onnx": models.any_rank()}), EngineOptions(threads=1))
    assert engine.signatures["serving_default"].inputs["x"].shape is None
    rows = np.random.default_rng(3).random((2, 3, 4), np.float32)
    for _ in range(2):
        for given in (rows[0, 0], rows[0], rows, rows[1]):
            np.testing.assert_allclose(ask(engine, "serving_default", given), given @ models.WEIGHTS, rtol=1e-6)
    engine.close()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((), r"the model does not take these shapes \(x \[\]\)"),
        ((2, 3), r"the model does not take these shapes \(x \[2, 3\]\)"),
        ((1,) * 9, r"the model takes inputs of at most 8 dimensions \(x \[1, 1, 1, 1, 1, 1, 1, 1, 1\]\)"),
    ],
)
def test_dimensions_that_a_model_does_not_take_are_the_requests_mistake(shape: tuple[int, ...], said: str) -> None:
    engine = load_openvino(MemoryBundle({"model.onnx": models.any_rank()}), EngineOptions(threads=1))
    with pytest.raises(RequestError, match=said) as refused:
        ask(engine, "serving_default", np.zeros(shape))
    assert refused.value.status is Status.INVALID_ARGUMENT
    given = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(ask(engine, "serving_default", given), given @ models.WEIGHTS, rtol=1e-6)
