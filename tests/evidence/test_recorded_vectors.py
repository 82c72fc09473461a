"""Real and simulated evidence that others recorded, good and bad: our verdict, and that both evaluators agree on it."""

import json
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
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
from tacit.evidence import INTEL, Collateral, Tee, TrustAnchor, parse_collateral, verify_evidence
from tacit.evidence.anchor import check_chain_kind, parse_anchor
from tacit.evidence.collateral import check_validity, parse_chain
from tacit.evidence.dcap import verify_with_library
from tacit.evidence.sgx.evaluator import evaluate_quote
from tacit.evidence.sgx.quote import check_attributes, parse_quote

OWN = Path(__file__).parents[1] / "vectors" / "evidence"
SHARED = Path(__file__).parents[2].parent / "shared" / "vectors" / "evidence"

# What the vectors call a defect, and the errors of ours that name it. A debug enclave is no defect of the evidence:
# `manifest.appraise` refuses it; an outdated platform likewise.
CLASSES: dict[str, tuple[type[EvidenceError], ...]] = {
    "quote-signature": (EvidenceSignatureError,),
    "qe-report-signature": (EvidenceSignatureError,),
    "key-binding": (EvidenceSignatureError,),
    "qe-identity": (EvidenceSignatureError,),
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
# Exceptions to the classes above, where one defect shows as another first.
SPECIAL = {"sgx-sim-qeid-other-tee": (CollateralError,)}
ACCEPTED = {
    "(accept)": "UpToDate",
    "debug": "UpToDate",
    "qe-tcb:OutOfDate": "OutOfDate",
    "order-insensitive (policy: sort or refuse)": "UpToDate",
}


def outcomes(quote: bytes, collateral: Collateral, anchor: TrustAnchor, now: datetime) -> list[Any]:
    """What each evaluator says after the same parsing and dating: a verdict, or the class of the refusal."""
    parsed = parse_quote(quote)
    check_attributes(parsed.report)
    chain, root = parse_chain(parsed.pck_chain_pem), parse_anchor(anchor)
    check_chain_kind(chain, anchor, root)
    check_validity(chain, root, collateral, now=now)
    found: list[Any] = []
    for evaluate in (
        lambda: verify_with_library(parsed.raw, collateral, anchor.root_der, now=now),
        lambda: evaluate_quote(parsed, chain, collateral, root),
    ):
        try:
            found.append(evaluate())
        except EvidenceError as exc:
            found.append(type(exc))
    return found


def check_verdict(folder: Path, expect: dict[str, Any]) -> None:
    quote = (folder / "quote.bin").read_bytes()
    collateral = parse_collateral((folder / "collateral.json").read_bytes())
    now = datetime.fromisoformat(expect["verify_at"])
    claims = verify_evidence(quote, collateral, INTEL, now=now)
    assert claims.tee is Tee.SGX
    assert claims.tcb_status == expect["tcb_status"]
    assert claims.advisories == frozenset(expect["advisories"])
    assert claims.measurement.hex() == expect["measurement"]
    assert claims.signer.hex() == expect["signer"]
    assert claims.debug is expect["debug"]
    assert claims.hardware_id.hex() == expect["hardware_id"]
    if not claims.debug:
        by_library, by_us = outcomes(quote, collateral, INTEL, now)
        assert by_library == by_us


@pytest.mark.parametrize("folder", sorted(OWN.glob("v3-*")), ids=lambda folder: folder.name)
def test_real_quote_gives_the_recorded_verdict(folder: Path) -> None:
    check_verdict(folder, json.loads((folder / "expect.json").read_text()))


@pytest.mark.parametrize("folder", sorted(SHARED.glob("sgx/v3-*")), ids=lambda folder: folder.name)
def test_every_recorded_sgx_quote_gives_its_verdict(folder: Path, shared_vectors: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    if not (folder / "collateral.json").exists():
        # Certification data of type 3: there is no chain, so nothing can be proven.
        with pytest.raises(EvidenceFormatError, match="brings no certificate chain"):
            parse_quote((folder / "quote.bin").read_bytes())
        return
    truth, body = meta["ground_truth"], meta["body"]
    expect = {
        "verify_at": meta["verify_at"],
        "tcb_status": truth["tcb_status"],
        "advisories": truth["advisory_ids"],
        "measurement": body["mr_enclave"],
        "signer": body["mr_signer"],
        "debug": body["debug"],
        "hardware_id": meta["pck"]["ppid"],
    }
    check_verdict(folder, expect)


@pytest.mark.parametrize("folder", sorted(SHARED.glob("tdx/v*")), ids=lambda folder: folder.name)
def test_recorded_tdx_quote_is_refused_by_name(folder: Path, shared_vectors: Path) -> None:
    with pytest.raises(EvidenceFormatError, match="not supported yet"):
        parse_quote((folder / "quote.bin").read_bytes())


def negatives() -> list[dict[str, Any]]:
    file = SHARED / "negatives" / "negatives.json"
    entries = json.loads(file.read_text()) if file.exists() else []
    return [one for one in entries if one["id"].startswith("sgx-")]


def edited(entry: dict[str, Any]) -> tuple[bytes, bytes, TrustAnchor, datetime]:
    """The mutated real quote of an entry: quote, collateral file, anchor, time."""
    base = SHARED / entry["base"]
    quote = bytearray((base / "quote.bin").read_bytes())
    collateral = json.loads((base / "collateral.json").read_text())
    now = datetime.fromtimestamp(json.loads((base / "meta.json").read_text())["verify_at_unix"], UTC)
    for edit in entry["edits"]:
        match edit["op"]:
            case "xor":
                for index, mask in enumerate(bytes.fromhex(edit["hex"]), edit["offset"]):
                    quote[index] ^= mask
            case "truncate":
                del quote[edit["length"] :]
            case "append":
                quote += bytes.fromhex(edit["hex"])
            case "time":
                now = datetime.fromtimestamp(edit["unix"], UTC)
            case "set" if edit["field"] == "tcb_info+signature":
                other = json.loads((SHARED / edit["source"] / "collateral.json").read_text())
                collateral |= {name: other[name] for name in ("tcb_info", "tcb_info_signature")}
            case "set":
                collateral[edit["field"]] = edit["value"] if "value" in edit else collateral[edit["source"]]
            case "tamper":
                collateral[edit["field"]] = tampered(edit["field"], collateral[edit["field"]])
            case other:
                raise AssertionError(other)
    return bytes(quote), json.dumps(collateral).encode(), INTEL, now


def tampered(field: str, text: str) -> str:
    if field == "tcb_info":
        return text.replace("OutOfDate", "UpToDate", 1)
    if field == "qe_identity":
        return text.replace('"isvsvn":', '"isvsvn": ', 1)
    return ("0" if text[0] != "0" else "1") + text[1:]


def overlaid(entry: dict[str, Any]) -> tuple[bytes, bytes, TrustAnchor, datetime]:
    """The simulated platform's quote of an entry, made whole from the files that all entries share."""
    common, folder = SHARED / "negatives", SHARED / entry["path"]

    def pick(name: str, fallback: str) -> bytes:
        return (folder / name if (folder / name).exists() else common / fallback).read_bytes()

    collateral = json.loads((common / "base-collateral-sgx.json").read_text())
    patch = folder / "collateral.patch.json"
    if patch.exists():
        collateral |= json.loads(patch.read_text())
    root = x509.load_pem_x509_certificate(pick("root_ca.pem", "base-root_ca.pem")).public_bytes(Encoding.DER)
    now = datetime.fromtimestamp(json.loads((folder / "meta.json").read_text())["verify_at_unix"], UTC)
    anchor = TrustAnchor(Tee.SIMULATED, "the vectors' simulated root", root)
    return pick("quote.bin", "base-quote-sgx.bin"), json.dumps(collateral).encode(), anchor, now


@pytest.mark.parametrize("entry", negatives(), ids=lambda entry: entry["id"])
def test_every_recorded_sgx_defect_is_refused_or_reported(entry: dict[str, Any], shared_vectors: Path) -> None:
    quote, raw, anchor, now = (edited if "base" in entry else overlaid)(entry)
    expected = entry["expected_class"]
    status = ACCEPTED.get(expected) or (expected.removeprefix("tcb:") if expected.startswith("tcb:") else None)
    if status is not None and expected not in CLASSES:
        claims = verify_evidence(quote, parse_collateral(raw), anchor, now=now)
        assert claims.tcb_status == status
        assert claims.debug is (expected == "debug")
        return
    classes = SPECIAL.get(entry["id"]) or CLASSES[expected]
    with pytest.raises(EvidenceError) as caught:
        verify_evidence(quote, parse_collateral(raw), anchor, now=now)
    assert type(caught.value) in classes, caught.value


@pytest.mark.parametrize("entry", negatives(), ids=lambda entry: entry["id"])
def test_both_evaluators_agree_on_every_recorded_sgx_defect(entry: dict[str, Any], shared_vectors: Path) -> None:
    quote, raw, anchor, now = (edited if "base" in entry else overlaid)(entry)
    try:
        by_library, by_us = outcomes(quote, parse_collateral(raw), anchor, now)
    except EvidenceError:
        return  # refused before either evaluator is asked
    if entry["expected_class"] == "debug":
        # The library says nothing of debug enclaves; this is the one disagreement, and the reason for ours.
        assert by_library is not by_us
        assert by_us.tcb_status == "UpToDate"
        return
    refused = isinstance(by_library, type), isinstance(by_us, type)
    assert refused[0] == refused[1], (by_library, by_us)
    if not refused[0]:
        assert by_library == by_us


def test_the_pinned_root_is_the_one_in_every_real_quote() -> None:
    for folder in OWN.glob("v3-*"):
        chain = parse_chain(parse_quote((folder / "quote.bin").read_bytes()).pck_chain_pem)
        assert chain[-1].public_bytes(Encoding.DER) == INTEL.root_der


def test_collateral_that_the_library_calls_valid_parses_into_the_same_bytes() -> None:
    raw = (OWN / "v3-phala-confighw" / "collateral.json").read_bytes()
    collateral = parse_collateral(raw)
    assert collateral.pck_crl.hex() == json.loads(raw)["pck_crl"]
    assert replace(collateral) == collateral
    assert b64decode(collateral.pck_crl_issuer_chain.split("-----")[2])[:1] == b"\x30"
