"""A certificate with its private key, and how both are read and written."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from tacit.errors import PkiError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

Credentials = Callable[[], tuple[bytes, bytes]]
"""Certificate chain (leaf first) and private key, both PEM; a server asks at every handshake."""

CERTIFICATE_ERRORS = (
    *(ValueError, TypeError, OverflowError),
    *(UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What the library raises for bytes that are no certificate or request, or one that it cannot use."""

MAX_PEM = 1 << 20  # bytes; no chain of ours comes near it, and a parser is not to be fed more


@dataclass(frozen=True)
class KeyPair:
    """A certificate and the private key that belongs to it. Its `repr` shows the subject, never the key.

    The certificate's encodings are kept, since each activation hands them out; the key's are made anew each time.
    """

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    @cached_property
    def certificate_der(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @cached_property
    def certificate_pem(self) -> bytes:
        """The certificate, PEM, with a trailing newline."""
        return encode_pem("CERTIFICATE", self.certificate_der)

    def encode(self) -> "Encoded":
        """Everything as it is handed out. Writing out a key takes a while, so who needs it often asks once."""
        private = self.key_der
        return Encoded(
            certificate_der=self.certificate_der,
            certificate_pem=self.certificate_pem,
            key_der=private,
            key_pem=encode_pem("PRIVATE KEY", private),
            public_der=self.public_der,
        )

    @property
    def key_der(self) -> bytes:
        """The private key, PKCS#8 DER, unencrypted."""
        return self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS#8 PEM (`PRIVATE KEY`), unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @cached_property
    def public_der(self) -> bytes:
        """The public key, PKIX DER (SubjectPublicKeyInfo)."""
        return public_der(self.key)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A certificate and its key in all the forms that somebody may ask for."""

    certificate_der: bytes
    certificate_pem: bytes
    key_der: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    public_der: bytes


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new P-384 key, the kind of every key of the mesh."""
    return ec.generate_private_key(ec.SECP384R1())


def public_der(key: PrivateKey) -> bytes:
    """The public half of a key, PKIX DER (SubjectPublicKeyInfo)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encode_pem(label: str, der: bytes) -> bytes:
    """A PEM block with lines of 64 characters and a trailing newline."""
    name, text = label.encode(), base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (name, b"\n".join(lines), name)


def parse_certificate_der(der: bytes) -> x509.Certificate:
    """The certificate, with a key that can be read. Nothing is verified. Raises: PkiError."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
    except CERTIFICATE_ERRORS as exc:
        raise PkiError("no X.509 certificate in DER with a key that is known here") from exc
    return certificate


def parse_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text, in its order; other blocks are passed over. Nothing is verified.

    Raises:
        PkiError: The text holds no certificate, a damaged one, or is larger than 1 MiB.
    """
    if len(pem) > MAX_PEM:
        raise PkiError(f"a certificate file of {len(pem)} bytes; at most {MAX_PEM} are read")
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except CERTIFICATE_ERRORS as exc:
        raise PkiError("no PEM certificate found; expected text with -----BEGIN CERTIFICATE-----") from exc


def parse_private_key(pem: bytes) -> PrivateKey:
    """An unencrypted EC, RSA or Ed25519 key from PEM.

    Raises:
        PkiError: Not such a key; an encrypted one is named as such.
    """
    if len(pem) > MAX_PEM:
        raise PkiError(f"a key file of {len(pem)} bytes; at most {MAX_PEM} are read")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as exc:
        raise PkiError("the private key is encrypted; give it decrypted (openssl pkey -in KEY -out PLAIN)") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PkiError("no PEM private key found; expected text with -----BEGIN PRIVATE KEY-----") from exc
    return _known(key)


def parse_private_key_der(der: bytes) -> PrivateKey:
    """An unencrypted EC, RSA or Ed25519 key from PKCS#8 DER. Raises: PkiError."""
    try:
        key = load_der_private_key(der, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as exc:
        raise PkiError("the private key is no unencrypted PKCS#8 DER") from exc
    return _known(key)


def parse_key_pair(certificate_pem: bytes, key_pem: bytes) -> KeyPair:
    """The first certificate of a PEM text with its key.

    Raises:
        PkiError: One of them cannot be read, or the key belongs to another certificate.
    """
    certificate = parse_certificates(certificate_pem)[0]
    key = parse_private_key(key_pem)
    if _spki(key.public_key()) != _spki(public_key_of(certificate)):
        raise PkiError("the private key does not belong to the certificate; give the two files of one pair")
    return KeyPair(certificate, key)


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """The public key of a certificate, if it is EC, RSA or Ed25519. Raises: PkiError."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PkiError("the certificate's public key cannot be read") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise PkiError(f"the certificate has a {type(key).__name__}; expected an EC, RSA or Ed25519 key")
    return key


def _known(key: object) -> PrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise PkiError("the private key is of an unsupported kind; expected EC, RSA or Ed25519")
    return key


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
