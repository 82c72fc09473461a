"""Checks that the plugin leaves out, put into the graph: without them a request reads memory beside its own.

OpenVINO 2026.4 multiplies by constant weights whatever the other side's size is, and takes an element at whatever place
an index says. Sizes that a model leaves free, and indices, are the client's. Other operations were tried with sizes and
indices that do not fit, and refuse them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def add_guards(library: Any, model: Any) -> None:
    """Make the model refuse products of sizes that do not fit, and keep indices within what they index."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "MatMul":
            _guard_product(library.opset13, node)
        elif kind == "GatherND":
            _guard_indices(library.opset13, node)
        else:
            for body in _bodies(node):
                add_guards(library, body)
    model.validate_nodes_and_infer_types()


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
