"""What is written down: the program's log, and the lines of the update log.

The program's log is JSON, one object a line, in MarbleRun's shape: level, ts (seconds), msg, then fields. Fields name
secrets; values never come here, and no exception's text either unless it is one of ours.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}
_DEV_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARN", "error": "ERROR"}


class EventLog(Protocol):
    """Where events go: one name and its fields."""

    def debug(self, event: str, **fields: object) -> None:
        """Of use to who looks for a fault."""

    def info(self, event: str, **fields: object) -> None:
        """As it should be."""

    def warning(self, event: str, **fields: object) -> None:
        """Works, and somebody should know."""

    def error(self, event: str, **fields: object) -> None:
        """Did not work."""


def open_log(stream: TextIO, *, clock: Callable[[], datetime], debug: bool, development: bool) -> EventLog:
    """A log on a stream. `development` writes lines for people instead of JSON."""

    def shape(_: WrappedLogger, method: str, event: EventDict) -> str:
        level = {"warning": "warn"}.get(method, method)
        message = str(event.pop("event"))
        fields = {name: _plain(value) for name, value in event.items()}
        if development:
            moment = clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            shown = "\t" + json.dumps(fields, ensure_ascii=False) if fields else ""
            return f"{moment}\t{_DEV_LEVELS[level]}\t{message}{shown}"
        entry = {"level": level, "ts": clock().timestamp(), "msg": message, **fields}
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))

    lowest = _LEVELS["debug" if debug or development else "info"]
    log: EventLog = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[shape],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        cache_logger_on_first_use=True,
    )
    return log


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        # Bytes are keys as often as not.
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# ---- the update log, which users read over the client API


def manifest_set_line(now: datetime) -> str:
    """The first line of every update log."""
    return _line(now, "Initial manifest set")


def secret_set_line(now: datetime, *, user: str, secret: str, type_: str) -> str:
    """One secret set by its owner."""
    return _line(now, "Secret set", user=user, secret=secret, type=type_)


def _line(now: datetime, update: str, **fields: object) -> str:
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    return json.dumps({"time": moment, "update": update, **fields}, ensure_ascii=False, separators=(",", ":"))
