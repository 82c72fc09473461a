import base64
import json
import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee, make_platform
from tacit.client.connect import AttestedCoordinator, attest_coordinator, fetch_unverified, load_simulated_expectation
from tacit.client.coordinator import fingerprint
from tacit.client.trust import UNATTESTED, Expectation, TrustStore
from tacit.errors import (
    BindingError,
    CollateralTimeError,
    DebugNotAllowedError,
    EvidenceError,
    EvidenceFormatError,
    InRecoveryError,
    LogError,
    MeasurementError,
    NotTrustedError,
    PeerError,
    PinMismatchError,
    PlatformError,
    RollbackError,
    SignerError,
    TacitError,
    TlsError,
    UnreachableError,
    UntrustedRootError,
    WrongTeeError,
)
from tacit.evidence import INTEL, Role, report_data
from tacit.manifest import Appraisal, Package, Unattested
from tacit.pki import issue_intermediate, issue_root, issue_self_signed
from tacit.wire.log import LOG_START, line_digest

NONCE = bytes(range(32))


def attest(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, *, nonce: bytes = NONCE, now: datetime = NOW
) -> AttestedCoordinator:
    return attest_coordinator(coordinator.host, trust, now=now, nonce=nonce, platform=platform, timeout=60)


def refuses(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, error: type[TacitError], match: str = "."
) -> None:
    before = trust.path.read_bytes()
    with pytest.raises(error, match=match):
        attest(coordinator, trust, platform)
    assert trust.path.read_bytes() == before, "a refused coordinator leaves no trace in what is trusted"


# ---- what is accepted


def test_the_expected_coordinator_is_attested(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    found = attest(coordinator, trust, platform)
    assert coordinator.intermediate is not None
    assert found.root_pem == coordinator.root.certificate_pem
    assert found.intermediate_pem == coordinator.intermediate.certificate_pem
    assert found.tee == "simulated"
    assert isinstance(found.appraisal, Appraisal)
    assert found.status.code == 3
    assert (found.epoch, found.head) == (1, b"\1" * 32)
    assert trust.load_expectation(coordinator.host).root_der == coordinator.root.certificate_der


def test_signer_product_and_version_are_enough(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, tee: FakeTee, expectation: Expectation
) -> None:
    package = Package(signer_id=tee.platform.signer_id, product_id=1, security_version=1, tee="simulated")
    trust.store_expectation(coordinator.host, replace(expectation, package=package))
    assert attest(coordinator, trust, platform).tee == "simulated"
    trust.store_expectation(coordinator.host, replace(expectation, package=replace(package, security_version=2)))
    refuses(coordinator, trust, platform, SignerError)


def test_the_pinned_manifest_comes_with_the_coordinator(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
    found = attest(coordinator, trust, platform)
    assert found.manifest is not None
    assert found.manifest.raw == coordinator.manifest


def test_a_coordinator_without_a_manifest_is_not_pinned_yet(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.code = 2
    attest(coordinator, trust, platform)
    assert trust.load_expectation(coordinator.host).root_der is None


def test_every_attestation_sends_its_nonce(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    attest(coordinator, trust, platform, nonce=b"\xff" * 32)
    method, path, _ = coordinator.requests[0]
    assert (method, path) == ("GET", "/api/v2/quote?nonce=" + "_" * 42 + "8%3D&channel=tls-exporter-v1")


# ---- evidence


def test_a_coordinator_that_nobody_trusts_is_not_asked(
    coordinator: FakeCoordinator, tmp_path: Path, platform: Path
) -> None:
    with pytest.raises(NotTrustedError, match="tacit trust"):
        attest(coordinator, TrustStore(tmp_path / "empty"), platform)
    assert coordinator.requests == []


def test_t01_replayed_evidence_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, tee: FakeTee
) -> None:
    data = report_data(role=Role.COORDINATOR, key=coordinator.root.certificate_der, nonce=NONCE)
    coordinator.evidence, coordinator.only_key_bound = tee.issue_evidence(data), True
    expected = replace(trust.load_expectation(coordinator.host), key_bound=True)
    trust.store_expectation(coordinator.host, expected)
    attest(coordinator, trust, platform, nonce=NONCE)
    with pytest.raises(BindingError):
        attest(coordinator, trust, platform, nonce=os.urandom(32))


def test_t01_evidence_of_a_marble_is_no_coordinator_s(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.role = Role.MARBLE
    refuses(coordinator, trust, platform, BindingError)


def test_t01_evidence_for_another_root_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, tee: FakeTee
) -> None:
    other = issue_root(("localhost",), now=NOW)
    coordinator.evidence = tee.issue_evidence(
        report_data(role=Role.COORDINATOR, key=other.certificate_der, nonce=NONCE)
    )
    refuses(coordinator, trust, platform, BindingError)


def test_t03_a_proxy_that_reflects_honest_evidence_is_refused(
    trust: TrustStore, platform: Path, tee: FakeTee, expectation: Expectation
) -> None:
    proxy = issue_self_signed(("localhost",), common_name="MarbleRun Coordinator", now=NOW)
    with FakeCoordinator(tee=tee, shown=proxy) as between:
        trust.store_expectation(between.host, expectation)
        refuses(between, trust, platform, TlsError, "something stands between")


def test_t06_an_old_api_without_a_nonce_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.only_v1 = True
    refuses(coordinator, trust, platform, EvidenceFormatError, "no nonce")


def test_t07_a_coordinator_without_evidence_is_refused_unless_asked_for(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.tee, coordinator.marked = None, "unattested"
    refuses(coordinator, trust, platform, WrongTeeError, "--tee unattested")


def test_t07_a_simulated_coordinator_is_refused_where_sgx_is_expected(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    package = Package(unique_id=b"\x11" * 32, tee="sgx")
    trust.store_expectation(coordinator.host, Expectation("sgx", package, INTEL))
    refuses(coordinator, trust, platform, EvidenceError)


@pytest.mark.parametrize("name", ["OE_SIMULATION", "TACIT_UNATTESTED", "TACIT_TEE", "SGX_MODE", "TACIT_INSECURE"])
def test_t07_no_variable_makes_a_client_accept_less(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    coordinator.tee, coordinator.marked = None, "unattested"
    for value in ("1", "true", "simulated", "unattested", "SW"):
        monkeypatch.setenv(name, value)
        refuses(coordinator, trust, platform, WrongTeeError)


def test_t07_honest_evidence_does_not_hide_unattested_mode(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.marked = "unattested"
    refuses(coordinator, trust, platform, WrongTeeError, "runs UNATTESTED")


def test_t07_a_coordinator_asked_for_as_unattested_says_so(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.tee, coordinator.marked = None, "unattested"
    trust.store_expectation(coordinator.host, Expectation(UNATTESTED))
    found = attest(coordinator, trust, platform)
    assert found.tee == UNATTESTED
    assert found.claims is None
    assert isinstance(found.appraisal, Unattested)


def test_evidence_of_another_platform_is_refused(
    trust: TrustStore, coordinator: FakeCoordinator, platform: Path
) -> None:
    coordinator.tee = FakeTee(platform=make_platform())
    refuses(coordinator, trust, platform, EvidenceError)


def test_a_platform_folder_of_another_root_cannot_vouch(
    trust: TrustStore, coordinator: FakeCoordinator, platform: Path, expectation: Expectation
) -> None:
    anchor = make_platform().anchor
    trust.store_expectation(coordinator.host, replace(expectation, anchor=anchor))
    refuses(coordinator, trust, platform, UntrustedRootError)


def test_another_program_is_refused(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    coordinator.tee = FakeTee(measurement=b"\x22" * 32)
    refuses(coordinator, trust, platform, MeasurementError)


def test_a_debug_enclave_is_refused(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    coordinator.tee = FakeTee(debug=True)
    refuses(coordinator, trust, platform, DebugNotAllowedError)


def test_evidence_is_refused_once_its_collateral_has_expired(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    with pytest.raises(CollateralTimeError):
        attest(coordinator, trust, platform, now=NOW + timedelta(days=4000))


@pytest.mark.parametrize("evidence", [b"x", b"\0" * 500, b"\1" * 5000])
def test_bytes_that_are_no_evidence_are_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, evidence: bytes
) -> None:
    coordinator.evidence = evidence
    refuses(coordinator, trust, platform, EvidenceError)


def test_without_the_platform_s_public_part_nothing_is_verified(
    coordinator: FakeCoordinator, trust: TrustStore, tmp_path: Path
) -> None:
    with pytest.raises(PlatformError, match="platform import"):
        attest(coordinator, trust, tmp_path / "none")


# ---- certificates, state, manifest


def test_an_intermediate_of_another_root_is_refused(
    trust: TrustStore, platform: Path, tee: FakeTee, expectation: Expectation
) -> None:
    other = issue_root(("localhost",), now=NOW)
    with FakeCoordinator(tee=tee, intermediate=issue_intermediate(other, ("localhost",), now=NOW)) as coordinator:
        trust.store_expectation(coordinator.host, expectation)
        refuses(coordinator, trust, platform, TlsError, "not signed by its root")


def test_t14_a_coordinator_set_up_anew_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, tee: FakeTee, expectation: Expectation
) -> None:
    attest(coordinator, trust, platform)
    with FakeCoordinator(tee=tee) as another:
        trust.store_expectation(another.host, replace(expectation, root_der=coordinator.root.certificate_der))
        refuses(another, trust, platform, PinMismatchError, "--forget")
        another.code = 1
        refuses(another, trust, platform, PinMismatchError, "recovery mode")


def test_a_coordinator_in_recovery_with_its_own_root_is_told_from_another_manifest(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    coordinator.code = 1
    refuses(coordinator, pinned, platform, InRecoveryError, "holds no manifest until it is recovered")


def test_t31_an_older_copy_of_the_state_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.epoch, coordinator.head = 7, b"\7" * 32
    attest(coordinator, trust, platform)
    coordinator.epoch, coordinator.head = 6, b"\6" * 32
    refuses(coordinator, trust, platform, RollbackError, "epoch 6, and epoch 7 was seen")


def test_t31_a_second_history_is_refused(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    attest(coordinator, trust, platform)
    coordinator.head = b"\2" * 32
    refuses(coordinator, trust, platform, RollbackError, "another history")


def test_t31_a_coordinator_that_lost_its_manifest_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.epoch = 5
    attest(coordinator, trust, platform)
    coordinator.code, coordinator.epoch = 2, 0
    refuses(coordinator, trust, platform, RollbackError)


def test_t31_an_epoch_that_the_root_did_not_sign_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = coordinator._sign_mark(1, b"\1" * 32)
    monkeypatch.setattr(coordinator, "_sign_mark", lambda epoch, head: signature)
    coordinator.epoch = 9
    refuses(coordinator, trust, platform, PeerError, "not signed by its root key")


LINES = [b'{"number":%d}' % number for number in range(1, 10)]


def test_t31_a_log_that_goes_on_from_the_one_that_was_seen_is_taken_and_remembered(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    for count in (3, 3, 4, 9):
        coordinator.log, coordinator.epoch = LINES[:count], coordinator.epoch + 1
        attest(coordinator, trust, platform)
        seen = trust.load_sighting(coordinator.root.certificate_der)
        assert seen is not None
        assert seen.log == LOG_START.after_lines(LINES[:count])
    asked = [path for _, path, _ in coordinator.requests if "digests" in path]
    assert asked == [f"/api/v2/log/digests?after={number}" for number in (3, 4, 6, 8)]


@pytest.mark.parametrize(
    ("log", "match"),
    [
        (LINES[:4], "a log of 4 entries"),
        ([*LINES[:4], b"forged"], "a log of 5 entries"),
        ([*LINES[:4], b"forged", b"more", b"and more"], "another history than the one that was seen"),
        (None, "no log"),
    ],
    ids=["shorter", "as long", "grown past it", "gone"],
)
def test_t31_t65_another_history_is_refused_however_long_it_has_grown(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, log: list[bytes] | None, match: str
) -> None:
    coordinator.log, coordinator.epoch = LINES[:5], 5
    attest(coordinator, trust, platform)
    coordinator.log, coordinator.epoch = log, 900
    refuses(coordinator, trust, platform, RollbackError, match)


@pytest.mark.parametrize("digests", [b"", bytes(31), bytes(32 * 20), b"".join(map(line_digest, LINES[6:9]))], ids=len)
def test_t31_digests_that_do_not_lead_there_are_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, digests: bytes
) -> None:
    coordinator.log = LINES[:5]
    attest(coordinator, trust, platform)
    coordinator.log, coordinator.epoch = LINES[:8], 9
    answer = {"after": 5, "digests": base64.b64encode(digests).decode(), "mark": coordinator_mark()}
    raw = json.dumps({"status": "success", "data": answer}).encode()
    coordinator.answers["GET", "/api/v2/log/digests"] = 200, raw
    refuses(coordinator, trust, platform, RollbackError)


def coordinator_mark() -> dict[str, object]:
    return {"entries": 0, "head": "", "epoch": 0, "stateHead": "", "signature": ""}


def test_t62_a_log_head_that_the_root_did_not_sign_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.log = LINES[:5]
    mark = coordinator._sign_mark(1, b"\1" * 32)
    monkeypatch.setattr(coordinator, "_sign", lambda message: mark)
    refuses(coordinator, trust, platform, LogError, "not signed")


def test_a_simulated_coordinator_names_its_epoch(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.marked = None
    refuses(coordinator, trust, platform, PeerError, "does not say where its state stands")


def test_t15_another_manifest_than_the_pinned_one_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
    coordinator.manifest = b'{"Packages": {"evil": {}}}'
    refuses(coordinator, trust, platform, PinMismatchError, "another manifest than the pinned one")


def test_a_manifest_that_the_root_did_not_sign_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
    forged = coordinator._get_manifest(True, {}, b"") | {"manifestSignatureRootECDSA": "MAYCAQECAQE="}
    monkeypatch.setattr(coordinator, "_get_manifest", lambda *_: forged)
    refuses(coordinator, trust, platform, PeerError, "not signed by its root key")


@pytest.mark.parametrize("chain", ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_cannot_be_read_are_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch, chain: str
) -> None:
    monkeypatch.setattr(coordinator, "_get_quote", lambda *_: {"cert": chain, "quote": None})
    refuses(coordinator, trust, platform, PeerError)


# ---- the rest of the door


def test_certificates_can_be_read_unverified(coordinator: FakeCoordinator) -> None:
    assert coordinator.intermediate is not None
    intermediate_pem, root_pem, evidence = fetch_unverified(coordinator.host)
    assert (intermediate_pem, root_pem) == (coordinator.intermediate.certificate_pem, coordinator.root.certificate_pem)
    assert evidence


def test_an_expectation_copies_the_platform_s_root(platform: Path, tee: FakeTee) -> None:
    package = Package(unique_id=b"\5" * 32, tee="simulated")
    found = load_simulated_expectation(platform, package=package, manifest_fingerprint=b"\6" * 32)
    assert found == Expectation("simulated", package, tee.anchor, b"\6" * 32)


def test_an_address_where_nobody_answers_is_named(expectation: Expectation, tmp_path: Path, platform: Path) -> None:
    store = TrustStore(tmp_path / "t")
    store.store_expectation("localhost:1", expectation)
    with pytest.raises(UnreachableError, match="nobody answers at localhost:1"):
        attest_coordinator("localhost:1", store, now=NOW, nonce=NONCE, platform=platform)
