"""Our own evaluation of an SGX quote: every signature, list and level, in Python.

Used where the library gives no answer (it refuses debug enclaves unseen) and, in tests, beside it on every vector.
The caller has parsed the quote, checked that its chain ends at the anchor's root, and that all is in force.

(1) Certificates: the PCK chain and the TCB signers' chains lead to the pinned root, by name, signature, CA bit.
(2) Lists: the root's CRL is signed by the root, the PCK CRL by the CA that issued the PCK certificate; nothing that
    was used stands on one.
(3) Texts: TCB info and QE identity are signed by a TCB signer, are SGX's, and are for this platform (FMSPC, PCEID).
(4) Quote: the PCK key signed the quoting enclave's report, which binds the attestation key, which signed the quote.
(5) Quoting enclave: it is the one that QE identity describes.
(6) Levels: the highest level that the platform reaches, and that its quoting enclave reaches; both converge.

Source: Intel PCS API v4, "selecting TCB status"; Intel SGX PCK certificate profile (OID 1.2.840.113741.1.13.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tacit.errors import (
    CollateralError,
    EvidenceError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.anchor import public_point
from tacit.evidence.collateral import (
    FOREIGN_ERRORS,
    Collateral,
    parse_chain,
    parse_crl,
    parse_signed_object,
)
from tacit.evidence.sgx.pck import PckExtension, parse_pck_extension
from tacit.evidence.sgx.quote import SgxQuote, SgxReport

_COMPONENTS = 16
# Every status that is reported; `Revoked` never is, and a word that is not here is refused.
TCB_STATUSES = frozenset(
    (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    )
)
_REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of an authentic platform: Intel's word, advisories, the number of the evaluation, the PPID."""

    tcb_status: str
    advisories: frozenset[str]
    tcb_evaluation_number: int
    hardware_id: bytes


@dataclass(frozen=True, slots=True)
class _Level:
    status: str
    advisories: frozenset[str]


def verify_signature(point: bytes, signature: bytes, over: bytes, refuse: EvidenceError) -> None:
    """Accept an ECDSA P-256 SHA-256 signature (r ‖ s) by the key X ‖ Y, or raise `refuse`."""
    try:
        if len(signature) != 64:
            raise ValueError("a signature has 64 bytes")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + point)
        pair = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(encode_dss_signature(*pair), over, ec.ECDSA(SHA256()))
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise refuse from exc


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign


def _verify_chain(chain: Sequence[x509.Certificate], root: x509.Certificate, what: str) -> None:
    """Step (1) for one chain, leaf first. Its own last certificate is a copy of the root and is not used."""
    path = [*chain[:-1], root]
    try:
        if len(path) < 2 or public_point(chain[-1]) != public_point(root):
            raise ValueError("it does not end at the pinned root")
        if _is_ca(path[0]):
            raise ValueError("its leaf is a CA")
        for subject, issuer in pairwise(path):
            if not _is_ca(issuer):
                raise ValueError(f"'{issuer.subject.rfc4514_string()[:80]}' is no CA")
            subject.verify_directly_issued_by(issuer)
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise UntrustedRootError(f"the {what} chain does not lead to the trust anchor: {exc}") from exc


def _verify_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate, name: str) -> None:
    try:
        key = issuer.public_key()
        good = isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
        if not good or crl.issuer != issuer.subject:
            raise ValueError("another key signed it")
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"the {name} CRL is not its issuer's: {exc}") from exc


def _check_revocation(
    chains: Sequence[Sequence[x509.Certificate]], collateral: Collateral, root: x509.Certificate
) -> None:
    """Step (2): each certificate below the root is looked up in the list of its own issuer."""
    pck_ca = chains[0][1]
    lists = {}
    for name, der, issuer in (("root", collateral.root_ca_crl, root), ("PCK", collateral.pck_crl, pck_ca)):
        crl = parse_crl(der, name)
        _verify_crl(crl, issuer, name)
        lists[crl.issuer] = crl
    for certificate in {one for chain in chains for one in chain[:-1]}:
        if certificate.issuer not in lists:
            issuer_name = certificate.issuer.rfc4514_string()[:80]
            raise CollateralError(f"there is no CRL of '{issuer_name}', so revocation cannot be checked")
        if lists[certificate.issuer].get_revoked_certificate_by_serial_number(certificate.serial_number):
            raise RevokedError(f"the certificate '{certificate.subject.rfc4514_string()[:80]}' was revoked")


def _verify_text(text: str, signature: bytes, signer: x509.Certificate, what: str) -> dict[str, Any]:
    """Step (3): a signed text as an object. Its form is judged only once its signature holds."""
    refuse = CollateralError(f"the signature over {what} does not hold; fetch the collateral again")
    verify_signature(public_point(signer), signature, text.encode(), refuse)
    return parse_signed_object(text, what)


def _field(value: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    found = value.get(name)
    # bool is an int to Python, not to us.
    if not isinstance(found, kind) or isinstance(found, bool):
        raise CollateralError(f"{what}: {name} is missing or not a {kind.__name__}")
    return found


def _hex_field(value: Mapping[str, Any], name: str, size: int, what: str) -> bytes:
    try:
        raw = bytes.fromhex(_field(value, name, str, what))
    except ValueError as exc:
        raise CollateralError(f"{what}: {name} is not hex") from exc
    if len(raw) != size:
        raise CollateralError(f"{what}: {name} has {len(raw)} bytes, expected {size}")
    return raw


def _check_kind(value: Mapping[str, Any], what: str, kind: str, version: int) -> None:
    if (value.get("id"), value.get("version")) != (kind, version):
        found = f"{value.get('id')!r} version {value.get('version')!r}"[:80]
        raise CollateralError(f"{what} is for {found}, expected '{kind}' version {version}")


def check_tcb_info_fits(tcb_info: Mapping[str, Any], pck: PckExtension) -> None:
    """Accept TCB info that is SGX's, of the version that is read here, and for this very platform.

    Raises:
        CollateralError: it is for another kind, version, FMSPC or PCE.
    """
    _check_kind(tcb_info, "TCB info", "SGX", 3)
    for name, expected in (("fmspc", pck.fmspc), ("pceId", pck.pce_id)):
        if _hex_field(tcb_info, name, len(expected), "TCB info") != expected:
            raise CollateralError(f"TCB info is for another platform: its {name} is not {expected.hex()}")


def _verify_quote(quote: SgxQuote, pck: x509.Certificate) -> None:
    """Step (4)."""
    verify_signature(
        public_point(pck),
        quote.qe_signature,
        quote.qe_report.raw,
        EvidenceSignatureError("the platform's key did not sign the quoting enclave's report"),
    )
    bound = sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise EvidenceSignatureError("the quoting enclave's report does not bind the attestation key")
    verify_signature(
        quote.attestation_key,
        quote.signature,
        quote.signed,
        EvidenceSignatureError("the quote's signature does not hold: it was altered"),
    )


def _check_quoting_enclave(report: SgxReport, identity: Mapping[str, Any]) -> None:
    """Step (5): a report that another enclave on the same platform made is worth nothing."""
    what = "QE identity"
    if report.debug:
        raise EvidenceSignatureError("the quoting enclave is a debug enclave, so its key may be known")
    misc = report.misc_select.to_bytes(4, "little")
    attributes = report.attributes.to_bytes(8, "little") + report.xfrm.to_bytes(8, "little")
    pairs = (("miscselect", "miscselectMask", misc), ("attributes", "attributesMask", attributes))
    for name, mask_name, found in pairs:
        expected, mask = (_hex_field(identity, one, len(found), what) for one in (name, mask_name))
        if bytes(a & b for a, b in zip(found, mask, strict=True)) != expected:
            raise EvidenceSignatureError(f"the quoting enclave's {name} are not those of QE identity")
    if report.mr_signer != _hex_field(identity, "mrsigner", 32, what):
        raise EvidenceSignatureError("the quoting enclave is signed by another than QE identity says")
    if report.product_id != _field(identity, "isvprodid", int, what):
        raise EvidenceSignatureError("the quoting enclave has another product id than QE identity says")


def _parse_level(level: Mapping[str, Any], what: str) -> _Level:
    status = _field(level, "tcbStatus", str, what)
    if status not in TCB_STATUSES and status != _REVOKED:
        raise TcbError(f"{what} has a TCB status that is not known here: {status[:40]!r}")
    advisories = level.get("advisoryIDs", [])
    if not isinstance(advisories, list) or not all(isinstance(one, str) for one in advisories):
        raise CollateralError(f"{what}: advisoryIDs is not a list of names")
    return _Level(status, frozenset(advisories))


def _parse_levels(value: Mapping[str, Any], what: str) -> list[tuple[Mapping[str, Any], _Level]]:
    levels = _field(value, "tcbLevels", list, what)
    if not all(isinstance(level, dict) for level in levels):
        raise CollateralError(f"{what}: tcbLevels is not a list of objects")
    return [(_field(level, "tcb", dict, what), _parse_level(level, what)) for level in levels]


def _platform_level(tcb_info: Mapping[str, Any], pck: PckExtension) -> _Level:
    """Step (6) for the platform: the highest level of which it has every component and the PCE."""
    what = "TCB info"
    levels = []
    for tcb, level in _parse_levels(tcb_info, what):
        components = _field(tcb, "sgxtcbcomponents", list, what)
        if len(components) != _COMPONENTS or not all(isinstance(one, dict) for one in components):
            raise CollateralError(f"{what}: a level has {len(components)} components, expected {_COMPONENTS}")
        needed = (*(_field(one, "svn", int, what) for one in components), _field(tcb, "pcesvn", int, what))
        levels.append((needed, level))
    reached = (*pck.components, pck.pce_svn)
    # The list's order is not trusted: the highest comes first here.
    for needed, level in sorted(levels, key=lambda one: one[0], reverse=True):
        if all(have >= need for have, need in zip(reached, needed, strict=True)):
            return level
    raise TcbError("no matching TCB level: the platform is older than the oldest level that TCB info knows")


def _qe_level(identity: Mapping[str, Any], report: SgxReport) -> _Level:
    """Step (6) for the quoting enclave."""
    what = "QE identity"
    levels = [(_field(tcb, "isvsvn", int, what), level) for tcb, level in _parse_levels(identity, what)]
    for needed, level in sorted(levels, key=lambda one: one[0], reverse=True):
        if report.security_version >= needed:
            return level
    raise TcbError("no matching TCB level: the quoting enclave is older than the oldest that QE identity knows")


def converge(platform: str, quoting_enclave: str) -> str:
    """One status for both: an outdated quoting enclave makes a good platform outdated.

    Raises:
        RevokedError: either was revoked.
        TcbError: a status of the quoting enclave that has no place in Intel's table.
    """
    if _REVOKED in (platform, quoting_enclave):
        raise RevokedError("the TCB level of the platform or of its quoting enclave was revoked")
    if quoting_enclave == "UpToDate":
        return platform
    if quoting_enclave != "OutOfDate":
        raise TcbError(f"a quoting enclave with the TCB status {quoting_enclave!r} is not known here")
    if platform in ("UpToDate", "SWHardeningNeeded"):
        return "OutOfDate"
    if platform in ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"):
        return "OutOfDateConfigurationNeeded"
    return platform


def evaluate_quote(
    quote: SgxQuote,
    chain: Sequence[x509.Certificate],
    collateral: Collateral,
    root: x509.Certificate,
) -> Verdict:
    """The verdict on a quote whose dates were checked; debug enclaves are evaluated like any other.

    Raises:
        EvidenceError: the subclass that says why.
    """
    signers = (collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain)
    chains = [chain, *(parse_chain(one.encode(), CollateralError) for one in signers)]
    names = ("PCK", "TCB info's", "QE identity's")
    for one, name in zip(chains, names, strict=True):  # (1)
        _verify_chain(one, root, name)
    if len(chain) != 3:
        raise UntrustedRootError(f"a PCK chain has leaf, CA and root; this one has {len(chain)} certificates")
    _check_revocation(chains, collateral, root)  # (2)
    tcb_info = _verify_text(collateral.tcb_info, collateral.tcb_info_signature, chains[1][0], "TCB info")  # (3)
    identity = _verify_text(collateral.qe_identity, collateral.qe_identity_signature, chains[2][0], "QE identity")
    _check_kind(identity, "QE identity", "QE", 2)
    pck = parse_pck_extension(chain[0])
    check_tcb_info_fits(tcb_info, pck)
    _verify_quote(quote, chain[0])  # (4)
    _check_quoting_enclave(quote.qe_report, identity)  # (5)
    platform, quoting_enclave = _platform_level(tcb_info, pck), _qe_level(identity, quote.qe_report)  # (6)
    numbers = [
        _field(value, "tcbEvaluationDataNumber", int, name)
        for value, name in ((tcb_info, "TCB info"), (identity, "QE identity"))
    ]
    return Verdict(
        tcb_status=converge(platform.status, quoting_enclave.status),
        advisories=platform.advisories | quoting_enclave.advisories,
        tcb_evaluation_number=min(numbers),
        hardware_id=pck.ppid,
    )
