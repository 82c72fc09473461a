"""SNP: real reports of AMD's chips, recorded defects, and what chips' certificates may not be."""

import json
import warnings
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.evidence_vectors import OWN, SHARED, amd_file, negative, negatives, own, real
from fakes.tee import NOW, shared_platform
from fakes.tee_kinds import CHIP_ID, other_rsa, shared_chip, snp_report, td_quote
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
    Binding,
    Claims,
    Collateral,
    Role,
    Tee,
    TrustAnchor,
    report_data,
    verify_evidence,
)
from tacit.evidence.anchor import AMD
from tacit.evidence.anchor.roots import AMD_ROOT_KEYS
from tacit.evidence.claims import REGISTERS
from tacit.evidence.simulated import snp as simulated_snp
from tacit.evidence.simulated.snp import chip_extensions, issue_amd_crl, issue_ca, issue_leaf
from tacit.evidence.snp.certificates import load_key, parse_amd_certificate, parse_identity, verify_issued
from tacit.evidence.snp.collateral import AmdCollateral, pem, read_chain, render_amd_collateral
from tacit.evidence.snp.report import parse_snp_report
from tacit.evidence.snp.verify import _check_product, _verify_crl, check_anchor
from tacit.evidence.verify import parse_collateral

CLASSES: dict[str, tuple[type[EvidenceError], ...]] = {
    "report-signature": (EvidenceSignatureError,),
    "version": (EvidenceFormatError,),
    "sig-algo": (EvidenceFormatError,),
    "signature-encoding": (EvidenceFormatError,),
    "reserved-bytes": (EvidenceFormatError,),
    "parse": (EvidenceFormatError,),
    "cert-expired": (CollateralTimeError,),
    "cert-not-yet-valid": (CollateralTimeError,),
    "cert-chain": (UntrustedRootError,),
    "cert-signature": (UntrustedRootError,),
    "untrusted-root": (UntrustedRootError,),
    "tcb-ext-mismatch": (TcbError,),
    "chip-id-mismatch": (EvidenceSignatureError,),
    "key-type": (CollateralError,),
}
WEAKNESSES = {
    "policy:migration-agent": {"migration-agent"},
    "policy:vmpl": {"vmpl-3"},
}


def special(entry: dict[str, Any]) -> tuple[type[EvidenceError], ...] | None:
    """Where one defect shows as another first; docs/evidence.md says why."""
    if entry["id"].endswith("-flip-reported-tcb"):
        return (TcbError,)  # the certificate is for one TCB, which is compared before the signature is
    if entry["id"].endswith("-vcek-of-other-chip"):
        return (TcbError, EvidenceSignatureError)  # likewise, and so is the chip
    if entry["id"] == "v2-milan-coco-vcek-invalid-new":
        return (CollateralTimeError,)  # that certificate is younger than the report
    return None


def folders() -> list[Path]:
    return sorted(folder.parent for folder in SHARED.glob("snp/v*/report.bin"))


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_recorded_report_gives_its_verdict(folder: Path, shared_vectors: Path) -> None:
    if not any((folder / name).exists() for name in ("vcek.der", "vlek.der")):
        return  # nobody has its chip's certificate
    fields, case = json.loads((folder / "meta.json").read_text())["fields"], real(folder)
    claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert claims.tee is Tee.SNP
    assert claims.tcb_status == "NotRated"
    assert claims.measurement.hex() == fields["measurement"]
    assert claims.registers["HOST_DATA"].hex() == fields["host_data"]
    assert claims.hardware_id.hex() == fields["chip_id"]
    assert claims.report_data.hex() == fields["report_data"]
    assert claims.debug is fields["policy_bits"]["debug"]
    assert claims.weaknesses == {"revocation-unchecked", *([f"vmpl-{fields['vmpl']}"] if fields["vmpl"] else [])}
    assert claims.product_line.lower() in folder.name
    assert {check.number for check in claims.checks if not check.made} == {"A6", "B1"}


@pytest.mark.parametrize("entry", negatives("snp", "v2", "v3", "v5"), ids=lambda entry: entry["id"])
def test_every_recorded_snp_defect_is_refused_or_reported(entry: dict[str, Any], shared_vectors: Path) -> None:
    case, expected = negative(entry), entry["expected_class"]
    if entry["id"] == "snp-sim-wrong-ark":
        other = x509.load_pem_x509_certificate((SHARED / "simulated" / "sim-v3-milan" / "ark.pem").read_bytes())
        case.anchor = replace(case.anchor, root_der=other.public_bytes(Encoding.DER))
    if expected in CLASSES:
        with pytest.raises(EvidenceError) as caught:
            verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
        assert type(caught.value) in (special(entry) or CLASSES[expected]), caught.value
        assert caught.value.step, "a refusal names its step"
        return
    claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert claims.tee is Tee.SIMULATED_SNP
    assert claims.debug is (expected == "policy:debug")
    assert claims.weaknesses == {"revocation-unchecked"} | WEAKNESSES.get(expected, set())


# ---- the project's own fixtures, and simulated chips whose every part a test may change

OWN_REPORTS = sorted(folder.parent for folder in OWN.glob("*/report.bin"))
ANCHOR = shared_chip().anchor


def verify(report: bytes, using: Collateral | None = None, anchor: TrustAnchor = ANCHOR, **more: Any) -> Claims:
    return verify_evidence(report, using or shared_chip().collateral, anchor, now=NOW, **more)


@pytest.mark.parametrize("folder", OWN_REPORTS, ids=lambda folder: folder.name)
def test_real_report_gives_the_recorded_verdict(folder: Path) -> None:
    expect, case = json.loads((folder / "expect.json").read_text()), own(folder)
    claims = verify_evidence(case.evidence, case.read(), case.anchor, now=case.now)
    assert claims.tee is Tee.SNP
    assert claims.measurement.hex() == expect["measurement"]
    assert claims.hardware_id.hex() == expect["hardware_id"]
    assert claims.product_line == expect["product_line"]
    assert claims.tcb_versions == expect["tcb_versions"]
    assert claims.debug is expect["debug"]
    assert claims.weaknesses == {"revocation-unchecked", *expect["weaknesses"]}
    assert {check.number for check in claims.checks if not check.made} == {"A6", "B1"}


@pytest.mark.parametrize("folder", OWN_REPORTS, ids=lambda folder: folder.name)
def test_one_flipped_bit_of_a_real_report_is_refused(folder: Path) -> None:
    case = own(folder)
    for offset in range(0, len(case.evidence), 37):
        report = bytearray(case.evidence)
        report[offset] ^= 1
        with pytest.raises(EvidenceError) as caught:
            verify_evidence(bytes(report), case.read(), case.anchor, now=case.now)
        assert caught.value.step


@pytest.mark.parametrize("version", [2, 3, 5])
def test_claims_say_what_the_guest_is(version: int) -> None:
    claims = verify(snp_report(version=version, guest_svn=3, data=bytes(range(64)), host_data=b"\x61" * 32))
    assert claims.tee is Tee.SIMULATED_SNP
    assert claims.measurement == claims.registers["MEASUREMENT"] == b"\x51" * 48
    assert claims.registers["HOST_DATA"] == b"\x61" * 32
    assert {name: len(value) for name, value in claims.registers.items()} == REGISTERS[Tee.SNP]
    assert (claims.security_version, claims.report_data) == (3, bytes(range(64)))
    assert (claims.debug, claims.weaknesses, claims.product_line) == (False, frozenset(), "Milan")
    assert claims.tcb_versions == {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
    assert claims.hardware_id == CHIP_ID
    assert [check.number for check in claims.checks if not check.made] == ["B1"]


def test_each_check_says_what_it_was_made_over() -> None:
    raw = snp_report()
    collateral = shared_chip().collateral
    leaf, intermediate, root = (one.raw for one in read_chain(collateral))
    report = parse_snp_report(raw)
    over = {
        "A1": raw, "A2": raw[:0x50], "A3": root, "A4": NOW.isoformat().encode(), "A5": leaf + intermediate + root,
        "A6": collateral.crl, "A7": leaf + raw[0x48:0x4C], "A8": report.reported_tcb, "A9": report.chip_id,
        "A10": raw[:0x2A0],
    }  # fmt: skip
    checks = verify(raw, collateral).checks
    assert (verify(raw).product_id, verify(raw).tcb_evaluation_number) == (0, 0)
    assert {one.number: one.input_sha256 for one in checks if one.made} == {
        number: sha256(content).digest() for number, content in over.items()
    }


def test_a_product_line_that_is_not_known_is_refused() -> None:
    chain = read_chain(shared_chip().collateral)
    naples = replace(parse_identity(chain[0]), product="Naples")
    for version in (2, 5):
        with pytest.raises(EvidenceFormatError, match="the product line 'Naples' is not known here"):
            _check_product(parse_snp_report(snp_report(version=version)), naples, chain)


def test_t09_a_list_is_the_roots_by_name_and_by_a_key_for_lists() -> None:
    collateral = shared_chip().collateral
    leaf, _, root = read_chain(collateral)
    _verify_crl(collateral.crl, root)
    for other in (replace(root, subject=leaf.subject), replace(root, key_der=leaf.key_der)):
        with pytest.raises(CollateralError, match="another CA issued it"):
            _verify_crl(collateral.crl, other)


def test_turin_has_other_places_for_its_tcb_and_short_chip_ids() -> None:
    chip = shared_chip("Turin")
    report = snp_report(chip=chip, product="Turin")
    claims = verify(report, chip.collateral, chip.anchor)
    assert claims.product_line == "Turin"
    assert claims.tcb_versions == {"fmc": 1, "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
    assert claims.hardware_id == CHIP_ID[:8] + bytes(56)
    longer = bytearray(report)
    longer[0x1A0 + 8] = 1
    assert refusal_of(bytes(longer), chip.collateral, chip.anchor).startswith("A9")


def refusal_of(report: bytes, using: Collateral | None = None, anchor: TrustAnchor = ANCHOR) -> str:
    """The step that refused."""
    with pytest.raises(EvidenceError) as caught:
        verify(report, using, anchor)
    return caught.value.step


# ---- bits


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_policy_bit_is_known_or_refused(bit: int) -> None:
    report = snp_report(policy=(1 << 17) ^ (1 << bit))
    if bit == 17 or bit > 25:
        with pytest.raises(EvidenceFormatError, match=r"POLICY (has|is) "):
            verify(report)
        return
    claims = verify(report)
    assert claims.debug is (bit == 19)
    assert claims.weaknesses == ({"migration-agent"} if bit == 18 else set())


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_bit_of_platform_info_is_known_or_refused(bit: int) -> None:
    report = snp_report(platform_info=1 << bit)
    if bit <= 5:
        verify(report)
    else:
        with pytest.raises(EvidenceFormatError, match="PLATFORM_INFO has "):
            verify(report)


@pytest.mark.parametrize("flags", [1 << bit for bit in range(5, 32)])
def test_t08_unknown_flags_are_refused(flags: int) -> None:
    with pytest.raises(EvidenceFormatError, match="flags has "):
        verify(snp_report(flags=flags))


def test_t08_a_guest_that_may_be_moved_says_so() -> None:
    assert verify(snp_report(report_id_ma=bytes(32))).weaknesses == {"migration-agent"}


@pytest.mark.parametrize("vmpl", range(6))
def test_t08_a_level_above_the_lowest_is_told(vmpl: int) -> None:
    report = snp_report(vmpl=vmpl)
    if vmpl > 3:
        assert refusal_of(report).startswith("A2")
    else:
        assert verify(report).weaknesses == ({f"vmpl-{vmpl}"} if vmpl else set())


@pytest.mark.parametrize("key", range(1, 8))
def test_a_report_that_another_kind_of_key_signed_is_refused(key: int) -> None:
    # A VLEK names no chip: taken for a VCEK, it would skip the chip's check without a word.
    assert refusal_of(snp_report(flags=key << 2)).startswith("A7")


# ---- certificates


def other_leaf(changes: dict[str, bytes | None], **more: Any) -> AmdCollateral:
    """The chip's collateral with another leaf: extensions replaced, or taken away by None."""
    chip = shared_chip()
    extensions = {**chip_extensions("Milan", CHIP_ID), **changes}
    kept = {name: value for name, value in extensions.items() if value is not None}
    return replace(chip.collateral, leaf=issue_leaf(chip, kept, now=NOW, **more))


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"4": None}, "A7"),
        ({"5": b"\x16\x05cloud"}, "A7"),
        ({"4": None, "5": b"\x16\x05cloud"}, "A7"),
        ({"2": b"\x16\x05Genoa"}, "A7"),
        ({"2": b"\x16\x05Turin"}, "A7"),
        ({"2": b"\x16\x04Rome"}, "A7"),
        ({"2": None}, "A5"),
        ({"3.3": b"\x02\x01\x17"}, "A8"),
        ({"3.8": None}, "A8"),
        ({"3.1": b"\x04\x01\x04"}, "A5"),
        ({"4": bytes(64)}, "A9"),
        ({"4": CHIP_ID[:8]}, "A9"),
        ({"4": b"\x04\x10" + CHIP_ID[:16]}, "A9"),
        ({"4": b"\x05\x00"}, "A5"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_certificate_that_is_not_the_chips_is_refused(changes: dict[str, bytes | None], step: str) -> None:
    assert refusal_of(snp_report(), other_leaf(changes)).startswith(f"{step} ")


def test_a_chips_id_may_stand_in_an_octet_string() -> None:
    assert verify(snp_report(), other_leaf({"4": b"\x04\x40" + CHIP_ID})).hardware_id == CHIP_ID
    assert verify(snp_report(), other_leaf({"2": b"\x16\x08Milan-B1"})).product_line == "Milan"


def test_a_masked_chip_is_refused() -> None:
    # The host can mask ids, and a masked report of any chip would fit any certificate.
    report = bytearray(snp_report())
    report[0x1A0:0x1E0] = bytes(64)
    assert refusal_of(bytes(report)).startswith("A9")
    assert refusal_of(bytes(report), other_leaf({"4": bytes(64)})).startswith("A9")


def test_a_key_on_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert refusal_of(snp_report(), other_leaf({}, key=key)).startswith("A5")


def test_the_reported_tcb_is_the_certificates() -> None:
    older = bytes((4, 0, 0, 0, 0, 0, 23, 219))
    assert refusal_of(snp_report(tcb=older)).startswith("A8")
    assert refusal_of(snp_report(tcb=bytes((4, 0, 1, 0, 0, 0, 24, 219)))).startswith("A8")


def test_the_lowest_of_three_tcbs_counts() -> None:
    # The launch TCB cannot be changed after signing, so a chip signs it here.
    chip = shared_chip()
    report = bytearray(snp_report())
    report[0x1F0 + 6] = 20
    words = decode_dss_signature(chip.signing_keys.vcek.sign(bytes(report[:0x2A0]), ec.ECDSA(SHA384())))
    report[0x2A0:0x330] = b"".join(word.to_bytes(72, "little") for word in words)
    assert verify(bytes(report)).tcb_versions["snp"] == 20


@pytest.mark.parametrize("which", ["self-signed", "foreign-issuer", "no-ca", "swapped", "one", "three", "text"])
def test_a_chain_that_does_not_lead_to_the_root_is_refused(which: str) -> None:
    chip = shared_chip()
    keys = chip.signing_keys
    foreign = issue_ca("SEV-Milan", other_rsa(), "ARK-Milan", other_rsa(), now=NOW)
    chain = {
        "self-signed": pem(foreign) + pem(chip.ark),
        "foreign-issuer": pem(issue_ca("SEV-Milan", other_rsa(), "ARK-Milan", keys.ark, now=NOW)) + pem(chip.ark),
        "no-ca": pem(chip.vcek) + pem(chip.ark),
        "swapped": pem(chip.ark) + pem(chip.ask),
        "one": pem(chip.ask),
        "three": pem(chip.ask) + pem(chip.ark) * 2,
        "text": pem(chip.ask) + "hidden" + pem(chip.ark),
    }[which]
    with pytest.raises((UntrustedRootError, CollateralError)):
        verify(snp_report(), replace(chip.collateral, issuer_chain=chain))


def test_t09_what_is_not_in_force_is_refused() -> None:
    for moment in (NOW - timedelta(days=2), NOW + timedelta(days=366), NOW + timedelta(days=20 * 366)):
        with pytest.raises(CollateralTimeError) as caught:
            verify_evidence(snp_report(), shared_chip().collateral, ANCHOR, now=moment)
        assert caught.value.step.startswith("A4")


@pytest.mark.parametrize("which", ["vcek", "ask"])
def test_t09_a_revoked_chip_is_refused(which: str) -> None:
    chip = shared_chip()
    serial = parse_amd_certificate(getattr(chip, which)).serial
    crl = issue_amd_crl(chip, now=NOW, revoked=(serial,))
    with pytest.raises(RevokedError) as caught:
        verify(snp_report(), replace(chip.collateral, crl=crl))
    assert caught.value.step.startswith("A6")


def test_t09_a_list_of_another_ca_is_refused() -> None:
    chip = shared_chip()
    foreign = replace(chip, keys=replace(chip.signing_keys, ark=other_rsa()))
    for crl in (issue_amd_crl(foreign, now=NOW), shared_platform().collateral.pck_crl, b"\x30\x00", chip.crl[:-1]):
        with pytest.raises(CollateralError):
            verify(snp_report(), replace(chip.collateral, crl=crl))


def test_t63_a_missing_list_is_told_and_not_passed_over() -> None:
    claims = verify(snp_report(), replace(shared_chip().collateral, crl=b""))
    assert claims.weaknesses == {"revocation-unchecked"}
    assert {check.number for check in claims.checks if not check.made} == {"A6", "B1"}


# ---- whose root


def test_t67_amds_root_keys_come_with_the_package() -> None:
    assert set(AMD_ROOT_KEYS.values()) == {"Milan", "Genoa", "Turin"}
    for folder in OWN_REPORTS:
        collateral = own(folder).read()
        assert isinstance(collateral, AmdCollateral)
        root = read_chain(collateral)[2]
        assert AMD_ROOT_KEYS[root.key_sha384] == json.loads((folder / "expect.json").read_text())["product_line"]


def test_t07_a_simulated_anchor_needs_its_certificate() -> None:
    chain = read_chain(shared_chip().collateral)
    with pytest.raises(UntrustedRootError, match="has no certificate"):
        check_anchor(chain, replace(ANCHOR, root_der=b""))


def test_t07_a_refusal_says_which_side_is_simulated() -> None:
    chain = read_chain(shared_chip().collateral)
    with pytest.raises(UntrustedRootError, match="' is SIMULATED: it is never accepted where snp evidence"):
        check_anchor(chain, AMD)
    real = read_chain(own(OWN_REPORTS[0]).read())  # type: ignore[arg-type]
    with pytest.raises(UntrustedRootError, match="' is not marked SIMULATED: it is never accepted where simulated-snp"):
        check_anchor(real, ANCHOR)
    with pytest.raises(UntrustedRootError, match="this is SNP evidence"):
        check_anchor(chain, INTEL)


def test_t07_simulated_reports_are_refused_under_amds_anchor() -> None:
    with pytest.raises(UntrustedRootError, match="SIMULATED"):
        verify(snp_report(), anchor=AMD)


@pytest.mark.parametrize("foreign", [False, True])
def test_t07_a_simulated_root_never_vouches_for_snp(foreign: bool) -> None:
    with pytest.raises(UntrustedRootError, match="SIMULATED"):
        verify(snp_report(), anchor=replace(ANCHOR, tee=Tee.SNP, foreign=foreign))


def test_t07_real_reports_are_refused_under_a_simulated_anchor() -> None:
    case = own(OWN_REPORTS[0])
    root = read_chain(case.read())[2].raw  # type: ignore[arg-type]
    for anchor in (ANCHOR, replace(ANCHOR, root_der=root), replace(AMD, tee=Tee.SIMULATED_SNP)):
        with pytest.raises(UntrustedRootError):
            verify_evidence(case.evidence, case.read(), anchor, now=case.now)


def test_t07_an_own_root_without_the_mark_counts_only_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_snp, "_name", lambda what: x509.Name.from_rfc4514_string(f"CN={what},O=Somebody"))
    monkeypatch.setattr(simulated_snp.rsa, "generate_private_key", lambda **_: other_rsa())
    chip = simulated_snp.generate_chip(now=NOW, random=lambda size: CHIP_ID[:size])
    monkeypatch.undo()
    report, own_root = snp_report(chip=chip), TrustAnchor(Tee.SNP, "our own root", chip.ark)
    for anchor in (AMD, own_root, replace(own_root, tee=Tee.SIMULATED_SNP), replace(own_root, root_der=b"")):
        with pytest.raises(UntrustedRootError):
            verify(report, chip.collateral, anchor)
    assert verify(report, chip.collateral, replace(own_root, foreign=True)).tee is Tee.SNP


def test_t07_amds_own_root_as_an_anchor_is_accepted_for_its_line_alone() -> None:
    case = own(OWN_REPORTS[0])
    root = read_chain(case.read())[2].raw  # type: ignore[arg-type]
    anchor = TrustAnchor(Tee.SNP, "one of AMD's", root)
    assert verify_evidence(case.evidence, case.read(), anchor, now=case.now).tee is Tee.SNP
    assert refusal_of(snp_report(), anchor=replace(ANCHOR, root_der=root)).startswith("A3")


def test_evidence_of_one_maker_is_refused_with_the_collateral_of_another() -> None:
    with pytest.raises(CollateralError, match="AMD's certificates"):
        verify(snp_report(), shared_platform().collateral)
    with pytest.raises(EvidenceFormatError, match="1184 bytes"):
        verify(td_quote())
    for anchor in (INTEL, shared_platform().anchor):
        with pytest.raises(UntrustedRootError, match="vouches for"):
            verify(snp_report(), anchor=anchor)


def test_t01_a_replayed_report_is_refused_at_the_door() -> None:
    report = snp_report(data=report_data(role=Role.MARBLE, key=b"key", nonce=b"nonce"))
    claims = verify(report, binding=Binding(Role.MARBLE, b"key", b"nonce"))
    assert all(check.made for check in claims.checks)
    for binding in (Binding(Role.MARBLE, b"key", b"other"), Binding(Role.MARBLE, b"other", b"nonce")):
        with pytest.raises(BindingError, match="B1"):
            verify(report, binding=binding)


def test_t03_a_report_of_one_role_is_refused_in_another() -> None:
    report = snp_report(data=report_data(role=Role.MARBLE, key=b"key"))
    with pytest.raises(BindingError, match="role 'coordinator'"):
        verify(report, binding=Binding(Role.COORDINATOR, b"key"))


# ---- bytes


@settings(max_examples=300)
@given(edits=st.lists(st.tuples(st.integers(0, 1183), st.integers(1, 255)), min_size=1, max_size=4))
def test_t13_a_mutated_report_is_refused_in_our_words(edits: list[tuple[int, int]]) -> None:
    original = snp_report()
    report = bytearray(original)
    for offset, mask in edits:
        report[offset] ^= mask
    if report != original:
        assert refusal_of(bytes(report))


@settings(max_examples=200)
@given(which=st.sampled_from(["ark", "ask", "vcek", "crl"]), edits=st.lists(
    st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=3
))  # fmt: skip
def test_t13_a_mutated_certificate_is_refused_in_our_words(which: str, edits: list[tuple[int, int]]) -> None:
    chip = shared_chip()
    raw = bytearray(getattr(chip, which))
    for offset, mask in edits:
        raw[offset % len(raw)] ^= mask
    if raw != getattr(chip, which):
        assert refusal_of(snp_report(), replace(chip, **{which: bytes(raw)}).collateral)


@settings(max_examples=200)
@given(raw=st.binary(max_size=200))
def test_t13_bytes_that_are_no_certificate_are_refused(raw: bytes) -> None:
    with pytest.raises(CollateralError):
        parse_amd_certificate(raw)


@pytest.mark.parametrize("size", [0, 4, 1183, 1185, 4096])
def test_t13_a_report_of_another_size_is_refused(size: int) -> None:
    assert refusal_of((snp_report() + bytes(4096))[:size]).startswith("A1")


def test_t13_a_collateral_file_of_another_form_is_refused() -> None:
    good = json.loads(render_amd_collateral(shared_chip().collateral))
    assert parse_collateral(json.dumps(good).encode()) == shared_chip().collateral
    for changes in ({"leaf": "zz"}, {"crl": None}, {"more": ""}, {"crl": "00" * 600_000}):
        with pytest.raises(CollateralError):
            parse_collateral(json.dumps(good | changes).encode())
    del good["crl"]
    with pytest.raises(CollateralError, match="crl"):
        parse_collateral(json.dumps(good).encode())


# ---- certificates with the serial number 0


def test_certificates_are_read_as_the_certificate_library_reads_them() -> None:
    for folder in OWN_REPORTS:
        collateral = own(folder).read()
        assert isinstance(collateral, AmdCollateral)
        for ours in read_chain(collateral):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the serial number 0, which is why ours exists
                theirs = x509.load_der_x509_certificate(ours.raw)
                serial = theirs.serial_number
            assert (ours.serial, ours.begin, ours.end) == (
                serial, theirs.not_valid_before_utc, theirs.not_valid_after_utc
            )  # fmt: skip
            assert ours.signed == theirs.tbs_certificate_bytes
            assert (ours.issuer, ours.subject) == (theirs.issuer.public_bytes(), theirs.subject.public_bytes())
            assert load_key(ours.key_der) == theirs.public_key()
    leaves = [read_chain(own(folder).read())[0] for folder in OWN_REPORTS]  # type: ignore[arg-type]
    assert {leaf.serial for leaf in leaves} == {0}


def test_no_certificate_of_amds_goes_through_the_certificate_library(monkeypatch: pytest.MonkeyPatch) -> None:
    # It has announced that it will refuse the serial number 0; reports have to go on being verified.
    def refuse(*_: object) -> None:
        raise ValueError("a serial number of zero is not allowed")

    for name in ("load_der_x509_certificate", "load_pem_x509_certificate", "load_pem_x509_certificates"):
        monkeypatch.setattr(x509, name, refuse)
    for cache in (parse_amd_certificate, read_chain, verify_issued, parse_identity):
        cache.cache_clear()
    case = own(OWN_REPORTS[0])
    assert verify_evidence(case.evidence, case.read(), case.anchor, now=case.now).tee is Tee.SNP


@pytest.mark.parametrize("folder", [SHARED / "snp" / "ca-turin-vcek-chain"], ids=["turin"])
def test_the_recorded_turin_chain_holds(folder: Path, shared_vectors: Path) -> None:
    collateral = parse_collateral(amd_file(folder))
    assert isinstance(collateral, AmdCollateral)
    leaf, intermediate, root = read_chain(collateral)
    for certificate, issuer in ((leaf, intermediate), (intermediate, root), (root, root)):
        verify_issued(certificate, issuer)
    assert AMD_ROOT_KEYS[root.key_sha384] == "Turin"
    identity = parse_identity(leaf)
    assert (identity.product, len(identity.chip_id or b"")) == ("Turin", 8)
    assert "fmc" in dict(identity.tcb)
