"""Calls over HTTP/2 on real sockets: streaming, deadlines, what clients take back, and those that only take time."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import hpack
import pytest

from fakes import frames as f
from fakes.garbage import no_views_in_cycles
from tacit.edge import GrpcCall, GrpcStreaming, HttpRequest, HttpResponse, server
from tacit.edge.server import serve
from tacit.edge.service import Limits
from tacit.errors import PkiError, RequestError, Status
from tacit.pki.tls import client_context, server_context

LIMIT = 1 << 20
PATIENCE = 60  # seconds that a busy machine may take; no test waits for them


async def echo(message: bytes, _call: GrpcCall) -> bytes:
    return message


async def mirror(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, f"{request.method} {request.path} {request.query} {len(request.body)}".encode())


async def double(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        yield message + message


async def total(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
    yield b"%d" % sum([len(message) async for message in messages])


async def count(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        for number in range(int(message)):
            yield b"%d" % number


async def fail_late(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
    async for message in messages:
        yield message
        raise RequestError(Status.ABORTED, "für später 100 %\n")


PING = f.frame(f.PING, 0, 0, b"heard it")  # answered once all before it has been taken
METHODS: dict[str, Any] = {
    "/t/Echo": echo,
    "/t/Double": GrpcStreaming(double),
    "/t/Total": GrpcStreaming(total),
    "/t/Count": GrpcStreaming(count),
    "/t/Late": GrpcStreaming(fail_late),
}


@asynccontextmanager
async def listening(
    tls: ssl.SSLContext | None = None, methods: Any = METHODS, http: Any = mirror, **limits: Any
) -> Any:
    given = limits.pop("limits", None) or Limits(**limits)
    listener = await serve(
        host="127.0.0.1", port=0, tls=tls, http=http, grpc=methods, max_body=LIMIT, max_message=LIMIT, limits=given
    )
    try:
        yield listener
    finally:
        await listener.close(0.2)


@asynccontextmanager
async def serving(*arguments: Any, **options: Any) -> Any:
    async with listening(*arguments, **options) as listener:
        yield listener.port


def tls_of(mesh: Any) -> ssl.SSLContext:
    return server_context(mesh.credentials, client_certificates="request", alpn=["h2", "http/1.1"])


@asynccontextmanager
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened


class Raw:
    """A client that sends what it likes."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Raw":
        self.reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)

    def send(self, *raw: bytes) -> None:
        self._writer.write(b"".join(raw))

    async def hear(self, reached: Callable[[bytes], object]) -> bytes:
        """What comes until it is what a test waits for, however long a busy machine takes, or until the end."""
        heard = b""
        async with asyncio.timeout(PATIENCE):
            while not reached(heard) and (piece := await self.reader.read(65536)):
                heard += piece
        return heard

    async def end(self) -> bytes:
        """What comes until the server ends the connection; it is an error if it does not."""
        heard = b""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    heard += piece
        return heard


def some(kind: int, stream: int, part: bytes = b"") -> Callable[[bytes], bool]:
    """Whether there was such a frame of this stream, with this in it."""
    return lambda heard: any((e.kind, e.stream) == (kind, stream) and part in e.payload for e in f.parse(heard))


# ---- streaming


async def test_messages_pass_both_ways_as_they_come() -> None:
    async with serving() as port, channel(port) as opened:
        call = opened.stream_stream("/t/Double")()
        for word in (b"a", b"", b"b" * 300_000):
            await call.write(word)
            assert await call.read() == word + word
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_many_messages_become_one_and_one_becomes_many() -> None:
    async with serving() as port, channel(port) as opened:
        assert await opened.stream_unary("/t/Total")(iter([bytes(1000)] * 5000)) == b"5000000"
        answers = [answer async for answer in opened.unary_stream("/t/Count")(b"20000")]
        assert (len(answers), answers[-1]) == (20_000, b"19999")
        assert [answer async for answer in opened.unary_stream("/t/Count")(b"0")] == []


async def test_a_refusal_after_messages_reaches_the_caller() -> None:
    async with serving() as port, channel(port) as opened:
        call = opened.stream_stream("/t/Late")()
        await call.write(b"x")
        assert await call.read() == b"x"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.ABORTED, "für später 100 %\n")


async def test_a_handler_that_makes_more_than_its_client_reads_is_waited_for() -> None:
    made = 0

    async def much(_messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        nonlocal made
        for _ in range(2000):
            made += 1
            yield bytes(50_000)

    async with serving(methods={"/t/Much": GrpcStreaming(much)}) as port, Raw(port) as client:
        head = (*f.HEAD[:2], (":path", "/t/Much"), *f.HEAD[3:])
        client.send(f.PREFACE, f.settings(), f.headers(1, *head, end=True))
        await client.hear(lambda heard: len(heard) > 60_000)  # nearly all that a client takes which says nothing more
        await asyncio.sleep(0.1)
        assert made < 20


async def test_a_client_that_sends_more_than_its_handler_takes_is_held_back() -> None:
    async def deaf(_messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(60)
        yield b""

    async with serving(methods={"/t/Deaf": GrpcStreaming(deaf)}) as port, channel(port) as opened:
        call = opened.stream_stream("/t/Deaf")()
        written = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await call.write(bytes(100_000))
                    written += 1
        call.cancel()
    assert written * 100_000 < 8 << 20


# ---- ends


async def test_a_call_that_its_client_takes_back_is_cancelled() -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def wait(_message: bytes, _call: GrpcCall) -> bytes:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b""

    async with serving(methods={"/t/Wait": wait}) as port, channel(port) as opened:
        call = opened.unary_unary("/t/Wait")(b"")
        pending = asyncio.ensure_future(call)
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
            pending.cancel()
            while not ended:
                await asyncio.sleep(0.01)


async def test_a_deadline_cancels_the_handler_and_answers(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def wait(_message: bytes, _call: GrpcCall) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        return b""

    async with serving(methods={"/rpc.Test/Call": wait}) as port, Raw(port) as client:
        whole = f.headers(1, *f.HEAD, ("grpc-timeout", "50m")) + f.frame(f.DATA, f.END_STREAM, 1, f.message(b""))
        client.send(f.PREFACE, f.settings(), whole)  # at once, so that the handler has begun when the time is over
        told = some(f.HEADERS, 1, b"grpc-status\x014")
        assert told(await client.hear(told))
    assert ended == ["cancelled"]
    assert caplog.records == []


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "123456789S", "1 S", "1s"])
async def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    async with serving(methods={"/rpc.Test/Call": echo}) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings(), f.headers(1, *f.HEAD, ("grpc-timeout", text), end=True))
        told = some(f.HEADERS, 1, b"grpc-status\x013")
        assert told(await client.hear(told))


async def test_closing_tells_clients_and_lets_streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FAREWELL", 600)  # the next message comes in time, however busy the machine is
    listener = await serve(host="127.0.0.1", port=0, tls=None, grpc=METHODS, max_message=LIMIT)
    async with channel(listener.port) as opened:
        call = opened.stream_stream("/t/Double")()
        await call.write(b"a")
        assert await call.read() == b"aa"
        closing = asyncio.ensure_future(listener.close(600))
        await asyncio.sleep(0.05)
        assert not closing.done()
        await call.write(b"b")
        assert await call.read() == b"bb"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        async with asyncio.timeout(PATIENCE):
            await closing


async def test_what_outlives_the_grace_is_told_so() -> None:
    listener = await serve(host="127.0.0.1", port=0, tls=None, grpc=METHODS, max_message=LIMIT)
    async with channel(listener.port) as opened:
        call = opened.stream_stream("/t/Double")()
        await call.write(b"a")
        await call.read()
        async with asyncio.timeout(PATIENCE):
            await listener.close(0.05)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


# ---- one port, several protocols


async def test_one_port_tells_grpc_http2_and_http1_apart() -> None:
    async with serving() as port:
        async with channel(port) as opened:
            assert await opened.unary_unary("/t/Echo")(b"x") == b"x"
        async with Raw(port) as client:
            client.send(b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.hear(lambda heard: heard.endswith(b"GET /a b 0"))).startswith(b"HTTP/1.1 200")
        async with Raw(port) as client:
            head = ((":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "x"))
            client.send(f.PREFACE, f.settings(), f.headers(1, *head, end=True))
            heard = await client.hear(some(f.DATA, 1, b"0"))
            assert [each.payload for each in f.parse(heard) if each.kind == f.DATA and each.payload] == [b"GET /a b 0"]


async def test_t48_a_body_above_the_limit_gets_413_over_http2() -> None:
    async with serving() as port, Raw(port) as client:
        head = ((":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "x"))
        client.send(f.PREFACE, f.settings(), f.headers(1, *head, ("content-length", "9999999")))
        heard = await client.hear(f.resets)
        assert some(f.DATA, 1, b"larger than")(heard)
        assert f.resets(heard) == {1: 0}


async def test_the_exporter_gives_both_ends_the_same_secret(mesh: Any) -> None:
    from OpenSSL import SSL

    seen: list[bytes] = []

    async def look(request: HttpRequest) -> HttpResponse:
        assert request.exporter is not None
        try:
            seen.append(request.exporter(b"EXPORTER-test", 32))
        except PkiError:
            seen.append(b"refused")
        return HttpResponse(200, b"")

    def visit(port: int, method: int) -> bytes:
        context = SSL.Context(method)
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.setblocking(True)
            tls = SSL.Connection(context, raw)
            tls.set_connect_state()
            tls.do_handshake()
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            tls.recv(1000)
            return tls.export_keying_material(b"EXPORTER-test", 32)

    async with serving(tls_of(mesh), http=look) as port:
        assert seen == [await asyncio.to_thread(visit, port, SSL.TLS_CLIENT_METHOD)] or not seen
        first = await asyncio.to_thread(visit, port, SSL.TLS_CLIENT_METHOD)
        assert seen[-1] == first
        await asyncio.to_thread(visit, port, SSL.TLSv1_2_METHOD)
        assert seen[-1] == b"refused"


async def test_plaintext_has_no_exporter() -> None:
    async def look(_message: bytes, call: GrpcCall) -> bytes:
        return repr((call.exporter, call.peer_certificate)).encode()

    async with serving(methods={"/t/Look": look}) as port, channel(port) as opened:
        assert await opened.unary_unary("/t/Look")(b"") == b"(None, None)"


# ---- those that only take time, or room


async def test_t48_a_client_that_never_finishes_its_handshake_is_cut_off(mesh: Any) -> None:
    async with serving(tls_of(mesh), handshake_time=0.1) as port, Raw(port) as client:
        client.send(b"\x16\x03\x01\x02\x00")
        assert await client.end() == b""


@pytest.mark.parametrize(
    "begun",
    [
        f.PREFACE[:10],
        f.PREFACE,
        f.PREFACE + f.settings() + f.frame(f.HEADERS, 0, 1, b"\x82"),
        f.PREFACE + f.settings() + f.headers(1)[:20],
    ],
    ids=["half a preface", "no settings", "half a block", "half a frame"],
)
async def test_t48_a_head_that_never_ends_is_cut_off_over_http2(begun: bytes) -> None:
    async with serving(request_time=0.1) as port, Raw(port) as client:
        client.send(begun)
        await client.end()


async def test_t48_a_slow_body_is_cut_off_over_http2() -> None:
    limits = Limits(handshake_time=0.1)  # which is for TLS alone, and lets connections be looked at often
    async with serving(methods={"/rpc.Test/Call": echo}, limits=limits) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings(), f.headers(1), f.frame(f.DATA, 0, 1, b"\0\0\0\0\x09a"), PING)
        await client.hear(some(f.PING, 0, b"heard it"))
        # Not before the body has begun, or a pause of this machine would end the connection before it said anything.
        object.__setattr__(limits, "request_time", 0.1)
        assert f.resets(await client.hear(f.resets)) == {1: 8}
        client.send(f.call(3))
        answered = some(f.DATA, 3)
        assert answered(await client.hear(answered))


async def test_t48_a_window_that_never_opens_ends_the_stream() -> None:
    """CVE-2019-9511, CVE-2019-9517: answers that a client asks for and does not take."""
    async with serving(methods={"/rpc.Test/Call": echo}, send_time=0.1) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings((4, 0)), f.call(1, b"secret"))
        heard = await client.hear(f.resets)
        assert [each.kind for each in f.parse(heard) if each.stream == 1] == [f.HEADERS, f.RST_STREAM]


async def test_t48_a_client_that_never_reads_is_cut_off_and_read_from_no_more() -> None:
    answered = asyncio.Event()

    async def large(_request: HttpRequest) -> HttpResponse:
        answered.set()
        return HttpResponse(200, bytes(30 << 20))

    async with listening(http=large, send_time=0.2) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as deaf:
            head = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x"))
            wide = f.settings((4, 2**31 - 1)) + f.frame(f.WINDOW_UPDATE, 0, 0, b"\x7f\x00\x00\x00")
            deaf.sendall(f.PREFACE + wide + f.headers(1, *head, end=True))
            async with asyncio.timeout(PATIENCE):
                await answered.wait()
                while listener.connections:
                    await asyncio.sleep(0.01)
            deaf.settimeout(PATIENCE)
            received = 0
            with suppress(ConnectionError):  # what lay in the network's buffers, and then no more
                while piece := deaf.recv(1 << 20):
                    received += len(piece)
    assert received < 30 << 20


async def test_t48_a_client_that_is_gone_without_a_word_is_noticed() -> None:
    async with serving(ping_after=0.1, ping_time=0.1) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings())
        heard = f.parse(await client.end())
    assert any(each.kind == f.PING and not each.flags for each in heard)


async def test_a_silent_client_that_answers_pings_is_kept() -> None:
    """Who is asked again has been heard: without an answer there is no second question, and an end after `ping_time`."""
    async with (
        serving(methods={"/rpc.Test/Call": echo}, ping_after=0.1, ping_time=PATIENCE) as port,
        Raw(port) as client,
    ):
        client.send(f.PREFACE, f.settings())
        for _ in range(4):
            heard = f.parse(await client.hear(some(f.PING, 0)))
            (asked,) = [each for each in heard if each.kind == f.PING]
            client.send(f.frame(f.PING, f.ACK, 0, asked.payload))
        client.send(f.call(1))
        answered = some(f.DATA, 1)
        assert answered(await client.hear(answered))


async def test_an_idle_connection_is_told_to_go() -> None:
    async with serving(idle_time=0.1) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings())
        assert f.goaway(await client.end()) == 0


async def test_t48_connections_beyond_the_limit_are_closed_as_they_come() -> None:
    async with serving(connections=2) as port, Raw(port) as first, Raw(port):
        first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.hear(lambda heard: len(heard) > 20)).startswith(b"HTTP/1.1 200")
        async with Raw(port) as third:
            assert await third.end() == b""


async def test_t48_all_requests_together_hold_no_more_than_their_budget() -> None:
    methods = {"/rpc.Test/Call": echo}
    async with serving(methods=methods, bodies=LIMIT) as port, Raw(port) as client:
        client.send(f.PREFACE, f.settings())
        for stream in (1, 3, 5):
            client.send(f.headers(stream), f.frame(f.DATA, 0, stream, f.message(bytes(500_000))[:400_000]))
        heard = await client.hear(f.resets)
        assert f.resets(heard) == {5: 0}
        refused = [each for each in f.parse(heard) if each.kind == f.HEADERS and each.stream == 5]
        assert b"grpc-status\x018" in refused[0].payload
        client.send(f.frame(f.RST_STREAM, 0, 1, b"\0\0\0\x08"), f.headers(7))
        client.send(f.frame(f.DATA, f.END_STREAM, 7, f.message(bytes(400_000))))
        answered = some(f.DATA, 7)
        heard = await client.hear(lambda heard: answered(heard) or 7 in f.resets(heard))
        assert answered(heard)
        assert 7 not in f.resets(heard)


async def test_t48_a_flood_ends_its_connection_and_no_other() -> None:
    async with serving() as port, channel(port) as opened:
        async with Raw(port) as client:
            client.send(f.PREFACE, f.settings(), f.frame(f.PING, 0, 0, bytes(8)) * 5000)
            assert f.goaway(await client.end()) == 11
        assert await opened.unary_unary("/t/Echo")(b"x") == b"x"


async def test_t44_a_compressed_message_is_never_unpacked() -> None:
    async with serving() as port, channel(port) as opened:
        for method in (opened.unary_unary("/t/Echo"), opened.stream_unary("/t/Total")):
            message = bytes(LIMIT // 2)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(
                    iter([message]) if "Stream" in type(method).__name__ else message, compression=grpc.Compression.Gzip
                )
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("way", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_taken_where_that_is_allowed(way: grpc.Compression) -> None:
    async def two(messages: AsyncIterator[bytes]) -> bytes:
        return b"".join([message async for message in messages])

    async with serving(inflated=LIMIT, bodies=LIMIT) as port, channel(port) as opened:
        message = bytes(LIMIT // 2) + b"end"
        for _ in range(5):  # what one held is given back before the next
            assert await opened.unary_unary("/t/Echo")(message, compression=way) == message
            answers = opened.stream_stream("/t/Double")(iter([message, b"x", message]), compression=way)
            assert await two(answers) == message * 2 + b"xx" + message * 2


@pytest.mark.parametrize("method", ["/t/Echo", "/t/Total"])
@pytest.mark.parametrize(
    ("size", "inflated", "told"),
    [
        (LIMIT, 5000, "(5000 bytes, once inflated); send it uncompressed"),
        (LIMIT + 1, LIMIT * 2, f"({LIMIT} bytes, once inflated) (--size); send it uncompressed"),
    ],
)
async def test_t44_a_compressed_message_is_bounded_once_it_is_inflated(
    method: str, size: int, inflated: int, told: str
) -> None:
    async with serving(size_flag="--size", inflated=inflated) as port, channel(port) as opened:
        kind = opened.unary_unary if method == "/t/Echo" else opened.stream_unary
        message = bytes(size)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await kind(method)(message if method == "/t/Echo" else iter([message]), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.details() == f"grpc: received message larger than max {told}"


async def test_t44_what_a_compressed_message_holds_counts_among_all_that_is_held() -> None:
    waiting = asyncio.Event()

    async def wait(message: bytes, _call: GrpcCall) -> bytes:
        waiting.set()
        await asyncio.sleep(PATIENCE)
        return message

    methods = {"/t/Wait": wait, "/t/Echo": echo}
    async with serving(methods=methods, inflated=LIMIT, bodies=LIMIT) as port, channel(port) as opened:
        first = opened.unary_unary("/t/Wait")(bytes(LIMIT // 2), compression=grpc.Compression.Gzip)
        await waiting.wait()
        echoes = opened.unary_unary("/t/Echo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echoes(bytes(LIMIT // 2), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        assert len(await echoes(bytes(LIMIT // 4), compression=grpc.Compression.Gzip)) == LIMIT // 4


async def test_t44_what_a_compressed_message_of_a_stream_holds_counts_while_it_is_handled() -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def slow(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        async for message in messages:
            waiting.set()
            await go_on.wait()
            yield str(len(message)).encode()

    methods = {"/t/Slow": GrpcStreaming(slow), "/t/Echo": echo}
    async with serving(methods=methods, inflated=LIMIT, bodies=LIMIT) as port, channel(port) as opened:
        half = bytes(LIMIT // 2)
        stream = opened.stream_stream("/t/Slow")(iter([half] * 3), compression=grpc.Compression.Gzip)
        await waiting.wait()
        echoes = opened.unary_unary("/t/Echo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echoes(bytes(LIMIT // 2 + 1), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        assert [answer async for answer in stream] == [str(LIMIT // 2).encode()] * 3
        whole = bytes(LIMIT - 2000)  # beside what of it came compressed
        assert await echoes(whole, compression=grpc.Compression.Gzip) == whole


@pytest.mark.parametrize("path", ["/t/Echo", "/t/Total"])
@pytest.mark.parametrize(
    ("encoding", "body", "status", "text"),
    [
        (None, gzip.compress(b"x", mtime=0), 13, "grpc-encoding does not say how"),
        ("identity", gzip.compress(b"x", mtime=0), 13, "grpc-encoding does not say how"),
        ("snappy", b"x", 12, "grpc-encoding snappy is not read; gzip and deflate are"),
        ("gzip", b"no gzip", 3, "the body is not gzip, though grpc-encoding says so"),
        ("gzip", gzip.compress(b"x", mtime=0)[:-1], 3, "the gzip body was cut short"),
    ],
)
async def test_a_message_that_cannot_be_inflated_is_refused_with_the_reason(
    path: str, encoding: str | None, body: bytes, status: int, text: str
) -> None:
    async with serving(inflated=LIMIT) as port, Raw(port) as client:
        more = [("grpc-encoding", encoding)] if encoding else []
        head = f.headers(1, *f.HEAD[:2], (":path", path), *f.HEAD[3:], *more)
        packed = b"\1" + len(body).to_bytes(4, "big") + body
        client.send(f.PREFACE, f.settings(), head, f.frame(f.DATA, f.END_STREAM, 1, packed))
        heard = await client.hear(some(f.HEADERS, 1))
        fields = dict(hpack.Decoder().decode(next(e.payload for e in f.parse(heard) if e.kind == f.HEADERS)))
        assert int(fields["grpc-status"]) == status
        assert text in unquote(fields["grpc-message"])


async def test_what_is_no_grpc_is_refused_on_a_port_for_grpc() -> None:
    async with serving(http=None) as port, Raw(port) as client:
        head = ((":method", "POST"), (":scheme", "http"), (":path", "/t/Echo"), ("content-type", "application/json"))
        client.send(f.PREFACE, f.settings(), f.headers(1, *head), f.frame(f.DATA, f.END_STREAM, 1, b"{}"), f.call(3))
        told = some(f.HEADERS, 1, b"415")
        assert told(await client.hear(told))


@pytest.mark.parametrize("alpn", [[], ["http/1.1"]])
async def test_a_grpc_port_shakes_hands_with_who_speaks_no_http2_and_says_no_more(mesh: Any, alpn: list[str]) -> None:
    listener = await serve(
        host="127.0.0.1",
        port=0,
        tls=server_context(mesh.credentials, client_certificates="request", alpn=["h2"]),
        grpc=METHODS,
        max_message=LIMIT,
    )
    context = client_context(roots_pem=mesh.root.certificate_pem, alpn=alpn)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context, server_hostname="localhost")
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()
    await listener.close(0.2)


async def test_plain_http_on_a_tls_port_is_told_so(mesh: Any) -> None:
    async with serving(tls_of(mesh)) as port, Raw(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await client.end()
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert answer.endswith(b"Client sent an HTTP request to an HTTPS server.\n")


# ---- what is left behind


async def test_t48_clients_that_leave_in_the_middle_leave_no_view_in_a_cycle(mesh: Any) -> None:
    """Answers that nobody took, requests that are not whole, handshakes that fail, and the end of the server."""

    async def large(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, bytes(4 << 20))

    plain = client_context(roots_pem=mesh.root.certificate_pem, alpn=["h2"])
    stranger = client_context(roots_pem=mesh.user.certificate_pem, alpn=["h2"])

    def visit(port: int, context: ssl.SSLContext, sent: bytes, heard: int) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as raw:
            raw.settimeout(1)
            with context.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(sent)
                client.recv(heard)

    get = ((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "x"))
    wanted = f.PREFACE + f.settings() + b"".join(f.headers(stream, *get, end=True) for stream in (1, 3, 5))
    half = f.PREFACE + f.settings() + f.headers(1) + f.frame(f.DATA, 0, 1, b"\0\0\0\1\0" + bytes(100))
    with no_views_in_cycles():
        async with serving(tls_of(mesh), http=large) as port:
            for sent in (wanted, half, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0\1\2"):
                await asyncio.to_thread(visit, port, plain, sent, 1000)
            await asyncio.to_thread(visit, port, stranger, wanted, 1)
        await asyncio.sleep(0.05)
