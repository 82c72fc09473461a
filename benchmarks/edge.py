"""Our own server beside grpcio's, as clients see them: tiny calls, bodies of an image, bodies of a batch.

Usage: python benchmarks/edge.py [--quick] [--rounds N] [--json FILE]. Each server runs in a process of its own and does
nothing with what it gets; the clients share its cores. A cell meets both servers in turns, so that both meet the same
moods of the machine. `raw` is a client of a few lines over sockets: grpcio's own needs more time for a tiny call than
the servers do.
"""

import argparse
import asyncio
import json
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio

from tacit.edge import GrpcCall, HttpRequest, HttpResponse
from tacit.edge.http2 import PREFACE, encode_block
from tacit.pki import issue_self_signed
from tacit.pki.tls import client_context, server_context

PATH = "/bench.Bench/Call"
KINDS = ("tacit", "grpcio")
IMAGE, BATCH = 602_112 + 60, 38_535_168 + 60  # bytes of one image and of 64, as ResNet-50 takes them, in a request
SECONDS = 2.0


# ---- the servers


async def answer(_message: bytes, _call: GrpcCall) -> bytes:
    return b"ok"


async def status(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b'{"status":"success"}\n', {"content-type": "application/json"})


async def serve(kind: str, chain: bytes, key: bytes) -> None:
    """Open a plain and a TLS port, say which, and stay."""
    from tacit.edge.data import serve_grpc_data
    from tacit.edge.server import serve as serve_both
    from tacit.programs.memory import keep_buffers

    keep_buffers()  # as tacit-serve does

    ports, listeners = [], []
    for secure in (False, True):
        if kind == "tacit":
            tls = server_context(lambda: (chain, key), client_certificates="none", alpn=["h2", "http/1.1"])
            listener = await serve_both(
                host="127.0.0.1",
                port=0,
                tls=tls if secure else None,
                grpc={PATH: answer},
                http=status,
                max_message=1 << 30,
            )
        else:
            credentials = (lambda: (chain, key)) if secure else None
            listener = await serve_grpc_data(
                {PATH: answer},
                host="127.0.0.1",
                port=0,
                credentials=credentials,
                client_roots=None,
                max_message=1 << 30,
            )
        listeners.append(listener)
        ports.append(listener.port)
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


class Server:
    """One of the servers, in a process of its own."""

    def __init__(self, kind: str, chain: bytes, key: bytes) -> None:
        self.kind, self.roots = kind, chain
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([chain.decode(), key.decode()]).encode() + b"\n")
        self._process.stdin.flush()
        self.plain, self.tls = json.loads(self._process.stdout.readline())

    def cpu(self) -> float:
        """Seconds of processor that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


# ---- the raw client


def headers(path: str) -> bytes:
    """The header block of a call."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    return encode_block([*fields, ("content-type", "application/grpc"), ("te", "trailers")])


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


class RawClient:
    """One connection that has one call under way at a time."""

    def __init__(self, port: int, path: str = PATH) -> None:
        self.head = headers(path)
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = -1
        self.buffer = b""
        window = struct.pack(">I", 2**31 - 1 - 65535)
        self.sock.sendall(PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1)) + frame(8, 0, 0, window))

    def ask(self, body: bytes) -> None:
        self.stream += 2
        message = b"\0" + len(body).to_bytes(4, "big") + body
        self.sock.sendall(frame(1, 4, self.stream, self.head) + frame(0, 1, self.stream, message))

    def heard(self) -> bool:
        """Read what there is; whether the answer is whole."""
        self.buffer += self.sock.recv(65536)
        done = False
        while len(self.buffer) >= 9:
            size = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + size:
                break
            kind, flags = self.buffer[3], self.buffer[4]
            payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
            if kind == 1 and flags & 1:
                done = True
            elif kind in (4, 6) and not flags & 1:
                self.sock.sendall(frame(kind, 1, 0, payload if kind == 6 else b""))
            elif kind == 7 or kind == 3:
                raise SystemExit(f"Error: the server ended the call: {payload!r}")
        return done


def raw_rate(port: int, clients: int, seconds: float) -> tuple[float, float]:
    """Calls a second, and the median of one in milliseconds, with so many connections at once."""
    selector = selectors.DefaultSelector()
    begun: dict[RawClient, float] = {}
    times: list[float] = []
    for _ in range(clients):
        client = RawClient(port)
        selector.register(client.sock, selectors.EVENT_READ, client)
        begun[client] = time.perf_counter()
        client.ask(b"x" * 16)
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        for key, _ in selector.select(1.0):
            client = key.data
            if client.heard():
                now = time.perf_counter()
                times.append(now - begun[client])
                begun[client] = now
                client.ask(b"x" * 16)
    took = now - started
    for client in begun:
        client.sock.close()
    return len(times) / took, statistics.median(times) * 1000


def http_rate(port: int, roots: bytes, seconds: float) -> tuple[float, float]:
    """Tiny GETs a second over one kept TLS connection, and the median of one in milliseconds."""
    context = client_context(roots_pem=roots, alpn=["http/1.1"])
    times: list[float] = []
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = before = time.perf_counter()
        while before - started < seconds:
            tls.sendall(b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"}\n"):
                received += tls.recv(65536)
            now = time.perf_counter()
            times.append(now - before)
            before = now
    return len(times) / (before - started), statistics.median(times) * 1000


# ---- grpcio's client


async def grpcio_rate(
    server: Server, *, clients: int, body: bytes, secure: bool, seconds: float
) -> tuple[float, float]:
    """Calls a second, and the median of one in milliseconds, with so many callers on a channel each."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    times: list[float] = []

    async def call(stop: float) -> None:
        if secure:
            credentials = grpc.ssl_channel_credentials(server.roots)
            channel = grpc.aio.secure_channel(f"localhost:{server.tls}", credentials, options)
        else:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.plain}", options)
        async with channel:
            method = channel.unary_unary(PATH)
            await method(b"")
            await method(body)
            while (before := time.perf_counter()) < stop:
                await method(body)
                times.append(time.perf_counter() - before)

    await asyncio.gather(*(call(time.perf_counter() + seconds) for _ in range(clients)))
    return len(times) / seconds, statistics.median(times) * 1000


def grpcio_cell(clients: int, size: int, *, secure: bool) -> Callable[[Server, float], tuple[float, float]]:
    body = bytes(size)

    def measure(server: Server, seconds: float) -> tuple[float, float]:
        return asyncio.run(grpcio_rate(server, clients=clients, body=body, secure=secure, seconds=seconds))

    return measure


CELLS: dict[str, Callable[[Server, float], tuple[float, float]]] = {
    "16 bytes, 16 raw clients": lambda server, seconds: raw_rate(server.plain, 16, seconds),
    "16 bytes, 1 raw client": lambda server, seconds: raw_rate(server.plain, 1, seconds),
    "16 bytes, 16 grpcio clients": grpcio_cell(16, 16, secure=False),
    "16 bytes, 1 grpcio client": grpcio_cell(1, 16, secure=False),
    "600 kB over TLS, 1 grpcio client": grpcio_cell(1, IMAGE, secure=True),
    "600 kB over TLS, 4 grpcio clients": grpcio_cell(4, IMAGE, secure=True),
    "38 MB over TLS, 1 grpcio client": grpcio_cell(1, BATCH, secure=True),
}


HTTP_CELL = "HTTP/1.1 GET over TLS, 1 client"


def measure(*, rounds: int, seconds: float, only: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """For each cell and server the best rate, the best median and the least processor time for a call (ms)."""
    pair = issue_self_signed(["localhost"], common_name="benchmark", now=datetime.now(UTC))
    servers = [Server(kind, pair.certificate_pem, pair.key_pem) for kind in KINDS]
    best: dict[str, dict[str, tuple[float, float, float]]] = {}
    try:
        for cell, run in CELLS.items():
            if only not in cell:
                continue
            found: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(rounds):
                for server in servers:
                    before, started = server.cpu(), time.perf_counter()
                    rate, median = run(server, seconds)
                    calls = rate * min(seconds, time.perf_counter() - started)
                    found.setdefault(server.kind, []).append((rate, median, (server.cpu() - before) * 1000 / calls))
            best[cell] = {
                kind: (max(r[0] for r in runs), min(r[1] for r in runs), min(r[2] for r in runs))
                for kind, runs in found.items()
            }
        if only in HTTP_CELL:
            runs = [http_rate(servers[0].tls, servers[0].roots, seconds) for _ in range(rounds)]
            best[HTTP_CELL] = {"tacit": (max(r[0] for r in runs), min(r[1] for r in runs), 0.0)}
    finally:
        for server in servers:
            server.end()
    return best


def table(best: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    lines = [
        "| call | ours: calls/s | p50 ms | server CPU ms | grpcio: calls/s | p50 ms | server CPU ms | ours / grpcio calls/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, kinds in best.items():
        ours, theirs = kinds["tacit"], kinds.get("grpcio")
        left = f"| {cell} | {ours[0]:.0f} | {ours[1]:.3f} | {ours[2]:.3f} |"
        if theirs is None:
            lines.append(f"{left.rsplit('|', 2)[0]}| - | - | - | - | - |")
        else:
            lines.append(f"{left} {theirs[0]:.0f} | {theirs[1]:.3f} | {theirs[2]:.3f} | {ours[0] / theirs[0]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        chain, key = json.loads(sys.stdin.readline())
        asyncio.run(serve(options.serve, chain.encode(), key.encode()))
        return
    rounds, seconds = (1, 0.3) if options.quick else (options.rounds, SECONDS)
    best = measure(rounds=rounds, seconds=seconds, only=options.only)
    if options.json:
        options.json.write_text(json.dumps(best))
    print(table(best))


if __name__ == "__main__":
    main()
