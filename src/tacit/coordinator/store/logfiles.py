"""The files of the audit log: sealed, appended to, a new one every half a megabyte, and read page by page.

A file is `sealed_log.ID.NUMBER`: the beginning of the log's id, and its first entry. Its records hold some entries
each, with the position before them, so a reader sees where entries are missing. The oldest files may be moved away
while nobody writes; the log then begins later, and says so.

What a crash leaves unfinished at the end is passed over, and a new file goes on after it.
"""

import bisect
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tacit.coordinator.sealed.records import (
    ID_SIZE,
    LOG,
    NONCE_SIZE,
    FileStart,
    Position,
    derive_log_id,
    read_file,
    seal_record,
    start_file,
)
from tacit.coordinator.store.files import append, open_for_append, read_if_there, replace_file, unwritable
from tacit.errors import SealedStateError, SealingKeyError, StateError
from tacit.wire.log import LogPosition, line_digest

LOG_NAME = "sealed_log"
FILE_SIZE = 512 << 10
"""Bytes after which a new file is begun: some 1,500 entries. A page is read from whole files, so they are small."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    after: int
    head: bytes
    lines: list[bytes]

    @property
    def begins(self) -> LogPosition:
        """The position before its entries."""
        return LogPosition(self.after, self.head)

    @property
    def last(self) -> int:
        """The number of its last entry."""
        return self.after + len(self.lines)


class LogFiles:
    """The files of one log. `folder_file` is the open folder."""

    def __init__(self, folder: Path, folder_file: int, *, key: bytes) -> None:
        self._folder = folder
        self._folder_file = folder_file
        self._key = key
        self._id = derive_log_id(key)
        self._prefix = f"{LOG_NAME}.{self._id.hex()[:16]}."
        self._start: FileStart | None = None
        self._file: int | None = None
        self._size = 0
        self._position = Position()

    def open_newest(self) -> LogPosition | None:
        """Where the files end, and ready to go on there; None where there are none that can be read.

        Raises:
            StateError: the disk refuses.
        """
        for number in reversed(self._numbers()):
            try:
                contents = read_file(self._read(number), self._key, LOG)
                newest = msgspec.msgpack.decode(contents.payloads[-1], type=_Batch)
            except (SealedStateError, SealingKeyError, msgspec.MsgspecError):
                continue  # whoever reads its entries is told; what goes on has no use for it
            if number == self._numbers()[-1] and not contents.torn:
                self._file = open_for_append(self._path(number))
                self._start, self._position = contents.start, contents.position
                self._size = self._path(number).stat().st_size
            return newest.begins.after_lines(newest.lines)
        return None

    def append(self, lines: Sequence[bytes], after: LogPosition) -> None:
        """Add entries, synced.

        Raises:
            StateError: they could not be written; they may stand there and are written again.
        """
        payload = msgspec.msgpack.encode(_Batch(after.number, after.head, list(lines)))
        if self._start is None or self._file is None or self._size > FILE_SIZE:
            self._begin(payload, after.number + 1)
            return
        nonce = secrets.token_bytes(NONCE_SIZE)
        record, position = seal_record(payload, start=self._start, after=self._position, nonce=nonce)
        try:
            append(self._file, record)
        except OSError as exc:
            self.close()  # part of it may stand there; the next write begins a new file
            raise unwritable(self._folder / LOG_NAME, exc) from exc
        self._size += len(record)
        self._position = position

    def read(self, after: int, *, max_lines: int, max_bytes: int) -> tuple[LogPosition, list[bytes]]:
        """Entries after that number, as far as they follow each other, and the position before the first of them.

        Raises:
            SealedStateError: a file was altered.
            StateError: the disk refuses.
        """
        return _read_batches(self._batches(after), after, max_lines=max_lines, max_bytes=max_bytes)

    def close(self) -> None:
        """Write no further into the newest file."""
        if self._file is not None:
            os.close(self._file)
        self._file = self._start = None

    def _begin(self, payload: bytes, first: int) -> None:
        start = start_file(
            self._key, state_id=self._id, file_id=secrets.token_bytes(ID_SIZE), base=Position(), format_=LOG
        )
        record, position = seal_record(payload, start=start, after=Position(), nonce=secrets.token_bytes(NONCE_SIZE))
        path = self._path(first)
        # One of this name has nothing that counts: what it should hold is written here.
        replace_file(
            path,
            start.header + record,
            folder=self._folder_file,
            check=lambda read: read_file(read, self._key, LOG),
            keep_old=True,
        )
        self.close()
        self._file = open_for_append(path)
        self._start, self._position, self._size = start, position, len(start.header) + len(record)

    def _batches(self, after: int) -> Iterator[_Batch]:
        """The batches from the file on that may hold the entry after this one."""
        numbers = self._numbers()
        for number in numbers[max(bisect.bisect_right(numbers, after + 1) - 1, 0) :]:
            try:
                payloads = read_file(self._read(number), self._key, LOG).payloads
                yield from (msgspec.msgpack.decode(payload, type=_Batch) for payload in payloads)
            except (SealedStateError, SealingKeyError, msgspec.MsgspecError) as exc:
                raise SealedStateError(f"{self._path(number).name}: {exc}") from exc

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError as exc:
            raise StateError(f"cannot read {self._folder}: {exc.strerror}") from exc
        found = (name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix))
        return sorted(int(number) for number in found if number.isascii() and number.isdigit())

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number:012d}"

    def _read(self, number: int) -> bytes:
        return read_if_there(self._path(number)) or b""


class MemoryLog:
    """A log that ends with the process, and of which the newest entries are kept."""

    LINES = 100_000
    """Entries that are kept, some 25 MB."""

    def __init__(self) -> None:
        self._held: tuple[_Batch, ...] = ()

    def append(self, lines: Sequence[bytes], after: LogPosition) -> None:
        """Add entries; the oldest go."""
        held = (*self._held, _Batch(after.number, after.head, list(lines)))
        last = held[-1].last
        self._held = tuple(batch for batch in held if batch.last > last - self.LINES)

    def read(self, after: int, *, max_lines: int, max_bytes: int) -> tuple[LogPosition, list[bytes]]:
        """Entries after that number, and the position before them."""
        return _read_batches(iter(self._held), after, max_lines=max_lines, max_bytes=max_bytes)


def _read_batches(
    batches: Iterator[_Batch], after: int, *, max_lines: int, max_bytes: int
) -> tuple[LogPosition, list[bytes]]:
    begins: LogPosition | None = None
    position = LogPosition(after)
    lines: list[bytes] = []
    size = 0
    for batch in batches:
        if batch.last <= position.number:
            continue
        if begins is None:
            begins = position = batch.begins.after_lines(batch.lines[: max(after - batch.after, 0)])
        if batch.after > position.number:
            break
        # What a failed write left may stand there twice.
        for line in batch.lines[position.number - batch.after :]:
            if len(lines) == max_lines or (lines and size + len(line) > max_bytes):
                return begins, lines
            lines.append(line)
            size += len(line)
            position = position.after(line_digest(line))
    return begins or LogPosition(after), lines
