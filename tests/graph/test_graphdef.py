import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.graphs import graph_bytes, node, placeholder, softmax_graph, softmax_nodes
from tacit.errors import ModelFormatError
from tacit.graph import build_saved_model, parse_graph
from tacit.graph.graphdef import split_reference
from tacit.wire.pb import tensorflow_pb2 as tf


def test_placeholders_are_what_can_be_fed() -> None:
    assert parse_graph(softmax_graph()).placeholders() == ("input",)


def test_ends_are_what_nobody_reads() -> None:
    assert parse_graph(softmax_graph()).ends() == ("predict",)


def test_a_graph_keeps_the_bytes_it_came_from() -> None:
    assert parse_graph(softmax_graph()).raw == softmax_graph()


def test_a_missing_node_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ModelFormatError, match=r"no node 'predicts'; did you mean predict\?; its outputs are predict"):
        parse_graph(softmax_graph()).node("predicts")


def test_a_missing_node_without_a_neighbour_is_answered_with_the_inputs() -> None:
    with pytest.raises(ModelFormatError, match="its inputs are input; its outputs are predict"):
        parse_graph(softmax_graph()).node("zzzzzzzz")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 more", "zip archive"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b'node {\n  name: "input"\n}', "text form"),
        (b"hello, I am a text\n", "not a frozen TensorFlow graph"),
        (softmax_graph()[:-20], "cut short"),
        (tf.GraphDef(versions=tf.VersionDef(producer=1)).SerializeToString(), "no nodes"),
        (graph_bytes(tf.NodeDef(name="x")), "without a name or an operation"),
        (graph_bytes(placeholder("x", ()), placeholder("x", ())), "two nodes named 'x'"),
    ],
)
def test_bytes_that_are_no_graph_are_refused_saying_what_they_are(raw: bytes, said: str) -> None:
    with pytest.raises(ModelFormatError, match=said):
        parse_graph(raw)


def test_a_saved_model_is_told_apart_from_a_graph() -> None:
    model = build_saved_model(parse_graph(softmax_graph()), inputs=["input"], outputs=["predict"])
    with pytest.raises(ModelFormatError, match="SavedModel already"):
        parse_graph(model)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ModelFormatError):
        parse_graph(raw)


@given(st.data())
def test_a_damaged_graph_is_parsed_or_refused(data: st.DataObject) -> None:
    raw = bytearray(softmax_graph())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        graph = parse_graph(bytes(raw))
        build_saved_model(graph, inputs=graph.placeholders(), outputs=graph.ends())
    except ModelFormatError:
        pass


@pytest.mark.parametrize(
    ("reference", "parts"), [("x", ("x", 0)), ("a/b:2", ("a/b", 2)), ("^x", ("x", 0)), ("x:0", ("x", 0))]
)
def test_a_tensor_name_is_a_node_and_a_number(reference: str, parts: tuple[str, int]) -> None:
    assert split_reference(reference) == parts


@pytest.mark.parametrize("reference", ["x:", "x:y", ":0", "x:-1", "x:9999999", "x:1:2"])
def test_a_malformed_tensor_name_is_refused(reference: str) -> None:
    with pytest.raises(ModelFormatError, match="no tensor name"):
        split_reference(reference)


def test_a_control_input_counts_as_reading() -> None:
    graph = parse_graph(graph_bytes(*softmax_nodes(), node("after", "Identity", "logits", "^predict", T=tf.DT_FLOAT)))
    assert graph.ends() == ("after",)
