"""The capsule: a model's files in one, encrypted chunk by chunk. Specified in docs/format.md.

Writing is one pass with constant memory; reading opens one file at a time and gives no plaintext of a chunk before that
chunk was authenticated. Pure: streams, keys and randomness come in.
"""

import contextlib
import copy
import hashlib
import io
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import CapsuleChunkError, CapsuleFormatError, CapsuleIndexError, InputError, VaultError
from tacit.vault import layout
from tacit.vault.keys import derive_capsule_keys
from tacit.vault.layout import CapsuleFile, Header, Index

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""

_CHUNK = 1 << layout.CHUNK_POWER
_THREADS = (
    2  # AES-GCM leaves Python's lock: one thread decrypts while the other waits for the storage or for fresh pages
)
_THREADED = 16  # chunks; below that a second thread costs more than it gives
_HUGE = 2 << 20  # bytes; the size of a huge page on x86-64

__all__ = [
    "Capsule",
    "CapsuleFile",
    "CapsuleInfo",
    "Progress",
    "Source",
    "read_capsule",
    "read_header",
    "write_capsule",
]


@dataclass(frozen=True, slots=True)
class CapsuleInfo:
    """What a capsule is: its public `id` (32 bytes), and once it was opened the model's name, version and files.

    Read without its key, `name` is empty, `version` 0 and `files` empty: they are encrypted.
    """

    id: bytes
    name: str = ""
    version: int = 0
    files: tuple[CapsuleFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A file to put into a capsule: its name there, its size, and how to open it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


def write_capsule(
    out: BinaryIO,
    sources: Sequence[Source],
    key: bytes,
    *,
    name: str,
    version: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
    progress: Progress | None = None,
) -> CapsuleInfo:
    """Write a capsule of `sources`, in their order, with a fresh salt. Memory: two chunks, whatever the size.

    Raises:
        CapsuleIndexError: a name that could leave the folder, or no file at all; a model name or version without sense.
        InputError: a file changed its size while it was read.
    """
    layout.check_model(name, version)
    layout.check_names([source.name for source in sources])
    salt = random_bytes(layout.SALT)
    keys = derive_capsule_keys(key, salt)
    header = layout.build_header(salt, keys.commitment)
    out.write(header)
    writer = _ChunkWriter(out, keys.content, header, total=sum(source.size for source in sources), progress=progress)
    tags = tuple(writer.write(number, source) for number, source in enumerate(sources))
    files = tuple(CapsuleFile(source.name, source.size) for source in sources)
    sealed = layout.seal_index(Index(name, version, files, tags), header, keys.index)
    if len(sealed) > layout.MAX_INDEX:
        raise CapsuleIndexError(
            f"the list of files takes {len(sealed)} bytes, and at most {layout.MAX_INDEX} are allowed"
        )
    out.write(sealed)
    out.write(layout.TRAILER.pack(len(sealed), layout.END))
    return CapsuleInfo(layout.capsule_id(header, sealed), name, version, files)


class _ChunkWriter:
    """Encrypts files into `out`, reusing two buffers."""

    def __init__(self, out: BinaryIO, key: bytes, header: bytes, *, total: int, progress: Progress | None) -> None:
        self._out, self._cipher, self._aad = out, AESGCM(key), hashlib.sha256(header).digest()
        self._plain, self._sealed = bytearray(_CHUNK), bytearray(_CHUNK + layout.TAG)
        self._total, self._done, self._progress = total, 0, progress

    def write(self, number: int, source: Source) -> bytes:
        """Encrypt one file and give the digest of its chunks' tags."""
        tags, left = hashlib.sha256(), source.size
        plain, whole = memoryview(self._plain), memoryview(self._sealed)
        count = layout.chunk_count(source.size, _CHUNK)
        with source.open() as stream:
            for chunk in range(count):
                size = min(left, _CHUNK)
                if _read_into(stream, plain[:size]) < size:
                    raise InputError(f"{source.name} shrank while it was read; encrypt it when nobody writes to it")
                nonce = layout.chunk_nonce(number, chunk, last=chunk == count - 1)
                sealed = whole[: size + layout.TAG]
                self._cipher.encrypt_into(nonce, plain[:size], self._aad, sealed)
                tags.update(sealed[size:])
                self._out.write(sealed)
                left -= size
                self._done += size
                if self._progress is not None:
                    self._progress(self._done, self._total)
            if stream.read(1):
                raise InputError(f"{source.name} grew while it was read; encrypt it when nobody writes to it")
        return tags.digest()


def _read_into(stream: BinaryIO, target: memoryview) -> int:
    """Fill `target` as far as the stream goes, and give the bytes read."""
    at = 0
    while at < len(target):
        got = stream.readinto(target[at:])  # type: ignore[attr-defined]
        if not got:
            break
        at += got
    return at


def _read(stream: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes, fewer only at the end."""
    content = bytearray(size)
    return bytes(content[: _read_into(stream, memoryview(content))])


def read_header(stream: BinaryIO) -> CapsuleInfo:
    """What can be said of a capsule without its key: its id. Raises: CapsuleFormatError."""
    header, sealed, _ = _frame(stream)
    return CapsuleInfo(layout.capsule_id(header.raw, sealed))


def read_capsule(stream: BinaryIO, key: bytes) -> "Capsule":
    """Open a capsule; its files are read later, one by one.

    Raises:
        CapsuleFormatError: not a capsule, cut, or with bytes behind its end.
        CapsuleKeyError: another key.
        CapsuleIndexError: the list of files was altered, or does not fit the chunks.
    """
    header, sealed, chunks_end = _frame(stream)
    keys = derive_capsule_keys(key, header.salt)
    layout.verify_key(header, keys)
    index = layout.open_index(sealed, header, keys.index)
    expected = layout.HEADER.size + sum(layout.sealed_size(file.size, header.chunk_size) for file in index.files)
    if expected != chunks_end:
        raise CapsuleFormatError(
            f"the capsule's chunks take {chunks_end - layout.HEADER.size} bytes, expected {expected - layout.HEADER.size}: "
            "it was cut or something was put in; take it from its source again"
        )
    return Capsule(stream, header, index, keys.content, layout.capsule_id(header.raw, sealed))


def _frame(stream: BinaryIO) -> tuple[Header, bytes, int]:
    """Header, sealed index, and where the chunks end. Raises: CapsuleFormatError."""
    stream.seek(0)
    header = layout.parse_header(_read(stream, layout.HEADER.size))
    size = stream.seek(0, io.SEEK_END)
    trailer_at = size - layout.TRAILER.size
    if trailer_at < layout.HEADER.size:
        raise CapsuleFormatError("the capsule was cut: it has no end; copy it again")
    stream.seek(trailer_at)
    trailer = _read(stream, layout.TRAILER.size)
    if len(trailer) < layout.TRAILER.size:
        raise CapsuleFormatError("the capsule became shorter while it was read; copy it again")
    length, mark = layout.TRAILER.unpack(trailer)
    index_at = trailer_at - length
    if mark != layout.END or not layout.TAG < length <= layout.MAX_INDEX or index_at < layout.HEADER.size:
        raise CapsuleFormatError("the capsule's end is damaged: it was cut, or bytes were appended; copy it again")
    stream.seek(index_at)
    return header, _read(stream, length), index_at


class Capsule:
    """An opened capsule. Every byte that comes out of it was authenticated first. Several threads may read at once."""

    def __init__(self, stream: BinaryIO, header: Header, index: Index, content_key: bytes, identity: bytes) -> None:
        self._stream, self._header, self._index = stream, header, index
        self._cipher, self._aad = AESGCM(content_key), hashlib.sha256(header.raw).digest()
        self._place = threading.Lock()  # the stream has one place: who moves it reads before the next may
        self.info = CapsuleInfo(identity, index.model, index.version, index.files)
        self._offsets, offset = [], layout.HEADER.size
        for file in index.files:
            self._offsets.append(offset)
            offset += layout.sealed_size(file.size, header.chunk_size)

    def read(self, name: str) -> memoryview:
        """A whole file in fresh memory, writable and shared with nobody.

        Raises:
            CapsuleIndexError: there is no such file.
            CapsuleChunkError: a chunk was altered, cut or moved.
        """
        content = _allocate(self.info.files[self._number(name)].size)
        self.read_into(name, content)
        return content

    def read_into(self, name: str, target: memoryview) -> None:
        """A whole file into memory of exactly its size that the caller has. What a refusal leaves there is not to be used.

        Raises: as `read`, and InputError when `target` has another size.
        """
        number = self._number(name)
        size, step = self.info.files[number].size, self._header.chunk_size
        if target.nbytes != size or target.itemsize != 1:
            raise InputError(
                f"{name} has {size} bytes, and memory for {target.nbytes} was given; give bytes of its size"
            )
        count = layout.chunk_count(size, step)
        tags = [b""] * count
        failed = threading.Event()
        threads = _THREADS if count >= _THREADED else 1

        def work(first: int) -> None:
            sealed = memoryview(bytearray(min(size, step) + layout.TAG))
            for chunk in range(first, count, threads):
                if failed.is_set():
                    return
                try:
                    tags[chunk] = self._open_chunk(number, chunk, sealed, target[chunk * step : (chunk + 1) * step])
                except BaseException:
                    failed.set()
                    raise

        if threads == 1:
            work(0)
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="capsule") as pool:
                for _ in pool.map(work, range(threads)):
                    pass  # a refusal comes out here; no future is kept beside it, whose error would hold on to our views
        self._verify_tags(number, b"".join(tags))

    def iter_chunks(self, name: str) -> Iterator[memoryview]:
        """A file piece by piece; each piece is valid until the next is asked for. Raises: as `read`."""
        number = self._number(name)
        size, step = self.info.files[number].size, self._header.chunk_size
        plain = memoryview(bytearray(min(size, step)))
        sealed = memoryview(bytearray(min(size, step) + layout.TAG))
        tags, last = bytearray(), layout.chunk_count(size, step) - 1
        for chunk in range(last + 1):
            piece = plain[: size - chunk * step]
            tags += self._open_chunk(number, chunk, sealed, piece)
            if chunk == last:
                self._verify_tags(number, bytes(tags))
            yield piece

    def open(self, name: str) -> BinaryIO:
        """A file as a stream, one chunk in memory at a time. Raises: as `read`, while it is read."""
        return io.BufferedReader(_ChunkStream(self.iter_chunks(name)))

    def close(self) -> None:
        """Close the stream below."""
        self._stream.close()

    def __enter__(self) -> "Capsule":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Capsule {self.info.name!r} version {self.info.version}, {len(self.info.files)} files, id {self.info.id.hex()[:16]}>"

    def _number(self, name: str) -> int:
        for number, file in enumerate(self.info.files):
            if file.name == name:
                return number
        raise CapsuleIndexError(
            f"the capsule has no file {name!r}; it has {', '.join(file.name for file in self.info.files[:10])}"
        )

    def _open_chunk(self, number: int, chunk: int, sealed: memoryview, target: memoryview) -> bytes:
        """Decrypt one chunk into `target`, which has its size, by way of the buffer `sealed`; give its tag."""
        file, step = self.info.files[number], self._header.chunk_size
        sealed = sealed[: len(target) + layout.TAG]
        with self._place:
            self._stream.seek(self._offsets[number] + chunk * (step + layout.TAG))
            # Copied before it is checked: storage that changes under us cannot show two things to one decryption.
            if _read_into(self._stream, sealed) < len(sealed):
                raise CapsuleChunkError(
                    f"chunk {chunk} of {file.name} was cut off while it was read; copy the capsule again"
                )
        nonce = layout.chunk_nonce(number, chunk, last=chunk == layout.chunk_count(file.size, step) - 1)
        try:
            self._cipher.decrypt_into(nonce, sealed, self._aad, target)
        except InvalidTag as exc:
            raise CapsuleChunkError(
                f"chunk {chunk} of {file.name} was altered, or stands in another place; take the capsule from its source again"
            ) from exc
        return bytes(sealed[len(target) :])

    def _verify_tags(self, number: int, tags: bytes) -> None:
        """Refuse chunks that the index does not know, whoever made them. Raises: CapsuleChunkError."""
        if hashlib.sha256(tags).digest() != self._index.tags[number]:
            raise CapsuleChunkError(
                f"the chunks of {self.info.files[number].name} are not those that the capsule was closed with; "
                "take it from its source again"
            )


def _allocate(size: int) -> memoryview:
    """Zeroed memory, in huge pages where the system has them: faulting in small ones takes longer than decrypting."""
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:
        raise MemoryError(f"no {size} bytes of memory for a file of the capsule") from exc
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class _ChunkStream(io.RawIOBase):
    """A file's chunks as a readable stream."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")
        self._refusal: VaultError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        while not self._rest:
            if self._refusal is not None:
                raise copy.copy(self._refusal)
            try:
                piece = next(self._chunks, None)
            except VaultError as exc:
                # Kept: a reader that asks again must not take the refusal for the end of the file. Not the raised one, which
                # knows this frame: up to Python 3.11.7, a cycle of garbage with a view in it crashes its collector.
                self._refusal = copy.copy(exc)
                raise
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
