"""The program: what it starts, what it refuses, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import msgspec
import numpy as np
import pytest

from fakes import models
from fakes.one_line_pem import one_line
from fakes.programs import make_platform_folder
from tacit.client.address import parse_address
from tacit.client.bound.channel import BoundChannel
from tacit.errors import PortInUseError, UsageError
from tacit.evidence import Role, verify_binding, verify_evidence
from tacit.evidence.fetch import fetch_collateral, load_anchor
from tacit.evidence.issue import load_package_info
from tacit.evidence.verify.binding import CHANNEL_LABEL, CHANNEL_SIZE
from tacit.pki import CertificateRequest, KeyPair, issue_root, issue_secret_certificate
from tacit.pki.tls import client_context
from tacit.vault import seal_folder
from tacit.wire.evidence import EVIDENCE_PATH, ServerEvidence
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

KEY = bytes(range(32))
ROWS = np.ones((2, 4), np.float32)
EXPECTED = ROWS @ models.WEIGHTS


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.onnx_model())
    return folder.parent


@pytest.fixture
def ssl_config(tmp_path: Path, server_identity: KeyPair) -> Path:
    path = tmp_path / "ssl.cfg"
    path.write_text(
        f"server_key: '{one_line(server_identity.key_pem)}'\n"
        f"server_cert: '{one_line(server_identity.certificate_pem)}'\nclient_verify: false\n"
    )
    return path


def message(rows: np.ndarray = ROWS) -> bytes:
    request = PredictRequest()
    request.model_spec.name = "m"
    encode_tensor(Tensor(1, rows), request.inputs["x"], as_content=True)
    return request.SerializeToString()


async def predict(channel: grpc.aio.Channel, body: bytes) -> np.ndarray:
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    async with asyncio.timeout(300):
        while True:
            try:
                response = PredictResponse.FromString(await call(body))
                return parse_tensor(response.outputs["y"]).array
            except grpc.aio.AioRpcError as exc:
                if "for the first time" not in (exc.details() or ""):
                    raise
                await asyncio.sleep(0.05)  # still loading


edges = pytest.mark.parametrize("edge", ["tacit", "grpcio"])


@edges
async def test_both_ports_answer_over_tls_with_the_certificate_of_the_file(
    serving: Any, plain: Path, ssl_config: Path, server_identity: KeyPair, edge: str
) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--ssl_config_file={ssl_config}", f"--edge={edge}"]
    async with serving(flags, {}) as ports:
        credentials = grpc.ssl_channel_credentials(server_identity.certificate_pem)
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            np.testing.assert_allclose(await predict(channel, message()), EXPECTED, rtol=1e-6)
        trusted = ssl.create_default_context(cadata=server_identity.certificate_pem.decode())
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            answer = await client.post(
                f"https://localhost:{ports['rest']}/v1/models/m:predict", json={"instances": ROWS.tolist()}
            )
        np.testing.assert_allclose(answer.json()["predictions"], EXPECTED, rtol=1e-6)


async def serve_on_one_port(stack: AsyncExitStack, serving: Any, flags: list[str]) -> int:
    """The port on which a server has both; another one where somebody took it between its choice and the start."""
    for left in reversed(range(5)):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        try:
            given = [*flags, f"--port={port}", f"--rest_api_port={port}"]
            ports = await stack.enter_async_context(serving(given, {}))
        except PortInUseError:
            if not left:
                raise
        else:
            assert ports == {"grpc": port, "rest": port}
            return int(port)
    raise AssertionError


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_grpc_and_rest_share_one_port_where_both_are_given_its_number(
    serving: Any, plain: Path, ssl_config: Path, server_identity: KeyPair, secure: bool
) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", *([f"--ssl_config_file={ssl_config}"] if secure else [])]
    async with AsyncExitStack() as stack:
        port = await serve_on_one_port(stack, serving, flags)
        credentials = grpc.ssl_channel_credentials(server_identity.certificate_pem)
        there = f"localhost:{port}"
        channels = grpc.aio.secure_channel(there, credentials) if secure else grpc.aio.insecure_channel(there)
        async with channels as channel:
            np.testing.assert_allclose(await predict(channel, message()), EXPECTED, rtol=1e-6)
        trusted = ssl.create_default_context(cadata=server_identity.certificate_pem.decode())
        async with httpx.AsyncClient(verify=trusted, trust_env=False, http2=secure) as client:
            url = f"{'https' if secure else 'http'}://{there}/v1/models/m:predict"
            answer = await client.post(url, json={"instances": ROWS.tolist()})
        assert answer.http_version == ("HTTP/2" if secure else "HTTP/1.1")
        np.testing.assert_allclose(answer.json()["predictions"], EXPECTED, rtol=1e-6)


@pytest.mark.parametrize("port", [0, 9])
async def test_an_edge_that_does_not_exist_is_refused_for_what_it_is(serving: Any, plain: Path, port: int) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--port={port}", "--rest_api_port=9", "--edge=foo"]
    with pytest.raises(UsageError, match="--edge=foo: expected tacit or grpcio"):
        async with serving(flags, {}):
            pass


async def test_grpcio_shares_no_port(serving: Any, plain: Path) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", "--port=1", "--rest_api_port=1", "--edge=grpcio"]
    with pytest.raises(UsageError, match="different numbers"):
        async with serving(flags, {}):
            pass


async def test_an_attested_server_opens_its_capsule_with_the_key_from_activation(
    serving: Any, tmp_path: Path, server_identity: KeyPair
) -> None:
    source, keys = tmp_path / "source", tmp_path / "keys"
    source.mkdir()
    keys.mkdir()
    (source / "model.onnx").write_bytes(models.onnx_model())
    (keys / "m").write_bytes(KEY)
    info = seal_folder(source, tmp_path / "m.capsule", KEY, name="m", version=5)
    environ = {
        "TACIT_TEE": "simulated",
        "TACIT_KEY_DIR": str(keys),
        "TACIT_MODELS": json.dumps({"m": {"format": "capsule", "id": info.id.hex(), "minVersion": 5, "key": "k"}}),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    async with serving(["--model_name=m", f"--model_base_path={tmp_path / 'm.capsule'}"], environ) as ports:
        credentials = grpc.ssl_channel_credentials(server_identity.certificate_pem)
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            np.testing.assert_allclose(await predict(channel, message()), EXPECTED, rtol=1e-6)


@edges
async def test_a_request_of_tens_of_megabytes_works_by_default(serving: Any, plain: Path, edge: str) -> None:
    rows = np.ones((64 * 224 * 224 * 3 // 4, 4), np.float32)  # 38.5 MB, a batch of 64 images
    async with serving(["--model_name=m", f"--model_base_path={plain}", f"--edge={edge}"], {}) as ports:
        options = (("grpc.max_receive_message_length", -1),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}", options) as channel:
            answer = await predict(channel, message(rows))
    assert answer.shape == (len(rows), 3)


async def test_a_message_above_the_limit_is_refused(serving: Any, plain: Path) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", "--max_message_bytes=1000"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await predict(channel, message(np.ones((500, 4), np.float32)))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("caller", ["right", "wrong", "none"])
async def test_client_verify_holds_for_both_ports(
    serving: Any, tmp_path: Path, plain: Path, server_identity: KeyPair, caller: str
) -> None:
    now = datetime.now(UTC)
    root = issue_root([], now=now)
    request = CertificateRequest("client", "cert-ecdsa", size=256, valid_for=1)
    shown = {
        "right": issue_secret_certificate(request, issuer=root, now=now),
        "wrong": issue_secret_certificate(request, issuer=issue_root([], now=now), now=now),
        "none": None,
    }[caller]
    config = tmp_path / "ssl.cfg"
    config.write_text(
        f"server_key: '{one_line(server_identity.key_pem)}' server_cert: '{one_line(server_identity.certificate_pem)}'\n"
        f"custom_ca: '{one_line(root.certificate_pem)}' client_verify: true\n"
    )
    trusted = client_context(roots_pem=server_identity.certificate_pem, certificate=shown)
    credentials = grpc.ssl_channel_credentials(
        server_identity.certificate_pem,
        private_key=shown.key_pem if shown else None,
        certificate_chain=shown.certificate_pem if shown else None,
    )

    async def ask_rest(port: int) -> int:
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            return (await client.get(f"https://localhost:{port}/v1/models/m")).status_code

    flags = ["--model_name=m", f"--model_base_path={plain}", f"--ssl_config_file={config}"]
    async with (
        serving(flags, {}) as ports,
        grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel,
    ):
        if caller == "right":
            np.testing.assert_allclose(await predict(channel, message()), EXPECTED, rtol=1e-6)
            assert await ask_rest(ports["rest"]) == 200
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await predict(channel, message())
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await ask_rest(ports["rest"])


@pytest.mark.parametrize(
    ("storage", "rules", "event"),
    [
        ("ctr", None, "model-not-named"),
        ("ctr", {"format": "ctr"}, "model-without-id"),
        ("plain", {"format": "plain"}, "model-without-id"),
        ("plain", {"format": "plain", "id": "00" * 32}, None),
    ],
)
async def test_t45_a_model_that_nothing_binds_is_warned_of(
    serving: Any,
    tmp_path: Path,
    server_identity: KeyPair,
    capfd: pytest.CaptureFixture[str],
    storage: str,
    rules: Mapping[str, str] | None,
    event: str | None,
) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    environ = {
        "TACIT_TEE": "simulated",
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    if rules is not None:
        environ["TACIT_MODELS"] = json.dumps({"m": rules})
    flags = ["--model_name=m", "--model_base_path=/none", f"--model_format={storage}", f"--model_key_file={key}"]
    async with serving(flags, environ):
        pass
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    warned = [line for line in told if line["level"] == "warning"]
    assert [line["event"] for line in warned] == ([event] if event else [])
    assert all("tacit model inspect" in line["message"] for line in warned)


async def test_a_server_that_attests_connections_shows_its_own_measurement_bound_to_each(
    serving: Any, tmp_path: Path, server_identity: KeyPair
) -> None:
    platform, key = make_platform_folder(tmp_path / "platform"), tmp_path / "key"
    key.write_bytes(KEY)
    environ = {
        "TACIT_TEE": "simulated",
        "TACIT_PLATFORM": str(platform),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    flags = ["--model_base_path=/none", "--model_format=capsule", f"--model_key_file={key}", "--attest_connections"]
    nonce = bytes(range(32))
    async with serving(flags, environ) as ports:
        channel = BoundChannel(parse_address(f"localhost:{ports['rest']}", default_port=1))
        query = [("nonce", nonce.hex())]
        answer = await asyncio.to_thread(channel.call, "GET", EVIDENCE_PATH, query=query)
        assert answer.exporter is not None
        exported = answer.exporter(CHANNEL_LABEL, CHANNEL_SIZE)
        channel.close()
    shown = msgspec.json.decode(answer.body, type=ServerEvidence)
    collateral, anchor = fetch_collateral(shown.evidence, folder=platform), load_anchor(platform)
    claims = verify_evidence(shown.evidence, collateral, anchor, now=datetime.now(UTC))
    key_der = server_identity.certificate_der
    verify_binding(claims, role=Role.MARBLE, key=key_der, nonce=nonce, channel=exported)
    assert claims.measurement == load_package_info(platform, program="marble").unique_id


async def test_t57_who_asks_for_evidence_is_counted_as_for_anything_else(
    serving: Any, tmp_path: Path, server_identity: KeyPair
) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    environ = {
        "TACIT_TEE": "simulated",
        "TACIT_PLATFORM": str(make_platform_folder(tmp_path / "platform")),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    flags = ["--model_base_path=/none", "--model_format=capsule", f"--model_key_file={key}", "--attest_connections"]
    async with serving([*flags, "--max_client_rate=1"], environ) as ports:
        trusted = ssl.create_default_context(cadata=server_identity.certificate_pem.decode())
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            address = f"https://localhost:{ports['rest']}{EVIDENCE_PATH}"
            assert (await client.get(address)).status_code == 400  # it names no nonce
            async with asyncio.timeout(300):
                while (answer := await client.get(address)).status_code != 429:  # a busy machine asks less often
                    assert answer.status_code == 400
    assert "--max_client_rate" in answer.text


async def test_grpcio_is_refused_where_clients_are_known_by_certificates_that_it_would_not_see(
    serving: Any, tmp_path: Path, server_identity: KeyPair
) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    clients = {"a": {"certificate": "ab" * 32, "token": "", "models": ["m"], "management": False}}
    environ = {
        "TACIT_TEE": "simulated",
        "TACIT_CLIENTS": json.dumps(clients),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    flags = ["--model_base_path=/none", "--model_format=capsule", f"--model_key_file={key}", "--edge=grpcio"]
    with pytest.raises(UsageError, match="--edge=grpcio sees no client certificate"):
        async with serving(flags, environ):
            pass


# ---- the program as a process


def run(flags: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    script = "from tacit.programs.serve import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *flags],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "environ", "code", "text"),
    [
        (["--model_nam=m"], {}, 2, "did you mean --model_name?"),
        ([], {}, 2, "model_base_path and server_options.model_config_file are empty"),
        (["--model_base_path=/m", "--port=0"], {}, 2, "both ports are off"),
        (["--model_base_path=/m", "--port=9", "--rest_api_port=9", "--edge=grpcio"], {}, 2, "different numbers"),
        (["--model_base_path=/m", "--model_format=zip"], {}, 2, "expected capsule, ctr, plain"),
        (["--model_base_path=/m", "--model_format=capsule"], {}, 2, "no key was given"),
        (["--model_base_path=/m", "--precision=f8"], {}, 2, "expected f32, f16, bf16, int8"),
        (["--model_base_path=/m", "--device=tpu"], {}, 2, "--device=tpu: expected cpu, gpu"),
        (["--model_base_path=/m", "--edge=nginx"], {}, 2, "expected tacit or grpcio"),
        (["--model_base_path=/m", "--model_name=a/b"], {}, 2, "is no name for a model"),
        (["--model_base_path=gs://bucket/m"], {}, 2, "files of its own machine alone"),
        (["--model_base_path=/m", "--ssl_config_file=/none"], {}, 1, "cannot read /none"),
        (["--model_config_file=/none"], {}, 1, "cannot read /none"),
        (["--model_base_path=/m"], {"TACIT_TEE": "unattested"}, 2, "never serves plaintext"),
        (["--model_base_path=/m"], {"TACIT_MODELS": "{}"}, 1, "does not allow this server to load model 'default'"),
        (["--model_base_path=/m"], {"TACIT_MODELS": "no"}, 2, "TACIT_MODELS"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_clear_line(
    flags: list[str], environ: Mapping[str, str], code: int, text: str
) -> None:
    done = run(flags, environ)
    *_, last = done.stderr.splitlines()
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert last.startswith("Failed to start server. Error: ")
    assert text in last


def test_a_port_that_is_held_is_named(plain: Path) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        done = run([f"--model_base_path={plain}", "--host=127.0.0.1", f"--port={port}"])
    assert done.returncode == 1
    assert str(port) in done.stderr.splitlines()[-1]


def test_help_and_version_are_printed() -> None:
    assert "--model_base_path" in run(["--help"]).stdout
    assert run(["--version"]).stdout.startswith("tacit-serve ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_the_program_ends_well(tmp_path: Path, plain: Path, number: signal.Signals) -> None:
    ports = tmp_path / "ports.json"
    home = tmp_path / "home"
    home.mkdir()
    flags = ["--host=127.0.0.1", "--port=-1", f"--port_file={ports}", f"--model_base_path={plain}", "--threads=1"]
    with subprocess.Popen(
        [sys.executable, "-c", "from tacit.programs.serve import main; main()", *flags],
        env={**os.environ, "HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    ) as process:
        assert process.stderr
        events = []
        for line in process.stderr:
            events.append(json.loads(line))
            if events[-1]["event"] == "ready":
                process.send_signal(number)
        assert process.wait(180) == 0
    names = [event["event"] for event in events]
    assert names == ["trust", "isolation", "listening", "model-available", "ready", "draining", "stopped"]
    assert not list(home.iterdir())


def test_a_terminal_that_closes_is_nothing_to_a_server_under_nohup(tmp_path: Path, plain: Path) -> None:
    log = tmp_path / "log"
    script = "import sys; from tacit.programs.serve import main; sys.argv[0] = 'tacit-serve'; main()"
    flags = ["--host=127.0.0.1", "--port=-1", f"--model_base_path={plain}", "--threads=1", "--isolation=none"]
    with (
        log.open("wb") as written,
        subprocess.Popen(
            ["nohup", sys.executable, "-c", script, *flags], stdout=written, stderr=written, stdin=subprocess.DEVNULL
        ) as process,
    ):
        try:
            await_word(log, '"ready"')
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(180) == 0
        finally:
            process.kill()


def await_word(log: Path, word: str) -> None:
    deadline = time.monotonic() + 300
    while word not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def start_in_private_folder(flags: Sequence[str]) -> tuple[subprocess.Popen[str], Path]:
    """The program with the folder in memory that premain would have made for this very process."""
    script = (
        "import os, pathlib, uuid\n"
        "from tacit.marble.place import make_memory_folder\n"  # locked: who sweeps there meanwhile leaves it
        "made = make_memory_folder(pathlib.Path('/dev/shm'), str(uuid.uuid4()))\n"
        "(made / 'keys' / 'm').write_bytes(bytes(32))\n"
        "os.environ['TACIT_KEY_DIR'] = str(made / 'keys')\n"
        "print(made, flush=True)\n"
        "from tacit.programs.serve import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_t46_the_keys_of_activation_go_with_the_program(plain: Path) -> None:
    flags = ["--host=127.0.0.1", "--port=-1", f"--model_base_path={plain}", "--threads=1"]
    process, folder = start_in_private_folder(flags)
    with process:
        assert process.stderr
        for line in process.stderr:
            if json.loads(line)["event"] == "listening":
                assert (folder / "keys" / "m").exists()
                process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
    assert not folder.exists()


def test_ports_that_cannot_be_written_down_are_one_clear_line(plain: Path, tmp_path: Path) -> None:
    done = run(["--host=127.0.0.1", "--port=-1", f"--model_base_path={plain}", f"--port_file={tmp_path}/none/ports"])
    assert done.returncode == 1
    assert "none/ports" in done.stderr
    assert "Traceback" not in done.stderr


def test_t46_the_keys_of_activation_go_with_a_start_that_is_refused() -> None:
    process, folder = start_in_private_folder(["--model_nam=m"])
    _, told = process.communicate(timeout=60)
    assert (process.returncode, folder.name.startswith("tacit-"), folder.exists()) == (2, True, False), told


def test_t45_an_attested_server_loads_no_plain_model_that_the_manifest_does_not_name(
    plain: Path, server_identity: KeyPair
) -> None:
    identity = {
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server_identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server_identity.key_pem.decode(),
    }
    done = run([f"--model_base_path={plain}"], {**identity, "TACIT_TEE": "simulated"})
    assert done.returncode == 1
    assert "whoever keeps the storage could put any model there" in done.stderr


def test_t06_an_attested_server_without_a_certificate_does_not_start() -> None:
    done = run(["--model_base_path=/m", "--model_format=ctr"], {"TACIT_TEE": "simulated"})
    assert done.returncode == 2
    assert "never serves plaintext" in done.stderr


def test_sigterm_is_not_held_up_by_a_call_that_loads_a_model(tmp_path: Path, plain: Path) -> None:
    ports = tmp_path / "ports.json"
    script = (
        "import time\n"
        "from tacit.programs.model_server import server\n"
        "from tacit.programs.serve import main\n"
        "load, server._DRAIN, loads = server.load_engine, 0.2, []\n"
        "def slow(bundle, options):\n"
        "    loads.append(bundle)\n"
        "    if len(loads) > 1: time.sleep(600)\n"
        "    return load(bundle, options)\n"
        "server.load_engine = slow\n"
        "main()"
    )
    flags = ["--host=127.0.0.1", "--port=0", "--rest_api_port=-1", "--model_name=m", f"--model_base_path={plain}"]
    flags += [f"--port_file={ports}", "--threads=1", "--enable_model_warmup=false"]
    with subprocess.Popen([sys.executable, "-c", script, *flags], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if json.loads(line)["event"] == "ready":
                break
        url = f"http://127.0.0.1:{json.loads(ports.read_text())['rest']}/v2/repository/models/m"
        with httpx.Client(trust_env=False) as client:
            assert client.post(f"{url}/unload").status_code == 200
            with pytest.raises(httpx.TimeoutException):
                client.post(f"{url}/load", timeout=0.5)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(180) == 0
        finally:
            process.kill()


def test_what_nothing_binds_is_told_after_a_reload_too(plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tacit.programs.model_server.models import list_entries
    from tacit.programs.model_server.server import build
    from tacit.programs.model_server.telling import open_log
    from tacit.serving.tfs.flags import parse_flags

    flags = parse_flags(["--model_name=m", f"--model_base_path={plain}", "--threads=1", "--enable_model_warmup=false"])
    environ = {"TACIT_TEE": "unattested"}
    _, repository, reloader = build(flags, environ, None, open_log())
    repository.poll()
    assert capfd.readouterr().err.count('"model-not-named"') == 1
    reloader.apply(list_entries(flags))
    assert capfd.readouterr().err.count('"model-not-named"') == 1
    repository.close()
