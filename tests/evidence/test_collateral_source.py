"""Collateral from services on loopback, the cache and bundles: recorded and simulated, whole and with faults."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fakes.evidence_vectors import OWN, SHARED, own, real
from fakes.pccs import Service, intel_pages, pccs, wait_until
from fakes.tee import NOW, FakeTee, forge_collateral, other_platform
from fakes.tee_kinds import shared_chip, snp_report
from tacit.errors import (
    BindingError,
    CollateralAbsentError,
    CollateralError,
    CollateralRollbackError,
    CollateralTimeError,
    EvidenceError,
    UntrustedRootError,
)
from tacit.evidence import INTEL, Binding, verify_evidence
from tacit.evidence.anchor import AMD
from tacit.evidence.fetch import CollateralSource, Places
from tacit.evidence.fetch.amd import fetch_amd_collateral, platform_of_certificates, platform_of_report
from tacit.evidence.fetch.http import Answer, get
from tacit.evidence.fetch.intel import INTEL_SERVICE, fetch_intel_collateral, platform_of_quote
from tacit.evidence.fetch.keep import Cache, keep, parse_bundle, platform_of, render_bundle
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.snp.collateral import AmdCollateral
from tacit.evidence.snp.report import parse_snp_report
from tacit.evidence.verify.envelope import unwrap

QUOTES = [folder for folder in sorted(OWN.iterdir()) if (folder / "quote.bin").exists()]
REPORTS = [folder for folder in sorted(OWN.iterdir()) if (folder / "report.bin").exists()]


@pytest.fixture
def service() -> Iterator[Service]:
    with pccs() as one:
        yield one


def source_of(service: Service, folder: Path | None = None, **more: Any) -> CollateralSource:
    return CollateralSource(Places(service.url, service.url, None, folder), **more)


def offline(*entries: object, folder: Path) -> CollateralSource:
    file = folder / "bundle.json"
    file.write_bytes(render_bundle([keep(one) for one in entries]))  # type: ignore[arg-type]
    return CollateralSource(Places(None, None, file, None))


TEE = FakeTee()
EVIDENCE = TEE.issue_evidence(bytes(64))


def number(value: int) -> Callable[[dict[str, Any]], object]:
    return lambda info: info.update(tcbEvaluationDataNumber=value)


def judged(value: int) -> IntelCollateral:
    return forge_collateral(TEE.platform, info=number(value), identity=number(value))


# ---- from a service


@pytest.mark.parametrize("folder", QUOTES, ids=lambda folder: folder.name)
def test_a_recorded_quote_is_verified_with_what_a_pccs_answers(folder: Path, service: Service) -> None:
    case = own(folder)
    collateral = case.read()
    service.hold(collateral)
    claims, kept = source_of(service).verify_keeping(case.evidence, case.anchor, now=case.now)
    assert claims == verify_evidence(case.evidence, collateral, case.anchor, now=case.now)
    assert replace(kept.collateral, **lists(collateral)) == collateral
    assert len(service.asked) == 4


def lists(collateral: object) -> dict[str, bytes]:
    assert isinstance(collateral, IntelCollateral)
    return {"root_ca_crl": collateral.root_ca_crl, "pck_crl": collateral.pck_crl}


def test_every_recorded_quote_is_verified_with_what_a_pccs_answers(shared_vectors: Path, service: Service) -> None:
    for folder in sorted((*(SHARED / "sgx").iterdir(), *(SHARED / "tdx").iterdir())):
        if not (folder / "collateral.json").exists():
            continue
        case = real(folder)
        service.hold(case.read())
        outcomes = []
        for verify in (
            lambda case=case: source_of(service).verify(case.evidence, case.anchor, now=case.now),
            lambda case=case: verify_evidence(case.evidence, case.read(), case.anchor, now=case.now),
        ):
            try:
                outcomes.append(verify())
            except EvidenceError as exc:
                outcomes.append(type(exc))
        assert outcomes[0] == outcomes[1], folder.name


def test_intels_own_service_is_asked_for_the_roots_list_where_the_root_says(service: Service) -> None:
    case = own(QUOTES[0])
    pages = intel_pages(case.read(), as_hex=False)  # type: ignore[arg-type]
    asked: list[str] = []

    def answer(url: str) -> Answer:
        asked.append(url)
        path = url.removeprefix(INTEL_SERVICE)
        root = "/sgx/certification/v4/rootcacrl"
        body, headers = pages[root if path.endswith("IntelSGXRootCA.der") else path]
        return Answer(body, {name.lower(): value for name, value in headers.items()})

    platform = platform_of_quote(parse_quote(unwrap(case.evidence)))
    assert fetch_intel_collateral(platform, INTEL_SERVICE, answer) == case.read()
    assert asked[-1] == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


def test_the_path_that_intels_tools_write_behind_an_address_is_understood(service: Service) -> None:
    service.hold(TEE.collateral)
    places = Places(f"{service.url}/sgx/certification/v4/", None)
    assert CollateralSource(places).verify(EVIDENCE, TEE.anchor, now=NOW).measurement == TEE.enclave.measurement


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_recorded_certificates_of_chips_are_asked_for_as_amd_names_them(folder: Path, service: Service) -> None:
    case = own(folder)
    recorded = case.read()
    assert isinstance(recorded, AmdCollateral)
    platform = platform_of_report(parse_snp_report(case.evidence))
    assert str(platform_of_certificates(recorded)) == str(platform)
    if not platform.chip_id:
        with pytest.raises(CollateralAbsentError, match="VLEK"):
            fetch_amd_collateral(platform, service.url, get)
        assert not service.asked
        return
    service.hold(replace(recorded, crl=b"a list"))  # AMD's own is not among the recordings
    found = fetch_amd_collateral(platform, service.url, get)
    assert (found.leaf, found.issuer_chain, found.crl) == (recorded.leaf, recorded.issuer_chain, b"a list")


def test_an_snp_report_is_verified_with_what_the_service_answers(service: Service, tmp_path: Path) -> None:
    chip = shared_chip()
    service.hold(chip.collateral)
    source = source_of(service, tmp_path)
    claims = source.verify(snp_report(), chip.anchor, now=NOW)
    assert all(one.made for one in claims.checks if one.number.startswith("A"))
    assert len(service.asked) == 3
    source.verify(snp_report(), chip.anchor, now=NOW)
    assert len(service.asked) == 3


def test_a_masked_chip_and_an_empty_list_are_refused(service: Service) -> None:
    service.hold(replace(shared_chip().collateral, crl=b""))
    with pytest.raises(CollateralAbsentError, match="empty revocation list"):
        source_of(service).verify(snp_report(), shared_chip().anchor, now=NOW)
    masked = replace(platform_of_certificates(shared_chip().collateral), chip_id=bytes(64))
    with pytest.raises(CollateralAbsentError, match="masked"):
        fetch_amd_collateral(masked, service.url, get)


# ---- faults


def trickle(service: Service) -> None:
    service.drip = 0.05


def silent(service: Service) -> None:
    service.headers_at = 600.0


FAULTS: dict[str, Callable[[Service], None]] = {
    "500": lambda service: setattr(service, "status", 500),
    "no such platform": lambda service: service.hold(),
    "cut": lambda service: setattr(service, "cut", 7),
    "trickling": trickle,
    "silent": silent,
    "too large": lambda service: setattr(service, "edit", lambda path, body: body + bytes(2 << 20)),
    "not JSON": lambda service: setattr(service, "edit", lambda path, body: b"<html>log in</html>"),
    "no chains": lambda service: setattr(
        service, "pages", {path: (body, {}) for path, (body, _) in service.pages.items()}
    ),
    "no lists": lambda service: setattr(service, "edit", lambda path, body: b"none" if "crl" in path else body),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_with_a_fault_is_no_collateral_and_what_is_kept_goes_on(
    fault: str, service: Service, tmp_path: Path
) -> None:
    def quick(url: str) -> Answer:
        return get(url, deadline=0.5)

    service.hold(TEE.collateral)
    FAULTS[fault](service)
    with pytest.raises(CollateralAbsentError):
        source_of(service, tmp_path / "empty", get=quick).verify(EVIDENCE, TEE.anchor, now=NOW)
    # With collateral at hand that is old enough to be fetched anew, the same fault costs a note.
    Cache(tmp_path).store(platform_of(TEE.collateral), keep(TEE.collateral, fetched=NOW - timedelta(days=2)))
    notes: list[str] = []
    claims = source_of(service, tmp_path, get=quick, note=notes.append).verify(EVIDENCE, TEE.anchor, now=NOW)
    assert claims.measurement == TEE.enclave.measurement
    assert len(notes) == 1
    assert "good until" in notes[0]


def test_t09_forged_collateral_of_a_service_is_refused_and_not_kept(service: Service, tmp_path: Path) -> None:
    service.hold(TEE.collateral)
    service.edit = lambda path, body: body.replace(b'"pcesvn":', b'"pcesvn": ') if "tcb?" in path else body
    source = source_of(service, tmp_path)
    with pytest.raises(CollateralError):
        source.verify(EVIDENCE, TEE.anchor, now=NOW)
    assert not list(tmp_path.glob("*.json"))
    service.edit = lambda path, body: body
    with pytest.raises(CollateralError):
        source.verify(EVIDENCE, TEE.anchor, now=NOW)
    assert len(service.asked) == 4
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW + timedelta(minutes=1)).measurement == TEE.enclave.measurement


def test_t09_collateral_for_another_platform_than_was_asked_for_is_refused(service: Service) -> None:
    service.hold(TEE.collateral)
    other = b'"fmspc":"00906ED50000"'
    service.edit = lambda path, body: body.replace(b'"fmspc":"53494D534758"', other) if "tcb?" in path else body
    with pytest.raises(CollateralAbsentError, match="answered for"):
        source_of(service).verify(EVIDENCE, TEE.anchor, now=NOW)


def test_t09_an_older_judgement_is_refused_even_while_it_is_in_force(service: Service, tmp_path: Path) -> None:
    service.hold(judged(19))
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(judged(18))
    # Another process, whose cache was emptied of everything but what was seen.
    for file in tmp_path.glob("simulated*.json"), tmp_path.glob("sgx-*.json"):
        for one in file:
            one.unlink()
    with pytest.raises(CollateralRollbackError, match=r"18 .* 19 was already seen"):
        source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW + timedelta(hours=1))
    service.hold(judged(20))
    assert source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW).tcb_evaluation_number == 20
    assert Cache(tmp_path).load_newest()["sgx-qe-identity"] == 20


def test_t09_an_older_bundle_gives_way_to_what_was_seen(service: Service, tmp_path: Path) -> None:
    service.hold(judged(19))
    source_of(service, tmp_path / "cache").verify(EVIDENCE, TEE.anchor, now=NOW - timedelta(minutes=30))
    (tmp_path / "bundle.json").write_bytes(render_bundle([keep(judged(18), fetched=NOW)]))
    both = Places(None, None, tmp_path / "bundle.json", tmp_path / "cache")
    with pytest.raises(CollateralRollbackError):
        CollateralSource(both).verify(EVIDENCE, TEE.anchor, now=NOW)
    online = Places(service.url, None, tmp_path / "bundle.json", tmp_path / "cache")
    assert CollateralSource(online).verify(EVIDENCE, TEE.anchor, now=NOW).tcb_evaluation_number == 19


def test_t09_a_forged_number_is_not_remembered(service: Service, tmp_path: Path) -> None:
    service.hold(TEE.collateral)
    service.edit = lambda path, body: body.replace(b'"tcbEvaluationDataNumber":', b'"tcbEvaluationDataNumber":9')
    with pytest.raises(CollateralError):
        source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW)
    assert not Cache(tmp_path).load_newest()


def test_the_same_quote_is_not_judged_by_an_earlier_year_again(shared_vectors: Path, tmp_path: Path) -> None:
    older, newer = (real(SHARED / "tdx" / f"v4-phala-{name}") for name in ("uptodate-2025", "outofdate-2026"))
    with pccs(newer.read()) as service:
        assert (
            source_of(service, tmp_path).verify(newer.evidence, newer.anchor, now=newer.now).tcb_status == "OutOfDate"
        )
        service.hold(older.read())
        with pytest.raises(CollateralRollbackError):
            source_of(service, tmp_path).verify(older.evidence, older.anchor, now=older.now)


def test_t67_evidence_of_another_root_asks_nobody(service: Service) -> None:
    stranger = FakeTee(platform=other_platform())
    service.hold(stranger.collateral)
    for anchor in (TEE.anchor, INTEL):
        with pytest.raises(UntrustedRootError):
            source_of(service).verify(stranger.issue_evidence(bytes(64)), anchor, now=NOW)
    assert not service.asked


def test_a_service_is_asked_at_most_sixty_times_a_minute(service: Service) -> None:
    source = source_of(service, get=refuse)
    report = bytearray(snp_report())
    for index in range(60):
        report[0x1A0] = index
        with pytest.raises(CollateralAbsentError, match="nobody"):
            source.verify(bytes(report), AMD, now=NOW)
    report[0x1A0] = 60
    with pytest.raises(CollateralAbsentError, match="60 times"):
        source.verify(bytes(report), AMD, now=NOW)
    with pytest.raises(CollateralAbsentError, match="nobody"):
        source.verify(bytes(report), AMD, now=NOW + timedelta(minutes=2))


def flood(source: CollateralSource, count: int, *, now: datetime = NOW) -> None:
    """Made-up reports of ever new chips, from somebody without any."""
    report = bytearray(snp_report())
    for index in range(count):
        report[0x1A0] = index
        with pytest.raises(CollateralAbsentError):
            source.verify(bytes(report), AMD, now=now)


@pytest.mark.parametrize("restarted", [False, True])
def test_t48_made_up_reports_cost_platforms_that_passed_before_no_fetch(
    restarted: bool, service: Service, tmp_path: Path
) -> None:
    late = NOW + timedelta(days=40)
    service.hold(forge_collateral(TEE.platform))
    source = source_of(service, tmp_path)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    service.hold(forge_collateral(TEE.platform, begin=late - timedelta(days=1), end=late + timedelta(days=30)))
    if restarted:
        source = source_of(service, tmp_path)
    flood(source, 61, now=late)
    assert source.verify(EVIDENCE, TEE.anchor, now=late).expires == late + timedelta(days=30)


def test_t48_made_up_reports_push_out_no_platform_that_passed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacit.evidence.fetch.source._MAX_PLATFORMS", 8)
    service.hold(TEE.collateral)
    source = source_of(service)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    asked = len([one for one in service.asked if "tcb" in one])
    assert asked
    flood(source, 20)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    assert len([one for one in service.asked if "tcb" in one]) == asked


def refuse(url: str) -> Answer:
    raise CollateralAbsentError(f"nobody answers at {url}")


def test_a_failed_question_is_not_repeated_at_once(service: Service) -> None:
    asked: list[str] = []

    def count(url: str) -> Answer:
        asked.append(url)
        return refuse(url)

    source = source_of(service, get=count)
    for _ in range(5):
        with pytest.raises(CollateralAbsentError, match="nobody"):
            source.verify(EVIDENCE, TEE.anchor, now=NOW)
    assert len(asked) == 1
    with pytest.raises(CollateralAbsentError):
        source.verify(EVIDENCE, TEE.anchor, now=NOW + timedelta(seconds=31))
    assert len(asked) == 2


def test_a_failure_that_is_told_again_keeps_nothing_of_who_asked(service: Service) -> None:
    source = source_of(service, get=refuse)
    told: list[CollateralAbsentError] = []
    for _ in range(3):
        with pytest.raises(CollateralAbsentError, match="nobody") as caught:
            source.verify(EVIDENCE, TEE.anchor, now=NOW)
        told.append(caught.value)
    assert len({id(one) for one in told}) == 3
    assert len({str(one) for one in told}) == 1
    [slot] = source._strange.values()
    assert slot.failed is not None
    assert slot.failed.__traceback__ is slot.failed.__context__ is slot.failed.__cause__ is None


def test_many_callers_fetch_once(service: Service) -> None:
    service.hold(TEE.collateral)
    service.headers_at = 0.1
    source, measured = source_of(service), []
    threads = [
        Thread(target=lambda: measured.append(source.verify(EVIDENCE, TEE.anchor, now=NOW).measurement))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert measured == [TEE.enclave.measurement] * 8
    assert len(service.asked) == 4


@pytest.mark.parametrize(
    "address", ["", "pccs:8081", "file:///etc/passwd", "http://user@host", "https://host/?a=b", "http://"]
)
def test_what_is_no_address_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(CollateralAbsentError, match="no address"):
        CollateralSource(Places(address, None))


def test_nobody_at_the_address_is_said_so() -> None:
    with pytest.raises(CollateralAbsentError, match="127.0.0.1:1"):
        CollateralSource(Places("http://127.0.0.1:1", None)).verify(EVIDENCE, TEE.anchor, now=NOW)


def test_a_redirect_and_a_proxy_are_not_followed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    service.hold(TEE.collateral)
    source_of(service).verify(EVIDENCE, TEE.anchor, now=NOW)
    service.status = 302
    with pytest.raises(CollateralAbsentError, match="status 302"):
        source_of(service).verify(EVIDENCE, TEE.anchor, now=NOW)


# ---- kept


def test_what_is_kept_is_not_asked_for_again_even_by_the_next_process(service: Service, tmp_path: Path) -> None:
    service.hold(TEE.collateral)
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW)
    asked = len(service.asked)
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW + timedelta(hours=1))
    CollateralSource(Places(None, None, None, tmp_path)).verify(EVIDENCE, TEE.anchor, now=NOW + timedelta(hours=2))
    assert len(service.asked) == asked


def test_collateral_is_refreshed_before_it_ends_while_callers_are_served(service: Service, tmp_path: Path) -> None:
    old = forge_collateral(TEE.platform, end=NOW + timedelta(days=2))
    new = forge_collateral(TEE.platform, end=NOW + timedelta(days=30))
    service.hold(old)
    waiting: list[Callable[[], None]] = []
    source = source_of(service, tmp_path, start=waiting.append)
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW).expires == NOW + timedelta(days=2)
    service.hold(new)
    soon = NOW + timedelta(minutes=1)
    assert source.verify(EVIDENCE, TEE.anchor, now=soon).expires == NOW + timedelta(days=2)
    source.verify(EVIDENCE, TEE.anchor, now=soon)
    assert len(waiting) == 1  # one works at it
    waiting[0]()
    assert source.verify(EVIDENCE, TEE.anchor, now=soon).expires == NOW + timedelta(days=30)
    assert Cache(tmp_path).load(platform_of(new)) == keep(new, fetched=soon)


def test_collateral_is_refreshed_in_a_thread_of_its_own(service: Service, tmp_path: Path) -> None:
    service.hold(TEE.collateral)
    Cache(tmp_path).store(platform_of(TEE.collateral), keep(TEE.collateral, fetched=NOW - timedelta(days=2)))
    source = source_of(service, tmp_path, start=lambda work: Thread(target=work).start())
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    wait_until(
        lambda: (found := Cache(tmp_path).load(platform_of(TEE.collateral))) is not None and found.fetched == NOW
    )


def test_ended_collateral_is_fetched_anew_and_never_used(service: Service, tmp_path: Path) -> None:
    late = NOW + timedelta(days=40)
    service.hold(forge_collateral(TEE.platform))
    source = source_of(service, tmp_path)
    source.verify(EVIDENCE, TEE.anchor, now=NOW)
    with pytest.raises(CollateralTimeError):
        source.verify(EVIDENCE, TEE.anchor, now=late)
    service.hold(forge_collateral(TEE.platform, begin=late - timedelta(days=1), end=late + timedelta(days=30)))
    assert source.verify(EVIDENCE, TEE.anchor, now=late + timedelta(minutes=1)).expires == late + timedelta(days=30)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"fetched":"x","collateral":{}}', b"\xff" * 9])
def test_a_damaged_cache_is_as_good_as_none(content: bytes, service: Service, tmp_path: Path) -> None:
    service.hold(TEE.collateral)
    (tmp_path / f"{platform_of(TEE.collateral)}.json").write_bytes(content)
    (tmp_path / "newest.json").write_bytes(content)
    source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW)
    assert len(service.asked) == 4
    assert Cache(tmp_path).load(platform_of(TEE.collateral)) is not None


def test_a_cache_that_cannot_be_written_costs_a_note(service: Service, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    service.hold(TEE.collateral)
    notes: list[str] = []
    source_of(service, tmp_path / "cache", note=notes.append).verify(EVIDENCE, TEE.anchor, now=NOW)
    assert notes
    assert "cannot be kept" in notes[0]


def test_t09_a_forged_file_of_the_cache_is_replaced(service: Service, tmp_path: Path) -> None:
    good = TEE.collateral
    service.hold(good)
    for forged in (
        replace(good, tcb_info=good.tcb_info.replace("UpToDate", "Whatever")),
        replace(good, tcb_info_issuer_chain=other_platform().collateral.tcb_info_issuer_chain),
        replace(good, root_ca_crl=other_platform().collateral.root_ca_crl),
    ):
        Cache(tmp_path).store(platform_of(good), keep(forged, fetched=NOW))
        assert source_of(service, tmp_path).verify(EVIDENCE, TEE.anchor, now=NOW).tcb_status == "UpToDate"
        assert Cache(tmp_path).load(platform_of(good)) == keep(good, fetched=NOW)


# ---- bundles


def test_a_pipe_is_no_bundle_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CollateralAbsentError, match="it is no regular file; name a file"):
        CollateralSource(Places(None, None, tmp_path / "pipe", None))


def test_a_bundle_is_all_that_is_needed(tmp_path: Path) -> None:
    cases = [own(folder) for folder in (*QUOTES, *REPORTS)]
    source = offline(*(case.read() for case in cases), folder=tmp_path)
    for case in sorted(cases, key=lambda case: case.now):
        assert source.verify(case.evidence, case.anchor, now=case.now).verified_at == case.now


def test_a_file_with_one_platforms_collateral_is_a_bundle_too(tmp_path: Path) -> None:
    case = own(QUOTES[0])
    file = tmp_path / "collateral.json"
    file.write_bytes(case.collateral)
    CollateralSource(Places(None, None, file, None)).verify(case.evidence, case.anchor, now=case.now)


def test_offline_without_the_platforms_collateral_says_what_to_do(tmp_path: Path) -> None:
    case = own(QUOTES[0])
    with pytest.raises(CollateralAbsentError, match="evidence bundle"):
        offline(own(QUOTES[1]).read(), folder=tmp_path).verify(case.evidence, case.anchor, now=case.now)


def test_t09_an_ended_bundle_is_refused_by_its_date(tmp_path: Path) -> None:
    with pytest.raises(CollateralTimeError):
        offline(forge_collateral(TEE.platform), folder=tmp_path).verify(
            EVIDENCE, TEE.anchor, now=NOW + timedelta(days=90)
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"version":1}', b'{"version":2,"entries":[]}', b'{"version":1,"entries":[3]}', b'{"leaf":1}',
     b'{"version":1,"entries":{},"more":1}', b'{"version":1,"entries":[{"fetched":"now","collateral":{}}]}'],
)  # fmt: skip
def test_what_is_no_bundle_is_refused(content: bytes) -> None:
    with pytest.raises(CollateralError):
        parse_bundle(content)


def test_a_bundle_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CollateralAbsentError, match="No such file"):
        CollateralSource(Places(None, None, tmp_path / "bundle.json", None))


def test_a_bundle_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    source = offline(judged(18), folder=tmp_path)
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW).tcb_evaluation_number == 18
    (tmp_path / "newer.json").write_bytes(render_bundle([keep(judged(19), fetched=NOW)]))
    (tmp_path / "newer.json").replace(tmp_path / "bundle.json")
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW).tcb_evaluation_number == 19


def test_a_bundle_that_was_damaged_is_refused_until_it_is_mended(tmp_path: Path) -> None:
    source = offline(judged(18), folder=tmp_path)
    good = (tmp_path / "bundle.json").read_bytes()
    (tmp_path / "bundle.json").write_bytes(b"{}")
    for _ in range(2):
        with pytest.raises(CollateralError):
            source.verify(EVIDENCE, TEE.anchor, now=NOW)
    (tmp_path / "bundle.json").write_bytes(good)
    assert source.verify(EVIDENCE, TEE.anchor, now=NOW).tcb_evaluation_number == 18


def test_collateral_that_says_it_is_from_the_future_is_refreshed_and_gives_way(
    service: Service, tmp_path: Path
) -> None:
    now = NOW + timedelta(days=2)
    file = tmp_path / "bundle.json"
    file.write_bytes(render_bundle([keep(judged(18), fetched=now + timedelta(days=365))]))
    service.hold(judged(19))
    source = CollateralSource(Places(service.url, None, file, None))
    assert source.verify(EVIDENCE, TEE.anchor, now=now).tcb_evaluation_number == 18
    assert service.asked
    assert source.verify(EVIDENCE, TEE.anchor, now=now).tcb_evaluation_number == 19


def test_a_bundle_reads_back_as_it_was_written() -> None:
    entries = tuple(
        keep(own(folder).read(), fetched=datetime(2026, 1, 2, 3, 4, 5, tzinfo=NOW.tzinfo)) for folder in QUOTES
    )
    assert parse_bundle(render_bundle(entries)) == entries
    assert json.loads(render_bundle(entries))["version"] == 1


def test_a_binding_is_checked_with_it(service: Service) -> None:
    service.hold(TEE.collateral)
    with pytest.raises(BindingError):
        source_of(service).verify(EVIDENCE, TEE.anchor, now=NOW, binding=Binding(None, b"key", b"nonce"))
