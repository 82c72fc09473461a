"""The capsule: a model's files in one, encrypted chunk by chunk. Specified in docs/format.md.

Writing is one pass with constant memory; reading opens one file at a time and gives no plaintext of a chunk before that
chunk was authenticated. Pure: streams, keys and randomness come in.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import CapsuleChunkError, CapsuleFormatError, CapsuleIndexError, InputError
from tacit.vault import layout
from tacit.vault.keys import derive_capsule_keys
from tacit.vault.layout import CapsuleFile, Header, Index

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""

_CHUNK = 1 << layout.CHUNK_POWER

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
        CapsuleIndexError: a name that could leave the folder, or no file at all.
        InputError: a file changed its size while it was read.
    """
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
        self._plain = memoryview(bytearray(_CHUNK))
        self._sealed = memoryview(bytearray(_CHUNK + layout.TAG))
        self._total, self._done, self._progress = total, 0, progress

    def write(self, number: int, source: Source) -> bytes:
        """Encrypt one file and give the digest of its chunks' tags."""
        tags, left = hashlib.sha256(), source.size
        count = layout.chunk_count(source.size, _CHUNK)
        with source.open() as stream:
            for chunk in range(count):
                size = min(left, _CHUNK)
                self._fill(stream, size, source.name)
                nonce = layout.chunk_nonce(number, chunk, last=chunk == count - 1)
                sealed = self._sealed[: size + layout.TAG]
                self._cipher.encrypt_into(nonce, self._plain[:size], self._aad, sealed)
                tags.update(sealed[size:])
                self._out.write(sealed)
                left -= size
                self._done += size
                if self._progress is not None:
                    self._progress(self._done, self._total)
            if stream.read(1):
                raise InputError(f"{source.name} grew while it was read; encrypt it when nobody writes to it")
        return tags.digest()

    def _fill(self, stream: BinaryIO, size: int, name: str) -> None:
        at = 0
        while at < size:
            got = stream.readinto(self._plain[at:size])  # type: ignore[attr-defined]
            if not got:
                raise InputError(f"{name} shrank while it was read; encrypt it when nobody writes to it")
            at += got


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
    header = layout.parse_header(stream.read(layout.HEADER.size))
    size = stream.seek(0, io.SEEK_END)
    trailer_at = size - layout.TRAILER.size
    if trailer_at < layout.HEADER.size:
        raise CapsuleFormatError("the capsule was cut: it has no end; copy it again")
    stream.seek(trailer_at)
    length, mark = layout.TRAILER.unpack(stream.read(layout.TRAILER.size))
    index_at = trailer_at - length
    if mark != layout.END or not layout.TAG < length <= layout.MAX_INDEX or index_at < layout.HEADER.size:
        raise CapsuleFormatError("the capsule's end is damaged: it was cut, or bytes were appended; copy it again")
    stream.seek(index_at)
    return header, stream.read(length), index_at


class Capsule:
    """An opened capsule. Every byte that comes out of it was authenticated first."""

    def __init__(self, stream: BinaryIO, header: Header, index: Index, content_key: bytes, identity: bytes) -> None:
        self._stream, self._header, self._index = stream, header, index
        self._cipher, self._aad = AESGCM(content_key), hashlib.sha256(header.raw).digest()
        self.info = CapsuleInfo(identity, index.model, index.version, index.files)
        self._offsets, offset = [], layout.HEADER.size
        for file in index.files:
            self._offsets.append(offset)
            offset += layout.sealed_size(file.size, header.chunk_size)

    def read(self, name: str) -> bytearray:
        """A whole file in memory.

        Raises:
            CapsuleIndexError: there is no such file.
            CapsuleChunkError: a chunk was altered, cut or moved.
        """
        file = self.info.files[self._number(name)]
        content = bytearray(file.size)
        view = memoryview(content)
        at = 0
        for size in self._chunks_into(name, lambda at, size: view[at : at + size]):
            at += size
        return content

    def iter_chunks(self, name: str) -> Iterator[memoryview]:
        """A file piece by piece; each piece is valid until the next is asked for. Raises: as `read`."""
        buffer = memoryview(bytearray(self._header.chunk_size))
        for size in self._chunks_into(name, lambda at, size: buffer[:size]):
            yield buffer[:size]

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

    def _chunks_into(self, name: str, target: Callable[[int, int], memoryview]) -> Iterator[int]:
        """Decrypt chunk after chunk into `target(offset, size)` and give each size; at the end check them as a whole."""
        number = self._number(name)
        file, chunk_size = self.info.files[number], self._header.chunk_size
        count = layout.chunk_count(file.size, chunk_size)
        tags = hashlib.sha256()
        sealed = memoryview(bytearray(min(file.size, chunk_size) + layout.TAG))
        offset = self._offsets[number]
        for chunk in range(count):
            size = min(file.size - chunk * chunk_size, chunk_size)
            self._load(sealed[: size + layout.TAG], offset, name, chunk)
            nonce = layout.chunk_nonce(number, chunk, last=chunk == count - 1)
            try:
                self._cipher.decrypt_into(
                    nonce, sealed[: size + layout.TAG], self._aad, target(chunk * chunk_size, size)
                )
            except InvalidTag as exc:
                raise _altered(name, chunk) from exc
            tags.update(sealed[size : size + layout.TAG])
            offset += size + layout.TAG
            if chunk == count - 1 and tags.digest() != self._index.tags[number]:
                raise _altered(name, chunk)
            yield size

    def _load(self, into: memoryview, offset: int, name: str, chunk: int) -> None:
        self._stream.seek(offset)
        at = 0
        while at < len(into):
            got = self._stream.readinto(into[at:])  # type: ignore[attr-defined]
            if not got:
                raise CapsuleChunkError(
                    f"chunk {chunk} of {name} was cut off while it was read; copy the capsule again"
                )
            at += got


def _altered(name: str, chunk: int) -> CapsuleChunkError:
    return CapsuleChunkError(
        f"chunk {chunk} of {name} was altered, or stands in another place; take the capsule from its source again"
    )


class _ChunkStream(io.RawIOBase):
    """A file's chunks as a readable stream."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = piece
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
