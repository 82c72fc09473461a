"""The one entry to verification: evidence of any kind, collateral, an anchor, the time and a binding; claims go out.

What kind of evidence it is, is seen from its first bytes, which cannot be taken for each other: a certificate (RA-TLS)
begins with DER's 30 82, Open Enclave's envelope with u32 1, a quote with u16 version (3, 4, 5) and u16 key type 2,
an SNP report with u32 version (2, 3, 5). Which root may vouch for it is never taken from it.
"""

import hmac
from datetime import datetime

from tacit.errors import BindingError, CollateralError
from tacit.evidence.claims import Check, Claims, TrustAnchor, naming
from tacit.evidence.intel import steps as intel_steps
from tacit.evidence.intel.verify import verify_quote
from tacit.evidence.snp import steps as snp_steps
from tacit.evidence.snp.carried import split_report
from tacit.evidence.snp.collateral import AmdCollateral
from tacit.evidence.snp.report import is_report
from tacit.evidence.snp.verify import verify_report
from tacit.evidence.verify.binding import BINDING, Binding, verify_binding
from tacit.evidence.verify.collateral import Collateral
from tacit.evidence.verify.envelope import unwrap
from tacit.evidence.verify.ratls import RatlsEvidence, is_certificate, parse_ratls, verify_ratls_binding


def verify_evidence(
    evidence: bytes,
    collateral: Collateral,
    anchor: TrustAnchor,
    *,
    now: datetime,
    binding: Binding | None = None,
) -> Claims:
    """What authentic evidence says: a quote, bare or in Open Enclave's envelope; an SNP report; an RA-TLS certificate.

    `now` is aware. Nothing is said about whether the claims are allowed. Without `binding` the claims list that check
    as not made, until `verify_binding` has made it.

    Raises:
        EvidenceFormatError: no evidence of a kind that is known, or some with bytes where none belong.
        UntrustedRootError: the chain does not end at `anchor`, or the anchor is of another kind.
        CollateralTimeError: something is not in force at `now`.
        CollateralError: collateral that is malformed, forged or for another platform.
        EvidenceSignatureError: a signature, or the quoting enclave, does not hold.
        RevokedError: a certificate or the platform's TCB level was revoked.
        TcbError: no TCB level fits, or its status is unknown.
        BindingError: it was made for another key, role or nonce.
    """
    carried = None
    if is_certificate(evidence):
        carried = parse_ratls(evidence, now=now)
        evidence = carried.quote
    claims = _verify_inner(evidence, collateral, anchor, now=now)
    claims = _with_open_check(claims)
    if carried is not None:
        claims = verify_ratls_binding(claims, carried)
        return claims if binding is None else _bind_ratls(claims, carried, binding)
    if binding is None:
        return claims
    return verify_binding(claims, role=binding.role, key=binding.key, nonce=binding.nonce, channel=binding.channel)


def _verify_inner(evidence: bytes, collateral: Collateral, anchor: TrustAnchor, *, now: datetime) -> Claims:
    if isinstance(collateral, AmdCollateral):
        with naming(snp_steps.LAYOUT):
            report = split_report(evidence)[0] if is_report(evidence) else evidence
        return verify_report(report, collateral, anchor, now=now)
    if is_report(evidence):
        with naming(snp_steps.CHAIN):
            raise CollateralError("an SNP report needs AMD's certificates as its collateral; this is Intel's")
    with naming(intel_steps.LAYOUT):
        quote = unwrap(evidence)
    return verify_quote(quote, collateral, anchor, now=now)


def _with_open_check(claims: Claims) -> Claims:
    """The claims with the binding listed as not made."""
    return claims.with_listed(Check(BINDING.number, BINDING.name, None))


def _bind_ratls(claims: Claims, carried: RatlsEvidence, binding: Binding) -> Claims:
    """A certificate of RA-TLS binds its own key and, in its claims, a nonce; it knows no roles.

    Raises:
        BindingError: another certificate than the connection's, another nonce, or a role.
    """
    with naming(BINDING):
        if binding.role is not None:
            raise BindingError(f"RA-TLS binds no role, and the role '{binding.role}' was asked for")
        if binding.channel:
            raise BindingError("RA-TLS binds no connection, and one was asked for")
        if not hmac.compare_digest(binding.key, carried.certificate):
            raise BindingError("the evidence is in another certificate than the one of this connection")
        if not hmac.compare_digest(binding.nonce, carried.nonce or b""):
            raise BindingError("the evidence was made for another nonce: it is a replay, or was never fresh")
    return claims.with_check(BINDING, carried.certificate + binding.nonce)
