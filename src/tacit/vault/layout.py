"""The bytes of a capsule that are not chunks: header, index and trailer. Pure; docs/format.md has the same in prose.

header   80  magic 8, version u16, chunk size as a power of two u8, zeros 5, salt 32, key commitment 32
chunks       every file in the index's order: ciphertext of at most one chunk, tag 16
index        sealed JSON
trailer  16  length of the sealed index u64, end mark 8
"""

import hashlib
import hmac
import struct
import unicodedata
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import CapsuleFormatError, CapsuleIndexError, CapsuleKeyError
from tacit.vault.keys import CapsuleKeys

MAGIC = b"TACITCAP"
END = b"TACITEND"
VERSION = 1
CHUNK_POWER = 20  # chunks of 1 MiB: large enough for the speed of AES-GCM, small enough to hold a few in memory
TAG = 16
SALT = 32
HEADER = struct.Struct("<8sHB5x32s32s")
TRAILER = struct.Struct("<Q8s")
MAX_INDEX = 16 << 20  # bytes; refused before memory is taken
MAX_FILES = 10_000
_INDEX_NONCE = bytes(12)  # the index key seals one message in its life
_NAME_LIMIT = 255  # bytes of one part of a path, as file systems have it
_PATH_LIMIT = 1024  # bytes of a whole name: a folder's own path must fit before it in the 4096 that Linux takes
_MAX_VERSION = (1 << 63) - 1  # versions are int64 in the serving protocols


@dataclass(frozen=True, slots=True)
class CapsuleFile:
    """A file inside: its relative path with `/`, and its size in bytes."""

    name: str
    size: int


class _FileJson(msgspec.Struct, forbid_unknown_fields=True, rename="lower"):
    name: str
    size: int
    tags: str  # SHA-256 over the tags of its chunks, hex: binds the index to the very chunks


class _IndexJson(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: int
    files: list[_FileJson]


@dataclass(frozen=True, slots=True)
class Index:
    """What the index says: the model's name and version, its files in order, and a digest of each file's tags."""

    model: str
    version: int
    files: tuple[CapsuleFile, ...]
    tags: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes. `raw` is what everything else is bound to."""

    raw: bytes
    salt: bytes
    commitment: bytes
    chunk_size: int


def build_header(salt: bytes, commitment: bytes) -> bytes:
    """The header's bytes."""
    return HEADER.pack(MAGIC, VERSION, CHUNK_POWER, salt, commitment)


def parse_header(raw: bytes) -> Header:
    """The header. Raises: CapsuleFormatError."""
    if len(raw) < HEADER.size or not raw.startswith(MAGIC):
        raise CapsuleFormatError("this is no capsule: it does not begin as one; `tacit model encrypt` makes one")
    _, version, power, salt, commitment = HEADER.unpack(raw[: HEADER.size])
    if version != VERSION:
        raise CapsuleFormatError(f"the capsule has version {version}, and this program knows {VERSION}; update it")
    if power != CHUNK_POWER or any(raw[11:16]):
        raise CapsuleFormatError(
            "the capsule's header is damaged: unknown chunk size or reserved bytes; take it from its source again"
        )
    return Header(raw[: HEADER.size], salt, commitment, 1 << power)


def verify_key(header: Header, keys: CapsuleKeys) -> None:
    """Refuse a key that this capsule was not made for. Raises: CapsuleKeyError."""
    if not hmac.compare_digest(header.commitment, keys.commitment):
        raise CapsuleKeyError(
            "this key does not open this capsule: it was encrypted with another one, or its header was altered"
        )


def sealed_size(size: int, chunk_size: int) -> int:
    """Bytes that a file of `size` takes in the capsule. An empty file has one empty chunk, so that it is bound too."""
    return size + TAG * chunk_count(size, chunk_size)


def chunk_count(size: int, chunk_size: int) -> int:
    """Chunks of a file."""
    return max(1, -(-size // chunk_size))


def chunk_nonce(file: int, chunk: int, *, last: bool) -> bytes:
    """The nonce that binds a chunk to its file, its place and the end of its file; unique under one content key."""
    return struct.pack(">IQ", file, chunk << 1 | last)


def seal_index(index: Index, header: bytes, key: bytes) -> bytes:
    """The index as it stands in the capsule."""
    wire = _IndexJson(
        index.model,
        index.version,
        [_FileJson(file.name, file.size, tags.hex()) for file, tags in zip(index.files, index.tags, strict=True)],
    )
    return AESGCM(key).encrypt(_INDEX_NONCE, msgspec.json.encode(wire), hashlib.sha256(header).digest())


def open_index(sealed: bytes, header: Header, key: bytes) -> Index:
    """The index, authentic and with names that are safe to use. Raises: CapsuleIndexError."""
    try:
        raw = AESGCM(key).decrypt(_INDEX_NONCE, sealed, hashlib.sha256(header.raw).digest())
        wire = msgspec.json.decode(raw, type=_IndexJson)
    except InvalidTag as exc:
        raise CapsuleIndexError(
            "the capsule's list of files was altered: a file renamed, resized, added or taken away; take it from its source again"
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CapsuleIndexError("the capsule's list of files cannot be read; a newer program may have made it") from exc
    files = tuple(CapsuleFile(file.name, file.size) for file in wire.files)
    check_model(wire.model, wire.version)
    check_names([file.name for file in files])
    if any(file.size < 0 for file in files):
        raise CapsuleIndexError("the capsule's list of files has a negative size")
    try:
        tags = tuple(bytes.fromhex(file.tags) for file in wire.files)
    except ValueError as exc:
        raise CapsuleIndexError("the capsule's list of files has a damaged digest") from exc
    return Index(wire.model, wire.version, files, tags)


def capsule_id(header: bytes, sealed_index: bytes) -> bytes:
    """The capsule's public identity, 32 bytes: a hash over header and sealed index, which cover every chunk."""
    return hashlib.sha256(b"tacit capsule v1 id\0" + header + sealed_index).digest()


def check_model(name: str, version: int) -> None:
    """Refuse a model's name that is not plain text, or a version that is no int64 from 0. Raises: CapsuleIndexError."""
    if not name or _has_invisible(name) or len(name.encode()) > _NAME_LIMIT:
        raise CapsuleIndexError(
            f"{name[:40]!r} is no name for a model; expected 1 to {_NAME_LIMIT} bytes of text without control characters"
        )
    if not 0 <= version <= _MAX_VERSION:
        raise CapsuleIndexError(f"{version} is no version of a model; expected a number from 0 to {_MAX_VERSION}")


def check_names(names: list[str]) -> None:
    """Refuse names that could leave the model's folder, or mean two files at once (T42). Raises: CapsuleIndexError."""
    if not names:
        raise CapsuleIndexError("there is no file; a model has at least one")
    if len(names) > MAX_FILES:
        raise CapsuleIndexError(f"there are {len(names)} files, and a capsule holds at most {MAX_FILES}")
    seen: dict[str, str] = {}
    for name in names:
        _check_name(name)
        # One file system may take two names for one: those that differ in case or in Unicode form only.
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise CapsuleIndexError(
                f"the names {seen[folded]!r} and {name!r} mean one file on some systems; rename one"
            )
        seen[folded] = name
    for folded, name in seen.items():
        above = folded
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in seen:
                raise CapsuleIndexError(f"{seen[above]!r} cannot be a file and the folder of {name!r}; rename one")


def _has_invisible(text: str) -> bool:
    """Whether there is a control, format or separator character, or half a surrogate pair (a name that is not UTF-8)."""
    return any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)


def _check_name(name: str) -> None:
    parts = name.split("/")
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise CapsuleIndexError(
            f"{name!r} is no relative path inside a model; names must not be empty, absolute, '.' or '..'"
        )
    if "\\" in name or ":" in name or _has_invisible(name):
        raise CapsuleIndexError(f"{name!r} has a backslash, a colon or an invisible character; rename the file")
    if unicodedata.normalize("NFC", name) != name:
        raise CapsuleIndexError(f"{name!r} is not in Unicode form NFC; rename the file")
    if any(len(part.encode()) > _NAME_LIMIT for part in parts) or len(name.encode()) > _PATH_LIMIT:
        raise CapsuleIndexError(
            f"{name[:40]!r}... is longer than {_PATH_LIMIT} bytes, or a part of it than {_NAME_LIMIT}; rename the file"
        )
