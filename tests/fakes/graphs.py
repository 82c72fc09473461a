"""Small frozen graphs and SavedModels, built node by node."""

import numpy as np

from tacit.wire.pb import tensorflow_pb2 as tf


def node(name: str, op: str, *inputs: str, **types: int) -> tf.NodeDef:
    """A node whose attributes are element types (`T=tf.DT_FLOAT`)."""
    made = tf.NodeDef(name=name, op=op, input=list(inputs))
    for key, dtype in types.items():
        made.attr[key].type = dtype
    return made


def placeholder(name: str, shape: tuple[int, ...] | None, dtype: int = tf.DT_FLOAT) -> tf.NodeDef:
    made = node(name, "Placeholder", dtype=dtype)
    if shape is not None:
        made.attr["shape"].shape.CopyFrom(shape_proto(shape))
    return made


def constant(name: str, value: np.ndarray) -> tf.NodeDef:
    dtype = {"float32": tf.DT_FLOAT, "int32": tf.DT_INT32, "int64": tf.DT_INT64}[value.dtype.name]
    made = node(name, "Const", dtype=dtype)
    tensor = made.attr["value"].tensor
    tensor.dtype = dtype
    tensor.tensor_shape.CopyFrom(shape_proto(value.shape))
    tensor.tensor_content = value.tobytes()
    return made


def shape_proto(sizes: tuple[int, ...]) -> tf.TensorShapeProto:
    return tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in sizes])


def graph_bytes(*nodes: tf.NodeDef, producer: int = 134) -> bytes:
    return tf.GraphDef(node=list(nodes), versions=tf.VersionDef(producer=producer)).SerializeToString(
        deterministic=True
    )


def softmax_nodes() -> list[tf.NodeDef]:
    """`predict` = softmax(`input` · weights + bias): float32 [-1, 4] → [-1, 3]."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
    multiply = node("dense", "MatMul", "input", "weights", T=tf.DT_FLOAT)
    multiply.attr["transpose_a"].b = False
    multiply.attr["transpose_b"].b = False
    return [
        placeholder("input", (-1, 4)),
        constant("weights", weights),
        multiply,
        constant("bias", np.array([0.5, 0.0, -0.5], dtype=np.float32)),
        node("logits", "BiasAdd", "dense", "bias", T=tf.DT_FLOAT),
        node("predict", "Softmax", "logits", T=tf.DT_FLOAT),
    ]


def softmax_graph() -> bytes:
    return graph_bytes(*softmax_nodes())
