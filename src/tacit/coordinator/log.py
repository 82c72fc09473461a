"""What is written down: the program's log, and the lines of the update log.

The program's log is JSON, one object a line, in MarbleRun's shape: level, ts (seconds), msg, then fields. Fields name
secrets; values never come here, and no exception's text either unless it is one of ours.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
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


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


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


def version_raised_line(now: datetime, *, user: str, package: str, version: int) -> str:
    """One package's security version raised, or confirmed."""
    return _line(now, "SecurityVersion increased", user=user, package=package, **{"new version": version})


def update_proposed_line(now: datetime, *, user: str, needed: int, missing: Sequence[str], fingerprint: str) -> str:
    """A new manifest proposed; `needed` more users have to agree."""
    start = "Complete Manifest update initiated by user. "
    if not needed:
        return _line(now, f"{start}No further acknowledgements required", user=user, manifestFingerprint=fingerprint)
    waiting = {"missingAcknowledgments": needed, "missingUsers": list(missing)}
    event = f"{start}Waiting for acknowledgments to apply the update"
    return _line(now, event, user=user, **waiting, manifestFingerprint=fingerprint)


def update_acknowledged_line(now: datetime, *, user: str, needed: int, missing: Sequence[str], fingerprint: str) -> str:
    """A user agreed."""
    waiting = {"missingAcknowledgments": needed, "missingUsers": list(missing)}
    event = "Complete Manifest update acknowledged by user"
    return _line(now, event, user=user, **waiting, manifestFingerprint=fingerprint)


def updated_line(now: datetime, *, fingerprint: str) -> str:
    """The new manifest counts."""
    return _line(now, "Complete Manifest updated", manifestFingerprint=fingerprint)


def update_cancelled_line(now: datetime, *, user: str, fingerprint: str) -> str:
    """Taken back."""
    return _line(now, "Complete Manifest update cancelled by user", user=user, manifestFingerprint=fingerprint)


def update_failed_line(now: datetime, *, fingerprint: str) -> str:
    """Everybody agreed, and it could not be applied."""
    return _line(now, "Complete Manifest update cancelled due to error during apply", manifestFingerprint=fingerprint)


def _line(now: datetime, update: str, **fields: object) -> str:
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    return json.dumps({"time": moment, "update": update, **fields}, ensure_ascii=False, separators=(",", ":"))
