"""Models that read serialized examples, and the same models with that taken out."""

from collections.abc import Sequence

import numpy as np
import pytest

from fakes.examples import DENSE, OF_EXAMPLES, examples, parse_example, saved, sums, text
from fakes.graphs import constant, node, placeholder
from tacit.errors import ModelFormatError
from tacit.graph.declared import read_signatures
from tacit.graph.parsing import take_out_parsing
from tacit.graph.protobuf import fields
from tacit.graph.signature import SERVING_DEFAULT
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor


@pytest.mark.parametrize("second", [False, True])
def test_a_signature_of_examples_is_answered_without_tensorflow(second: bool) -> None:
    content = saved(sums(second=second), serving_default=DENSE, regress=OF_EXAMPLES)
    engine = load_openvino(MemoryBundle({"saved_model.pb": content}), EngineOptions(threads=1))
    assert engine.signatures["regress"] == OF_EXAMPLES
    found = engine.infer("regress", {"inputs": examples({"x": 1, "n": 2}, {"x": 5})}, ["outputs"])
    assert found["outputs"].array.tolist() == [[3.0], [15.0]]
    dense = {name: Tensor(1, np.array([[value]], np.float32)) for name, value in {"x": 1, "n": 2}.items()}
    assert engine.infer(SERVING_DEFAULT, dense, ["y"])["y"].array.tolist() == [[3.0]]
    engine.close()


def test_a_default_signature_may_take_examples_itself() -> None:
    nodes = [*parse_example(second=True, default=np.array([10.0], np.float32))]
    nodes.append(node("y", "AddV2", "parse", "parse:1", T=tf.DT_FLOAT))
    content = saved(nodes, serving_default=OF_EXAMPLES)
    engine = load_openvino(MemoryBundle({"saved_model.pb": content}), EngineOptions(threads=1))
    assert dict(engine.signatures) == {SERVING_DEFAULT: OF_EXAMPLES}
    found = engine.infer(SERVING_DEFAULT, {"inputs": examples({"x": 1})}, ["outputs"])
    assert found["outputs"].array.tolist() == [[11.0]]


def test_what_the_model_does_not_need_for_it_stays_byte_for_byte() -> None:
    content = saved(sums(second=True), serving_default=DENSE, regress=OF_EXAMPLES)
    found = take_out_parsing(content, read_signatures(content))
    assert found is not None
    before, after = tf.SavedModel.FromString(content), tf.SavedModel.FromString(found.content)
    kept = {one.name: one for one in after.meta_graphs[0].graph_def.node}
    assert after.saved_model_schema_version == 1
    assert after.meta_graphs[0].graph_def.versions == before.meta_graphs[0].graph_def.versions
    assert {name for name, one in kept.items() if one.op == "Placeholder"} == {"x", "n"}
    assert "parse" not in kept
    assert kept["y"] == next(one for one in before.meta_graphs[0].graph_def.node if one.name == "y")


@pytest.mark.parametrize(
    "nodes",
    [
        [placeholder("x", (-1, 1)), placeholder("n", (-1, 1)), node("y", "AddV2", "x", "n", T=tf.DT_FLOAT)],
        [one for one in sums(second=True) if one.name != "given"],
        [one for one in sums(second=True) if one.name != "dense"],
        [one for one in sums(second=False) if one.name != "n"],
        [text("dense", b"x", scalar=True), *(one for one in sums(second=True) if one.name != "dense")],
        [constant("dense", np.arange(2)), *(one for one in sums(second=True) if one.name != "dense")],
        [text("key_n", b"n", b"m"), *(one for one in sums(second=False) if one.name != "key_n")],
        [constant("key_n", np.arange(1)), *(one for one in sums(second=False) if one.name != "key_n")],
    ],
    ids=[
        "no parsing",
        "no default",
        "no names",
        "an input that comes from elsewhere",
        "one name for two features",
        "names that are numbers",
        "two names for one feature",
        "a name that is a number",
    ],
)
def test_a_model_of_another_form_is_left_as_it_is(nodes: Sequence[tf.NodeDef]) -> None:
    content = saved(nodes, serving_default=DENSE, regress=OF_EXAMPLES)
    assert take_out_parsing(content, read_signatures(content)) is None


def test_a_model_without_strings_is_not_looked_into() -> None:
    content = saved(sums(second=True), serving_default=DENSE)
    assert take_out_parsing(content, read_signatures(content)) is None


def test_t44_identities_in_a_circle_come_to_an_end() -> None:
    circle = [node("x", "Identity", "n", T=tf.DT_FLOAT), node("n", "Identity", "x", T=tf.DT_FLOAT)]
    nodes = [*parse_example(second=True, default=np.zeros(1, np.float32)), *circle]
    content = saved(nodes, serving_default=DENSE, regress=OF_EXAMPLES)
    assert take_out_parsing(content, read_signatures(content)) is None


def test_what_is_cut_short_is_refused() -> None:
    content = saved(sums(second=True), serving_default=DENSE, regress=OF_EXAMPLES)
    declared = read_signatures(content)
    with pytest.raises(ModelFormatError):
        take_out_parsing(content[: len(content) // 2], declared)
    assert sum(1 for _ in fields(memoryview(content), what="a SavedModel")) == 1
