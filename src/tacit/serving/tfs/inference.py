"""Classify and regress: examples in, labels with scores or plain numbers out.

A signature for them has one input of serialized examples. One with dense inputs is answered as well, which TensorFlow
Serving does not do: each input is then the feature of its name.

Source: tensorflow_serving/servables/tensorflow/{classifier,regressor,multi_inference}.cc.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.serving.plane import Plane, Prediction, Selector, Served
from tacit.serving.tfs.meter import Meter, NoMeter
from tacit.wire.examples import Feature, parse_examples
from tacit.wire.tensor import DT_FLOAT, DT_STRING, Tensor, type_name

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_CLASSES, _SCORES, _OUTPUTS = "classes", "scores", "outputs"


@dataclass(frozen=True, slots=True)
class Classified:
    """Label and score of each class, for each example; and what made them."""

    made_by: Prediction
    rows: Sequence[Sequence[tuple[bytes, float]]]


@dataclass(frozen=True, slots=True)
class Regressed:
    """One number for each example; and what made them."""

    made_by: Prediction
    values: Sequence[float]


class Inference:
    """Both methods, over the data plane. `check_methods` holds a signature to the method that it was exported for."""

    def __init__(self, plane: Plane, *, check_methods: bool = False, meter: Meter | None = None) -> None:
        self._plane = plane
        self._meter = meter or NoMeter()
        self._check_methods = check_methods

    async def classify(
        self, selector: Selector, key: str, examples: Sequence[bytes], *, deadline: float | None = None
    ) -> Classified:
        """Raises: RequestError."""
        served, key, signature = self._find(selector, key, CLASSIFY)
        outputs = [alias for alias in (_CLASSES, _SCORES) if alias in signature.outputs]
        if not 1 <= len(signature.outputs) <= 2:
            raise _refusal(f"Expected one or two output Tensors, found {len(signature.outputs)}")
        if not outputs:
            raise _refusal(
                f"Expected classification signature outputs to contain at least one of {_CLASSES!r} or {_SCORES!r}. "
                f"Signature was: {key}"
            )
        found = await self._run(selector, served, key, examples, outputs=outputs, deadline=deadline)
        return Classified(found, _classes(found.outputs, len(examples)))

    async def regress(
        self, selector: Selector, key: str, examples: Sequence[bytes], *, deadline: float | None = None
    ) -> Regressed:
        """Raises: RequestError."""
        served, key, signature = self._find(selector, key, REGRESS)
        if len(signature.outputs) != 1:
            raise _refusal("Expected one output Tensor.")
        if _OUTPUTS not in signature.outputs:
            raise _refusal(f"No regression outputs found in SignatureDef: {key}; expected {_OUTPUTS!r}")
        found = await self._run(selector, served, key, examples, outputs=[_OUTPUTS], deadline=deadline)
        return Regressed(found, _values(found.outputs[_OUTPUTS], len(examples)))

    def _find(self, selector: Selector, key: str, method: str) -> tuple[Served, str, Signature]:
        served = self._plane.find(selector)
        key = key or SERVING_DEFAULT
        signature = served.signatures.get(key)
        if signature is None:
            raise _refusal(f"No signature was found with the name: {key}")
        if self._check_methods and signature.method != method:
            raise _refusal(f"Expected signature method_name to be {method}. Was: {signature.method}")
        return served, key, signature

    async def _run(
        self,
        selector: Selector,
        served: Served,
        key: str,
        examples: Sequence[bytes],
        *,
        outputs: Sequence[str],
        deadline: float | None,
    ) -> Prediction:
        if examples:
            self._meter.examples(served.name, len(examples))
        inputs = example_inputs(served.signatures[key], examples)
        return await self._plane.run(selector, served, key, inputs, outputs=outputs, deadline=deadline)


def check_tasks(tasks: Sequence[tuple[str, str, str]], signatures: Mapping[str, Signature]) -> None:
    """Refuse tasks (model, signature, method) that cannot be answered together.

    Raises:
        RequestError: INVALID_ARGUMENT; UNIMPLEMENTED for another method.
    """
    seen: set[str] = set()
    for model, key, method in tasks:
        if not model:
            raise _refusal("Found ModelSpec with an empty model name.")
        if model != tasks[0][0]:
            raise _refusal("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if key in seen:
            raise _refusal(f"Duplicate evaluation of signature: {key}")
        seen.add(key)
        if key not in signatures:
            raise _refusal(f"Requested signature not found in model graph: {key}")
        if method not in (CLASSIFY, REGRESS):
            raise RequestError(Status.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)


# ---- inputs


def example_inputs(signature: Signature, examples: Sequence[bytes]) -> dict[str, Tensor]:
    """Inputs of a signature from serialized examples: as they are, or by their features. Raises: RequestError."""
    if not examples:
        raise _refusal("Input is empty.")
    strings = [alias for alias, spec in signature.inputs.items() if spec.dtype == DT_STRING]
    if len(signature.inputs) == 1 and strings:
        serialized = np.empty(len(examples), dtype=object)
        serialized[:] = list(examples)
        return {strings[0]: Tensor(DT_STRING, serialized)}
    return parse_examples(examples, {alias: _feature(alias, spec) for alias, spec in signature.inputs.items()})


def _feature(alias: str, spec: TensorSpec) -> Feature:
    row = (-1,) if spec.shape is None else spec.shape[1:]
    if sum(size < 0 for size in row) > 1:
        raise _refusal(f"input {alias} has more than one free size, which examples cannot tell; call Predict")
    return Feature(spec.dtype, row)


# ---- results


def _classes(outputs: Mapping[str, Tensor], examples: int) -> list[list[tuple[bytes, float]]]:
    labels, scores = outputs.get(_CLASSES), outputs.get(_SCORES)
    for name, tensor, dtype in ((_CLASSES, labels, DT_STRING), (_SCORES, scores, DT_FLOAT)):
        if tensor is None:
            continue
        if tensor.dtype != dtype:
            raise _refusal(f"Expected {name} Tensor of {type_name(dtype)}. Got: {type_name(tensor.dtype)}")
        if tensor.array.ndim != 2:
            raise _refusal(f"Expected Tensor shape: [batch_size num_classes] but got {list(tensor.shape)}")
        if tensor.shape[0] != examples:
            raise _refusal(f"Input batch size did not match output batch size: {examples} vs. {tensor.shape[0]}")
    if labels is not None and scores is not None and labels.shape != scores.shape:
        raise _refusal(
            f"Tensors class and score should match in shape. Got {list(labels.shape)} vs. {list(scores.shape)}"
        )
    shape = (labels or scores or outputs[_SCORES]).shape
    names = labels.array.tolist() if labels else [[b""] * shape[1]] * shape[0]
    numbers = scores.array.tolist() if scores else [[0.0] * shape[1]] * shape[0]
    return [list(zip(*row, strict=True)) for row in zip(names, numbers, strict=True)]


def _values(tensor: Tensor, examples: int) -> list[float]:
    array: NDArray[Any] = tensor.array
    if tensor.dtype != DT_FLOAT:
        raise _refusal(f"Expected output Tensor of {type_name(DT_FLOAT)}. Got: {type_name(tensor.dtype)}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
        raise _refusal(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(array.shape)}"
        )
    if array.shape[0] != examples:
        raise _refusal(f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}")
    values: list[float] = array.reshape(-1).tolist()
    return values
