"""Reading what the owner names and writing what the owner wants, whole or not at all.

Every failure of the file system becomes one line with the path and the way out.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tacit.errors import FileInputError

COPY_SIZE = 1 << 20  # bytes read and written at once

_ADVICE = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "permission denied; make it readable, or writable, for this user",
    errno.EPERM: "not permitted; make it readable, or writable, for this user",
    errno.ENOSPC: "no space left on the device; free some, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some, or write elsewhere",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the symbolic links go in a circle",
}


def file_error(path: Path, exc: OSError) -> FileInputError:
    """One line for a failure of the file system at `path`."""
    advice = _ADVICE.get(exc.errno or 0) or (exc.strerror or str(exc)).lower()
    return FileInputError(f"{path}: {advice}")


def file_size(path: Path, *, what: str, largest: int) -> int:
    """Size in bytes of a regular, non-empty file of at most `largest` bytes.

    `what` names what was expected, for the message. Raises: FileInputError.
    """
    try:
        found = path.stat()
    except OSError as exc:
        raise file_error(path, exc) from exc
    if stat.S_ISDIR(found.st_mode):
        raise FileInputError(f"{path}: this is a folder; {what} was expected")
    if not stat.S_ISREG(found.st_mode):
        # Reading a pipe or a device could wait for ever.
        raise FileInputError(f"{path}: this is no regular file; {what} was expected")
    if found.st_size == 0:
        raise FileInputError(f"{path}: the file is empty; {what} was expected")
    if found.st_size > largest:
        raise FileInputError(f"{path}: {found.st_size} bytes; {what} has at most {largest}")
    return found.st_size


def load_file(path: Path, *, what: str, largest: int) -> bytes:
    """All bytes of a regular file of 1 to `largest` bytes. Raises: FileInputError."""
    file_size(path, what=what, largest=largest)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise file_error(path, exc) from exc


def refuse_existing(path: Path, *, force: bool, flag: str = "--force") -> None:
    """Say that `path` exists, before any work is done. Raises: FileInputError."""
    if not force and (path.exists() or path.is_symlink()):
        raise FileInputError(f"{path} exists already; {flag} replaces it")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises: FileInputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise file_error(path, exc) from exc


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end of the block, whole and on the disk, or leaves nothing behind.

    Raises: FileInputError.
    """
    made = _missing_above(path)
    make_folder(path.parent)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as exc:
        raise file_error(path, exc) from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # it holds what was written, or what somebody else put there
                folder.rmdir()


def _missing_above(path: Path) -> list[Path]:
    """The folders above that are not there yet, the innermost first."""
    missing = []
    for folder in path.parents:
        if folder.exists():
            break
        missing.append(folder)
    return missing


@contextmanager
def new_folder(path: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """An empty folder to fill that becomes `path`, which is not there yet, at the end of the block; or nothing is left.

    Raises: FileInputError.
    """
    make_folder(path.parent)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        yield temporary
        temporary.chmod(mode)
        temporary.rename(path)
    except OSError as exc:
        raise file_error(path, exc) from exc
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def store_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that must not exist yet, never through a link. Raises: FileInputError."""
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except OSError as exc:
        raise file_error(path, exc) from exc
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as exc:
        with suppress(OSError):
            path.unlink()
        raise file_error(path, exc) from exc
