"""The programs as a user starts them, on free ports, with their logs; and a marble that activates over gRPC.

with CoordinatorProcess(tmp_path) as coordinator:
    coordinator.client          # "127.0.0.1:PORT"
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpclib.client
import httpx

from tacit.evidence import report_data
from tacit.evidence.claims import Issuer, Role
from tacit.evidence.issue import init_platform
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.pki.tls import unverified_client_context
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse

_PROGRAMS = Path(sys.executable).parent
_LISTENING = re.compile(r"(client|mesh) API listening on (\S+?)[\"\s]")
_START = 180.0  # seconds


def make_platform_folder(folder: Path) -> Path:
    """A simulated platform of the test's own."""
    init_platform(folder, now=datetime.now(UTC))
    return folder


class CoordinatorProcess:
    """`tacit-coordinator` in a process of its own, on free ports. Without a platform it runs unattested."""

    def __init__(
        self,
        folder: Path,
        *,
        platform: Path | None = None,
        environ: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.log_file = folder / "coordinator.log"
        self.seal_folder = folder / "seal"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "EDG_COORDINATOR_CLIENT_ADDR": "127.0.0.1:0",
            "EDG_COORDINATOR_MESH_ADDR": "127.0.0.1:0",
            "EDG_COORDINATOR_SEAL_DIR": str(self.seal_folder),
            **({"TACIT_PLATFORM": str(platform)} if platform else {"OE_SIMULATION": "1"}),
            **(environ or {}),
        }
        self.client = self.mesh = ""
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen([_PROGRAMS / "tacit-coordinator"], env=env, stderr=log, cwd=folder)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Both ports are open."""
        limit = time.monotonic() + _START
        while not (self.client and self.mesh):
            found = dict(_LISTENING.findall(self.log_file.read_text()))
            self.client, self.mesh = found.get("client", ""), found.get("mesh", "")
            if self.process.poll() is not None or time.monotonic() > limit:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the coordinator did not start:\n{self.log_file.read_text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """End it as a supervisor does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=180)

    def log(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    def http(self, user: KeyPair | None = None) -> httpx.Client:
        """An HTTPS client that verifies nothing, for tests that ask about something else."""
        return httpx.Client(base_url=f"https://{self.client}", verify=unverified_client_context(certificate=user))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


async def activate(
    address: str,
    marble_type: str,
    *,
    uuid: str,
    issuer: Issuer | None = None,
    names: tuple[str, ...] = ("localhost",),
) -> ActivationResponse:
    """Activate as a marble does, once, verifying nothing of the coordinator."""
    own = issue_self_signed(list(names), common_name="MarbleRun Marble", now=datetime.now(UTC))
    quote = b"" if issuer is None else issuer.issue_evidence(report_data(role=Role.MARBLE, key=own.certificate_der))
    csr = create_csr(generate_key(), list(names))
    request = ActivationRequest(quote=quote, csr=csr, marble_type=marble_type, uuid=uuid)
    host, _, port = address.rpartition(":")
    context = unverified_client_context(certificate=own, alpn=["h2"])
    channel = grpclib.client.Channel(host, int(port), ssl=context)
    try:
        method = grpclib.client.UnaryUnaryMethod(channel, "/rpc.Marble/Activate", ActivationRequest, ActivationResponse)
        return await method(request, timeout=60)
    finally:
        protocol = getattr(channel, "_protocol", None)
        transport = getattr(getattr(protocol, "connection", None), "_transport", None)
        channel.close()
        if transport is not None:
            transport.abort()  # without waiting for the other end's goodbye, which a killed one never says
        await asyncio.sleep(0.01)
