import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.graphs import constant, graph_bytes, node, placeholder, softmax_graph
from tacit.errors import ModelFormatError
from tacit.graph import Signature, TensorSpec, build_saved_model, parse_graph, parse_saved_model
from tacit.graph.savedmodel import write_signature
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor


def softmax_model() -> bytes:
    return build_saved_model(parse_graph(softmax_graph()), inputs=["input"], outputs=["predict"])


def test_what_is_built_is_read_again() -> None:
    assert parse_saved_model(softmax_model()) == {
        "serving_default": Signature(
            inputs={"input": TensorSpec("input:0", tf.DT_FLOAT, (-1, 4))},
            outputs={"predict": TensorSpec("predict:0", tf.DT_FLOAT, (-1, 3))},
            method="tensorflow/serving/predict",
        )
    }


def test_the_model_is_tagged_for_serving_and_of_schema_one() -> None:
    message = tf.SavedModel.FromString(softmax_model())
    assert message.saved_model_schema_version == 1
    assert [list(meta.meta_info_def.tags) for meta in message.meta_graphs] == [["serve"]]


def test_the_graph_goes_in_byte_for_byte() -> None:
    # A field that we do not know, as newer versions write: it must come out again.
    raw = softmax_graph() + b"\xfa\x01\x03new"
    model = build_saved_model(parse_graph(raw), inputs=["input"], outputs=["predict"])
    assert raw in model


def test_the_producers_version_is_kept() -> None:
    message = tf.SavedModel.FromString(softmax_model())
    assert message.meta_graphs[0].graph_def.versions.producer == 134


def test_a_tensor_name_with_a_number_gets_a_key_of_its_own() -> None:
    graph = parse_graph(graph_bytes(placeholder("x", (2,)), node("top", "TopKV2", "x", T=tf.DT_FLOAT)))
    signature = parse_saved_model(build_saved_model(graph, inputs=["x:0"], outputs=["top", "top:1"]))["serving_default"]
    assert {key: spec.name for key, spec in signature.outputs.items()} == {"top": "top:0", "top_1": "top:1"}
    assert set(signature.inputs) == {"x"}


def test_an_element_type_newer_than_our_names_goes_in_by_its_number() -> None:
    graph = parse_graph(graph_bytes(node("x", "Placeholder", dtype=27)))
    signature = parse_saved_model(build_saved_model(graph, inputs=["x"], outputs=["x"]))["serving_default"]
    assert signature.inputs["x"].dtype == 27


def test_an_unknown_rank_and_a_scalar_stay_apart() -> None:
    graph = parse_graph(
        graph_bytes(placeholder("any", None), placeholder("one", ()), node("y", "Add", "any", "one", T=1))
    )
    inputs = parse_saved_model(build_saved_model(graph, inputs=["any", "one"], outputs=["y"]))["serving_default"].inputs
    assert (inputs["any"].shape, inputs["one"].shape) == (None, ())


@pytest.mark.parametrize(
    ("inputs", "outputs", "dtypes", "said"),
    [
        ([], ["predict"], [], "at least one input"),
        (["input"], [], [], "at least one input"),
        (["nothing"], ["predict"], [], "no node 'nothing'"),
        (["input", "input:0"], ["predict"], [], "named twice"),
        (["input"], ["predict"], [1, 1], "2 types were given for 1 inputs"),
        (["input"], ["predict"], [tf.DT_STRING], "is float32 in the graph, not string"),
    ],
)
def test_a_wish_that_does_not_fit_the_graph_is_refused(
    inputs: list[str], outputs: list[str], dtypes: list[int], said: str
) -> None:
    with pytest.raises(ModelFormatError, match=said):
        build_saved_model(parse_graph(softmax_graph()), inputs=inputs, outputs=outputs, dtypes=dtypes)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"hello", "not a SavedModel"),
        (softmax_model()[:-9], "cut short"),
        (softmax_graph(), "tacit model convert"),
        (tf.SavedModel(saved_model_schema_version=1).SerializeToString(), "holds no graph"),
    ],
)
def test_bytes_that_are_no_saved_model_are_refused(raw: bytes, said: str) -> None:
    with pytest.raises(ModelFormatError, match=said):
        parse_saved_model(raw)


def test_a_model_with_another_tag_is_refused_naming_its_tags() -> None:
    message = tf.SavedModel(saved_model_schema_version=1)
    message.meta_graphs.add().meta_info_def.tags.extend(["train"])
    with pytest.raises(ModelFormatError, match="expected the tag 'serve', found train"):
        parse_saved_model(message.SerializeToString())


def test_the_graph_whose_tags_are_exactly_serve_is_chosen() -> None:
    message = tf.SavedModel.FromString(softmax_model())
    other = tf.SavedModel(saved_model_schema_version=1)
    both = other.meta_graphs.add()
    both.meta_info_def.tags.extend(["serve", "gpu"])
    both.signature_def["wrong"].method_name = "x"
    other.meta_graphs.append(message.meta_graphs[0])
    assert set(parse_saved_model(other.SerializeToString())) == {"serving_default"}


def test_a_large_graph_gets_a_length_of_several_bytes() -> None:
    import numpy as np

    filler = constant("filler", np.zeros(3_000_000, dtype=np.float32))
    graph = parse_graph(graph_bytes(filler, placeholder("x", (1,)), node("y", "Identity", "x", T=1)))
    assert set(parse_saved_model(build_saved_model(graph, inputs=["x"], outputs=["y"]))) == {"serving_default"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ModelFormatError):
        parse_saved_model(raw)


def test_default_values_of_inputs_are_read_and_written() -> None:
    signature = Signature(
        {"x": TensorSpec("x:0", 1, (-1,))},
        {"y": TensorSpec("y:0", 1, None)},
        defaults={"x": Tensor(1, np.ones(2, "f4"))},
    )
    model = tf.SavedModel()
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.signature_def["serving_default"].CopyFrom(write_signature(signature))
    found = parse_saved_model(model.SerializeToString())["serving_default"]
    assert found.defaults["x"].array.tolist() == [1.0, 1.0]
    meta.signature_def["serving_default"].defaults["x"].tensor_content = b"odd"
    with pytest.raises(ModelFormatError, match="default value is no tensor"):
        parse_saved_model(model.SerializeToString())


def test_a_file_that_is_nothing_but_graphs_is_refused_by_their_number() -> None:
    with pytest.raises(ModelFormatError, match="has 1001 graphs; at most 1000 are read"):
        parse_saved_model(b"\x08\x01" + b"\x12\x00" * 1001)


def test_a_refusal_tells_of_tags_no_more_than_a_line_holds() -> None:
    with pytest.raises(ModelFormatError, match="found none; none") as refused:
        parse_saved_model(b"\x08\x01" + b"\x12\x00" * 1000)
    assert len(str(refused.value)) < 400
