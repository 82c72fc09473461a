"""RA-TLS certificates of any form, around evidence of simulated TEEs."""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.tee import NOW

TAGGED = "2.23.133.5.4.9"
OLDER = ("0.6.9.42.840.113741.1337.6", "1.2.840.113741.1337.6")
Value = bytes | str | int | list["Value"] | dict[str, "Value"] | tuple[int, "Value"]


def cbor(value: Value) -> bytes:
    """CBOR of a value; a tuple is a tag and what it marks."""
    match value:
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case int():
            return _head(0, value)
        case list():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return _head(5, len(value)) + b"".join(cbor(key) + cbor(one) for key, one in value.items())
        case (tag, inner):
            return _head(6, tag) + cbor(inner)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes((kind << 5 | number,))
    size = 1 if number < 256 else 2 if number < 65536 else 4
    return bytes((kind << 5 | 23 + size.bit_length(),)) + number.to_bytes(size, "big")


def key_der(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """The SPKI of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def tagged(
    issue: Callable[[bytes], bytes], key: CertificateIssuerPrivateKeyTypes, claims: dict[str, Value] | None = None
) -> bytes:
    """The extension of tagged evidence: a quote over these claims (the key's hash if none are given)."""
    if claims is None:
        claims = {"pubkey-hash": cbor([1, sha256(key_der(key)).digest()])}
    encoded = cbor(claims)
    return cbor((60000, [issue(sha256(encoded).digest() + bytes(32)), encoded]))


NAMES = "2.5.29.17"  # subjectAltName
UNREADABLE_NAMES = bytes.fromhex("3006a504a1020c00")  # one, an ediPartyName, which the library does not know


def certificate(
    key: CertificateIssuerPrivateKeyTypes,
    extensions: dict[str, bytes],
    *,
    signer: CertificateIssuerPrivateKeyTypes | None = None,
    begin: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=1),
) -> bytes:
    """DER of a self-signed certificate with these extensions."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RATLS")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.not_valid_before(begin).not_valid_after(end).public_key(key.public_key())
    for oid, value in extensions.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(signer or key, SHA256()).public_bytes(Encoding.DER)


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """A key on P-384, as Gramine makes them, or on another curve."""
    return ec.generate_private_key(curve or ec.SECP384R1())
