"""The audit log as it leaves a coordinator: its entries, the chain over them, and what is signed.

An entry is one line of JSON, kept and given out byte for byte as it was made. Its digest is the SHA-256 of the line
without its line feed. The head after entry n is

    head(n) = SHA-256("tacit log entry v1" ‖ 0 ‖ head(n-1) ‖ digest(n)),  head(0) = 32 zeros

so whoever has the lines has the head, and whoever has only the digests can see that one head descends from another.
Every line carries a random salt: from a digest nobody can tell by trying which names a line holds.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

DIGEST_SIZE = 32  # bytes
PAGE_LINES = 1000  # entries in one answer, at most
PAGE_BYTES = 1 << 20  # bytes of entries in one answer, at most, unless the first alone has more
PAGE_DIGESTS = 2000  # digests in one answer, at most

_LABEL_ENTRY = b"tacit log entry v1\0"
_LABEL_HEAD = b"tacit log head v1\0"


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where a log stands: the number of its newest entry, and the head after it."""

    number: int = 0
    head: bytes = bytes(DIGEST_SIZE)

    def after(self, digest: bytes) -> "LogPosition":
        """One entry further."""
        return LogPosition(self.number + 1, hashlib.sha256(_LABEL_ENTRY + self.head + digest).digest())

    def after_lines(self, lines: Iterable[bytes]) -> "LogPosition":
        """Some entries further."""
        position = self
        for line in lines:
            position = position.after(line_digest(line))
        return position


LOG_START = LogPosition()
"""Before the first entry."""


def line_digest(line: bytes) -> bytes:
    """The digest of an entry."""
    return hashlib.sha256(line).digest()


def log_mark_message(position: LogPosition, epoch: int, state_head: bytes) -> bytes:
    """What the root key signs (ECDSA, SHA-384): a label, number and head of the log, epoch and head of the state."""
    return _LABEL_HEAD + position.number.to_bytes(8, "big") + position.head + epoch.to_bytes(8, "big") + state_head


class LogMark(msgspec.Struct):
    """Where the log stands, with the state that it belongs to (heads in hex), signed by the root key."""

    entries: int
    head: str
    epoch: int
    state: str = msgspec.field(name="stateHead")
    signature: bytes


class LogV2(msgspec.Struct):
    """GET /api/v2/log?after=N: the lines after entry N, as many as one answer holds.

    `after` and `head` say after which entry the lines begin. It is a later one than was asked for where older entries
    are no longer kept, or are missing.
    """

    after: int
    head: str
    lines: list[str]
    mark: LogMark


class LogDigestsV2(msgspec.Struct):
    """GET /api/v2/log/digests?after=N: the digests (32 bytes each, one after the other) of the entries after N."""

    after: int
    digests: bytes
    mark: LogMark
