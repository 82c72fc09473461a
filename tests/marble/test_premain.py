import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from fakes.mesh import mesh
from fakes.tee import NOW, FakeTee
from tacit.errors import ActivationError, PlaintextError, RequestError, Status, TlsError, UnreachableError, UsageError
from tacit.evidence import Role, verify_binding, verify_evidence
from tacit.evidence.issue import init_platform
from tacit.marble.activate import Settings, parse_settings
from tacit.marble.premain import Launch, prepare
from tacit.marble.recognise import load_recognition
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_root, parse_csr
from tacit.programs.premain import load_coordinator_anchor
from tacit.vault.files import encrypt_ctr
from tacit.wire.pb.marble_pb2 import ActivationRequest, Parameters

CANARY = b"CANARY-5e1d"
RUNS = ["sh", "-c", "true"]
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PREMAIN = Path(sys.executable).parent / "tacit-premain"
Mesh = Callable[..., AbstractContextManager[int]]


@pytest.fixture
def settings(folder: Path, memory: Path) -> Settings:
    return parse_settings(
        {
            "EDG_MARBLE_TYPE": "tf-server",
            "EDG_MARBLE_DNS_NAMES": "grpc.example.com,10.0.0.1",
            "TACIT_MEMORY_DIR": str(memory),
        },
        folder,
    )


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def activate(settings: Settings, lines: list[str], folder: Path) -> Callable[..., Launch]:
    """Runs premain's part in this process, up to the start of the command."""

    def run(
        port: int, issuer: FakeTee | None, command: tuple[str, ...] = ("sh", "-c", "true"), **changes: object
    ) -> Launch:
        changed = replace(settings, coordinator=f"localhost:{port}", **changes)
        return prepare(
            changed,
            issuer,
            load_recognition(changed, load_coordinator_anchor),
            command=command,
            inherited={"PATH": os.environ["PATH"], "LD_PRELOAD": "/evil.so"},
            programs=folder / "programs",
            now=NOW,
            randomness=os.urandom,
            say=lines.append,
        )

    return run


def gives(**parameters: object) -> Callable[[ActivationRequest, bytes], Parameters]:
    return lambda request, certificate: Parameters(**parameters)


def leaf_chain(mark: str | None) -> bytes:
    root = issue_root((), now=NOW, mark=mark)
    intermediate: KeyPair = issue_intermediate(root, (), now=NOW, mark=mark)
    from tacit.pki.csr import create_csr
    from tacit.pki.keys import generate_key

    csr = parse_csr(create_csr(generate_key(), ("localhost",)))
    uuid = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
    leaf = issue_leaf(csr, issuer=intermediate, uuid=uuid, marble_type="t", allowed_names=None, now=NOW, mark=mark)
    return leaf.certificate_pem + intermediate.certificate_pem


# ---- what the coordinator sees


def test_the_request_proves_the_key_of_its_own_connection(activate: Callable[..., Launch], tee: FakeTee) -> None:
    seen: list[tuple[ActivationRequest, bytes]] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        seen.append((request, certificate))
        return Parameters(argv=RUNS)

    with mesh(answer) as port:
        activate(port, tee)
    request, certificate = seen[0]
    claims = verify_evidence(request.quote, tee.collateral, tee.anchor, now=NOW)
    verify_binding(claims, role=Role.MARBLE, key=certificate)
    assert request.marble_type == "tf-server"
    assert x509.load_der_x509_certificate(certificate).subject.rfc4514_string() == "CN=MarbleRun Marble"
    names = parse_csr(request.csr).names
    assert "grpc.example.com" in str(names)
    assert "10.0.0.1" in str(names)


def test_the_id_is_kept_for_the_next_start(activate: Callable[..., Launch], tee: FakeTee, folder: Path) -> None:
    uuids: list[str] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        uuids.append(request.uuid)
        return Parameters(argv=RUNS)

    with mesh(answer) as port:
        activate(port, tee)
        activate(port, tee)
    assert uuids[0] == uuids[1] == (folder / "uuid").read_text()


def test_t07_without_a_tee_no_evidence_is_sent_and_that_is_said(
    activate: Callable[..., Launch], lines: list[str]
) -> None:
    quotes: list[bytes] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        quotes.append(request.quote)
        return Parameters(argv=RUNS)

    with mesh(answer) as port:
        launch = activate(port, None)
    assert quotes == [b""]
    assert launch.environment[b"TACIT_TEE"] == b"unattested"
    assert any("UNATTESTED" in line for line in lines)


def test_t07_a_coordinator_in_unattested_mode_does_not_make_a_command_attested(
    activate: Callable[..., Launch], tee: FakeTee
) -> None:
    for mark, expected in (("UNATTESTED", b"unattested"), ("SIMULATED", b"simulated")):
        with mesh(gives(env={"MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": leaf_chain(mark)}, argv=RUNS)) as port:
            assert activate(port, tee).environment[b"TACIT_TEE"] == expected


def test_t59_the_host_does_not_choose_what_gets_an_attested_marble_s_secrets(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path, memory: Path
) -> None:
    given = gives(files={"f": CANARY, "/tacit/keys/m": CANARY})
    with mesh(given) as port, pytest.raises(ActivationError, match="the host's choice"):
        activate(port, tee, command=("sh", "-c", "cat f"))
    assert not (folder / "f").exists()
    assert not [path for path in memory.rglob("*") if path.is_file()]


def test_t06_another_coordinator_than_the_named_one_gets_nothing_and_starts_nothing(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path
) -> None:
    root = issue_root((), now=NOW)
    real, other = (issue_intermediate(root, ("coordinator.test",), now=NOW) for _ in range(2))
    asked: list[bytes] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        asked.append(certificate)
        return Parameters(argv=RUNS)

    file = folder / "intermediate.crt"
    with mesh(answer, intermediate=real) as port:
        file.write_bytes(other.certificate_pem)
        with pytest.raises(TlsError, match="not that of the expected certificate"):
            activate(port, tee, coordinator_certificate=file)
        assert not asked
        file.write_bytes(real.certificate_pem)
        assert activate(port, tee, coordinator_certificate=file).argv == tuple(RUNS)
    assert len(asked) == 1


# ---- what comes of the answer


def test_files_keys_environment_and_arguments_are_as_the_manifest_says(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path, memory: Path
) -> None:
    answer = gives(
        files={"conf/ssl.cfg": b"cert", "/tacit/keys/digits": CANARY}, env={"A": b"1"}, argv=["sh", "-c", "echo $A"]
    )
    with mesh(answer) as port:
        launch = activate(port, tee)
    keys = Path(launch.environment[b"TACIT_KEY_DIR"].decode())
    assert keys.is_relative_to(memory)
    assert (keys / "digits").read_bytes() == CANARY
    assert (folder / "conf" / "ssl.cfg").read_bytes() == b"cert"
    assert launch.argv == ("sh", "-c", "echo $A")
    assert Path(launch.program).name == "sh"
    assert launch.environment[b"A"] == b"1"
    assert b"LD_PRELOAD" not in launch.environment
    assert not Path("/tacit").exists()


def test_t24_no_secret_is_said(activate: Callable[..., Launch], tee: FakeTee, lines: list[str]) -> None:
    with mesh(gives(files={"f": CANARY, "/tacit/keys/m": CANARY}, env={"S": CANARY}, argv=RUNS)) as port:
        launch = activate(port, tee)
    assert "CANARY" not in "\n".join(lines) + repr(launch)


def test_a_command_that_is_not_installed_is_told(activate: Callable[..., Launch], tee: FakeTee) -> None:
    with mesh(gives(argv=["no-such-server"])) as port, pytest.raises(ActivationError, match="no such program"):
        activate(port, tee)


def test_tacit_serve_takes_the_place_of_a_server_that_is_not_installed(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path, lines: list[str]
) -> None:
    (folder / "programs").mkdir()
    (folder / "programs" / "tacit-serve").write_text("")
    with mesh(gives(argv=["tensorflow_model_server", "--port=8500"])) as port:
        launch = activate(port, tee)
    assert launch.program == str(folder / "programs" / "tacit-serve")
    assert launch.argv == ("tacit-serve", "--port=8500")
    assert any("takes its flags" in line for line in lines)


def test_keys_need_memory(activate: Callable[..., Launch], tee: FakeTee, folder: Path) -> None:
    with mesh(gives(files={"/tacit/keys/m": CANARY}, argv=RUNS)) as port, pytest.raises(PlaintextError):
        activate(port, tee, memory=Path("/"))


# ---- the demo's flow


def test_a_foreign_server_finds_its_model_decrypted_in_memory(
    activate: Callable[..., Launch], folder: Path, memory: Path
) -> None:
    (folder / "plain").write_bytes(b"graph")
    encrypt_ctr(folder / "plain", folder / "m.encrypted", bytes(range(32)), iv=b"i" * 16)
    argv = ["sh", "-c", "true", f"--model_base_path={memory}/resnet50"]
    with mesh(gives(files={"model_key": KEY_TEXT.encode()}, argv=argv)) as port:
        launch = activate(port, None, decrypt_model=True, encrypted_model=folder / "m.encrypted")
    assert (memory / "resnet50" / "1" / "saved_model.pb").read_bytes() == b"graph"
    assert launch.argv == tuple(argv)


def test_a_plaintext_model_never_goes_to_a_disk(activate: Callable[..., Launch], folder: Path) -> None:
    argv = ["sh", "--model_base_path", "/models-that-are-not-there"]
    with mesh(gives(argv=argv)) as port, pytest.raises(PlaintextError, match="tmpfs"):
        activate(port, None, decrypt_model=True, encrypted_model=folder / "m.encrypted")


def test_decrypting_without_a_base_path_is_refused_in_the_original_s_words(activate: Callable[..., Launch]) -> None:
    with mesh(gives(argv=["sh"])) as port, pytest.raises(UsageError, match="missing required flag"):
        activate(port, None, decrypt_model=True)


def test_our_own_server_gets_the_encrypted_model_and_no_plaintext(
    activate: Callable[..., Launch], folder: Path, memory: Path
) -> None:
    (folder / "programs").mkdir()
    (folder / "programs" / "tacit-serve").write_text("")
    argv = ["tensorflow_model_server", "--model_base_path=/models/resnet50"]
    with mesh(gives(argv=argv)) as port:
        launch = activate(port, None, decrypt_model=True)
    assert launch.argv[-3:] == (
        "--model_base_path=/encrypted/saved_model.pb.encrypted",
        "--model_format=ctr",
        "--model_key_file=model_key",
    )


def test_t23_the_host_does_not_choose_an_attested_server_s_model(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path, lines: list[str]
) -> None:
    (folder / "programs").mkdir()
    (folder / "programs" / "tacit-serve").write_text("")
    (folder / "programs" / "tacit-serve").chmod(0o755)
    argv = ["tacit-serve", "--model_name=m", "--model_base_path=/models/m"]
    with mesh(gives(argv=argv)) as port:
        launch = activate(port, tee, decrypt_model=True, encrypted_model=folder / "evil.capsule")
    assert launch.argv == tuple(argv)
    assert b"EDG_DECRYPT_MODEL" not in launch.environment
    assert any("EDG_DECRYPT_MODEL of this environment is passed over" in line for line in lines)


def test_the_manifest_chooses_an_attested_server_s_model(
    activate: Callable[..., Launch], tee: FakeTee, folder: Path
) -> None:
    (folder / "programs").mkdir()
    (folder / "programs" / "tacit-serve").write_text("")
    (folder / "programs" / "tacit-serve").chmod(0o755)
    argv = ["tacit-serve", "--model_base_path=/models/m"]
    env = {"EDG_DECRYPT_MODEL": b"1", "TACIT_ENCRYPTED_MODEL": b"/storage/m.capsule"}
    with mesh(gives(argv=argv, env=env)) as port:
        launch = activate(port, tee, encrypted_model=folder / "evil.capsule")
    assert launch.argv[-3:] == (
        "--model_base_path=/storage/m.capsule",
        "--model_format=capsule",
        "--model_key_file=model_key",
    )


# ---- refusals


def test_a_refusal_is_told_in_the_coordinator_s_words(activate: Callable[..., Launch], tee: FakeTee) -> None:
    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        raise RequestError(Status.PERMISSION_DENIED, "marble verification failed: unknown marble type requested")

    with mesh(answer) as port, pytest.raises(ActivationError, match="marble verification failed: unknown marble type"):
        activate(port, tee)


def test_a_coordinator_without_a_manifest_is_waited_for(
    activate: Callable[..., Launch], tee: FakeTee, lines: list[str]
) -> None:
    attempts: list[int] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        attempts.append(1)
        if len(attempts) < 3:
            raise RequestError(Status.FAILED_PRECONDITION, "cannot accept marbles in current state")
        return Parameters(argv=RUNS)

    with mesh(answer) as port:
        activate(port, tee)
    assert len(attempts) == 3
    assert len([line for line in lines if "trying again" in line]) == 1


@pytest.mark.usefixtures("clock")
def test_a_coordinator_that_never_gets_a_manifest_is_given_up(activate: Callable[..., Launch], tee: FakeTee) -> None:
    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        raise RequestError(Status.FAILED_PRECONDITION, "cannot accept marbles in current state")

    with mesh(answer) as port, pytest.raises(UnreachableError, match="TACIT_ACTIVATION_TIMEOUT"):
        activate(port, tee, patience=0.5)


def test_a_coordinator_that_is_not_running_is_named(activate: Callable[..., Launch], tee: FakeTee) -> None:
    with pytest.raises(UnreachableError, match="localhost:1 "):
        activate(1, tee, patience=0.1)


def test_a_port_that_speaks_no_tls_is_told(activate: Callable[..., Launch], tee: FakeTee) -> None:
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with pytest.raises((TlsError, UnreachableError)):
        activate(listener.getsockname()[1], tee, patience=0)
    listener.close()
    thread.join()


# ---- the program, as it is started


def run_premain(
    folder: Path, port: int, *command: str, environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], "EDG_MARBLE_TYPE": "t", "EDG_MARBLE_COORDINATOR_ADDR": f"localhost:{port}"}
    return subprocess.run(
        [str(PREMAIN), *command],
        cwd=folder,
        env=env | dict(environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_foreign_command_becomes_the_process(folder: Path) -> None:
    script = "echo $$; pwd; cat ssl.cfg; echo $A $HOST; ulimit -c; exit 7"
    with mesh(gives(files={"ssl.cfg": b"config\n"}, env={"A": b"manifest"}, argv=["sh", "-c", script])) as port:
        done = run_premain(folder, port, environ={"TACIT_UNATTESTED": "1", "HOST": "host", "A": "host"})
    lines = done.stdout.splitlines()
    assert lines[1:] == [str(folder), "config", "manifest host", "0"]
    assert done.returncode == 7
    assert all(line.startswith("[PreMain] ") for line in done.stderr.splitlines())


def test_an_attested_command_starts_from_an_almost_empty_environment(folder: Path, memory: Path) -> None:
    init_platform(folder / "platform", now=NOW)
    host = {
        "TACIT_PLATFORM": str(folder / "platform"),
        "TACIT_MEMORY_DIR": str(memory),
        "SSLKEYLOGFILE": str(folder / "keys.log"),
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "SSL_CERT_FILE": "/nonexistent",
        "EVIL": "1",
    }
    with mesh(gives(files={"/tacit/keys/m": CANARY}, env={"A": b"manifest"}, argv=["env"])) as port:
        done = run_premain(folder, port, environ=host)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    found.pop("LC_CTYPE", None)  # Python sets it for itself where the host names no language
    assert set(found) == {
        "PATH",
        "HOME",
        "A",
        "EDG_MARBLE_TYPE",
        "EDG_MARBLE_COORDINATOR_ADDR",
        "TACIT_TEE",
        "TACIT_KEY_DIR",
    }
    assert found["TACIT_TEE"] == "simulated"
    assert not (folder / "keys.log").exists()


def test_t22_a_model_s_key_is_in_no_argument_and_no_environment(folder: Path, memory: Path) -> None:
    init_platform(folder / "platform", now=NOW)
    script = "cat /proc/$$/cmdline /proc/$$/environ; cat /proc/$PPID/cmdline; ls -la $TACIT_KEY_DIR"
    with mesh(gives(files={"/tacit/keys/m": CANARY}, argv=["sh", "-c", script])) as port:
        host = {"TACIT_PLATFORM": str(folder / "platform"), "TACIT_MEMORY_DIR": str(memory)}
        done = run_premain(folder, port, environ=host)
    assert "CANARY" not in done.stdout + done.stderr
    assert "-rw-------" in done.stdout
    assert not [path for path in folder.rglob("*") if path.is_file() and CANARY in path.read_bytes()]


def test_t22_premain_itself_leaves_no_core_and_cannot_be_read(folder: Path) -> None:
    code = (
        "import ctypes, resource; from tacit.programs.premain import keep_memory_private; keep_memory_private()\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_is_for_manifests_without_argv(folder: Path) -> None:
    with mesh(gives()) as port:
        done = run_premain(folder, port, "echo", "from", "here", environ={"TACIT_UNATTESTED": "1"})
    assert done.stdout == "from here\n"


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"EDG_MARBLE_TYPE": ""}, "environment variable not set: EDG_MARBLE_TYPE"),
        ({"TACIT_PLATFORM": "/nonexistent"}, "TACIT_UNATTESTED=1"),
        ({"TACIT_UNATTESTED": "1", "TACIT_ACTIVATION_TIMEOUT": "0"}, " localhost:1 "),
        ({"TACIT_UNATTESTED": "yes", "TACIT_PLATFORM": "/nonexistent"}, "tacit platform init"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(folder: Path, environ: Mapping[str, str], line: str) -> None:
    done = run_premain(folder, 1, "true", environ=environ)
    assert done.returncode == 1
    assert line in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("[PreMain] ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_log_may_be_json_as_marbleruns(folder: Path) -> None:
    with mesh(gives(argv=["sh", "-c", "exit 7"])) as port:
        done = run_premain(folder, port, environ={"TACIT_UNATTESTED": "1", "EDG_LOG_FORMAT": "JSON"})
    assert done.returncode == 7
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(list(line) == ["level", "ts", "msg"] and line["msg"].startswith("[PreMain] ") for line in lines)
    assert "warn" in {line["level"] for line in lines if "UNATTESTED" in line["msg"]}
    assert (lines[-1]["level"], lines[-1]["msg"]) == ("info", "[PreMain] starting sh")
    failed = run_premain(folder, 1, "true", environ={"EDG_LOG_FORMAT": "json", "EDG_MARBLE_TYPE": ""})
    last = json.loads(failed.stderr.splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"].startswith("[PreMain] Error: environment variable not set: EDG_MARBLE_TYPE")
    assert abs(last["ts"] - time.time()) < 600


def test_help_says_what_the_environment_means(folder: Path) -> None:
    done = run_premain(folder, 1, "--help", environ={})
    assert done.returncode == 0
    assert "TACIT_ACTIVATION_TIMEOUT" in done.stdout
