import numpy as np
import pytest

from fakes.graphs import constant, graph_bytes, node, placeholder, shape_proto, softmax_graph
from tacit.errors import ModelFormatError
from tacit.graph import TensorSpec, dtype_name, parse_dtype, parse_graph, tensor_spec
from tacit.wire.pb import tensorflow_pb2 as tf

FLOAT = tf.DT_FLOAT


def spec_of(reference: str, *nodes: tf.NodeDef) -> TensorSpec:
    return tensor_spec(parse_graph(graph_bytes(*nodes)), reference)


def test_a_placeholder_says_its_type_and_shape() -> None:
    assert spec_of("x", placeholder("x", (-1, 224, 224, 3))) == TensorSpec("x:0", FLOAT, (-1, 224, 224, 3))


def test_a_placeholder_without_a_shape_has_unknown_rank() -> None:
    assert spec_of("x", placeholder("x", None)).shape is None


def test_a_scalar_is_not_an_unknown_rank() -> None:
    assert spec_of("x", placeholder("x", ())).shape == ()


def test_a_dense_head_has_the_rows_of_its_input_and_the_columns_of_its_weights() -> None:
    assert tensor_spec(parse_graph(softmax_graph()), "predict") == TensorSpec("predict:0", FLOAT, (-1, 3))


def test_recorded_output_shapes_are_used() -> None:
    strange = node("x", "Strange", T=FLOAT)
    strange.attr["_output_shapes"].list.shape.extend([shape_proto((1,)), shape_proto((2, 5))])
    assert spec_of("x:1", strange).shape == (2, 5)


def test_an_unknown_operation_has_unknown_rank() -> None:
    assert spec_of("y", placeholder("x", (2, 3)), node("y", "Strange", "x", T=FLOAT)).shape is None


@pytest.mark.parametrize(("keep", "shape"), [(False, (-1, 3)), (True, (-1, 1, 1, 3))])
def test_a_mean_drops_its_axes(keep: bool, shape: tuple[int, ...]) -> None:
    mean = node("y", "Mean", "x", "axes", T=FLOAT)
    mean.attr["keep_dims"].b = keep
    axes = constant("axes", np.array([1, -2], dtype=np.int32))
    assert spec_of("y", placeholder("x", (-1, 7, 7, 3)), axes, mean).shape == shape


def test_a_squeeze_drops_its_dimensions() -> None:
    squeeze = node("y", "Squeeze", "x", T=FLOAT)
    squeeze.attr["squeeze_dims"].list.i.extend([1, 2])
    assert spec_of("y", placeholder("x", (-1, 1, 1, 5)), squeeze).shape == (-1, 5)


def test_a_reshape_by_a_constant_has_that_shape() -> None:
    shape = constant("shape", np.array([-1, 12], dtype=np.int64))
    assert spec_of("y", placeholder("x", (2, 3, 4)), shape, node("y", "Reshape", "x", "shape", T=FLOAT)).shape == (
        -1,
        12,
    )


def test_a_reshape_by_something_computed_has_unknown_rank() -> None:
    computed = placeholder("shape", (2,), tf.DT_INT32)
    assert spec_of("y", placeholder("x", (2, 3)), computed, node("y", "Reshape", "x", "shape", T=FLOAT)).shape is None


def test_typed_values_of_a_constant_repeat_the_last_one() -> None:
    shape = node("shape", "Const", dtype=tf.DT_INT32)
    shape.attr["value"].tensor.dtype = tf.DT_INT32
    shape.attr["value"].tensor.tensor_shape.CopyFrom(shape_proto((3,)))
    shape.attr["value"].tensor.int_val.extend([2, 3])
    assert spec_of("y", placeholder("x", None), shape, node("y", "Reshape", "x", "shape", T=FLOAT)).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("left", "right", "shape"),
    [((-1, 3), (3,), (-1, 3)), ((1, 3), (4, 1), (4, 3)), ((-1, 3), (2, 3), (2, 3)), (None, (2,), None)],
)
def test_an_addition_broadcasts(
    left: tuple[int, ...] | None, right: tuple[int, ...], shape: tuple[int, ...] | None
) -> None:
    add = node("y", "AddV2", "a", "b", T=FLOAT)
    assert spec_of("y", placeholder("a", left), placeholder("b", right), add).shape == shape


@pytest.mark.parametrize(
    ("op", "number", "types", "dtype"),
    [
        ("ArgMax", 0, {"T": FLOAT}, tf.DT_INT64),
        ("ArgMax", 0, {"T": FLOAT, "output_type": tf.DT_INT32}, tf.DT_INT32),
        ("Cast", 0, {"SrcT": FLOAT, "DstT": tf.DT_INT64}, tf.DT_INT64),
        ("Greater", 0, {"T": FLOAT}, tf.DT_BOOL),
        ("TopKV2", 0, {"T": FLOAT}, FLOAT),
        ("TopKV2", 1, {"T": FLOAT}, tf.DT_INT32),
        ("Softmax", 0, {"T": tf.DT_HALF}, tf.DT_HALF),
    ],
)
def test_the_type_of_an_output_follows_its_operation(op: str, number: int, types: dict[str, int], dtype: int) -> None:
    assert spec_of(f"y:{number}", placeholder("x", (2,)), node("y", op, "x", **types)).dtype == dtype


def test_a_circle_of_nodes_ends_with_unknown_rank() -> None:
    circle = [node("a", "Identity", "b", T=FLOAT), node("b", "Identity", "a", T=FLOAT)]
    assert spec_of("a", *circle).shape is None


def test_a_silent_node_takes_the_type_that_the_caller_gives() -> None:
    graph = parse_graph(graph_bytes(node("x", "Strange")))
    assert tensor_spec(graph, "x", dtype=tf.DT_INT8).dtype == tf.DT_INT8


def test_a_silent_node_without_a_given_type_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="--dtypes"):
        spec_of("x", node("x", "Strange"))


def test_a_given_type_that_the_graph_contradicts_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="input is float32 in the graph, not int64"):
        tensor_spec(parse_graph(softmax_graph()), "input", dtype=tf.DT_INT64)


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", 1), ("DT_FLOAT", 1), ("dt_int64", 9), (" uint8 ", 4), ("bfloat16", 14)]
)
def test_a_type_has_numpys_and_tensorflows_name(name: str, dtype: int) -> None:
    assert parse_dtype(name) == dtype


@pytest.mark.parametrize("name", ["", "float31", "DT_INVALID", "FLOAT"])
def test_a_name_that_is_no_type_is_refused(name: str) -> None:
    with pytest.raises(ModelFormatError, match="no element type"):
        parse_dtype(name)


@pytest.mark.parametrize(("dtype", "name"), [(1, "float32"), (11, "DT_QINT8"), (999, "type 999")])
def test_a_type_is_shown_by_its_shortest_known_name(dtype: int, name: str) -> None:
    assert dtype_name(dtype) == name


def test_nodes_that_double_the_ways_to_a_shape_leave_it_unknown() -> None:
    def doubled(times: int) -> TensorSpec:
        nodes = [placeholder("n0", (2, 3))]
        nodes += [node(f"n{at + 1}", "Add", f"n{at}", f"n{at}", T=FLOAT) for at in range(times)]
        return spec_of(f"n{times}", *nodes)

    assert doubled(8).shape == (2, 3)
    assert doubled(31).shape is None  # two thousand million ways
