"""A client that pins who signs manifests, and not one manifest: what they signed will do, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee
from tacit.client.connect import MANIFEST_LABEL, AttestedCoordinator, attest_coordinator, verify_pinned
from tacit.client.coordinator import fingerprint
from tacit.client.trust import Expectation, TrustStore
from tacit.errors import InputError, NotTrustedError, PeerError, PinMismatchError, PkiError
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.detached import sign_detached

NONCE = bytes(range(32))
OFFICER = issue_self_signed(["officer"], common_name="officer", now=NOW)
STRANGER = issue_self_signed(["stranger"], common_name="stranger", now=NOW)


@pytest.fixture
def signatures(tmp_path: Path) -> Path:
    folder = tmp_path / "signatures"
    folder.mkdir()
    return folder


@pytest.fixture
def signed(trust: TrustStore, coordinator: FakeCoordinator, expectation: Expectation, signatures: Path) -> TrustStore:
    """A store that trusts the officer for manifests, and none of them by itself."""
    wanted = replace(expectation, signers=(OFFICER.public_der,), signatures=str(signatures))
    trust.store_expectation(coordinator.host, wanted)
    return trust


def sign(signatures: Path, manifest: bytes, *signers: KeyPair) -> None:
    lines = [sign_detached(MANIFEST_LABEL, manifest, one.key) for one in signers]
    (signatures / f"{fingerprint(manifest).hex()}.sig").write_bytes(b"".join(lines))


def attest(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> AttestedCoordinator:
    return attest_coordinator(coordinator.host, trust, now=NOW, nonce=NONCE, platform=platform, timeout=60)


def test_a_manifest_that_a_trusted_signer_signed_is_taken(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    sign(signatures, coordinator.manifest, STRANGER, OFFICER)
    found = attest(coordinator, signed, platform)
    verify_pinned(found)
    assert found.manifest is not None
    assert (found.manifest.raw, found.signer) == (coordinator.manifest, OFFICER.public_der)


def test_a_file_may_hold_the_signatures(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path, expectation: Expectation
) -> None:
    file = signatures / "manifest.sig"
    wanted = replace(expectation, signers=(OFFICER.public_der,), signatures=str(file))
    signed.store_expectation(coordinator.host, wanted)
    file.write_bytes(sign_detached(MANIFEST_LABEL, coordinator.manifest, OFFICER.key))
    assert attest(coordinator, signed, platform).signer == OFFICER.public_der


def test_t15_a_manifest_that_no_trusted_signer_signed_is_refused(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    sign(signatures, coordinator.manifest, STRANGER)
    with pytest.raises(PinMismatchError, match=r"no trusted signer stands .*tacit manifest sign"):
        attest(coordinator, signed, platform)


def test_t15_an_update_that_is_not_signed_is_refused_and_taken_once_it_is(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    sign(signatures, coordinator.manifest, OFFICER)
    attest(coordinator, signed, platform)
    coordinator.manifest = b'{"Packages": {"more": {}}}'
    with pytest.raises(PinMismatchError, match="no trusted signer stands"):
        attest(coordinator, signed, platform)
    sign(signatures, coordinator.manifest, OFFICER)
    assert attest(coordinator, signed, platform).signer == OFFICER.public_der


def test_t15_a_signature_of_one_manifest_is_none_for_another_and_of_another_label_is_none(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    place = signatures / f"{fingerprint(coordinator.manifest).hex()}.sig"
    for label, text in ((MANIFEST_LABEL, b"{}"), ("tacit capsule v1", coordinator.manifest)):
        place.write_bytes(sign_detached(label, text, OFFICER.key))
        with pytest.raises(PinMismatchError, match="no trusted signer stands"):
            attest(coordinator, signed, platform)


def test_t13_a_file_that_holds_no_signatures_is_refused(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    place = signatures / f"{fingerprint(coordinator.manifest).hex()}.sig"
    for content in (b"", b"no base64!", b"AAAA\n" * 100_000):
        place.write_bytes(content)
        with pytest.raises(PinMismatchError, match="no trusted signer stands"):
            attest(coordinator, signed, platform)


def test_a_signed_manifest_that_the_root_did_not_sign_is_refused(
    coordinator: FakeCoordinator,
    signed: TrustStore,
    platform: Path,
    signatures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign(signatures, coordinator.manifest, OFFICER)
    forged = coordinator._get_manifest(True, {}, b"") | {"manifestSignatureRootECDSA": "MAYCAQECAQE="}
    monkeypatch.setattr(coordinator, "_get_manifest", lambda *_: forged)
    with pytest.raises(PeerError, match="not signed by its root key"):
        attest(coordinator, signed, platform)


def test_t15_a_pinned_manifest_holds_alone_whoever_signs_another(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path, signatures: Path
) -> None:
    signed.pin_manifest(coordinator.host, bytes(32))
    sign(signatures, coordinator.manifest, OFFICER)
    with pytest.raises(PinMismatchError, match="another manifest than the pinned one"):
        attest(coordinator, signed, platform)


def test_a_coordinator_without_a_manifest_is_not_pinned_by_its_signers(
    coordinator: FakeCoordinator, signed: TrustStore, platform: Path
) -> None:
    coordinator.code = 2
    assert attest(coordinator, signed, platform).manifest is None


def test_signers_without_a_place_for_signatures_are_no_expectation(
    trust: TrustStore, coordinator: FakeCoordinator, expectation: Expectation
) -> None:
    with pytest.raises(InputError, match="where their signatures lie"):
        trust.store_expectation(coordinator.host, replace(expectation, signers=(OFFICER.public_der,)))


def test_signers_come_back_as_they_were_stored(signed: TrustStore, coordinator: FakeCoordinator) -> None:
    found = signed.load_expectation(coordinator.host)
    assert found.signers == (OFFICER.public_der,)
    assert found.signatures is not None


@pytest.fixture
def now_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.client.session.python._now", lambda: NOW)


def connect(coordinator: FakeCoordinator, trust: TrustStore, platform: Path, **named: object) -> tacit.Session:
    return tacit.connect(coordinator.host, config=trust.path.parent, platform=platform, timeout=60, **named)  # type: ignore[arg-type]  # named is of several types


@pytest.mark.usefixtures("now_is_fixed")
def test_connect_takes_signers_in_the_call(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, signatures: Path, tmp_path: Path, tee: FakeTee
) -> None:
    file = tmp_path / "officer.pem"
    file.write_bytes(OFFICER.certificate_pem)
    with pytest.raises(NotTrustedError, match="no manifest is pinned"):
        connect(coordinator, trust, platform)
    with pytest.raises(PinMismatchError, match="no trusted signer stands"):
        connect(coordinator, trust, platform, signers=[file], signatures=signatures)
    sign(signatures, coordinator.manifest, OFFICER)
    package = {"UniqueID": tee.package_info.unique_id.hex(), "TEE": "simulated"}
    for more in ({}, {"package": package}):
        with connect(coordinator, trust, platform, signers=[file], signatures=signatures, **more) as session:
            assert session.manifest_pinned
            assert session.coordinator.signer == OFFICER.public_der


def test_connect_refuses_signers_that_would_say_nothing(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, signatures: Path
) -> None:
    pem = OFFICER.certificate_pem
    for named, reason in (
        ({"signers": [pem]}, "give both"),
        ({"signatures": signatures}, "give both"),
        ({"signers": [pem], "signatures": signatures, "manifest": b"{}"}, "give one of them"),
        ({"signers": [pem], "signatures": signatures, "manifest": None}, "give one of them"),
    ):
        with pytest.raises(InputError, match=reason):
            connect(coordinator, trust, platform, **named)
    with pytest.raises(PkiError):
        connect(coordinator, trust, platform, signers=[b"no key"], signatures=signatures)
