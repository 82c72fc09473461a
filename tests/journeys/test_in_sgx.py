"""The demo's whole way with every program in SGX: only the hardware is missing, and its maker is a test's.

Coordinator and premain find Gramine's `/dev/attestation` (a fake of it, with its rules), make quotes of the real kind and
layout, seal by the CPU's keys, and believe quotes by a pinned root and collateral in a file. Nothing is SIMULATED, so
nothing that is may take part.
"""

import json
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tacit
from fakes import enclave, models
from fakes.makers import load_maker
from fakes.programs import make_platform_folder
from fakes.stage import Stage, installed, through
from tacit.evidence.issue import load_package_info

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(600)]

LAUNCHER = Path(enclave.__file__)
ROWS = np.ones((2, 4), np.float32)


def package(program: str) -> dict[str, Any]:
    """As a manifest without a TEE has it: SGX."""
    return {"UniqueID": enclave.enclave_of(program).measurement.hex()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder, keys = tmp_path_factory.mktemp("sgx"), tmp_path_factory.mktemp("maker")
    file = load_maker(keys).store_collateral(folder / "collateral.json", now=datetime.now(UTC))
    environ = {"TACIT_COLLATERAL_BUNDLE": str(file), "TEST_KEYS": str(keys)}
    with Stage(folder, "sgx", package, through(LAUNCHER, keys), environ, collateral=str(file)) as made:
        made.prepare()
        made.start_server().wait_for('"ready"')
        yield made


@pytest.fixture
def own_platform(tmp_path: Path) -> Path:
    return make_platform_folder(tmp_path / "platform")


def test_a_client_predicts_with_a_model_that_only_the_enclave_opened(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_maker(Path(stage.env["TEST_KEYS"])).pin(monkeypatch)
    with tacit.connect(stage.host, config=stage.folder / ".config" / "tacit") as session:
        assert (session.tee, session.simulated, session.manifest_pinned) == ("sgx", False, True)
        answer = session.model("m", address=f"localhost:{stage.port}").predict(ROWS)
    np.testing.assert_allclose(answer, ROWS @ models.WEIGHTS, rtol=1e-5)


def test_nothing_in_the_whole_run_is_called_simulated(stage: Stage) -> None:
    for program in stage.running[:2]:
        assert "SIMULATED" not in program.said
        assert "UNATTESTED" not in program.said
    assert '"tee":"sgx"' in stage.running[0].said
    assert "activated as server, SGX" in stage.running[1].said
    status = stage.try_to("status", stage.host)
    assert status.stdout.startswith("3: ")
    assert "nothing protects it" not in status.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Gramine runs on x86-64 alone")
def test_coordinator_and_server_ran_without_the_calls_that_gramine_does_not_have(stage: Stage) -> None:
    for program in stage.running[:2]:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE), "fakes/gramine_calls.py has its filter there"


def test_the_command_starts_from_an_empty_environment(stage: Stage) -> None:
    environ = Path(f"/proc/{stage.running[1].process.pid}/environ")
    names = {entry.partition(b"=")[0] for entry in environ.read_bytes().split(b"\0") if entry}
    assert b"TACIT_TEE" in names
    assert not names & {
        b"TACIT_COLLATERAL_BUNDLE",
        b"EDG_MARBLE_TYPE",
        b"LANG",
        b"TEST_KEYS",
        b"TACIT_COORDINATOR_PACKAGE",
    }


def test_the_state_is_sealed_by_the_cpu_and_opens_after_a_restart(stage: Stage) -> None:
    stage.running[0].end()
    again = stage.start_coordinator()
    assert "recovery" not in again.said
    assert (stage.folder / "seal" / "sealed_key").read_bytes().startswith(b"TACIT\x00SK\x01")
    assert stage.types("status", stage.host).startswith("3: ")
    stage.running[0] = again


def refused(said: str) -> str:
    found = re.findall(r"Error: (.*)", said)
    assert found, said
    return str(found[-1])


def test_t07_a_client_that_pins_intel_s_own_root_does_not_believe_it(stage: Stage) -> None:
    done = stage.try_to("status", stage.host, run=installed)
    assert done.returncode == 1
    assert "Intel" in done.stderr


def test_t07_a_simulated_marble_gets_nothing_in_sgx(stage: Stage, own_platform: Path, tmp_path: Path) -> None:
    info = load_package_info(own_platform, program="coordinator")
    (tmp_path / "c.json").write_text(json.dumps({"TEE": "simulated", "UniqueID": info.unique_id.hex()}))
    marble = stage.start_server(
        run=installed,
        TACIT_PLATFORM=str(own_platform),
        TACIT_COORDINATOR_PACKAGE="",
        TACIT_COORDINATOR_API="",
        EDG_MARBLE_UUID_FILE=str(tmp_path / "uuid"),
    )
    marble.process.wait(60)
    assert "this evidence is SIMULATED: it is never accepted where SGX is asked for" in refused(marble.said)


def test_t07_a_marble_without_evidence_gets_nothing_in_sgx(stage: Stage, tmp_path: Path) -> None:
    marble = stage.start_server(
        run=installed,
        TACIT_UNATTESTED="1",
        TACIT_COORDINATOR_PACKAGE="",
        TACIT_COORDINATOR_API="",
        EDG_MARBLE_UUID_FILE=str(tmp_path / "uuid"),
    )
    marble.process.wait(60)
    assert "invalid quote" in refused(marble.said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TACIT_COORDINATOR_PACKAGE": "", "TACIT_COORDINATOR_API": ""}, "obeys no coordinator that it cannot check"),
        ({"TACIT_UNATTESTED": "1"}, "TACIT_UNATTESTED asks it to go simulated or unattested"),
        ({"TACIT_SIMULATE": "simulated-tdx"}, "TACIT_SIMULATE asks it to go simulated or unattested"),
        ({"TACIT_PLATFORM": "/tmp"}, "TACIT_PLATFORM asks it to go simulated or unattested"),
    ],
)
def test_t59_premain_in_sgx_refuses_what_its_host_could_have_set(
    stage: Stage, changes: dict[str, str], said: str
) -> None:
    premain = stage.start_server(**changes)
    assert premain.process.wait(60) == 1
    assert said in refused(premain.said)


def test_t59_premain_in_sgx_takes_no_simulated_coordinator(stage: Stage) -> None:
    (stage.folder / "simulated.json").write_text(json.dumps({"TEE": "simulated", "UniqueID": "c0" * 32}))
    premain = stage.start_server(TACIT_COORDINATOR_PACKAGE="simulated.json")
    assert premain.process.wait(60) == 1
    assert "simulated" in refused(premain.said)


@pytest.mark.parametrize("asks", [("--unattested", {}), ("", {"OE_SIMULATION": "1"}), ("", {"TACIT_PLATFORM": "/tmp"})])
def test_t07_a_coordinator_in_sgx_starts_in_no_weaker_mode(stage: Stage, asks: tuple[str, dict[str, str]]) -> None:
    flag, changes = asks
    program = stage.start("coordinator", *filter(None, [flag]), EDG_COORDINATOR_SEAL_DIR="other", **changes)
    assert program.process.wait(60) == 2
    assert "runs in a real TEE (sgx)" in program.said
    assert not (stage.folder / "other").exists()
