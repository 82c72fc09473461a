"""The sealing key at rest: wrapped by the TEE, in clear where there is none, and encrypted to a recovery key.

Wrapped = magic (8) ‖ mode (1: signer, 2: measurement) ‖ nonce (12) ‖ AES-256-GCM of the 32 bytes.
Not kept = magic ‖ 0, in a TEE that has no key to wrap it with: the state is opened by its recovery keys after each start.
In clear = the 32 bytes, as MarbleRun keeps them outside an enclave. A coordinator in a TEE never takes a key in clear:
its host could put one there, with a whole state of its own making.
"""

from collections.abc import Mapping
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.coordinator.sealed.records import KEY_SIZE, NONCE_SIZE
from tacit.errors import SealingKeyError
from tacit.evidence.claims import Issuer

BoundTo = Literal["signer", "measurement"]

SEALED_TO: Mapping[str, BoundTo | None] = {
    "": "signer",
    "ProductKey": "signer",
    "UniqueKey": "measurement",
    "Disabled": None,
}
"""To what each seal mode of a manifest binds the key; None keeps everything in memory."""

MAGIC = b"TACIT\x00SK"
NOT_KEPT = MAGIC + b"\0"
_LABEL = b"tacit sealing key v1"
_MODES: dict[int, BoundTo] = {1: "signer", 2: "measurement"}


def seal_key(key: bytes, issuer: Issuer | None, *, bound_to: BoundTo, nonce: bytes) -> bytes:
    """The sealing key as it lies in the folder. Without a TEE it lies there in clear.

    Raises:
        TeeError: the TEE's own key cannot be read.
    """
    if issuer is None:
        return key
    wrapping = _wrapping_key(issuer, bound_to)
    if wrapping is None:
        return NOT_KEPT
    mode = next(number for number, name in _MODES.items() if name == bound_to)
    head = MAGIC + bytes([mode])
    return head + nonce + AESGCM(wrapping).encrypt(nonce, key, head)


def check_stored(stored: bytes, issuer: Issuer | None) -> None:
    """Refuse what was just written and reads back as no key. Raises: SealingKeyError, TeeError."""
    if issuer is None or stored != NOT_KEPT:
        open_key(stored, issuer)


def open_key(stored: bytes, issuer: Issuer | None) -> bytes:
    """The sealing key from the folder.

    Raises:
        SealingKeyError: it was sealed elsewhere, altered, lies in clear where a TEE is expected, or is not kept.
        TeeError: the TEE's own key cannot be read.
    """
    wrapped = stored[: len(MAGIC)] == MAGIC
    if issuer is None:
        if wrapped or len(stored) != KEY_SIZE:
            found = "is sealed to a TEE" if wrapped else f"has {len(stored)} bytes"
            raise SealingKeyError(f"the sealing key {found}; in unattested mode it is {KEY_SIZE} bytes in clear")
        return stored
    if stored == NOT_KEPT:
        raise SealingKeyError(
            f"a TEE of kind {issuer.tee} has no key for sealing, so the sealing key is not kept; recover the state with the "
            "recovery keys of its manifest"
        )
    if not wrapped or len(stored) != len(MAGIC) + 1 + NONCE_SIZE + KEY_SIZE + 16 or stored[len(MAGIC)] not in _MODES:
        raise SealingKeyError(
            f"the sealing key is not sealed to a TEE ({len(stored)} bytes); a coordinator in a TEE takes no other"
        )
    head, rest = stored[: len(MAGIC) + 1], stored[len(MAGIC) + 1 :]
    wrapping = _wrapping_key(issuer, _MODES[head[-1]])
    if wrapping is None:
        raise SealingKeyError(
            f"the sealing key was sealed elsewhere; a TEE of kind {issuer.tee} has no key for sealing"
        )
    try:
        return AESGCM(wrapping).decrypt(rest[:NONCE_SIZE], rest[NONCE_SIZE:], head)
    except InvalidTag as exc:
        raise SealingKeyError(
            "the sealing key was sealed by another program or on another platform, or was altered"
        ) from exc


def encrypt_to_recovery_key(key: bytes, recovery_key: RSAPublicKey) -> bytes:
    """The sealing key for the holder of a recovery key: RSA-OAEP, SHA-256 for hash and mask, empty label."""
    return recovery_key.encrypt(key, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))


def _wrapping_key(issuer: Issuer, bound_to: BoundTo) -> bytes | None:
    own = issuer.derive_seal_key(bound_to=bound_to)
    return None if own is None else HKDF(SHA256(), KEY_SIZE, None, _LABEL).derive(own)
