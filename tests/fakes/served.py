"""A model without an engine: half plus two, under the name and version of TensorFlow Serving's own example."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.batching import Statistics
from tacit.serving.plane import Selector, State, VersionStatus
from tacit.wire.examples import Feature, parse_examples
from tacit.wire.tensor import Tensor

Compute = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def half_plus_two(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """y = 0.5 * x + 2."""
    half, two = np.float32(0.5), np.float32(2)
    return {"y": Tensor(1, np.asarray(inputs["x"].array * half + two, dtype=np.float32))}


class FakeServed:
    """Implements `plane.Served` with a function."""

    def __init__(self, name: str, version: int, signatures: Mapping[str, Signature], compute: Compute) -> None:
        self.name = name
        self.version = version
        self.signatures = signatures
        self._compute = compute
        self.statistics = Statistics()
        self.platform = "fake"
        self.max_batch = 0

    def hold(self, *_asked: object, **_how: object) -> bool:
        return False

    def attempt(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> None:
        return None

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        *,
        deadline: float | None = None,
        client: bytes | None = None,
    ) -> Future[dict[str, Tensor]]:
        future: Future[dict[str, Tensor]] = Future()
        try:
            future.set_result({alias: self._compute(inputs)[alias] for alias in outputs})
        except RequestError as exc:
            future.set_exception(exc)
        return future


class FakeModels:
    """Implements `plane.Models` with one model."""

    def __init__(self, served: FakeServed, *, labels: Mapping[str, int] | None = None) -> None:
        self._served = served
        self._labels = labels or {}
        self.loads: list[str] = []

    def find(self, selector: Selector) -> FakeServed:
        served = self._served
        version = selector.version
        if selector.label is not None:
            if selector.label not in self._labels:
                raise RequestError(Status.INVALID_ARGUMENT, f"Unrecognized servable version label: {selector.label}")
            version = self._labels[selector.label]
        if selector.model != served.name or version not in (None, served.version):
            wanted = f"Latest({selector.model})" if version is None else f"Specific({selector.model}, {version})"
            raise RequestError(Status.NOT_FOUND, f"Servable not found for request: {wanted}")
        return served

    ready = True

    def names(self) -> Sequence[str]:
        return (self._served.name,)

    def load_model(self, model: str) -> None:
        if model != self._served.name:
            raise RequestError(Status.NOT_FOUND, f"no model {model} is configured")
        self.loads.append(f"load {model}")

    def unload_model(self, model: str) -> None:
        if model != self._served.name:
            raise RequestError(Status.NOT_FOUND, f"no model {model} is configured")
        self.loads.append(f"unload {model}")

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        if model != self._served.name:
            return ()
        return (VersionStatus(self._served.version, State.AVAILABLE),)


def _half_plus_two_of_examples(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every signature of the recorded model: dense, or of serialized examples with a feature x."""
    if "inputs" in inputs:
        inputs = parse_examples(inputs["inputs"].array.tolist(), {"x": Feature(1, (1,))})
    y = half_plus_two(inputs)["y"]
    return {"y": y, "outputs": y, "scores": y}


def recorded() -> FakeModels:
    """The model of the recorded REST cases: half plus two with its signatures for classify and regress."""
    floats, strings = TensorSpec("y:0", 1, (-1, 1)), {"inputs": TensorSpec("tf_example:0", 7, None)}
    signatures = {
        "serving_default": Signature({"x": TensorSpec("x:0", 1, (-1, 1))}, {"y": floats}),
        "classify_x_to_y": Signature(strings, {"scores": floats}, "tensorflow/serving/classify"),
        "regress_x_to_y": Signature(strings, {"outputs": floats}, "tensorflow/serving/regress"),
    }
    served = FakeServed("half_plus_two", 123, signatures, _half_plus_two_of_examples)
    return FakeModels(served, labels={"prod": 123})


def example(
    inputs: Mapping[str, int] | None = None, outputs: Mapping[str, int] | None = None, compute: Compute = half_plus_two
) -> FakeModels:
    """Half plus two as version 123 with the label prod; other inputs and outputs (alias: type) where a test wants them."""
    signature = Signature(
        {alias: TensorSpec(f"{alias}:0", dtype, (-1, 1)) for alias, dtype in (inputs or {"x": 1}).items()},
        {alias: TensorSpec(f"{alias}:0", dtype, (-1, 1)) for alias, dtype in (outputs or {"y": 1}).items()},
    )
    served = FakeServed("half_plus_two", 123, {"serving_default": signature}, compute)
    return FakeModels(served, labels={"prod": 123})
