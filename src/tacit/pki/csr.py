"""Signing requests: made by a marble, read by the coordinator."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import PkiError
from tacit.pki.ca import coordinator_names
from tacit.pki.keys import CERTIFICATE_ERRORS
from tacit.pki.shape import Names, alternative_names

MAX_CSR = 64 * 1024  # bytes; a real request has about 400


@dataclass(frozen=True, slots=True)
class Csr:
    """What a signing request asks for. Nothing of it is granted yet, and its public key is not kept.

    `attributes` are the subject's attributes but the organization, (OID, text) in the request's order.
    """

    names: Names
    attributes: tuple[tuple[x509.ObjectIdentifier, str], ...] = ()


def create_csr(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    """A request for these DNS names and addresses and for loopback, DER, with an empty subject. Raises: PkiError."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names_extension = cast("x509.SubjectAlternativeName", coordinator_names(names).extension())  # loopback, at least
    return builder.add_extension(names_extension, critical=False).sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def parse_csr(der: bytes) -> Csr:
    """The request, its self-signature verified. Only DNS names and IP addresses are kept of what it asks for.

    Raises:
        PkiError: Not PKCS#10, too large, or the signature does not hold. The texts are those of MarbleRun's wire.
    """
    if len(der) > MAX_CSR:
        raise PkiError(f"parsing CSR: asn1: structure error: {len(der)} bytes, at most {MAX_CSR} are read")
    try:
        with warnings.catch_warnings():
            # Names outside the standard's length limits warn when they are read; issuing refuses them.
            warnings.simplefilter("ignore")
            csr = x509.load_der_x509_csr(der)
            attributes = _attributes(csr)
        names = alternative_names(csr.extensions)
        holds = csr.is_signature_valid
    except UnsupportedAlgorithm as exc:
        raise PkiError("signature over CSR is invalid") from exc
    except CERTIFICATE_ERRORS as exc:
        raise PkiError(f"parsing CSR: asn1: structure error: {exc}") from exc
    if not holds:
        raise PkiError("signature over CSR is invalid")
    return Csr(names, attributes)


def _attributes(csr: x509.CertificateSigningRequest) -> tuple[tuple[x509.ObjectIdentifier, str], ...]:
    return tuple(
        (attribute.oid, attribute.value)
        for attribute in csr.subject
        if isinstance(attribute.value, str) and attribute.oid != x509.NameOID.ORGANIZATION_NAME
    )
