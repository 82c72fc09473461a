"""The program on a disk that is really full, and its own commands for backups."""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpclib
import pytest

from fakes.core import UUID, encode
from fakes.officers import LOGGED, OWNER
from fakes.programs import CoordinatorProcess, activate
from tacit.coordinator.store import DATA_NAME, KEY_NAME

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).parent / "tacit-coordinator"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=False).returncode:
        pytest.skip("only root may mount a file system of a few megabytes here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def post(coordinator: CoordinatorProcess, path: str, body: Any, user: Any = None) -> int:
    with coordinator.http(user) as http:
        return int(http.post(path, json=body).status_code)


def set_manifest(coordinator: CoordinatorProcess) -> None:
    assert post(coordinator, "/api/v2/manifest", {"manifest": base64.b64encode(encode(LOGGED)).decode()}) == 200


def secret(coordinator: CoordinatorProcess, value: bytes) -> int:
    values = {"secrets": {"key": {"Key": base64.b64encode(value).decode()}}}
    return post(coordinator, "/api/v2/secrets", values, OWNER)


def read(coordinator: CoordinatorProcess) -> bytes:
    with coordinator.http(OWNER) as http:
        answer = http.get("/api/v2/secrets?s=key").json()
    return base64.b64decode(answer["data"]["secrets"]["key"]["Private"])


def log_size(coordinator: CoordinatorProcess) -> int:
    with coordinator.http() as http:
        return int(http.get("/api/v2/status").json()["data"]["tacit"]["log"]["entries"])


def release(coordinator: CoordinatorProcess, marble_type: str = "counted") -> bool:
    try:
        asyncio.run(activate(coordinator.mesh, marble_type, uuid=UUID))
    except grpclib.GRPCError as exc:
        if exc.status is not grpclib.Status.INTERNAL or "No space left on device" not in str(exc.message):
            raise
        return False
    return True


def fill_up(folder: Path) -> Path:
    """Take the last byte of a file system."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_on_a_full_disk_nothing_is_released_or_lost_and_it_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    environ = {"EDG_COORDINATOR_SEAL_DIR": str(small_disk / "seal")}
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        set_manifest(coordinator)
        assert secret(coordinator, b"1" * 32) == 200
        released = sum(release(coordinator) for _ in range(5))
        filler = fill_up(small_disk)
        # What is left of the last block is used up first.
        for _ in range(40):
            if not release(coordinator):
                break
            released += 1
        else:
            pytest.fail("the disk was never full")
        entries = log_size(coordinator)
        assert not release(coordinator, "m")
        assert secret(coordinator, b"2" * 32) != 200
        with coordinator.http(OWNER) as http:
            assert http.get("/api/v2/secrets?s=key").status_code == 500
            assert http.get("/api/v2/status").status_code == 200
        assert log_size(coordinator) == entries
        coordinator.kill()
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        assert log_size(coordinator) == entries
        assert not release(coordinator)
        filler.unlink()
        assert release(coordinator)
        assert read(coordinator) == b"1" * 32
        assert secret(coordinator, b"3" * 32) == 200
        coordinator.kill()
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        assert read(coordinator) == b"3" * 32
        assert log_size(coordinator) == 2 + released + 4
        coordinator.end()


def test_a_manifest_that_finds_no_room_is_refused_and_taken_later(small_disk: Path, tmp_path: Path) -> None:
    environ = {"EDG_COORDINATOR_SEAL_DIR": str(small_disk / "seal")}
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        filler = fill_up(small_disk)
        assert post(coordinator, "/api/v2/manifest", {"manifest": base64.b64encode(encode(LOGGED)).decode()}) == 500
        assert not (small_disk / "seal" / DATA_NAME).exists()
        filler.unlink()
        set_manifest(coordinator)
        coordinator.kill()
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        assert release(coordinator)
        coordinator.end()


# ---- the program's own commands


def run(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environ = {"EDG_COORDINATOR_SEAL_DIR": str(tmp_path / "seal"), "HOME": str(tmp_path)}
    command = [PROGRAM, *map(str, words)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_a_backup_is_taken_while_it_runs_and_brought_back_when_it_does_not(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with CoordinatorProcess(tmp_path) as coordinator:
        set_manifest(coordinator)
        assert secret(coordinator, b"1" * 32) == 200
        done = run(tmp_path, "backup", kept)
        assert done.returncode == 0, done.stderr
        assert "State 2 of" in done.stdout
        assert secret(coordinator, b"2" * 32) == 200
        refused = run(tmp_path, "restore", kept)
        assert refused.returncode == 1
        assert "another coordinator uses" in refused.stderr
        coordinator.kill()
    refused = run(tmp_path, "restore", kept)
    assert refused.returncode == 1
    assert "newer state (3) than the backup (2)" in refused.stderr
    assert refused.stderr.count("\n") == 1
    done = run(tmp_path, "restore", kept, "--replace")
    assert done.returncode == 0, done.stderr
    assert "will refuse it" in done.stdout
    with CoordinatorProcess(tmp_path) as coordinator:
        assert read(coordinator) == b"1" * 32
        coordinator.end()


@pytest.mark.parametrize("words", [("backup",), ("restore",), ("backup", "a", "b"), ("restore", "a", "--bogus")])
def test_commands_that_were_typed_wrongly_say_so_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("tacit-coordinator: ")


def test_a_restore_that_was_broken_off_keeps_the_coordinator_from_starting(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        set_manifest(coordinator)
        assert run(tmp_path, "backup", tmp_path / "kept").returncode == 0
        coordinator.end()
    (tmp_path / "seal" / "sealed_restore").touch()
    done = subprocess.run(
        [PROGRAM, "--unattested"],
        env={"EDG_COORDINATOR_SEAL_DIR": str(tmp_path / "seal"), "EDG_COORDINATOR_CLIENT_ADDR": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "run `tacit-coordinator restore` again" in done.stderr
    assert run(tmp_path, "restore", tmp_path / "kept").returncode == 0
    with CoordinatorProcess(tmp_path) as coordinator:
        assert release(coordinator)
        coordinator.end()


def test_a_restored_state_whose_key_is_gone_is_in_recovery_mode(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        set_manifest(coordinator)
        coordinator.end()
    assert run(tmp_path, "backup", tmp_path / "kept").returncode == 0
    assert run(tmp_path, "restore", tmp_path / "kept").returncode == 0
    (tmp_path / "seal" / KEY_NAME).unlink()
    with CoordinatorProcess(tmp_path) as coordinator:
        with coordinator.http() as http:
            assert http.get("/api/v2/status").json()["data"]["code"] == 1
        coordinator.end()
