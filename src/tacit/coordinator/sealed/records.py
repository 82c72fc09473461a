"""Files of sealed records: appended to, never changed, and worthless when cut open anywhere.

The state is one such file; the audit log is several, under another magic and another key.

File   = header, record, record, ...
Header = magic (8) ‖ version u16 ‖ zero u16 ‖ state id (16) ‖ file id (16) ‖ base epoch u64 ‖ base head (32)
         ‖ key check (16) ‖ checksum (16), big endian
Record = prefix ‖ sealed;  prefix = length of sealed u32 ‖ epoch u64 ‖ nonce (12) ‖ mac (16)

(1) The keys of a file come from the sealing key, the state's id and the file's id by HKDF-SHA256, each under a label.
(2) The head is a hash chain: SHA-256 over a label, the head before and the whole record. A file that continues another
    (a snapshot) names the head and epoch that it continues.
(3) The prefix's mac covers the head before, so a length cannot be altered to make the rest of a file look unfinished.
(4) A record is AES-256-GCM; its associated data are the header's hash, the head before and the prefix. So a record
    opens only in its own file, at its own place, after its own predecessor.
(5) A file begins with a record that says everything (a snapshot), written before the file got its name.

What a crash leaves: a record is answered for only after it was written and synced whole. Bytes at the end that are
fewer than a record, or zeros where its end should be, are a record that was never answered for (`torn`). Whoever cuts
a file inside its last record gets the same picture as a crash, and one epoch less: what tells them apart is the epoch
and head that clients remember.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import SealedStateError, SealingKeyError


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its first bytes, the version that is written and the oldest that is read, its name for people."""

    magic: bytes
    version: int
    oldest: int
    name: str


STATE = Format(b"TACIT\x00ST", 2, 1, "state file")
"""Version 1 had no audit log. The records are the same in both; what they say is not."""
LOG = Format(b"TACIT\x00LG", 1, 1, "log file")
KEY_SIZE = 32  # bytes
ID_SIZE = 16  # bytes, random: no two states or files share one
NONCE_SIZE = 12  # bytes, random; a file has far fewer than 2^32 records
TAG_SIZE = 16
MAX_RECORD = 256 << 20  # bytes; a snapshot of a state with 10,000 marble types has 30 MB

_HEADER = struct.Struct(">8sHH16s16sQ32s16s16s")
_PREFIX = struct.Struct(">IQ12s16s")
_CHECKED = _HEADER.size - 16  # what the checksum covers

_LABEL_LOG_ID = b"tacit log id v1"
_LABEL_SEAL = b"tacit state seal v1"
_LABEL_MAC = b"tacit state prefix v1"
_LABEL_CHECK = b"tacit state key check v1"
_LABEL_HEAD = b"tacit state head v1"
_LABEL_RECORD = b"tacit state record v1"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a state stands: the number of its newest record and the hash over the chain up to it."""

    epoch: int = 0
    head: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class FileStart:
    """A header and what was derived for its file."""

    header: bytes
    state_id: bytes
    version: int
    base: Position
    seal_key: bytes
    mac_key: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says: the payloads in order, where they end, and how many bytes of a record stand unfinished."""

    start: FileStart
    payloads: tuple[bytes, ...]
    position: Position
    torn: int


def start_file(key: bytes, *, state_id: bytes, file_id: bytes, base: Position, format_: Format = STATE) -> FileStart:
    """The beginning of a new file that continues `base`."""
    checked = struct.pack(
        ">8sHH16s16sQ32s16s",
        format_.magic,
        format_.version,
        0,
        state_id,
        file_id,
        base.epoch,
        base.head,
        _key_check(key, state_id),
    )
    return _derive(key, checked + hashlib.sha256(checked).digest()[:16])


def derive_log_id(key: bytes) -> bytes:
    """The id of the log whose files are under this key: it stays when the state gets another key and with it another id."""
    return HKDF(SHA256(), ID_SIZE, None, _LABEL_LOG_ID).derive(key)


def parse_state_id(data: bytes, format_: Format = STATE) -> bytes:
    """The state's id from a file's header.

    Raises:
        SealedStateError: not a file of this kind, or a header that was altered.
    """
    return bytes(_parse_header(data, format_)[3])


def seal_record(payload: bytes, *, start: FileStart, after: Position, nonce: bytes) -> tuple[bytes, Position]:
    """A record to append after `after`, and the position that it brings."""
    epoch = after.epoch + 1
    length = len(payload) + TAG_SIZE
    if length > MAX_RECORD:
        raise SealedStateError(f"a record of {length} bytes; at most {MAX_RECORD} are sealed")
    prefix = _prefix(start, after.head, length, epoch, nonce)
    sealed = AESGCM(start.seal_key).encrypt(nonce, payload, _bound_to(start, after.head, prefix))
    record = prefix + sealed
    return record, Position(epoch, _next_head(after.head, record))


def parse_epoch(data: bytes) -> int:
    """The epoch that a state file says it has reached. Nothing is authenticated: for those who have no key.

    Raises:
        SealedStateError: not a file of this kind, or a header that was altered.
    """
    epoch, at = int(_parse_header(data, STATE)[5]), _HEADER.size
    while at + _PREFIX.size <= len(data):
        length, said, _, _ = _PREFIX.unpack_from(data, at)
        at += _PREFIX.size + length
        if at > len(data) or said != epoch + 1:
            break
        epoch = said
    return epoch


def read_file(data: bytes, key: bytes, format_: Format = STATE) -> Contents:
    """Every payload of a file, checked.

    Raises:
        SealedStateError: cut, reordered or altered; says where.
        SealingKeyError: the key is another state's.
    """
    fields = _parse_header(data, format_)
    state_id, base_epoch, base_head, check = fields[3], fields[5], fields[6], fields[7]
    if not hmac.compare_digest(check, _key_check(key, state_id)):
        raise SealingKeyError(f"the sealing key does not belong to this {format_.name}")
    start = _derive(key, data[: _HEADER.size])
    position = Position(base_epoch, base_head)
    payloads: list[bytes] = []
    at = _HEADER.size
    while at < len(data):
        try:
            payload, end = _open_record(data, at, start, position)
        except _AlteredError as exc:
            raise _damaged(format_, position.epoch + 1, at) from exc
        if payload is None:
            break
        payloads.append(payload)
        position = Position(position.epoch + 1, _next_head(position.head, data[at:end]))
        at = end
    if not payloads:
        raise SealedStateError(f"the {format_.name} is cut: {len(data)} bytes, and not one whole record")
    return Contents(start, tuple(payloads), position, len(data) - at)


def chain(after: Position, payload: bytes) -> Position:
    """The position after a payload that is kept in memory alone: nothing is sealed, the chain goes on."""
    return Position(after.epoch + 1, _next_head(after.head, hashlib.sha256(payload).digest()))


def _open_record(data: bytes, at: int, start: FileStart, after: Position) -> tuple[bytes | None, int]:
    """The payload at `at` and where its record ends; None for a record that was never finished."""
    rest = len(data) - at
    if rest < _PREFIX.size:
        return None, at
    prefix = data[at : at + _PREFIX.size]
    length, epoch, nonce, _ = _PREFIX.unpack(prefix)
    if not hmac.compare_digest(prefix, _prefix(start, after.head, length, epoch, nonce)) or epoch != after.epoch + 1:
        if not any(data[at:]):
            return None, at  # the file system made the file longer and never wrote into it
        raise _AlteredError
    end = at + _PREFIX.size + length
    if end > len(data):
        return None, at
    sealed = data[at + _PREFIX.size : end]
    try:
        return AESGCM(start.seal_key).decrypt(nonce, sealed, _bound_to(start, after.head, prefix)), end
    except InvalidTag:
        if end == len(data) and not any(sealed[-TAG_SIZE:]):
            return None, at  # as above; no seal ends in sixteen zeros
        raise _AlteredError from None


class _AlteredError(Exception):
    """A record that does not authenticate at its place."""


def _damaged(format_: Format, epoch: int, at: int) -> SealedStateError:
    message = (
        f"record {epoch} of the {format_.name} (at byte {at}) was altered, or does not follow the one before it; "
        "bring back an unaltered copy of the folder, or start in an empty one"
    )
    return SealedStateError(message)


def _parse_header(data: bytes, format_: Format) -> tuple[bytes, int, int, bytes, bytes, int, bytes, bytes, bytes]:
    name = format_.name
    if data[: len(format_.magic)] != format_.magic:
        hint = "this is no state of this coordinator (MarbleRun's is not read); use another folder"
        raise SealedStateError(f"the {name} begins with {data[:8].hex() or 'nothing'}; {hint}")
    if len(data) < _HEADER.size:
        raise SealedStateError(f"the {name} is cut: {len(data)} bytes, its header alone has {_HEADER.size}")
    fields = _HEADER.unpack_from(data)
    if not format_.oldest <= fields[1] <= format_.version:
        found = f"the {name} has version {fields[1]}, this program reads up to {format_.version}"
        raise SealedStateError(f"{found}; use a newer program")
    if not hmac.compare_digest(hashlib.sha256(data[:_CHECKED]).digest()[:16], fields[8]):
        raise SealedStateError(f"the header of the {name} was altered; bring back an unaltered copy of the folder")
    return fields


def _derive(key: bytes, header: bytes) -> FileStart:
    fields = _HEADER.unpack(header)
    salt = fields[3] + fields[4]

    def derived(label: bytes) -> bytes:
        return HKDF(SHA256(), KEY_SIZE, salt, label).derive(key)

    base = Position(fields[5], fields[6])
    return FileStart(header, fields[3], fields[1], base, derived(_LABEL_SEAL), derived(_LABEL_MAC))


def _key_check(key: bytes, state_id: bytes) -> bytes:
    return HKDF(SHA256(), 16, state_id, _LABEL_CHECK).derive(key)


def _prefix(start: FileStart, head: bytes, length: int, epoch: int, nonce: bytes) -> bytes:
    plain = struct.pack(">IQ12s", length, epoch, nonce)
    return plain + hmac.digest(start.mac_key, head + plain, "sha256")[:16]


def _bound_to(start: FileStart, head: bytes, prefix: bytes) -> bytes:
    return _LABEL_RECORD + hashlib.sha256(start.header).digest() + head + prefix


def _next_head(head: bytes, record: bytes) -> bytes:
    return hashlib.sha256(_LABEL_HEAD + head + hashlib.sha256(record).digest()).digest()
