"""Element type and shape of a graph's tensor, as far as the graph itself says.

Nothing is guessed: what no attribute tells and no rule below derives is an unknown size (-1) or an unknown rank (None).
Source: the operations' definitions in TensorFlow (`tensorflow/core/ops`), public by `tf.raw_ops`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tacit.errors import ModelFormatError
from tacit.graph.graphdef import Graph, split_reference
from tacit.graph.signature import TensorSpec
from tacit.wire.pb import tensorflow_pb2 as tf

__all__ = ["dtype_name", "parse_dtype", "tensor_spec"]

Shape = tuple[int, ...] | None

# How far back from a tensor a shape is looked for. A frozen head is a handful of nodes; this also ends cycles.
MAX_DEPTH = 32
MAX_LOOKS = 10_000  # nodes that one shape is asked of: where each has two inputs, a few dozen make ways without end
MAX_RANK = 254  # TensorFlow's own limit on a tensor's dimensions


@dataclass(frozen=True, slots=True)
class _Look:
    """How far back from the tensor a look has come, and how many looks are left to all of them together."""

    depth: int
    left: list[int]


# NumPy's and Python's names for TensorFlow's numbers, beside the numbers' own (DT_FLOAT).
_NUMPY_NAMES = {
    "float32": tf.DT_FLOAT,
    "float": tf.DT_FLOAT,
    "float64": tf.DT_DOUBLE,
    "double": tf.DT_DOUBLE,
    "float16": tf.DT_HALF,
    "half": tf.DT_HALF,
    "bfloat16": tf.DT_BFLOAT16,
    "int8": tf.DT_INT8,
    "int16": tf.DT_INT16,
    "int32": tf.DT_INT32,
    "int64": tf.DT_INT64,
    "uint8": tf.DT_UINT8,
    "uint16": tf.DT_UINT16,
    "uint32": tf.DT_UINT32,
    "uint64": tf.DT_UINT64,
    "bool": tf.DT_BOOL,
    "string": tf.DT_STRING,
    "complex64": tf.DT_COMPLEX64,
    "complex128": tf.DT_COMPLEX128,
}
_NAMES: dict[int, str] = {number: name for name, number in reversed(_NUMPY_NAMES.items())}

# Attributes that give an output's element type, where it is not `T` or `dtype`.
_DTYPE_ATTRIBUTES = {
    "Cast": "DstT",
    "ArgMax": "output_type",
    "ArgMin": "output_type",
    "Shape": "out_type",
    "Size": "out_type",
    "GatherV2": "Tparams",
    "ResourceGather": "dtype",
    "LookupTableFindV2": "Tout",
}
_BOOLEAN = frozenset(
    {"Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr", "LogicalNot"}
)
_DEFAULT_DTYPES = {"ArgMax": tf.DT_INT64, "ArgMin": tf.DT_INT64, "Shape": tf.DT_INT32, "Size": tf.DT_INT32}

# Operations whose first output has the shape of their first input.
_SAME_SHAPE = frozenset({
    "Identity", "Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus",
    "BiasAdd", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Cast", "StopGradient", "PreventGradient",
    "CheckNumerics", "Exp", "Log", "Neg", "Abs", "Sqrt", "Rsqrt", "Square", "Snapshot",
    "LogicalNot", "PlaceholderWithDefault",
})  # fmt: skip
_BROADCAST = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Equal", "Less", "Greater"})


def parse_dtype(name: str) -> int:
    """TensorFlow's number for `float32`, `DT_FLOAT` and the like.

    Raises: ModelFormatError naming the known ones.
    """
    plain = name.strip()
    if plain in _NUMPY_NAMES:
        return _NUMPY_NAMES[plain]
    if plain.upper() in tf.DataType.keys() and plain.upper() != "DT_INVALID":  # noqa: SIM118 - no dict
        return tf.DataType.Value(plain.upper())
    raise ModelFormatError(f"{name!r} is no element type; known are {', '.join(_NUMPY_NAMES)}")


def dtype_name(dtype: int) -> str:
    """NumPy's name for TensorFlow's number, or TensorFlow's own where NumPy has none."""
    if dtype in _NAMES:
        return _NAMES[dtype]
    return tf.DataType.Name(dtype) if dtype in tf.DataType.values() else f"type {dtype}"


def tensor_spec(graph: Graph, reference: str, *, dtype: int | None = None) -> TensorSpec:
    """Name (`node:number`), element type and shape of a tensor of the graph.

    `dtype` is what the caller says the type is: used where the graph is silent, refused where it disagrees.

    Raises: ModelFormatError when there is no such node, or its type is neither given nor found.
    """
    name, number = split_reference(reference)
    node = graph.node(name)
    found = _dtype(node, number)
    if dtype is not None and found is not None and dtype != found:
        raise ModelFormatError(
            f"{reference} is {dtype_name(found)} in the graph, not {dtype_name(dtype)}; correct or omit --dtypes"
        )
    known = found if found is not None else dtype
    if known is None:
        raise ModelFormatError(
            f"the graph does not say the element type of {reference} ({node.op}); give it with --dtypes"
        )
    return TensorSpec(f"{name}:{number}", known, _shape(graph, node, number, _Look(0, [MAX_LOOKS])))


def _dtype(node: tf.NodeDef, number: int) -> int | None:
    if node.op in _BOOLEAN:
        return tf.DT_BOOL
    if node.op in ("TopKV2", "TopK") and number == 1:
        return int(node.attr["index_type"].type) if "index_type" in node.attr else tf.DT_INT32
    attribute = _DTYPE_ATTRIBUTES.get(node.op)
    for key in (attribute,) if attribute else ("dtype", "T"):
        if key in node.attr and node.attr[key].type != tf.DT_INVALID:
            return int(node.attr[key].type)
    return _DEFAULT_DTYPES.get(node.op)


def _shape(graph: Graph, node: tf.NodeDef, number: int, look: _Look) -> Shape:
    if look.depth > MAX_DEPTH or not look.left[0]:
        return None
    look.left[0] -= 1
    stated = _stated_shape(node, number)
    if stated is not None:
        return _sizes(stated)
    rule = _RULES.get(node.op) if number == 0 else None
    return rule(graph, node, look) if rule else None


def _stated_shape(node: tf.NodeDef, number: int) -> tf.TensorShapeProto | None:
    if node.op.startswith("Placeholder") and "shape" in node.attr:
        return node.attr["shape"].shape
    if node.op == "Const":
        return node.attr["value"].tensor.tensor_shape
    if "_output_shapes" in node.attr and number < len(node.attr["_output_shapes"].list.shape):
        return node.attr["_output_shapes"].list.shape[number]
    return None


def _sizes(shape: tf.TensorShapeProto) -> Shape:
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else -1 for dim in shape.dim)


def _input_shape(graph: Graph, node: tf.NodeDef, index: int, look: _Look) -> Shape:
    if index >= len(node.input):
        return None
    name, number = split_reference(node.input[index])
    source = graph.nodes.get(name)
    return None if source is None else _shape(graph, source, number, _Look(look.depth + 1, look.left))


def _input_numbers(graph: Graph, node: tf.NodeDef, index: int) -> tuple[int, ...] | None:
    """The values of a small constant input (axes, a new shape), or None."""
    if index >= len(node.input):
        return None
    source = graph.nodes.get(split_reference(node.input[index])[0])
    return _integers(source.attr["value"].tensor) if source is not None and source.op == "Const" else None


def _integers(tensor: tf.TensorProto) -> tuple[int, ...] | None:
    """The values of an integer scalar or vector of at most MAX_RANK elements, or None for any other tensor."""
    width = {tf.DT_INT32: 4, tf.DT_INT64: 8}.get(tensor.dtype)
    shape = _sizes(tensor.tensor_shape)
    if width is None or shape is None or len(shape) > 1 or (shape and not 0 <= shape[0] <= MAX_RANK):
        return None
    count = shape[0] if shape else 1
    raw = tensor.tensor_content
    if raw:
        parts = [raw[at : at + width] for at in range(0, len(raw), width)]
        numbers = tuple(int.from_bytes(part, "little", signed=True) for part in parts)
        return numbers if len(raw) == count * width else None
    # Typed values: the last one given fills the rest, and none at all means zeros.
    typed = list((tensor.int_val if width == 4 else tensor.int64_val)[:count]) or [0]
    return tuple(typed + [typed[-1]] * (count - len(typed)))[:count]


def _same_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    return _input_shape(graph, node, 0, look)


def _matmul_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    left, right = _input_shape(graph, node, 0, look), _input_shape(graph, node, 1, look)
    rows = cols = -1
    if left is not None and len(left) == 2:
        rows = left[1] if node.attr["transpose_a"].b else left[0]
    if right is not None and len(right) == 2:
        cols = right[0] if node.attr["transpose_b"].b else right[1]
    return (rows, cols)


def _reshape_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    return _input_numbers(graph, node, 1)


def _reduce_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    shape, axes = _input_shape(graph, node, 0, look), _input_numbers(graph, node, 1)
    if shape is None or axes is None:
        return None
    gone = {axis % len(shape) for axis in axes} if shape else set()
    if node.attr["keep_dims"].b:
        return tuple(1 if at in gone else size for at, size in enumerate(shape))
    return tuple(size for at, size in enumerate(shape) if at not in gone)


def _squeeze_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    shape = _input_shape(graph, node, 0, look)
    axes = node.attr["squeeze_dims"].list.i
    if not shape or not axes:
        return None
    gone = {axis % len(shape) for axis in axes}
    return tuple(size for at, size in enumerate(shape) if at not in gone)


def _broadcast_shape(graph: Graph, node: tf.NodeDef, look: _Look) -> Shape:
    left, right = _input_shape(graph, node, 0, look), _input_shape(graph, node, 1, look)
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    # An unknown size beside a known one above 1 must be that one; beside 1 it stays unknown.
    return tuple(b if a == 1 else a if b == 1 else max(a, b) for a, b in pairs)


_RULES: dict[str, Callable[[Graph, tf.NodeDef, _Look], Shape]] = {
    "MatMul": _matmul_shape,
    "Reshape": _reshape_shape,
    "Squeeze": _squeeze_shape,
    "ArgMax": _reduce_shape,
    "ArgMin": _reduce_shape,
    **dict.fromkeys(_SAME_SHAPE, _same_shape),
    **dict.fromkeys(_BROADCAST, _broadcast_shape),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Prod"), _reduce_shape),
}
