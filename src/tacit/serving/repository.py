"""The models and versions that are served, and how they come and go.

The storage is looked at again and again. A version that has appeared is loaded, the highest first; one that is no
longer wanted is unloaded only once a wanted one is available, so that a version that fails never takes a good one
down. A version that failed is tried again when one of its files changes (an upload may have been half done). A model
that has not arrived yet is waited for.

Readers never wait: each look publishes new tables in place of the old ones.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from tacit.errors import (
    ModelFormatError,
    ModelNotAllowedError,
    RequestError,
    Status,
    TacitError,
    VaultError,
)
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.batching import MAX_WAITING, QUICK_NS, BatchRules, ModelQueue, Statistics, measure_pace
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine, EngineLoader, EngineOptions
from tacit.serving.plane import Selector, State, VersionStatus
from tacit.serving.sources import Access, Source, list_sources, open_source
from tacit.serving.warmup import warm_up, zeros_for

_MAX_ENDED = 32  # versions that ended and are still told of


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are wanted: the given numbers, else the `latest` n, else (n = 0) all."""

    latest: int = 1
    specific: frozenset[int] = frozenset()

    def choose(self, sources: Sequence[Source]) -> list[Source]:
        """The wanted ones of these, which come highest first."""
        if self.specific:
            return [source for source in sources if source.version in self.specific]
        return list(sources[: self.latest] if self.latest else sources)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model that is to be served."""

    base: Path
    access: Access
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.access.model


class Observer(Protocol):
    """Told of everything that happens, one event each."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Take one event."""


@dataclass(frozen=True, slots=True)
class Queueing:
    """How requests wait: joined by `rules` or one by one, and `max_waiting` of them per version at most."""

    rules: BatchRules | None = None
    max_waiting: int = MAX_WAITING


class LoadedModel:
    """A version in memory: its engine behind a queue."""

    def __init__(
        self,
        name: str,
        version: int,
        engine: Engine,
        *,
        queueing: Queueing | None = None,
        quick: bool = False,
    ) -> None:
        queueing = queueing or Queueing()
        self.name = name
        self.version = version
        self.signatures: Mapping[str, Signature] = engine.signatures
        self.platform = engine.platform
        joinable = [key for key, signature in engine.signatures.items() if is_by_rows(signature)]
        self.max_batch = queueing.rules.max_batch if queueing.rules and joinable else 0
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
        self.submit = self._queue.submit

    @property
    def statistics(self) -> Statistics:
        """What it has done since it was loaded."""
        return self._queue.statistics

    def close(self) -> None:
        """Answer what waits, then give the memory back."""
        self._queue.close()
        self._engine.close()


@dataclass(frozen=True, slots=True)
class _Entry:
    status: VersionStatus
    stamp: tuple[tuple[str, int, int], ...] = ()
    loaded: LoadedModel | None = None


_Table = Mapping[int, _Entry]


class Repository:
    """Implements `plane.Models` over the storage."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        load: EngineLoader,
        options: EngineOptions,
        observe: Observer,
        warm: bool = True,
        queueing: Queueing | None = None,
    ) -> None:
        self._configs = {config.name: config for config in models}
        self._load = load
        self._options = options
        self._observe = observe
        self._warm = warm
        self._queueing = queueing
        self._busy = threading.RLock()  # one look at the storage at a time
        self._held: set[str] = set()  # models that a client unloaded
        self._tables: dict[str, _Table] = {config.name: MappingProxyType({}) for config in models}
        self._told: dict[str, str] = {}  # the last trouble of each model, so that it is told once

    # -- what requests ask

    def find(self, selector: Selector) -> LoadedModel:
        """The loaded version that is meant. Raises: RequestError NOT_FOUND, or INVALID_ARGUMENT for a label."""
        version = selector.version
        if selector.label is not None:
            config = self._configs.get(selector.model)
            if config is None:
                raise _not_found(selector.model, None)
            version = config.labels.get(selector.label)
            if version is None:
                raise RequestError(Status.INVALID_ARGUMENT, f"Unrecognized servable version label: {selector.label}")
        table = self._tables.get(selector.model, {})
        if version is None:
            version = max((number for number, entry in table.items() if entry.loaded), default=None)
            if version is None:
                raise _not_found(selector.model, None)
        entry = table.get(version)
        if entry is None or entry.loaded is None:
            raise _not_found(selector.model, version)
        return entry.loaded

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        """All versions that are known, highest first."""
        table = self._tables.get(model, {})
        return [table[version].status for version in sorted(table, reverse=True)]

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers."""
        return bool(self._tables) and all(
            any(entry.loaded for entry in table.values()) for table in self._tables.values()
        )

    def names(self) -> Sequence[str]:
        """The models that are to be served."""
        return tuple(self._tables)

    # -- what a client asks who manages it

    def load_model(self, model: str) -> None:
        """Look for the model's versions now; returns when one answers. Raises: RequestError."""
        config = self._configs.get(model)
        if config is None:
            raise RequestError(
                Status.NOT_FOUND,
                f"no model {model} is configured; this server serves {', '.join(self._configs) or 'none'}",
            )
        with self._busy:
            self._held.discard(model)
            # What failed before is tried again: somebody asked for it.
            kept = {version: entry for version, entry in self._tables[model].items() if entry.loaded}
            self._tables[model] = MappingProxyType(kept)
            self._poll_model(config)
            if any(entry.loaded for entry in self._tables[model].values()):
                return
            failed = [status.message for status in self.statuses(model) if status.message]
        raise RequestError(
            Status.INVALID_ARGUMENT, f"failed to load {model}: {failed[0] if failed else 'it has no version yet'}"
        )

    def unload_model(self, model: str) -> None:
        """Take the model away until it is loaded again. Raises: RequestError."""
        if model not in self._configs:
            raise RequestError(Status.NOT_FOUND, f"no model {model} is configured")
        with self._busy:
            self._held.add(model)
            for version in sorted(self._tables[model]):
                self._unload_version(model, version)

    # -- what the storage says

    def run(self, stop: threading.Event, *, interval: float, announce: Callable[[], None]) -> None:
        """Look at the storage every `interval` seconds until stopped; once only for 0.

        `announce` is called when every model has become available for the first time.
        """
        announced = False
        while True:
            self.poll()
            if self.ready and not announced:
                announced = True
                announce()
            if stop.wait(interval) if interval > 0 else True:
                return

    def poll(self) -> None:
        """Look at the storage once: load what is new, unload what is no longer wanted."""
        for config in self._configs.values():
            with self._busy:
                if config.name not in self._held:
                    self._poll_model(config)

    def _poll_model(self, config: ModelConfig) -> None:
        try:
            sources = list_sources(config.base, config.access)
        except TacitError as exc:
            self._tell(config.name, "model-storage-failed", str(exc))
            return
        if not sources and not self._tables[config.name]:
            self._tell(
                config.name,
                "model-awaited",
                f"no version of {config.name} ({config.access.format}) at {config.base} yet; waiting for it",
            )
            return
        if sources or config.base.exists():
            self._follow(config, config.policy.choose(sources))

    def close(self) -> None:
        """Unload everything; what waits in the queues is answered first."""
        for name, table in self._tables.items():
            self._tables[name] = MappingProxyType({})
            for entry in table.values():
                if entry.loaded:
                    entry.loaded.close()

    def _follow(self, config: ModelConfig, wanted: Sequence[Source]) -> None:
        for source in wanted:
            entry = self._tables[config.name].get(source.version)
            if entry is None or (entry.loaded is None and entry.stamp != source.stamp):
                self._load_version(config, source)
        numbers = {source.version for source in wanted}
        table = self._tables[config.name]
        if wanted and not any(table[number].loaded for number in numbers if number in table):
            return  # nothing that is wanted works: what works is kept
        for number in sorted(set(table) - numbers):
            if table[number].loaded:
                self._unload_version(config.name, number)

    def _load_version(self, config: ModelConfig, source: Source) -> None:
        name, version = config.name, source.version
        self._publish(name, _Entry(VersionStatus(version, State.LOADING), source.stamp))
        begin = time.monotonic()
        try:
            with closing(open_source(source, config.access)) as bundle:
                engine = self._load(bundle, self._options)
                engine, quick = self._fit(engine, bundle)
            loaded = LoadedModel(name, version, engine, queueing=self._queueing, quick=quick)
        except Exception as exc:  # whatever a hostile or half-written model sets off, the others go on being served
            message = _describe(exc)
            self._publish(name, _Entry(VersionStatus(version, State.END, _status_of(exc), message), source.stamp))
            reason = exc.reason if isinstance(exc, TacitError) else "unexpected"
            self._observe("model-failed", model=name, version=version, reason=reason, error=message)
            return
        if self._warm and (trouble := warm_up(loaded)):
            self._observe(
                "model-cold", model=name, version=version, message=f"its first request will be slow: {trouble}"
            )
        self._publish(name, _Entry(VersionStatus(version, State.AVAILABLE), source.stamp, loaded))
        self._told.pop(name, None)
        self._observe(
            "model-available",
            model=name,
            version=version,
            format=str(config.access.format),
            signatures=sorted(loaded.signatures),
            seconds=round(time.monotonic() - begin, 3),
        )

    def _fit(self, engine: Engine, bundle: Bundle) -> tuple[Engine, bool]:
        """The engine that suits the model, and whether it is quicker than a queue: tiny ones get one thread."""
        key = min(engine.signatures, key=lambda key: (key != SERVING_DEFAULT, key), default=None)
        if key is None or not self._warm:
            return engine, False
        signature = engine.signatures[key]

        def pace(engine: Engine) -> int:
            return measure_pace(engine, key, zeros_for(signature), tuple(signature.outputs))

        try:
            if pace(engine) >= QUICK_NS:
                return engine, False
            if self._options.threads is None:
                alone = self._load(bundle, replace(self._options, threads=1))
                engine.close()
                engine = alone
            return engine, pace(engine) < QUICK_NS
        except Exception:  # zeros may be what it was never meant to take; the warm-up says so
            return engine, False

    def _unload_version(self, name: str, version: int) -> None:
        loaded = self._tables[name][version].loaded
        if loaded is None:
            return
        # First nobody finds it, then it finishes what it was asked before.
        self._publish(name, _Entry(VersionStatus(version, State.UNLOADING)))
        loaded.close()
        self._publish(name, _Entry(VersionStatus(version, State.END)))
        self._observe("model-unloaded", model=name, version=version)

    def _publish(self, name: str, entry: _Entry) -> None:
        table = {**self._tables[name], entry.status.version: entry}
        ended = sorted(number for number, old in table.items() if old.status.state is State.END)
        for number in ended[:-_MAX_ENDED]:
            del table[number]
        self._tables[name] = MappingProxyType(table)

    def _tell(self, name: str, event: str, message: str) -> None:
        if self._told.get(name) != message:
            self._told[name] = message
            self._observe(event, model=name, message=message)


def is_by_rows(signature: Signature) -> bool:
    """Whether the first dimension of everything is free, or unknown: then requests may be joined along it."""
    specs = (*signature.inputs.values(), *signature.outputs.values())
    return all(spec.shape is None or (len(spec.shape) > 0 and spec.shape[0] < 0) for spec in specs)


def _not_found(model: str, version: int | None) -> RequestError:
    wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
    return RequestError(Status.NOT_FOUND, f"Servable not found for request: {wanted}")


def _describe(exc: Exception) -> str:
    """What a version's status says of its end. Foreign errors are named and not quoted: they are for the log's reader."""
    if isinstance(exc, TacitError):
        return str(exc)
    if isinstance(exc, MemoryError):
        return "not enough memory for this model; give the server more, or serve fewer versions"
    if isinstance(exc, OSError):
        return f"cannot read the model's files: {exc.strerror or type(exc).__name__}"
    return f"the engine failed in a way that nobody foresaw ({type(exc).__name__})"


def _status_of(exc: Exception) -> Status:
    if isinstance(exc, ModelNotAllowedError):
        return Status.PERMISSION_DENIED
    if isinstance(exc, VaultError):
        return Status.DATA_LOSS
    if isinstance(exc, ModelFormatError):
        return Status.INVALID_ARGUMENT
    return Status.RESOURCE_EXHAUSTED if isinstance(exc, MemoryError) else Status.UNKNOWN
