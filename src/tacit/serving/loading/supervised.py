"""An engine in a process of its own, which is started again when it dies.

(1) What it was asked when it died is answered with UNAVAILABLE, and so is what comes while there is none.
(2) Another is started at once; one that dies soon after its start is followed by longer and longer pauses.
(3) It is the same model: from files that are as they were, under the same rule of the manifest.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

from tacit.errors import EngineCrashedError, RequestError, Status, TacitError, WorkerError
from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.loading.process import Worker
from tacit.wire.tensor import Tensor

_LONGEST_PAUSE = 60.0  # seconds between two starts
_LASTED = 60.0  # seconds after which a death is the first one again

Teller = Callable[..., None]
"""Told of what happens: the event's name, and its fields."""


def pause_before(deaths: int) -> float:
    """Seconds before the start that follows so many deaths in a row: none, 1, 2, 4 and so on."""
    return 0.0 if deaths <= 1 else min(_LONGEST_PAUSE, 2.0 ** (deaths - 2))


class WorkerEngine:
    """One worker as an engine. Once it has died it answers nothing any more."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.platform = worker.platform
        self.signatures: Mapping[str, Signature] = worker.signatures
        self._died: EngineCrashedError | None = None

    @property
    def works(self) -> bool:
        """Whether it has not died, as far as it was asked."""
        return self._died is None

    def check(self) -> None:
        """Raise what it died of, if it did. Raises: EngineCrashedError."""
        if self._died is not None:
            raise self._died

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        self.check()
        try:
            return self._worker.infer(signature, inputs, outputs)
        except EngineCrashedError as exc:
            self._died = exc
            raise RequestError(Status.UNAVAILABLE, f"{exc}; send the request again") from exc
        except WorkerError as exc:
            raise RequestError(Status.INTERNAL, str(exc)) from exc
        except (OSError, ValueError) as exc:  # memory that it spoilt, or that there is no more of
            self._died = EngineCrashedError(f"the memory shared with the process that runs the model failed ({exc})")
            self._worker.close()
            raise RequestError(Status.UNAVAILABLE, f"{self._died}; send the request again") from exc

    def close(self) -> None:
        """End it."""
        self._worker.close()


class SupervisedEngine:
    """A worker, or for a while none; `start` makes one, `tell` hears of its deaths."""

    def __init__(
        self,
        start: Callable[[], Worker],
        bundle: Bundle,
        reopen: Callable[[], Bundle],
        options: EngineOptions,
        tell: Teller,
    ) -> None:
        self._start, self._reopen, self._options, self._tell = start, reopen, options, tell
        self._gate = threading.Lock()
        self._end = threading.Event()
        self._starting: Worker | None = None
        worker = self._open(bundle)
        self.platform = worker.platform
        self.signatures: Mapping[str, Signature] = worker.signatures
        self._first = WorkerEngine(worker)
        self._engine: WorkerEngine | None = self._first
        self._thread = threading.Thread(target=self._watch, args=(worker,), name="worker", daemon=True)
        self._thread.start()

    @property
    def works(self) -> bool:
        """Whether there is a worker that answers."""
        engine = self._engine
        return engine is not None and engine.works

    def check(self) -> None:
        """Raise what its first worker died of, if it did. Raises: EngineCrashedError."""
        self._first.check()

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError, UNAVAILABLE while there is no worker."""
        engine = self._engine
        if self._end.is_set():
            raise RequestError(Status.UNAVAILABLE, "this version of the model is unloaded; send the request again")
        if engine is None or not engine.works:
            raise RequestError(
                Status.UNAVAILABLE, "the process that runs this model died and is started again; send the request again"
            )
        return engine.infer(signature, inputs, outputs)

    def close(self) -> None:
        """End the worker, for good."""
        self._end.set()
        with self._gate:
            engine, self._engine, starting = self._engine, None, self._starting
        if engine is not None:
            engine.close()
        if starting is not None:
            starting.close()
        self._thread.join()

    # ---- the thread that waits for its end

    def _open(self, bundle: Bundle) -> Worker:
        """A worker with the model. Raises: what loading raises."""
        with self._gate:  # either `close` sees it, or it is not started
            if self._end.is_set():
                raise EngineCrashedError("the model is unloaded")
            worker = self._starting = self._start()
        try:
            worker.load(bundle, self._options, fit=True)
        except BaseException:
            worker.close()
            raise
        finally:
            self._starting = None
        return worker

    def _watch(self, worker: Worker) -> None:
        deaths, current = 0, worker
        while True:
            began = time.monotonic()
            ending = current.wait()
            with self._gate:
                if self._end.is_set():
                    return
                self._engine = None
                current.close()
            deaths = 1 if time.monotonic() - began > _LASTED else deaths + 1
            self._tell("worker-failed", process=current.number, message=f"it {ending}; another is started")
            found = self._another(deaths)
            if found is None:
                return
            current = found

    def _another(self, deaths: int) -> Worker | None:
        """The worker that takes the place of one that died; None at the end."""
        while not self._end.wait(pause_before(deaths)):
            try:
                with closing(self._reopen()) as bundle:
                    worker = self._open(bundle)
            except Exception as exc:
                deaths += 1
                text = str(exc) if isinstance(exc, TacitError) else type(exc).__name__
                self._tell("worker-failed", message=f"none could be started: {text}", pause=pause_before(deaths))
                continue
            with self._gate:
                if self._end.is_set():
                    worker.close()
                    return None
                self._engine = WorkerEngine(worker)
            self._tell("worker-started", process=worker.number)
            return worker
        return None
