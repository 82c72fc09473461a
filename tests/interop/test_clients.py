"""Clients that others wrote, against the program as a user starts it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto

from fakes import models

PROGRAMS = Path(__file__).with_name("programs")
SAME = {
    "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT, "fp64": TensorProto.DOUBLE,
}  # fmt: skip

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """A server with one model that computes, and one per element type that gives back what it gets."""
    folder = tmp_path_factory.mktemp("clients")
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
        )
    try:
        for _ in range(600):
            if b'"ready"' in log.read_bytes():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield json.loads(port_file.read_text())
    finally:
        server.terminate()
        assert server.wait(30) == 0


@pytest.mark.clients
@pytest.mark.skipif(
    "TACIT_CLIENTS_PYTHON" not in os.environ,
    reason="TACIT_CLIENTS_PYTHON names no interpreter; `make clients` makes one",
)
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


@pytest.mark.tensorflow
@pytest.mark.skipif(
    "TACIT_TENSORFLOW_PYTHON" not in os.environ,
    reason="TACIT_TENSORFLOW_PYTHON names no interpreter; `make tensorflow` makes one",
)
def test_the_stubs_of_tensorflow_serving_get_their_answers(ports: dict[str, int]) -> None:
    drive(os.environ["TACIT_TENSORFLOW_PYTHON"], "stubs", "grpc", f"127.0.0.1:{ports['grpc']}")


def drive(python: str, program: str, kind: str, address: str) -> None:
    """Run one client to its end."""
    done = subprocess.run(
        [python, PROGRAMS / f"{program}_calls.py", kind, address],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["done"]), done.stderr[-3000:]
