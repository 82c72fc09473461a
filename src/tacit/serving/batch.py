"""One inference in flight per model.

A model on two cores gains nothing from two inferences at once and loses its latency: so every model has one engine
thread, and what arrives meanwhile waits in its queue. No timer delays a lone request.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from tacit.errors import RequestError, Status

Result = TypeVar("Result")

MAX_WAITING = 1024  # requests; each may hold a whole image batch, so this is far below what a queue could take


class QueueClosedError(Exception):
    """The model was unloaded between being found and being asked; the caller looks it up again."""


class EngineQueue(Generic[Result]):
    """Runs calls one after another on a thread of its own, in the order in which they came.

    A call whose future was cancelled, or whose deadline passed while it waited, is not run.
    """

    def __init__(self, name: str, *, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._calls: SimpleQueue[tuple[Future[Result], Callable[[], Result], float | None] | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Result], *, deadline: float | None = None) -> Future[Result]:
        """The future of a call that will run on the engine's thread, unless `deadline` (monotonic seconds) passes first.

        The future then fails with DEADLINE_EXCEEDED.

        Raises:
            QueueClosedError: `close` was called before.
            RequestError: UNAVAILABLE, too many calls wait already.
        """
        future: Future[Result] = Future()
        with self._gate:
            if self._closed:
                raise QueueClosedError
            if self._calls.qsize() >= self._max_waiting:
                raise RequestError(
                    Status.UNAVAILABLE, f"{self._max_waiting} requests wait for {self._name} already; try again later"
                )
            self._calls.put((future, call, deadline))
        return future

    def close(self) -> None:
        """Take no more calls, run those that wait, and return when the last one is done."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call, deadline = item
            del item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if deadline is not None and time.monotonic() >= deadline:
                    raise RequestError(
                        Status.DEADLINE_EXCEEDED, f"the deadline passed while the request waited for {self._name}"
                    )
                result = call()
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)
                del result
            # Waiting for the next call must not keep the last one's tensors alive.
            del future, call
