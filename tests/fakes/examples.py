"""SavedModels that read serialized tf.Example, built node by node, and examples for them."""

from collections.abc import Sequence

import numpy as np

from fakes.graphs import constant, graph_bytes, node, placeholder, shape_proto
from tacit.graph.savedmodel import write_signature
from tacit.graph.signature import Signature, TensorSpec
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor

STRINGS = TensorSpec("tf_example:0", 7, None)


def text(name: str, *values: bytes, scalar: bool = False) -> tf.NodeDef:
    made = node(name, "Const", dtype=tf.DT_STRING)
    tensor = made.attr["value"].tensor
    tensor.dtype = tf.DT_STRING
    tensor.tensor_shape.CopyFrom(shape_proto(() if scalar else (len(values),)))
    tensor.string_val.extend(values)
    return made


def parse_example(*, second: bool, default: np.ndarray) -> list[tf.NodeDef]:
    """Features x (one float, needed) and n (one float, with a default) by the first or second form of the operation."""
    nodes = [placeholder("tf_example", None, tf.DT_STRING), text("names"), constant("none", np.zeros(0, np.float32))]
    nodes += [constant("given", default)]
    if second:
        nodes += [text("sparse"), text("dense", b"x", b"n"), text("ragged")]
        inputs = ["tf_example", "names", "sparse", "dense", "ragged", "none", "given"]
        made = node("parse", "ParseExampleV2", *inputs)
        made.attr["num_sparse"].i = 0
    else:
        nodes += [text("key_x", b"x", scalar=True), text("key_n", b"n", scalar=True)]
        made = node("parse", "ParseExample", "tf_example", "names", "key_x", "key_n", "none", "given")
        made.attr["Nsparse"].i = 0
        made.attr["Ndense"].i = 2
    made.attr["Tdense"].list.type.extend([tf.DT_FLOAT, tf.DT_FLOAT])
    made.attr["dense_shapes"].list.shape.extend([shape_proto((1,)), shape_proto((1,))])
    return [*nodes, made]


def saved(nodes: Sequence[tf.NodeDef], **signatures: Signature) -> bytes:
    model = tf.SavedModel(saved_model_schema_version=1)
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.ParseFromString(graph_bytes(*nodes))
    for key, signature in signatures.items():
        meta.signature_def[key].CopyFrom(write_signature(signature))
    return model.SerializeToString()


def sums(*, second: bool) -> list[tf.NodeDef]:
    """`x` and `n` are the features, `y` is their sum."""
    return [
        *parse_example(second=second, default=np.array([10.0], np.float32)),
        node("x", "Identity", "parse", T=tf.DT_FLOAT),
        node("n", "Identity", "parse:1", T=tf.DT_FLOAT),
        node("y", "AddV2", "x", "n", T=tf.DT_FLOAT),
    ]


def spec(name: str) -> TensorSpec:
    return TensorSpec(f"{name}:0", 1, None)


DENSE = Signature({"x": spec("x"), "n": spec("n")}, {"y": spec("y")})
OF_EXAMPLES = Signature({"inputs": STRINGS}, {"outputs": spec("y")}, "tensorflow/serving/regress")


def examples(*rows: dict[str, float]) -> Tensor:
    made = np.empty(len(rows), dtype=object)
    for place, row in enumerate(rows):
        example = tf.Example()
        for name, value in row.items():
            example.features.feature[name].float_list.value.append(value)
        made[place] = example.SerializeToString()
    return Tensor(7, made)
