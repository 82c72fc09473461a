"""Certificates and revocation lists as they come from outside: parsed whole, so that no error waits behind them."""

import re
from functools import cached_property, lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import CollateralError, EvidenceError, EvidenceFormatError

MAX_CHAIN = 5  # certificates
KEPT = 128
"""So many results of pure functions over certificates are remembered: a mesh has few platforms and many checks."""
SIMULATED_MARK = "SIMULATED"

# What the certificate library raises on bytes that are no certificate; `Warning` because callers may have made it an error.
FOREIGN_ERRORS = (
    ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType, Warning,
)  # fmt: skip

_PEM_CHAIN = re.compile(
    rb"(?:-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----(?:\r?\n)*)+\0?"
)


class Chain(tuple[x509.Certificate, ...]):
    """Certificates, leaf first: a tuple that takes its hash once.

    A certificate hashes all its bytes each time it is asked, and what is remembered of a chain is looked up by it many times
    in one verification. Chains are equal as tuples are, certificate by certificate.
    """

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()


@lru_cache(maxsize=KEPT)
def parse_chain(pem: bytes, refuse: type[EvidenceError] = EvidenceFormatError) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM chain, as they stand.

    Only PEM blocks may stand in it (and one NUL at the end, which quotes have), so that nobody can hide bytes between.

    Raises:
        EvidenceFormatError: or what `refuse` names: not PEM, no certificate, or more than MAX_CHAIN.
    """
    if not _PEM_CHAIN.fullmatch(pem):
        raise refuse("a certificate chain that is not PEM blocks alone")
    if pem.count(b"-----BEGIN") > MAX_CHAIN:
        raise refuse(f"a certificate chain of {pem.count(b'-----BEGIN')}; at most {MAX_CHAIN} are read")
    try:
        chain = Chain(x509.load_pem_x509_certificates(pem.rstrip(b"\0")))
        for one in chain:
            # The library parses these when they are first asked for, so that is done here, where its errors are caught.
            _ = one.subject, one.issuer, one.not_valid_before_utc, one.not_valid_after_utc
            _ = one.public_key(), one.extensions, one.signature_hash_algorithm
        return chain
    except FOREIGN_ERRORS as exc:
        raise refuse(f"a certificate chain that does not parse: {exc}") from exc


@lru_cache(maxsize=KEPT)
def parse_crl(der: bytes, name: str) -> x509.CertificateRevocationList:
    """A certificate revocation list that has a date for its successor.

    Raises:
        CollateralError: not one, or without a date for its successor.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        _ = crl.issuer, crl.last_update_utc, crl.extensions, crl.signature_hash_algorithm
        if crl.next_update_utc is None:
            raise ValueError("it has no nextUpdate, so it would be valid for ever")
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"the {name} CRL of the collateral cannot be used: {exc}") from exc
    return crl


def public_point(certificate: x509.Certificate) -> bytes:
    """X ‖ Y (64 bytes) of a certificate's P-256 key.

    Raises:
        ValueError: another kind of key.
    """
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if len(point) != 65:
        raise ValueError("the key is not on P-256")
    return point[1:]


def is_simulated(certificate: x509.Certificate) -> bool:
    """Whether a certificate's subject carries the mark of simulation."""
    return any(SIMULATED_MARK in str(attribute.value).upper() for attribute in certificate.subject)
