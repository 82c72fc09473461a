"""`tacit-premain` as it is started, with `tacit-coordinator` as it is started: attested, waited for, and refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.programs import CoordinatorProcess, make_platform_folder
from tacit.evidence.issue import load_package_info

pytestmark = pytest.mark.slow

PREMAIN = Path(sys.executable).parent / "tacit-premain"
SCRIPT = "echo $TACIT_TEE $A; cat $TACIT_KEY_DIR/* 2>/dev/null | wc -c; env | cut -d= -f1"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_platform_folder(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def coordinator(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    with CoordinatorProcess(tmp_path_factory.mktemp("coordinator"), platform=platform) as running:
        yield running


def values(platform: Path, program: str) -> dict[str, object]:
    info = load_package_info(platform, program=program)
    return {"TEE": "simulated", "UniqueID": info.unique_id.hex()}


def manifest(platform: Path) -> bytes:
    parameters = {"Argv": ["sh", "-c", SCRIPT], "Env": {"A": "manifest"}}
    marble = {"Package": "server", "AllowedNames": ["localhost"], "Parameters": parameters}
    return json.dumps({"Packages": {"server": values(platform, "marble")}, "Marbles": {"tf-server": marble}}).encode()


def environment(folder: Path, coordinator: CoordinatorProcess, platform: Path, **more: str) -> dict[str, str]:
    (folder / "coordinator.json").write_text(json.dumps(values(platform, "coordinator")))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TACIT_PLATFORM": str(platform),
        "EDG_MARBLE_TYPE": "tf-server",
        "EDG_MARBLE_COORDINATOR_ADDR": coordinator.mesh,
        "TACIT_COORDINATOR_API": coordinator.client.replace("127.0.0.1", "localhost"),
        "TACIT_COORDINATOR_PACKAGE": "coordinator.json",
        "TACIT_ACTIVATION_TIMEOUT": "100",
        **more,
    }


def run_premain(
    folder: Path, coordinator: CoordinatorProcess, platform: Path, **more: str
) -> "subprocess.CompletedProcess[str]":
    env = environment(folder, coordinator, platform, **more)
    return subprocess.run([PREMAIN], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_coordinator_is_waited_for_attested_and_obeyed(
    coordinator: CoordinatorProcess, platform: Path, tmp_path: Path
) -> None:
    env, pipe = environment(tmp_path, coordinator, platform), subprocess.PIPE
    said = []
    with subprocess.Popen([PREMAIN], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True) as running:
        assert running.stdout
        assert running.stderr
        for line in running.stderr:
            said.append(line.strip().split(" ", 3)[-1])
            if "trying again" in line:
                with coordinator.http() as api:
                    api.post("/manifest", content=manifest(platform)).raise_for_status()
        first, *rest = running.stdout.read().splitlines()
    assert running.returncode == 0
    assert len([line for line in said if "trying again" in line]) == 1
    assert [line for line in said if "is the pinned one, SIMULATED, with state" in line]
    assert "activated as tf-server, SIMULATED" in said
    assert first == "simulated manifest"
    assert not [name for name in rest if name.startswith("TACIT_COORDINATOR") or name == "TACIT_PLATFORM"]
    again = run_premain(tmp_path, coordinator, platform)
    assert again.returncode == 0, again.stderr
    assert "trying again" not in again.stderr


@pytest.mark.slow
def test_t31_a_coordinator_on_an_older_copy_of_its_state_is_refused_by_premain(platform: Path, tmp_path: Path) -> None:
    place, marble = tmp_path / "coordinator", tmp_path / "marble"
    place.mkdir()
    marble.mkdir()
    counted = json.loads(manifest(platform))
    counted["Marbles"]["tf-server"]["MaxActivations"] = 100  # so that each activation is a record of the state
    with CoordinatorProcess(place, platform=platform) as running, running.http() as api:
        api.post("/manifest", content=json.dumps(counted).encode()).raise_for_status()
        old = {file.name: file.read_bytes() for file in running.seal_folder.iterdir() if file.is_file()}
        for _ in range(2):  # the second start sees what the first has changed
            assert run_premain(marble, running, platform).returncode == 0
        address = running.client
        running.kill()
        before = running.log_file.read_text()
    for name, content in old.items():
        (running.seal_folder / name).write_bytes(content)
    environ = {"EDG_COORDINATOR_CLIENT_ADDR": address}
    with CoordinatorProcess(place, platform=platform, environ=environ) as restored:
        done = run_premain(marble, restored, platform)
        assert "marble activated" in before
        assert "activat" not in restored.log_file.read_text()
    assert done.returncode == 1
    assert "runs on an older copy of its state" in done.stderr.splitlines()[-1]
    assert not done.stdout


def test_t07_an_unattested_coordinator_is_refused_by_a_premain_that_pinned_one(platform: Path, tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path) as running:
        done = run_premain(tmp_path, running, platform)
    assert done.returncode == 1
    assert "shows no evidence" in done.stderr.splitlines()[-1]
    assert "activat" not in running.log_file.read_text()


def test_another_version_of_the_coordinator_is_refused(
    coordinator: CoordinatorProcess, platform: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"TEE": "simulated", "UniqueID": "ab" * 32}))
    done = run_premain(tmp_path, coordinator, platform, TACIT_COORDINATOR_PACKAGE="other.json")
    assert done.returncode == 1
    assert "another program, or one of its files or libraries was changed" in done.stderr.splitlines()[-1]


def test_a_marble_of_another_platform_gets_nothing(coordinator: CoordinatorProcess, tmp_path: Path) -> None:
    other = make_platform_folder(tmp_path / "other")
    done = run_premain(tmp_path, coordinator, other)
    assert done.returncode == 1
    assert "ends at another root" in done.stderr.splitlines()[-1]
