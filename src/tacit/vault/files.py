"""Capsules and the demo's files on a disk: written whole or not at all, and plaintext only where it is memory."""

import contextlib
import io
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tacit.errors import CapsuleIndexError, FileInputError, ModelFormatError, PlaintextError
from tacit.vault.capsule import Capsule, CapsuleInfo, Progress, Source, read_capsule, read_header, write_capsule
from tacit.vault.layout import MAX_FILES
from tacit.vault.legacy import iter_decrypted_ctr, iter_encrypted_ctr

_MEMORY = frozenset({"tmpfs", "ramfs"})
_LOOKS = 3  # at the mounts, whose list may change while it is read
_MOUNTS = Path("/proc/self/mountinfo")
_ENCLAVE = Path("/dev/attestation/attestation_type")  # Gramine's, inside an SGX enclave alone

_NAME_KEPT = 60  # characters of a name in that of its unfinished file, which must not grow longer than 255 bytes

__all__ = [
    "CapsuleInfo",
    "Placing",
    "decrypt_ctr",
    "encrypt_ctr",
    "open_capsule",
    "read_capsule_header",
    "rekey_capsule",
    "require_space",
    "require_tmpfs",
    "seal_files",
    "seal_folder",
    "sync_folder",
]


@dataclass(frozen=True, slots=True)
class Placing:
    """How a finished file takes its place: its permissions, and what has to be done just before (a refusal stops it)."""

    mode: int = 0o600
    before: Callable[[], None] = lambda: None


_FOR_OWNER = Placing()


def seal_folder(
    source: Path, target: Path, key: bytes, *, name: str, version: int, progress: Progress | None = None
) -> CapsuleInfo:
    """Encrypt a file, or all files below a folder, into the capsule `target`, which is replaced whole or left as it was.

    Raises:
        FileInputError: something cannot be read or written.
        CapsuleIndexError: a link, a device or an unusable name among the files, or none at all.
    """
    return seal_files(list_sources(source), target, key, name=name, version=version, progress=progress)


def seal_files(
    sources: Sequence[Source],
    target: Path,
    key: bytes,
    *,
    name: str,
    version: int,
    placing: Placing = _FOR_OWNER,
    progress: Progress | None = None,
) -> CapsuleInfo:
    """Encrypt these files into the capsule `target`, which is replaced whole or left as it was. Raises: as `seal_folder`."""
    require_space(target.parent, sources)
    with _replacing(target, placing) as out:
        return write_capsule(out, sources, key, name=name, version=version, progress=progress)


def require_space(folder: Path, sources: Sequence[Source]) -> None:
    """Refuse at once what cannot end well: a capsule larger than what is free. Raises: FileInputError."""
    needed = sum(source.size for source in sources)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        raise FileInputError(f"cannot write to {folder}: {exc.strerror}; choose another place") from exc
    if needed > free:
        raise FileInputError(
            f"the model has {needed:,} bytes and {folder} has {free:,} free; make room, or choose another place"
        )


def list_sources(source: Path) -> list[Source]:
    """The files of a model, sorted by name. Raises: FileInputError, CapsuleIndexError."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISREG(mode):
            return [_source(source.resolve(), source.name)]
        if not stat.S_ISDIR(mode):
            raise FileInputError(f"{source} is neither a file nor a folder; give a model")
        files = sorted(itertools.islice(_walk(source), MAX_FILES + 1))
        if len(files) > MAX_FILES:
            raise CapsuleIndexError(f"{source} has more than {MAX_FILES} files; is it the model's folder?")
        if not files:
            raise CapsuleIndexError(f"{source} has no file in it; give the folder that holds the model")
        return [_source(path, path.relative_to(source).as_posix()) for path in files]
    except OSError as exc:
        raise FileInputError(f"cannot read {exc.filename or source}: {exc.strerror}") from exc


def list_plain_files(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder and the relative names of a model that is not encrypted, sorted.

    A folder holds all that lies below it, links to files too. A single file stands alone, an IR's `.xml` with the
    `.bin` beside it.

    Raises:
        ModelFormatError: too many files.
        OSError: it cannot be listed.
    """
    if not path.is_dir():
        weights = path.with_suffix(".bin")
        beside = [weights.name] if path.suffix == ".xml" and weights.is_file() else []
        return path.parent, (path.name, *beside)
    names = sorted(itertools.islice(_walk_plain(path), MAX_FILES + 1))
    if len(names) > MAX_FILES:
        raise ModelFormatError(f"{path} holds more than {MAX_FILES} files; a model has fewer")
    return path, tuple(names)


def _walk_plain(folder: Path) -> Iterator[str]:
    """Relative names of the files below, where links to files count and links to folders do not. Raises: OSError."""

    def refuse(exc: OSError) -> None:
        raise exc  # what cannot be read must not be missing in silence: the id would be another model's

    for place, folders, files in os.walk(folder, onerror=refuse):
        # Kubernetes mounts each file as a link into a folder beside it (`..2026_11_26`), where it is no second one.
        folders[:] = [name for name in folders if not name.startswith("..")]
        for file in (Path(place, name) for name in files):
            if file.is_file():
                yield file.relative_to(folder).as_posix()


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below `folder`. A link could lead out of the model, and a device never ends: both are refused."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
                else:
                    kind = "a link" if entry.is_symlink() else "no regular file"
                    raise CapsuleIndexError(
                        f"{entry.path} is {kind}; a capsule holds regular files only, so copy it or take it away"
                    )


def _source(path: Path, name: str) -> Source:
    return Source(name, path.stat(follow_symlinks=False).st_size, lambda: _open(path, os.O_NOFOLLOW))


def open_capsule(path: Path, key: bytes) -> Capsule:
    """Open the capsule at `path`; its files are read later, each chunk checked first.

    Raises:
        FileInputError: it cannot be read.
        VaultError: not a capsule, another key, or altered; the class says which.
    """
    stream = _open(path)
    try:
        return read_capsule(stream, key)
    except BaseException:
        stream.close()
        raise


def read_capsule_header(path: Path) -> CapsuleInfo:
    """The id of the capsule at `path`, without its key. Raises: FileInputError, CapsuleFormatError."""
    with _open(path) as stream:
        return read_header(stream)


def rekey_capsule(
    source: Path,
    target: Path,
    old_key: bytes,
    new_key: bytes,
    *,
    placing: Placing = _FOR_OWNER,
    progress: Progress | None = None,
) -> CapsuleInfo:
    """Encrypt a capsule anew under another key, chunk by chunk in memory; the plaintext touches no disk.

    It is a new capsule with a new id. Whoever has an old copy and the old key still reads that copy.
    Raises: as `open_capsule`, and FileInputError.
    """
    with open_capsule(source, old_key) as old, _replacing(target, placing) as out:
        sources = [
            Source(file.name, file.size, lambda name=file.name: old.open(name))  # type: ignore[misc]
            for file in old.info.files
        ]
        return write_capsule(out, sources, new_key, name=old.info.name, version=old.info.version, progress=progress)


def encrypt_ctr(
    source: Path,
    target: Path,
    key: bytes,
    *,
    iv: bytes,
    placing: Placing = _FOR_OWNER,
    progress: Progress | None = None,
) -> None:
    """Encrypt a file in the demo's format, which authenticates nothing. Raises: FileInputError."""
    with _open(source) as stream, _replacing(target, placing) as out:
        total, done = os.fstat(stream.fileno()).st_size, 0
        for piece in iter_encrypted_ctr(stream, key, iv):
            out.write(piece)
            done = min(done + len(piece), total)
            if progress is not None:
                progress(done, total)


def decrypt_ctr(source: BinaryIO | bytes, key: bytes) -> Iterator[bytes]:
    """The plaintext of the demo's format piece by piece, from an open file or from bytes. Raises: VaultError."""
    return iter_decrypted_ctr(io.BytesIO(source) if isinstance(source, bytes) else source, key)


def require_tmpfs(path: Path) -> None:
    """Refuse a place for plaintext that is not memory.

    Gramine shows a process in its enclave no mounts. What is mounted there stands in its manifest, which is measured, so
    there the manifest's word counts.

    Raises:
        PlaintextError: `path` does not lie on a tmpfs, or that cannot be told.
    """
    if not _MOUNTS.exists() and _ENCLAVE.exists():
        return
    real = path.resolve()
    for attempt in range(_LOOKS):
        kind = _file_system(path, real)
        if kind in _MEMORY:
            return
        if kind is not None or attempt == _LOOKS - 1:
            break
    raise PlaintextError(
        f"{path} lies on {kind or 'a file system that cannot be told'}, and a model's plaintext must not reach a disk; "
        "use a folder on a tmpfs, such as /dev/shm"
    )


def _file_system(path: Path, real: Path) -> str | None:
    """The kind of file system that `real` lies on; None where the mounts do not say. Raises: PlaintextError."""
    try:
        mounts = [_mount(line) for line in _MOUNTS.read_bytes().splitlines()]
        device = next(part for part in (real, *real.parents) if part.exists()).stat().st_dev
    except OSError as exc:
        raise PlaintextError(f"cannot tell whether {path} is memory: {exc.filename} is not readable") from exc
    # The longest mount point above the path counts, and of two at one place the later one.
    above = [
        (len(mount.point.parts), number)
        for number, mount in enumerate(mounts)
        if mount is not None and real.is_relative_to(mount.point)
    ]
    mount = mounts[max(above)[1]] if above else None
    # Another device than the mount's: something was mounted over it, and the path lies there.
    return mount.kind if mount is not None and mount.device == device else None


class _Mount(NamedTuple):
    point: Path
    kind: str
    device: int


def _mount(line: bytes) -> _Mount | None:
    """Mount point, file system and device of one line, None if it has none. Source: proc_pid_mountinfo(5)."""
    before, _, after = line.partition(b" - ")
    fields = before.split(b" ")
    if len(fields) < 5 or not after:
        return None
    # The kernel writes blanks and backslashes in octal; all other bytes stand as they are.
    point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
    major, _, minor = fields[2].partition(b":")
    return _Mount(Path(os.fsdecode(point)), os.fsdecode(after.split(b" ", 1)[0]), os.makedev(int(major), int(minor)))


def _open(path: Path, flags: int = 0) -> BinaryIO:
    """Open a regular file. Raises: FileInputError."""
    try:
        # Not blocking, so that a pipe does not hold us up before it is refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except FileNotFoundError as exc:
        raise FileInputError(f"{path} does not exist") from exc
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileInputError(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


@contextmanager
def _replacing(target: Path, placing: Placing) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when the block ends well, and leaves no trace otherwise.

    A link is followed: what it leads to is replaced, and the link stays.
    """
    place = Path(os.path.realpath(target))
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name[:_NAME_KEPT]}.", suffix=".part", dir=place.parent)
        temporary = Path(name)
        # Buffered, for Python then writes the rest when the system took a part only; chunks pass the buffer by.
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fchmod(out.fileno(), placing.mode)
            os.fsync(out.fileno())
        placing.before()
        temporary.replace(place)
        temporary = None
        sync_folder(place.parent)
    except OSError as exc:
        raise FileInputError(f"cannot write {target}: {exc.strerror or exc}; choose another place") from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the new name survive a loss of power too, where the file system can; the file is whole either way."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
