"""Eight-bit integers for a model's convolutions and matrix products, by what its recorded requests look like.

(1) Each recorded request is run, and the smallest and largest value is kept of every tensor that goes into such a layer.
(2) Each of these tensors is rounded to 256 steps between the two, and the weights to 255 for each output channel.
(3) The engine sees the rounding, and computes these layers in integers where the processor can.

Ranges of the extremes, nothing fitted: a quantised model that its owner made with more care is served as it is, by any
precision. What it costs in accuracy is told by `tacit model compare`.

Source: OpenVINO's FakeQuantize-1, and its description of low precision transformations.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import ModelFormatError

_LAYERS = ("Convolution", "MatMul")
_STEPS, _WEIGHT_STEPS = 256, 255  # of unsigned bytes, and of signed ones around zero
_FLOATS = ("f32", "f16")


Sample = Mapping[int, NDArray[Any]]
"""Inputs by the number of their port."""


def quantise(core: Any, model: Any, samples: Sequence[Sample]) -> Any:
    """The model with its large layers in eight bits, for inputs like `samples`.

    Raises:
        ModelFormatError: no layer of it can be, or there is nothing to learn the ranges from.
    """
    if not samples:
        raise ModelFormatError(
            "--precision=int8 learns from recorded requests, and this version has none for its default signature; add "
            "assets.extra/tf_serving_warmup_requests with inputs as they will come"
        )
    layers = [node for node in model.get_ordered_ops() if _is_layer(node)]
    sources = {_key(node.input_value(0)): node.input_value(0) for node in layers}
    if not layers:
        raise ModelFormatError(
            "--precision=int8: the model has no convolution or matrix product with weights of its own"
        )
    ranges = _observe(core, model, list(sources), samples)
    from openvino import opset13 as operations

    for key, source in sources.items():
        low, high = ranges[key]
        rounded = operations.fake_quantize(source, low, high, low, high, _STEPS)
        for node in layers:
            if _key(node.input_value(0)) == key:
                node.input(0).replace_source_output(rounded.output(0))
    for node in layers:
        _round_weights(operations, node)
    model.validate_nodes_and_infer_types()
    return model


def _key(source: Any) -> tuple[str, int]:
    return source.get_node().get_friendly_name(), source.get_index()


def _is_layer(node: Any) -> bool:
    """Whether it is a layer with weights that are there, and not computed."""
    return (
        node.get_type_name() in _LAYERS
        and node.input_value(0).get_element_type().get_type_name() in _FLOATS
        and node.input_value(1).get_node().get_type_name() == "Constant"
    )


def _observe(
    core: Any, model: Any, keys: Sequence[tuple[str, int]], samples: Sequence[Sample]
) -> dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The smallest and the largest value of each tensor, over all samples."""
    looked = model.clone()
    nodes = {node.get_friendly_name(): node for node in looked.get_ordered_ops()}
    looked.add_outputs([nodes[name].output(index) for name, index in keys])
    compiled = core.compile_model(looked, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    seen = compiled.outputs[len(model.outputs) :]
    low, high = np.full(len(keys), np.inf, np.float32), np.full(len(keys), -np.inf, np.float32)
    for sample in samples:
        found = compiled(dict(sample), share_inputs=True)
        for place, port in enumerate(seen):
            values = found[port]
            if values.size and np.isfinite(values).all():
                low[place], high[place] = min(low[place], values.min()), max(high[place], values.max())
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ModelFormatError(
            "--precision=int8: recorded requests make values that are no numbers; none can be rounded"
        )
    # Zero is always exact: padding and rectifiers are made of it. A range of no width gets one.
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    high = np.where(high > low, high, low + 1).astype(np.float32)
    return {key: (low[place], high[place]) for place, key in enumerate(keys)}


def _round_weights(operations: Any, node: Any) -> None:
    source = node.input_value(1)
    weights = source.get_node().data.astype(np.float32)
    axis = 0
    if node.get_type_name() == "MatMul":
        # Columns are outputs, unless it says that they are rows.
        axis = weights.ndim - (2 if node.get_attributes().get("transpose_b") else 1)
    others = tuple(place for place in range(weights.ndim) if place != axis)
    top = np.abs(weights).max(axis=others, keepdims=True)
    top = np.where(top > 0, top, 1).astype(np.float32)
    rounded = operations.fake_quantize(source, -top, top, -top, top, _WEIGHT_STEPS)
    node.input(1).replace_source_output(rounded.output(0))
