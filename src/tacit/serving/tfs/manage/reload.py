"""Other models while the server runs: by HandleReloadConfigRequest, or by a file that is read again and again.

A configuration is taken whole or not at all: it is checked before anything is loaded, the new models are loaded before
any old one goes, and if one of them fails all stays as it was. The answer comes when the new models answer.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tacit.errors import ModelNotAllowedError, RequestError, Status, TacitError, UsageError
from tacit.serving.loading.opening import Observer
from tacit.serving.plane import start_managing
from tacit.serving.repository import ModelConfig, Repository
from tacit.serving.tfs.config import ModelEntry, load_text, parse_model_config, read_model_config
from tacit.wire.pb import serving_config_pb2 as config_wire

Configure = Callable[[Sequence[ModelEntry]], Sequence[ModelConfig]]
"""What is to be served, with what the manifest says of each. Raises: TacitError."""


class Reloader:
    """Puts configurations into force, one at a time.

    `entries` are those that the server started with. `labels_ahead` lets a label that is not in use name a version that
    is not available. `applied` is told what is served from now on.
    """

    def __init__(
        self,
        repository: Repository,
        configure: Configure,
        *,
        entries: Sequence[ModelEntry],
        observe: Observer,
        labels_ahead: bool = False,
        applied: Callable[[Sequence[ModelConfig]], None] = lambda _: None,
    ) -> None:
        self._repository = repository
        self._configure = configure
        self._platforms = _platforms(entries)
        self._observe = observe
        self._labels_ahead = labels_ahead
        self._applied = applied
        self._turn = threading.Lock()

    def apply(self, entries: Sequence[ModelEntry]) -> None:
        """Serve these models and no others; blocks until they answer.

        Raises:
            RequestError: with TensorFlow Serving's status and words; all is as it was before.
        """
        with self._turn:
            try:
                configs = self._configure(entries)
            except ModelNotAllowedError as exc:
                raise RequestError(Status.PERMISSION_DENIED, str(exc)) from exc
            except TacitError as exc:
                raise RequestError(Status.INVALID_ARGUMENT, str(exc)) from exc
            platforms = _platforms(entries)
            for name, platform in platforms.items():
                before = self._platforms.get(name, platform)
                if before != platform:
                    raise RequestError(
                        Status.INVALID_ARGUMENT,
                        f"Illegal to change a model's platform. For model {name} platform was {before} and new "
                        f"platform requested is {platform}",
                    )
            self._repository.reload(configs, labels_ahead=self._labels_ahead)
            self._platforms = platforms
        self._applied(configs)
        self._observe("config-reloaded", models=[entry.name for entry in entries])

    async def handle(self, config: config_wire.ModelServerConfig, deadline: float | None) -> None:
        """Put the configuration of a call into force; an empty list changes nothing. Raises: RequestError."""
        if config.WhichOneof("config") != "model_config_list":
            raise RequestError(
                Status.INVALID_ARGUMENT,
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported",
            )
        entries = _entries(config)
        if not entries:
            return
        # A caller who no longer waits does not stop it: half of a configuration is what nobody asked for.
        work = start_managing(partial(self.apply, entries))
        try:
            # No `wait_for`: that asks for a task, and a handler has none before it waits.
            done, _ = await asyncio.wait({work}, timeout=deadline)
        except asyncio.CancelledError:  # the edge's word for the same deadline, or for a caller who has gone
            work.add_done_callback(self._tell)
            raise
        if not done:
            work.add_done_callback(self._tell)
            raise RequestError(Status.DEADLINE_EXCEEDED, "the deadline passed while the models were loaded; it goes on")
        work.result()

    def _tell(self, work: "asyncio.Future[None]") -> None:
        """What became of a configuration whose caller has gone."""
        if not work.cancelled() and (failure := work.exception()):
            self._observe("config-failed", error=str(failure))

    def follow(self, path: Path, stop: threading.Event, *, interval: float, known: str) -> None:
        """Read a configuration file every `interval` seconds until stopped; `known` is the text that is in force.

        What cannot be put into force is tried again at every look, and told once.
        """
        told = ""
        while not stop.wait(interval):
            try:
                text = load_text(path)
                entries = parse_model_config(text, may_be_empty=True) if text != known else ()
                if entries:  # an empty file is one that is being written
                    self.apply(entries)
                    known, told = text, ""
            except TacitError as exc:
                if str(exc) != told:
                    told = str(exc)
                    self._observe("config-failed", file=str(path), error=told)


def _platforms(entries: Sequence[ModelEntry]) -> Mapping[str, str]:
    return {entry.name: entry.platform for entry in entries}


def _entries(config: config_wire.ModelServerConfig) -> list[ModelEntry]:
    try:
        return read_model_config(config)
    except UsageError as exc:
        raise RequestError(Status.INVALID_ARGUMENT, str(exc)) from exc
