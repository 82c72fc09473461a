"""A folder of the sealed state, copied into one file and back.

What is copied is sealed already and stays so: no key is needed, and none comes into the file but as it lies in the
folder. So whoever has the backup has what the host has, and it opens where the folder would: in the same TEE, or with
recovery secrets. In unattested mode the key lies in clear, in the folder and in the backup.

File = a tar (ustar): `backup.json` first, with size and SHA-256 of each file, then the files. The digests tell damage,
not malice: whether the state is authentic is the coordinator's to say, when it opens it.

(1) Everything is checked and written beside what is there, synced, before anything is touched.
(2) A mark stands in the folder while names change; with it no coordinator starts. So a restore that is broken off is
    run again, and until then nobody goes on from half of it.
(3) What was there stays, as `.before`; where an earlier restore left such files, as `.before.2` and so on. The mark says which,
    so that a restore that is run again goes on with the same.
"""

import contextlib
import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tacit.coordinator.sealed.records import parse_epoch, parse_state_id
from tacit.coordinator.store.files import lock_folder, read_if_there, unwritable, write_new
from tacit.coordinator.store.folder import DATA_NAME, KEY_NAME, PLAN_NAME, RESTORE_NAME
from tacit.coordinator.store.logfiles import LOG_NAME
from tacit.errors import BackupError, SealedStateError, StateError

INDEX_NAME = "backup.json"
VERSION = 1
ATTEMPTS = 100  # to copy a folder that a coordinator writes to
PAUSE = 0.05  # seconds between them

# The older key and plan belong to it: a change of keys that was cut off is opened with them.
_NAMES = re.compile(rf"{DATA_NAME}|(?:{KEY_NAME}|{PLAN_NAME})(?:\.old)?|{LOG_NAME}\.[0-9a-f]{{16}}\.[0-9]{{12,19}}")
_BEFORE = ".before"
_ENDING = re.compile(rb"\.before(?:\.[1-9][0-9]{0,5})?")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    sha256: str


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    tacit_backup: int
    state: str
    epoch: int
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Backup:
    """The files of one state, as they were at one moment. `epoch` is what the state file says of itself."""

    files: Mapping[str, bytes]
    state_id: bytes
    epoch: int


def copy_folder(folder: Path) -> Backup:
    """The folder as it is at one moment, also while a coordinator writes to it.

    Raises:
        BackupError: there is no state, or it changed each time.
        SealedStateError: what lies there is no state.
        StateError: it cannot be read.
    """
    for _ in range(ATTEMPTS):
        before = _look(folder)
        data = read_if_there(folder / DATA_NAME)
        if data is None:
            raise BackupError(f"there is no sealed state in {folder}; set EDG_COORDINATOR_SEAL_DIR to its folder")
        if KEY_NAME not in before:
            raise BackupError(f"{folder / KEY_NAME} is missing: recover the state first, or copy the folder as it is")
        files = {name: read_if_there(folder / name) for name in before}
        # The state was read between two looks at all the rest. Unchanged, it is of the same moment; entries that the
        # state has and the log files have not yet are in it.
        if before == _look(folder) and _is_still(folder / DATA_NAME, data):
            found = {name: content for name, content in files.items() if content is not None}
            return Backup({**found, DATA_NAME: data}, parse_state_id(data), parse_epoch(data))
        time.sleep(PAUSE)
    raise BackupError(f"{folder} changed each of {ATTEMPTS} times that it was copied; try when there is less to do")


def write_backup(backup: Backup, path: Path) -> None:
    """Write a backup, whole or not at all; one of this name is never overwritten.

    Raises:
        BackupError: there is a file of this name, or it cannot be written.
    """
    if path.exists():
        raise BackupError(f"{path} is there already; a backup never takes another's place, so name a new file")
    files = {name: _File(len(data), hashlib.sha256(data).hexdigest()) for name, data in backup.files.items()}
    index = msgspec.json.encode(_Index(VERSION, backup.state_id.hex(), backup.epoch, files))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for name, data in ((INDEX_NAME, index), *sorted(backup.files.items())):
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = len(data), 0o600
                    archive.addfile(entry, io.BytesIO(data))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as exc:
        for half in (temporary, path):
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
        raise BackupError(f"cannot write {path}: {exc.strerror}; nothing was written") from exc


def read_backup(path: Path) -> Backup:
    """A backup, every file of it whole.

    Raises:
        BackupError: no backup, damaged, or of a newer program.
    """
    damaged = f"{path} is no backup of a coordinator, or damaged"
    found: dict[str, bytes] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, mode="r:") as archive:
            for entry in archive:
                plain = entry.type == tarfile.REGTYPE and not entry.pax_headers and entry.size <= size
                source = archive.extractfile(entry) if plain else None
                if source is None or entry.name in found or (found and not _NAMES.fullmatch(entry.name)):
                    raise BackupError(f"{damaged}: {entry.name[:80]!r} does not belong there")
                found[entry.name] = source.read()
        index = msgspec.json.decode(found.pop(INDEX_NAME, b""), type=_Index)
    except (tarfile.TarError, msgspec.DecodeError, UnicodeDecodeError, EOFError) as exc:
        raise BackupError(f"{damaged}: {exc}; take another copy of it") from exc
    except OSError as exc:
        raise BackupError(f"cannot read {path}: {exc.strerror}") from exc
    if index.tacit_backup != VERSION:
        raise BackupError(f"{path} has version {index.tacit_backup}, this program reads {VERSION}; use a newer program")
    files = {name: _File(len(data), hashlib.sha256(data).hexdigest()) for name, data in found.items()}
    if files != index.files or not {DATA_NAME, KEY_NAME} <= files.keys():
        wrong = sorted(name for name in files.keys() | index.files.keys() if files.get(name) != index.files.get(name))
        raise BackupError(f"{damaged}: {', '.join(wrong) or 'the state'} is not as it was written; take another copy")
    backup = Backup(found, parse_state_id(found[DATA_NAME]), parse_epoch(found[DATA_NAME]))
    if (backup.state_id.hex(), backup.epoch) != (index.state, index.epoch):
        raise BackupError(f"{damaged}: it says state {index.epoch} and holds {backup.epoch}; take another copy of it")
    return backup


def restore_folder(backup: Backup, folder: Path, *, replace: bool) -> str:
    """Put a backup's files in place of what the folder holds. Run again, it ends what was broken off.

    Gives the end of the names of what was there, empty where nothing was that is another.

    Raises:
        BackupError: there is a newer state or another one, and `replace` does not say to put it aside.
        StateError: the folder cannot be written, or a coordinator uses it.
    """
    lock = lock_folder(folder)
    try:
        if not (folder / RESTORE_NAME).exists():
            _check_older(backup, folder, replace=replace)
        return _put(backup, folder, lock)
    finally:
        os.close(lock)


def _check_older(backup: Backup, folder: Path, *, replace: bool) -> None:
    present = read_if_there(folder / DATA_NAME)
    if present is None or replace:
        return
    try:
        state_id, epoch = parse_state_id(present), parse_epoch(present)
    except SealedStateError as exc:
        raise BackupError(f"{folder} holds something that is no state ({exc}); --replace puts it aside") from exc
    if state_id != backup.state_id:
        raise BackupError(
            f"{folder} holds another state than the backup, or the same under another key; --replace puts it aside"
        )
    if epoch > backup.epoch:
        raise BackupError(
            f"{folder} holds a newer state ({epoch}) than the backup ({backup.epoch}); --replace goes back to the older "
            "one, and every client that saw the newer will refuse it"
        )


def _put(backup: Backup, folder: Path, lock: int) -> str:
    mark = folder / RESTORE_NAME
    waiting = {name: folder / f"{name}.new" for name in backup.files}
    try:
        ending = _ending(folder)
        for name, path in waiting.items():  # (1)
            write_new(path, backup.files[name])
        if not mark.exists():  # one that stands there from before is never away for a moment
            write_new(mark, ending.encode())  # (2)
        os.fsync(lock)
        for path in sorted(folder.iterdir()):
            if _NAMES.fullmatch(path.name) and path.name not in backup.files:
                path.rename(_aside(path, ending))
        for name, path in sorted(waiting.items()):
            there = folder / name
            if there.exists() and there.read_bytes() != backup.files[name]:
                there.rename(_aside(there, ending))  # (3)
            path.rename(there)
        os.fsync(lock)
        mark.unlink()
        with contextlib.suppress(OSError):
            os.fsync(lock)  # should the mark come back with a power cut, the same command takes it away again
        return ending if any(_ends(path, ending) for path in folder.iterdir()) else ""
    except OSError as exc:
        if not mark.exists():
            for path in waiting.values():
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise unwritable(folder, exc) from exc
        raise StateError(
            f"cannot write {folder}: {exc.strerror}; the backup is brought back in part, so run the same command again"
        ) from exc


def _look(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All files of a state but the state's own, each with what tells that it changed."""
    try:
        paths = [path for path in folder.iterdir() if _NAMES.fullmatch(path.name) and path.name != DATA_NAME]
        found = {path.name: path.stat() for path in sorted(paths)}
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise StateError(f"cannot read {folder}: {exc.strerror}") from exc
    return {name: (info.st_ino, info.st_size, info.st_mtime_ns) for name, info in found.items()}


def _ending(folder: Path) -> str:
    """How names of what is put aside end: as the mark says, or as none does yet. Raises: OSError."""
    found = read_if_there(folder / RESTORE_NAME)
    if found is not None:
        return found.decode("ascii") if _ENDING.fullmatch(found) else _BEFORE
    there = list(folder.iterdir())
    return next(
        ending
        for ending in (_BEFORE, *(f"{_BEFORE}.{number}" for number in range(2, len(there) + 3)))
        if not any(_ends(path, ending) for path in there)
    )


def _ends(path: Path, ending: str) -> bool:
    return _NAMES.fullmatch(path.name.removesuffix(ending)) is not None and path.name.endswith(ending)


def _aside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def _is_still(path: Path, data: bytes) -> bool:
    """Whether a file is still the one that was read, though it may have grown."""
    found = read_if_there(path)
    return found is not None and found[: len(data)] == data


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
