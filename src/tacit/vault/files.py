"""Capsules and the demo's files on a disk: written whole or not at all, and plaintext only where it is memory."""

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tacit.errors import CapsuleIndexError, FileInputError, PlaintextError
from tacit.vault.capsule import Capsule, CapsuleInfo, Progress, Source, read_capsule, read_header, write_capsule
from tacit.vault.layout import MAX_FILES
from tacit.vault.legacy import iter_decrypted_ctr, iter_encrypted_ctr

_MEMORY = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mountinfo")

__all__ = [
    "CapsuleInfo",
    "decrypt_ctr",
    "encrypt_ctr",
    "open_capsule",
    "read_capsule_header",
    "rekey_capsule",
    "require_tmpfs",
    "seal_folder",
]


def seal_folder(
    source: Path, target: Path, key: bytes, *, name: str, version: int, progress: Progress | None = None
) -> CapsuleInfo:
    """Encrypt a file, or all files below a folder, into the capsule `target`, which is replaced whole or left as it was.

    Raises:
        FileInputError: something cannot be read or written.
        CapsuleIndexError: a link, a device or an unusable name among the files, or none at all.
    """
    sources = list_sources(source)
    with _replacing(target) as out:
        return write_capsule(out, sources, key, name=name, version=version, progress=progress)


def list_sources(source: Path) -> list[Source]:
    """The files of a model, sorted by name. Raises: FileInputError, CapsuleIndexError."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISREG(mode):
            return [_source(source, source.name)]
        if not stat.S_ISDIR(mode):
            raise FileInputError(f"{source} is neither a file nor a folder; give a model")
        files = sorted(_walk(source))
        if len(files) > MAX_FILES:
            raise CapsuleIndexError(f"{source} has more than {MAX_FILES} files; is it the model's folder?")
        if not files:
            raise CapsuleIndexError(f"{source} has no file in it; give the folder that holds the model")
        return [_source(path, path.relative_to(source).as_posix()) for path in files]
    except OSError as exc:
        raise FileInputError(f"cannot read {exc.filename or source}: {exc.strerror}") from exc


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below `folder`. A link could lead out of the model, and a device never ends: both are refused."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            else:
                kind = "a link" if entry.is_symlink() else "no regular file"
                raise CapsuleIndexError(
                    f"{entry.path} is {kind}; a capsule holds regular files only, so copy it or take it away"
                )


def _source(path: Path, name: str) -> Source:
    return Source(name, path.stat().st_size, lambda: path.open("rb", buffering=0))


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
    source: Path, target: Path, old_key: bytes, new_key: bytes, *, progress: Progress | None = None
) -> CapsuleInfo:
    """Encrypt a capsule anew under another key, chunk by chunk in memory; the plaintext touches no disk.

    It is a new capsule with a new id. Whoever has an old copy and the old key still reads that copy.
    Raises: as `open_capsule`, and FileInputError.
    """
    with open_capsule(source, old_key) as old, _replacing(target) as out:
        sources = [
            Source(file.name, file.size, lambda name=file.name: old.open(name))  # type: ignore[misc]
            for file in old.info.files
        ]
        return write_capsule(out, sources, new_key, name=old.info.name, version=old.info.version, progress=progress)


def encrypt_ctr(source: Path, target: Path, key: bytes, *, iv: bytes, progress: Progress | None = None) -> None:
    """Encrypt a file in the demo's format, which authenticates nothing. Raises: FileInputError."""
    with _open(source) as stream, _replacing(target) as out:
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

    Raises:
        PlaintextError: `path` does not lie on a tmpfs, or that cannot be told.
    """
    real = path.resolve()
    try:
        mounts = [_mount(line) for line in _MOUNTS.read_text().splitlines()]
    except OSError as exc:
        raise PlaintextError(f"cannot tell whether {path} is memory: {_MOUNTS} is not readable") from exc
    # The longest mount point above the path counts, and of two at one place the later one.
    above = [
        (len(point.parts), number, kind) for number, (point, kind) in enumerate(mounts) if real.is_relative_to(point)
    ]
    kind = max(above)[2] if above else "nothing known"
    if kind not in _MEMORY:
        raise PlaintextError(
            f"{path} lies on {kind}, and a model's plaintext must not reach a disk; use a folder on a tmpfs, such as /dev/shm"
        )


def _mount(line: str) -> tuple[Path, str]:
    """Mount point and file system of one line. Source: proc_pid_mountinfo(5)."""
    before, _, after = line.partition(" - ")
    point = before.split(" ")[4].encode().decode("unicode_escape") if "\\" in before else before.split(" ")[4]
    return Path(point), after.split(" ", 1)[0]


def _open(path: Path) -> BinaryIO:
    """Open a regular file. Raises: FileInputError."""
    try:
        stream = path.open("rb", buffering=0)
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            stream.close()
            raise FileInputError(f"{path} is no regular file")
    except FileNotFoundError as exc:
        raise FileInputError(f"{path} does not exist") from exc
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}") from exc
    return stream


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` when the block ends well, and leaves no trace otherwise."""
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            yield out
            os.fsync(out.fileno())
        temporary.replace(target)
        temporary = None
    except OSError as exc:
        raise FileInputError(f"cannot write {target}: {exc.strerror or exc}; choose another place") from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
