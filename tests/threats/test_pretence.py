"""In a real TEE no variable and no flag brings simulated or unattested evidence; found is what is there, not what is said."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.machine import DATA, KIND, FakeGramine, FakeMachine, failure
from fakes.makers import shared_maker
from fakes.tee import NOW
from tacit.errors import TacitError, TeeError, UsageError
from tacit.evidence import Tee
from tacit.evidence.issue.gramine import GramineEnclave
from tacit.evidence.simulated.quote import Enclave, issue_quote
from tacit.programs import premain
from tacit.programs.coordinator import read_config
from tacit.programs.model_server.attest import load_issuer
from tacit.programs.tee import surroundings
from tacit.programs.tee.surroundings import find_real_tee, load_real_tee, refuse_pretence, simulated_kind
from threats.test_switches import FOREIGN, OWN

REAL = (Tee.SGX, Tee.TDX, Tee.SNP)
ASKS = {
    # Everything that asks for less than the TEE there is.
    ("TACIT_UNATTESTED", "1"),
    ("OE_SIMULATION", "1"),
    *(
        (name, value)
        for name in ("TACIT_SIMULATE", "TACIT_SIMULATE_MACHINE")
        for value in ("1", "unattested", "simulated", "simulated-tdx", "sgx")
    ),
    *(("TACIT_PLATFORM", value) for value in ("1", "unattested", "simulated", "simulated-tdx", "sgx")),
}
VALUES = ("1", "unattested", "simulated", "simulated-tdx", "sgx")


class DeviceOnly(FakeMachine):
    """A guest whose kernel has one device and nothing else."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = Path(device)

    def there(self) -> set[Path]:
        return {self.device}


def gramine() -> FakeGramine:
    enclave = Enclave(b"\x11" * 32, b"\x22" * 32, 2, 1)
    return FakeGramine(lambda data: issue_quote(enclave, data, keys=shared_maker().quoting_keys))


MACHINES: dict[Tee, Callable[[], FakeMachine]] = {
    Tee.SGX: gramine,
    Tee.TDX: lambda: DeviceOnly("/dev/tdx_guest"),
    Tee.SNP: lambda: DeviceOnly("/dev/sev-guest"),
}


@pytest.fixture(params=REAL)
def tee(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tee:
    """A machine with this TEE, where the programs look for one."""
    monkeypatch.setattr(surroundings, "KERNEL", MACHINES[request.param]())
    found: Tee = request.param
    return found


def test_a_plain_machine_has_no_tee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "KERNEL", FakeMachine())
    assert find_real_tee() is None


def test_a_tee_is_found_by_what_is_there(tee: Tee) -> None:
    assert find_real_tee() is tee
    if tee is not Tee.SGX:
        assert load_real_tee(tee).tee is tee


def test_gramine_without_sgx_is_no_tee(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = DeviceOnly("/dev/attestation/keys")
    monkeypatch.setattr(surroundings, "KERNEL", direct)
    assert find_real_tee() is None


def test_t07_an_enclave_that_makes_no_quotes_does_not_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = gramine()
    machine.kind = "none"
    monkeypatch.setattr(surroundings, "KERNEL", machine)
    assert find_real_tee() is Tee.SGX
    with pytest.raises(TeeError, match="makes no quotes"):
        load_real_tee(Tee.SGX)


def test_t68_every_variable_that_asks_for_less_ends_a_program_in_a_real_tee(tee: Tee) -> None:
    refused = set()
    for name in (*OWN, *FOREIGN):
        for value in VALUES:
            try:
                refuse_pretence(tee, {name: value})
            except UsageError as exc:
                refused.add((name, value) if name in str(exc) else (str(exc), ""))
    assert refused == ASKS


def test_t68_no_variable_makes_a_coordinator_in_a_real_tee_less(tee: Tee) -> None:
    for name in (*OWN, *FOREIGN):
        for value in VALUES:
            try:
                config = read_config([], {"HOME": "/nowhere", name: value}, tee=tee)
            except TacitError:
                continue
            assert (config.tee, config.unattested, config.platform) == (tee, False, None)
    with pytest.raises(UsageError, match=rf"real TEE \({tee}\), and --unattested"):
        read_config(["--unattested"], {}, tee=tee)


@pytest.mark.parametrize(
    "flag", ["--insecure", "--no-verify", "--debug", "-i", "--un", "--simulated", "--tee=simulated"]
)
def test_t68_no_flag_makes_a_coordinator_in_a_real_tee_less(tee: Tee, flag: str) -> None:
    with pytest.raises((TacitError, SystemExit)):
        read_config([flag], {"HOME": "/nowhere"}, tee=tee)


def test_t68_no_variable_gives_premain_in_a_real_tee_another_issuer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(surroundings, "KERNEL", gramine())
    ended = set()
    for name in (*OWN, *FOREIGN):
        for value in VALUES:
            with monkeypatch.context() as patch:
                for own in OWN:
                    patch.delenv(own, raising=False)
                patch.setenv("HOME", str(tmp_path))
                patch.setenv(name, value)
                try:
                    issuer = premain.load_issuer()
                except UsageError:
                    ended.add((name, value))
                    continue
            assert isinstance(issuer, GramineEnclave)
    assert ended == ASKS


def test_t07_a_server_in_a_real_tee_shows_that_tee_s_evidence_alone(tee: Tee) -> None:
    for said in (one for one in Tee if one is not tee):
        with pytest.raises(UsageError, match=rf"real TEE \({tee}\), and TACIT_TEE says {said}"):
            load_issuer({"TACIT_TEE": str(said), "HOME": "/nowhere"}, now=NOW)
    if tee is not Tee.SGX:
        assert load_issuer({"TACIT_TEE": str(tee)}, now=NOW).tee is tee


def test_t07_what_may_not_be_looked_at_counts_as_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tacit.evidence.issue.kernel import LINUX

    closed = tmp_path / "closed"
    closed.mkdir()
    assert not LINUX.exists(closed / "attestation_type")
    assert LINUX.exists(closed)

    def refuse(self: Path, **_: object) -> os.stat_result:
        raise failure(errno.EACCES, self)

    monkeypatch.setattr(Path, "stat", refuse)
    assert LINUX.exists(closed / "attestation_type")


def test_a_machine_without_a_tee_takes_the_kind_of_simulation_that_is_named() -> None:
    assert simulated_kind({}) is Tee.SIMULATED
    for kind in (one for one in Tee if one.is_simulated):
        assert simulated_kind({"TACIT_SIMULATE": str(kind)}) is kind
    for wrong in ("sgx", "tdx", "1", "SIMULATED", "unattested"):
        with pytest.raises(UsageError, match="expected one of simulated, simulated-tdx, simulated-snp"):
            simulated_kind({"TACIT_SIMULATE": wrong})


def test_t04_the_coordinator_s_and_premain_s_evidence_is_over_what_they_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = gramine()
    monkeypatch.setattr(surroundings, "KERNEL", machine)
    load_real_tee(Tee.SGX).issue_evidence(bytes(range(64)))
    assert machine.report_data == bytes(range(64))
    assert machine.calls[0] == ("read", str(KIND))
    assert machine.calls[1] == ("write", str(DATA))
