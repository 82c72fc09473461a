"""Coordinator and server as containers on one host, as the original demo's run_tf_image.sh starts them."""

import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from fakes import models
from fakes.containers import IMAGES, LIMITS, PODMAN, STORAGE, package_of, podman, reference, require_images
from fakes.programs import make_platform_folder
from fakes.stage import Running, Stage
from tacit.client.inference import ServingClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SERVERS = {"coordinator": "tacit-coordinator", "marble": "tacit-serve"}
PREMAIN = {"coordinator": "tacit-coordinator", "marble": "tacit-premain"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Host(Stage):
    """A stage on which coordinator and server are containers, started by the script that people start them by."""

    argv: tuple[str, ...] = ()
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    containers: list[str] = field(default_factory=list)

    def container(self, what: str, **more: str) -> Running:
        name = f"tacit-test-{os.getpid()}-{len(self.containers)}"
        self.containers.append(name)
        log = self.folder / f"{what}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [str(IMAGES / "run.sh"), what, *LIMITS],
                cwd=self.folder,
                env=self.environment(CONTAINERS=" ".join(PODMAN), TACIT_CONTAINER=name, **more),
                stdout=out,
                stderr=out,
            )
        self.running.append(Running(process, log))
        return self.running[-1]

    def start_coordinator(self, **more: str) -> Running:
        self.host, self.mesh = f"localhost:{self.ports[0]}", f"localhost:{self.ports[1]}"
        (self.folder / "encrypted").mkdir(exist_ok=True)
        capsule = (self.folder / "m.capsule").rename(self.folder / "encrypted" / "m.capsule")
        capsule.chmod(0o644)  # as `tacit model encrypt` leaves it: the server is another user
        listen = {"CLIENT": self.ports[0], "MESH": self.ports[1]}
        addresses = {f"EDG_COORDINATOR_{name}_ADDR": f"127.0.0.1:{port}" for name, port in listen.items()}
        coordinator = self.container("coordinator", **addresses, **more)
        coordinator.wait_for("client API listening")
        return coordinator

    def manifest(self, model: str, owner: str, config: Mapping[str, object]) -> dict[str, Any]:
        manifest = super().manifest(model, owner, config)
        manifest["Marbles"]["server"]["Parameters"]["Argv"] = list(self.argv)
        return manifest

    def serve(self, **more: str) -> Running:
        return self.container(
            "server",
            EDG_MARBLE_TYPE="server",
            EDG_MARBLE_COORDINATOR_ADDR=self.mesh,
            TACIT_COORDINATOR_API=self.host,
            TACIT_COORDINATOR_PACKAGE="coordinator.json",
            **more,
        )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(self.containers):
            podman("rm", "--force", "--time", "5", name, check=False)
        super().__exit__(kind, value, trace)
        podman("volume", "rm", "--force", "tacit-coordinator-data", check=False)
        podman("secret", "rm", "tacit-platform", check=False)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    require_images()
    platform = make_platform_folder(tmp_path / "platform")
    with Host(
        tmp_path, "simulated", lambda program: package_of(SERVERS[program]), env={"TACIT_PLATFORM": str(platform)}
    ) as made:
        yield made


def test_two_containers_on_one_host_activate_and_predict(host: Host) -> None:
    grpc, rest = host.ports[2:]
    ports = ("--host=127.0.0.1", f"--port={grpc}", f"--rest_api_port={rest}")
    host.argv = ("tacit-serve", "--model_name=m", "--model_base_path=encrypted/m.capsule", *ports)
    host.prepare()
    server = host.serve()
    server.wait_for('"ready"')
    assert "activated as server, SIMULATED" in server.said
    assert "is the pinned one, SIMULATED" in server.said
    host.types("certificate", "intermediate", host.host, "-o", "servers.crt")
    with ServingClient(f"localhost:{grpc}", roots_pem=(host.folder / "servers.crt").read_bytes()) as client:
        answer = client.predict("m", {"x": np.ones((2, 4), np.float32)}).outputs
    assert all(np.isfinite(value).all() for value in answer.values())

    name = host.containers[-1]
    inside = json.loads(podman("inspect", name).stdout)[0]
    assert inside["HostConfig"]["ReadonlyRootfs"] is True
    assert inside["Config"]["User"] == "65532:65532"
    assert inside["EffectiveCaps"] in (None, [])
    started = time.monotonic()
    podman("stop", "--time", "60", name)
    assert server.process.wait(60) == 0
    assert '"draining"' in server.said
    assert time.monotonic() - started < 30


def test_a_container_of_another_program_gets_no_key(host: Host) -> None:
    """The manifest names the server's image; premain alone, which could become anything, is another."""
    host.argv = ("tacit-serve", "--model_name=m", "--model_base_path=encrypted/m.capsule")
    host.prepare()
    server = host.serve(TACIT_IMAGE=reference("tacit-premain"))
    server.wait_for("refuses")
    assert server.process.wait(60) == 1
    assert "measurement" in server.said or "UniqueID" in server.said


STAND_IN = """#!/usr/bin/python3.11 -I
import hashlib, pathlib, sys
base = next(word.partition("=")[2] for word in sys.argv if word.startswith("--model_base_path="))
model = pathlib.Path(base, "1", "saved_model.pb").read_bytes()
print("foreign server:", hashlib.sha256(model).hexdigest(), pathlib.Path("ssl.cfg").read_text()[:40], flush=True)
"""


def test_a_foreign_server_behind_our_premain_gets_its_files_and_its_model_in_memory(tmp_path: Path) -> None:
    """What foreign.Dockerfile makes of an image of TensorFlow Serving's, with a small stand-in for its binary."""
    require_images()
    image = "localhost/foreign-server-test:1"
    context = tmp_path / "context"
    context.mkdir()
    (context / "tensorflow_model_server").write_text(STAND_IN)
    (context / "tensorflow_model_server").chmod(0o755)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY tensorflow_model_server /usr/bin/\n")
    build = ["buildah", *STORAGE, "bud", "--isolation", "chroot", "--pull-never"]
    subprocess.run([*build, "-t", "localhost/stand-in-test:1", str(context)], check=True, capture_output=True)
    arguments = [
        "--build-arg",
        "SERVER=localhost/stand-in-test:1",
        "--build-arg",
        f"PREMAIN={reference('tacit-premain')}",
    ]
    recipe = ["-f", str(IMAGES / "foreign.Dockerfile"), "-t", image, str(context)]
    subprocess.run([*build, *arguments, *recipe], check=True, capture_output=True)
    platform = make_platform_folder(tmp_path / "platform")
    with Host(
        tmp_path, "simulated", lambda program: package_of(PREMAIN[program]), env={"TACIT_PLATFORM": str(platform)}
    ) as host:
        host.argv = ("tensorflow_model_server", "--model_name=m", "--model_base_path=/dev/shm/m")
        serve_foreign(host, image)
    podman("rmi", "--force", image, "localhost/stand-in-test:1", check=False)


def serve_foreign(host: Host, image: str) -> None:
    """The original demo's manifest in essence: key and ssl.cfg as Files, the model decrypted by premain."""
    plain = models.onnx_model()
    (host.folder / "saved_model.pb").write_bytes(plain)
    host.types("model", "encrypt", "-k", "model_key", "-m", "saved_model.pb", "--format", "ctr", "--unauthenticated")
    (host.folder / "m.capsule").write_bytes(b"")
    host.start_coordinator()
    host.trust()
    marble = {
        "Package": "server",
        "AllowedNames": ["localhost"],
        "Parameters": {
            "Argv": list(host.argv),
            "Env": {"EDG_DECRYPT_MODEL": "1"},
            "Files": {
                "model_key": (host.folder / "model_key").read_text(),
                "ssl.cfg": "server_key: '{{ base64 .MarbleRun.MarbleCert.Private }}'",
            },
        },
    }
    manifest = {"Packages": {"server": host.package("marble")}, "Marbles": {"server": marble}}
    (host.folder / "manifest.json").write_text(json.dumps(manifest))
    host.types("manifest", "set", "manifest.json", host.host)
    server = host.serve(TACIT_IMAGE=image)
    said = server.wait_for("foreign server:")
    assert f"foreign server: {hashlib.sha256(plain).hexdigest()} server_key: 'MI" in said
    assert server.process.wait(60) == 0
