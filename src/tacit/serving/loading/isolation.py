"""The processes that the models of a server get, as far as they are to be kept from it."""

from collections.abc import Callable

from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.loading.process import Worker
from tacit.serving.loading.starting import Command, Isolation, Started, start
from tacit.serving.loading.supervised import SupervisedEngine, Teller, WorkerEngine


class Workers:
    """Starts processes for models, where `isolation` wants them. The first one may run already: `ahead`.

    `ahead` is the first one, if it was started already: until its model is there, it has read what it needs. `meanwhile`
    is what this process can do while another tries a model out.
    """

    def __init__(
        self,
        isolation: Isolation,
        command: Command,
        meanwhile: Callable[[], None] = lambda: None,
        ahead: Started | None = None,
    ) -> None:
        self.isolation = isolation
        self._command, self._meanwhile = command, meanwhile
        self._spare = ahead

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
        started = spare or start(self._command)
        try:
            return Worker(started)
        except BaseException:
            started.close()
            raise
