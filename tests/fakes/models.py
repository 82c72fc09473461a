"""Tiny models for tests: files of each kind that the server reads, computing what a test can check by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tacit.wire.pb import tensorflow_pb2 as tf

WEIGHTS: NDArray[np.float32] = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def onnx_model(weights: NDArray[np.float32] = WEIGHTS) -> bytes:
    """`y = x @ weights`, with a free batch dimension."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [helper.make_tensor("w", TensorProto.FLOAT, [rows, columns], weights.tobytes(), raw=True)],
    )
    return _serialize(graph)


def any_rank() -> bytes:
    """`y = x @ weights`, where nothing is said of the shape of `x`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "any_rank",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, list(WEIGHTS.shape), WEIGHTS.tobytes(), raw=True)],
    )
    return _serialize(graph)


def half_plus_two() -> bytes:
    """`y = 0.5 * x + 2` for any number of dimensions."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "half"], ["m"]), helper.make_node("Add", ["m", "two"], ["y"])],
        "half_plus_two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
        [
            helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        ],
    )
    return _serialize(graph)


def difference() -> bytes:
    """Two inputs and two outputs: `difference = first - second`, and that negated."""
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["first", "second"], ["difference"]),
            helper.make_node("Neg", ["difference"], ["negated"]),
        ],
        "difference",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("first", "second")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("difference", "negated")],
    )
    return _serialize(graph)


def onnx_identity(element_type: int) -> bytes:
    """An output equal to the input, of any ONNX element type."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", element_type, ["N"])],
        [helper.make_tensor_value_info("y", element_type, ["N"])],
    )
    return _serialize(graph)


def onnx_pointing_at(location: str) -> bytes:
    """A model whose weights lie in another file, wherever the model says."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], WEIGHTS.tobytes(), raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(WEIGHTS.nbytes)}.items():
        weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weights],
    )
    return _serialize(graph)


def _serialize(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


def graph_def(weights: NDArray[np.float32] = WEIGHTS) -> tf.GraphDef:
    """`predict = softmax(input @ weights)` as a frozen TensorFlow graph; `logits` is before the softmax."""
    graph = tf.GraphDef(versions=tf.VersionDef(producer=27))
    node = graph.node.add(name="input", op="Placeholder")
    node.attr["dtype"].type = tf.DT_FLOAT
    node.attr["shape"].shape.dim.add(size=-1)
    node.attr["shape"].shape.dim.add(size=weights.shape[0])
    node = graph.node.add(name="weights", op="Const")
    node.attr["dtype"].type = tf.DT_FLOAT
    value = node.attr["value"].tensor
    value.dtype = tf.DT_FLOAT
    for size in weights.shape:
        value.tensor_shape.dim.add(size=size)
    value.tensor_content = weights.tobytes()
    node = graph.node.add(name="logits", op="MatMul", input=["input", "weights"])
    node.attr["T"].type = tf.DT_FLOAT
    node.attr["transpose_a"].b = False
    node.attr["transpose_b"].b = False
    node = graph.node.add(name="predict", op="Softmax", input=["logits"])
    node.attr["T"].type = tf.DT_FLOAT
    return graph


SIGNATURES: Mapping[str, Mapping[str, str]] = {
    "serving_default": {"probabilities": "predict:0"},
    "logits_only": {"logits": "logits:0"},
}


def saved_model(
    weights: NDArray[np.float32] = WEIGHTS, signatures: Mapping[str, Mapping[str, str]] = SIGNATURES
) -> bytes:
    """The graph above as a `saved_model.pb`; every signature takes `image` and answers with what it names."""
    model = tf.SavedModel(saved_model_schema_version=1)
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(graph_def(weights))
    for key, outputs in signatures.items():
        definition = meta.signature_def[key]
        definition.method_name = "tensorflow/serving/predict"
        _describe(definition.inputs["image"], "input:0", weights.shape[0])
        for alias, name in outputs.items():
            _describe(definition.outputs[alias], name, weights.shape[1])
    return model.SerializeToString()


def _describe(info: tf.TensorInfo, name: str, columns: int) -> None:
    info.name = name
    info.dtype = tf.DT_FLOAT
    info.tensor_shape.dim.add(size=-1)
    info.tensor_shape.dim.add(size=columns)


def write_ir(folder: Path, weights: NDArray[np.float32] = WEIGHTS) -> None:
    """OpenVINO's own form of the ONNX model: `model.xml` and `model.bin`."""
    import openvino

    openvino.save_model(openvino.Core().read_model(onnx_model(weights)), folder / "model.xml", compress_to_fp16=False)


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `predict` computes of the logits."""
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
