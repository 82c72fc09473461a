"""Who gets in: the turnstile that counts each client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from tacit.edge import GrpcCall, GrpcStreaming, HttpRequest, HttpResponse
from tacit.edge.calls.admission import Turnstile, fingerprint
from tacit.errors import RequestError, Status

MANAGER, OTHER = b"manager", b"other"


async def echo(message: bytes, _call: GrpcCall) -> bytes:
    return message


async def page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b"page")


def call(certificate: bytes | None = None) -> GrpcCall:
    return GrpcCall("/a/Method", {}, certificate, None)


def request(certificate: bytes | None = None, path: str = "/load") -> HttpRequest:
    return HttpRequest("POST", path, "", {}, b"", certificate)


async def test_t57_one_client_has_so_many_requests_at_once_and_takes_nothing_from_another() -> None:
    gate = asyncio.Event()

    async def wait(message: bytes, _call: GrpcCall) -> bytes:
        await gate.wait()
        return message

    turnstile = Turnstile(at_once=2, rate=0)
    handler: Any = turnstile.around_grpc({"/a/Method": wait})["/a/Method"]
    running = [asyncio.create_task(handler(b"x", call(OTHER))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RequestError, match="--max_client_requests") as refusal:
        await handler(b"x", call(OTHER))
    assert refusal.value.status is Status.RESOURCE_EXHAUSTED
    assert (await turnstile.around_http(page)(request(OTHER))).status == 429
    running.append(asyncio.create_task(handler(b"x", call(MANAGER))))
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*running) == [b"x"] * 3
    assert await handler(b"x", call(OTHER)) == b"x"  # what ended counts no more


async def test_t57_one_client_sends_so_many_a_second() -> None:
    now = 0.0
    turnstile = Turnstile(at_once=0, rate=2, clock=lambda: now)
    handler: Any = turnstile.around_grpc({"/a/Method": echo})["/a/Method"]
    for _ in range(2):
        await handler(b"x", call(OTHER))
    with pytest.raises(RequestError, match="--max_client_rate"):
        await handler(b"x", call(OTHER))
    assert (await turnstile.around_http(page)(request(OTHER))).status == 429
    await handler(b"x", call(MANAGER))
    await handler(b"x", call(None))
    now = 0.5
    await handler(b"x", call(OTHER))
    with pytest.raises(RequestError):
        await handler(b"x", call(OTHER))


async def test_t57_each_message_of_a_stream_is_counted() -> None:
    async def repeat(messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        async for message in messages:
            yield message

    async def messages() -> AsyncIterator[bytes]:
        for number in range(5):
            yield bytes([number])

    turnstile = Turnstile(at_once=1, rate=3, clock=lambda: 0.0)
    method = turnstile.around_grpc({"/a/Method": GrpcStreaming(repeat)})["/a/Method"]
    assert isinstance(method, GrpcStreaming)
    answers = []

    async def read() -> None:
        async for answer in method.handler(messages(), call(OTHER)):
            answers.append(answer)

    with pytest.raises(RequestError, match="--max_client_rate"):
        await read()
    assert answers == [b"\0", b"\1", b"\2"]
    assert turnstile._clients[fingerprint(OTHER)].running == 0


async def test_strangers_without_end_are_not_remembered_without_end() -> None:
    turnstile = Turnstile(at_once=1, rate=0)
    handler: Any = turnstile.around_grpc({"/a/Method": echo})["/a/Method"]
    for number in range(5000):
        await handler(b"x", call(number.to_bytes(4, "big")))
    assert len(turnstile._clients) == 4096


async def test_without_limits_nothing_stands_between() -> None:
    methods = {"/a/Method": echo}
    turnstile = Turnstile(at_once=0, rate=0)
    assert turnstile.around_grpc(methods) is methods
    assert turnstile.around_http(page) is page
