"""Reading what the owner names and writing what the owner wants, whole or not at all.

Every failure of the file system becomes one line with the path and the way out.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tacit.errors import FileInputError
from tacit.vault.files import sync_folder

COPY_SIZE = 1 << 20  # bytes read and written at once
_NAME_KEPT = 60  # characters of a name in that of its unfinished file, which must not grow longer than 255 bytes

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


def refuse_existing(path: Path, *, force: bool) -> None:
    """Say that the file `path` exists, or that something stands there which is never replaced; before any work is done.

    Raises: FileInputError.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise FileInputError(f"{path} is {kind}, which is never replaced; name a file")
    if not force and os.path.lexists(path):
        raise FileInputError(f"{path} exists already; --force replaces it")


def refuse_taken(path: Path) -> None:
    """Say that something stands at `path`, before any work is done. Raises: FileInputError."""
    if os.path.lexists(path):
        raise FileInputError(f"{path} exists already; name another place with --out")


def refuse_same(path: Path, others: Mapping[str, Path]) -> None:
    """Refuse to write over a file that is read, by whatever name. `others`: each with what it is. Raises: FileInputError."""
    for what, other in others.items():
        if os.path.realpath(path) == os.path.realpath(other) or _is_same(path, other):
            raise FileInputError(f"{path} is {what} itself, which would be lost; name another file with --out")


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names are one file: by two links, or where case does not count."""
    with suppress(OSError):
        return path.samefile(other)
    return False


def refuse_inside(path: Path, folder: Path, *, what: str) -> None:
    """Refuse a file within the folder that is encrypted: it would become part of the model. Raises: FileInputError."""
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise FileInputError(
            f"{what} {path} lies in the model's folder {folder}, and would become part of the model; keep it elsewhere"
        )


def check_writable(folder: Path) -> None:
    """Make sure that a file can be written there, before work is done that would be in vain. Raises: FileInputError."""
    make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise file_error(folder, exc) from exc


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises: FileInputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise file_error(path, exc) from exc


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end of the block, whole and on the disk, or leaves nothing behind.

    A link is followed: what it leads to is replaced, and the link stays. Raises: FileInputError.
    """
    made = _missing_above(path)
    make_folder(path.parent)
    temporary: Path | None = None
    try:
        target = Path(os.path.realpath(path))
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:_NAME_KEPT]}.", suffix=".part", dir=target.parent)
        os.close(descriptor)
        temporary = Path(name)
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
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
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:_NAME_KEPT]}.", suffix=".part", dir=path.parent))
        yield temporary
        temporary.chmod(mode)
        temporary.rename(path)
    except OSError as exc:
        raise file_error(path, exc) from exc
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def store_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that must not exist yet, never through a link, onto the disk. Raises: FileInputError."""
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
        sync_folder(path.parent)
    except OSError as exc:
        with suppress(OSError):
            path.unlink()
        raise file_error(path, exc) from exc
