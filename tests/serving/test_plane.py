"""A prediction whose version is unloaded, or whose deadline passes, under way."""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.batching import QueueClosedError
from tacit.serving.plane import Plane, Selector
from tacit.wire.tensor import Tensor

FLOATS = Signature({"x": TensorSpec("x:0", 1, (-1,))}, {"y": TensorSpec("y:0", 1, (-1,))})
OTHERS = Signature({"z": TensorSpec("x:0", 1, (-1,))}, {"y": TensorSpec("y:0", 1, (-1,))})
INTEGERS = Signature({"x": TensorSpec("x:0", 3, (-1,))}, {"y": TensorSpec("y:0", 1, (-1,))})
FULL = Tensor(1, np.ones(1, np.float32))


def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"y": inputs["x"]}


class Closed(FakeServed):
    """A version that was unloaded since it was found."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise QueueClosedError


class Stuck(FakeServed):
    """A version that never answers."""

    def submit(self, *_: Any, **__: Any) -> Future[dict[str, Tensor]]:
        self.asked: Future[dict[str, Tensor]] = Future()
        self.asked.set_running_or_notify_cancel()
        return self.asked


class Succession(FakeModels):
    """Finds one version after the other, and the last for ever."""

    def __init__(self, *served: FakeServed) -> None:
        super().__init__(served[0])
        self._heirs = list(served)

    def find(self, selector: Selector) -> FakeServed:
        return self._heirs.pop(0) if len(self._heirs) > 1 else self._heirs[0]


async def predict(*served: FakeServed, deadline: float | None = None) -> Any:
    plane = Plane(Succession(*served))
    return await plane.predict(Selector("m"), "", {"x": FULL}, decode=lambda _, value: value, deadline=deadline)


def version(
    number: int, signature: Signature, kind: type[FakeServed] = FakeServed, key: str = "serving_default"
) -> Any:
    return kind("m", number, {key: signature}, compute)


async def test_whoever_took_a_versions_place_answers() -> None:
    found = await predict(version(1, FLOATS, Closed), version(2, FLOATS))
    assert (found.version, found.outputs["y"].array.tolist()) == (2, [1.0])


@pytest.mark.parametrize(
    "heir",
    [
        version(2, OTHERS),
        version(2, INTEGERS),
        version(2, FLOATS, key="other"),
        version(2, FLOATS, Closed),
    ],
    ids=["other-names", "other-types", "no-such-signature", "unloaded-too"],
)
async def test_a_successor_that_was_not_checked_for_the_request_is_not_asked(heir: FakeServed) -> None:
    with pytest.raises(RequestError, match="is being replaced; send the request again") as refused:
        await predict(version(1, FLOATS, Closed), heir)
    assert refused.value.status is Status.UNAVAILABLE


async def test_a_run_is_not_waited_for_beyond_the_deadline() -> None:
    stuck, begin = version(1, FLOATS, Stuck), time.monotonic()
    with pytest.raises(RequestError, match="before the model answered") as refused:
        await predict(stuck, deadline=begin + 0.1)
    assert (refused.value.status, stuck.asked.done()) == (Status.DEADLINE_EXCEEDED, False)
    assert time.monotonic() - begin < 60
