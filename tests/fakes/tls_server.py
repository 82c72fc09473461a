"""A server with REST and gRPC on one port of loopback, whose certificate can be changed while it runs."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric import ec

from fakes.loops import end_loop
from fakes.tee import NOW
from tacit.edge import GrpcCall, HttpRequest, HttpResponse, Listener
from tacit.edge.server import serve
from tacit.pki import KeyPair, issue_leaf
from tacit.pki.csr import create_csr, parse_csr
from tacit.pki.tls import server_context


def server_leaf(issuer: KeyPair) -> KeyPair:
    csr = parse_csr(create_csr(ec.generate_private_key(ec.SECP256R1()), ["localhost"]))
    return issue_leaf(csr, issuer=issuer, uuid="u", marble_type="t", allowed_names=("localhost",), now=NOW)


class Server:
    """A server with REST and gRPC on one port, whose certificate can be changed while it runs."""

    def __init__(self, shown: KeyPair) -> None:
        self.shown = shown
        self.calls = 0
        self.port = 0

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    async def http(self, request: HttpRequest) -> HttpResponse:
        self.calls += 1
        return HttpResponse(200, b"over http: " + request.body)

    async def grpc(self, message: bytes, call: GrpcCall) -> bytes:
        self.calls += 1
        return b"over grpc: " + message


@contextmanager
def running(server: Server) -> Iterator[Server]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    tls = server_context(
        lambda: (server.shown.certificate_pem, server.shown.key_pem),
        client_certificates="none",
        alpn=["h2", "http/1.1"],
    )

    async def answer(request: HttpRequest) -> HttpResponse:
        return await server.http(request)  # whichever it is now

    async def start() -> Listener:
        return await serve(
            host="127.0.0.1", port=0, tls=tls, http=answer, grpc={"/a.Service/Do": server.grpc}, max_body=1 << 20,
            max_message=1 << 20,
        )  # fmt: skip

    listener = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    server.port = listener.port
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(listener.close(0.1), loop).result(60)
        end_loop(loop, thread)
