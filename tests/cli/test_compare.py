"""`tacit model compare`: what faster arithmetic costs."""

import json
from pathlib import Path

import numpy as np
import pytest

from fakes import models
from fakes.command_line import run_main
from fakes.records import predict_log, record
from tacit.cli.inference.compared import Difference, Measured, as_fields, as_lines, difference
from tacit.serving.tfs.records import NAME
from tacit.vault import seal_folder

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(3).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version with a recorded request, beside a later one that is no model."""
    (tmp_path / "m" / "2").mkdir(parents=True)
    folder = tmp_path / "m" / "1"
    (folder / NAME).parent.mkdir(parents=True)
    (folder / NAME).write_bytes(record(predict_log(ROWS)))
    (folder / "model.onnx").write_bytes(models.onnx_model())
    return folder


def test_each_precision_is_held_against_f32_on_the_given_inputs(version: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    done = run_main(
        "model", "compare", version, "--precision", "int8", "--input", tmp_path / "x.npy", "--output", "json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(found) == ["f32", "int8"]
    assert found["f32"]["Outputs"]["y"]["Largest"] == 0
    assert found["f32"]["Milliseconds"] > 0
    exact = ROWS @ models.WEIGHTS
    held = found["int8"]["Outputs"]["y"]
    assert held["Scale"] == pytest.approx(np.abs(exact).max(), rel=1e-5)
    assert 0 < held["Mean"] <= held["Largest"] < 0.05 * held["Scale"]
    assert 0 <= held["SameTop"] <= 1


def test_a_precision_that_cannot_be_had_is_told_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(models.onnx_model())
    done = run_main("model", "compare", tmp_path / "model.onnx", "--precision", "int8")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[1].startswith("f32        y ")
    assert "learns from recorded requests" in lines[2]
    assert "random rows" in lines[-1]


def test_a_file_by_a_name_that_no_server_reads_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model.bytes").write_bytes(models.onnx_model())
    done = run_main("model", "compare", tmp_path / "model.bytes", "--precision", "int8")
    assert done.code == 1
    assert "model.bytes is a file and no plain model; expected .onnx" in done.err


def test_a_capsule_is_compared_with_its_key(version: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    seal_folder(version, tmp_path / "m.capsule", key.read_bytes(), name="m", version=1)
    done = run_main("model", "compare", tmp_path / "m.capsule", "-k", key, "--precision", "int8", "--output", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["int8"]["Outputs"]["y"]["Largest"] > 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["m", "--precision", "f8"], 2, "expected f16, bf16, int8"),
        (["m.capsule"], 2, "--key belongs to a capsule"),
        (["m", "-k", "key"], 2, "--key belongs to a capsule"),
        (["nowhere", "--precision", "int8"], 1, "expected a file, or a version's folder"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(words: list[str], code: int, text: str) -> None:
    done = run_main("model", "compare", *words)
    assert (done.code, text in done.err) == (code, True), done.err


def test_inputs_of_other_names_are_refused(version: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", z=ROWS)
    done = run_main("model", "compare", version, "--precision", "int8", "--input", tmp_path / "x.npz")
    assert done.code == 1
    assert "the model takes x; the file has z" in done.err


def test_what_is_no_number_in_both_is_no_difference_and_in_one_is_the_largest() -> None:
    exact = np.array([[np.nan, np.inf], [-np.inf, 2.0]], np.float32)
    assert difference(exact, exact) == Difference(0.0, 0.0, 2.0, 1.0)
    assert difference(exact, np.array([[1.0, np.inf], [-np.inf, 2.0]], np.float32)).largest == np.inf
    assert difference(np.zeros((0, 2)), np.zeros((0, 2))).mean == 0.0


def test_an_infinite_difference_is_json() -> None:
    found = {"f32": Measured({"y": np.zeros(2)}, [0.0, 0.1]), "int8": Measured({"y": np.zeros(3)}, [0.0, 0.1])}
    text = json.dumps(as_fields(found), allow_nan=False)
    assert json.loads(text)["int8"]["Outputs"]["y"]["Largest"] == "Infinity"


def test_differences_are_what_they_are_called() -> None:
    exact = np.array([[1.0, 2.0], [4.0, 3.0]])
    held = difference(exact, np.array([[1.0, 2.5], [2.0, 3.0]]))
    assert (held.largest, held.mean, held.scale, held.same) == (2.0, 0.625, 4.0, 0.5)
    words = np.array([b"a", b"b"], object)
    assert difference(words, np.array([b"a", b"c"], object)).same == 0.5
    lines = as_lines({"f32": Measured({"y": exact}, [1, 0.002, 0.004])}, random=False)
    assert lines[1].split() == ["f32", "y", "0", "0", "100.0", "%", "3.00"]
