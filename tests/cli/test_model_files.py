"""`tacit model make`, `convert` and `inspect`."""

import hashlib
import os
from pathlib import Path

import pytest

from fakes.command_line import Outcome, run_app
from fakes.graphs import graph_bytes, node, softmax_graph
from tacit.cli.model import app
from tacit.graph import parse_graph, parse_saved_model


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.pb"
    path.write_bytes(softmax_graph())
    return path


def convert(graph: Path, export: Path, *more: object, inputs: str = "input", outputs: str = "predict") -> Outcome:
    words = ("--import_path", graph, "--export_dir", export, "--inputs", inputs, "--outputs", outputs)
    return run_app(app, "convert", *words, *more)


def test_convert_says_what_the_originals_script_says(graph: Path, tmp_path: Path) -> None:
    done = convert(graph, tmp_path / "out", "--model_version", 3)
    assert done == Outcome(0, f"Exporting trained model to {tmp_path}/out/3\nDone!\n", "")


def test_convert_writes_a_saved_model_into_the_version_folder(graph: Path, tmp_path: Path) -> None:
    convert(graph, tmp_path / "out", "--model_version", 3)
    written = list((tmp_path / "out").rglob("*"))
    assert sorted(written) == [tmp_path / "out/3", tmp_path / "out/3/saved_model.pb"]
    assert set(parse_saved_model((tmp_path / "out/3/saved_model.pb").read_bytes())) == {"serving_default"}


def test_convert_takes_several_names_and_types(tmp_path: Path) -> None:
    path = tmp_path / "two.pb"
    path.write_bytes(graph_bytes(node("a", "Odd"), node("b", "Odd"), node("c", "AddV2", "a", "b", T=1)))
    done = convert(path, tmp_path / "out", "--dtypes", "float32, int64", inputs="a, b", outputs="c")
    inputs = parse_saved_model((tmp_path / "out/1/saved_model.pb").read_bytes())["serving_default"].inputs
    assert done.code == 0
    assert {key: spec.dtype for key, spec in inputs.items()} == {"a": 1, "b": 9}


def test_convert_replaces_a_version_only_by_force(graph: Path, tmp_path: Path) -> None:
    assert convert(graph, tmp_path / "out").code == 0
    refused = convert(graph, tmp_path / "out")
    assert (refused.code, "exists already; --force replaces it" in refused.err) == (1, True)
    assert convert(graph, tmp_path / "out", "--force").code == 0


@pytest.mark.parametrize(
    ("inputs", "outputs", "more", "said"),
    [
        ("inptu", "predict", (), "did you mean input?"),
        ("input", "logit", (), "did you mean logits"),
        ("input", "predict", ("--dtypes", "float33"), "no element type"),
        (",", "predict", (), "at least one input"),
    ],
)
def test_a_wrong_name_is_one_line_and_writes_nothing(
    inputs: str, outputs: str, more: tuple[str, ...], said: str, graph: Path, tmp_path: Path
) -> None:
    done = convert(graph, tmp_path / "out", *more, inputs=inputs, outputs=outputs)
    assert done.code == 1
    assert said in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"hello", "not a frozen TensorFlow graph"),
        (softmax_graph()[:-30], "cut short"),
    ],
)
def test_a_bad_graph_file_is_one_line_and_writes_nothing(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pb"
    if content is not None:
        path.write_bytes(content)
    done = convert(path, tmp_path / "out")
    assert done.code == 1
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_or_a_pipe_in_place_of_a_graph_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "this is a folder" in convert(tmp_path, tmp_path / "out").err
    assert "no regular file" in convert(tmp_path / "pipe", tmp_path / "out").err


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.pb"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # sparse: takes no room
    assert "has at most 2147483647" in convert(path, tmp_path / "out").err


def test_an_export_folder_that_is_a_file_is_one_line(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    done = convert(graph, tmp_path / "out")
    assert (done.code, "not a folder" in done.err) == (1, True)


@pytest.mark.parametrize("words", [("--model_version", "0"), ("--model_version", "x")])
def test_an_impossible_version_is_wrong_usage(words: tuple[str, ...], graph: Path, tmp_path: Path) -> None:
    assert convert(graph, tmp_path / "out", *words).code == 2


def test_a_made_resnet50_can_be_converted_by_its_names(tmp_path: Path) -> None:
    path = tmp_path / "models/resnet.pb"
    done = run_app(app, "make", "resnet50", "--out", path, "--seed", 5)
    assert done.lines == [
        f"Saved model to: {path}",
        "ResNet-50 v1.5, 102503551 bytes, seed 5; its weights are made, not trained",
    ]
    assert parse_graph(path.read_bytes()).ends() == ("predict",)
    assert convert(path, tmp_path / "models").code == 0


def test_make_knows_resnet50_only() -> None:
    done = run_app(app, "make", "resnet51")
    assert (done.code, "expected resnet50" in done.err) == (2, True)


def test_make_replaces_a_file_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "x.pb").write_text("mine")
    assert run_app(app, "make", "resnet50", "--out", tmp_path / "x.pb").code == 1
    assert (tmp_path / "x.pb").read_text() == "mine"


def test_inspect_prints_a_saved_models_signature(graph: Path, tmp_path: Path) -> None:
    convert(graph, tmp_path / "out")
    lines = run_app(app, "inspect", tmp_path / "out/1").lines
    assert lines[1:-1] == [
        "signature serving_default (tensorflow/serving/predict)",
        "  input  input: float32 [-1, 4]",
        "  output predict: float32 [-1, 3]",
    ]


def test_inspect_prints_a_graphs_ends(graph: Path) -> None:
    lines = run_app(app, "inspect", graph).lines
    assert lines[0].endswith(": frozen graph, 391 bytes, 6 nodes") or "6 nodes" in lines[0]
    assert lines[1:3] == ["  input  input: float32 [-1, 4]", "  output predict: float32 [-1, 3]"]


def test_inspect_of_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pb").write_bytes(b"\x08\x08hello")
    done = run_app(app, "inspect", tmp_path / "x.pb")
    assert (done.code, "neither a SavedModel" in done.err) == (1, True)


def test_inspect_ends_with_the_id_of_a_plain_model(tmp_path: Path) -> None:
    weights, graph = hashlib.sha256(b"w"), hashlib.sha256(b"g")
    folder = tmp_path / "digits" / "1"
    (folder / "data").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"g")
    (folder / "data" / "w.bin").write_bytes(b"w")
    told = b"".join(
        len(name).to_bytes(8, "big") + name + content.digest()
        for name, content in ((b"data/w.bin", weights), (b"model.onnx", graph))
    )
    lines = run_app(app, "inspect", folder).lines
    assert lines[-1] == f"ID: {hashlib.sha256(told).hexdigest()} (as a plain model)"
    assert run_app(app, "inspect", folder / "model.onnx").lines[-1] != lines[-1]


def test_inspect_of_a_folder_of_versions_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    done = run_app(app, "inspect", tmp_path / "digits")
    assert (done.code, "name one of them" in done.err) == (2, True)


def test_t42_a_hostile_name_in_a_model_is_shown_and_neither_steers_the_terminal_nor_forges_a_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.pb"
    path.write_bytes(graph_bytes(node("\x1b]0;mine\x07\nID: 00 (as a plain model)", "Odd")))
    done = run_app(app, "inspect", path)
    assert done.code == 0
    assert r"\x1b]0;mine\x07\nID: 00" in done.out
    assert ("\x1b" in done.out, len([line for line in done.lines if line.startswith("ID: ")])) == (False, 1)


def test_inspect_of_a_name_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.onnx"))
    path.write_bytes(b"m")
    done = run_app(app, "inspect", path)
    assert (done.code, "is not UTF-8" in done.err) == (1, True)
