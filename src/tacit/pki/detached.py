r"""Who signed these bytes? Signatures that lie beside what they are of, each by a person's own key.

What is signed is not the text but `statement(label, text)`: its label, a zero byte and its SHA-256, so that a signature
over one kind of text is none over another. With OpenSSL alone, for an EC key:

    (printf 'LABEL\0'; openssl dgst -sha256 -binary FILE) | openssl dgst -sha256 -sign KEY | base64 -w0

A file of signatures has one in base64 on each line. Whose they are is found by trying: they carry no name to be believed.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from tacit.errors import PkiError
from tacit.pki.keys import MAX_PEM, PrivateKey, PublicKey, parse_certificates, public_key_of

MOST_SIGNATURES = 16  # in one file
_LONGEST = 2048  # bytes of one in base64; RSA with 8192 bits has 1368
_SHORTEST_RSA = 2048  # bits
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PSS = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)


def statement(label: str, text: bytes) -> bytes:
    """What a signer signs."""
    return label.encode() + b"\0" + sha256(text).digest()


def sign_detached(label: str, text: bytes, key: PrivateKey) -> bytes:
    """A line of a file of signatures. Raises: PkiError, for a key that is too weak."""
    _check(key.public_key())
    said = statement(label, text)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(said, ec.ECDSA(SHA256()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(said, _PSS, SHA256())
    else:
        signature = key.sign(said)
    return base64.b64encode(signature) + b"\n"


def add_signature(label: str, text: bytes, key: PrivateKey, before: bytes) -> bytes:
    """A file of signatures with this key's, in place of any that it made of this text before.

    Raises: PkiError, for a key that is too weak, a file that is none, or one that is full.
    """
    line, said = sign_detached(label, text, key), statement(label, text)
    others = [one for one in parse_signatures(before) if not _signed(key.public_key(), one, said)]
    after = b"".join(base64.b64encode(one) + b"\n" for one in others) + line
    parse_signatures(after)
    return after


def parse_signer(pem: bytes) -> bytes:
    """The public key (DER, SubjectPublicKeyInfo) of a PEM text that has it, or has a certificate of it. Raises: PkiError."""
    if len(pem) > MAX_PEM:
        raise PkiError(f"a signer's file of {len(pem)} bytes; at most {MAX_PEM} are read")
    if b"-----BEGIN PUBLIC KEY-----" not in pem:
        key = public_key_of(parse_certificates(pem)[0])
    else:
        try:
            key = _known(load_pem_public_key(pem))
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise PkiError("no PEM public key found; expected text with -----BEGIN PUBLIC KEY-----") from exc
    _check(key)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_signatures(raw: bytes) -> tuple[bytes, ...]:
    """The signatures of a file. Raises: PkiError."""
    lines = raw.split()
    if len(lines) > MOST_SIGNATURES or any(len(line) > _LONGEST for line in lines):
        raise PkiError(f"a file of signatures has at most {MOST_SIGNATURES} lines of {_LONGEST} characters")
    try:
        return tuple(base64.b64decode(line, validate=True) for line in lines)
    except binascii.Error as exc:
        raise PkiError("a file of signatures has one in base64 on each line, and this has something else") from exc


def verify_detached(label: str, text: bytes, signatures: Iterable[bytes], signers: Sequence[bytes]) -> bytes:
    """The first of `signers` (DER) who signed this text under this label. Raises: PkiError, where none did."""
    said = statement(label, text)
    given = tuple(signatures)
    for signer in signers:
        key = _known(_load(signer))
        _check(key)
        if any(_signed(key, one, said) for one in given):
            return signer
    raise PkiError(f"none of the {len(given)} signatures is by one of the {len(signers)} signers that are trusted")


def _load(signer: bytes) -> object:
    try:
        return load_der_public_key(signer)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PkiError("a signer's public key cannot be read") from exc


def _signed(key: PublicKey, signature: bytes, said: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, said, ec.ECDSA(SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, said, _PSS, SHA256())
        else:
            key.verify(signature, said)
    except InvalidSignature:
        return False
    return True


def _check(key: PublicKey) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, _CURVES):
        raise PkiError(f"the signer's key is on the curve {key.curve.name}; expected P-256, P-384 or P-521")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SHORTEST_RSA:
        raise PkiError(f"the signer's RSA key has {key.key_size} bits; expected {_SHORTEST_RSA} or more")


def _known(key: object) -> PublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise PkiError(f"the signer has a {type(key).__name__}; expected an EC, RSA or Ed25519 key")
    return key
