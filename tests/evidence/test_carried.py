"""Certificates that a host hands to its guests: how they travel behind a report, and when they are used."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from fakes.evidence_vectors import OWN, own
from fakes.machine import FakeSnpDevice, FakeTsm
from fakes.pccs import Service, pccs
from fakes.tee import NOW
from fakes.tee_kinds import shared_chip, snp_report
from tacit.errors import CollateralAbsentError, EvidenceError, EvidenceFormatError, TcbError, UntrustedRootError
from tacit.evidence import Tee, verify_evidence
from tacit.evidence.anchor import AMD
from tacit.evidence.claims import REVOCATION_UNCHECKED, Claims
from tacit.evidence.fetch import CollateralSource, Places, evidence_layout
from tacit.evidence.fetch.amd import brought_along, platform_of_report
from tacit.evidence.issue.guests import SnpGuest
from tacit.evidence.snp.carried import CarriedCertificates, read_table, render_carried, split_report
from tacit.evidence.snp.collateral import AmdCollateral, pem, read_chain
from tacit.evidence.snp.report import parse_snp_report

CHIP = shared_chip()
CARRIED = CarriedCertificates(CHIP.vcek, CHIP.ask, CHIP.ark, of_cloud=False)
REPORT = snp_report()
EVIDENCE = REPORT + render_carried(CARRIED)
CLOUD = OWN / "snp-v3-milan-vlek-aws-vmpl1"
GUIDS = {
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "other": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}


@pytest.fixture
def service() -> Iterator[Service]:
    with pccs() as one:
        yield one


def host_table(**certificates: bytes) -> bytes:
    """As a host writes it: the entries in this order, a hole before each certificate."""
    at, head, content = 24 * (len(certificates) + 1), b"", b""
    for name, one in certificates.items():
        content += b"\xee" * 8
        head += UUID(GUIDS[name]).bytes + struct.pack("<II", at + len(content), len(one))
        content += one
    return head + bytes(24) + content


def of_cloud() -> tuple[CarriedCertificates, bytes]:
    """The certificates of a recorded report that a cloud's key signed, and the report."""
    case = own(CLOUD)
    recorded = case.read()
    assert isinstance(recorded, AmdCollateral)
    leaf, intermediate, root = read_chain(recorded)
    return CarriedCertificates(leaf.raw, intermediate.raw, root.raw, of_cloud=True), case.evidence


# ---- the table


def test_what_travels_is_read_as_it_was_written() -> None:
    assert split_report(EVIDENCE) == (REPORT, CARRIED)
    assert split_report(REPORT) == (REPORT, None)
    carried, report = of_cloud()
    assert split_report(report + render_carried(carried)) == (report, carried)


def test_a_hosts_table_may_be_in_any_order_with_holes_and_in_pem() -> None:
    table = host_table(other=b"\x30", ark=CHIP.ark, ask=pem(CHIP.ask).encode(), vcek=CHIP.vcek) + bytes(100)
    assert read_table(table) == CARRIED


@pytest.mark.parametrize(
    "table",
    [
        b"",
        bytes(4096),
        b"certificates of the host",
        host_table(vcek=CHIP.vcek, ask=CHIP.ask),
        host_table(ask=CHIP.ask, ark=CHIP.ark),
        host_table(vcek=b"no certificate", ask=CHIP.ask, ark=CHIP.ark),
        host_table(vcek=b"-----BEGIN CERTIFICATE-----\n*\n", ask=CHIP.ask, ark=CHIP.ark),
        host_table(vcek=b"-----BEGIN CERTIFICATE-----\nMDAwM\n-----END CERTIFICATE-----", ask=CHIP.ask, ark=CHIP.ark),
        host_table(vcek=b"\x30" + bytes(8192), ask=CHIP.ask, ark=CHIP.ark),
        UUID(GUIDS["vcek"]).bytes + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF),
        host_table(**{name: b"\x30" for name in ("other",)}) + host_table(vcek=CHIP.vcek, ask=CHIP.ask, ark=CHIP.ark),
    ],
)
def test_a_hosts_table_that_lacks_something_is_none(table: bytes) -> None:
    assert read_table(table) is None


def entries(*given: tuple[str | None, int, int]) -> bytes:
    """The head of a table: name (None for the end), offset, length."""
    return b"".join(
        (bytes(16) if name is None else UUID(GUIDS[name]).bytes) + struct.pack("<II", at, size)
        for name, at, size in given
    )


@pytest.mark.parametrize("size", [1, 2, 3, 8192])
def test_a_certificate_of_any_length_that_is_read_is_read_whole(size: int) -> None:
    leaf = b"\x30" + bytes(size - 1)
    for given in (leaf, pem(leaf).encode()) if size < 8192 else (leaf,):
        read = read_table(host_table(vcek=given, ask=CHIP.ask, ark=CHIP.ark))
        assert read is not None
        assert read.leaf == leaf


def test_the_first_of_two_certificates_of_a_kind_counts_and_what_follows_the_end_does_not() -> None:
    given = [("vcek", 1000, 2), ("ask", 1000, 2), ("ark", 1000, 2)]
    content = b"\x30\1" + b"\x30\2"
    first = entries(*given, ("vcek", 1002, 2), ("other", 1002, 2), ("ark", 1002, 2), (None, 0, 0))
    read = read_table(first.ljust(1000, b"\0") + content)
    assert read == CarriedCertificates(b"\x30\1", b"\x30\1", b"\x30\1", of_cloud=False)
    ended = entries(*given[:2], (None, 0, 0), given[2])
    assert read_table(ended.ljust(1000, b"\0") + content) is None


@pytest.mark.parametrize(("before", "read"), [(13, True), (14, False)])
def test_a_table_has_at_most_sixteen_entries(before: int, read: bool) -> None:
    head = entries(*[("other", 0, 0)] * before, ("vcek", 1000, 1), ("ask", 1000, 1), ("ark", 1000, 1), (None, 0, 0))
    assert (read_table(head.ljust(1000, b"\0") + b"\x30") is not None) is read


@pytest.mark.parametrize(
    "make", [FakeSnpDevice, lambda report, certificates: FakeTsm("sev_guest", report, certificates=certificates)]
)  # type: ignore[misc]
def test_a_guest_sends_what_its_host_hands_out(make: object) -> None:
    table = host_table(ark=CHIP.ark, vcek=CHIP.vcek, ask=CHIP.ask)
    for given, carried in ((table, CARRIED), (b"nothing of use", None)):
        machine = make(lambda data: snp_report(data=data), certificates=given)  # type: ignore[operator]
        evidence = SnpGuest(machine, lambda: "tacit-0").issue_evidence(bytes(64))
        assert split_report(evidence) == (evidence[: len(REPORT)], carried)
        assert evidence_layout(evidence) is Tee.SNP


@pytest.mark.parametrize(
    "tail",
    [
        b"\0",
        render_carried(CARRIED) + b"\0",
        render_carried(CARRIED)[:-1],
        host_table(vcek=CHIP.vcek, ask=CHIP.ask, ark=CHIP.ark),
        render_carried(CARRIED) + render_carried(CARRIED),
    ],
)
def test_t13_nothing_else_stands_behind_a_report(tail: bytes) -> None:
    with pytest.raises(EvidenceFormatError, match="behind the SNP report") as refused:
        verify_evidence(REPORT + tail, CHIP.collateral, CHIP.anchor, now=NOW)
    assert refused.value.step is not None
    assert refused.value.step.startswith("A1")


# ---- verifying with them


def test_given_collateral_decides_and_not_what_came_along() -> None:
    stranger = replace(CARRIED, leaf=b"\x30\x03\x02\x01\x00")
    claims = verify_evidence(REPORT + render_carried(stranger), CHIP.collateral, CHIP.anchor, now=NOW)
    assert claims.hardware_id == parse_snp_report(REPORT).chip_id


def without_services() -> CollateralSource:
    return CollateralSource(Places(None, None, None, None))


def test_a_recorded_report_of_a_cloud_is_verified_by_what_comes_along() -> None:
    carried, report = of_cloud()
    case = own(CLOUD)
    with pytest.raises(CollateralAbsentError):
        without_services().verify(report, AMD, now=case.now)
    claims = without_services().verify(report + render_carried(carried), AMD, now=case.now)
    assert REVOCATION_UNCHECKED in claims.weaknesses


def test_with_a_service_named_the_list_alone_is_fetched(service: Service) -> None:
    service.hold(CHIP.collateral)
    source = CollateralSource(Places(service.url, service.url))
    claims: Claims = source.verify(EVIDENCE, CHIP.anchor, now=NOW)
    assert claims.weaknesses == frozenset()
    assert service.asked == ["/vcek/v1/Milan/crl"]
    source.verify(EVIDENCE, CHIP.anchor, now=NOW)
    assert len(service.asked) == 1
    # A day later it is asked for anew, and again alone.
    source.verify(EVIDENCE, CHIP.anchor, now=NOW + timedelta(days=1))
    assert service.asked == ["/vcek/v1/Milan/crl"] * 2


def test_a_clouds_list_is_asked_for_by_its_own_path(service: Service) -> None:
    carried, report = of_cloud()
    source = CollateralSource(Places(None, service.url))
    with pytest.raises(CollateralAbsentError):
        source.verify(report + render_carried(carried), AMD, now=own(CLOUD).now)
    assert service.asked == ["/vlek/v1/Milan/crl"]


def test_t69_a_service_that_does_not_answer_is_not_done_without(service: Service) -> None:
    service.status = 500
    with pytest.raises(CollateralAbsentError):
        CollateralSource(Places(service.url, service.url)).verify(EVIDENCE, CHIP.anchor, now=NOW)


def strangers() -> dict[str, CarriedCertificates]:
    """Certificates that somebody else could put behind a genuine report."""
    carried, _ = of_cloud()
    broken = CHIP.vcek[:-1] + bytes((CHIP.vcek[-1] ^ 1,))
    return {
        "another chip's": carried,
        "altered": replace(CARRIED, leaf=broken),
        "no certificate": replace(CARRIED, leaf=b"\x30\x03\x02\x01\x00"),
        "in the wrong places": replace(CARRIED, intermediate=CHIP.ark, root=CHIP.ask),
    }


@pytest.mark.parametrize("name", strangers())
def test_t10_certificates_that_are_not_this_platforms_are_passed_over(name: str, service: Service) -> None:
    evidence = REPORT + render_carried(strangers()[name])
    platform = platform_of_report(parse_snp_report(REPORT))
    assert brought_along(evidence, platform, CHIP.anchor) is None
    service.hold(CHIP.collateral)
    source = CollateralSource(Places(service.url, service.url))
    assert source.verify(evidence, CHIP.anchor, now=NOW).hardware_id == platform.chip_id
    assert len(service.asked) == 3  # as for a report without any
    with pytest.raises(CollateralAbsentError):
        without_services().verify(evidence, CHIP.anchor, now=NOW)


def test_certificates_for_another_tcb_are_passed_over() -> None:
    older = snp_report(tcb=bytes(8))
    evidence = older + render_carried(CARRIED)
    assert brought_along(evidence, platform_of_report(parse_snp_report(older)), CHIP.anchor) is None
    with pytest.raises(TcbError):
        verify_evidence(evidence, CHIP.collateral, CHIP.anchor, now=NOW)


def test_t07_certificates_that_come_along_bring_no_root_of_their_own() -> None:
    platform = platform_of_report(parse_snp_report(REPORT))
    assert brought_along(EVIDENCE, platform, CHIP.anchor) == CHIP.collateral.__class__(
        CHIP.vcek, pem(CHIP.ask) + pem(CHIP.ark)
    )
    assert brought_along(EVIDENCE, platform, AMD) is None
    with pytest.raises(UntrustedRootError):
        verify_evidence(EVIDENCE, CHIP.collateral, AMD, now=NOW)


def test_what_ended_is_no_help(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError):
        without_services().verify(EVIDENCE, CHIP.anchor, now=NOW + timedelta(days=365 * 30))
