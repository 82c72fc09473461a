"""Are these shapes the model's? Asked before it runs, of its graph without the weights.

A compiled model finds out in the middle of a run, and is then not what it was: OpenVINO 2026.4 goes on refusing shapes
that it took before, or answers them wrong. So it is thrown away then, which takes a while, and should not happen often.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

Shapes = tuple[tuple[int, ...], ...]
"""Of each input, in the model's order."""

_LARGE = 1024  # elements of a constant that is no shape itself, so that only its own shape counts
_KEPT = 1024  # shapes that are known to fit


def make_check(library: Any, model: Any) -> "ShapeCheck | None":
    """A check for a model, where a request may bring shapes that do not fit: others the plugin refuses before it runs.

    None too for a model with a memory of its own, which has no graph without it.
    """
    if not any(port.get_partial_shape().is_dynamic for port in model.inputs) or model.get_sinks():
        return None
    return ShapeCheck(library, model)


class ShapeCheck:
    """The graph of a model, and the shapes that it was asked about."""

    def __init__(self, library: Any, model: Any) -> None:
        self._library = library
        self._graph = _without_weights(library, model)
        self._inputs = len(model.inputs)
        self._known: OrderedDict[Shapes, None] = OrderedDict()

    def check(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        """Shapes by the number of their input. Raises: RuntimeError for those that do not fit."""
        asked = tuple(shapes[number] for number in range(self._inputs))
        if asked not in self._known:
            # Not by `reshape`, which changes the graph so that more fits.
            parameters = self._graph.get_parameters()[: self._inputs]
            for parameter, shape in zip(parameters, asked, strict=True):
                parameter.set_partial_shape(self._library.PartialShape(list(shape)))
            self._graph.validate_nodes_and_infer_types()
            self._known[asked] = None
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)


def _without_weights(library: Any, model: Any) -> Any:
    """A model of the same shapes, where each large constant is an input more. Raises: RuntimeError."""
    graph = model.clone()
    more = []
    for node in graph.get_ordered_ops():
        found = node.output(0) if node.get_type_name() == "Constant" else None
        if found is not None and math.prod(found.get_shape()) > _LARGE:
            stand_in = library.opset13.parameter(list(found.get_shape()), found.get_element_type())
            for target in found.get_target_inputs():
                target.replace_source_output(stand_in.output(0))
            more.append(stand_in)
    return library.Model(graph.get_results(), [*graph.get_parameters(), *more], "shapes")
