"""Certificates put together from encoded parts; of a leaf most are the same at every activation.

`shape.sign` has a library build a certificate from objects, field by field, which takes half as long as its signature.
Of a leaf only the serial number, the times, the subject and the key are new: issuer and extensions are encoded once and
kept. A certificate that a manifest asks for is put together here too, because the library's builder refuses what Go
writes. The encoder is the same library's, which reads the structures below from their declaration; a test compares what
both ways give.

Source: RFC 5280 section 4.1.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from tacit.errors import PkiError
from tacit.pki.keys import KeyPair, public_key_of
from tacit.pki.shape import Grants, authority_identifier, extensions_of

_V3 = 2
_TWO_DIGITS = range(1950, 2050)  # years that are written with their last two
_KEPT = 1024  # sets of extensions
_ORDINARY = 1024  # bytes of names; what has more is not kept, so that requests cannot fill the memory
_ECDSA = ec.ECDSA(hashes.SHA384())


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(value=False)]
    value: bytes


@asn1.sequence
class _Extensions:
    all: list[_Extension]


@asn1.sequence
class _Holder:
    inside: asn1.TLV


@asn1.sequence
class _Validity:
    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Algorithm:
    oid: x509.ObjectIdentifier


@asn1.sequence
class ToBeSigned:
    """What the issuer signs."""

    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    algorithm: _Algorithm
    issuer: asn1.TLV
    validity: _Validity
    subject: asn1.TLV
    public_key: asn1.TLV
    extensions: Annotated[asn1.TLV, asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    to_be_signed: asn1.TLV
    algorithm: _Algorithm
    signature: asn1.BitString


_ALGORITHM = _Algorithm(oid=SignatureAlgorithmOID.ECDSA_WITH_SHA384)


@dataclass(frozen=True, slots=True)
class Fresh:
    """What no two leaves have in common. `public_der` is a SubjectPublicKeyInfo."""

    subject: x509.Name
    public_der: bytes
    not_before: datetime
    not_after: datetime


def sign_leaf(fresh: Fresh, grants: Grants, *, issuer: KeyPair) -> bytes:
    """The certificate (DER), the same that `shape.sign` makes of both.

    Raises:
        PkiError: A field cannot be written, or the issuer's key is no EC key.
    """
    return _sign(fresh, lambda: _extensions(grants, issuer.certificate), issuer)


def sign_parts(fresh: Fresh, extensions: Iterable[tuple[x509.ExtensionType, bool]], *, issuer: KeyPair) -> bytes:
    """A certificate (DER) with these extensions, each with whether it is critical. It may have ended already.

    Raises:
        PkiError: A field cannot be written, or the issuer's key is no EC key.
    """
    return _sign(fresh, lambda: _encode(extensions), issuer)


def _sign(fresh: Fresh, extensions: Callable[[], asn1.TLV], issuer: KeyPair) -> bytes:
    key = issuer.key
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("certificates of the mesh are signed by an EC key")
    try:
        to_be_signed = asn1.encode_der(
            ToBeSigned(
                version=_V3,
                serial=secrets.randbits(128) or 1,
                algorithm=_ALGORITHM,
                issuer=_issuer(issuer.certificate),
                validity=_Validity(not_before=_time(fresh.not_before), not_after=_time(fresh.not_after)),
                subject=_read(fresh.subject.public_bytes()),
                public_key=_read(fresh.public_der),
                extensions=extensions(),
            )
        )
    except (ValueError, TypeError) as exc:
        raise PkiError(f"a certificate that cannot be written: {exc}") from exc
    signature = asn1.BitString(key.sign(to_be_signed, _ECDSA), 0)
    return asn1.encode_der(_Certificate(to_be_signed=_read(to_be_signed), algorithm=_ALGORITHM, signature=signature))


def _read(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)


def _time(moment: datetime) -> asn1.UTCTime | asn1.GeneralizedTime:
    whole = moment.replace(microsecond=0)
    return asn1.UTCTime(whole) if whole.year in _TWO_DIGITS else asn1.GeneralizedTime(whole)


@lru_cache(maxsize=4)
def _issuer(certificate: x509.Certificate) -> asn1.TLV:
    return _read(certificate.subject.public_bytes())


def _extensions(grants: Grants, issuer: x509.Certificate) -> asn1.TLV:
    names = grants.names
    if sum(map(len, names.dns)) + 16 * len(names.ips) > _ORDINARY:
        return _encode_extensions(grants, issuer)
    return _kept_extensions(grants, issuer)


def _encode_extensions(grants: Grants, issuer: x509.Certificate) -> asn1.TLV:
    return _encode(extensions_of(grants, public_key_of(issuer), authority_identifier(issuer)))


def _encode(found: Iterable[tuple[x509.ExtensionType, bool]]) -> asn1.TLV:
    encoded = [_Extension(oid=one.oid, critical=critical, value=one.public_bytes()) for one, critical in found]
    return asn1.decode_der(_Holder, asn1.encode_der(_Extensions(all=encoded))).inside


_kept_extensions = lru_cache(maxsize=_KEPT)(_encode_extensions)
