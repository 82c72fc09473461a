"""The folder with the sealed state: the one place of this room that touches a disk.

Order of a write: bytes, sync, then the answer. A file that replaces another is written under another name, synced, read
back and opened before it takes the name; what it replaces stays as `.old` until then. The folder is locked for as long
as the program lives, so that two coordinators never write one state.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tacit.coordinator.sealed.keys import BoundTo, open_key, seal_key
from tacit.coordinator.sealed.records import (
    ID_SIZE,
    NONCE_SIZE,
    Contents,
    FileStart,
    Position,
    chain,
    parse_state_id,
    read_file,
    seal_record,
    start_file,
)
from tacit.errors import SealedStateError, SealingKeyError, StateError
from tacit.evidence.claims import Issuer

DATA_NAME = "sealed_data"
KEY_NAME = "sealed_key"
PLAN_NAME = "sealed_recovery"
"""Plan for recovery by several holders: the id of the state (16 bytes) that it is for, then JSON."""
MIN_GROWTH = 1 << 20
"""Bytes that a file grows by before a snapshot is worth its cost."""


class Store(Protocol):
    """Where changes go. After a failure nothing is stored, and the position is what it was."""

    @property
    def position(self) -> Position:
        """Of the newest record."""

    @property
    def wants_snapshot(self) -> bool:
        """Whether the next thing written should say everything."""

    def create(self, snapshot: bytes, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """Begin a new state under a new key, with its plan for recovery. `bound_to` None keeps it in memory alone."""

    def rekey(self, snapshot: bytes, *, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """Go on in a new file under another key; None keeps the key and its plan and seals it as `bound_to` says."""

    def recovery_plan(self) -> bytes:
        """The plan beside the state that cannot be opened; empty where a single key opens it."""

    def open_with(self, key: bytes) -> Contents:
        """What is there, if this is its key. Changes nothing."""

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Go on with what is there, under its own key."""

    def append(self, payload: bytes) -> None:
        """Add one record."""

    def rewrite(self, snapshot: bytes) -> None:
        """Go on in a new file that begins with everything."""


class MemoryStore:
    """A state that ends with the process."""

    def __init__(self) -> None:
        self.position = Position()
        self.wants_snapshot = False

    def create(self, snapshot: bytes, *, key: bytes, plan: bytes, bound_to: BoundTo | None) -> None:
        """Begin a new state."""
        self.position = chain(Position(), snapshot)

    def rekey(self, snapshot: bytes, *, key: bytes | None, plan: bytes, bound_to: BoundTo | None) -> None:
        """Add one record that says everything."""
        self.append(snapshot)

    def recovery_plan(self) -> bytes:
        """None is kept."""
        return b""

    def open_with(self, key: bytes) -> Contents:
        """Nothing outlives the process."""
        raise SealingKeyError("there is no sealed state")

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Nothing outlives the process."""
        raise SealingKeyError("there is no sealed state")

    def append(self, payload: bytes) -> None:
        """Add one record."""
        self.position = chain(self.position, payload)

    def rewrite(self, snapshot: bytes) -> None:
        """Add one record that says everything."""
        self.append(snapshot)


class SealedFolder:
    """A locked folder. `load` comes first; `close` gives the folder back."""

    def __init__(self, folder: Path, issuer: Issuer | None) -> None:
        self._folder = folder
        self._issuer = issuer
        self._lock = _lock(folder)
        self._key = b""
        self._start: FileStart | None = None
        self._file: int | None = None
        self._size = self._snapshot_size = 0
        self._damaged = False
        self._volatile = False
        self._key_ahead = False
        self._position = Position()

    @property
    def position(self) -> Position:
        """Of the newest record."""
        return self._position

    @property
    def wants_snapshot(self) -> bool:
        """After a failed write, or once the file has grown well beyond its snapshot."""
        return self._damaged or self._size - self._snapshot_size > max(MIN_GROWTH, 2 * self._snapshot_size)

    def load(self) -> Contents | None:
        """What the folder holds; None where it holds nothing.

        Raises:
            SealingKeyError: there is a state, and no key here that opens it.
            SealedStateError: the state was cut, reordered or altered.
        StateError: it cannot be read, or not be written to.
        """
        data = _read(self._folder / DATA_NAME)
        if data is None:
            return None
        stored = _read(self._folder / KEY_NAME)
        if stored is None:
            raise SealingKeyError(f"{self._folder / KEY_NAME} is missing")
        key = open_key(stored, self._issuer)
        try:
            return self._take(data, key)
        except SealingKeyError:
            return self._load_before_rekey(data)

    def _load_before_rekey(self, data: bytes) -> Contents:
        """What the folder holds under the key before: a change of keys ended after the key and before the state."""
        stored = _read(self._folder / f"{KEY_NAME}.old")
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
        self._begin(start, key, snapshot, self._position, keep_old=False)
        self._key_ahead = False

    def _write_key(self, key: bytes, bound_to: BoundTo, *, keep_old: bool) -> None:
        stored = seal_key(key, self._issuer, bound_to=bound_to, nonce=secrets.token_bytes(NONCE_SIZE))
        self._replace(KEY_NAME, stored, lambda read: open_key(read, self._issuer), keep_old=keep_old)

    def recovery_plan(self) -> bytes:
        """The plan that was written with the state that lies here; empty where there is none.

        Raises:
            StateError: the folder cannot be read.
        """
        state_id = parse_state_id(_read(self._folder / DATA_NAME) or b"")
        for name in (PLAN_NAME, f"{PLAN_NAME}.old"):
            stored = _read(self._folder / name) or b""
            if stored[:ID_SIZE] == state_id:
                return stored[ID_SIZE:]
        return b""

    def open_with(self, key: bytes) -> Contents:
        """What the folder holds, if this is its key. Changes nothing.

        Raises:
            SealingKeyError: it is another's key.
            SealedStateError: the state was cut, reordered or altered.
        """
        return read_file(_read(self._folder / DATA_NAME) or b"", key)

    def adopt(self, key: bytes, *, bound_to: BoundTo | None) -> None:
        """Go on with what the folder holds, and keep its key there again.

        Raises:
            SealingKeyError: it is another's key.
            StateError: the folder cannot be written; nothing was changed.
        """
        self.open_with(key)
        self._write_key(key, bound_to or "signer", keep_old=True)
        self._take(_read(self._folder / DATA_NAME) or b"", key)

    def _take(self, data: bytes, key: bytes) -> Contents:
        contents = read_file(data, key)
        self._key, self._start, self._position = key, contents.start, contents.position
        self._size, self._snapshot_size = len(data) - contents.torn, len(contents.payloads[0])
        self._file = self._open_for_append()
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
        if self._start is None or self._file is None or self._damaged:
            raise StateError("the state file cannot be appended to; a snapshot has to come first")
        nonce = secrets.token_bytes(NONCE_SIZE)
        record, position = seal_record(payload, start=self._start, after=self._position, nonce=nonce)
        try:
            _write_all(self._file, record)
            _sync(self._file)
        except OSError as exc:
            # Part of the record may stand there; the next write begins a new file without it.
            self._damaged = True
            raise _unwritable(self._folder / DATA_NAME, exc) from exc
        self._size += len(record)
        self._position = position

    def rewrite(self, snapshot: bytes) -> None:
        """Go on in a new file that begins with everything.

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
        self._begin(start, self._key, snapshot, self._position, keep_old=False)

    def close(self) -> None:
        """Give the folder back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        os.close(self._lock)

    def _begin(self, start: FileStart, key: bytes, snapshot: bytes, after: Position, *, keep_old: bool) -> None:
        record, position = seal_record(snapshot, start=start, after=after, nonce=secrets.token_bytes(NONCE_SIZE))
        data = start.header + record
        self._replace(DATA_NAME, data, lambda read: _check_same(read_file(read, key), position), keep_old=keep_old)
        # From the rename on, the open file is no longer the state's: should opening the new one fail (no descriptor is
        # left, say), nothing may be appended there and be answered for.
        self._damaged = True
        previous, self._file = self._file, self._open_for_append()
        if previous is not None:
            os.close(previous)
        self._key, self._start, self._position = key, start, position
        self._size, self._snapshot_size, self._damaged = len(data), len(snapshot), False

    def _replace(self, name: str, data: bytes, check: Callable[[bytes], object], *, keep_old: bool) -> None:
        path = self._folder / name
        temporary = self._folder / f"{name}.tmp"
        try:
            # A file of our own, never one that waits there: its owner could read the key, or have it linked elsewhere.
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(temporary, flags, 0o600)
            try:
                _write_all(file, data)
                os.fsync(file)
            finally:
                os.close(file)
            check(temporary.read_bytes())
            if keep_old and path.exists():
                _keep(path, self._folder / f"{name}.old")
            temporary.rename(path)
            os.fsync(self._lock)  # the folder: the new name is on the disk before anything relies on it
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _unwritable(path, exc) from exc

    def _open_for_append(self) -> int:
        path = self._folder / DATA_NAME
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError as exc:
            raise StateError(f"cannot write {path}: {exc.strerror}; make it writable for the coordinator") from exc


def _lock(folder: Path) -> int:
    """The folder itself, held open and locked."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StateError(
            f"cannot use {folder} for the sealed state: {exc.strerror}; name another in EDG_COORDINATOR_SEAL_DIR"
        ) from exc
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StateError(f"cannot write into {folder}; name another folder in EDG_COORDINATOR_SEAL_DIR")
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except StateError:
        os.close(opened)
        raise
    except OSError as exc:
        os.close(opened)
        raise StateError(
            f"another coordinator uses {folder}; end it, or name another folder in EDG_COORDINATOR_SEAL_DIR"
        ) from exc
    return opened


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}") from exc


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync(file: int) -> None:
    # What an append changes is the data and the length, and fdatasync brings both to the disk.
    getattr(os, "fdatasync", os.fsync)(file)


def _keep(path: Path, old: Path) -> None:
    """Give a file a second name, so that the first can be taken over in one step."""
    old.unlink(missing_ok=True)
    old.hardlink_to(path)


def _check_same(read: Contents, position: Position) -> None:
    if read.position != position or read.torn:
        raise SealedStateError(
            "the new state file reads back differently from what was written; the disk cannot be trusted"
        )


def _unwritable(path: Path, exc: OSError) -> StateError:
    return StateError(f"cannot write {path}: {exc.strerror}; nothing was changed")
