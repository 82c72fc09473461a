"""RA-TLS: a self-signed certificate that carries a quote over its own key. Gramine makes them.

(R1) Parse the certificate: P-256 or P-384, signed by its own key, in force.
(R2) Take the quote out of it: TCG DICE tagged evidence if that extension is there (it has to hold, there is no falling
     back), else Gramine's older extension, under either of its two identifiers.
(R3) Check that the quote is bound to the certificate's key: report data is SHA-256 of the claims, which must name the
     key's hash, or, in the older form, of the key itself. The second half of report data is zero.

Gramine's own verifier accepts claims without the key's hash, which any certificate could carry; they are refused here.

Source: Gramine, `tools/sgx/ra-tls`; TCG DICE Attestation Architecture, tagged evidence; RFC 9334's companion
"conceptual message wrapper" tag 60000; hash algorithms by IANA's Named Information registry.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256, sha384, sha512
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import BindingError, EvidenceFormatError
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS
from tacit.evidence.anchor.dates import check_window
from tacit.evidence.claims import Claims, Step, naming
from tacit.evidence.verify.cbor import Tagged, parse_cbor

CERTIFICATE = Step("R1", "RA-TLS certificate: self-signed, in force")
EXTENSION = Step("R2", "RA-TLS extension: layout")
KEY = Step("R3", "RA-TLS quote binds the certificate's key")

_TAGGED = x509.ObjectIdentifier("2.23.133.5.4.9")
# The second is what Gramine's constant really encodes: tag and length slipped into the identifier.
_OLDER = (x509.ObjectIdentifier("1.2.840.113741.1337.6"), x509.ObjectIdentifier("0.6.9.42.840.113741.1337.6"))
_TAG = 60000
_HASHES = {1: sha256, 7: sha384, 8: sha512}


@dataclass(frozen=True, slots=True)
class RatlsEvidence:
    """What an RA-TLS certificate carries: the quote, the bytes whose hash is its report data, and a nonce if named."""

    certificate: bytes
    key_der: bytes
    quote: bytes
    hashed: bytes
    nonce: bytes | None


def is_certificate(evidence: bytes) -> bool:
    """Whether these bytes begin as a certificate does (a DER sequence of 256 bytes or more)."""
    return evidence[:2] == b"\x30\x82"


def parse_ratls(der: bytes, *, now: datetime) -> RatlsEvidence:
    """The evidence in a certificate, not yet verified; that the claims name the certificate's own key is checked.

    Raises:
        EvidenceFormatError: no such certificate, or an extension of another form.
        CollateralTimeError: a certificate that is not in force at `now`.
        BindingError: claims that name another key, or none.
    """
    with naming(CERTIFICATE):
        certificate = _parse_certificate(der)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        check_window("the RA-TLS certificate", begin, end, now=now)
    key_der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    extensions = {one.oid: one for one in certificate.extensions}
    if _TAGGED in extensions:
        return _parse_tagged(der, key_der, _value(extensions[_TAGGED]))
    for oid in _OLDER:
        if oid in extensions:
            return RatlsEvidence(der, key_der, _value(extensions[oid]), key_der, None)
    with naming(EXTENSION):
        raise EvidenceFormatError("a certificate without an RA-TLS extension proves nothing about its maker")


def _value(extension: "x509.Extension[x509.ExtensionType]") -> bytes:
    # The library has no class for these, so they always come as bytes.
    return cast("x509.UnrecognizedExtension", extension.value).value


def _parse_certificate(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1"):
            raise ValueError("its key is neither on P-256 nor on P-384")
        certificate.verify_directly_issued_by(certificate)
        _ = certificate.extensions
        # The library takes one that lacks a bit for whole, so that two certificates would say the same.
        if der[-len(certificate.signature) - 1]:
            raise ValueError("its signature is not whole bytes")
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise EvidenceFormatError(f"not an RA-TLS certificate: {exc or 'its signature is not of its own key'}") from exc
    return certificate


def _parse_tagged(der: bytes, key_der: bytes, value: bytes) -> RatlsEvidence:
    with naming(EXTENSION):
        try:
            wrapped = parse_cbor(value)
            if not isinstance(wrapped, Tagged) or wrapped.tag != _TAG or not isinstance(wrapped.value, list):
                raise ValueError(f"not a list with the tag {_TAG}")
            quote, raw_claims = wrapped.value
            if not isinstance(quote, bytes) or not isinstance(raw_claims, bytes):
                raise ValueError("not a quote and claims")
            claims = parse_cbor(raw_claims)
        except ValueError as exc:
            raise EvidenceFormatError(f"tagged evidence of another form: {exc}") from exc
    with naming(KEY):
        entry = claims.get("pubkey-hash") if isinstance(claims, dict) else None
        if not isinstance(claims, dict) or entry is None:
            raise BindingError("the claims do not name the certificate's key: any certificate could carry this quote")
        _check_key_hash(entry, key_der)
        nonce = claims.get("nonce")
        if nonce is not None and not isinstance(nonce, bytes):
            raise BindingError("the claims have a nonce that is no byte string")
        return RatlsEvidence(der, key_der, quote, raw_claims, nonce)


def _check_key_hash(encoded: object, key_der: bytes) -> None:
    try:
        entry = parse_cbor(encoded) if isinstance(encoded, bytes) else None
        algorithm, digest = entry if isinstance(entry, list) else (None, None)
    except ValueError:
        algorithm = digest = None
    make = _HASHES.get(algorithm) if isinstance(algorithm, int) else None
    if make is None or not isinstance(digest, bytes):
        raise BindingError("the claims name the certificate's key by a hash that is not known here")
    if not hmac.compare_digest(make(key_der).digest(), digest):
        raise BindingError("the quote was made for another key than the certificate's: it was taken from elsewhere")


def verify_ratls_binding(claims: Claims, evidence: RatlsEvidence) -> Claims:
    """(R3) The claims of the certificate's quote, with this check made: the quote binds the certificate's key.

    Raises:
        BindingError: report data is another one.
    """
    expected = sha256(evidence.hashed).digest() + bytes(32)
    with naming(KEY):
        if not hmac.compare_digest(claims.report_data, expected):
            raise BindingError(
                "the quote's report data does not bind the certificate's key: it was taken from elsewhere"
            )
    listed = claims.with_check(CERTIFICATE, evidence.certificate).with_check(EXTENSION, evidence.quote)
    return listed.with_check(KEY, evidence.key_der)
