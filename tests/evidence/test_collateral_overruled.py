"""Newer collateral overrules older: a machine that is known to be revoked, lists that go back, and clouds side by side."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.pccs import Service, pccs
from fakes.tee import NOW, FakeTee, forge_collateral
from fakes.tee_kinds import shared_chip, td_quote
from tacit.errors import (
    CollateralAbsentError,
    CollateralRollbackError,
    EvidenceSignatureError,
    RevokedError,
)
from tacit.evidence import Tee
from tacit.evidence.claims import REVOCATION_UNCHECKED
from tacit.evidence.fetch import CollateralSource, Places
from tacit.evidence.fetch.keep import keep, render_bundle
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.simulated.authority import Platform, Signer, sign_collateral
from tacit.evidence.simulated.snp import (
    Guest,
    SnpChip,
    chip_extensions,
    issue_amd_crl,
    issue_ca,
    issue_leaf,
    issue_report,
)
from tacit.evidence.simulated.tdx import td_qe_identity, td_tcb_info
from tacit.evidence.snp.carried import CarriedCertificates, render_carried
from tacit.evidence.snp.certificates import parse_amd_certificate

DAY = timedelta(days=1)
TEE = FakeTee()
EVIDENCE = TEE.issue_evidence(bytes(64))
OLD = forge_collateral(TEE.platform, end=NOW + 30 * DAY)


@pytest.fixture
def service() -> Iterator[Service]:
    with pccs(OLD) as one:
        yield one


def source_of(service: Service, folder: Path | None = None, bundle: Path | None = None) -> CollateralSource:
    return CollateralSource(Places(service.url, service.url, bundle, folder))


# ---- a machine that is known to be revoked


REVOKED = {
    "its certificate": forge_collateral(TEE.platform, revoked_by_pck_ca=[TEE.platform.pck.serial_number]),
    "its level": forge_collateral(TEE.platform, info=lambda value: value["tcbLevels"][0].update(tcbStatus="Revoked")),
}


@pytest.mark.parametrize("what", REVOKED)
def test_t09_what_newer_collateral_revokes_is_refused_from_then_on(what: str, service: Service, tmp_path: Path) -> None:
    source = source_of(service, tmp_path)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(REVOKED[what])
    source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY)  # served by the old, and the new is fetched beside
    for later in (NOW + DAY, NOW + DAY + timedelta(seconds=40), NOW + 2 * DAY, NOW + 20 * DAY):
        with pytest.raises(RevokedError):
            source.verify(EVIDENCE, TEE.anchor, now=later)
    with pytest.raises(RevokedError):  # the next process knows it too
        source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW + 3 * DAY)


def test_t09_neither_the_cache_nor_a_bundle_brings_a_revoked_machine_back(service: Service, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(render_bundle([keep(OLD, fetched=NOW)]))
    source = source_of(service, tmp_path, bundle)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(REVOKED["its certificate"])
    source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY)
    service.status = 500
    for one in (source, source_of(service, tmp_path, bundle)):
        with pytest.raises(CollateralAbsentError):
            one.verify(EVIDENCE, TEE.anchor, now=NOW + 2 * DAY)


def test_t09_forged_news_of_a_revocation_overrule_nothing(service: Service, tmp_path: Path) -> None:
    source = source_of(service, tmp_path)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(forge_collateral(TEE.platform, end=NOW + 60 * DAY))
    service.edit = lambda path, body: body.replace(b"UpToDate", b"Revoked")
    for minute in range(3):
        source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY + timedelta(seconds=minute))  # the old goes on
    service.edit = lambda path, body: body
    source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY + timedelta(minutes=1))
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY + timedelta(minutes=2)).expires == NOW + 60 * DAY


# ---- lists that go back


def with_list(number: int, end: datetime) -> IntelCollateral:
    keys = TEE.platform.keys
    assert keys is not None
    builder = x509.CertificateRevocationListBuilder().issuer_name(TEE.platform.pck_ca.subject)
    builder = builder.last_update(NOW - DAY).next_update(end).add_extension(x509.CRLNumber(number), critical=False)
    listed = builder.sign(keys.pck_ca, SHA256()).public_bytes(Encoding.DER)
    return replace(forge_collateral(TEE.platform, end=end), pck_crl=listed)


def test_t09_an_older_list_of_intels_is_refused_even_while_it_is_in_force(service: Service, tmp_path: Path) -> None:
    service.hold(with_list(9, NOW + 2 * DAY))
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(with_list(8, NOW + 30 * DAY))
    with pytest.raises(CollateralRollbackError, match=r"the number 8 of list-.*PCK.*, and 9 was already seen"):
        source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW + 2 * DAY)
    service.hold(with_list(9, NOW + 30 * DAY))
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW + 2 * DAY)


# ---- a platform that newer collateral knows


def of_domains(end: datetime, *, evaluation: int = 1, modules: tuple[str, ...] = ()) -> IntelCollateral:
    """What is said of TDX, with more modules than the simulated one."""
    platform, keys = TEE.platform, TEE.platform.keys
    assert keys is not None
    found = parse_pck_extension(platform.pck)
    about = Platform(found.ppid, found.fmspc, found.pce_id, found.components, found.pce_svn)
    info, identity = td_tcb_info(about, begin=NOW - DAY, end=end), td_qe_identity(begin=NOW - DAY, end=end)
    for name in modules:
        info["tdxModuleIdentities"].append({**copy.deepcopy(info["tdxModuleIdentities"][0]), "id": name})
    info["tcbEvaluationDataNumber"] = identity["tcbEvaluationDataNumber"] = evaluation
    signers = [
        Signer(platform.root, keys.root), Signer(platform.pck_ca, keys.pck_ca),
        Signer(platform.tcb_signer, keys.tcb_signer),
    ]  # fmt: skip
    return sign_collateral(*signers, info=info, identity=identity, window=(NOW - DAY, end))


def test_a_platform_that_kept_collateral_does_not_know_is_looked_up_once_it_is_a_day_old(service: Service) -> None:
    anchor = TEE.platform.anchor_for(Tee.SIMULATED_TDX)
    versions = bytes((3, 2, 2)).ljust(16, b"\0")
    newer = td_quote(tcb_svn=versions, tcb_svn2=versions)
    service.hold(of_domains(NOW + 30 * DAY))
    source = source_of(service)
    source.verify(td_quote(), anchor, now=NOW)
    asked = len(service.asked)
    service.hold(of_domains(NOW + 60 * DAY, evaluation=2, modules=("TDX_02",)))
    with pytest.raises(EvidenceSignatureError, match="TDX module"):
        source.verify(newer, anchor, now=NOW + timedelta(hours=1))
    assert len(service.asked) == asked
    assert source.verify(newer, anchor, now=NOW + DAY).tcb_status == "UpToDate"


def test_a_refusal_is_told_as_it_is_where_newer_collateral_cannot_be_had(service: Service) -> None:
    source = source_of(service)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.status = 500
    bent = EVIDENCE[:400] + bytes((EVIDENCE[400] ^ 1,)) + EVIDENCE[401:]
    with pytest.raises(EvidenceSignatureError):
        source.verify(bent, TEE.anchor, now=NOW + DAY)


def test_t48_evidence_that_fails_does_not_keep_others_from_newer_collateral(service: Service) -> None:
    source = source_of(service)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(forge_collateral(TEE.platform, end=NOW + 60 * DAY))
    bent = EVIDENCE[:400] + bytes((EVIDENCE[400] ^ 1,)) + EVIDENCE[401:]
    with pytest.raises(EvidenceSignatureError):
        source.verify(bent, TEE.anchor, now=NOW + DAY)
    source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY)
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW + DAY).expires == NOW + 60 * DAY


# ---- two clouds whose keys are for the same TCB


def cloud(name: bytes) -> tuple[SnpChip, bytes]:
    """A chip with a cloud's key, and a report of it with its certificates."""
    chip = shared_chip()
    keys = chip.signing_keys
    intermediate = issue_ca("SEV-VLEK-Milan", keys.ask, "ARK-Milan", keys.ark, now=NOW)
    own = ec.generate_private_key(ec.SECP384R1())
    extensions = chip_extensions("Milan", b"")
    del extensions["4"]
    extensions["5"] = b"\x16" + bytes((len(name),)) + name
    leaf = issue_leaf(replace(chip, ask=intermediate), extensions, now=NOW, name="SEV-VLEK", key=own.public_key())
    one = replace(chip, ask=intermediate, vcek=leaf, keys=replace(keys, vcek=own))
    report = issue_report(Guest(b"\x51" * 48, flags=1 << 2), bytes(64), chip=one)
    return one, report + render_carried(CarriedCertificates(leaf, intermediate, chip.ark, True))


def test_two_clouds_with_keys_for_the_same_tcb_are_told_apart(service: Service, tmp_path: Path) -> None:
    (chip, first), (_, second) = cloud(b"cloud-a"), cloud(b"cloud-b")
    service.pages = {"/vlek/v1/Milan/crl": (issue_amd_crl(chip, now=NOW), {})}
    source = source_of(service, tmp_path)
    for report in (first, second, first, second):
        assert source.verify(report, chip.anchor, now=NOW).product_line == "Milan"
    assert len(service.asked) == 2
    assert len(list(tmp_path.glob("snp-vlek-*.json"))) == 2


def test_a_bundle_holds_two_clouds_side_by_side(tmp_path: Path) -> None:
    clouds = [cloud(name) for name in (b"cloud-a", b"cloud-b")]
    listed = issue_amd_crl(clouds[0][0], now=NOW)
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(render_bundle([keep(replace(chip, crl=listed).collateral) for chip, _ in clouds]))
    source = CollateralSource(Places(None, None, bundle, None))
    for chip, report in clouds:
        assert not source.verify(report, chip.anchor, now=NOW).weaknesses
    bare = issue_report(Guest(b"\x51" * 48, flags=1 << 2), bytes(64), chip=clouds[0][0])
    assert not source.verify(bare, clouds[0][0].anchor, now=NOW).weaknesses


def test_a_bundle_is_for_the_cloud_whose_certificate_it_has(tmp_path: Path) -> None:
    (chip, first), (_, second) = cloud(b"cloud-a"), cloud(b"cloud-b")
    bundle = tmp_path / "bundle.json"
    bundle.write_bytes(render_bundle([keep(replace(chip, crl=issue_amd_crl(chip, now=NOW)).collateral)]))
    source = CollateralSource(Places(None, None, bundle, None))
    assert not source.verify(first, chip.anchor, now=NOW).weaknesses
    assert source.verify(second, chip.anchor, now=NOW).weaknesses == {REVOCATION_UNCHECKED}


def test_t09_amds_list_that_names_the_intermediate_overrules_what_was_kept(service: Service, tmp_path: Path) -> None:
    chip, report = cloud(b"cloud-a")
    service.pages = {"/vlek/v1/Milan/crl": (issue_amd_crl(chip, now=NOW), {})}
    source = source_of(service, tmp_path)
    source.verify(report, chip.anchor, now=NOW)
    revoked = issue_amd_crl(chip, now=NOW + DAY, revoked=[parse_amd_certificate(chip.ask).serial])
    service.pages = {"/vlek/v1/Milan/crl": (revoked, {})}
    source.verify(report, chip.anchor, now=NOW + DAY)
    for again in (source, source_of(service, tmp_path)):
        with pytest.raises(RevokedError):
            again.verify(report, chip.anchor, now=NOW + 60 * DAY)
    # Nor do certificates that come along bring it back where nobody can be asked any more.
    with pytest.raises(CollateralAbsentError, match="was overruled"):
        CollateralSource(Places(None, None, None, tmp_path)).verify(report, chip.anchor, now=NOW + 60 * DAY)
