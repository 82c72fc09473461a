"""Real kinds of TEE at activation and for sealing: as on hardware, with a test's maker in Intel's and AMD's place."""

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from fakes.core import UUID, encode, make_order
from fakes.machine import FakeGramine, FakeMachine, FakeSnpDevice, FakeTsm
from fakes.makers import Maker, pin_amd, shared_amd_chip, shared_maker
from fakes.tee import NOW, FakeTee
from fakes.tee_kinds import DOMAIN
from tacit.coordinator.activate import Order, Verifier
from tacit.coordinator.core import Coordinator, Settings, World
from tacit.coordinator.log import open_log
from tacit.coordinator.sealed.keys import NOT_KEPT
from tacit.coordinator.state import State
from tacit.coordinator.store import KEY_NAME, MemoryStore, SealedFolder
from tacit.errors import (
    ActivationError,
    BindingError,
    CollateralAbsentError,
    EvidenceError,
    MeasurementError,
    SealingKeyError,
    TcbStatusError,
    TeeError,
    UntrustedRootError,
    WrongTeeError,
)
from tacit.evidence import Role, Tee, report_data
from tacit.evidence.claims import Issuer
from tacit.evidence.fetch import CollateralSource, Places
from tacit.evidence.fetch.http import Answer
from tacit.evidence.issue import load_tee
from tacit.evidence.simulated import snp
from tacit.evidence.simulated.quote import Enclave, issue_quote
from tacit.evidence.simulated.tdx import issue_td_quote
from tacit.programs.tee.anchors import make_judge, make_verifier

ENCLAVE = Enclave(b"\x11" * 32, b"\x22" * 32, 2, 1)
GUEST = b"\x51" * 48
PACKAGES: dict[Tee, dict[str, Any]] = {
    Tee.SGX: {"UniqueID": ENCLAVE.measurement.hex()},  # no TEE means SGX, as in MarbleRun's manifests
    Tee.TDX: {"TEE": "tdx", "Measurements": {"MRTD": DOMAIN.mr_td.hex()}},
    Tee.SNP: {"TEE": "snp", "Measurements": {"MEASUREMENT": GUEST.hex()}, "MinimumTCB": {"snp": 24}},
}
REAL = list(PACKAGES)


def quote(data: bytes) -> bytes:
    return issue_quote(ENCLAVE, data, keys=shared_maker().quoting_keys)


def td_quote(data: bytes) -> bytes:
    return issue_td_quote(DOMAIN, data, keys=shared_maker().quoting_keys)


def report(data: bytes) -> bytes:
    return snp.issue_report(snp.Guest(GUEST), data, chip=shared_amd_chip())


MACHINES: dict[Tee, Callable[[], FakeMachine]] = {
    Tee.SGX: lambda: FakeGramine(quote),
    Tee.TDX: lambda: FakeTsm("tdx_guest", td_quote),
    Tee.SNP: lambda: FakeSnpDevice(report),
}


def issuer_of(tee: Tee, machine: FakeMachine | None = None) -> Issuer:
    return load_tee(machine or MACHINES[tee](), lambda: "tacit-1", tee=tee)


@pytest.fixture(autouse=True)
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = shared_maker()
    made.pin(monkeypatch)
    pin_amd(shared_amd_chip(), monkeypatch)
    return made


@pytest.fixture
def verifiers(maker: Maker, tmp_path: Path) -> dict[Tee, Verifier]:
    """What a coordinator in a real TEE has: no platform, and a file with collateral."""
    made = {}
    for tee in REAL:
        file = maker.store_collateral(tmp_path / f"{tee}.json", now=NOW, tee=tee)
        made[tee] = make_verifier(None, CollateralSource(Places(None, None, file, None)), clock=lambda: NOW)
    return made


def make(
    tee: Tee,
    verify: Verifier,
    store: Any = None,
    *,
    issuer: Issuer | None = None,
    said: StringIO | None = None,
    **more: Any,
) -> Coordinator:
    log = open_log(said or StringIO(), clock=lambda: NOW, debug=True, development=False)
    world = World(issuer or issuer_of(tee), verify, lambda: NOW, os.urandom, log)
    return Coordinator(store or MemoryStore(), Settings(("localhost",), str(tee), None), world, **more)


def manifest(tee: Tee, **config: Any) -> bytes:
    marble = {"Package": "p", "Parameters": {"Env": {"A": "b"}}}
    return encode({"Packages": {"p": PACKAGES[tee]}, "Marbles": {"m": marble}, **config})


def order(tee: Tee, *, role: Role = Role.MARBLE, evidence: bytes | None = None) -> Order:
    asked = make_order()
    if evidence is None:
        evidence = issuer_of(tee).issue_evidence(report_data(role=role, key=asked.certificate))
    return Order("m", UUID, asked.csr, evidence, asked.certificate)


@pytest.mark.parametrize("tee", REAL)
def test_evidence_of_each_real_kind_opens_a_release(tee: Tee, verifiers: dict[Tee, Verifier]) -> None:
    core = make(tee, verifiers[tee])
    core.set_manifest(manifest(tee))
    assert core.activate(order(tee)).env["A"] == b"b"
    assert core.status().tee == str(tee)
    assert core.quote(b"n").evidence is not None


def refusal(core: Coordinator, asked: Order) -> BaseException | None:
    with pytest.raises(ActivationError, match="invalid quote") as refused:
        core.activate(asked)
    return refused.value.__cause__


@pytest.mark.parametrize("tee", REAL)
def test_t07_simulated_evidence_opens_nothing_where_a_real_kind_is_asked_for(
    tee: Tee, verifiers: dict[Tee, Verifier]
) -> None:
    core = make(tee, verifiers[tee])
    core.set_manifest(manifest(tee))
    asked = make_order(tee=FakeTee())
    assert isinstance(refusal(core, asked), UntrustedRootError)


@pytest.mark.parametrize("tee", REAL)
def test_t07_a_coordinator_in_a_real_tee_takes_no_simulated_marble_even_if_a_manifest_names_one(
    tee: Tee, verifiers: dict[Tee, Verifier]
) -> None:
    core = make(tee, verifiers[tee])
    fake = FakeTee()
    package = {"TEE": "simulated", "UniqueID": fake.package_info.unique_id.hex()}
    core.set_manifest(encode({"Packages": {"p": package}, "Marbles": {"m": {"Package": "p"}}}))
    assert isinstance(refusal(core, make_order(tee=fake)), UntrustedRootError)


@pytest.mark.parametrize("tee", REAL)
def test_t07_real_evidence_opens_nothing_where_a_simulated_kind_is_asked_for(
    tee: Tee, verifiers: dict[Tee, Verifier]
) -> None:
    simulated = next(one for one in Tee if one.is_simulated and one.layout is tee)
    core = make(tee, verifiers[tee])
    package = {**PACKAGES[tee], "TEE": str(simulated)}
    core.set_manifest(encode({"Packages": {"p": package}, "Marbles": {"m": {"Package": "p"}}}))
    assert isinstance(refusal(core, order(tee)), WrongTeeError)


@pytest.mark.parametrize("package", [Tee.SGX, Tee.TDX, Tee.SIMULATED, Tee.SIMULATED_SNP])
def test_t48_nobody_is_asked_about_a_report_of_a_kind_that_the_package_does_not_name(package: Tee) -> None:
    asked: list[str] = []

    def get(url: str) -> Answer:
        asked.append(url)
        raise CollateralAbsentError("nobody answers")

    source = CollateralSource(Places("http://localhost:1", "http://localhost:1"), get=get)
    verify = make_verifier(None, source, clock=lambda: NOW)
    with pytest.raises(WrongTeeError, match=f"the form of TEE snp; the package allows {package}"):
        verify(order(Tee.SNP).evidence, order(Tee.SNP).certificate, package)
    assert not asked
    with pytest.raises(CollateralAbsentError):
        verify(order(Tee.SNP).evidence, order(Tee.SNP).certificate, Tee.SNP)
    assert asked


def test_a_marble_that_proved_nothing_is_not_told_whom_the_coordinator_asks() -> None:
    def get(url: str) -> Answer:
        raise CollateralAbsentError(f"nobody answers at {url}")

    source = CollateralSource(Places("http://pccs.internal:8081", "http://kds.internal:8081"), get=get)
    said = StringIO()
    for tee in REAL:
        core = make(tee, make_verifier(None, source, clock=lambda: NOW), said=said)
        core.set_manifest(manifest(tee))
        with pytest.raises(ActivationError, match="no collateral for it at this time") as refused:
            core.activate(order(tee))
        assert "internal" not in str(refused.value)
    assert "pccs.internal:8081" in said.getvalue()
    assert "kds.internal:8081" in said.getvalue()


@pytest.mark.parametrize("tee", REAL)
def test_t03_a_coordinator_s_evidence_makes_no_marble(tee: Tee, verifiers: dict[Tee, Verifier]) -> None:
    core = make(tee, verifiers[tee])
    core.set_manifest(manifest(tee))
    assert isinstance(refusal(core, order(tee, role=Role.COORDINATOR)), BindingError)


@pytest.mark.parametrize("tee", REAL)
def test_t01_evidence_of_another_connection_makes_no_marble(tee: Tee, verifiers: dict[Tee, Verifier]) -> None:
    core = make(tee, verifiers[tee])
    core.set_manifest(manifest(tee))
    assert isinstance(refusal(core, order(tee, evidence=order(tee).evidence)), BindingError)


@pytest.mark.parametrize("tee", REAL)
def test_another_program_of_the_right_kind_gets_nothing(tee: Tee, verifiers: dict[Tee, Verifier]) -> None:
    core = make(tee, verifiers[tee])
    other = {"UniqueID": "77" * 32} if tee is Tee.SGX else {
        **PACKAGES[tee], "Measurements": {next(iter(PACKAGES[tee]["Measurements"])): "77" * 48}
    }  # fmt: skip
    core.set_manifest(encode({"Packages": {"p": other}, "Marbles": {"m": {"Package": "p"}}}))
    assert isinstance(refusal(core, order(tee)), MeasurementError)


def test_snp_without_a_lowest_tcb_gets_nothing_for_nobody_rates_it(verifiers: dict[Tee, Verifier]) -> None:
    core = make(Tee.SNP, verifiers[Tee.SNP])
    package = {"TEE": "snp", "Measurements": {"MEASUREMENT": GUEST.hex()}}
    core.set_manifest(encode({"Packages": {"p": package}, "Marbles": {"m": {"Package": "p"}}}))
    assert isinstance(refusal(core, order(Tee.SNP)), TcbStatusError)


@pytest.mark.parametrize("tee", REAL)
def test_t09_without_a_place_for_collateral_real_evidence_gets_nothing(tee: Tee) -> None:
    core = make(tee, make_verifier(None, None, clock=lambda: NOW))
    core.set_manifest(manifest(tee))
    assert isinstance(refusal(core, order(tee)), CollateralAbsentError)


@pytest.mark.parametrize("tee", REAL)
def test_a_signed_quote_of_a_real_kind_is_judged_by_its_maker(tee: Tee, maker: Maker, tmp_path: Path) -> None:
    source = CollateralSource(Places(None, None, maker.store_collateral(tmp_path / "c.json", now=NOW, tee=tee), None))
    judge = make_judge(None, source, clock=lambda: NOW)
    assert judge is not None
    assert judge(issuer_of(tee).issue_evidence(bytes(64))).tee is tee
    with pytest.raises(EvidenceError):
        judge(FakeTee().issue_evidence(bytes(64)))


@pytest.mark.parametrize("tee", REAL)
def test_a_tee_that_gives_no_evidence_is_told_and_the_coordinator_goes_on(
    tee: Tee, verifiers: dict[Tee, Verifier]
) -> None:
    machine = MACHINES[tee]()
    issuer = issuer_of(tee, machine)
    core = make(tee, verifiers[tee], issuer=issuer)
    machine.faults = dict.fromkeys(
        (Path("/dev/attestation/quote"), Path("/sys/kernel/config/tsm/report/tacit-1/outblob"), Path("/dev/sev-guest")),
        5,
    )
    with pytest.raises(TeeError, match="Input/output error"):
        core.quote(b"n")
    machine.faults = {}
    assert core.quote(b"n").evidence is not None


# ---- sealing


def reopen(folder: Path, issuer: Issuer) -> bool:
    """Whether a state in this folder opens again in this TEE, without anybody's help."""
    again = SealedFolder(folder, issuer)
    try:
        return again.load() is not None
    except SealingKeyError:
        return False
    finally:
        again.close()


@pytest.mark.parametrize(("mode", "mark"), [("ProductKey", b"\1"), ("UniqueKey", b"\2"), ("", b"\1")])
def test_in_gramine_the_state_is_sealed_by_the_cpu_s_keys(
    mode: str, mark: bytes, tmp_path: Path, verifiers: dict[Tee, Verifier]
) -> None:
    store = SealedFolder(tmp_path, issuer_of(Tee.SGX))
    config = {"Config": {"SealMode": mode}} if mode else {}
    make(Tee.SGX, verifiers[Tee.SGX], store).set_manifest(manifest(Tee.SGX, **config))
    store.close()
    stored = (tmp_path / KEY_NAME).read_bytes()
    assert stored.startswith(b"TACIT\0SK" + mark)
    assert reopen(tmp_path, issuer_of(Tee.SGX))
    newer = issuer_of(Tee.SGX, FakeGramine(quote, measurement=b"\x99" * 32))
    assert reopen(tmp_path, newer) is (mode != "UniqueKey"), "another version of this signer's program"
    assert not reopen(tmp_path, issuer_of(Tee.SGX, FakeGramine(quote, seal=b"another CPU")))
    assert not reopen(tmp_path, FakeTee())


def test_t31_a_key_that_the_host_put_beside_the_state_opens_nothing_in_an_enclave(
    tmp_path: Path, verifiers: dict[Tee, Verifier]
) -> None:
    store = SealedFolder(tmp_path, issuer_of(Tee.SGX))
    make(Tee.SGX, verifiers[Tee.SGX], store).set_manifest(manifest(Tee.SGX))
    store.close()
    for planted in (bytes(32), NOT_KEPT, b""):
        (tmp_path / KEY_NAME).write_bytes(planted)
        assert not reopen(tmp_path, issuer_of(Tee.SGX))


def test_an_snp_guest_s_state_is_sealed_by_its_chip(tmp_path: Path, verifiers: dict[Tee, Verifier]) -> None:
    store = SealedFolder(tmp_path, issuer_of(Tee.SNP))
    make(Tee.SNP, verifiers[Tee.SNP], store).set_manifest(manifest(Tee.SNP))
    store.close()
    assert reopen(tmp_path, issuer_of(Tee.SNP))
    assert not reopen(tmp_path, issuer_of(Tee.SNP, FakeSnpDevice(report, seal=b"another chip")))


def test_a_trust_domain_keeps_no_key_and_its_state_opens_with_a_recovery_key(
    tmp_path: Path, verifiers: dict[Tee, Verifier]
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    store = SealedFolder(tmp_path, issuer_of(Tee.TDX))
    handed = make(Tee.TDX, verifiers[Tee.TDX], store).set_manifest(manifest(Tee.TDX, RecoveryKeys={"owner": pem}))
    store.close()
    assert (tmp_path / KEY_NAME).read_bytes() == NOT_KEPT
    again = SealedFolder(tmp_path, issuer_of(Tee.TDX))
    with pytest.raises(SealingKeyError, match="tdx has no key for sealing.*recovery keys"):
        again.load()
    core = make(Tee.TDX, verifiers[Tee.TDX], again, recovery=True)
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
    secret = key.decrypt(handed["owner"], oaep)
    wrapped = load_der_public_key(core.recovery_key())
    assert isinstance(wrapped, rsa.RSAPublicKey)
    assert core.recover(wrapped.encrypt(secret, oaep), key.sign(secret, padding.PKCS1v15(), SHA256())) == 0
    assert core.status().state is State.ACCEPTING_MARBLES
    assert core.activate(order(Tee.TDX)).env["A"] == b"b"
    again.close()
    assert (tmp_path / KEY_NAME).read_bytes() == NOT_KEPT
