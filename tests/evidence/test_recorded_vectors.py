"""Real and simulated quotes that others recorded, good and bad: our verdict, and that both evaluators agree on it."""

import json
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.evidence_vectors import OWN, SHARED, Case, negative, negatives, own, real
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
from tacit.evidence import INTEL, Claims, verify_evidence
from tacit.evidence.anchor.certificates import parse_chain
from tacit.evidence.anchor.roots import check_chain_kind, parse_anchor
from tacit.evidence.claims import Checklist
from tacit.evidence.intel import steps
from tacit.evidence.intel.collateral import IntelCollateral, check_validity
from tacit.evidence.intel.evaluator import evaluate_quote
from tacit.evidence.intel.library import answers, verify_with_library
from tacit.evidence.intel.quote import check_known_attributes, parse_quote
from tacit.evidence.verify import parse_collateral

# What the vectors call a defect, and the errors of ours that name it. A debug enclave is no defect of the evidence:
# `manifest.appraise` refuses it; an outdated platform likewise.
CLASSES: dict[str, tuple[type[EvidenceError], ...]] = {
    "quote-signature": (EvidenceSignatureError,),
    "qe-report-signature": (EvidenceSignatureError,),
    "key-binding": (EvidenceSignatureError,),
    "qe-identity": (EvidenceSignatureError,),
    "tdx-module": (EvidenceSignatureError,),
    "header": (EvidenceFormatError,),
    "parse": (EvidenceFormatError,),
    "cert-data-type": (EvidenceFormatError,),
    "policy(trailing bytes)": (EvidenceFormatError,),
    "pck-extension": (EvidenceFormatError,),
    "pck-chain": (UntrustedRootError, EvidenceFormatError),
    "untrusted-root": (UntrustedRootError,),
    "tcb-signer": (UntrustedRootError, CollateralError),
    "revoked-cert": (RevokedError,),
    "tcb:Revoked": (RevokedError,),
    "crl": (CollateralError,),
    "crl-signature": (CollateralError,),
    "crl-expired": (CollateralTimeError,),
    "crl-not-yet-valid": (CollateralTimeError,),
    "cert-expired": (CollateralTimeError,),
    "collateral-expired": (CollateralTimeError,),
    "collateral-not-yet-valid": (CollateralTimeError,),
    "fmspc-mismatch or collateral-expired": (CollateralError, CollateralTimeError),
    "fmspc-mismatch": (CollateralError,),
    "tcb-info-signature": (CollateralError,),
    "qe-identity-signature": (CollateralError,),
    "tcb-info-tee": (CollateralError,),
    "tcb-info-format": (CollateralError,),
    "tcb-info-format (duplicate keys)": (CollateralError,),
    "tcb-unknown-status": (TcbError,),
    "no-tcb-level": (TcbError,),
    "qe-tcb": (TcbError,),
}
# Where one defect shows as another first; docs/evidence.md says why.
SPECIAL = {
    "sgx-sim-qeid-other-tee": (CollateralError,),
    "tdx-sim-qeid-other-tee": (CollateralError,),
    "tdx-sim-module-svn-zero": (TcbError,),
    "tdx-sim-module-version-unknown": (EvidenceSignatureError,),
    "tdx-sim-reserved-bits": (EvidenceFormatError,),
    "sgx-sim-tcb-cert-as-pck": (UntrustedRootError,),
    "tdx-sim-tcb-cert-as-pck": (UntrustedRootError,),
}
ACCEPTED = {
    "(accept)": "UpToDate",
    "debug": "UpToDate",
    "qe-tcb:OutOfDate": "OutOfDate",
    "order-insensitive (policy: sort or refuse)": "UpToDate",
    "service-td": "UpToDate",
    "td-attributes": "UpToDate",
    "tcb (relaunch advice)": "UpToDate",
}
# Authentic evidence that packages refuse unless they name the weakness.
WEAKNESSES = {
    "tdx-sim-sept-ve-off": {"sept-ve-off"},
    "tdx-sim-migratable": {"migratable"},
    "tdx-sim-tud-profiling": {"profiling"},
    "tdx-sim-v5-servicetd": {"service-td"},
    "tdx-sim-v5-svn2-lower": {"module-downgraded"},
    "v4-azure-septve-off": {"sept-ve-off"},
    "v5-alibaba-servicetd": {"service-td"},
}


def outcomes(case: Case) -> list[Any]:
    """What each evaluator says after the same parsing and dating: a verdict, or the class of the refusal."""
    parsed, collateral = parse_quote(case.evidence), case.read()
    assert isinstance(collateral, IntelCollateral)
    check_known_attributes(parsed)
    chain, root = parse_chain(parsed.pck_chain_pem), parse_anchor(case.anchor)
    check_chain_kind(chain, case.anchor, root)
    check_validity(chain, root, collateral, now=case.now)
    found: list[Any] = []
    for evaluate in (
        lambda: verify_with_library(parsed.raw, collateral, case.anchor.root_der, now=case.now),
        lambda: evaluate_quote(parsed, chain, collateral, root, Checklist(steps.TDX_STEPS))[0],
    ):
        try:
            found.append(evaluate())
        except EvidenceError as exc:
            found.append(type(exc))
    return found


def check_agreement(case: Case) -> None:
    """Both evaluators give one verdict, or both refuse; where the library refuses on sight, only ours has a verdict."""
    try:
        by_library, by_us = outcomes(case)
    except EvidenceError:
        return  # refused before either evaluator is asked
    if not answers(parse_quote(case.evidence)):
        assert isinstance(by_library, type)
        return
    refused = isinstance(by_library, type), isinstance(by_us, type)
    assert refused[0] == refused[1], (by_library, by_us)
    if not refused[0]:
        assert by_library == by_us


def all_checks_made(claims: Claims) -> bool:
    return {check.number for check in claims.checks if not check.made} == {"B1"}


@pytest.mark.parametrize("folder", sorted([*OWN.glob("v[345]-*")]), ids=lambda folder: folder.name)
def test_real_quote_gives_the_recorded_verdict(folder: Path) -> None:
    expect = json.loads((folder / "expect.json").read_text())
    if "quote.bin" not in {file.name for file in folder.iterdir()}:
        return  # an SNP report, which test_snp has
    case = own(folder)
    assert case.now == datetime.fromisoformat(expect["verify_at"])
    claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert claims.tee == expect["tee"]
    assert claims.tcb_status == expect["tcb_status"]
    assert claims.advisories == frozenset(expect["advisories"])
    assert claims.measurement.hex() == expect["measurement"]
    assert claims.signer.hex() == expect["signer"]
    assert claims.debug is expect["debug"]
    assert claims.weaknesses == frozenset(expect.get("weaknesses", ()))
    assert claims.hardware_id.hex() == expect["hardware_id"]
    assert all_checks_made(claims)
    check_agreement(case)


@pytest.mark.parametrize(
    "folder", sorted([*SHARED.glob("sgx/v*"), *SHARED.glob("tdx/v*")]), ids=lambda folder: folder.name
)
def test_every_recorded_quote_gives_its_verdict(folder: Path, shared_vectors: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    if not (folder / "collateral.json").exists():
        # Certification data of type 3: there is no chain, so nothing can be proven.
        with pytest.raises(EvidenceFormatError, match="brings no certificate chain"):
            parse_quote((folder / "quote.bin").read_bytes())
        return
    case, truth, body = real(folder), meta["ground_truth"], meta["body"]
    check_agreement(case)
    if folder.name.endswith("trailing39"):
        with pytest.raises(EvidenceFormatError, match="39 bytes follow the quote"):
            verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
        return
    if truth["tcb_status"].startswith("none"):
        with pytest.raises(TcbError, match="(?i)no matching TCB level"):
            verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
        return
    claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert claims.tcb_status == truth["tcb_status"]
    assert claims.advisories == frozenset(truth["advisory_ids"])
    assert claims.measurement.hex() == body.get("mr_enclave", body.get("mr_td"))
    assert claims.debug is body["debug"]
    assert claims.hardware_id.hex() == meta["pck"]["ppid"]
    assert claims.product_line == meta["pck"]["fmspc"].upper()
    assert claims.weaknesses == WEAKNESSES.get(folder.name, set())
    assert claims.report_data.hex() == body["report_data"]
    assert all_checks_made(claims)


@pytest.mark.parametrize("entry", negatives("sgx", "tdx"), ids=lambda entry: entry["id"])
def test_every_recorded_defect_is_refused_or_reported(entry: dict[str, Any], shared_vectors: Path) -> None:
    case = negative(entry)
    expected, special = entry["expected_class"], SPECIAL.get(entry["id"])
    status = ACCEPTED.get(expected) or (expected.removeprefix("tcb:") if expected.startswith("tcb:") else None)
    if status is not None and expected not in CLASSES and not special:
        claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
        assert claims.tcb_status == status
        assert claims.debug is (expected == "debug")
        assert claims.weaknesses == WEAKNESSES.get(entry["id"], set())
        return
    with pytest.raises(EvidenceError) as caught:
        verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert type(caught.value) in (special or CLASSES[expected]), caught.value
    assert caught.value.step or isinstance(caught.value, CollateralError), "a refusal names its step"


@pytest.mark.parametrize("entry", negatives("sgx", "tdx"), ids=lambda entry: entry["id"])
def test_both_evaluators_agree_on_every_recorded_defect(entry: dict[str, Any], shared_vectors: Path) -> None:
    check_agreement(negative(entry))


def test_the_pinned_root_is_the_one_in_every_real_quote() -> None:
    for file in OWN.glob("v*/quote.bin"):
        chain = parse_chain(parse_quote(file.read_bytes()).pck_chain_pem)
        assert chain[-1].public_bytes(Encoding.DER) == INTEL.root_der


def test_collateral_that_the_library_calls_valid_parses_into_the_same_bytes() -> None:
    raw = (OWN / "v3-phala-confighw" / "collateral.json").read_bytes()
    collateral = parse_collateral(raw)
    assert isinstance(collateral, IntelCollateral)
    assert collateral.pck_crl.hex() == json.loads(raw)["pck_crl"]
    assert b64decode(collateral.pck_crl_issuer_chain.split("-----")[2])[:1] == b"\x30"
