"""Which coordinator premain obeys: each impostor is refused with its reason, and gets neither request nor evidence."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fakes.coordinator import FakeCoordinator
from fakes.mesh import mesh
from fakes.tee import NOW, FakeTee, other_platform
from tacit.errors import (
    BindingError,
    DebugNotAllowedError,
    EvidenceFormatError,
    FileInputError,
    InputError,
    MeasurementError,
    PeerError,
    PinMismatchError,
    PlatformError,
    RollbackError,
    TacitError,
    TlsError,
    UnreachableError,
    UntrustedRootError,
    UsageError,
    WrongTeeError,
)
from tacit.evidence import Role, Tee
from tacit.marble.activate import Settings, parse_settings
from tacit.marble.premain import Launch, prepare
from tacit.marble.recognise import KnownKey, Pinned, Unknown, load_recognition, require_recognition
from tacit.pki import issue_intermediate, issue_root
from tacit.programs.premain import load_coordinator_anchor
from tacit.wire.pb.marble_pb2 import ActivationRequest, Parameters

RUNS = ["sh", "-c", "true"]
API = {("GET", "/api/v2/quote"), ("GET", "/api/v2/status")}


waits = pytest.mark.usefixtures("clock")


@dataclass
class Stage:
    """A coordinator that can be bent, its mesh port, what reached that, and a premain that pinned its program."""

    api: FakeCoordinator
    mesh_port: int
    settings: Settings
    issuer: FakeTee
    asked: list[ActivationRequest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def start(self, **changes: object) -> Launch:
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        return prepare(
            settings,
            self.issuer,
            load_recognition(settings, load_coordinator_anchor),
            command=(),
            inherited={"PATH": os.environ["PATH"]},
            programs=self.settings.uuid_file.parent,
            now=NOW,
            randomness=os.urandom,
            say=self.said.append,
        )

    def refuses(self, error: type[TacitError], match: str, **changes: object) -> None:
        """Premain ends with its reason, and neither request nor evidence left it."""
        with pytest.raises(error, match=match):
            self.start(**changes)
        assert not self.asked
        assert {(method, path.partition("?")[0]) for method, path, _ in self.api.requests} <= API


def package_of(tee: FakeTee, **changes: object) -> str:
    info = tee.package_info
    return json.dumps({"TEE": "simulated", "UniqueID": info.unique_id.hex(), "ProductID": 1, **changes})


@pytest.fixture
def coordinator() -> FakeTee:
    return FakeTee(measurement=b"\xc0" * 32)


@contextmanager
def staged(
    folder: Path, memory: Path, *, api: FakeCoordinator, issuer: FakeTee, mesh_key: object = None
) -> Iterator[Stage]:
    asked: list[ActivationRequest] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        asked.append(request)
        return Parameters(argv=RUNS)

    with api, mesh(answer, intermediate=mesh_key or api.intermediate) as port:  # type: ignore[arg-type]
        settings = parse_settings(
            {
                "EDG_MARBLE_TYPE": "tf-server",
                "EDG_MARBLE_COORDINATOR_ADDR": f"localhost:{port}",
                "TACIT_COORDINATOR_API": api.host,
                "TACIT_COORDINATOR_PACKAGE": "coordinator.json",
                "TACIT_MEMORY_DIR": str(memory),
                "TACIT_ACTIVATION_TIMEOUT": "60",
            },
            folder,
        )
        yield Stage(api, port, settings, issuer, asked)


@pytest.fixture
def stage(folder: Path, memory: Path, platform: Path, coordinator: FakeTee, tee: FakeTee) -> Iterator[Stage]:
    (folder / "coordinator.json").write_text(package_of(coordinator))
    with staged(folder, memory, api=FakeCoordinator(tee=coordinator), issuer=tee) as ready:
        yield ready


# ---- the one that is pinned


def test_the_pinned_coordinator_is_attested_and_then_obeyed(stage: Stage) -> None:
    assert stage.start().argv == tuple(RUNS)
    assert len(stage.asked) == 1
    assert stage.asked[0].quote
    assert [line for line in stage.said if "is the pinned one, SIMULATED, with state 1" in line]
    assert not [line for line in stage.said if "warning" in line and "coordinator" in line]


def test_marbleruns_own_coordinator_is_obeyed_where_the_settings_name_it(stage: Stage) -> None:
    stage.api.only_key_bound, stage.api.role = True, None
    stage.refuses(BindingError, "does not bind its evidence to this connection")
    assert stage.start(key_bound=True).argv == tuple(RUNS)
    assert len(stage.asked) == 1


def test_t59_another_program_is_refused_by_a_key_bound_premain_too(stage: Stage) -> None:
    stage.api.only_key_bound, stage.api.role = True, None
    stage.api.tee = FakeTee(measurement=b"\xee" * 32)
    stage.refuses(MeasurementError, "not the one that TACIT_COORDINATOR_PACKAGE names", key_bound=True)


def test_t68_bound_to_a_key_alone_means_nothing_without_a_package(folder: Path) -> None:
    settings = parse_settings({"EDG_MARBLE_TYPE": "t", "TACIT_COORDINATOR_KEY_BOUND": "1"}, folder)
    with pytest.raises(UsageError, match="TACIT_COORDINATOR_KEY_BOUND is set, and nothing says"):
        load_recognition(settings, load_coordinator_anchor)


def test_every_start_asks_for_evidence_of_its_own_nonce(stage: Stage) -> None:
    stage.start()
    stage.start()
    nonces = [path for _, path, _ in stage.api.requests if "nonce=" in path]
    assert len(set(nonces)) == 2


def test_the_client_api_is_looked_for_where_the_mesh_port_is(stage: Stage) -> None:
    # Nothing of the tests may own the real port, so only the place that was looked at is compared.
    found = load_recognition(replace(stage.settings, coordinator_api=None), load_coordinator_anchor)
    assert isinstance(found, Pinned)
    assert found.api == "localhost:4433"


def test_a_newer_state_is_remembered_and_the_next_start_obeys_it(stage: Stage, folder: Path) -> None:
    stage.api.epoch, stage.api.head = 7, b"\7" * 32
    stage.start()
    stage.api.epoch, stage.api.head = 9, b"\x09" * 32
    stage.start()
    seen = json.loads((folder / "uuid.trust" / "trust.json").read_text())
    assert [one["epoch"] for one in seen["coordinators"].values()] == [9]
    assert len(stage.asked) == 2


# ---- impostors


def test_t59_another_coordinator_on_the_mesh_port_is_refused(stage: Stage, folder: Path, memory: Path) -> None:
    other = issue_intermediate(issue_root((), now=NOW), (), now=NOW)
    with staged(folder, memory, api=FakeCoordinator(tee=stage.api.tee), issuer=stage.issuer, mesh_key=other) as false:
        false.refuses(TlsError, "its key is not that of the expected certificate")


def test_t59_another_program_behind_the_client_api_is_refused(stage: Stage) -> None:
    stage.api.tee = FakeTee(measurement=b"\xee" * 32)
    stage.refuses(MeasurementError, r"TACIT_COORDINATOR_PACKAGE.*nothing was sent to it.*measurement is ee")


def test_t59_a_coordinator_of_another_platform_is_refused(stage: Stage) -> None:
    stage.api.tee = FakeTee(measurement=b"\xc0" * 32, platform=other_platform())
    stage.refuses(UntrustedRootError, "ends at another root")


def test_t59_a_coordinator_whose_host_can_read_it_is_refused(stage: Stage) -> None:
    stage.api.tee = FakeTee(measurement=b"\xc0" * 32, debug=True)
    stage.refuses(DebugNotAllowedError, "debug enclave")


def test_t59_an_intermediate_that_the_attested_root_did_not_sign_is_refused(
    stage: Stage, folder: Path, memory: Path
) -> None:
    own = issue_intermediate(issue_root(("localhost",), now=NOW), ("localhost",), now=NOW)
    with staged(
        folder, memory, api=FakeCoordinator(tee=stage.api.tee, intermediate=own), issuer=stage.issuer, mesh_key=own
    ) as swapped:
        swapped.refuses(TlsError, "intermediate certificate of .* is not signed by its root")


def test_t59_a_proxy_that_shows_honest_evidence_is_refused(stage: Stage, folder: Path, memory: Path) -> None:
    proxy = FakeCoordinator(tee=stage.api.tee, shown=issue_root(("localhost",), now=NOW))
    with staged(folder, memory, api=proxy, issuer=stage.issuer) as between:
        between.refuses(TlsError, "another certificate than the attested root")


def test_t01_evidence_that_premain_did_not_ask_for_is_refused(stage: Stage) -> None:
    from tacit.evidence import report_data

    assert stage.api.tee is not None
    old = report_data(role=Role.COORDINATOR, key=stage.api.root.certificate_der, nonce=bytes(32))
    stage.api.evidence = stage.api.tee.issue_evidence(old)
    stage.refuses(BindingError, "a replay")


def test_t03_a_marble_s_evidence_makes_no_coordinator(stage: Stage) -> None:
    stage.api.role = Role.MARBLE
    stage.refuses(BindingError, "role 'coordinator'")


def test_t06_a_client_api_without_a_nonce_is_refused(stage: Stage) -> None:
    stage.api.only_v1 = True
    with pytest.raises(EvidenceFormatError, match="only the API v1"):
        stage.start()
    assert not stage.asked


def test_t07_a_coordinator_without_evidence_is_not_the_pinned_one(stage: Stage) -> None:
    stage.api.tee = None
    stage.refuses(WrongTeeError, "shows no evidence")


def test_t07_honest_evidence_does_not_hide_unattested_mode_from_premain(stage: Stage) -> None:
    stage.api.marked = "unattested"
    stage.refuses(WrongTeeError, "runs UNATTESTED")


def test_t07_a_simulated_coordinator_is_refused_where_sgx_is_pinned(stage: Stage, folder: Path) -> None:
    (folder / "coordinator.json").write_text(json.dumps({"TEE": "sgx", "UniqueID": "c0" * 32}))
    stage.refuses(UntrustedRootError, "SIMULATED: it is never accepted where SGX is asked for")


def test_t31_an_older_state_than_premain_saw_is_refused(stage: Stage, folder: Path) -> None:
    stage.api.epoch, stage.api.head = 9, b"\x09" * 32
    stage.start()
    stage.asked.clear()
    stage.api.epoch, stage.api.head = 7, b"\7" * 32
    stage.refuses(RollbackError, r"shows epoch 7, and epoch 9 was seen before.*remove .*uuid.trust/trust.json")


def test_t31_a_second_history_is_refused_by_premain(stage: Stage) -> None:
    stage.start()
    stage.asked.clear()
    stage.api.head = b"\2" * 32
    stage.refuses(RollbackError, "another history")


def test_t31_an_epoch_that_the_root_did_not_sign_is_refused_by_premain(stage: Stage) -> None:
    root = stage.api.root
    stage.api._sign_mark = lambda epoch, head: "AAAA"  # type: ignore[method-assign]
    assert root
    stage.refuses(PeerError, "not signed by its root key")


def test_t14_a_coordinator_set_up_anew_is_refused_by_premain(stage: Stage, folder: Path, memory: Path) -> None:
    stage.start()
    anew = FakeCoordinator(tee=stage.api.tee)
    with staged(folder, memory, api=anew, issuer=stage.issuer) as second:
        # The same address with another root: what a host does that starts the same program with an empty folder.
        trust = folder / "uuid.trust" / "trust.json"
        trust.write_text(trust.read_text().replace(stage.api.host, anew.host))
        second.refuses(PinMismatchError, "another root certificate than before")


def test_what_to_expect_never_comes_from_the_file_of_what_was_seen(stage: Stage, folder: Path) -> None:
    recognition = load_recognition(stage.settings, load_coordinator_anchor)
    trust = folder / "uuid.trust" / "trust.json"
    told = json.loads(trust.read_text())
    told["hosts"][stage.api.host] = {"tee": "unattested"}
    trust.write_text(json.dumps(told))
    stage.api.tee = None
    with pytest.raises(WrongTeeError, match="shows no evidence"):
        prepare(
            stage.settings,
            stage.issuer,
            recognition,
            command=(),
            inherited={},
            programs=folder,
            now=NOW,
            randomness=os.urandom,
            say=stage.said.append,
        )
    assert not stage.asked


# ---- one that is not ready


@waits
def test_a_coordinator_without_a_manifest_is_waited_for_and_sent_nothing(stage: Stage) -> None:
    stage.api.code = 2
    stage.refuses(UnreachableError, r"cannot activate yet.*TACIT_ACTIVATION_TIMEOUT", patience=0.5)
    assert len([line for line in stage.said if "trying again" in line]) == 1


@waits
def test_a_pinned_coordinator_in_recovery_is_waited_for(stage: Stage, folder: Path, memory: Path) -> None:
    stage.start()
    meanwhile = FakeCoordinator(tee=stage.api.tee, code=1)
    with staged(folder, memory, api=meanwhile, issuer=stage.issuer) as recovering:
        trust = folder / "uuid.trust" / "trust.json"
        trust.write_text(trust.read_text().replace(stage.api.host, meanwhile.host))
        recovering.refuses(UnreachableError, r"in recovery mode", patience=0.5)


@waits
def test_a_client_api_that_is_not_there_is_waited_for_and_named(stage: Stage) -> None:
    with socket.socket() as held:  # by us, who do not listen: so nobody else does
        held.bind(("127.0.0.1", 0))
        there = f"localhost:{held.getsockname()[1]}"
        stage.refuses(UnreachableError, rf"{there}.*waited", patience=0.5, coordinator_api=there)


def test_a_coordinator_that_gets_ready_meanwhile_is_obeyed(stage: Stage) -> None:
    stage.api.code = 2

    class Heard(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            if "cannot activate yet" in line:
                stage.api.code = 3

    stage.said = Heard()
    stage.start()
    assert len(stage.asked) == 1


# ---- a real TEE


@pytest.mark.parametrize("known", [Unknown(), KnownKey(b"")], ids=["nothing", "a certificate"])
@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX, Tee.SNP])
def test_t59_in_a_real_tee_a_coordinator_has_to_be_pinned(tee: Tee, known: Unknown | KnownKey) -> None:
    with pytest.raises(UsageError, match=rf"real TEE \({tee}\).*TACIT_COORDINATOR_PACKAGE"):
        require_recognition(tee, known)
    for own in (None, *(tee for tee in Tee if tee.is_simulated)):
        require_recognition(own, known)


def test_t07_a_real_marble_never_obeys_a_simulated_coordinator(stage: Stage) -> None:
    pinned = load_recognition(stage.settings, load_coordinator_anchor)
    with pytest.raises(UsageError, match="anybody can make simulated evidence"):
        require_recognition(Tee.SGX, pinned)
    require_recognition(Tee.SIMULATED, pinned)


def test_t59_in_a_real_tee_premain_stops_before_anything_is_read_or_sent(stage: Stage, folder: Path) -> None:
    class Real:
        tee = Tee.SGX
        issue_evidence = derive_seal_key = None

    with pytest.raises(UsageError, match="obeys no coordinator that it cannot check"):
        prepare(
            stage.settings,
            Real(),  # type: ignore[arg-type]
            Unknown(),
            command=(),
            inherited={},
            programs=folder,
            now=NOW,
            randomness=os.urandom,
            say=stage.said.append,
        )
    assert not stage.asked
    assert not (folder / "uuid").exists()


# ---- wrong settings, one line each


def write(text: str | None) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.unlink()
        if text is not None:
            file.write_text(text)

    return change


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (None, FileInputError, "cannot read .*coordinator.json: No such file"),
        ("", FileInputError, "not JSON"),
        ("[]", FileInputError, "expected an object"),
        ('{"UniqueId": "aa"}', FileInputError, 'key "UniqueId" read as "UniqueID"; UniqueID: .*not 64'),
        ('{"TEE": "simulated"}', InputError, "needs a UniqueID, or SignerID"),
        ('{"TEE": "SIMULATED", "UniqueID": "%s"}' % ("c0" * 32), UsageError, "no kind of TEE; expected one of sgx"),
        ('{"TEE": "snp", "UniqueID": "%s"}' % ("c0" * 32), InputError, "needs MEASUREMENT among its Measurements"),
        ("{" + " " * (1 << 17) + "}", FileInputError, "more than 64 KiB"),
    ],
)
def test_a_package_that_cannot_be_used_is_one_line(
    stage: Stage, folder: Path, text: str | None, error: type[TacitError], match: str
) -> None:
    write(text)(folder / "coordinator.json")
    with pytest.raises(error, match=match) as refused:
        stage.start()
    assert "\n" not in str(refused.value)
    assert not stage.asked
    assert not stage.api.requests


def test_settings_that_contradict_each_other_are_refused(stage: Stage, folder: Path) -> None:
    stage.refuses(UsageError, "nothing says which program to expect there", coordinator_package=None)
    stage.refuses(UsageError, "both set", coordinator_certificate=folder / "c.pem")
    stage.refuses(InputError, "not an address", coordinator_api="https://localhost:1")


def test_a_memory_that_cannot_be_written_names_its_setting(stage: Stage, folder: Path) -> None:
    (folder / "file").write_text("")
    stage.refuses(FileInputError, "TACIT_TRUST_DIR", trust_folder=folder / "file")


def test_without_a_platform_there_is_no_root_to_verify_against(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("TACIT_PLATFORM", str(folder / "nowhere"))
    stage.refuses(PlatformError, "no simulated platform")
