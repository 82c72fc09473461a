"""What the verifier accepts and refuses, with evidence of simulated platforms whose every part a test may change.

Defects are shown twice: to the library (`debug=False`) and to our own evaluator (`debug=True`), which must both refuse.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.tee import NOW, FakeTee, forge_collateral, make_platform, other_platform, shared_platform
from tacit.errors import (
    BindingError,
    CollateralError,
    CollateralTimeError,
    EvidenceError,
    EvidenceFormatError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence import (
    INTEL,
    Claims,
    Collateral,
    Role,
    Tee,
    TrustAnchor,
    report_data,
    verify_binding,
    verify_evidence,
)
from tacit.evidence.anchor.certificates import parse_crl
from tacit.evidence.anchor.roots import parse_anchor
from tacit.evidence.claims import REGISTERS
from tacit.evidence.intel import steps as intel_steps
from tacit.evidence.intel import verify as intel_verify
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.evaluator import Verdict
from tacit.evidence.intel.levels import State, converge
from tacit.evidence.intel.library import refusal
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.quote import QUOTING_ENCLAVE, Enclave, QuotingKeys, issue_quote
from tacit.evidence.snp import steps as snp_steps
from tacit.evidence.verify import parse_collateral
from tacit.evidence.verify.envelope import unwrap, wrap

REAL = Path(__file__).parents[1] / "vectors" / "evidence" / "v3-phala-confighw"
REAL_TIME = datetime(2025, 7, 4, 12, tzinfo=UTC)
KEY, NONCE = b"DER of a certificate", b"a nonce of the verifier"
both = pytest.mark.parametrize("debug", [False, True], ids=["by-library", "by-evaluator"])


def verify(
    tee: FakeTee, collateral: Collateral | None = None, *, now: datetime = NOW, data: bytes = bytes(64)
) -> Claims:
    return verify_evidence(tee.issue_evidence(data), collateral or tee.collateral, tee.anchor, now=now)


# ---- what good evidence says


@both
def test_claims_say_what_the_enclave_is(debug: bool) -> None:
    tee = FakeTee(measurement=b"\x42" * 32, product_id=7, security_version=3, debug=debug)
    claims = verify(tee, data=bytes(range(64)))
    assert claims.tee is Tee.SIMULATED
    assert claims.measurement == b"\x42" * 32
    assert claims.signer == tee.platform.signer_id
    assert (claims.product_id, claims.security_version) == (7, 3)
    assert claims.debug is debug
    assert claims.report_data == bytes(range(64))
    assert claims.tcb_status == "UpToDate"
    assert claims.advisories == frozenset()
    assert claims.hardware_id.startswith(b"SIM-")
    assert claims.expires == NOW + timedelta(days=365)


def test_library_and_evaluator_say_the_same_of_the_platform() -> None:
    by_library, by_us = verify(FakeTee()), verify(FakeTee(debug=True))
    for name in ("tcb_status", "advisories", "tcb_evaluation_number", "hardware_id", "expires"):
        assert getattr(by_library, name) == getattr(by_us, name)


def test_evidence_without_envelope_says_the_same() -> None:
    tee = FakeTee()
    evidence = tee.issue_evidence(bytes(64))
    quote = unwrap(evidence)
    assert wrap(quote) == evidence
    assert verify_evidence(quote, tee.collateral, tee.anchor, now=NOW) == verify_evidence(
        evidence, tee.collateral, tee.anchor, now=NOW
    )


def test_zero_padding_behind_the_quote_is_allowed() -> None:
    tee = FakeTee()
    quote = unwrap(tee.issue_evidence(bytes(64)))
    padded = verify_evidence(quote + bytes(3065), tee.collateral, tee.anchor, now=NOW)
    assert padded == verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


def test_t63_every_check_is_listed_with_what_it_was_made_over() -> None:
    tee = FakeTee()
    evidence = tee.issue_evidence(bytes(64))
    checks = {check.name: check.input_sha256 for check in verify_evidence(
        evidence, tee.collateral, tee.anchor, now=NOW
    ).checks}  # fmt: skip
    quote = unwrap(evidence)
    assert checks["quote signed by the attestation key"] == sha256(quote[:432]).digest()
    lists = tee.collateral.root_ca_crl + tee.collateral.pck_crl
    assert checks["root CRL and PCK CRL: genuine, nothing revoked"] == sha256(lists).digest()
    assert checks["TCB info: signed, for this platform"] == sha256(tee.collateral.tcb_info.encode()).digest()
    # Nobody compared report data yet, so nothing says that somebody did.
    assert [name for name, digest in checks.items() if digest is None] == ["report data binds this key, role and nonce"]
    assert len(checks) == 13


def test_no_claim_is_the_hash_of_the_whole_quote() -> None:
    # A quote has bytes that no signature covers, so its hash would name one enclave in many ways.
    tee = FakeTee()
    evidence = tee.issue_evidence(bytes(64))
    whole = {sha256(evidence).digest(), sha256(unwrap(evidence)).digest()}
    claims = verify_evidence(evidence, tee.collateral, tee.anchor, now=NOW)
    assert not whole & {check.input_sha256 for check in claims.checks}


# ---- binding


def test_binding_of_the_same_key_role_and_nonce_is_accepted() -> None:
    claims = verify(FakeTee(), data=report_data(role=Role.COORDINATOR, key=KEY, nonce=NONCE))
    verify_binding(claims, role=Role.COORDINATOR, key=KEY, nonce=NONCE)


def test_first_half_is_what_marblerun_binds() -> None:
    assert report_data(role=Role.MARBLE, key=KEY)[:32] == sha256(KEY).digest()
    assert report_data(role=Role.COORDINATOR, key=KEY, nonce=NONCE)[:32] == sha256(KEY + NONCE).digest()


def test_t01_replay_with_another_nonce_is_refused() -> None:
    old = verify(FakeTee(), data=report_data(role=Role.COORDINATOR, key=KEY, nonce=b"yesterday's"))
    with pytest.raises(BindingError, match="another nonce") as caught:
        verify_binding(old, role=Role.COORDINATOR, key=KEY, nonce=NONCE)
    assert caught.value.reason == "binding"


def test_t01_replay_without_any_nonce_is_refused() -> None:
    old = verify(FakeTee(), data=report_data(role=Role.COORDINATOR, key=KEY))
    with pytest.raises(BindingError):
        verify_binding(old, role=Role.COORDINATOR, key=KEY, nonce=NONCE)


def test_t01_evidence_for_another_key_is_refused() -> None:
    claims = verify(FakeTee(), data=report_data(role=Role.COORDINATOR, key=b"another key", nonce=NONCE))
    with pytest.raises(BindingError, match="another key"):
        verify_binding(claims, role=Role.COORDINATOR, key=KEY, nonce=NONCE)


def test_t01_bytes_moved_from_nonce_to_key_are_refused() -> None:
    # The first half cannot tell them apart: sha256(key ‖ nonce) is the same.
    claims = verify(FakeTee(), data=report_data(role=Role.COORDINATOR, key=KEY + b"x", nonce=b"y"))
    with pytest.raises(BindingError, match="role"):
        verify_binding(claims, role=Role.COORDINATOR, key=KEY, nonce=b"xy")


@pytest.mark.parametrize(("made", "asked"), [(Role.COORDINATOR, Role.MARBLE), (Role.MARBLE, Role.COORDINATOR)])
def test_t03_evidence_of_one_role_is_refused_in_another(made: Role, asked: Role) -> None:
    claims = verify(FakeTee(), data=report_data(role=made, key=KEY, nonce=NONCE))
    with pytest.raises(BindingError, match=f"role '{asked}'"):
        verify_binding(claims, role=asked, key=KEY, nonce=NONCE)


def test_t03_evidence_that_binds_no_role_is_refused() -> None:
    claims = verify(FakeTee(), data=sha256(KEY).digest() + bytes(32))
    with pytest.raises(BindingError, match="role"):
        verify_binding(claims, role=Role.MARBLE, key=KEY)


# ---- whose root


def test_t07_simulated_evidence_is_refused_under_intels_anchor() -> None:
    tee = FakeTee()
    with pytest.raises(UntrustedRootError, match="SIMULATED") as caught:
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, INTEL, now=NOW)
    assert caught.value.reason == "untrusted-root"


def test_t07_real_evidence_is_refused_under_a_simulated_anchor() -> None:
    collateral = parse_collateral((REAL / "collateral.json").read_bytes())
    with pytest.raises(UntrustedRootError, match="not marked SIMULATED"):
        verify_evidence((REAL / "quote.bin").read_bytes(), collateral, FakeTee().anchor, now=REAL_TIME)


def test_t07_simulated_root_as_an_sgx_anchor_is_refused() -> None:
    tee = FakeTee()
    forged = TrustAnchor(Tee.SGX, "Intel SGX Root CA", tee.anchor.root_der)
    with pytest.raises(UntrustedRootError, match="never vouch for SGX"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, forged, now=NOW)


def test_t07_own_root_without_the_mark_is_no_sgx_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "_name", lambda what: INTEL_NAME)
    platform = make_platform()
    monkeypatch.undo()
    tee = FakeTee(platform=platform)
    forged = TrustAnchor(Tee.SGX, "Intel SGX Root CA", platform.anchor.root_der)
    with pytest.raises(UntrustedRootError, match="not Intel's root"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, forged, now=NOW)
    with pytest.raises(UntrustedRootError, match="not marked SIMULATED"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, platform.anchor, now=NOW)
    with pytest.raises(UntrustedRootError, match="another root"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, INTEL, now=NOW)


INTEL_NAME = authority.x509.Name.from_rfc4514_string("CN=Intel SGX Root CA,O=Intel Corporation")


def test_t07_intels_root_as_a_simulated_anchor_is_refused() -> None:
    with pytest.raises(UntrustedRootError, match="not marked SIMULATED"):
        verify_evidence(
            (REAL / "quote.bin").read_bytes(),
            parse_collateral((REAL / "collateral.json").read_bytes()),
            replace(INTEL, tee=Tee.SIMULATED),
            now=REAL_TIME,
        )


@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SNP])
def test_anchor_of_a_kind_that_is_not_supported_is_refused(tee: Tee) -> None:
    fake = FakeTee()
    with pytest.raises(UntrustedRootError):
        verify_evidence(fake.issue_evidence(bytes(64)), fake.collateral, replace(INTEL, tee=tee), now=NOW)


@pytest.mark.parametrize("root", [b"", b"no certificate", bytes(2000)])
def test_anchor_that_is_no_certificate_is_refused(root: bytes) -> None:
    tee = FakeTee()
    with pytest.raises(UntrustedRootError, match="not a P-256 root certificate"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, replace(INTEL, root_der=root), now=NOW)


def test_t06_no_environment_makes_simulated_evidence_real(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OE_SIMULATION", "SGX_SIMULATION", "TACIT_UNATTESTED", "TACIT_TEE", "EDG_SIMULATION", "EDG_DEBUG")
    for name in (*names, "PCCS_URL", "INTEL_ROOT", "TACIT_PLATFORM"):
        for value in ("1", "0", "simulated", "true"):
            monkeypatch.setenv(name, value)
            test_t07_simulated_evidence_is_refused_under_intels_anchor()


def test_t06_the_verifier_reads_no_environment() -> None:
    room = Path(__file__).parents[2] / "src" / "tacit" / "evidence"
    for file in room.rglob("*.py"):
        source = file.read_text()
        assert "os.environ" not in source, file
        assert "getenv" not in source, file
    assert os.environ  # which there would be


def test_t67_intels_root_comes_with_the_package_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse, raising=True)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    # As Intel publishes it: Intel_SGX_Provisioning_Certification_RootCA.cer.
    expected = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    assert sha256(INTEL.root_der).hexdigest() == expected
    collateral = parse_collateral((REAL / "collateral.json").read_bytes())
    assert verify_evidence((REAL / "quote.bin").read_bytes(), collateral, INTEL, now=REAL_TIME).tee is Tee.SGX


@both
def test_evidence_of_another_platform_is_refused(debug: bool) -> None:
    tee, other = FakeTee(debug=debug), other_platform()
    with pytest.raises(UntrustedRootError, match="another root"):
        verify_evidence(tee.issue_evidence(bytes(64)), other.collateral, other.anchor, now=NOW)


@both
def test_chain_with_the_right_root_but_another_issuer_is_refused(debug: bool) -> None:
    tee, other = FakeTee(debug=debug), other_platform()
    assert other.keys is not None
    chain = (other.pck, other.pck_ca, tee.platform.root)
    keys = QuotingKeys(other.keys.attestation, other.keys.pck, chain, bytes(16))
    quote = issue_quote(tee.enclave, bytes(64), keys=keys)
    with pytest.raises(UntrustedRootError):
        verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


@both
@pytest.mark.parametrize("form", ["leaf-only", "reversed", "tcb-signer-as-pck", "ca-as-pck", "extra-ca"])
def test_chain_of_another_form_is_refused(form: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    one = tee.platform
    assert one.keys is not None
    chain, key = {
        "leaf-only": ((one.pck,), one.keys.pck),
        "reversed": ((one.root, one.pck_ca, one.pck), one.keys.pck),
        "tcb-signer-as-pck": ((one.tcb_signer, one.root), one.keys.tcb_signer),
        "ca-as-pck": ((one.pck_ca, one.root), one.keys.pck_ca),
        "extra-ca": ((one.pck, one.pck_ca, one.pck_ca, one.root), one.keys.pck),
    }[form]
    keys = QuotingKeys(one.keys.attestation, key, chain, one.cpu_svn)
    quote = issue_quote(tee.enclave, bytes(64), keys=keys)
    with pytest.raises((UntrustedRootError, EvidenceFormatError, CollateralError)):
        verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


# ---- attributes


KNOWN_BITS = {0, 1, 2, 4, 5, 6, 7, 10}


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_attribute_bit_is_known_or_refused(bit: int) -> None:
    attributes = 0x5 ^ (1 << bit)
    tee = FakeTee(attributes=attributes)
    if bit == 0:
        with pytest.raises(EvidenceFormatError, match="never initialised"):
            verify(tee)
    elif bit in KNOWN_BITS:
        assert verify(tee).debug is (bit == 1)
    else:
        with pytest.raises(EvidenceFormatError, match=r"ATTRIBUTES(\.INIT is| has) "):
            verify(tee)


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_xfrm_bit_is_known_or_refused(bit: int) -> None:
    tee = FakeTee(xfrm=0x3 ^ (1 << bit))
    if bit in {2, 3, 4, 5, 6, 7, 9, 11, 12, 17, 18}:
        verify(tee)
    else:
        with pytest.raises(EvidenceFormatError, match=r"XFRM (has|is) "):
            verify(tee)


@pytest.mark.parametrize("bit", range(128))
def test_t08_attribute_bit_flipped_after_signing_is_refused(bit: int) -> None:
    tee = FakeTee()
    quote = bytearray(unwrap(tee.issue_evidence(bytes(64))))
    quote[48 + 48 + bit // 8] ^= 1 << bit % 8
    with pytest.raises((EvidenceSignatureError, EvidenceFormatError)):
        verify_evidence(bytes(quote), tee.collateral, tee.anchor, now=NOW)


# ---- the quote's signatures


@both
@pytest.mark.parametrize("offset", [48, 112, 176, 304, 306, 368, 436, 500, 564 + 64, 564 + 320, 948, 1014])
def test_one_flipped_bit_in_a_signed_part_is_refused(offset: int, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    quote = bytearray(unwrap(tee.issue_evidence(bytes(64))))
    quote[offset] ^= 1
    with pytest.raises(EvidenceSignatureError):
        verify_evidence(bytes(quote), tee.collateral, tee.anchor, now=NOW)


def forge_quote(tee: FakeTee, *, quoting_enclave: Enclave = QUOTING_ENCLAVE, **changes: Any) -> bytes:
    keys = replace(tee.quoting_keys, **changes)
    return issue_quote(tee.enclave, bytes(64), keys=keys, quoting_enclave=quoting_enclave)


@both
def test_quoting_enclave_signed_by_another_key_is_refused(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises(EvidenceSignatureError):
        verify_evidence(
            forge_quote(tee, pck=ec.generate_private_key(ec.SECP256R1())), tee.collateral, tee.anchor, now=NOW
        )


@both
@pytest.mark.parametrize(
    "change",
    [{"signer": bytes(32)}, {"product_id": 7}, {"attributes": 0x17}, {"attributes": 0x11 | 0x20}],
    ids=["signer", "product", "debug", "attributes"],
)
def test_t09_forged_quoting_enclave_is_refused(change: dict[str, Any], debug: bool) -> None:
    # CVE-2026-22696: a genuine platform signed the report, but another enclave made it.
    tee = FakeTee(debug=debug)
    quote = forge_quote(tee, quoting_enclave=replace(QUOTING_ENCLAVE, **change))
    with pytest.raises(EvidenceSignatureError):
        verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


@both
def test_quoting_enclave_below_every_level_is_refused(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    quote = forge_quote(tee, quoting_enclave=replace(QUOTING_ENCLAVE, security_version=0))
    with pytest.raises(TcbError):
        verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


# ---- collateral


def each(level: dict[str, Any], status: str) -> None:
    level["tcbLevels"][0]["tcbStatus"] = status


REPORTED = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


@both
@pytest.mark.parametrize("status", REPORTED)
def test_t09_tcb_status_is_reported_as_it_is(status: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)

    def info(value: dict[str, Any]) -> None:
        each(value, status)
        value["tcbLevels"][0]["advisoryIDs"] = ["SIM-SA-1", "SIM-SA-2"]

    claims = verify(tee, forge_collateral(tee.platform, info=info))
    assert claims.tcb_status == status
    assert claims.advisories == {"SIM-SA-1", "SIM-SA-2"}


@pytest.mark.parametrize("platform", REPORTED)
def test_outdated_quoting_enclave_converges_as_in_the_library(platform: str) -> None:
    collateral = forge_collateral(
        shared_platform(), info=lambda value: each(value, platform), identity=lambda value: each(value, "OutOfDate")
    )
    by_library, by_us = (verify(FakeTee(debug=debug), collateral) for debug in (False, True))
    assert by_library.tcb_status == by_us.tcb_status == converge(platform, "OutOfDate")
    assert by_us.tcb_status.startswith("OutOfDate")


@both
@pytest.mark.parametrize("part", ["info", "identity"])
def test_t09_revoked_tcb_level_is_refused(part: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    collateral = forge_collateral(tee.platform, **{part: lambda value: each(value, "Revoked")})
    with pytest.raises(RevokedError):
        verify(tee, collateral)


@both
def test_t09_unknown_tcb_status_is_refused(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises(TcbError):
        verify(tee, forge_collateral(tee.platform, info=lambda value: each(value, "Bogus")))


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][3].update(svn=99),
        lambda value: value["tcbLevels"][0]["tcb"].update(pcesvn=99),
        lambda value: value.update(tcbLevels=[]),
    ],
    ids=["component", "pce", "no-levels"],
)
def test_t09_platform_below_every_level_is_refused(change: Callable[[dict[str, Any]], None], debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises(TcbError):
        verify(tee, forge_collateral(tee.platform, info=change))


@both
def test_t09_levels_in_another_order_give_the_highest_that_fits(debug: bool) -> None:
    tee = FakeTee(debug=debug)

    def info(value: dict[str, Any]) -> None:
        good = value["tcbLevels"][0]
        old = {"tcb": {"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}, "tcbDate": good["tcbDate"]}
        value["tcbLevels"] = [{**old, "tcbStatus": "OutOfDate"}, good]

    assert verify(tee, forge_collateral(tee.platform, info=info)).tcb_status == "UpToDate"


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(fmspc="00906ED50000"),
        lambda value: value.update(pceId="0001"),
        lambda value: value.update(id="TDX"),
        lambda value: value.update(version=2),
        lambda value: value["tcbLevels"][0]["tcb"].update(pcesvn="1"),
        lambda value: value["tcbLevels"][0]["tcb"].update(sgxtcbcomponents=[{"svn": 1}] * 4),
        lambda value: value.pop("tcbLevels"),
        lambda value: value.pop("issueDate"),
        lambda value: value.update(nextUpdate="never"),
        lambda value: value.update(fmspc="zz"),
        lambda value: value.update(tcbLevels=[1]),
        lambda value: value["tcbLevels"][0].update(advisoryIDs=[1]),
        lambda value: value["tcbLevels"][0]["tcb"].update(pcesvn=True),
    ],
    ids=[
        "fmspc",
        "pceid",
        "tee",
        "version",
        "string",
        "components",
        "no-levels",
        "no-date",
        "no-end",
        "no-hex",
        "levels",
        "advisories",
        "bool",
    ],
)
def test_t09_tcb_info_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], None], debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises(CollateralError):
        verify(tee, forge_collateral(tee.platform, info=change))


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(id="TD_QE"),
        lambda value: value.update(version=1),
        lambda value: value.update(mrsigner="00"),
        lambda value: value.pop("isvprodid"),
        lambda value: value.update(attributesMask="FF"),
    ],
    ids=["tee", "version", "signer", "product", "mask"],
)
def test_t09_qe_identity_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], None], debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises((CollateralError, EvidenceSignatureError)):
        verify(tee, forge_collateral(tee.platform, identity=change))


@both
@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_t09_text_changed_after_signing_is_refused(field: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    changed = getattr(tee.collateral, field).replace('":', '": ', 1)
    with pytest.raises(CollateralError):
        verify(tee, replace(tee.collateral, **{field: changed}))


@both
def test_t09_collateral_signed_by_a_foreign_signer_is_refused(debug: bool) -> None:
    tee, other = FakeTee(debug=debug), other_platform()
    assert other.keys is not None
    signer = authority.Signer(tee.platform.tcb_signer, other.keys.tcb_signer)
    with pytest.raises(CollateralError):
        verify(tee, forge_collateral(tee.platform, signer=signer))


@both
def test_t09_collateral_signed_by_the_platform_itself_is_refused(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    assert tee.platform.keys is not None
    one = tee.platform
    forged = forge_collateral(one, signer=authority.Signer(one.pck, tee.platform.keys.pck))
    chain = authority.chain_pem(one.pck, one.pck_ca, one.root)
    both_chains = replace(forged, tcb_info_issuer_chain=chain, qe_identity_issuer_chain=chain)
    # A key that was extracted from one machine must not be able to call all machines up to date.
    for collateral in (forged, both_chains):
        with pytest.raises(CollateralError, match="not appointed by the root"):
            verify(tee, collateral)


@both
@pytest.mark.parametrize("which", ["pck", "pck_ca", "tcb_signer"])
def test_t09_revoked_certificate_is_refused(which: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    serial = getattr(tee.platform, which).serial_number
    issuer = "revoked_by_pck_ca" if which == "pck" else "revoked_by_root"
    with pytest.raises(RevokedError):
        verify(tee, forge_collateral(tee.platform, **{issuer: (serial,)}))


@both
@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"end": NOW - timedelta(seconds=1)}, NOW),
        ({"begin": NOW + timedelta(seconds=1)}, NOW),
        ({"crl_end": NOW - timedelta(seconds=1)}, NOW),
        ({"crl_begin": NOW + timedelta(seconds=1)}, NOW),
        ({}, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ({}, datetime(2060, 1, 1, tzinfo=UTC)),
        ({}, datetime(9999, 12, 31, tzinfo=UTC)),
    ],
    ids=["stale", "future", "crl-stale", "crl-future", "1970", "2060", "9999"],
)
def test_t09_collateral_out_of_force_is_refused(changes: dict[str, Any], at: datetime, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    with pytest.raises(CollateralTimeError):
        verify(tee, forge_collateral(tee.platform, **changes), now=at)


@both
def test_collateral_is_good_until_the_second_that_it_names(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    end = NOW + timedelta(seconds=5)
    collateral = forge_collateral(tee.platform, begin=NOW, end=end)
    assert verify(tee, collateral, now=NOW).expires == end
    assert verify(tee, collateral, now=end - timedelta(seconds=1)).expires == end
    with pytest.raises(CollateralTimeError):
        verify(tee, collateral, now=end)


@both
@pytest.mark.parametrize(
    "changes",
    [
        {"root_ca_crl": "pck_crl"},
        {"pck_crl": "root_ca_crl"},
        {"tcb_info_issuer_chain": "pck_crl_issuer_chain"},
        {"qe_identity_issuer_chain": "pck_crl_issuer_chain"},
        {"tcb_info": "qe_identity", "tcb_info_signature": "qe_identity_signature"},
        {"qe_identity": "tcb_info", "qe_identity_signature": "tcb_info_signature"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_t09_swapped_collateral_is_refused(changes: dict[str, str], debug: bool) -> None:
    tee = FakeTee(debug=debug)
    swapped = replace(tee.collateral, **{name: getattr(tee.collateral, other) for name, other in changes.items()})
    with pytest.raises((CollateralError, UntrustedRootError)):
        verify(tee, swapped)


@both
@pytest.mark.parametrize("field", list(IntelCollateral.__dataclass_fields__))
def test_t09_missing_part_of_collateral_is_refused(field: str, debug: bool) -> None:
    tee = FakeTee(debug=debug)
    empty: Any = type(getattr(tee.collateral, field))()
    with pytest.raises(CollateralError):
        verify(tee, replace(tee.collateral, **{field: empty}))


@both
def test_t09_collateral_of_another_platform_is_refused(debug: bool) -> None:
    with pytest.raises((CollateralError, UntrustedRootError)):
        verify(FakeTee(debug=debug), other_platform().collateral)


@both
def test_collateral_of_the_root_alone_is_refused(debug: bool) -> None:
    tee = FakeTee(debug=debug)
    root = authority.chain_pem(tee.platform.root)
    with pytest.raises(CollateralError, match="not appointed"):
        verify(tee, replace(tee.collateral, tcb_info_issuer_chain=root))


def test_list_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # No library makes such a list, so an existing one loses its nextUpdate.
    class Endless:
        def __init__(self, der: bytes) -> None:
            self._crl = x509.load_der_x509_crl(der)

        next_update_utc = None

        def __getattr__(self, name: str) -> Any:
            return getattr(self._crl, name)

    der = shared_platform().collateral.pck_crl
    parse_crl.cache_clear()
    monkeypatch.setattr(
        "tacit.evidence.anchor.certificates.x509", type("X", (), {"load_der_x509_crl": staticmethod(Endless)})
    )
    with pytest.raises(CollateralError, match="no nextUpdate"):
        parse_crl(der, "PCK")


def test_quoting_enclave_with_a_status_outside_intels_table_is_refused() -> None:
    with pytest.raises(TcbError, match="SWHardeningNeeded"):
        converge("UpToDate", "SWHardeningNeeded")


@pytest.mark.parametrize("platform", ["Revoked", "UpToDate"])
def test_revoked_never_converges_to_anything(platform: str) -> None:
    with pytest.raises(RevokedError):
        converge(platform, "Revoked")


def test_the_steps_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()
    numbers = [
        word for row in re.findall(r"^\| ([IA]\d+(?:, [IA]\d+)*) \|", page, re.MULTILINE) for word in row.split(", ")
    ]
    assert numbers == [*(f"I{at}" for at in range(1, 14)), *(f"A{at}" for at in range(1, 11))]
    assert [one.number for one in intel_steps.TDX_STEPS] == numbers[:13]
    assert [one.number for one in intel_steps.SGX_STEPS] == [*numbers[:11], "I13"]
    assert [one.number for one in snp_steps.STEPS] == numbers[13:]


@both
def test_t63_status_that_an_evaluator_invents_is_refused(debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    invented = Verdict("Splendid", frozenset(), 1, bytes(16))
    state = State("Splendid", frozenset(), 1, None)
    monkeypatch.setattr(intel_verify, "evaluate_quote", lambda *_, **__: (invented, state))
    monkeypatch.setattr(intel_verify, "verify_with_library", lambda *_, **__: invented)
    monkeypatch.setattr(intel_verify, "find_state", lambda *_, **__: state)
    with pytest.raises(TcbError, match=r"'Splendid' is not one that is known"):
        verify(FakeTee(debug=debug))


@pytest.mark.parametrize(
    "other",
    [
        {"tcb_status": "SWHardeningNeeded"},
        {"advisories": frozenset({"INTEL-SA-00334"})},
    ],
)
def test_t63_two_evaluators_that_disagree_are_neither_believed(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = intel_verify.verify_with_library

    def another(*words: Any, **named: Any) -> Verdict:
        return replace(asked(*words, **named), **other)

    tee = FakeTee()
    verify(tee)
    monkeypatch.setattr(intel_verify, "verify_with_library", another)
    with pytest.raises(TcbError, match="two evaluators disagree") as refused:
        verify(tee)
    assert refused.value.step.startswith("I13")


def test_registers_have_the_makers_names_and_sizes() -> None:
    claims = verify(FakeTee())
    assert {name: len(value) for name, value in claims.registers.items()} == REGISTERS[Tee.SGX]


def test_the_library_is_asked_wherever_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("our own evaluator was asked alone")

    monkeypatch.setattr(intel_verify, "evaluate_quote", fail)
    verify(FakeTee())
    with pytest.raises(AssertionError):
        verify(FakeTee(debug=True))


def test_refusal_without_causes_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Should the library's two calls ever disagree, the one that refuses counts.
    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", lambda *_: None)
    tee = FakeTee()
    with pytest.raises(EvidenceSignatureError):
        verify_evidence(
            forge_quote(tee, pck=ec.generate_private_key(ec.SECP256R1())), tee.collateral, tee.anchor, now=NOW
        )


def test_anchor_on_another_curve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    root = authority.issue_certificate(authority.ROOT, key.public_key(), key, now=NOW, ca_depth=1)
    anchor = TrustAnchor(Tee.SIMULATED, "P-384", root.public_bytes(Encoding.DER))
    with pytest.raises(UntrustedRootError, match="not on P-256"):
        parse_anchor(anchor)


def test_refusal_that_nobody_knows_is_still_a_refusal() -> None:
    assert type(refusal("something that the library never said before")) is EvidenceError
