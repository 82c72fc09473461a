"""The program's log: for whoever runs it.

It is JSON, one object a line, in MarbleRun's shape: level, ts (seconds), msg, then fields. Fields name
secrets; values never come here, and no exception's text either unless it is one of ours.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol, TextIO

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40}


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


class LineLog:
    """A log on a stream, one line an event. `development` writes lines for people instead of JSON.

    Written out here because a logging library would bring its tracebacks, colours and configuration into the TEE.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], datetime], lowest: int, development: bool) -> None:
        self._stream = stream
        self._clock = clock
        self._lowest = lowest
        self._development = development
        self._lock = threading.Lock()

    def debug(self, event: str, **fields: object) -> None:
        """Of use to who looks for a fault."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """As it should be."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Works, and somebody should know."""
        self._write("warn", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Did not work."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        if _LEVELS[level] < self._lowest:
            return
        plain = {name: _plain(value) for name, value in fields.items()}
        if self._development:
            moment = self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            line = f"{moment}\t{level.upper()}\t{event}" + (f"\t{_json(plain)}" if plain else "")
        else:
            line = _json({"level": level, "ts": self._clock().timestamp(), "msg": event, **plain})
        # A log that cannot be written is no reason to refuse a request.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


def open_log(stream: TextIO, *, clock: Callable[[], datetime], debug: bool, development: bool) -> EventLog:
    """A log on a stream. `development` writes lines for people instead of JSON, and of everything."""
    lowest = _LEVELS["debug" if debug or development else "info"]
    return LineLog(stream, clock=clock, lowest=lowest, development=development)


_json: Callable[[Mapping[str, object]], str] = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def _plain(value: object) -> object:
    if type(value) is str:  # nearly always
        return value
    if isinstance(value, bytes):
        # Bytes are keys as often as not.
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
