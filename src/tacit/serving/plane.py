"""The data plane: what every protocol asks, in no protocol's words.

A prediction goes through these steps, in TensorFlow Serving's order; the first that fails gives the answer, with that
server's status and leading words, since clients match on them.
  (1) find the model and its version
  (2) find the signature
  (3) the number of inputs, (4) their names
  (5) decode each input
  (6) the outputs that are asked for
  (7) element types; shapes are the model's own business, a signature's shape refuses nobody
  (8) run
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

import msgspec

from tacit.edge.calls.prompt import Pause, may_pause
from tacit.errors import RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.batching import QueueClosedError, Statistics
from tacit.serving.callers import Caller, Callers
from tacit.wire.tensor import Tensor, type_name

Wire = TypeVar("Wire")

STORAGE_THREAD = "storage"
"""The name of every thread that loads models; a process in which one still runs ends without waiting for it."""


class State(IntEnum):
    """Where a version is in its life. Source: tensorflow_serving/apis/get_model_status.proto."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version's state; `code` and `message` say why it ended, and are OK and empty otherwise."""

    version: int
    state: State
    code: Status = Status.OK
    message: str = ""


class Selector(msgspec.Struct, frozen=True):
    """Which model: by version, by label, or the latest where both are None. `caller` is who asks for it."""

    model: str
    version: int | None = None
    label: str | None = None
    caller: Caller | None = None


class Served(Protocol):
    """A loaded version."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What it answers, by signature key."""

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        *,
        deadline: float | None = None,
        client: bytes | None = None,
    ) -> Future[dict[str, Tensor]]:
        """The outputs, once the engine gets to it before `deadline`. Raises: QueueClosedError, RequestError.

        `client` is what who asks is known by, for batches that are not to mix clients.
        """

    def hold(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        pause: Pause[dict[str, Tensor]],
        *,
        soon: Callable[[Callable[[], None]], object],
        client: bytes | None = None,
    ) -> bool:
        """Whether the outputs come at the end of this turn of the loop, where what `soon` is given is called.

        `pause` ends then: with them, or with None where the request is to be asked by `submit`. Raises: RequestError.
        """

    def attempt(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor] | None:
        """The outputs at once, from a model that is quicker than any queue; None where it is to be asked by `submit`.

        Raises:
            RequestError: the model's refusal.
        """

    @property
    def statistics(self) -> Statistics:
        """What it has done since it was loaded."""

    @property
    def platform(self) -> str:
        """Which engine runs it."""

    @property
    def max_batch(self) -> int:
        """Rows of the largest batch, 0 where requests are not batched."""


class Models(Protocol):
    """What is served: the repository, or a fake."""

    def find(self, selector: Selector) -> Served:
        """The loaded version that is meant. Raises: RequestError."""

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        """All versions that are known, highest first; empty for an unknown model."""

    def names(self) -> Sequence[str]:
        """The models that are to be served."""

    @property
    def ready(self) -> bool:
        """Whether there is a model, and every one has a version that answers.

        A model that a client unloaded is not asked for while there is another.
        """

    def load_model(self, model: str) -> None:
        """Look for the model's versions now, and wait for them; blocks. Raises: RequestError."""

    def unload_model(self, model: str) -> None:
        """Take the model away until it is loaded again; blocks. Raises: RequestError."""


class Prediction(msgspec.Struct, frozen=True):
    """Outputs by alias, and which version made them."""

    model: str
    version: int
    signature: str
    outputs: Mapping[str, Tensor]


class Plane:
    """Answers status, metadata and predictions from the models that it is given, to whom `callers` let."""

    def __init__(self, models: Models, callers: Callers | None = None) -> None:
        self._models = models
        self.callers = callers or Callers()

    @property
    def models(self) -> Models:
        """What is served."""
        return self._models

    def find(self, selector: Selector) -> Served:
        """The loaded version that is meant; version 0 means the latest where there is no version 0.

        Raises:
            RequestError: NOT_FOUND or INVALID_ARGUMENT; who may not call it learns no more than that.
        """
        if not selector.model:
            raise RequestError(Status.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        self.callers.check_model(selector.model, selector.caller)
        if selector.version == 0 and all(s.version != 0 for s in self._models.statuses(selector.model)):
            selector = msgspec.structs.replace(selector, version=None)
        return self._models.find(selector)

    def statuses(self, selector: Selector) -> Sequence[VersionStatus]:
        """Versions and their states, highest first. A label is not looked at: all versions come back.

        Raises:
            RequestError: NOT_FOUND, or INVALID_ARGUMENT without a name.
        """
        if not selector.model:
            raise RequestError(Status.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        self.callers.check_model(selector.model, selector.caller)
        found = self._models.statuses(selector.model)
        if not found:
            raise RequestError(Status.NOT_FOUND, f"Could not find any versions of model {selector.model}")
        if selector.version is None or (selector.version == 0 and all(s.version for s in found)):
            return found
        chosen = [status for status in found if status.version == selector.version]
        if not chosen:
            raise RequestError(Status.NOT_FOUND, f"Could not find version {selector.version} of model {selector.model}")
        return chosen

    async def predict(
        self,
        selector: Selector,
        signature_key: str,
        inputs: Mapping[str, Wire],
        *,
        decode: Callable[[str, Wire], Tensor],
        output_filter: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Prediction:
        """A whole prediction, steps (1) to (8); `decode` turns one input of the protocol's kind into a tensor.

        At `deadline` (monotonic seconds) what still waits is not run, and what runs is not waited for.

        Raises:
            RequestError: with the first step's status and text.
        """
        key = signature_key or SERVING_DEFAULT
        served = self.find(selector)  # (1)
        signature = served.signatures.get(key)  # (2)
        if signature is None:
            raise RequestError(Status.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        check_aliases(signature, inputs)  # (3) (4)
        tensors = {alias: decode(alias, value) for alias, value in inputs.items()}  # (5)
        if len(tensors) < len(signature.inputs):
            tensors = {**signature.defaults, **tensors}
        outputs = choose_outputs(signature, output_filter)  # (6)
        return await self.run(selector, served, key, tensors, outputs=outputs, deadline=deadline)

    async def run(
        self,
        selector: Selector,
        served: Served,
        signature_key: str,
        inputs: Mapping[str, Tensor],
        *,
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> Prediction:
        """Steps (7) and (8), for inputs that are decoded and named already.

        Raises:
            RequestError: wrong types, a shape that the model refuses, a queue that is full, or a deadline that passed.
        """
        check_types(served.signatures[signature_key], inputs)  # (7)
        caller = selector.caller  # (8)
        client = (caller.certificate or caller.token or None) if caller else None
        result = None
        if may_pause():
            pause: Pause[dict[str, Tensor]] = Pause()
            soon = asyncio.get_running_loop().call_soon
            if served.hold(signature_key, inputs, outputs, pause, soon=soon, client=client):
                result = await pause
        if result is None:
            result = served.attempt(signature_key, inputs, outputs)
        if result is None:
            try:
                waiting = served.submit(signature_key, inputs, outputs, deadline=deadline, client=client)
            except QueueClosedError:
                served = self._successor(selector, served, signature_key)
                try:
                    waiting = served.submit(signature_key, inputs, outputs, deadline=deadline, client=client)
                except QueueClosedError as exc:
                    raise _being_replaced(served) from exc
            try:
                result = await _outcome(waiting, deadline)
            finally:
                del waiting  # with an error it would keep itself, and the inputs, alive
        return Prediction(served.name, served.version, signature_key, result)

    def _successor(self, selector: Selector, gone: Served, signature_key: str) -> Served:
        """Who took the place of a version that was unloaded after it was found: it answers what was checked against that.

        Raises:
            RequestError: nobody did, or UNAVAILABLE, it takes other inputs, which a request that is sent again will meet.
        """
        found = self.find(selector)
        before, after = gone.signatures[signature_key], found.signatures.get(signature_key)
        same = after is not None and (after.inputs, after.outputs) == (before.inputs, before.outputs)
        if not same or before.defaults or (after and after.defaults):
            raise _being_replaced(gone)
        return found


def as_it_is(_alias: str, tensor: Tensor) -> Tensor:
    """The `decode` of inputs that are tensors already."""
    return tensor


def start_managing(work: Callable[[], None]) -> "asyncio.Future[None]":
    """Start what blocks until models are loaded or gone, on a thread that the end of the process does not wait for.

    Cancelling the future stops nothing.
    """
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            done.set_exception(exc)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=STORAGE_THREAD, daemon=True).start()
    return asyncio.wrap_future(done)


def _being_replaced(served: Served) -> RequestError:
    return RequestError(
        Status.UNAVAILABLE, f"version {served.version} of {served.name} is being replaced; send the request again"
    )


async def _outcome(waiting: Future[dict[str, Tensor]], deadline: float | None) -> dict[str, Tensor]:
    """What a request comes to, unless `deadline` passes first. Raises: RequestError."""
    if deadline is None:
        return await asyncio.wrap_future(waiting)
    found = asyncio.wrap_future(waiting)
    try:
        done, _ = await asyncio.wait((found,), timeout=max(0.0, deadline - time.monotonic()))
    finally:
        # What it came to meanwhile is looked at, or asyncio tells of a failure that nobody asked for.
        if found.done() and not found.cancelled():
            found.exception()
        else:
            found.cancel()
    if not done:
        raise RequestError(Status.DEADLINE_EXCEEDED, "the deadline passed before the model answered")
    return found.result()


def check_aliases(signature: Signature, sent: Mapping[str, object]) -> None:
    """Refuse inputs that are too many, too few or of other names than the signature's; defaults may be left out.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if sent.keys() == signature.inputs.keys():
        return
    given, wanted = set(sent), set(signature.inputs)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(wanted)} len({_braces(given)}) != "
            f"len({_braces(wanted)}). Sent extra: {_braces(given - wanted)}. "
            f"Missing but required: {_braces(wanted - given)}.",
        )
    if missing := sorted(wanted - given - set(signature.defaults)):
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"Signature input alias: {missing[0]}(feed name: {signature.inputs[missing[0]].name}) not found in request "
            f"and no default value provided. Inputs expected to be in the request {_braces(wanted)}, "
            f"or default input alias set: {_braces(signature.defaults) if signature.defaults else ''}",
        )
    if given - wanted:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"Inputs contains invalid name. Used request inputs: {_braces(given & wanted)}, "
            f"request input: {_braces(given)}",
        )


def choose_outputs(signature: Signature, output_filter: Sequence[str]) -> tuple[str, ...]:
    """The aliases to answer with: those asked for, or all.

    Raises:
        RequestError: INVALID_ARGUMENT for one that is unknown or asked for twice.
    """
    if not output_filter:
        return tuple(signature.outputs)
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(signature.outputs)}.",
            )
        if alias in chosen:
            raise RequestError(Status.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return tuple(chosen)


def check_types(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    """Refuse an input of another element type than the signature's: nothing is cast.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    specs = signature.inputs
    wrong = [alias for alias, tensor in inputs.items() if tensor.dtype != specs[alias].dtype]
    if wrong:
        first = min(wrong)
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"Expects arg[{sorted(inputs).index(first)}] to be {type_name(specs[first].dtype)} but "
            f"{type_name(inputs[first].dtype)} is provided (input {first})",
        )


def _braces(names: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(names)) + "}"
