"""The end of a server: streams whose clients are silent do not hold it up, and no message that was sent is lost."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from fakes import frames as f
from tacit.edge import GrpcCall, GrpcStreaming
from tacit.edge.calls.admission import Turnstile
from tacit.edge.listener import FAREWELL
from tacit.edge.server import serve

SOON = FAREWELL + 1.5  # seconds: far below the grace of these tests


class Slow:
    """Answers each message when it is told to, and knows how its streams ended."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.ends: list[str] = []

    async def handle(self, messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
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
            await listener.close(30)
            for call in (spoke, silent):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert await call.details() == "the server ends"
    assert slow.ends == ["RequestError"] * 2  # neither a cancellation nor the client's own end


async def test_a_message_under_way_when_the_server_ends_is_still_answered() -> None:
    slow = Slow()
    async with serving(slow) as (listener, channel):
        call = channel.stream_stream("/t/Slow")()
        for word in (b"a", b"b"):
            await call.write(word)
        await slow.begun.wait()
        closing = asyncio.ensure_future(listener.close(30))
        await asyncio.sleep(FAREWELL + 0.3)
        assert not closing.done()
        slow.go_on.set()
        async with asyncio.timeout(1.5):
            assert [await call.read(), await call.read()] == [b"aa", b"bb"]
            with pytest.raises(grpc.aio.AioRpcError, match="the server ends"):
                await call.read()
            await closing


async def test_a_message_that_has_come_half_when_the_server_ends_is_still_answered() -> None:
    slow = Slow()
    slow.go_on.set()
    async with serving(slow) as (listener, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        head = [(":method", "POST"), (":scheme", "http"), (":path", "/t/Slow"), ("content-type", "application/grpc")]
        writer.write(f.PREFACE + f.settings() + f.headers(1, *head))
        writer.write(f.frame(f.DATA, 0, 1, b"\0\0\0\0\4ab"))
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(listener.close(30))
        await asyncio.sleep(FAREWELL + 0.3)
        assert not closing.done()
        writer.write(f.frame(f.DATA, 0, 1, b"cd"))
        async with asyncio.timeout(1.5):
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
        closing = asyncio.ensure_future(listener.close(30))
        await asyncio.sleep(FAREWELL + 0.3)
        call.cancel()
        async with asyncio.timeout(1.5):
            await closing
    assert slow.ends == ["CancelledError"]
