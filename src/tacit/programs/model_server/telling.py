"""What does the server say of itself and of its models, and to whom?"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from tacit.serving.loading.opening import Observer
from tacit.serving.tfs.config import check_platform_config, load_text
from tacit.serving.tfs.flags import Flags

if TYPE_CHECKING:
    from structlog.typing import EventDict
    from structlog.typing import FilteringBoundLogger as Log

_FAULT_AGAIN = 60.0  # seconds until the same fault is told again
_MAX_FAULTS = 64  # that are remembered
_LONGEST_FAULT = 200  # characters
_SIMULATED = ("simulated", "simulated-tdx", "simulated-snp")  # as `evidence` names them, which is not in this process


def tell_flags(log: "Log", flags: Flags) -> None:
    """Say in the log what of the command line has no effect. Raises: UsageError, for a file that it names."""
    if flags.text("platform_config_file"):
        check_platform_config(load_text(Path(flags.text("platform_config_file"))))
        log.info("flags-without-effect", flags=["platform_config_file"])
    if flags.text("monitoring_config_file") and not flags.number("rest_api_port"):
        why = "metrics are on the REST port, and --rest_api_port opens none"
        log.warning("flags-without-effect", flags=["monitoring_config_file"], message=why)
    if flags.accepted:
        log.info("flags-without-effect", flags=list(flags.accepted))
    if flags.unknown:
        log.warning("flags-unknown", flags=list(flags.unknown))


def tell_trust(log: "Log", tee: str, *, tls: bool) -> None:
    """Say in the log how far this server may be trusted."""
    told = {
        **dict.fromkeys(_SIMULATED, "SIMULATED: a simulated TEE protects nothing from who runs this machine"),
        "unattested": "UNATTESTED: nobody checked what this server is",
        "": "no TEE: started without attestation",
    }
    log.info("trust", tee=tee or "none", tls=tls, message=told.get(tee, f"attested in {tee}"))


def tell_all(observers: Sequence[Observer]) -> Observer:
    """Hands each event to all of these, later ones included."""

    def observe(event: str, /, **fields: object) -> None:
        for tell in observers:
            tell(event, **fields)

    return observe


def observer(log: "Log") -> Observer:
    """Writes the repository's events to the log, failures as errors, what works less well as warnings."""

    def observe(event: str, /, **fields: object) -> None:
        tell = log.error if event.endswith("-failed") else log.warning if event == "model-cold" else log.info
        tell(event, **fields)

    return observe


def open_log(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> "Log":
    """One JSON object a line on standard error: when, what, and its fields."""
    structlog = _import_structlog()

    def stamp(_logger: object, _method: str, event: "EventDict") -> "EventDict":
        return {"ts": clock().isoformat(timespec="milliseconds"), **event}

    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, stamp, structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(20),
    )
    return log


class _Faults(logging.Handler):
    """Takes what the rooms below and asyncio say of faults into our log: what it was and where, without foreign words.

    The text of a foreign exception may quote what it was given, which is somebody's input. The same is told once a
    minute: whoever opens connections without end would fill the disk otherwise.
    """

    def __init__(self, log: "Log") -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        what = record.getMessage().partition("\n")[0][:_LONGEST_FAULT]
        if record.created - self._told.get(what, -_FAULT_AGAIN) < _FAULT_AGAIN:
            return
        if len(self._told) >= _MAX_FAULTS:
            self._told.clear()
        self._told[what] = record.created
        about = {"source": record.name, "message": what}
        kind, _, trace = record.exc_info or (None, None, None)
        if kind is not None:
            about["error"] = kind.__name__
        if frames := extract_tb(trace):
            about["where"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        with suppress(OSError, ValueError):  # a log that cannot be written is no reason to serve nobody
            self._log.warning("fault", **about)


@contextmanager
def faults_in(log: "Log") -> Iterator[None]:
    """Meanwhile the faults of connections and handlers are lines of this log, and of no other form."""
    handler = _Faults(log)
    loggers = [logging.getLogger(name) for name in ("tacit", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _import_structlog() -> Any:
    """The library without rich, which it would use for colours: no log of ours has any, and it costs as much as numpy."""
    modules: dict[str, Any] = sys.modules
    is_there = "rich" in modules
    modules.setdefault("rich", None)
    try:
        import structlog
    finally:
        if not is_there:
            del modules["rich"]
    return structlog
