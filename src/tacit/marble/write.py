"""Writes files that hold secrets: whole or not at all wherever another file can take the place, and never astray.

A path that somebody else's symbolic link bends is refused: it would carry a private key to a place of that person's
choice. So is one that leads into a folder of keys of ours, or by a link out of memory onto a disk. The rest is as if the
path were opened for writing: a link of our own is followed, what is no file is written into.
"""

import errno
import fcntl
import glob
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tacit.errors import FileInputError, PlaintextError
from tacit.marble.activate import DEVICE_PATH
from tacit.vault import require_tmpfs

KEY_FOLDERS = re.compile(r"tacit-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d+-.+|\.tacit-[a-z0-9_]{8}")
"""Names of folders in memory that hold a marble's keys; the second, before they get their own."""
_PART = ".part"
_MAX_LINKS = 40  # as the kernel follows
_NO_OTHER = (errno.EBUSY, errno.EROFS)
"""A file that is mounted by itself cannot be replaced, and in a folder that is read-only no other file can be written."""


def store_key(path: Path, content: bytes) -> None:
    """Write `content` to `path` for its owner alone, whatever stood there. Raises: FileInputError."""
    with _writing(path):
        check_links(path)
        make_folders(path.parent)
        _replace(path, content, None)


def store_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`: missing folders 0700, a new file 0600; one of ours or the system's keeps its mode.

    Raises:
        FileInputError: the path cannot be written, or it leads to where no secret may go.
    """
    with _writing(path):
        links = check_links(path)
        make_folders(path.parent)
        if path.absolute().as_posix().startswith(DEVICE_PATH):
            # Gramine's pseudo files take one write in place; there is no renaming there.
            _write_device(path, content)
            return
        _check_keys(path)
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        if there is not None and not _is_plain(there):
            _write_stream(path, there, content)
            return
        target = _behind_links(path, links)
        try:
            _replace(target, content, there)
        except OSError as exc:
            if there is None or exc.errno not in _NO_OTHER:
                raise
            descriptor = _open_own(target, there, os.O_NOFOLLOW)
            os.ftruncate(descriptor, 0)
            _write_into(descriptor, content)


def check_links(path: Path) -> tuple[Path, ...]:
    """Refuse a path through a symbolic link, or through what that leads to, that is neither ours nor the system's.

    Returns the links on the way.

    Raises:
        FileInputError: it is somebody else's.
        OSError: links that go in a circle, or a file where a folder should be.
    """
    pending, found = [path.absolute()], list[Path]()
    while pending:
        whole = pending.pop()
        for part in (*reversed(whole.parents), whole):
            try:
                info = part.lstat()
            except FileNotFoundError:
                break
            if not stat.S_ISLNK(info.st_mode):
                continue
            if info.st_uid not in _trusted():
                raise FileInputError(
                    f"{path} goes through the symbolic link {part}, which belongs to user {info.st_uid}: secrets are not "
                    "written where another user points; remove the link"
                )
            found.append(part)
            if len(found) > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            pending.append(Path(os.path.realpath(part.parent)) / part.readlink())
    return tuple(found)


def make_folders(folder: Path) -> None:
    """Missing folders, each 0700: pathlib gives the mode to the last one only."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """One line for what goes wrong with a file. Raises: FileInputError."""
    try:
        yield
    except OSError as exc:
        raise FileInputError(f"cannot write {path}: {exc.strerror}") from exc


def _trusted() -> frozenset[int]:
    """Users who may say where a secret goes: root and this one."""
    return frozenset((0, os.geteuid()))


def _check_keys(path: Path) -> None:
    real = Path(os.path.realpath(path))
    if any(KEY_FOLDERS.fullmatch(part) for part in real.parts):
        raise FileInputError(
            f"{path} leads to {real}, where a marble's keys lie: nothing else is written there; name another path in the "
            "manifest, or remove the link"
        )


def _is_plain(there: os.stat_result) -> bool:
    """Whether it is a file, and not the one that our own output goes to, which would lose what follows."""
    return stat.S_ISREG(there.st_mode) and _own_output(there) is None


def _own_output(there: os.stat_result) -> int | None:
    """The number of our own output that this is, as behind /dev/stdout."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return number
    return None


def _behind_links(path: Path, links: tuple[Path, ...]) -> Path:
    """What links of our own lead to in the end; anything else is itself. Raises: FileInputError."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if out := next((link for link in links if _in_memory(link.parent)), None):
        try:
            require_tmpfs(Path(os.path.realpath(path)))
        except PlaintextError as exc:
            raise FileInputError(
                f"{path} goes through {out}, which lies in memory and is a link to what does not: a secret would reach a "
                "disk; remove the link"
            ) from exc
    return target


def _in_memory(folder: Path) -> bool:
    try:
        require_tmpfs(folder)
    except PlaintextError:
        return False
    return True


def _open_own(path: Path, there: os.stat_result, flags: int) -> int:
    """What was looked at, and nothing that took its place, opened for writing. Raises: OSError, FileInputError."""
    if there.st_uid not in _trusted():
        raise FileInputError(
            f"{path} belongs to user {there.st_uid} and can only be written into: secrets are not handed to another user; "
            "remove it"
        )
    descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC | flags)
    if not os.path.samestat(os.fstat(descriptor), there):
        os.close(descriptor)
        raise FileInputError(f"{path} was exchanged for another while it was opened: nothing is written into it")
    return descriptor


def _replace(path: Path, content: bytes, there: os.stat_result | None) -> None:
    """A whole new file at `path`, in the place of the one that is there. Raises: OSError."""
    descriptor, temporary = _begin_beside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if there is not None:
                _keep_mode(descriptor, there)
            os.fsync(descriptor)  # before the name: a power cut leaves the whole file, or none
            temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _keep_mode(descriptor: int, there: os.stat_result) -> None:
    """Who could read the old file can read the new one, unless the old one was put there by another user."""
    if there.st_uid not in _trusted():
        return
    mode = there.st_mode & 0o777
    try:
        os.fchown(descriptor, -1, there.st_gid)
    except OSError:
        mode &= 0o707  # what the old group could do is not for another one
    os.fchmod(descriptor, mode)


def _begin_beside(path: Path) -> tuple[int, Path]:
    """A new file (0600) beside `path`, locked while it is open. What a process that was killed left there is removed."""
    prefix = f".{path.name[:100]}."
    for left in path.parent.glob(f"{glob.escape(prefix)}*{_PART}"):
        with suppress(OSError):  # gone meanwhile, somebody else's, or still being written
            lock = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(lock)
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_PART, dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # another process saw it before it was locked


def _write_stream(path: Path, there: os.stat_result, content: bytes) -> None:
    """Into a pipe, a device or our own output; a pipe waits for its reader. Raises: OSError, FileInputError."""
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(0, "it is a folder")
    own = _own_output(there)
    if own is not None:
        _write_into(os.dup(own), content)
        return
    _write_into(_open_own(path, there, 0), content)


def _write_into(descriptor: int, content: bytes) -> None:
    """All of it, and the descriptor closed. Raises: OSError."""
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)


def _write_device(path: Path, content: bytes) -> None:
    """One write, with nothing buffered: each is a request of its own, and refused where it is made. Raises: OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        taken = os.write(descriptor, content)
    finally:
        os.close(descriptor)
    if taken != len(content):
        raise OSError(errno.EIO, f"it took {taken} of {len(content)} bytes")
