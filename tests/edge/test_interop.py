"""Programs that others wrote against our ports: grpcio's blocking client, httpx, curl, gRPC for Go, Node and Java, and h2spec."""

import asyncio
import functools
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tacit.edge import GrpcCall, GrpcStreaming, HttpRequest, HttpResponse
from tacit.edge.http2 import Rules
from tacit.edge.server import serve
from tacit.edge.service import Limits
from tacit.errors import RequestError, Status
from tacit.pki.tls import client_context, server_context

ROOT = Path(__file__).parents[2]
LIMIT = 32 << 20


async def echo(message: bytes, _call: GrpcCall) -> bytes:
    return message


async def refuse(_message: bytes, _call: GrpcCall) -> bytes:
    raise RequestError(Status.FAILED_PRECONDITION, "für später 100 %\n")


async def wait(_message: bytes, _call: GrpcCall) -> bytes:
    await asyncio.sleep(60)
    return b""


async def tell(_message: bytes, call: GrpcCall) -> bytes:
    return repr(sorted(call.metadata.items())).encode()


async def double(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        yield message + message


METHODS: dict[str, Any] = {
    "/t/Echo": echo,
    "/t/Refuse": refuse,
    "/t/Wait": wait,
    "/t/Tell": tell,
    "/t/Double": GrpcStreaming(double),
}


async def mirror(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b"%s %s %d" % (request.method.encode(), request.path.encode(), len(request.body)))


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None, rules: Rules | None = None) -> AsyncIterator[int]:
    listener = await serve(
        host="127.0.0.1",
        port=0,
        tls=tls,
        http=mirror,
        grpc=METHODS,
        max_body=LIMIT,
        max_message=LIMIT,
        limits=Limits(http2=rules or Rules()),
    )
    try:
        yield listener.port
    finally:
        await listener.close(0.2)


def tls_of(mesh: Any) -> Any:
    return server_context(mesh.credentials, client_certificates="request", alpn=["h2", "http/1.1"])


# ---- grpcio's blocking client


async def blocking(mesh: Any, work: Any) -> None:
    """Do `work` with a channel in a thread of its own."""

    def run(port: int) -> None:
        credentials = grpc.ssl_channel_credentials(mesh.root.certificate_pem)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
            work(channel)

    async with serving(tls_of(mesh)) as port:
        await asyncio.to_thread(run, port)


async def test_a_blocking_client_gets_messages_of_every_size(mesh: Any) -> None:
    def work(channel: grpc.Channel) -> None:
        for size in (0, 1, 16_379, 16_384, 65_536, 1 << 20, 20 << 20):
            message = os.urandom(size)
            assert channel.unary_unary("/t/Echo")(message) == message

    await blocking(mesh, work)


async def test_a_blocking_client_streams_and_stops(mesh: Any) -> None:
    def work(channel: grpc.Channel) -> None:
        sent = [os.urandom(size) for size in (0, 10, 100_000, 3_000_000) * 3]
        assert list(channel.stream_stream("/t/Double")(iter(sent))) == [each + each for each in sent]
        cancelled = threading.Event()

        def unfinished() -> Iterator[bytes]:  # were it to end, the server could end the call before it is cancelled
            yield b"a"
            cancelled.wait()

        call = channel.stream_stream("/t/Double")(unfinished())
        assert next(call) == b"aa"
        call.cancel()
        cancelled.set()
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
        assert refused.value.code() is grpc.StatusCode.CANCELLED
        assert channel.unary_unary("/t/Echo")(b"x") == b"x"

    await blocking(mesh, work)


async def test_a_blocking_client_gets_status_deadline_and_metadata(mesh: Any) -> None:
    def work(channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/t/Refuse")(b"")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.details() == "für später 100 %\n"
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/t/Wait")(b"", timeout=0.1)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        metadata = (("x-id", "7"), ("x-id", "8"), ("x-raw-bin", b"\0\xff"))
        told = channel.unary_unary("/t/Tell")(b"", metadata=metadata).decode()
        assert "('x-id', '7, 8')" in told
        assert "x-raw-bin" not in told

    await blocking(mesh, work)


# ---- HTTP clients


async def test_httpx_speaks_http2_where_alpn_offers_it(mesh: Any) -> None:
    context = client_context(roots_pem=mesh.root.certificate_pem)
    async with serving(tls_of(mesh)) as port:
        for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
            async with httpx.AsyncClient(verify=context, http2=http2) as client:
                answers = await asyncio.gather(
                    *(
                        client.post(f"https://localhost:{port}/a", content=bytes(size))
                        for size in (0, 1, 100_000, 5 << 20)
                    )
                )
            assert {answer.http_version for answer in answers} == {version}
            assert [answer.text for answer in answers] == [f"POST /a {size}" for size in (0, 1, 100_000, 5 << 20)]


CURL = {
    "HTTP/2 by ALPN": ("https", ["--http2"], "2"),
    "HTTP/1.1 by ALPN": ("https", ["--http1.1"], "1.1"),
    "no ALPN": ("https", ["--no-alpn"], "1.1"),
    "HTTP/2 by prior knowledge": ("http", ["--http2-prior-knowledge"], "2"),
    "upgrade to h2c": ("http", ["--http2", "--get"], "1.1"),
    "upgrade to h2c with a body": ("http", ["--http2"], "1.1"),
    "HTTP/1.0": ("http", ["--http1.0"], "1.1"),  # the answer's own version
}


@pytest.mark.skipif(shutil.which("curl") is None and os.environ.get("TACIT_CI") != "1", reason="curl is not installed")
@pytest.mark.parametrize("name", CURL)
async def test_curl_is_answered_in_the_protocol_that_it_asks_for(mesh: Any, name: str, tmp_path: Path) -> None:
    scheme, options, version = CURL[name]
    roots = tmp_path / "roots.pem"
    roots.write_bytes(mesh.root.certificate_pem)
    async with serving(tls_of(mesh) if scheme == "https" else None) as port:
        command = ["curl", "-sS", "--cacert", str(roots), "-w", " %{http_version}", *options, "-d", "abc"]
        done = await asyncio.to_thread(
            subprocess.run, [*command, f"{scheme}://localhost:{port}/a"], capture_output=True, text=True, check=True
        )
    assert done.stdout == f"{'GET /a 0' if '--get' in options else 'POST /a 3'} {version}"


# ---- programs in Go


@functools.cache
def outsiders() -> Path:
    """The folder with the programs that scripts/outsiders.sh builds; without Go the test is skipped, in CI it fails."""
    if shutil.which("go") is None and os.environ.get("TACIT_CI") != "1":
        pytest.skip("needs Go to build programs that others wrote")
    done = subprocess.run([ROOT / "scripts" / "outsiders.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_grpc_for_go_gets_every_kind_of_call(mesh: Any, secure: bool, tmp_path: Path) -> None:
    program = await asyncio.to_thread(lambda: outsiders() / "client")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(mesh.root.certificate_pem)
    async with serving(tls_of(mesh) if secure else None) as port:
        command = [program, f"localhost:{port}", *([roots] if secure else [])]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (done.returncode, "wrong" in done.stdout) == (0, False), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "afterwards: right"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("language", "needed"), [("node", ("node", "npm")), ("java", ("java", "javac", "mvn"))])
async def test_grpc_for_node_and_java_gets_every_kind_of_call(
    mesh: Any, language: str, needed: tuple[str, ...], secure: bool, tmp_path: Path
) -> None:
    missing = [name for name in needed if shutil.which(name) is None]
    if missing and os.environ.get("TACIT_CI") != "1":
        pytest.skip(f"needs {' and '.join(missing)} for a client that others wrote")
    assert not missing, f"CI has these tools, see CONTRIBUTING.md: {missing}"
    libraries = await asyncio.to_thread(lambda: outsiders() / language)
    start = {
        "node": ["node", str(ROOT / "tests/edge/node/main.js")],
        "java": ["java", "-Xmx1g", "-cp", f"{libraries}/jars/*", str(ROOT / "tests/edge/java/Client.java")],
    }
    roots = tmp_path / "roots.pem"
    roots.write_bytes(mesh.root.certificate_pem)
    async with serving(tls_of(mesh) if secure else None) as port:
        command = [*start[language], f"localhost:{port}", *([str(roots)] if secure else [])]
        environ = os.environ | {"NODE_PATH": str(libraries / "node_modules")}
        done = await asyncio.to_thread(
            subprocess.run, command, env=environ, capture_output=True, text=True, check=False
        )
    assert (done.returncode, "wrong" in done.stdout) == (0, False), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "afterwards: right"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_t48_h2spec_finds_no_rule_that_is_not_held(mesh: Any) -> None:
    """All of its cases, over TLS. One of them takes for granted that a frame of 20 kB is larger than was announced."""
    program = await asyncio.to_thread(lambda: outsiders() / "h2spec")
    async with serving(tls_of(mesh), Rules(max_frame=16_384)) as port:
        command = [program, "-h", "localhost", "-p", str(port), "-t", "-k", "-o", "3"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", done.stdout)
    assert counts is not None, done.stdout + done.stderr
    assert counts.groups() == ("145", "145", "0", "0"), done.stdout
