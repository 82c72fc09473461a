"""Whose process an engine runs in. What a hostile or broken model does to a native engine is then done to that one.

    none      this one
    probe     another one loads and warms each version first, and may die of it; then this one
    process   another one for as long as the version is served; when it dies, the next takes its place

It keeps a crash from the server, and is no sandbox: such a process may do what the user may that it runs as.
"""

from collections.abc import Callable
from enum import StrEnum

from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.loading.process import Command, Worker
from tacit.serving.loading.supervised import SupervisedEngine, Teller, WorkerEngine


class Isolation(StrEnum):
    """How far a model is kept from the server."""

    NONE = "none"
    PROBE = "probe"
    PROCESS = "process"


class Workers:
    """Starts processes for models, where `isolation` wants them.

    `meanwhile` is what this process can do while another tries a model out.
    """

    def __init__(self, isolation: Isolation, command: Command, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.isolation = isolation
        self._command, self._meanwhile = command, meanwhile
        self._spare: Worker | None = None

    def prepare(self) -> None:
        """Start the first one now: until its model is there, it has read what it needs."""
        if self.isolation is not Isolation.NONE:
            self._spare = Worker(self._command)

    def close(self) -> None:
        """End the one that nobody needed."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

    def try_out(self, bundle: Bundle, options: EngineOptions) -> WorkerEngine:
        """A model loaded in a process that is ended right after. Raises: EngineCrashedError, what loading raises."""
        worker = self._take()
        try:
            worker.load(bundle, options, fit=False, meanwhile=self._meanwhile)
        except BaseException:
            worker.close()
            raise
        return WorkerEngine(worker)

    def supervise(
        self, bundle: Bundle, reopen: Callable[[], Bundle], options: EngineOptions, tell: Teller
    ) -> SupervisedEngine:
        """A model in a process of its own; `reopen` is for the next one. Raises: EngineCrashedError, what loading raises."""
        return SupervisedEngine(self._take, bundle, reopen, options, tell)

    def _take(self) -> Worker:
        spare, self._spare = self._spare, None
        return spare or Worker(self._command)
