"""A recovery secret in a file, and what its holder does with it: decrypt, sign, encrypt again.

A coordinator encrypts it with RSA-OAEP, SHA-256 for hash and mask, without a label; the signature over it in clear is
PKCS #1 v1.5 with SHA-256.

Source: recorded recovery of MarbleRun v1.9.1.
"""

import base64
import binascii
import contextlib

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from tacit.errors import InputError, PeerError, PkiError
from tacit.pki.keys import parse_private_key

PLAIN_SIZES = (16, 32, 33)
"""Bytes of a secret in clear: a key as coordinators made it long ago, a key or share, a share of a threshold."""

_OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
_DAMAGED = "crypto/rsa: decryption error"


class _RecoveryData(msgspec.Struct):
    secrets: dict[str, bytes] = msgspec.field(name="RecoverySecrets")


def load_recovery_key(pem: bytes) -> rsa.RSAPrivateKey:
    """The private key of a recovery key. Raises: PkiError."""
    key = parse_private_key(pem)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise PkiError(
            "the key of a recovery secret is an RSA key; give the one that belongs to the manifest's RecoveryKeys"
        )
    return key


def parse_ephemeral_key(pem: bytes) -> rsa.RSAPublicKey:
    """The coordinator's key of one recovery. Raises: InputError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise InputError(
            "no PEM public key found; `tacit recover-with-signature public-key HOST:PORT -o FILE` writes it"
        ) from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise InputError(f"the coordinator's key is an RSA key, and this is a {type(key).__name__}")
    return key


def write_ephemeral_key(der: bytes) -> bytes:
    """The coordinator's key (PKIX DER) as PEM. Raises: PeerError."""
    try:
        return load_der_public_key(der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PeerError("the coordinator's key for recovery secrets cannot be read") from exc


def load_share(raw: bytes, key: rsa.RSAPrivateKey | None) -> bytes:
    """The secret in clear, from what a file holds: the secret in clear, encrypted, encrypted in base64, or recovery data.

    Raises: InputError.
    """
    if len(raw) in PLAIN_SIZES:
        return raw
    if key is None:
        raise InputError(
            f"the secret has {len(raw)} bytes, so it is still encrypted; give the key that opens it with --key"
        )
    candidates = _candidates(raw)
    if not candidates:
        raise InputError(
            "the file is empty; give the recovery secret, or the recovery data that `manifest set -r` wrote"
        )
    for candidate in candidates:
        try:
            return key.decrypt(candidate, _OAEP)
        except ValueError:
            continue
    raise InputError(
        f"{_DAMAGED}: this key opens no secret in the file; give the private key of the recovery key that it was made for"
    )


def _candidates(raw: bytes) -> list[bytes]:
    """What the file may hold, encrypted."""
    if raw.lstrip()[:1] == b"{":
        try:
            return list(msgspec.json.decode(raw, type=_RecoveryData).secrets.values())
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InputError(
                f'the recovery data cannot be read ({exc}); expected {{"RecoverySecrets": {{"NAME": "BASE64"}}}}'
            ) from exc
    found = [raw] if raw else []
    with contextlib.suppress(binascii.Error):
        found.append(base64.b64decode(b"".join(raw.split()), validate=True))
    return [one for one in found if one]


def sign_share(share: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The holder's signature over the secret in clear."""
    return key.sign(share, padding.PKCS1v15(), SHA256())


def encrypt_share(share: bytes, key: rsa.RSAPublicKey) -> bytes:
    """The secret for the coordinator alone."""
    return key.encrypt(share, _OAEP)
