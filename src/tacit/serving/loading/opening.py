"""From a version in the storage to a model that answers.

(1) Its files are opened, and checked against what the manifest says of them.
(2) With `probe`, a process of its own loads and runs it first; one that dies of it ends the load.
(3) An engine loads it, here or in a process of its own, with the threads that suit it.
(4) It runs what its owner recorded, or zeros; then it may answer.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Protocol

from tacit.serving.batching import BatchRules
from tacit.serving.batching.loaded import LoadedModel, Queueing, fit
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine, EngineLoader, EngineOptions
from tacit.serving.loading.isolation import Workers
from tacit.serving.loading.starting import Isolation
from tacit.serving.loading.supervised import SupervisedEngine, WorkerEngine
from tacit.serving.loading.warmup import Call, Recorded, count_anew, run_recorded, warm_up, zeros_for
from tacit.serving.sources import Access, Source, open_source, reopen_source


class Observer(Protocol):
    """Told of everything that happens, one event each."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Take one event."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How versions are loaded.

    `warm` runs them before they answer: on the requests that `recorded` finds among their files, `iterations` times, or
    on zeros. A version that failed is tried `retries` times more, `pause` seconds apart.
    `queueing` is how requests wait for a version, unless `own_rules` finds others among its files.
    `workers` starts processes for models; None keeps all in this one.
    """

    warm: bool = True
    recorded: Recorded | None = None
    iterations: int = 1
    retries: int = 0
    pause: float = 60.0
    queueing: Queueing = field(default_factory=Queueing)
    own_rules: Callable[[Bundle], BatchRules | None] | None = None
    workers: Workers | None = None


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens versions: `load` makes engines in this process, `observe` is told what goes less well."""

    load: EngineLoader
    options: EngineOptions
    loading: Loading
    observe: Observer

    def open(self, source: Source, access: Access) -> tuple[LoadedModel, Mapping[str, object]]:
        """A version that is loaded and warm, and what is to be told of its recorded requests. Raises: Exception."""
        workers = self.loading.workers
        with closing(open_source(source, access)) as bundle:
            if workers is not None and workers.isolation is Isolation.PROBE:
                self._try_out(workers, bundle, source, access)
            engine = self._load(bundle, source, access)
            return self._finish(engine, bundle, source, access)

    def _finish(
        self, engine: Engine, bundle: Bundle, source: Source, access: Access
    ) -> tuple[LoadedModel, Mapping[str, object]]:
        """Behind its queue, and warm; the engine is closed where that fails. Raises: Exception."""
        loading, quick = self.loading, False
        try:
            calls = self._recorded(bundle, engine)
            if loading.warm and not calls and not isinstance(engine, SupervisedEngine):
                # What has recorded requests is not tried on others.
                single = partial(self.load, bundle, replace(self.options, threads=1))
                engine, quick = fit(engine, zeros_for, alone=single if self.options.has_choice_of_threads else None)
            queueing = loading.queueing
            if loading.own_rules is not None:
                queueing = replace(queueing, rules=loading.own_rules(bundle))
            loaded = LoadedModel(access.model, source.version, engine, queueing=queueing, quick=quick)
        except Exception:
            engine.close()
            raise
        # From here on the engine may run, and only `loaded` knows when it does not.
        about = {"engine": engine.platform, "precision": self.options.precision}
        return loaded, {**about, **self._warm(loaded, engine, calls)}

    def _try_out(self, workers: Workers, bundle: Bundle, source: Source, access: Access) -> None:
        """Load and warm it in a process that may die. Raises: EngineCrashedError, what else keeps it from being loaded."""
        engine = workers.try_out(bundle, self.options)
        trial = LoadedModel(access.model, source.version, engine)
        try:
            self._warm(trial, engine, self._recorded(bundle, engine), tell=False)
        finally:
            engine.close()  # first, so that a model that never answers does not keep the queue from its end
            trial.close()

    def _load(self, bundle: Bundle, source: Source, access: Access) -> Engine:
        workers = self.loading.workers
        if workers is None or workers.isolation is not Isolation.PROCESS:
            return self.load(bundle, self.options)
        tell = partial(self.observe, model=access.model, version=source.version)
        return workers.supervise(bundle, partial(reopen_source, source, access), self.options, tell)

    def _recorded(self, bundle: Bundle, engine: Engine) -> Sequence[Call]:
        """The requests among a version's files that it is to run before it answers."""
        if not self.loading.warm or self.loading.recorded is None:
            return ()
        return self.loading.recorded(bundle, engine.signatures)

    def _warm(
        self, loaded: LoadedModel, engine: Engine, calls: Sequence[Call], *, tell: bool = True
    ) -> Mapping[str, object]:
        """Run it before it answers, and close it where that fails. Raises: EngineCrashedError, RequestError."""
        begin = monotonic()
        try:
            try:
                run_recorded(loaded, calls, self.loading.iterations)
                trouble = warm_up(loaded) if self.loading.warm and not calls else ""
            finally:
                if isinstance(engine, WorkerEngine | SupervisedEngine):
                    engine.check()  # what it died of is the reason, whatever was asked
        except Exception:
            if isinstance(engine, WorkerEngine | SupervisedEngine):
                engine.close()
            loaded.close()
            raise
        count_anew(loaded)
        if calls:
            return {"recorded": len(calls), "warmup_seconds": round(monotonic() - begin, 3)}
        if trouble and tell:
            cold = f"its first request will be slow: {trouble}"
            self.observe("model-cold", model=loaded.name, version=loaded.version, message=cold)
        return {}
