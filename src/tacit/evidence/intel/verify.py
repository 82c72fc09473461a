"""From a quote to claims: is this a genuine enclave or TD on a genuine platform, and in which state?

`verify_quote` takes a bare quote, collateral, an anchor and the time, and does these steps in this order:

(I1) Parse the quote, every byte of it (`quote`).
(I2) Refuse attributes that no known enclave or TD has (`sgx.report`, `tdx.report`).
(I3) Check that the anchor fits its own kind of TEE, and that the quote's certificates are of that kind and end at the
    anchor's root (`anchor`). From here on only the pinned root counts.
(I4) Check that everything dated is in force: certificates, both CRLs, TCB info, QE identity. The library accepts a
    CRL from the future, so this is done here (`collateral.check_validity`). And that TCB info and QE identity come from
    a signer of the root's, not from a platform's key, which the library accepts too (`collateral.check_signers`).
(I5) to (I13) Verify: chain, revocation, TCB info, QE identity, quoting enclave, attestation key, quote, TDX module,
    levels. Done by the dcap-qvl library; by our own evaluator where the library refuses before it says anything: debug,
    and TDs of which a package may want to allow an attribute. Tests run both on every vector and compare.
    What the library does not look at is checked beside it: TCB info's version and PCE. Levels are always found by our
    own code too, and must be the library's.

What comes out is authentic. Whether it is allowed (debug, status, measurement, weaknesses) is for `manifest.appraise`;
whose key it binds, for `verify.binding`.

Source: Intel SGX DCAP ECDSA Orientation, "quote verification"; Intel PCS API v4, TCB recovery and status selection.
"""

from datetime import datetime

from cryptography import x509

from tacit.errors import TcbError, UntrustedRootError
from tacit.evidence.anchor.certificates import parse_chain
from tacit.evidence.anchor.roots import check_chain_kind, check_kind, parse_anchor
from tacit.evidence.claims import Check, Checklist, Claims, Tee, TrustAnchor, naming
from tacit.evidence.intel import steps
from tacit.evidence.intel.collateral import IntelCollateral, check_signers, check_validity, read_collateral
from tacit.evidence.intel.evaluator import (
    Verdict,
    chain_digest,
    check_tcb_info_fits,
    evaluate_quote,
)
from tacit.evidence.intel.levels import TCB_STATUSES, State, find_state
from tacit.evidence.intel.library import answers, verify_with_library
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.intel.quote import Quote, check_known_attributes, parse_quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.tdx.report import TdReport

# Kinds of anchor that vouch for a quote of each kind.
_KINDS = {Tee.SGX: (Tee.SGX, Tee.SIMULATED), Tee.TDX: (Tee.TDX, Tee.SIMULATED_TDX)}
_CHAIN = 3  # certificates: PCK, its CA, the root


def verify_quote(raw: bytes, collateral: IntelCollateral, anchor: TrustAnchor, *, now: datetime) -> Claims:
    """What an authentic quote says; `now` is aware.

    Raises:
        EvidenceError: the subclass that says why, with the step that refused (see `verify_evidence`).
    """
    with naming(steps.LAYOUT):
        quote = parse_quote(raw)
    done = Checklist(steps.SGX_STEPS if quote.tee is Tee.SGX else steps.TDX_STEPS)
    done.tick(steps.LAYOUT, quote.signed)
    with done.doing(steps.ATTRIBUTES, quote.report.raw):
        check_known_attributes(quote)
    with done.doing(steps.ANCHOR, quote.pck_chain_pem):
        check_kind(anchor, _KINDS[quote.tee], quote.tee.name)
        root = parse_anchor(anchor)
        chain = parse_chain(quote.pck_chain_pem)
        check_chain_kind(chain, anchor, root)
        if len(chain) != _CHAIN:
            raise UntrustedRootError(f"a PCK chain has leaf, CA and root; this one has {len(chain)} certificates")
    with done.doing(steps.IN_FORCE, now.isoformat().encode()):
        expires = check_validity(chain, root, collateral, now=now)
        check_signers(read_collateral(collateral))
    if answers(quote):
        verdict, state = _by_library(quote, chain, collateral, anchor, now=now, done=done)
    else:
        verdict, state = evaluate_quote(quote, chain, collateral, root, done)
    if verdict.tcb_status not in TCB_STATUSES:
        raise TcbError(f"the TCB status {verdict.tcb_status[:40]!r} is not one that is known here")
    fmspc = parse_pck_extension(chain[0]).fmspc
    return _claims(quote, verdict, state, fmspc=fmspc, anchor=anchor, expires=expires, now=now, checks=done.checks())


def _by_library(
    quote: Quote,
    chain: tuple[x509.Certificate, ...],
    collateral: IntelCollateral,
    anchor: TrustAnchor,
    *,
    now: datetime,
    done: Checklist,
) -> tuple[Verdict, State]:
    """(I5) to (I13) by the library, with what it leaves out."""
    verdict = verify_with_library(quote.raw, collateral, anchor.root_der, now=now)
    read, pck = read_collateral(collateral), parse_pck_extension(chain[0])
    # The library did these; a refusal of any of them came out as an error above.
    done.tick(steps.CHAIN, chain_digest(chain))
    done.tick(steps.REVOCATION, read.lists)
    with done.doing(steps.TCB_INFO, read.tcb_info_text):
        check_tcb_info_fits(read.tcb_info, pck, quote.tee)
    done.tick(steps.QE_IDENTITY, read.qe_identity_text)
    done.tick(steps.QE_REPORT, quote.qe_report.raw)
    done.tick(steps.KEY_BINDING, quote.attestation_key + quote.qe_auth_data)
    done.tick(steps.QUOTE, quote.signed)
    if isinstance(quote.report, TdReport):
        done.tick(steps.TDX_MODULE, quote.report.raw[:128])
    with done.doing(steps.LEVELS, read.both_texts):
        state = find_state(quote, read, pck)
        if (state.tcb_status, state.advisories) != (verdict.tcb_status, verdict.advisories):
            raise TcbError(
                f"two evaluators disagree about the platform ({verdict.tcb_status[:40]!r} and {state.tcb_status!r}, or "
                "their advisories): neither is believed"
            )
    return verdict, state


def _claims(
    quote: Quote,
    verdict: Verdict,
    state: State,
    *,
    fmspc: bytes,
    anchor: TrustAnchor,
    expires: datetime,
    now: datetime,
    checks: tuple[Check, ...],
) -> Claims:
    report = quote.report
    software = (
        (report.mr_enclave, report.mr_signer, report.product_id, report.security_version)
        if isinstance(report, SgxReport)
        else (report.mr_td, b"", 0, 0)  # a TD has neither signer nor version: its measurements are all there is
    )
    return Claims(
        anchor.tee,
        *software,
        debug=report.debug,
        report_data=report.report_data,
        tcb_status=verdict.tcb_status,
        advisories=verdict.advisories,
        tcb_evaluation_number=verdict.tcb_evaluation_number,
        hardware_id=verdict.hardware_id,
        expires=expires,
        checks=checks,
        registers=report.registers,
        weaknesses=quote.weaknesses,
        product_line=fmspc.hex().upper(),
        outdated_since=state.outdated_since,
        verified_at=now,
    )
