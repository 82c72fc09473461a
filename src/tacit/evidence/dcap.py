"""From evidence to claims: is this a genuine enclave on a genuine platform, and in which state?

`verify_evidence` takes bytes, collateral, an anchor and the time, and does these steps in this order:

(1) Take off Open Enclave's envelope, if there; parse the quote, every byte of it (`sgx.quote`).
(2) Refuse attributes that no known enclave has (`sgx.quote`).
(3) Check that the anchor fits its own kind of TEE, and that the quote's certificates are of that kind and end at the
    anchor's root (`anchor`). From here on only the pinned root counts.
(4) Check that everything dated is in force: certificates, both CRLs, TCB info, QE identity. The library accepts a
    CRL from the future, so this is done here (`collateral.check_validity`). And that TCB info and QE identity come from
    a signer of the root's, not from a platform's key, which the library accepts too (`collateral.check_signers`).
(5) Verify: PCK chain to the root; revocation by both CRLs; TCB info and QE identity signed by the TCB signer and made
    for this platform; the quoting enclave's report signed by the PCK key, and the enclave Intel's; the attestation key
    bound by that report; the quote signed by that key. Find the TCB level of platform and quoting enclave.
    Done by the dcap-qvl library. That library refuses debug enclaves before it says anything about them; for those,
    and only those, `sgx.evaluator` does the same in Python. Tests run both on every vector and compare.
(6) Refuse TCB info of another version or for another PCE, which the library does not look at, and a TCB status that
    is not known here, whoever found it.

What step (5) says is authentic. Whether it is allowed (debug, status, measurement, signer) is for `manifest.appraise`;
whose key it binds, for `binding.verify_binding`.

Source: Intel SGX DCAP ECDSA Orientation, "quote verification"; Intel PCS API v4, TCB recovery and status selection.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import (
    CollateralError,
    CollateralTimeError,
    EvidenceError,
    EvidenceFormatError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.anchor import check_chain_kind, parse_anchor
from tacit.evidence.claims import Check, Claims, TrustAnchor
from tacit.evidence.collateral import Collateral, check_signers, check_validity, parse_chain, parse_signed_object
from tacit.evidence.sgx.evaluator import TCB_STATUSES, Verdict, check_tcb_info_fits, evaluate_quote
from tacit.evidence.sgx.pck import parse_pck_extension
from tacit.evidence.sgx.quote import SgxQuote, check_attributes, parse_quote, unwrap

# The library's texts are no API: the version is pinned, and tests run every known defect through this table.
# First match wins; matched in lower case.
_REFUSALS: tuple[tuple[str, type[EvidenceError]], ...] = (
    (r"certrevoked|invalid: revoked", RevokedError),
    (r"expired|in the future|notvalidyet", CollateralTimeError),
    (r"unknown variant|no matching tcb level|below minimum", TcbError),
    (r"invalid for (tcb_info|qe_identity)|unknownrevocationstatus|parse .*crl|invalidcrlsignature", CollateralError),
    (r"fmspc mismatch|pce_?id mismatch|component count|decode (tcb|qe ?identity)", CollateralError),
    (r"(tcb info|qe identity) leaf|invalid key length|tcb ?info (id|version)|crl", CollateralError),
    (r"non-sgx tcb info|unsupported qe identity", CollateralError),
    (r"report signature is invalid|invalid for qe_report|report hash mismatch", EvidenceSignatureError),
    (r"qe (mrsigner|isvprodid|attributes|miscselect)|qe report validation", EvidenceSignatureError),
    (r"unknownissuer|invalidsignatureforpublickey|ca ?used ?as|entityusedasca|certificate chain", UntrustedRootError),
    (r"decode quote|parse pck|unsupported|vendor id|cert format|extract pck|intel extension|subobject|sequence|oid",
     EvidenceFormatError),
)  # fmt: skip


def refusal(text: str) -> EvidenceError:
    """Our error for a text of the library. A text that nobody has seen yet is refused as evidence, never passed."""
    lowered = text.lower()
    for pattern, error in _REFUSALS:
        if re.search(pattern, lowered):
            return error(f"evidence refused: {text[:300]}")
    return EvidenceError(f"evidence refused: {text[:300]}")


def _full_text(refused: ValueError, quote: bytes, collateral: object, root_der: bytes, seconds: int) -> str:
    """The refusal with its causes, which only the library's older call tells. It decides nothing here."""
    import dcap_qvl

    try:
        dcap_qvl.verify_with_root_ca(quote, collateral, root_der, seconds)
    except ValueError as exc:
        return " ".join(str(exc).split())
    return " ".join(str(refused).split())


def verify_with_library(quote: bytes, collateral: Collateral, root_der: bytes, *, now: datetime) -> Verdict:
    """The library's verdict on a bare quote that is not of a debug enclave.

    Raises:
        EvidenceError: the subclass that says why.
    """
    # Here, because a program that only names claims (the model server) need not load the library.
    import dcap_qvl

    seconds = int(now.timestamp())
    converted = dcap_qvl.QuoteCollateralV3(**asdict(collateral))
    # Everything is reported and nothing decided: decisions are the manifest's.
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        claims = dcap_qvl.QuoteVerifier(root_der).verify_with_policy(quote, converted, seconds, policy)
        found = json.loads(claims.to_json())
    except ValueError as exc:
        raise refusal(_full_text(exc, quote, converted, root_der, seconds)) from exc
    return Verdict(
        tcb_status=found["tcb"]["status"],
        advisories=frozenset(found["tcb"]["advisory_ids"]),
        tcb_evaluation_number=found["tcb"]["eval_data_number"],
        hardware_id=bytes(found["platform"]["pck"]["ppid"]),
    )


def _list_checks(
    quote: SgxQuote, chain: Sequence[x509.Certificate], collateral: Collateral, anchor: TrustAnchor, now: datetime
) -> tuple[Check, ...]:
    """What was checked and over what; called when all of it held."""
    made = (
        ("layout, lengths and padding", quote.signed),
        ("known attributes", quote.report.raw[:64]),
        (f"PCK chain to {anchor.name}", b"".join(one.public_bytes(Encoding.DER) for one in chain)),
        ("in force: certificates, CRLs, TCB info, QE identity", now.isoformat().encode()),
        ("root CRL", collateral.root_ca_crl),
        ("PCK CRL", collateral.pck_crl),
        ("TCB info: signature, platform, level", collateral.tcb_info.encode()),
        ("QE identity: signature, quoting enclave, level", collateral.qe_identity.encode()),
        ("quoting enclave signed by the PCK key", quote.qe_report.raw),
        ("attestation key bound by the quoting enclave", quote.attestation_key + quote.qe_auth_data),
        ("quote signed by the attestation key", quote.signed),
    )
    return tuple(Check(name, sha256(over).digest()) for name, over in made)


def verify_evidence(evidence: bytes, collateral: Collateral, anchor: TrustAnchor, *, now: datetime) -> Claims:
    """What authentic evidence says: a bare SGX quote, or one in Open Enclave's 16-byte envelope.

    `now` is aware. Nothing is said about whether the claims are allowed, nor about whose key they bind.

    Raises:
        EvidenceFormatError: not a quote that is supported, or one with bytes where none belong.
        UntrustedRootError: the chain does not end at `anchor`, or the anchor is of another kind.
        CollateralTimeError: something is not in force at `now`.
        CollateralError: collateral that is malformed, forged or for another platform.
        EvidenceSignatureError: a signature of the quote, or the quoting enclave, does not hold.
        RevokedError: a certificate or the platform's TCB level was revoked.
        TcbError: no TCB level fits, or its status is unknown.
    """
    quote = parse_quote(unwrap(evidence))  # (1)
    check_attributes(quote.report)  # (2)
    root = parse_anchor(anchor)  # (3)
    chain = parse_chain(quote.pck_chain_pem)
    check_chain_kind(chain, anchor, root)
    expires = check_validity(chain, root, collateral, now=now)  # (4)
    check_signers(collateral)
    if quote.report.debug:  # (5)
        verdict = evaluate_quote(quote, chain, collateral, root)
    else:
        verdict = verify_with_library(quote.raw, collateral, anchor.root_der, now=now)
        tcb_info = parse_signed_object(collateral.tcb_info, "TCB info")  # (6)
        check_tcb_info_fits(tcb_info, parse_pck_extension(chain[0]))
    if verdict.tcb_status not in TCB_STATUSES:
        raise TcbError(f"the TCB status {verdict.tcb_status[:40]!r} is not one that is known here")

    return Claims(
        tee=anchor.tee,
        measurement=quote.report.mr_enclave,
        signer=quote.report.mr_signer,
        product_id=quote.report.product_id,
        security_version=quote.report.security_version,
        debug=quote.report.debug,
        report_data=quote.report.report_data,
        tcb_status=verdict.tcb_status,
        advisories=verdict.advisories,
        tcb_evaluation_number=verdict.tcb_evaluation_number,
        hardware_id=verdict.hardware_id,
        expires=expires,
        checks=_list_checks(quote, chain, collateral, anchor, now),
    )
