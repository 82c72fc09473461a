"""How many marbles, requests and secrets a coordinator takes a second: ours, or any by its address.

    benchmarks/coordinator.py [--quick]                                      starts ours, unattested, in a folder of its own
    benchmarks/coordinator.py --beside PROGRAM                               starts another one too, and compares
    benchmarks/coordinator.py --client localhost:4433 --mesh localhost:2001  drives one that runs and has no manifest yet

The manifest has one marble type, or 1,000, each with four files and four secrets behind them, and one type whose
activations are counted, so that each is stored before it is answered. Clients are processes of their own on the same
processors. Signing requests are a hundred different ones, taking turns: what is remembered of one helps nobody.

The first row is no coordinator's: it is what the cryptography of one activation allows on one thread (a key, the check
of the request's signature, a certificate, all on P-384), as a measure of the machine. PROGRAM takes the variables
EDG_COORDINATOR_* and runs in simulation; it gets our environment.
"""

import argparse
import asyncio
import base64
import itertools
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import httpx
import psutil

from tacit.cli.up.ports import reserved_ports
from tacit.cli.up.processes import Programs, clean_environment, find_program
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.csr import create_csr, parse_csr
from tacit.pki.keys import generate_key
from tacit.pki.leaf import issue_leaf
from tacit.pki.tls import unverified_client_context
from tacit.wire.pb.marble_pb2 import ActivationRequest

ACTIVATE = "/rpc.Marble/Activate"
CSRS = 100
TYPES = 1000
START = 60.0  # seconds
OURS = (find_program("tacit-coordinator"), "--unattested")
PARAMETERS = {
    "Argv": ["tensorflow_model_server", "--port=8500", "--model_name=resnet50"],
    "Env": {"KEY": "{{ hex .Secrets.shared }}", "OWN": "{{ hex .Secrets.own }}"},
    "Files": {
        "/conf/server.crt": "{{ pem .Secrets.cert.Cert }}",
        "/conf/server.key": "{{ pem .Secrets.cert.Private }}",
        "/conf/mesh.crt": "{{ pem .MarbleRun.MarbleCert.Cert }}",
        "/conf/models.cfg": "# a line of configuration\n" * 12,
    },
}
WITH_TOKEN = {**PARAMETERS, "Env": {**PARAMETERS["Env"], "TOKEN": "{{ string .Secrets.token }}"}}
"""What two of the types have: a secret that its owner sets concerns few."""


def manifest(types: int, owner: KeyPair) -> bytes:
    """The manifest of a measurement."""
    marbles = {f"m{number}": {"Package": "p", "Parameters": PARAMETERS} for number in range(types)}
    marbles["counted"] = {"Package": "p", "MaxActivations": 100_000_000, "Parameters": PARAMETERS}
    marbles |= {name: {"Package": "p", "Parameters": WITH_TOKEN} for name in ("reader1", "reader2")}
    content = {
        "Packages": {"p": {"Debug": True}},
        "Marbles": marbles,
        "Secrets": {
            "shared": {"Type": "symmetric-key", "Size": 256, "Shared": True},
            "own": {"Type": "symmetric-key", "Size": 256},
            "cert": {"Type": "cert-ecdsa", "Size": 256, "Shared": True},
            "token": {"Type": "plain", "UserDefined": True},
        },
        "Users": {"owner": {"Certificate": owner.certificate_pem.decode(), "Roles": ["setter"]}},
        "Roles": {"setter": {"ResourceType": "Secrets", "ResourceNames": ["token"], "Actions": ["WriteSecret"]}},
    }
    return json.dumps(content).encode()


# ---- a client, in a process of its own


def credentials(mesh: str, own: KeyPair) -> grpc.ChannelCredentials:
    """Credentials that trust whatever certificate the mesh port shows: who measures has nothing to lose."""
    host, _, port = mesh.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        unverified_client_context(certificate=own, alpn=["h2"]).wrap_socket(plain) as tls,
    ):
        shown = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
    return grpc.ssl_channel_credentials(shown.encode(), own.key_pem, own.certificate_pem)


def orders(marble_type: str, types: int) -> Iterator[bytes]:
    """Activation requests, for one type or for all of `types` in turn, each with a UUID of its own."""
    csrs = [create_csr(generate_key(), ["localhost"]) for _ in range(CSRS)]
    for number, csr in enumerate(itertools.cycle(csrs)):
        named = f"m{number % types}" if types else marble_type
        yield ActivationRequest(csr=csr, marble_type=named, uuid=str(uuid.uuid4())).SerializeToString()


async def activate(options: argparse.Namespace) -> list[float]:
    """Seconds of each activation, `options.callers` at once."""
    own = issue_self_signed(["localhost"], common_name="benchmark", now=datetime.now(UTC))
    trusted = credentials(options.mesh, own)
    request = orders(options.type, options.types)
    alone = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost"))

    async def kept() -> Callable[[], Awaitable[bytes]]:
        channel = grpc.aio.secure_channel(options.mesh, trusted, options=alone)
        call = channel.unary_unary(ACTIVATE)
        await call(next(request))
        return lambda: call(next(request))

    async def new() -> bytes:
        async with grpc.aio.secure_channel(options.mesh, trusted, options=alone) as channel:
            return await channel.unary_unary(ACTIVATE)(next(request))

    calls = [new if options.new else await kept() for _ in range(options.callers)]
    return await _repeat(calls, seconds=options.seconds, count=options.count)


async def _repeat(calls: list[Callable[[], Awaitable[bytes]]], *, seconds: float, count: int) -> list[float]:
    spent: list[float] = []
    until = time.perf_counter() + seconds

    async def one(call: Callable[[], Awaitable[bytes]]) -> None:
        while len(spent) < count if count else time.perf_counter() < until:
            begin = time.perf_counter()
            await call()
            spent.append(time.perf_counter() - begin)

    await asyncio.gather(*map(one, calls))
    return spent


def status(options: argparse.Namespace) -> list[float]:
    """Seconds of each status request over one kept connection, with nothing between it and the socket."""
    host, _, port = options.client.rpartition(":")
    request = f"GET /api/v2/status HTTP/1.1\r\nHost: {options.client}\r\n\r\n".encode()
    spent: list[float] = []
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        unverified_client_context().wrap_socket(plain) as tls,
    ):
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + options.seconds
        while time.perf_counter() < until:
            begin = time.perf_counter()
            tls.sendall(request)
            answer = b""
            while not answer.endswith(b"}\n"):  # the envelope's last bytes
                piece = tls.recv(65536)
                if not piece:
                    raise SystemExit("Error: the coordinator closed the connection")
                answer += piece
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"Error: the coordinator answered {answer[:60]!r}")
            spent.append(time.perf_counter() - begin)
    return spent


def work(options: argparse.Namespace) -> None:
    """One measurement, as JSON on standard output."""
    begin = time.perf_counter()
    spent = status(options) if options.work == "status" else asyncio.run(activate(options))
    # The time of the calls themselves: making keys and requests before them is the client's own business.
    elapsed = sum(spent) / options.callers if options.callers else time.perf_counter() - begin
    ordered = sorted(spent)
    print(json.dumps({
        "rate": len(spent) / elapsed,
        "p50_ms": statistics.median(ordered) * 1000,
        "p95_ms": ordered[int(len(ordered) * 0.95)] * 1000,
    }))  # fmt: skip


# ---- what is measured


class Target:
    """A coordinator that runs, and what is asked of it."""

    def __init__(self, client: str, mesh: str, owner: KeyPair, *, seconds: float) -> None:
        self.client, self.mesh = client, mesh
        self._owner = owner
        self._seconds = seconds

    def set_manifest(self, types: int) -> None:
        """Set the measurement's manifest, and the owner's secret."""
        with self._http() as http:
            body = {"manifest": base64.b64encode(manifest(types, self._owner)).decode()}
            answer = http.post("/api/v2/manifest", json=body)
            if answer.status_code != 200:
                raise SystemExit(f"Error: {self.client} refused the manifest: {answer.text.strip()}")
        self.secret_sets(1)

    def secret_sets(self, count: int) -> dict[str, float]:
        """One owner sets one secret, again and again."""
        spent = []
        with self._http() as http:
            for number in range(count):
                value = base64.b64encode(b"value %d" % number).decode()
                begin = time.perf_counter()
                answer = http.post("/api/v2/secrets", json={"secrets": {"token": {"Key": value}}})
                spent.append(time.perf_counter() - begin)
                if answer.status_code != 200:
                    raise SystemExit(f"Error: {self.client} refused the secret: {answer.text.strip()}")
        ordered = sorted(spent)
        return {
            "rate": count / sum(spent),
            "p50_ms": statistics.median(ordered) * 1000,
            "p95_ms": ordered[int(count * 0.95)] * 1000,
        }

    def measure(self, kind: str, **options: object) -> dict[str, float]:
        """One measurement by a client in a process of its own."""
        given = {"client": self.client, "mesh": self.mesh, "seconds": self._seconds, **options}
        words = [f"--{name}={value}" for name, value in given.items()]
        done = subprocess.run(
            [sys.executable, __file__, f"--work={kind}", *words], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"Error: the client of {kind} ended: {done.stderr.strip()[-500:]}")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _http(self) -> httpx.Client:
        context = unverified_client_context(certificate=self._owner)
        return httpx.Client(base_url=f"https://{self.client}", verify=context, timeout=60)


def counted(types: int) -> str:
    """A number of marble types, in words."""
    return "1 marble type" if types == 1 else f"{types:,} marble types"


def rows_of(target: Target, *, types: int, quick: bool) -> dict[str, dict[str, float]]:
    """What is measured with one manifest, by name."""
    named = counted(types)
    stored = {
        f"activations counted and stored, 16 at once, {named}": target.measure("activate", type="counted", callers=16)
    }
    secret = {f"secret set, {named}": target.secret_sets(10 if quick else 200)}
    if types > 1:
        through = {f"activations, 16 at once, over {named}": target.measure("activate", types=types, callers=16)}
        return through | stored | secret
    return {
        "activations, one after the other": target.measure("activate", type="m0", callers=1),
        "activations, 16 at once": target.measure("activate", type="m0", callers=16),
        "activations, one after the other, a new connection each": target.measure("activate", type="m0", callers=1, new=1),
        "activations, 16 at once, a new connection each": target.measure("activate", type="m0", callers=16, new=1),
        "status requests, one connection": target.measure("status", callers=1),
    } | stored | secret  # fmt: skip


def cryptography_alone(seconds: float) -> dict[str, float]:
    """What one thread can do of an activation's cryptography."""
    issuer = issue_self_signed(["localhost"], common_name="benchmark", now=datetime.now(UTC))
    csr = create_csr(generate_key(), ["localhost"])
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.perf_counter()
        leaf = issue_leaf(
            parse_csr(csr), issuer=issuer, uuid="x", marble_type="m", allowed_names=None, now=datetime.now(UTC)
        )
        if not (leaf.certificate_pem and leaf.key_pem):
            raise SystemExit("Error: a certificate without content")
        spent.append(time.perf_counter() - begin)
    ordered = sorted(spent)
    p95 = ordered[int(len(ordered) * 0.95)] * 1000
    return {"rate": len(spent) / sum(spent), "p50_ms": statistics.median(ordered) * 1000, "p95_ms": p95}


@contextmanager
def running(
    folder: Path, owner: KeyPair, *, seconds: float, command: Sequence[str]
) -> Iterator[tuple[Target, float, psutil.Process]]:
    """A coordinator with its state in `folder`: the target, seconds until it answered, and its process."""
    with reserved_ports([0, 0]) as (client, mesh), Programs(folder / "logs") as programs:
        begin = time.perf_counter()
        program = programs.start(
            "coordinator",
            command,
            env={
                **(clean_environment({}) if command == OURS else os.environ),
                "EDG_COORDINATOR_CLIENT_ADDR": f"127.0.0.1:{client}",
                "EDG_COORDINATOR_MESH_ADDR": f"127.0.0.1:{mesh}",
                "EDG_COORDINATOR_SEAL_DIR": str(folder / "seal"),
            },
        )
        program.wait_until(lambda: answers(client) and answers(mesh), seconds=START)
        started = time.perf_counter() - begin
        yield (
            Target(f"127.0.0.1:{client}", f"127.0.0.1:{mesh}", owner, seconds=seconds),
            started,
            psutil.Process(program.pid),
        )


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measure_program(
    folder: Path, owner: KeyPair, command: Sequence[str], *, quick: bool
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """All rows for a coordinator's program, and what can be said of a process that one has started oneself."""
    seconds = 1.0 if quick else 5.0
    rows: dict[str, dict[str, float]] = {}
    said: list[str] = []
    for types in (1, TYPES):
        place = folder / str(types)
        place.mkdir()
        with running(place, owner, seconds=seconds, command=command) as (target, started, _):
            said.append(f"Started with an empty folder, it answered after {started:.2f} s.")
            target.set_manifest(types)
            rows |= rows_of(target, types=types, quick=quick)
        sealed = sum(file.stat().st_size for file in (place / "seal").iterdir())
        with running(place, owner, seconds=seconds, command=command) as (_, started, _):
            said.append(
                f"Started with the sealed state of {counted(types)} ({sealed / 1e6:.1f} MB), it answered after {started:.2f} s."
            )
    growth = folder / "growth"
    growth.mkdir()
    with running(growth, owner, seconds=seconds, command=command) as (target, _, process):
        target.set_manifest(1)
        sizes = []
        for count in (100, 400) if quick else (1000, 9000):
            target.measure("activate", type="m0", callers=8, count=count)
            sizes.append(f"{process.memory_info().rss / 2**20:.0f} MiB")
        said.append(
            f"Resident memory after {'100 and 500' if quick else '1,000 and 10,000'} activations: {' and '.join(sizes)}."
        )
    return rows, said[:2] + said[3:]


def print_table(rows: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> None:
    """One row a measurement; with another coordinator's rate and how many times that ours is, where it was measured."""
    more = (" the other, a second | ratio |", "---|---|") if other else ("", "")
    print(f"| unattested coordinator | a second | p50, ms | p95, ms |{more[0]}\n|---|---|---|---|{more[1]}")
    for name, row in rows.items():
        beside = other.get(name)
        extra = f" {beside['rate']:,.0f} | {row['rate'] / beside['rate']:.2f} |" if beside else " | |" if other else ""
        print(f"| {name} | {row['rate']:,.0f} | {row['p50_ms']:.2f} | {row['p95_ms']:.2f} |{extra}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--beside", metavar="PROGRAM", help="another coordinator, measured in the same run")
    parser.add_argument("--client", help="client API of a coordinator that runs and has no manifest yet")
    parser.add_argument("--mesh", help="its mesh API")
    parser.add_argument("--marbles", type=int, default=1, help="marble types of the manifest that it gets")
    for name, kind in (("work", str), ("type", str), ("types", int), ("callers", int), ("new", int), ("count", int)):
        parser.add_argument(f"--{name}", type=kind, default=kind(), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
    said: list[str] = []
    other: dict[str, dict[str, float]] = {}
    if options.client and options.mesh:
        target = Target(options.client, options.mesh, owner, seconds=options.seconds)
        target.set_manifest(options.marbles)
        rows = rows_of(target, types=options.marbles, quick=options.quick)
    else:
        with tempfile.TemporaryDirectory(prefix="tacit-bench-") as folder:
            rows = {
                "cryptography of an activation alone, one thread": cryptography_alone(1.0 if options.quick else 5.0)
            }
            measured, said = measure_program(Path(folder), owner, OURS, quick=options.quick)
            rows |= measured
            if options.beside:
                Path(folder, "beside").mkdir()
                other, told = measure_program(Path(folder, "beside"), owner, [options.beside], quick=options.quick)
                said += ["The other one:", *told]
    print_table(rows, other)
    if said:
        print("\n" + " ".join(said))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
