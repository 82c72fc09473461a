"""Our own evaluation of a quote: every signature, list and level, in Python.

Used where the library gives no answer (`library.answers`) and, in tests, beside it on every vector. The caller has
parsed the quote, checked that its chain ends at the anchor's root, and that all is in force. The steps are those of
`intel.verify`:

(I5) Certificates: the PCK chain and the TCB signers' chains lead to the pinned root, by name, signature, CA bit.
(I6) Lists: the root's CRL is signed by the root, the PCK CRL by the CA that issued the PCK certificate; nothing that
    was used stands on one.
(I7, I8) Texts: TCB info and QE identity are signed by a TCB signer, are of the quote's kind, and are for this platform
    (FMSPC, PCEID).
(I9 to I11) Quote: the PCK key signed the quoting enclave's report, which is of the enclave that QE identity describes
    and binds the attestation key, which signed the quote.
(I12) TDX module: the one that TCB info knows, signed by Intel.
(I13) Levels: the highest that the platform and its parts reach; all converge (`intel.levels`).

Source: Intel SGX DCAP ECDSA Orientation, "quote verification"; Intel SGX PCK certificate profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import CollateralError, EvidenceError, EvidenceSignatureError, RevokedError, UntrustedRootError
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT, parse_crl, public_point
from tacit.evidence.claims import Checklist, Digested, Tee
from tacit.evidence.intel import steps
from tacit.evidence.intel.collateral import IntelCollateral, read_collateral
from tacit.evidence.intel.fields import check_text_kind, take, take_hex
from tacit.evidence.intel.levels import State, check_tdx_module, find_state
from tacit.evidence.intel.pck import PckExtension, parse_pck_extension
from tacit.evidence.intel.quote import Quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.tdx.report import TdReport

# Kinds -> the ids that TCB info and QE identity have for it.
_IDS = {Tee.SGX: ("SGX", "QE"), Tee.TDX: ("TDX", "TD_QE")}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of an authentic platform: Intel's word, advisories, the number of the evaluation, the PPID."""

    tcb_status: str
    advisories: frozenset[str]
    tcb_evaluation_number: int
    hardware_id: bytes


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


@lru_cache(maxsize=KEPT)
def _verify_chain(chain: tuple[x509.Certificate, ...], root: x509.Certificate, what: str) -> None:
    """(I5) for one chain, leaf first. Its own last certificate is a copy of the root and is not used."""
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


@lru_cache(maxsize=KEPT)
def _verify_crl(der: bytes, issuer: x509.Certificate, name: str) -> None:
    crl = parse_crl(der, name)
    try:
        key = issuer.public_key()
        good = isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)
        if not good or crl.issuer != issuer.subject:
            raise ValueError("another key signed it")
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"the {name} CRL is not its issuer's: {exc}") from exc


@lru_cache(maxsize=KEPT)
def _check_revocation(
    pck_chain: tuple[x509.Certificate, ...], collateral: IntelCollateral, root: x509.Certificate
) -> None:
    """(I6) Each certificate below the root is looked up in the list of its own issuer.

    Remembered for one chain and one collateral: what stands on a list does not depend on the time, and whether the list
    is in force is asked each time (I4). A refusal is not remembered.
    """
    pck_ca = pck_chain[1]
    read, lists = read_collateral(collateral), {}
    chains = (pck_chain, read.tcb_info_chain, read.qe_identity_chain)
    for name, der, crl, issuer in (
        ("root", collateral.root_ca_crl, read.root_crl, root),
        ("PCK", collateral.pck_crl, read.pck_crl, pck_ca),
    ):
        _verify_crl(der, issuer, name)
        lists[crl.issuer] = crl
    for certificate in {one for chain in chains for one in chain[:-1]}:
        if certificate.issuer not in lists:
            issuer_name = certificate.issuer.rfc4514_string()[:80]
            raise CollateralError(f"there is no CRL of '{issuer_name}', so revocation cannot be checked")
        if lists[certificate.issuer].get_revoked_certificate_by_serial_number(certificate.serial_number):
            raise RevokedError(f"the certificate '{certificate.subject.rfc4514_string()[:80]}' was revoked")


@lru_cache(maxsize=KEPT)
def _verify_text(text: str, signature: bytes, signer: x509.Certificate, what: str) -> None:
    """A text that a TCB signer signed."""
    refuse = CollateralError(f"the signature over {what} does not hold; fetch the collateral again")
    verify_signature(public_point(signer), signature, text.encode(), refuse)


def check_tcb_info_fits(tcb_info: Mapping[str, Any], pck: PckExtension, tee: Tee) -> None:
    """Accept TCB info for this kind of quote, of the version that is read here, and for this very platform.

    Raises:
        CollateralError: it is for another kind, version, FMSPC or PCE.
    """
    check_text_kind(tcb_info, "TCB info", _IDS[tee][0], 3)
    for name, expected in (("fmspc", pck.fmspc), ("pceId", pck.pce_id)):
        if take_hex(tcb_info, name, len(expected), "TCB info") != expected:
            raise CollateralError(f"TCB info is for another platform: its {name} is not {expected.hex()}")


def check_identity_kind(identity: Mapping[str, Any], tee: Tee) -> None:
    """Accept QE identity for this kind of quote. Raises: CollateralError."""
    check_text_kind(identity, "QE identity", _IDS[tee][1], 2)


def _verify_qe_report(quote: Quote, pck: x509.Certificate) -> None:
    verify_signature(
        public_point(pck),
        quote.qe_signature,
        quote.qe_report.raw,
        EvidenceSignatureError("the platform's key did not sign the quoting enclave's report"),
    )


def _check_key_binding(quote: Quote) -> None:
    bound = sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise EvidenceSignatureError("the quoting enclave's report does not bind the attestation key")


def _verify_quote(quote: Quote) -> None:
    verify_signature(
        quote.attestation_key,
        quote.signature,
        quote.signed,
        EvidenceSignatureError("the quote's signature does not hold: it was altered"),
    )


def _check_quoting_enclave(report: SgxReport, identity: Mapping[str, Any]) -> None:
    """(I9) A report that another enclave on the same platform made is worth nothing."""
    what = "QE identity"
    if report.debug:
        raise EvidenceSignatureError("the quoting enclave is a debug enclave, so its key may be known")
    misc = report.misc_select.to_bytes(4, "little")
    attributes = report.attributes.to_bytes(8, "little") + report.xfrm.to_bytes(8, "little")
    pairs = (("miscselect", "miscselectMask", misc), ("attributes", "attributesMask", attributes))
    for name, mask_name, found in pairs:
        expected, mask = (take_hex(identity, one, len(found), what) for one in (name, mask_name))
        if bytes(a & b for a, b in zip(found, mask, strict=True)) != expected:
            raise EvidenceSignatureError(f"the quoting enclave's {name} are not those of QE identity")
    if report.mr_signer != take_hex(identity, "mrsigner", 32, what):
        raise EvidenceSignatureError("the quoting enclave is signed by another than QE identity says")
    if report.product_id != take(identity, "isvprodid", int, what):
        raise EvidenceSignatureError("the quoting enclave has another product id than QE identity says")


@lru_cache(maxsize=KEPT)
def chain_digest(chain: tuple[x509.Certificate, ...]) -> Digested:
    """What the check of a chain is made over: its certificates, one after the other."""
    return Digested(sha256(b"".join(one.public_bytes(Encoding.DER) for one in chain)).digest())


def evaluate_quote(
    quote: Quote,
    chain: tuple[x509.Certificate, ...],
    collateral: IntelCollateral,
    root: x509.Certificate,
    done: Checklist,
) -> tuple[Verdict, State]:
    """The verdict on a quote whose dates were checked; debug and other weaknesses are evaluated like any other.

    With the state that it was made of, which says since when a level is outdated.

    Raises:
        EvidenceError: the subclass that says why, with its step.
    """
    read = read_collateral(collateral)
    _evaluate_collateral(quote, chain, collateral, root, done)
    with done.doing(steps.QE_REPORT, quote.qe_report.raw):
        _verify_qe_report(quote, chain[0])
        _check_quoting_enclave(quote.qe_report, read.qe_identity)
    with done.doing(steps.KEY_BINDING, quote.attestation_key + quote.qe_auth_data):
        _check_key_binding(quote)
    with done.doing(steps.QUOTE, quote.signed):
        _verify_quote(quote)
    if isinstance(quote.report, TdReport):
        with done.doing(steps.TDX_MODULE, quote.report.raw[:128]):
            check_tdx_module(quote.report, read.tcb_info)
    pck = parse_pck_extension(chain[0])
    with done.doing(steps.LEVELS, read.both_texts):
        state = find_state(quote, read, pck)
    return Verdict(state.tcb_status, state.advisories, state.tcb_evaluation_number, pck.ppid), state


def _evaluate_collateral(
    quote: Quote,
    chain: tuple[x509.Certificate, ...],
    collateral: IntelCollateral,
    root: x509.Certificate,
    done: Checklist,
) -> None:
    read = read_collateral(collateral)
    chains = [chain, read.tcb_info_chain, read.qe_identity_chain]
    with done.doing(steps.CHAIN, chain_digest(chain)):
        for one, name in zip(chains, ("PCK", "TCB info's", "QE identity's"), strict=True):
            _verify_chain(one, root, name)
    with done.doing(steps.REVOCATION, read.lists):
        _check_revocation(chain, collateral, root)
    with done.doing(steps.TCB_INFO, read.tcb_info_text):
        _verify_text(collateral.tcb_info, collateral.tcb_info_signature, read.tcb_info_chain[0], "TCB info")
        check_tcb_info_fits(read.tcb_info, parse_pck_extension(chain[0]), quote.tee)
    with done.doing(steps.QE_IDENTITY, read.qe_identity_text):
        signer = read.qe_identity_chain[0]
        _verify_text(collateral.qe_identity, collateral.qe_identity_signature, signer, "QE identity")
        check_identity_kind(read.qe_identity, quote.tee)
