"""Clients that others wrote, against the program as a user starts it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx import TensorProto

import tacit
from fakes import models
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee
from fakes.tls_server import server_leaf
from tacit.client.coordinator import fingerprint
from tacit.client.trust import Expectation, TrustStore
from tacit.evidence.simulated.platform import render_platform
from tacit.manifest import Package

PROGRAMS = Path(__file__).with_name("programs")
SAME = {
    "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT, "fp64": TensorProto.DOUBLE,
}  # fmt: skip

pytestmark = pytest.mark.timeout(600)

needs_clients = pytest.mark.skipif(
    "TACIT_CLIENTS_PYTHON" not in os.environ,
    reason="TACIT_CLIENTS_PYTHON names no interpreter; `make clients` makes one",
)
needs_tensorflow = pytest.mark.skipif(
    "TACIT_TENSORFLOW_PYTHON" not in os.environ,
    reason="TACIT_TENSORFLOW_PYTHON names no interpreter; `make tensorflow` makes one",
)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """A server without TLS."""
    yield from serving(tmp_path_factory.mktemp("clients"), {})


@dataclass
class Attested:
    """A server with the certificate of a coordinator's marble, and the file by which programs open a session."""

    ports: dict[str, int]
    file: Path


@pytest.fixture(scope="module")
def attested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attested]:
    folder, tee = tmp_path_factory.mktemp("attested"), FakeTee()
    (folder / "platform").mkdir()
    (folder / "platform" / "platform.json").write_bytes(render_platform(tee.platform.public()))
    with FakeCoordinator(tee=tee) as coordinator:
        trust, package = TrustStore(folder / "trust"), Package(unique_id=tee.package_info.unique_id, tee="simulated")
        trust.store_expectation(coordinator.host, Expectation("simulated", package, tee.anchor))
        trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
        told = {"host": coordinator.host, "trust": str(folder / "trust"), "platform": str(folder / "platform")}
        (folder / "session.json").write_text(json.dumps(told | {"now": NOW.isoformat()}))
        assert coordinator.intermediate is not None
        leaf = server_leaf(coordinator.intermediate)
        identity = {
            "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": leaf.certificate_pem.decode(),
            "MARBLE_PREDEFINED_PRIVATE_KEY": leaf.key_pem.decode(),
        }
        for ports in serving(folder / "server", identity):
            yield Attested(ports, folder / "session.json")


def serving(folder: Path, identity: dict[str, str]) -> Iterator[dict[str, int]]:
    """The ports of a server with one model that computes, and one per element type that gives back what it gets."""
    folder.mkdir(exist_ok=True)
    contents = {"m": models.onnx_model(), **{f"same_{name}": models.onnx_identity(kind) for name, kind in SAME.items()}}
    entries = []
    for name, content in contents.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.onnx").write_bytes(content)
        entries.append(f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}')
    (folder / "models.cfg").write_text("model_config_list { " + " ".join(entries) + " }")
    port_file, log = folder / "ports.json", folder / "log"
    flags = [f"--model_config_file={folder / 'models.cfg'}", "--host=127.0.0.1", "--port=-1", "--rest_api_port=-1"]
    with log.open("wb") as target:
        server = subprocess.Popen(
            [sys.executable, "-c", "from tacit.programs.serve import main; main()", *flags, f"--port_file={port_file}"],
            stderr=target,
            env=os.environ | identity,
        )
    try:
        for _ in range(2000):
            if b'"ready"' in log.read_bytes():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield json.loads(port_file.read_text())
    finally:
        server.terminate()
        assert server.wait(60) == 0


@pytest.mark.clients
@needs_clients
@pytest.mark.parametrize(
    ("program", "kind", "port"),
    [
        ("triton", "grpc", "grpc"),
        ("triton", "http", "rest"),
        ("triton", "grpc-aio", "grpc"),
        ("triton", "http-aio", "rest"),
        ("kserve", "grpc", "grpc"),
        ("kserve", "rest", "rest"),
        ("ovms", "grpc", "grpc"),
        ("ovms", "http", "rest"),
    ],
)
def test_a_client_that_others_wrote_gets_its_answers(ports: dict[str, int], program: str, kind: str, port: str) -> None:
    drive(os.environ["TACIT_CLIENTS_PYTHON"], program, kind, f"127.0.0.1:{ports[port]}")


@pytest.mark.clients
@pytest.mark.skipif(
    "TACIT_PERF_ANALYZER" not in os.environ,
    reason="TACIT_PERF_ANALYZER names no perf_analyzer; `make clients` fetches it where it can",
)
@pytest.mark.parametrize(
    ("kind", "protocol", "port"),
    [("triton", "grpc", "grpc"), ("triton", "http", "rest"), ("tfserving", "grpc", "grpc")],
)
def test_perf_analyzer_measures_to_its_end(ports: dict[str, int], kind: str, protocol: str, port: str) -> None:
    program = Path(os.environ["TACIT_PERF_ANALYZER"])
    asked = ["-m", "m", "-u", f"127.0.0.1:{ports[port]}", "-i", protocol, "--service-kind", kind, "--shape", "x:4"]
    # A few windows of a few hundred requests, however much their times differ: this machine is not what is measured.
    often = ["-b", "2", "--concurrency-range", "2", "--measurement-mode", "count_windows", "-s", "99", "-r", "30"]
    done = subprocess.run(
        [program, *asked, *often, "--measurement-request-count", "200"],
        env=os.environ | {"LD_LIBRARY_PATH": str(program.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput: 0 " not in done.stdout
    assert "Throughput: " in done.stdout


@pytest.mark.tensorflow
@needs_tensorflow
def test_the_stubs_of_tensorflow_serving_get_their_answers(ports: dict[str, int]) -> None:
    drive(os.environ["TACIT_TENSORFLOW_PYTHON"], "stubs", "grpc", f"127.0.0.1:{ports['grpc']}")


@pytest.mark.clients
@needs_clients
@pytest.mark.parametrize(
    ("kind", "port"), [("grpc", "grpc"), ("http", "rest"), ("grpc-aio", "grpc"), ("http-aio", "rest")]
)
def test_tritons_client_goes_over_an_attested_session(attested: Attested, kind: str, port: str) -> None:
    address = f"localhost:{attested.ports[port]}"
    drive(os.environ["TACIT_CLIENTS_PYTHON"], "triton", kind, address, str(attested.file))


@pytest.mark.tensorflow
@needs_tensorflow
def test_the_stubs_of_tensorflow_serving_go_over_an_attested_session(attested: Attested) -> None:
    address = f"localhost:{attested.ports['grpc']}"
    drive(os.environ["TACIT_TENSORFLOW_PYTHON"], "stubs", "grpc", address, str(attested.file))


def drive(python: str, program: str, kind: str, address: str, *more: str) -> None:
    """Run one client to its end."""
    given = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [python, PROGRAMS / f"{program}_calls.py", kind, address, *more],
        capture_output=True,
        text=True,
        env=given | ({"PYTHONPATH": str(Path(tacit.__file__).parents[1])} if more else {}),
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-3000:]
