"""Our own gRPC server and grpcio's on real sockets, with grpcio's client; what only one of them does stands below."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2.connection
import pytest

from tacit.edge import GrpcCall, Listener
from tacit.edge.data import serve_grpc_data
from tacit.edge.server import serve_grpc
from tacit.errors import PkiError, PortInUseError, RequestError, Status
from tacit.pki import KeyPair
from tacit.pki.tls import client_context, server_context

PATH = "/rpc.Test/Call"
LIMIT = 1 << 20


async def echo(message: bytes, _call: GrpcCall) -> bytes:
    return message


async def refuse(message: bytes, _call: GrpcCall) -> bytes:
    raise RequestError(Status.FAILED_PRECONDITION, message.decode())


async def fail(_message: bytes, _call: GrpcCall) -> bytes:
    raise ValueError("the secret is 42")


async def sleep(_message: bytes, _call: GrpcCall) -> bytes:
    await asyncio.sleep(0.2)
    return b"done"


HANDLERS = {PATH: echo, "/rpc.Test/Refuse": refuse, "/rpc.Test/Fail": fail, "/rpc.Test/Sleep": sleep}
Start = Callable[..., Awaitable[Listener]]


async def start_mesh(mesh: Any, handlers: Any = HANDLERS, *, port: int = 0, limit: int = LIMIT) -> Listener:
    tls = server_context(mesh.credentials, client_certificates="request", alpn=["h2"])
    return await serve_grpc(handlers, host="127.0.0.1", port=port, tls=tls, max_message=limit)


async def start_data(mesh: Any, handlers: Any = HANDLERS, *, port: int = 0, limit: int = LIMIT) -> Listener:
    return await serve_grpc_data(
        handlers, host="127.0.0.1", port=port, credentials=mesh.credentials, client_roots=None, max_message=limit
    )


both = pytest.mark.parametrize("start", [start_mesh, start_data], ids=["tacit", "grpcio"])


@asynccontextmanager
async def serving(start: Start, mesh: Any, *arguments: Any, **options: Any) -> AsyncIterator[int]:
    listener = await start(mesh, *arguments, **options)
    try:
        yield listener.port
    finally:
        await listener.close(0.5)


@asynccontextmanager
async def channel(mesh: Any, port: int, certificate: Any = None) -> AsyncIterator[grpc.aio.Channel]:
    pair = (
        {}
        if certificate is None
        else {"private_key": certificate.key_pem, "certificate_chain": certificate.certificate_pem}
    )
    credentials = grpc.ssl_channel_credentials(root_certificates=mesh.root.certificate_pem, **pair)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as opened:
        yield opened


async def refusal(opened: grpc.aio.Channel, path: str, message: bytes = b"x", **options: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await opened.unary_unary(path)(message, **options)
    return refused.value.code().name, refused.value.details() or ""


@both
async def test_messages_pass_as_bytes(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert await opened.unary_unary(PATH)(b"\x00\xff") == b"\x00\xff"
        assert await opened.unary_unary(PATH)(b"") == b""


@both
async def test_a_refusal_reaches_the_caller_with_its_status(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert await refusal(opened, "/rpc.Test/Refuse", "für später".encode()) == ("FAILED_PRECONDITION", "für später")


@both
async def test_a_long_error_text_is_cut(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert await refusal(opened, "/rpc.Test/Refuse", b"a" * 5000) == (
            "FAILED_PRECONDITION",
            "a" * 1024 + "...TRUNCATED",
        )


@both
async def test_a_failing_handler_tells_the_log_and_not_the_caller(
    start: Start, mesh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert await refusal(opened, "/rpc.Test/Fail") == ("INTERNAL", "internal error")
    assert "the secret is 42" in caplog.text


@both
async def test_an_unknown_method_is_unimplemented(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert (await refusal(opened, "/rpc.Test/Nothing"))[0] == "UNIMPLEMENTED"


@both
async def test_t48_a_message_above_the_limit_is_refused(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        assert len(await opened.unary_unary(PATH)(bytes(LIMIT - 1000))) == LIMIT - 1000
        code, text = await refusal(opened, PATH, bytes(LIMIT + 1))
        assert code == "RESOURCE_EXHAUSTED"
        assert f"larger than max ({LIMIT + 1} vs. {LIMIT})" in text
        assert await opened.unary_unary(PATH)(b"again") == b"again"


async def test_t44_a_compressed_message_is_refused_before_it_is_inflated(mesh: Any) -> None:
    async def small(message: bytes, _call: GrpcCall) -> bytes:
        return b"%d" % len(message)

    async with serving(start_data, mesh, {PATH: small}) as port, channel(mesh, port) as client:
        call = client.unary_unary(PATH)
        assert await call(bytes(1000)) == b"1000"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(bytes(LIMIT // 2), compression=grpc.Compression.Gzip)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@both
async def test_messages_of_20_megabytes_pass_both_ways(start: Start, mesh: Any) -> None:
    message = bytes(range(256)) * (20 * 4096)
    async with serving(start, mesh, limit=64 << 20) as port, channel(mesh, port) as opened:
        assert await opened.unary_unary(PATH)(message) == message


@both
async def test_a_hundred_calls_at_once(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port, channel(mesh, port) as opened:
        answers = await asyncio.gather(*(opened.unary_unary(PATH)(b"%d" % n) for n in range(100)))
    assert answers == [b"%d" % n for n in range(100)]


@both
async def test_the_handler_sees_deadline_and_metadata(start: Start, mesh: Any) -> None:
    seen: list[GrpcCall] = []

    async def look(_message: bytes, call: GrpcCall) -> bytes:
        seen.append(call)
        return b""

    async with serving(start, mesh, {PATH: look}) as port, channel(mesh, port) as opened:
        await opened.unary_unary(PATH)(b"", timeout=60, metadata=(("x-id", "7"),))
        await opened.unary_unary(PATH)(b"")
    assert (seen[0].method, seen[0].metadata["x-id"]) == (PATH, "7")
    assert 0 < (seen[0].deadline or 0) <= 60
    assert seen[1].deadline is None


@both
async def test_a_deadline_ends_the_call(start: Start, mesh: Any) -> None:
    async def never(_message: bytes, _call: GrpcCall) -> bytes:
        await asyncio.sleep(600)
        return b""

    async with serving(start, mesh, {PATH: never}) as port, channel(mesh, port) as opened:
        assert (await refusal(opened, PATH, timeout=0.05))[0] == "DEADLINE_EXCEEDED"


@both
async def test_a_renewed_certificate_is_served_to_the_next_connection(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port:
        async with channel(mesh, port) as opened:
            await opened.unary_unary(PATH)(b"")
        mesh.server = mesh.issue("other.example")
        context = client_context(roots_pem=mesh.root.certificate_pem, alpn=["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="other.example")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@both
async def test_bad_credentials_leave_the_last_good_ones(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port:
        mesh.server = KeyPair(mesh.server.certificate, mesh.user.key)
        async with channel(mesh, port) as opened:
            assert await opened.unary_unary(PATH)(b"x") == b"x"


@both
async def test_closing_lets_a_running_call_finish(start: Start, mesh: Any) -> None:
    begun = asyncio.Event()

    async def slow(_message: bytes, _call: GrpcCall) -> bytes:
        begun.set()
        await asyncio.sleep(0.2)
        return b"done"

    listener = await start(mesh, {PATH: slow})
    async with channel(mesh, listener.port) as opened:
        running = asyncio.ensure_future(opened.unary_unary(PATH)(b""))
        await begun.wait()
        await listener.close(600)
        assert await running == b"done"


@both
async def test_an_idle_connection_does_not_hold_up_the_end(start: Start, mesh: Any) -> None:
    listener = await start(mesh)
    async with channel(mesh, listener.port) as opened:
        await opened.unary_unary(PATH)(b"")
        async with asyncio.timeout(60):
            await listener.close(600)


@both
async def test_a_port_in_use_is_named(start: Start, mesh: Any, unused: Any) -> None:
    port = unused().getsockname()[1]
    with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{port}"):
        await start(mesh, port=port)


async def test_the_last_server_on_a_unix_socket_is_reached_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def start(name: bytes) -> Listener:
        async def tell(_message: bytes, _call: GrpcCall) -> bytes:
            return name

        return await serve_grpc({PATH: tell}, host=f"unix:{path}", port=0, tls=None, max_message=LIMIT)

    async def reached() -> bytes:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{path}", options) as opened:
            answer: bytes = await opened.unary_unary(PATH)(b"")
            return answer

    first = await start(b"first")
    assert await reached() == b"first"
    second = await start(b"second")
    assert await reached() == b"second"
    await first.close(0)
    assert await reached() == b"second"
    await second.close(0)
    assert not path.exists()


async def test_a_file_where_a_unix_socket_is_to_be_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("kept")
    with pytest.raises(PortInUseError, match=r"/s: what lies there is no socket; choose another path"):
        await serve_grpc(HANDLERS, host=f"unix:{path}", port=0, tls=None, max_message=LIMIT)
    assert path.read_text() == "kept"


@both
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)])
async def test_a_stranger_leaves_no_trace(
    start: Start, mesh: Any, sent: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    context = client_context(roots_pem=mesh.root.certificate_pem)
    async with serving(start, mesh) as port:
        for tls in (None, context):
            name = None if tls is None else "localhost"
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
                writer.write(sent)
                await asyncio.sleep(0.05)
                writer.transport.abort()
        async with channel(mesh, port) as opened:
            assert await opened.unary_unary(PATH)(b"x") == b"x"
    assert "Traceback" not in capfd.readouterr().err
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@both
async def test_a_client_that_does_not_wait_leaves_no_trace(
    start: Start, mesh: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(start, mesh) as port:
        async with channel(mesh, port) as opened:
            running = asyncio.ensure_future(opened.unary_unary("/rpc.Test/Sleep")(b""))
            await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.sleep(0.25)
    assert "Traceback" not in capfd.readouterr().err
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- our own server alone


async def test_the_client_certificate_is_seen_as_it_was_shown(mesh: Any) -> None:
    seen: list[bytes | None] = []

    async def look(_message: bytes, call: GrpcCall) -> bytes:
        seen.append(call.peer_certificate)
        return b""

    async with serving(start_mesh, mesh, {PATH: look}) as port:
        async with channel(mesh, port, mesh.user) as opened:
            await opened.unary_unary(PATH)(b"")
        async with channel(mesh, port) as opened:
            await opened.unary_unary(PATH)(b"")
    assert seen == [mesh.user.certificate_der, None]


async def test_a_client_without_certificate_is_refused_where_one_is_required(mesh: Any) -> None:
    tls = server_context(mesh.credentials, client_certificates="require", alpn=["h2"])
    listener = await serve_grpc(HANDLERS, host="127.0.0.1", port=0, tls=tls, max_message=LIMIT)
    async with channel(mesh, listener.port) as opened:
        assert (await refusal(opened, PATH))[0] == "UNAVAILABLE"
    async with channel(mesh, listener.port, mesh.user) as opened:
        assert await opened.unary_unary(PATH)(b"x") == b"x"
    await listener.close(0.5)


@asynccontextmanager
async def http2(mesh: Any, port: int) -> AsyncIterator[Any]:
    """A connection on which any frame can be sent; gives a function that sends and reads for a moment."""
    context = client_context(roots_pem=mesh.root.certificate_pem, alpn=["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    connection = h2.connection.H2Connection()
    connection.initiate_connection()

    async def exchange(*raw: bytes) -> list[Any]:
        writer.write(connection.data_to_send() + b"".join(raw))
        events: list[Any] = []
        with suppress(TimeoutError, ConnectionError, ssl.SSLError):
            async with asyncio.timeout(0.15):
                while data := await reader.read(65536):
                    events += connection.receive_data(data)
        return events

    try:
        yield connection, exchange
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", PATH),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def status_of(events: list[Any]) -> str | None:
    headers = [dict(event.headers) for event in events if getattr(event, "headers", None)]
    return next((found[b"grpc-status"].decode() for found in headers if b"grpc-status" in found), None)


async def told(exchange: Any, *raw: bytes) -> str | None:
    """The status that comes, however long a busy machine takes."""
    events: list[Any] = []
    for _ in range(60):
        events += await exchange(*raw)
        raw = ()
        if found := status_of(events):
            return found
    return None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\x00\xff\xff\xff\xff", "8"),  # announces 4 GiB: refused before a byte of it came
        (b"\x01\x00\x00\x00\x01x", "12"),  # compressed
    ],
)
async def test_t48_a_message_is_judged_by_its_first_five_bytes(mesh: Any, body: bytes, status: str) -> None:
    async with serving(start_mesh, mesh) as port, http2(mesh, port) as (connection, exchange):
        connection.send_headers(1, HEADERS)
        connection.send_data(1, body)
        assert await told(exchange) == status


@pytest.mark.parametrize("body", [b"", b"\x00\x00", b"\x00\x00\x00\x00\x09abc"])
async def test_a_message_that_ends_early_is_refused(mesh: Any, body: bytes) -> None:
    async with serving(start_mesh, mesh) as port, http2(mesh, port) as (connection, exchange):
        connection.send_headers(1, HEADERS)
        connection.send_data(1, body, end_stream=True)
        assert await told(exchange) == "13"


async def test_t48_frames_out_of_turn_end_the_connection_quietly(
    mesh: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    frames = [
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x09\x00\x00\x00\x08",  # RST_STREAM of a stream that never was
        b"\x00\x00\x05\x00\x00\x00\x00\x00\x07abcde",  # DATA without HEADERS
        b"\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00",  # ALTSVC from a client
        b"\x00\x00\x00\x09\x04\x00\x00\x00\x01",  # CONTINUATION of nothing
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame beyond every size
    ]
    async with serving(start_mesh, mesh) as port:
        for frame in frames:
            async with http2(mesh, port) as (_, exchange):
                await exchange(frame)
        async with channel(mesh, port) as opened:
            assert await opened.unary_unary(PATH)(b"x") == b"x"
    assert capfd.readouterr().err == ""
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_frame_of_an_unknown_kind_is_passed_over(mesh: Any) -> None:
    async with serving(start_mesh, mesh) as port, http2(mesh, port) as (connection, exchange):
        connection.send_headers(1, HEADERS)
        connection.send_data(1, b"\x00\x00\x00\x00\x01x", end_stream=True)
        unknown = b"\x00\x00\x03\xfe\x00\x00\x00\x00\x00abc"
        assert await told(exchange, unknown) == "0"
        connection.send_headers(3, HEADERS)
        connection.send_data(3, b"\x00\x00\x00\x00\x01y", end_stream=True)
        assert await told(exchange) == "0"


async def test_t48_streams_reset_at_once_leave_the_server_serving(mesh: Any) -> None:
    async with serving(start_mesh, mesh) as port:
        async with http2(mesh, port) as (connection, exchange):
            for stream in range(1, 401, 2):
                connection.send_headers(stream, HEADERS)
                connection.reset_stream(stream)
            await exchange()
        async with channel(mesh, port) as opened:
            assert await opened.unary_unary(PATH)(b"x") == b"x"


# ---- grpcio's server alone


async def test_mutual_tls_gives_the_client_certificate_as_der(mesh: Any) -> None:
    seen: list[bytes | None] = []

    async def look(_message: bytes, call: GrpcCall) -> bytes:
        seen.append(call.peer_certificate)
        return b""

    client = mesh.issue("client.example")
    roots = mesh.intermediate.certificate_pem + mesh.root.certificate_pem
    listener = await serve_grpc_data(
        {PATH: look}, host="127.0.0.1", port=0, credentials=mesh.credentials, client_roots=roots, max_message=LIMIT
    )
    async with channel(mesh, listener.port, client) as opened:
        await opened.unary_unary(PATH)(b"")
    async with channel(mesh, listener.port, mesh.user) as opened:
        assert (await refusal(opened, PATH))[0] == "UNAVAILABLE"
    await listener.close(0.5)
    assert seen == [client.certificate_der]


async def test_plaintext_is_served_where_it_is_asked_for(mesh: Any) -> None:
    listener = await serve_grpc_data(
        HANDLERS, host="127.0.0.1", port=0, credentials=None, client_roots=None, max_message=LIMIT
    )
    async with grpc.aio.insecure_channel(f"localhost:{listener.port}") as opened:
        assert await opened.unary_unary(PATH)(b"x") == b"x"
    await listener.close(0.5)


async def test_credentials_that_do_not_belong_together_are_refused_at_the_start(mesh: Any) -> None:
    mesh.credentials = lambda: (mesh.server.certificate_pem, mesh.user.key_pem)
    with pytest.raises(PkiError):
        await start_data(mesh)


def resumed(pem: bytes, port: int) -> list[bool]:
    """Whether each of three connections over TLS 1.2 resumed the one before it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=pem.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_alpn_protocols(["h2"])
    session, found = None, []
    for _ in range(3):
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            client.wrap_socket(raw, server_hostname="localhost", session=session) as tls,
        ):
            tls.recv(1)
            found.append(bool(tls.session_reused))
            session = tls.session
    return found


@both
async def test_t41_no_grpc_port_resumes_a_session(start: Start, mesh: Any) -> None:
    async with serving(start, mesh) as port:
        assert await asyncio.to_thread(resumed, mesh.root.certificate_pem, port) == [False, False, False]


@both
async def test_t06_old_tls_and_plaintext_are_not_spoken(start: Start, mesh: Any) -> None:
    def old(port: int) -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
            client.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
            client.maximum_version = ssl.TLSVersion.TLSv1_1
        client.set_ciphers("ALL:@SECLEVEL=0")
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            pytest.raises(OSError, match=r"(?i)version|eof|reset"),
        ):
            client.wrap_socket(raw)

    async with serving(start, mesh) as port:
        await asyncio.to_thread(old, port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await plain.unary_unary(PATH)(b"x", timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
