"""`tacit-coordinator` as it is started: ports, ends, refusals, and what a cut of power leaves."""

import asyncio
import base64
import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import grpclib
import httpx
import psutil
import pytest

from fakes.core import PLAIN_MANIFEST, UUID, encode
from fakes.programs import CoordinatorProcess, activate, make_platform_folder
from tacit.coordinator.log import open_log
from tacit.coordinator.store import DATA_NAME, KEY_NAME
from tacit.errors import UsageError
from tacit.evidence.issue import load_simulated_tee
from tacit.pki import KeyPair, issue_self_signed, parse_key_pair
from tacit.programs import coordinator as program
from tacit.programs.coordinator import parse_names, read_config

PROGRAM = Path(sys.executable).parent / "tacit-coordinator"


@pytest.mark.parametrize("name", ["coordinator", "premain", "serve", "injector"])
@pytest.mark.parametrize(("sent", "line"), [("SIGINT", "Interrupted."), ("SIGTERM", "Ended by SIGTERM.")])
def test_a_signal_while_a_program_is_still_being_imported_is_one_line(name: str, sent: str, line: str) -> None:
    script = (
        "import importlib, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'tacit.errors': signal.raise_signal(signal.{sent})\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"sys.argv = ['/somewhere/tacit-{name}']\n"
        f"importlib.import_module('tacit.programs.{name}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.Signals[sent], f"{line}\n")


@pytest.mark.parametrize("text", ["a b,,!", "a b", "!", "", ",", "-a", "a..b", "a" * 64, "coordinator:4433"])
def test_names_that_no_client_could_connect_to_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names with commas between them"):
        parse_names("EDG_COORDINATOR_DNS_NAMES", text)


async def test_marbles_and_clients_take_no_thread_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executors: dict[str, Any] = {}

    class Clients(program.ClientApi):
        def __init__(self, core: Any, *, executor: Any, **more: Any) -> None:
            executors["clients"] = executor
            super().__init__(core, executor=executor, **more)

    class Marbles(program.MeshApi):
        def __init__(self, core: Any, *, executor: Any, **more: Any) -> None:
            executors["marbles"] = executor
            super().__init__(core, executor=executor, **more)

    monkeypatch.setattr(program, "ClientApi", Clients)
    monkeypatch.setattr(program, "MeshApi", Marbles)
    environ = {
        "EDG_COORDINATOR_CLIENT_ADDR": "localhost:0",
        "EDG_COORDINATOR_MESH_ADDR": "localhost:0",
        "EDG_COORDINATOR_SEAL_DIR": str(tmp_path),
    }
    said = io.StringIO()
    log = open_log(said, clock=program.now, debug=False, development=False)
    running = asyncio.create_task(program.serve(read_config(["--unattested"], environ), log))
    try:
        while "client API listening" not in said.getvalue() and not running.done():
            await asyncio.sleep(0.01)
    finally:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(running, 60)
    assert executors["clients"] is not executors["marbles"]


def test_names_and_addresses_are_taken() -> None:
    given = "localhost, coordinator-mesh-api.marblerun, *.example.org,10.0.0.1,::1,a_b,"
    expected = ("localhost", "coordinator-mesh-api.marblerun", "*.example.org", "10.0.0.1", "::1", "a_b")
    assert parse_names("EDG_COORDINATOR_DNS_NAMES", given) == expected


def test_the_coordinator_says_which_of_its_names_is_none() -> None:
    with pytest.raises(UsageError, match='"a b" in it is neither a name nor an address'):
        read_config([], {"OE_SIMULATION": "1", "EDG_COORDINATOR_DNS_NAMES": "a b,,!"})


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_platform_folder(tmp_path_factory.mktemp("platform"))


def post_manifest(coordinator: CoordinatorProcess, manifest: dict[str, Any]) -> None:
    with coordinator.http() as http:
        body = {"manifest": base64.b64encode(encode(manifest)).decode()}
        answer = http.post("/api/v2/manifest", json=body)
        assert answer.status_code == 200, answer.text


def status(coordinator: CoordinatorProcess) -> dict[str, Any]:
    with coordinator.http() as http:
        data: dict[str, Any] = http.get("/api/v2/status").json()["data"]
        return data


async def test_a_manifest_over_https_and_an_attested_activation_over_grpc(platform: Path, tmp_path: Path) -> None:
    tee = load_simulated_tee(platform, program="marble", now=datetime.now(UTC))
    manifest = {
        "Packages": {"p": {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}},
        "Marbles": {"m": {"Package": "p", "Parameters": {"Argv": ["a"], "Env": {"X": "{{ hex .Secrets.k }}"}}}},
        "Secrets": {"k": {"Type": "symmetric-key", "Size": 128, "Shared": True}},
    }
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        assert status(coordinator)["code"] == 2
        assert status(coordinator)["tacit"]["tee"] == "simulated"
        post_manifest(coordinator, manifest)
        answer = await activate(coordinator.mesh, "m", uuid=UUID, issuer=tee)
        assert list(answer.parameters.argv) == ["a"]
        assert len(bytes.fromhex(answer.parameters.env["X"].decode())) == 16
        with pytest.raises(grpclib.GRPCError) as caught:
            await activate(coordinator.mesh, "m", uuid=UUID)
        assert caught.value.status is grpclib.Status.PERMISSION_DENIED
        assert str(caught.value.message).startswith("marble verification failed: invalid quote: ")
        assert coordinator.end() == 0


def test_a_user_is_known_by_the_certificate_of_the_connection(tmp_path: Path) -> None:
    owner, stranger = (issue_self_signed(["o"], common_name="o", now=datetime.now(UTC)) for _ in range(2))
    manifest = {
        **PLAIN_MANIFEST,
        "Secrets": {"word": {"Type": "plain", "UserDefined": True}},
        "Users": {"owner": {"Certificate": owner.certificate_pem.decode(), "Roles": ["r"]}},
        "Roles": {
            "r": {"ResourceType": "Secrets", "ResourceNames": ["word"], "Actions": ["ReadSecret", "WriteSecret"]}
        },
    }
    with CoordinatorProcess(tmp_path) as coordinator:
        post_manifest(coordinator, manifest)
        for certificate, code in ((None, 401), (stranger, 401), (owner, 200)):
            with coordinator.http(certificate) as http:
                assert http.post("/api/v2/secrets", json={"secrets": {"word": {"Key": "dw=="}}}).status_code == code
                assert http.get("/api/v2/secrets?s=word").status_code == code
        coordinator.kill()
    with CoordinatorProcess(tmp_path) as coordinator, coordinator.http(owner) as http:
        assert http.get("/secrets?s=word").json()["data"]["word"]["Private"] == "dw=="


def start(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], env=environ, capture_output=True, text=True, timeout=300, check=False)


def refused(environ: dict[str, str], *arguments: str) -> str:
    """The one plain line that a refused start ends with."""
    done = start(environ, *arguments)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    plain = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(plain) == 1, done.stderr
    return plain[0]


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "OE_SIMULATION": "1",
        "EDG_COORDINATOR_CLIENT_ADDR": "127.0.0.1:0",
        "EDG_COORDINATOR_MESH_ADDR": "127.0.0.1:0",
        "EDG_COORDINATOR_SEAL_DIR": str(tmp_path / "seal"),
        **more,
    }


def test_help_and_version_are_given() -> None:
    assert "EDG_COORDINATOR_SEAL_DIR" in start({}, "--help").stdout
    assert start({}, "--version").stdout.startswith("tacit-coordinator 0.")


@pytest.mark.parametrize("address", ["4433", "localhost", "localhost:x", "localhost:70000", "::1:4433"])
def test_a_bad_address_is_named(tmp_path: Path, address: str) -> None:
    line = refused(environment(tmp_path, EDG_COORDINATOR_CLIENT_ADDR=address))
    assert "EDG_COORDINATOR_CLIENT_ADDR" in line
    assert address in line


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refused(environment(tmp_path, EDG_COORDINATOR_MESH_ADDR=f"127.0.0.1:{port}"))


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "seal").write_bytes(b"")
    assert "EDG_COORDINATOR_SEAL_DIR" in refused(environment(tmp_path))


def test_a_missing_platform_says_how_to_make_one(tmp_path: Path) -> None:
    environ = environment(tmp_path, OE_SIMULATION="", TACIT_PLATFORM=str(tmp_path / "none"))
    assert "tacit platform init" in refused(environ)


def test_a_damaged_state_is_refused_with_the_reason(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        post_manifest(coordinator, PLAIN_MANIFEST)
        coordinator.end()
    data = tmp_path / "seal" / DATA_NAME
    altered = bytearray(data.read_bytes())
    altered[-30] ^= 1
    data.write_bytes(altered)
    assert "was altered" in refused(environment(tmp_path))


def test_t34_a_second_coordinator_on_one_folder_is_refused(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path):
        assert "another coordinator uses" in refused(environment(tmp_path))


def test_an_unknown_flag_and_a_shared_store_are_wrong_usage(tmp_path: Path) -> None:
    assert start(environment(tmp_path), "--bogus").returncode == 2
    assert "EDG_DISTRIBUTED_COORDINATOR" in refused(environment(tmp_path, EDG_DISTRIBUTED_COORDINATOR="1"))
    assert "EDG_STORE_BACKEND" in refused(environment(tmp_path, EDG_STORE_BACKEND="k8s-secret"))
    licensed = environment(tmp_path, EDG_ENTERPRISE_LICENSED_FEATURES="a,DistributedCoordinator")
    assert "several coordinators" in refused(licensed)


def test_an_hsm_is_refused_by_name_with_or_without_its_variables(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(encode({**PLAIN_MANIFEST, "Config": {"FeatureGates": ["AzureHSMSealing"]}}))
    bare = environment(tmp_path, EDG_STARTUP_MANIFEST=str(manifest))
    assert "required environment variables are not set: [EDG_MAA_URL EDG_AZURE_HSM_VAULT_URL" in refused(bare)
    names = ("MAA_URL", "AZURE_HSM_VAULT_URL", "AZURE_HSM_KEY_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID")
    given = {f"EDG_{name}": "x" for name in (*names, "AZURE_CLIENT_SECRET")}
    assert "this coordinator cannot seal with an Azure HSM key" in refused({**bare, **given})


def test_a_log_level_that_is_none_is_named(tmp_path: Path) -> None:
    assert "EDG_HTTP_ERROR_LOG_LEVEL" in refused(environment(tmp_path, EDG_HTTP_ERROR_LOG_LEVEL="loud"))


def test_a_startup_manifest_is_for_an_empty_folder(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(encode(PLAIN_MANIFEST))
    with CoordinatorProcess(tmp_path, environ={"EDG_STARTUP_MANIFEST": str(manifest)}) as coordinator:
        assert status(coordinator)["code"] == 3
        coordinator.end()
    line = refused(environment(tmp_path, EDG_STARTUP_MANIFEST=str(manifest)))
    assert "Cannot set startup manifest" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        coordinator.process.send_signal(number)
        assert coordinator.process.wait(timeout=60) == 0
        assert "Traceback" not in coordinator.log_file.read_text()


def test_the_log_says_what_this_coordinator_is_not(tmp_path: Path, platform: Path) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        assert any(line["msg"].startswith("UNATTESTED") for line in coordinator.log())
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        assert any(line["msg"].startswith("SIMULATED") for line in coordinator.log())


def test_without_its_key_it_starts_in_recovery_mode_and_takes_a_new_manifest(tmp_path: Path, platform: Path) -> None:
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        post_manifest(coordinator, PLAIN_MANIFEST)
        coordinator.end()
    (tmp_path / "seal" / KEY_NAME).unlink()
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        assert status(coordinator)["code"] == 1
        post_manifest(coordinator, PLAIN_MANIFEST)
        assert status(coordinator)["code"] == 3
        coordinator.end()
    assert (tmp_path / "seal" / f"{DATA_NAME}.old").exists()
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        assert status(coordinator)["code"] == 3


@pytest.mark.slow
async def test_nothing_that_was_answered_is_lost_when_it_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Activations are counted and sealed; the process dies while some are under way; the count never goes back."""
    chance = Random(7)
    budget = {**PLAIN_MANIFEST, "Marbles": {"m": {"Package": "p", "MaxActivations": 100_000}}}
    answered, epoch = 0, 0
    for attempt in range(20):
        with CoordinatorProcess(tmp_path) as coordinator:
            if attempt == 0:
                post_manifest(coordinator, budget)
            mark = status(coordinator)["tacit"]
            # The manifest is the first entry, then one for each activation that was answered, and perhaps one more
            # for each that was under way.
            assert answered + 1 <= mark["log"]["entries"]
            assert mark["epoch"] >= epoch
            epoch = mark["epoch"]
            answered = mark["log"]["entries"] - 1

            some = asyncio.Event()  # an answer came: half of the kills come after one, however slow the machine is

            async def keep_activating(address: str = coordinator.mesh, some: asyncio.Event = some) -> int:
                done = 0
                try:
                    while True:
                        await activate(address, "m", uuid=UUID)
                        done += 1
                        some.set()
                except (grpclib.GRPCError, grpclib.exceptions.StreamTerminatedError, OSError, AssertionError):
                    return done

            running = [asyncio.create_task(keep_activating()) for _ in range(2)]
            if attempt % 2:
                await asyncio.wait_for(some.wait(), 60)
            await asyncio.sleep(chance.uniform(0.0, 0.1))
            coordinator.kill()
            answered += sum(await asyncio.gather(*running))
    assert answered >= 10


def test_start_is_quick(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path) as coordinator:
        times = psutil.Process(coordinator.process.pid).cpu_times()  # of its own: others may have the processor too
        assert times.user + times.system < 10


async def test_t24_nothing_secret_is_in_the_log_of_a_real_run(tmp_path: Path) -> None:
    manifest = {
        **PLAIN_MANIFEST,
        "Marbles": {"m": {"Package": "p", "Parameters": {"Env": {"X": "{{ hex .Secrets.k }}", "L": "canary-literal"}}}},
        "Secrets": {"k": {"Type": "symmetric-key", "Size": 128, "Shared": True}},
    }
    with CoordinatorProcess(tmp_path, environ={"EDG_DEBUG_LOGGING": "1"}) as coordinator:
        post_manifest(coordinator, manifest)
        answer = await activate(coordinator.mesh, "m", uuid=UUID)
        with coordinator.http() as http:
            http.post("/api/v2/manifest", content=b'{"manifest": "canary-body"}')
            http.get("/api/v2/secrets?s=canary-query")
            http.get("/canary-path", headers={"x-canary": "canary-header"})
        coordinator.end()
        text = coordinator.log_file.read_text()
    assert json.loads(text.splitlines()[0])["msg"] == "starting coordinator"
    for value in (
        answer.parameters.env["X"].decode(),
        "canary-literal",
        "canary-body",
        "canary-query",
        "canary-header",
    ):
        assert value not in text


def count_up(coordinator: CoordinatorProcess, own: KeyPair, first: int, some: threading.Event) -> int:
    """Raise a counter until the coordinator is gone; the last value that was answered."""
    done = 0
    with contextlib.suppress(httpx.HTTPError), coordinator.http(own) as http:
        for value in range(first, first + 4000, 4):
            answer = http.post("/api/v2/monotonic-counter", json={"name": "n", "value": value})
            assert answer.status_code == 200, answer.text
            done = value
            some.set()
    return done


@pytest.mark.slow
async def test_t37_what_was_counted_is_counted_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    manifest = {**PLAIN_MANIFEST, "Config": {"FeatureGates": ["MonotonicCounter"]}}
    with CoordinatorProcess(tmp_path) as coordinator:
        post_manifest(coordinator, manifest)
        env = (await activate(coordinator.mesh, "m", uuid=UUID)).parameters.env
    names = ("MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN", "MARBLE_PREDEFINED_PRIVATE_KEY")
    own = parse_key_pair(*(env[name] for name in names))
    held = 0
    for _ in range(2):
        with CoordinatorProcess(tmp_path) as coordinator, ThreadPoolExecutor(4) as pool:
            some = threading.Event()
            running = [pool.submit(count_up, coordinator, own, held + 1 + number, some) for number in range(4)]
            await asyncio.to_thread(some.wait, 60)
            await asyncio.sleep(1.0)
            coordinator.kill()
            answered = max(one.result() for one in running)
        assert answered > held
        with CoordinatorProcess(tmp_path) as coordinator, coordinator.http(own) as http:
            held = http.post("/api/v2/monotonic-counter", json={"name": "n", "value": 0}).json()["data"]["value"]
        # Nothing that was answered is lost; what was under way may have been stored without an answer.
        assert held >= answered
