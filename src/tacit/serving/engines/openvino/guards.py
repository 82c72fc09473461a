"""Checks that the plugin leaves out, put into the graph: without them a request reads memory beside its own.

OpenVINO 2026.4 multiplies by constant weights whatever the other side's size is, takes an element at whatever place an
index says, puts one at whatever place before the beginning, and turns a loop of less than no turns for ever. Sizes that a
model leaves free, and indices, are the client's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tacit.errors import ModelFormatError

_REFUSED = {"VariadicSplit": 2, "Range": 2}
"""Operations that read beside their input, or end the process, by what this input says: lengths, and a step of zero."""


def add_guards(library: Any, model: Any, *, inner: bool = False) -> None:
    """Make the model refuse products of sizes that do not fit, and keep indices within what they index.

    `inner` is a graph within another, where nobody can tell what comes from a request and what is constant.

    Raises: ModelFormatError, for what cannot be made safe.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "MatMul":
            _guard_product(library.opset13, node)
        elif kind == "GatherND":
            _guard_indices(library.opset13, node)
        elif kind == "ScatterElementsUpdate":
            _guard_places(library.opset13, node)
        elif kind == "Loop" and _is_asked(node.input_value(0)):
            turns = node.input_value(0)
            none = library.opset13.constant(np.zeros(1), turns.get_element_type())
            node.input(0).replace_source_output(library.opset13.maximum(turns, none).output(0))
        elif kind in _REFUSED and not inner and _is_asked(node.input_value(_REFUSED[kind])):
            raise ModelFormatError(
                f"{kind} ({node.get_friendly_name()}) by numbers that a request brings is not safe in OpenVINO"
            )
        for body in _bodies(node):
            add_guards(library, body, inner=True)
    model.validate_nodes_and_infer_types()


def _is_asked(output: Any) -> bool:
    """Whether its values may be a request's, and not only its sizes."""
    seen, waiting = set(), [output.get_node()]
    while waiting:
        node = waiting.pop()
        kind = node.get_type_name()
        if kind == "Parameter":
            return True
        if kind not in ("ShapeOf", "Constant") and node.get_name() not in seen:
            seen.add(node.get_name())
            waiting += [node.input_value(number).get_node() for number in range(node.get_input_size())]
    return False


def _bodies(node: Any) -> Sequence[Any]:
    """The graphs within a branch or a loop."""
    if hasattr(node, "get_then_body"):
        return node.get_then_body(), node.get_else_body()
    inner = getattr(node, "get_function", None) or getattr(node, "get_body", None)
    return (inner(),) if inner else ()


def _guard_product(ops: Any, node: Any) -> None:
    """Where only one side says how long the summed dimension is, the other one is held to it."""
    sides = [node.input_value(number) for number in (0, 1)]
    shapes = [side.get_partial_shape() for side in sides]
    if any(shape.rank.is_dynamic for shape in shapes):
        return
    turned = node.get_attributes()
    places = []
    for shape, last in zip(shapes, (not turned["transpose_a"], turned["transpose_b"]), strict=True):
        rank = shape.rank.get_length()
        places.append(rank - 1 if last or rank == 1 else rank - 2)
    sizes = [shape[place] for shape, place in zip(shapes, places, strict=True)]
    for free, known in ((0, 1), (1, 0)):
        if sizes[free].is_dynamic and not sizes[known].is_dynamic:
            pattern = np.zeros(shapes[free].rank.get_length(), np.int64)  # 0 is what it is
            pattern[places[free]] = sizes[known].get_length()
            held = ops.reshape(sides[free], ops.constant(pattern), True)
            node.input(free).replace_source_output(held.output(0))


def _guard_places(ops: Any, node: Any) -> None:
    """Places before the beginning are the beginning; those beyond the end are refused by the plugin."""
    data, indices, axis = node.input_value(0), node.input_value(1), node.input_value(3)
    kind = indices.get_element_type()
    size = ops.gather(ops.shape_of(data, "i64"), ops.convert(axis, "i64"), ops.constant(np.int64(0)))
    lowest = ops.negative(ops.convert(size, kind.to_string()))
    node.input(1).replace_source_output(ops.maximum(indices, lowest).output(0))


def _guard_indices(ops: Any, node: Any) -> None:
    """Negative ones count from the end; what lies beyond either end becomes that end."""
    data, indices = node.input_value(0), node.input_value(1)
    shape = indices.get_partial_shape()
    if shape.rank.is_dynamic or shape[shape.rank.get_length() - 1].is_dynamic:
        return
    begin = int(node.get_attributes()["batch_dims"])
    count = shape[shape.rank.get_length() - 1].get_length()
    kind = indices.get_element_type()
    places = ops.constant(np.arange(begin, begin + count))
    sizes = ops.gather(ops.shape_of(data, "i64"), places, ops.constant(np.int64(0)))
    sizes = ops.convert(sizes, kind.to_string())
    one = ops.constant(np.array(1), kind)
    lowest = ops.maximum(indices, ops.negative(sizes))
    node.input(1).replace_source_output(ops.minimum(lowest, ops.subtract(sizes, one)).output(0))
