"""The end of a server: streams whose clients are silent do not hold it up, and no message that was sent is lost."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from fakes import frames as f
from tacit.edge import GrpcCall, GrpcStreaming
from tacit.edge.calls.admission import Turnstile
from tacit.edge.listener import FAREWELL
from tacit.edge.server import serve

SOON, GRACE = 60, 600  # seconds: a busy machine may take long, and yet far less than the grace
HEAD = [(":method", "POST"), (":scheme", "http"), (":path", "/t/Slow"), ("content-type", "application/grpc")]


class Slow:
    """Answers each message when it is told to, and knows how its streams ended."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.streams = asyncio.Semaphore(0)  # one more for each that has begun
        self.ends: list[str] = []

    async def handle(self, messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        self.streams.release()
        try:
            async for message in messages:
                self.begun.set()
                await self.go_on.wait()
                yield message + message
            self.ends.append("the client was done")
        except BaseException as exc:
            self.ends.append(type(exc).__name__)
            raise


@asynccontextmanager
async def serving(slow: Slow) -> AsyncIterator[tuple[Any, grpc.aio.Channel]]:
    methods = Turnstile(at_once=9, rate=0).around_grpc({"/t/Slow": GrpcStreaming(slow.handle)})
    listener = await serve(host="127.0.0.1", port=0, tls=None, grpc=methods, max_message=1 << 20)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
        yield listener, channel


async def test_a_stream_whose_client_is_silent_ends_with_the_server() -> None:
    slow = Slow()
    slow.go_on.set()
    async with serving(slow) as (listener, channel):
        spoke, silent = channel.stream_stream("/t/Slow")(), channel.stream_stream("/t/Slow")()
        await spoke.write(b"a")
        assert await spoke.read() == b"aa"
        await silent.wait_for_connection()
        async with asyncio.timeout(SOON):
            for _ in range(2):
                await slow.streams.acquire()
            await listener.close(GRACE)
            for call in (spoke, silent):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert await call.details() == "the server ends"
    assert slow.ends == ["RequestError"] * 2  # neither a cancellation nor the client's own end


async def test_a_message_under_way_when_the_server_ends_is_still_answered() -> None:
    slow = Slow()
    async with serving(slow) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        both = f.message(b"a") + f.message(b"b")  # where the first has come, so has the second
        writer.write(f.PREFACE + f.settings() + f.headers(1, *HEAD) + f.frame(f.DATA, 0, 1, both))
        await slow.begun.wait()
        closing = asyncio.ensure_future(listener.close(GRACE))
        await asyncio.sleep(FAREWELL + 0.3)
        assert not closing.done()
        slow.go_on.set()
        async with asyncio.timeout(SOON):
            heard = await reader.read()
            await closing
        writer.close()
    told = b"".join(each.payload for each in f.parse(heard) if each.kind == f.DATA)
    assert told == f.message(b"aa") + f.message(b"bb")
    assert b"grpc-status\x0214" in heard
    assert b"the server ends" in heard


async def test_a_message_that_has_come_half_when_the_server_ends_is_still_answered() -> None:
    slow = Slow()
    slow.go_on.set()
    async with serving(slow) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        half = f.frame(f.DATA, 0, 1, b"\0\0\0\0\4ab")  # together with its head: where that has come, so has this
        writer.write(f.PREFACE + f.settings() + f.headers(1, *HEAD) + half)
        await slow.streams.acquire()
        closing = asyncio.ensure_future(listener.close(GRACE))
        await asyncio.sleep(FAREWELL + 0.3)
        assert not closing.done()
        writer.write(f.frame(f.DATA, 0, 1, b"cd"))
        async with asyncio.timeout(SOON):
            heard = await reader.read()
            await closing
        writer.close()
    assert b"\0\0\0\0\x08abcdabcd" in heard
    assert b"grpc-status\x0214" in heard


async def test_a_stream_that_its_client_takes_back_while_the_server_ends_is_cancelled() -> None:
    slow = Slow()
    async with serving(slow) as (listener, channel):
        call = channel.stream_stream("/t/Slow")()
        await call.write(b"a")
        await slow.begun.wait()
        closing = asyncio.ensure_future(listener.close(GRACE))
        await asyncio.sleep(FAREWELL + 0.3)
        call.cancel()
        async with asyncio.timeout(SOON):
            await closing
    assert slow.ends == ["CancelledError"]
