"""The folder with the sealed state.

Order of a write: bytes, sync, then the answer. A file that replaces another is written under another name, synced, read
back and opened before it takes the name; what it replaces stays as `.old` until then. The folder is locked for as long
as the program lives, so that two coordinators never write one state.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from tacit.coordinator.sealed.keys import BoundTo, check_stored, open_key, seal_key
from tacit.coordinator.sealed.records import (
    ID_SIZE,
    NONCE_SIZE,
    STATE,
    Contents,
    FileStart,
    Position,
    chain,
    parse_state_id,
    read_file,
    seal_record,
    start_file,
)
from tacit.coordinator.store.files import (
    append,
    lock_folder,
    open_for_append,
    read_if_there,
    replace_file,
    unwritable,
)
from tacit.coordinator.store.logfiles import LogFiles, MemoryLog
from tacit.errors import SealedStateError, SealingKeyError, StateError
from tacit.evidence.claims import Issuer
from tacit.wire.log import LogPosition

DATA_NAME = "sealed_data"
KEY_NAME = "sealed_key"
PLAN_NAME = "sealed_recovery"
"""Plan for recovery by several holders: the id of the state (16 bytes) that it is for, then JSON."""
RESTORE_NAME = "sealed_restore"
"""Stands here while a backup is brought back."""
MIN_GROWTH = 1 << 20
"""Bytes that a file grows by before a snapshot is worth its cost."""


class SealedFolder:
    """A locked folder. `load` comes first; `close` gives the folder back."""

    def __init__(self, folder: Path, issuer: Issuer | None) -> None:
        self._folder = folder
        self._issuer = issuer
        self._lock = lock_folder(folder)
        self._key = b""
        self._start: FileStart | None = None
        self._file: int | None = None
        self._size = self._snapshot_size = 0
        self._damaged = False
        self._volatile = False
        self._key_ahead = False
        self._position = Position()
        self._log: LogFiles | MemoryLog = MemoryLog()

    @property
    def position(self) -> Position:
        """Of the newest record."""
        return self._position

    @property
    def wants_snapshot(self) -> bool:
        """After a failed write or a file of an older version, or once it has grown well beyond its snapshot."""
        return (
            self._damaged
            or self._is_outdated
            or self._size - self._snapshot_size > max(MIN_GROWTH, 2 * self._snapshot_size)
        )

    @property
    def _is_outdated(self) -> bool:
        return self._start is not None and self._start.version < STATE.version

    def load(self) -> Contents | None:
        """What the folder holds; None where it holds nothing.

        Raises:
            SealingKeyError: there is a state, and no key here that opens it.
            SealedStateError: the state was cut, reordered or altered.
            StateError: it cannot be read, or not be written to, or a backup was brought back in part.
        """
        if (self._folder / RESTORE_NAME).exists():
            raise StateError(
                f"a backup was brought back into {self._folder} in part; run `tacit-coordinator restore` again"
            )
        data = read_if_there(self._folder / DATA_NAME)
        if data is None:
            return None
        stored = read_if_there(self._folder / KEY_NAME)
        if stored is None:
            raise SealingKeyError(f"{self._folder / KEY_NAME} is missing")
        key = open_key(stored, self._issuer)
        try:
            return self._take(data, key)
        except SealingKeyError:
            return self._load_before_rekey(data)

    def _load_before_rekey(self, data: bytes) -> Contents:
        """What the folder holds under the key before: a change of keys ended after the key and before the state."""
        stored = read_if_there(self._folder / f"{KEY_NAME}.old")
        if stored is None:
            raise SealingKeyError("the sealing key does not belong to this state")
        contents = self._take(data, open_key(stored, self._issuer))
        self._key_ahead = True
        return contents

    def rekey(self, snapshot: bytes, *, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """Go on in a new file that begins with everything, under another key; None keeps the key and its plan.

        Raises:
            StateError: it could not be written; the old file and its key stay.
        """
        if self._volatile or bound_to is None:
            self._position = chain(self._position, snapshot)
            return
        if self._start is None:
            raise StateError("there is no state to go on with")
        if self._key_ahead or key is None:
            # The key that opens what stands here has its name again, before another one may push it aside.
            self._write_key(self._key, bound_to, keep_old=False)
            self._key_ahead = False
        if key is None:
            self.rewrite(snapshot)
            return
        ids = secrets.token_bytes(ID_SIZE), secrets.token_bytes(ID_SIZE)
        start = start_file(key, state_id=ids[0], file_id=ids[1], base=self._position)
        if plan:
            self._replace(PLAN_NAME, start.state_id + plan, lambda _: None, keep_old=True)
        self._key_ahead = True
        self._write_key(key, bound_to, keep_old=True)
        self._begin(start, key, snapshot, self._position, keep_old=self._is_outdated)
        self._key_ahead = False

    def _write_key(self, key: bytes, bound_to: BoundTo, *, keep_old: bool) -> None:
        stored = seal_key(key, self._issuer, bound_to=bound_to, nonce=secrets.token_bytes(NONCE_SIZE))
        self._replace(KEY_NAME, stored, lambda read: check_stored(read, self._issuer), keep_old=keep_old)

    def recovery_plan(self) -> bytes:
        """The plan that was written with the state that lies here; empty where there is none.

        Raises:
            StateError: the folder cannot be read.
        """
        state_id = parse_state_id(read_if_there(self._folder / DATA_NAME) or b"")
        for name in (PLAN_NAME, f"{PLAN_NAME}.old"):
            stored = read_if_there(self._folder / name) or b""
            if stored[:ID_SIZE] == state_id:
                return stored[ID_SIZE:]
        return b""

    def open_with(self, key: bytes) -> Contents:
        """What the folder holds, if this is its key. Changes nothing.

        Raises:
            SealingKeyError: it is another's key.
            SealedStateError: the state was cut, reordered or altered.
        """
        return read_file(read_if_there(self._folder / DATA_NAME) or b"", key)

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Go on with what the folder holds, and keep its key there again.

        Raises:
            SealingKeyError: it is another's key.
            StateError: the folder cannot be written; nothing was changed.
        """
        self.open_with(key)
        self._write_key(key, bound_to or "signer", keep_old=True)
        self._take(read_if_there(self._folder / DATA_NAME) or b"", key)

    def _take(self, data: bytes, key: bytes) -> Contents:
        contents = read_file(data, key)
        self._key, self._start, self._position = key, contents.start, contents.position
        self._size, self._snapshot_size = len(data) - contents.torn, len(contents.payloads[0])
        self._file = open_for_append(self._folder / DATA_NAME)
        # Nothing is ever cut off in place: what goes on after a torn record goes on in a new file.
        self._damaged = contents.torn > 0
        return contents

    def create(self, snapshot: bytes, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """Begin a new state under a new key; an older one stays beside it as `.old`.

        Raises:
            StateError: the folder cannot be written; nothing was begun.
        """
        if bound_to is None:
            self._volatile, self._position = True, chain(Position(), snapshot)
            return
        start = start_file(
            key, state_id=secrets.token_bytes(ID_SIZE), file_id=secrets.token_bytes(ID_SIZE), base=Position()
        )
        if plan:
            # Before its state: a plan names the state that it is for, and one without a state is passed over.
            self._replace(PLAN_NAME, start.state_id + plan, lambda _: None, keep_old=True)
        # The key comes first: a key without a state is an empty folder, a state without its key is a locked one.
        self._write_key(key, bound_to, keep_old=True)
        self._begin(start, key, snapshot, Position(), keep_old=True)

    def append(self, payload: bytes) -> None:
        """Add one record and sync it.

        Raises:
            StateError: it could not be written whole.
        """
        if self._volatile:
            self._position = chain(self._position, payload)
            return
        if self._start is None or self._file is None or self._damaged or self._is_outdated:
            raise StateError("the state file cannot be appended to; a snapshot has to come first")
        nonce = secrets.token_bytes(NONCE_SIZE)
        record, position = seal_record(payload, start=self._start, after=self._position, nonce=nonce)
        try:
            append(self._file, record)
        except OSError as exc:
            # Part of the record may stand there; the next write begins a new file without it.
            self._damaged = True
            raise unwritable(self._folder / DATA_NAME, exc) from exc
        self._size += len(record)
        self._position = position

    def rewrite(self, snapshot: bytes) -> None:
        """Go on in a new file that begins with everything. One of an older version stays beside it as `.old`.

        Raises:
            StateError: it could not be written; the old file stays.
        """
        if self._volatile:
            self._position = chain(self._position, snapshot)
            return
        if self._start is None:
            raise StateError("there is no state to go on with")
        file_id = secrets.token_bytes(ID_SIZE)
        start = start_file(self._key, state_id=self._start.state_id, file_id=file_id, base=self._position)
        self._begin(start, self._key, snapshot, self._position, keep_old=self._is_outdated)

    def open_log(self, key: bytes) -> LogPosition | None:
        """Go on in the log files of this state; where they end, None where there are none.

        Raises:
            StateError: the disk refuses.
        """
        if isinstance(self._log, LogFiles):
            self._log.close()
        if self._volatile or self._start is None:
            self._log = MemoryLog()
            return None
        self._log = LogFiles(self._folder, self._lock, key=key)
        return self._log.open_newest()

    def archive(self, lines: Sequence[bytes], after: LogPosition) -> None:
        """Add entries to the log files, synced.

        Raises:
            StateError: they could not be written.
        """
        self._log.append(lines, after)

    def read_log(self, after: int, *, max_lines: int, max_bytes: int) -> tuple[LogPosition, list[bytes]]:
        """Entries of the log files after that number, and the position before the first of them.

        Raises:
            SealedStateError: a file was altered.
            StateError: the disk refuses.
        """
        return self._log.read(after, max_lines=max_lines, max_bytes=max_bytes)

    def close(self) -> None:
        """Give the folder back."""
        if isinstance(self._log, LogFiles):
            self._log.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        os.close(self._lock)

    def _begin(self, start: FileStart, key: bytes, snapshot: bytes, after: Position, *, keep_old: bool) -> None:
        record, position = seal_record(snapshot, start=start, after=after, nonce=secrets.token_bytes(NONCE_SIZE))
        data = start.header + record
        # Should this fail after the rename, or no descriptor be left to open the new file with, then the open one is no
        # longer the state's: nothing may be appended there and be answered for.
        self._damaged = True
        self._replace(DATA_NAME, data, lambda read: _check_same(read_file(read, key), position), keep_old=keep_old)
        previous, self._file = self._file, open_for_append(self._folder / DATA_NAME)
        if previous is not None:
            os.close(previous)
        self._key, self._start, self._position = key, start, position
        self._size, self._snapshot_size, self._damaged = len(data), len(snapshot), False

    def _replace(self, name: str, data: bytes, check: Callable[[bytes], object], *, keep_old: bool) -> None:
        replace_file(self._folder / name, data, folder=self._lock, check=check, keep_old=keep_old)


def _check_same(read: Contents, position: Position) -> None:
    if read.position != position or read.torn:
        raise SealedStateError(
            "the new state file reads back differently from what was written; the disk cannot be trusted"
        )
