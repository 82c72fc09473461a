"""The models and versions that are served, and how they come and go.

The storage is looked at again and again. A version that has appeared is loaded, the highest first; one that is no
longer wanted is unloaded only once a wanted one is available, so that a version that fails never takes a good one
down. A version that failed is tried again when one of its files changes (an upload may have been half done), and a few
times without that. A model that has not arrived yet is waited for.

Which models these are may change while it runs: all of a change, or nothing of it.

Readers never wait: each look publishes new tables in place of the old ones.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tacit.errors import (
    EngineCrashedError,
    ModelFormatError,
    ModelNotAllowedError,
    RequestError,
    Status,
    TacitError,
    VaultError,
)
from tacit.serving.batching import Duration, Statistics
from tacit.serving.batching.loaded import LoadedModel
from tacit.serving.engines.interface import EngineLoader, EngineOptions
from tacit.serving.loading.opening import Loading, Observer, Opener
from tacit.serving.plane import Selector, State, VersionStatus
from tacit.serving.sources import Access, Source, explain_none, list_sources, stamped

_NONE_WANTED = "its version policy is `specific` and names no version"
_PATIENCE = 1.0  # seconds that the end waits for a change under way, and for each model
_LONGEST_REST = 1.0  # seconds between two looks at what failed and at what became ready, where the storage rests
_SHORTEST_REST = 0.05
_MAX_ENDED = 32  # versions that ended and are still told of; and models that are no longer served


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are wanted: the `specific` numbers where they are given, be they none; else the `latest` n, 0 for all."""

    latest: int = 1
    specific: frozenset[int] | None = None

    def choose(self, sources: Sequence[Source]) -> list[Source]:
        """The wanted ones of these, which come highest first."""
        if self.specific is not None:
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


@dataclass(frozen=True, slots=True)
class _Entry:
    status: VersionStatus
    stamp: tuple[tuple[str, int, int], ...] = ()
    loaded: LoadedModel | None = None
    tries: int = 0
    failed: float = 0.0  # monotonic seconds


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
        loading: Loading | None = None,
    ) -> None:
        self._configs: Mapping[str, ModelConfig] = {config.name: config for config in models}
        self._observe = observe
        self._loading = loading or Loading()
        self._opener = Opener(load, options, self._loading, observe)
        self._busy = threading.RLock()  # one look at the storage at a time
        self._hidden: dict[tuple[str, int], _Entry] | None = None  # what a change has loaded that is not in force yet
        self._tables: dict[str, _Table] = {config.name: MappingProxyType({}) for config in models}
        self._held: set[str] = set()  # models that a client unloaded
        self._told: dict[str, str] = {}  # the last trouble of each model, so that it is told once
        self._rests = False  # whether the storage is looked at once, or never
        self._starts = True  # until everything was looked for once

    # -- what requests ask

    def find(self, selector: Selector) -> LoadedModel:
        """The loaded version that is meant.

        Raises:
            RequestError: NOT_FOUND, UNAVAILABLE as long as the first look lasts, or INVALID_ARGUMENT for a label.
        """
        version = selector.version
        config = self._configs.get(selector.model)
        if config is None:
            raise self._lacks(selector.model, version)
        if selector.label is not None:
            version = config.labels.get(selector.label)
            if version is None:
                raise RequestError(Status.INVALID_ARGUMENT, f"Unrecognized servable version label: {selector.label}")
        table = self._tables.get(selector.model, {})
        if version is None:
            for number, entry in table.items():
                if entry.loaded and (version is None or number > version):
                    version = number
            if version is None:
                raise self._lacks(selector.model, None)
        found = table.get(version)
        if found is None or found.loaded is None:
            raise self._lacks(selector.model, version)
        return found.loaded

    def _lacks(self, model: str, version: int | None) -> RequestError:
        """Why a version is not found. TensorFlow Serving opens its ports once its models are loaded; we say that we start."""
        if self._starts:
            return RequestError(Status.UNAVAILABLE, "the models are being loaded for the first time; ask again soon")
        wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        return RequestError(Status.NOT_FOUND, f"Servable not found for request: {wanted}")

    def statuses(self, model: str) -> Sequence[VersionStatus]:
        """All versions that are known, highest first."""
        table = self._tables.get(model, {})
        return [table[version].status for version in sorted(table, reverse=True)]

    def queued(self, model: str) -> Duration:
        """How many requests of its loaded versions have left the queue, and how long they waited there together."""
        waited = Duration()
        for entry in self._tables.get(model, {}).values():
            if entry.loaded is not None:
                one = entry.loaded.statistics.queue
                waited.add(one.ns, one.count)
        return waited

    def done(self) -> Sequence[tuple[str, int, Statistics]]:
        """What each loaded version has done, whoever asked it in which protocol: model, version, statistics."""
        return [
            (name, version, entry.loaded.statistics)
            for name, table in tuple(self._tables.items())
            for version, entry in sorted(table.items())
            if entry.loaded is not None
        ]

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers; those that a client unloaded are not asked beside others."""
        asked = [name for name in self._configs if name not in self._held] or self._configs
        return bool(asked) and all(self._answers(name) for name in asked)

    def names(self) -> Sequence[str]:
        """The models that are to be served."""
        return tuple(self._configs)

    # -- what a client asks who manages it

    def load_model(self, model: str) -> None:
        """Look for the model's versions now; returns when one answers. Raises: RequestError."""
        with self._busy:
            config = self._managed(model)
            self._held.discard(model)
            # What failed before is tried again: somebody asked for it.
            kept = {version: entry for version, entry in self._tables[model].items() if entry.loaded}
            self._tables[model] = MappingProxyType(kept)
            self._poll_model(config)
            if any(entry.loaded for entry in self._tables[model].values()):
                return
            failed = [status.message for status in self.statuses(model) if status.message]
        why = failed[0] if failed else f"it has no version yet: {explain_none(config.base, config.access)}"
        raise RequestError(Status.INVALID_ARGUMENT, f"failed to load {model}: {why}")

    def unload_model(self, model: str) -> None:
        """Take the model away until it is loaded again. Raises: RequestError."""
        with self._busy:
            self._managed(model)
            self._held.add(model)
            for version in sorted(self._tables[model]):
                self._unload_version(model, version)

    def _managed(self, model: str) -> ModelConfig:
        if model not in self._configs:
            served = ", ".join(self._configs) or "none"
            raise RequestError(Status.NOT_FOUND, f"no model {model} is configured; this server serves {served}")
        return self._configs[model]

    # -- what is to be served

    def reload(self, models: Sequence[ModelConfig], *, labels_ahead: bool = False) -> None:
        """Serve these models and no others, once they are loaded; what they replace answers until then.

        `labels_ahead` lets a label that is not in use name a version that is not available.

        Raises:
            RequestError: UNKNOWN for a model of which no wanted version can be loaded, FAILED_PRECONDITION for a label
                on a version that is not available. Then all is as it was before.
        """
        wanted = {config.name: config for config in models}
        with self._busy:
            before, tables = self._configs, self._tables
            changed = [
                config for name, config in wanted.items() if before.get(name) != config or not self._answers(name)
            ]
            self._tables = {**{config.name: MappingProxyType({}) for config in changed}, **tables}
            self._hidden = {}
            try:
                chosen = self._prepare(changed)
                for config in changed:
                    kept = {source.version for source in chosen[config.name]}
                    self._check_labels(config, before.get(config.name), kept, ahead=labels_ahead)
            except BaseException:
                self._tables = tables
                for entry in self._hidden.values():
                    if entry.loaded:
                        entry.loaded.close()
                raise
            else:
                for (name, _), entry in self._hidden.items():
                    self._publish(name, entry)
            finally:
                self._hidden = None
            self._configs, self._starts = wanted, False
            self._held -= {config.name for config in changed}
            for config in changed:
                self._unload_others(config, chosen[config.name])
            for name in set(before) - set(wanted):
                self._remove(name)

    def _prepare(self, configs: Sequence[ModelConfig]) -> Mapping[str, Sequence[Source]]:
        """Load the wanted versions of all these models, and unload none; returns them by the models' names.

        Raises:
            RequestError: it names every model of which none can be had.
        """
        chosen: dict[str, Sequence[Source]] = {}
        troubles: list[str] = []
        for config in configs:
            try:
                chosen[config.name] = sources = config.policy.choose(list_sources(config.base, config.access))
            except TacitError as exc:
                troubles.append(_trouble(config.name, str(exc)))
                continue
            self._load_wanted(config, sources, again=True)
            if not any(self._is_loaded(config.name, source.version) for source in sources):
                troubles.append(self._why_none(config, sources))
        if troubles:
            text = ", ".join(troubles)
            raise RequestError(Status.UNKNOWN, f"{len(troubles)} model(s) did not become available: {{{text}, }}")
        return chosen

    def _why_none(self, config: ModelConfig, sources: Sequence[Source]) -> str:
        if config.policy.specific is not None and not config.policy.specific:
            return _trouble(config.name, _NONE_WANTED)
        table = self._tables[config.name]
        failed = [
            _trouble(f"{config.name} version: {source.version}", table[source.version].status.message)
            for source in sources
        ]
        if failed:
            return ", ".join(failed)
        if config.policy.specific is not None:
            listed = ", ".join(map(str, sorted(config.policy.specific)))
            return _trouble(
                config.name, f"no version {listed} of it at {config.base}, and its version policy is `specific`"
            )
        return _trouble(config.name, f"no version of it at {config.base}: {explain_none(config.base, config.access)}")

    def _check_labels(
        self, config: ModelConfig, before: ModelConfig | None, kept: Collection[int], *, ahead: bool
    ) -> None:
        """Refuse a label on a version that is not loaded, or will not stay. Raises: RequestError."""
        for label, version in config.labels.items():
            is_new = before is None or label not in before.labels
            stays = version in kept and self._is_loaded(config.name, version)
            if not stays and not (ahead and is_new):
                raise RequestError(
                    Status.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, "
                    "which is not currently available for inference",
                )

    def _is_loaded(self, name: str, version: int) -> bool:
        entry = (self._hidden or {}).get((name, version)) or self._tables[name].get(version)
        return entry is not None and entry.loaded is not None

    def _answers(self, name: str) -> bool:
        return any(entry.loaded is not None and entry.loaded.works for entry in self._tables.get(name, {}).values())

    def _remove(self, name: str) -> None:
        """Unload a model; GetModelStatus goes on telling how its versions ended, as TensorFlow Serving's does."""
        for version in sorted(self._tables[name]):
            self._unload_version(name, version)
        tables = dict(self._tables)
        table = tables.pop(name)
        if table:
            tables[name] = table  # the last to end
        gone = [other for other in tables if other not in self._configs]
        for other in gone[:-_MAX_ENDED]:
            del tables[other]
        self._tables = tables
        self._told.pop(name, None)

    # -- what the storage says

    def run(self, stop: threading.Event, *, interval: float, announce: Callable[[], None]) -> None:
        """Look at the storage every `interval` seconds until stopped; once only for 0, and never for less.

        What failed is tried again all the same. `announce` is called when every model has become available for the
        first time, whoever brought it.
        """
        announced = False
        look, self._rests = interval >= 0, interval <= 0
        self._starts = self._starts and look
        rest = interval if interval > 0 else min(max(self._loading.pause, _SHORTEST_REST), _LONGEST_REST)
        while True:
            if look:
                self.poll()
            else:
                self._retry()
            look = interval > 0
            if self.ready and not announced:
                announced = True
                announce()
            if stop.wait(rest):
                return

    def _retry(self) -> None:
        """Try again what failed, if that is due; what is new in the storage stays unseen."""
        for name in self._configs:
            with self._busy:
                config, table = self._configs.get(name), self._tables.get(name, {})
                failed = {version for version, entry in table.items() if self._may_try_again(entry)}
                if config is None or name in self._held or not failed:
                    continue
                try:
                    known = [source for source in list_sources(config.base, config.access) if source.version in table]
                except TacitError as exc:
                    self._tell(name, "model-storage-failed", str(exc))
                    continue
                wanted = config.policy.choose(known)
                if any(source.version in failed for source in wanted):
                    self._follow(config, wanted)

    def poll(self) -> None:
        """Look at the storage once: load what is new, unload what is no longer wanted."""
        for config in self._configs.values():
            with self._busy:
                if config.name in self._configs and config.name not in self._held:
                    self._poll_model(self._configs[config.name])
        self._starts = False

    def _poll_model(self, config: ModelConfig) -> None:
        try:
            sources = list_sources(config.base, config.access)
        except TacitError as exc:
            self._tell(config.name, "model-storage-failed", str(exc))
            return
        if not sources and not self._tables[config.name]:
            why = explain_none(config.base, config.access)
            then = "the storage is looked at once, so ask for it by a call" if self._rests else "waiting for it"
            awaited = f"no version of {config.name} ({config.access.format}) at {config.base} yet: {why}; {then}"
            self._tell(config.name, "model-awaited", awaited)
            return
        if not sources and not config.base.exists():
            lost = f"{config.base}, where {config.name} was, is gone; what is loaded of it goes on answering"
            self._tell(config.name, "model-storage-failed", lost)
            return
        self._follow(config, config.policy.choose(sources))
        self._tell_of(config, sources)

    def _tell_of(self, config: ModelConfig, sources: Sequence[Source]) -> None:
        """Tell what the policy asks for and the storage lacks, or has twice; else the next trouble is a new one."""
        asked = config.policy.specific
        if missing := sorted((asked or frozenset()) - {source.version for source in sources}):
            listed = ", ".join(map(str, missing))
            self._tell(config.name, "model-version-awaited", f"no version {listed} of {config.name} at {config.base}")
        elif asked is not None and not asked:
            self._tell(config.name, "model-version-awaited", f"no version of {config.name} is served: {_NONE_WANTED}")
        elif twice := next((source for source in sources if source.twins), None):
            same = f"{', '.join(twice.twins)} of {config.name} at {config.base}"
            text = f"{same} is passed over: {twice.path.name} is version {twice.version} already"
            self._tell(config.name, "model-version-twice", text)
        else:
            self._told.pop(config.name, None)

    def close(self, patience: float = _PATIENCE) -> None:
        """Unload everything; what waits in the queues is answered first, if it takes no longer than `patience` seconds.

        Where a change takes longer, nothing is unloaded: the process ends with it.
        """
        if not self._busy.acquire(timeout=patience):
            return
        try:
            for name, table in tuple(self._tables.items()):
                self._tables[name] = MappingProxyType({})
                for entry in table.values():
                    if entry.loaded:
                        entry.loaded.close(patience)
        finally:
            self._busy.release()

    def _follow(self, config: ModelConfig, wanted: Sequence[Source]) -> None:
        self._load_wanted(config, wanted)
        self._unload_others(config, wanted)

    def _load_wanted(self, config: ModelConfig, wanted: Sequence[Source], *, again: bool = False) -> None:
        """Load what is due; `again` tries those that failed, whenever that was."""
        asked = [stamped(source) for source in wanted if not self._is_loaded(config.name, source.version)]
        due = [source for source in asked if self._is_due(config.name, source, again=again)]
        for source in due:
            if source.version not in self._tables[config.name]:
                self._publish(config.name, _Entry(VersionStatus(source.version, State.START), source.stamp))
        for source in due:
            self._load_version(config, source)

    def _is_due(self, name: str, source: Source, *, again: bool) -> bool:
        """Whether a version that is not loaded is to be: it is new or changed, or failed some time ago and not too often."""
        entry = self._tables[name].get(source.version)
        return entry is None or again or entry.stamp != source.stamp or self._may_try_again(entry)

    def _may_try_again(self, entry: _Entry) -> bool:
        again = 0 < entry.tries <= self._loading.retries
        return again and time.monotonic() - entry.failed >= self._loading.pause

    def _unload_others(self, config: ModelConfig, wanted: Sequence[Source]) -> None:
        numbers = {source.version for source in wanted}
        table = self._tables[config.name]
        if wanted and not any(table[number].loaded for number in numbers if number in table):
            return  # nothing that is wanted works: what works is kept
        for number in sorted(set(table) - numbers):
            if table[number].loaded:
                self._unload_version(config.name, number)

    def _load_version(self, config: ModelConfig, source: Source) -> None:
        name, version = config.name, source.version
        before = self._tables[name].get(version)
        tries = before.tries + 1 if before and before.stamp == source.stamp else 1
        self._publish(name, _Entry(VersionStatus(version, State.LOADING), source.stamp))
        begin = time.monotonic()
        about = {"model": name, "version": version, "path": str(source.path)}
        try:
            loaded, more = self._opener.open(source, config.access)
        except Exception as exc:  # whatever a hostile or half-written model sets off, the others go on being served
            message = _describe(exc)
            status = VersionStatus(version, State.END, _status_of(exc), message)
            self._publish(name, _Entry(status, source.stamp, tries=tries, failed=time.monotonic()))
            reason = exc.reason if isinstance(exc, TacitError) else "unexpected"
            seconds = round(time.monotonic() - begin, 3)
            self._observe("model-failed", **about, reason=reason, error=message, seconds=seconds)
            return
        available = _Entry(VersionStatus(version, State.AVAILABLE), source.stamp, loaded)
        if self._hidden is None:
            self._publish(name, available)
        else:
            self._hidden[name, version] = available
        self._told.pop(name, None)
        self._observe(
            "model-available",
            **about,
            format=str(config.access.format),
            signatures=sorted(loaded.signatures),
            seconds=round(time.monotonic() - begin, 3),
            **more,
        )

    def _unload_version(self, name: str, version: int) -> None:
        loaded = self._tables[name][version].loaded
        if loaded is None:
            return
        # First nobody finds it, then it finishes what it was asked before.
        self._publish(name, _Entry(VersionStatus(version, State.UNLOADING)))
        late = {} if loaded.close() else {"message": "it did not answer what waited for it, and was not waited for"}
        self._publish(name, _Entry(VersionStatus(version, State.END)))
        self._observe("model-unloaded", model=name, version=version, **late)

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


def _trouble(what: str, why: str) -> str:
    """As TensorFlow Serving writes it."""
    return f"{{{{name: {what}}} due to error: {why}}}"


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
    if isinstance(exc, RequestError):
        return exc.status
    if isinstance(exc, ModelNotAllowedError):
        return Status.PERMISSION_DENIED
    if isinstance(exc, VaultError):
        return Status.DATA_LOSS
    if isinstance(exc, ModelFormatError):
        return Status.INVALID_ARGUMENT
    if isinstance(exc, EngineCrashedError):
        return Status.INTERNAL
    return Status.RESOURCE_EXHAUSTED if isinstance(exc, MemoryError) else Status.UNKNOWN
