"""A coordinator's audit log as its readers keep and check it, and how one head is seen to descend from another.

An export is JSON lines: the entries byte for byte as the coordinator made them, and at the end one line with the mark,
`{"mark": {...}}`, which the root key signed. Where it does not begin with the first entry, or where entries are
missing, a line `{"begins": {"after": N, "head": "..."}}` says after which entry the lines go on.

Checking an export takes these steps:

1. Entries are numbered without a gap, from the number on that was asked for.
2. The chain over them ends at the head in the mark, and nothing comes after the mark.
3. The mark is signed by the root key.
4. If this client remembers where the log stood, the chain goes through that head: so the end was not cut off, and no
   other log is shown to somebody else.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from tacit.errors import LogError, PeerError, RollbackError
from tacit.wire.log import DIGEST_SIZE, LOG_START, LogMark, LogPosition, LogV2, log_mark_message

MAX_LINE = 4 << 20  # bytes; an entry lists at most the names of one manifest
MAX_DIGESTS = 1 << 22
"""Entries since a client's last visit of which it asks for the digests, at most: 128 MiB of them."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An export that passed every step: its entries are those after `begins`, up to `ends`."""

    begins: LogPosition
    ends: LogPosition
    epoch: int


class _Begins(msgspec.Struct):
    after: int
    head: str


class _BeginsLine(msgspec.Struct):
    begins: _Begins


class _MarkLine(msgspec.Struct):
    mark: LogMark


class _EntryLine(msgspec.Struct):
    number: int


_T = TypeVar("_T", _BeginsLine, _MarkLine, _EntryLine)


def export_log(fetch: Callable[[int], LogV2], after: int = 0) -> Iterator[bytes]:
    """The lines of an export, page by page. `fetch` gives the entries after a number.

    Raises:
        PeerError: the coordinator's pages do not follow each other.
    """
    position = LOG_START if after == 0 else None
    while True:
        page = fetch(after)
        begins = _position(page.after, page.head)
        if not page.lines:
            yield msgspec.json.encode({"mark": page.mark})
            return
        if begins.number < after or (position is not None and begins.number == after and begins != position):
            raise PeerError(f"the coordinator gave entries after {begins.number}, and those after {after} were asked")
        if begins != position:
            yield msgspec.json.encode({"begins": _Begins(page.after, page.head)})
        lines = [line.encode() for line in page.lines]
        yield from lines
        position = begins.after_lines(lines)
        after = position.number


def verify_export(
    lines: Iterable[bytes], root: x509.Certificate, *, after: int = 0, seen: LogPosition | None = None
) -> Verified:
    """Every step of the list above, over lines without their line feeds. `after` is where the export has to begin.

    Raises:
        LogError: cut, reordered or altered; says where.
        RollbackError: authentic, and not what this client saw before.
    """
    begins = position = LOG_START
    mark: LogMark | None = None
    passed = seen is None or seen.number == 0
    for index, line in enumerate(lines, 1):
        if mark is not None:
            raise LogError(f"line {index} comes after the mark, with which an export ends; it is not the coordinator's")
        if line.startswith(b'{"mark":'):
            mark = _read(line, index, _MarkLine).mark
            continue
        if line.startswith(b'{"begins":'):
            begins = position = _begins(line, index, position, first=index == 1)
        else:
            _check_number(line, index, position)  # (1)
            position = position.after_lines([line])
        passed = passed or position == seen
    if mark is None:
        raise LogError("the export has no mark at its end: it was cut; export it again with `tacit log`")
    _check_begins(begins, after)
    if position != _position(mark.entries, mark.head):  # (2)
        raise LogError(
            f"the chain over these entries ends at number {position.number}, head {position.head.hex()[:16]}..., and the "
            f"mark says {mark.entries}, {mark.head[:16]}...: an entry was cut, moved, forged or altered"
        )
    verify_log_mark(mark, root)  # (3)
    _check_seen(seen, passed=passed, begins=begins, ends=position)  # (4)
    return Verified(begins, position, mark.epoch)


def verify_log_mark(mark: LogMark, root: x509.Certificate) -> None:
    """The mark is signed by the root key. Raises: LogError."""
    key = root.public_key()
    try:
        signed = log_mark_message(_position(mark.entries, mark.head), mark.epoch, bytes.fromhex(mark.state))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(mark.signature, signed, ec.ECDSA(SHA384()))
    except (InvalidSignature, ValueError, OverflowError) as exc:
        raise LogError("the mark of the log is not signed by the coordinator's root key; nothing is trusted") from exc


def verify_descent(
    host: str, seen: LogPosition, now: LogPosition, fetch: Callable[[int], tuple[int, bytes]], *, forget: str
) -> None:
    """The log that stands at `now` goes on from where this client saw it. `fetch` gives digests after a number.

    `forget` says how this client is made to forget what it saw.

    Raises:
        RollbackError: it does not, or cannot show it.
    """
    advice = f"If it was restored on purpose, {forget}"
    if now.number - seen.number > MAX_DIGESTS:
        raise RollbackError(
            f"the log of {host} has {now.number - seen.number} entries more than when it was seen last, and at most "
            f"{MAX_DIGESTS} are looked through. {advice}"
        )
    position = seen
    while position.number < now.number:
        after, digests = fetch(position.number)
        if after != position.number or not digests or len(digests) % DIGEST_SIZE:
            raise RollbackError(
                f"the coordinator at {host} cannot show that its state goes on from the one that was seen: of its log, "
                f"entries from {position.number + 1} on are missing. {advice}"
            )
        for at in range(0, len(digests), DIGEST_SIZE):
            if position.number == now.number:
                break  # written since it said where it stands
            position = position.after(digests[at : at + DIGEST_SIZE])
    if position != now:
        raise RollbackError(
            f"the coordinator at {host} runs on another history than the one that was seen: after entry {seen.number} "
            f"of its log, which had head {seen.head.hex()[:16]}..., it goes on differently. {advice}"
        )


def _check_number(line: bytes, index: int, position: LogPosition) -> None:
    number = _read(line, index, _EntryLine).number
    if number != position.number + 1:
        raise LogError(f"line {index} is entry {number}, expected {position.number + 1}: entries were cut out or moved")


def _begins(line: bytes, index: int, position: LogPosition, *, first: bool) -> LogPosition:
    said = _read(line, index, _BeginsLine).begins
    if not first:
        raise LogError(
            f"entries {position.number + 1} to {said.after} are missing before line {index}: the coordinator had them "
            "no longer, so its files were taken away or altered"
        )
    return _position(said.after, said.head)


def _check_begins(begins: LogPosition, after: int) -> None:
    if begins.number != after:
        raise LogError(
            f"the export begins after entry {begins.number}, expected after {after}: earlier entries are missing, or "
            f"were exported before; then say so with --after {begins.number}"
        )


def _check_seen(seen: LogPosition | None, *, passed: bool, begins: LogPosition, ends: LogPosition) -> None:
    if seen is None or passed or seen.number < begins.number:
        return
    if seen.number > ends.number:
        raise RollbackError(
            f"the export ends at entry {ends.number}, and the log was seen at {seen.number}: it is an older one, or its end "
            "was cut off. Export it anew; of one that was made before that, say so with --older"
        )
    raise RollbackError(
        f"the export tells another history than the one that was seen: entry {seen.number} had head "
        f"{seen.head.hex()[:16]}..."
    )


def _read(line: bytes, index: int, kind: type[_T]) -> _T:
    if len(line) > MAX_LINE:
        raise LogError(f"line {index} has {len(line)} bytes; no entry has more than {MAX_LINE}")
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise LogError(f"line {index} is no line of an export of `tacit log` ({exc})") from exc


def _position(number: int, head: str) -> LogPosition:
    try:
        position = LogPosition(number, bytes.fromhex(head))
    except ValueError as exc:
        raise LogError("a head of the log is no hexadecimal text") from exc
    if number < 0 or len(position.head) != DIGEST_SIZE:
        raise LogError(f"a head of the log has {len(position.head)} bytes, expected {DIGEST_SIZE}")
    return position
