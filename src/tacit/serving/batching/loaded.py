"""A version in memory: its engine behind a queue that suits it."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.batching.pace import QUICK_NS, measure_pace
from tacit.serving.batching.queue import ENGINE_THREAD, MAX_WAITING, ModelQueue
from tacit.serving.batching.rules import BatchRules
from tacit.serving.batching.statistics import Statistics
from tacit.serving.engines.interface import Engine, MayBeAway
from tacit.wire.tensor import Tensor

_SMALL_NS = (
    10 * QUICK_NS
)  # below it one thread is tried as well: several may only be slow because they wait for another


@dataclass(frozen=True, slots=True)
class Queueing:
    """How requests wait: joined by `rules` or one by one, and `max_waiting` of them per version at most.

    Those that still wait `patience` seconds after their version was unloaded are answered with UNAVAILABLE.
    """

    rules: BatchRules | None = None
    max_waiting: int = MAX_WAITING
    patience: float = 30.0


class LoadedModel:
    """A version in memory: its engine behind a queue."""

    def __init__(
        self, name: str, version: int, engine: Engine, *, queueing: Queueing | None = None, quick: bool = False
    ) -> None:
        queueing = queueing or Queueing()
        self.name = name
        self.version = version
        self.signatures: Mapping[str, Signature] = engine.signatures
        self.platform = engine.platform
        joinable = [key for key, signature in engine.signatures.items() if is_by_rows(signature)]
        self.max_batch = queueing.rules.max_batch if queueing.rules and joinable else 0
        self._patience = queueing.patience
        self._engine = engine
        self._queue = ModelQueue(
            f"{name}/{version}",
            engine,
            rules=queueing.rules,
            joinable=joinable,
            max_waiting=queueing.max_waiting,
            quick=quick,
        )
        self.attempt = self._queue.attempt
        self.hold = self._queue.hold
        self.submit = self._queue.submit

    @property
    def statistics(self) -> Statistics:
        """What it has done since it was loaded."""
        return self._queue.statistics

    @property
    def works(self) -> bool:
        """Whether it would answer now; an engine in a process of its own may be away for a while."""
        return not isinstance(self._engine, MayBeAway) or self._engine.works

    def close(self, patience: float | None = None) -> bool:
        """Answer what waits, then give the memory back; whether that was done in time.

        A model that hangs is ended, if it has a process of its own. In this one nothing can end it: it keeps its thread
        and its memory until it returns.
        """
        if in_time := self._queue.close(self._patience if patience is None else patience):
            self._engine.close()
            return in_time
        self._queue.give_up()
        if isinstance(self._engine, MayBeAway):
            self._engine.close()
            self._queue.close()
        else:
            threading.Thread(target=self._close_late, name=f"{ENGINE_THREAD} ends", daemon=True).start()
        return in_time

    def _close_late(self) -> None:
        self._queue.close()
        self._engine.close()


def is_by_rows(signature: Signature) -> bool:
    """Whether the first dimension of everything is free, or unknown: then requests may be joined along it."""
    specs = (*signature.inputs.values(), *signature.outputs.values())
    return all(spec.shape is None or (len(spec.shape) > 0 and spec.shape[0] < 0) for spec in specs)


def fit(
    engine: Engine, zeros: Callable[[Signature], Mapping[str, Tensor]], *, alone: Callable[[], Engine] | None
) -> tuple[Engine, bool]:
    """The engine that suits a model, and whether it is quicker than a queue.

    `alone` loads the model once more, for one thread: a tiny model is slower with several.
    """
    key = min(engine.signatures, key=lambda name: (name != SERVING_DEFAULT, name), default=None)
    if key is None:
        return engine, False
    signature = engine.signatures[key]

    def pace(engine: Engine) -> int:
        return measure_pace(engine, key, zeros(signature), tuple(signature.outputs))

    try:
        found = pace(engine)
        if alone is not None and found < _SMALL_NS:
            single = alone()
            with_one = pace(single)
            if with_one <= max(found, QUICK_NS):
                engine, single, found = single, engine, with_one
            single.close()
        return engine, found < QUICK_NS
    except Exception:  # zeros may be what it was never meant to take; the warm-up says so
        return engine, False
