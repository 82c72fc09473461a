"""What is done to files here, and in which order: write, sync, read back, take the name, sync the folder.

Nothing is ever written into a file that waits under the name, and nothing is cut off in place.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from tacit.errors import StateError


def lock_folder(folder: Path) -> int:
    """The folder itself, held open and locked; made where it is missing.

    Raises:
        StateError: it cannot be used, or another coordinator uses it.
    """
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


def read_if_there(path: Path) -> bytes | None:
    """A whole file; None where there is none. Raises: StateError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}") from exc


def replace_file(
    path: Path, data: bytes, *, folder: int, check: Callable[[bytes], object], keep_old: bool = False
) -> None:
    """Put a file under this name, whole or not at all, once `check` has seen what reads back.

    `folder` is the open folder. What had the name is kept as `.old` if wanted.

    Raises:
        StateError: it could not be written; what had the name has it still.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write_new(temporary, data)
        check(temporary.read_bytes())
        if keep_old and path.exists():
            keep(path)
        temporary.rename(path)
        os.fsync(folder)  # the new name is on the disk before anything relies on it
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritable(path, exc) from exc


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file of our own under this name. Raises: OSError."""
    # Never one that waits there: its owner could read the key, or have it linked elsewhere.
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        _write_all(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def keep(path: Path) -> None:
    """Give a file a second name, `.old`, so that the first can be taken over in one step. Raises: OSError."""
    old = path.with_name(f"{path.name}.old")
    old.unlink(missing_ok=True)
    old.hardlink_to(path)


def open_for_append(path: Path) -> int:
    """A file to append to. Raises: StateError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}; make it writable for the coordinator") from exc


def append(file: int, data: bytes) -> None:
    """Append and sync. Raises: OSError, and then part of it may stand there."""
    _write_all(file, data)
    # What an append changes is the data and the length, and fdatasync brings both to the disk.
    getattr(os, "fdatasync", os.fsync)(file)


def unwritable(path: Path, exc: OSError) -> StateError:
    """What is said of a write that failed."""
    return StateError(f"cannot write {path}: {exc.strerror}; nothing was changed")


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
