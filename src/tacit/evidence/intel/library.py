"""The dcap-qvl library's verdict on a quote, and its texts turned into our errors.

The library does the steps (I5) to (I13) in one call. Where it refuses before it says anything (a debug enclave or TD,
and TDs of some attributes) it is not asked at all: `answers` says where, and `intel.evaluator` does those.
"""

import re
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

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
from tacit.evidence.anchor.certificates import KEPT
from tacit.evidence.claims import Step
from tacit.evidence.intel import steps
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.evaluator import Verdict
from tacit.evidence.intel.quote import Quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.tdx.report import TD_SEPT_VE_DISABLE

# The library's texts are no API: the version is pinned, and tests run every known defect through this table.
# First match wins; matched in lower case.
_REFUSALS: tuple[tuple[str, type[EvidenceError], Step], ...] = (
    (r"certrevoked", RevokedError, steps.REVOCATION),
    (r"invalid: revoked", RevokedError, steps.LEVELS),
    (r"expired|in the future|notvalidyet", CollateralTimeError, steps.IN_FORCE),
    (r"no tdx module identity", EvidenceSignatureError, steps.TDX_MODULE),
    (r"unknown variant|no matching tcb level|below minimum", TcbError, steps.LEVELS),
    (r"tdx module (mrsigner|seamattributes|identity)", EvidenceSignatureError, steps.TDX_MODULE),
    (r"invalid for tcb_info", CollateralError, steps.TCB_INFO),
    (r"invalid for qe_identity", CollateralError, steps.QE_IDENTITY),
    (r"unknownrevocationstatus|parse .*crl|invalidcrlsignature", CollateralError, steps.REVOCATION),
    (r"fmspc mismatch|pce_?id mismatch|component count|decode tcb", CollateralError, steps.TCB_INFO),
    (r"decode qe ?identity|qe identity leaf|unsupported qe identity", CollateralError, steps.QE_IDENTITY),
    (r"tcb info leaf|invalid key length|tcb ?info (id|version)|non-(sgx|tdx) tcb info", CollateralError, steps.TCB_INFO),
    (r"crl", CollateralError, steps.REVOCATION),
    (r"report signature is invalid", EvidenceSignatureError, steps.QUOTE),
    (r"invalid for qe_report", EvidenceSignatureError, steps.QE_REPORT),
    (r"report hash mismatch", EvidenceSignatureError, steps.KEY_BINDING),
    (r"qe (mrsigner|isvprodid|attributes|miscselect)|qe report validation", EvidenceSignatureError, steps.QE_REPORT),
    (r"unknownissuer|invalidsignatureforpublickey|ca ?used ?as|entityusedasca|certificate chain",
     UntrustedRootError, steps.CHAIN),
    (r"parse pck|extract pck|intel extension|subobject|sequence|oid", EvidenceFormatError, steps.CHAIN),
    (r"decode quote|unsupported|vendor id|cert format", EvidenceFormatError, steps.LAYOUT),
)  # fmt: skip


def refusal(text: str) -> EvidenceError:
    """Our error for a text of the library. A text that nobody has seen yet is refused as evidence, never passed."""
    lowered = text.lower()
    for pattern, error, step in _REFUSALS:
        if re.search(pattern, lowered):
            refused = error(f"evidence refused: {text[:300]}")
            refused.step = str(step)
            return refused
    return EvidenceError(f"evidence refused: {text[:300]}")


def answers(quote: Quote) -> bool:
    """Whether the library gives a verdict on such a quote, rather than a refusal on sight."""
    if isinstance(quote.report, SgxReport):
        return quote.version == 3 and not quote.report.debug
    return quote.report.attributes == TD_SEPT_VE_DISABLE and not any(quote.report.service_td)


class _Tcb(msgspec.Struct):
    """Of the library's claims, what is used of them."""

    status: str
    advisory_ids: list[str]
    eval_data_number: int


class _Pck(msgspec.Struct):
    ppid: list[int]


class _Platform(msgspec.Struct):
    pck: _Pck


class _Claims(msgspec.Struct):
    tcb: _Tcb
    platform: _Platform


_CLAIMS = msgspec.json.Decoder(_Claims)


@lru_cache(maxsize=KEPT)
def _convert(collateral: IntelCollateral) -> Any:
    """The library's own form of collateral."""
    import dcap_qvl

    return dcap_qvl.QuoteCollateralV3(**asdict(collateral))


def _full_text(refused: ValueError, quote: bytes, collateral: object, root_der: bytes, seconds: int) -> str:
    """The refusal with its causes, which only the library's older call tells. It decides nothing here."""
    import dcap_qvl

    try:
        dcap_qvl.verify_with_root_ca(quote, collateral, root_der, seconds)
    except ValueError as exc:
        return " ".join(str(exc).split())
    return " ".join(str(refused).split())


def verify_with_library(quote: bytes, collateral: IntelCollateral, root_der: bytes, *, now: datetime) -> Verdict:
    """The library's verdict on a bare quote that it answers for.

    Raises:
        EvidenceError: the subclass that says why.
    """
    # Here, because a program that only names claims (the model server) need not load the library.
    import dcap_qvl

    seconds = int(now.timestamp())
    converted = _convert(collateral)
    # Everything is reported and nothing decided: decisions are the manifest's.
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        claims = dcap_qvl.QuoteVerifier(root_der).verify_with_policy(quote, converted, seconds, policy)
    except ValueError as exc:
        raise refusal(_full_text(exc, quote, converted, root_der, seconds)) from exc
    try:
        found = _CLAIMS.decode(claims.to_json())
        hardware_id = bytes(found.platform.pck.ppid)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise EvidenceError(f"the library's claims are of another form: {exc}") from exc
    tcb = found.tcb
    return Verdict(tcb.status, frozenset(tcb.advisory_ids), tcb.eval_data_number, hardware_id)
