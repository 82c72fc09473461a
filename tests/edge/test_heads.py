"""A request with the head of the one before is compared, not parsed; and is answered as if it had been parsed."""

import asyncio
import re
from collections.abc import Sequence

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.transport import Transport
from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.http1 import Http1
from tacit.edge.http1.repeats import Repeats
from tacit.edge.service import Budget, Limits, Peer, Service

POST = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


class Told:
    """A connection, and the requests that its handler saw."""

    def __init__(self, *, room: int = 100_000, waits: bool = False) -> None:
        self.seen: list[HttpRequest] = []
        self.transport = Transport()
        self.go_on = asyncio.Event()
        if not waits:
            self.go_on.set()
        service = Service(self._handle, None, 100_000, 1000, Limits(), Budget(room))
        self.budget = service.budget
        self.connection = Http1(self.transport, service, Peer(b"certificate"))

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        self.seen.append(request)
        await self.go_on.wait()
        return HttpResponse(200, request.body)

    async def hear(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self.connection.receive(part)
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was parsed."""
    seen: list[bytes] = []
    read = Http1._read

    def reads(self: Http1, data: memoryview) -> int | None:
        seen.append(bytes(data))
        return read(self, data)

    monkeypatch.setattr(Http1, "_read", reads)
    return seen


@pytest.mark.parametrize("kind", [bytes, memoryview])
async def test_the_second_request_with_a_head_is_not_parsed(
    kind: type[bytes] | type[memoryview], parsed: list[bytes]
) -> None:
    told = Told()
    await told.hear(*(kind(POST + body) for body in (b"1234", b"\r\n\r\n", b"5678")))
    assert parsed == [POST + b"1234"]
    assert [request.body for request in told.seen] == [b"1234", b"\r\n\r\n", b"5678"]
    first, *others = told.seen
    for other in others:
        assert (other.method, other.path, other.query, other.headers, other.peer_certificate, other.exporter) == (
            "POST", "/a", "b=c", {"host": "x", "content-length": "4"}, b"certificate", first.exporter,
        )  # fmt: skip
    assert told.transport.written.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert told.transport.written.endswith(b"5678")


@pytest.mark.parametrize(
    "other",
    [
        POST.replace(b"/a", b"/z") + b"1234",  # as long, and another
        POST + b"12",  # not whole
        POST + b"1234" + POST + b"5678",
        b"\r\n" + POST + b"1234",
        POST.replace(b"POST", b"GET") + b"12345",
    ],
)
async def test_whatever_differs_is_parsed(other: bytes, parsed: list[bytes]) -> None:
    told = Told()
    await told.hear(POST + b"1234", other)
    assert parsed == [POST + b"1234", other]


@pytest.mark.parametrize(
    "request_",
    [
        POST[:-2] + b"Connection: close\r\n\r\n1234",
        POST.replace(b"1.1", b"1.0")[:-2] + b"Connection: keep-alive\r\n\r\n1234",
        POST[:-2] + b"Expect: 100-continue\r\n\r\n1234",
        POST[:-2] + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n1234",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        POST[:-2] + b"Long: " + b"x" * 5000 + b"\r\n\r\n1234",
        POST.replace(b"Length: 4", b"Length: 70000") + bytes(70_000),
    ],
)
def test_a_head_by_which_more_is_exchanged_is_not_remembered(request_: bytes) -> None:
    async def again() -> bool:
        told = Told()
        await told.hear(request_)
        return told.connection._repeats.find(request_) is not None

    assert not asyncio.run(again())


async def test_the_end_of_a_request_is_no_head() -> None:
    told = Told()
    await told.hear(POST[:9], POST[9:] + b"1234", POST[9:] + b"1234")
    assert len(told.seen) == 1
    assert b"HTTP/1.1 400 " in told.transport.written


async def test_nothing_of_a_body_is_kept() -> None:
    repeats = Repeats()
    headers = {"host": "x", "content-length": "4"}
    repeats.remember(POST + b"1234", HttpRequest("POST", "/a", "b=c", headers, b"1234", None))
    kept = [getattr(repeats, name) for name in Repeats.__slots__]
    assert repeats.find(POST + b"5678") is not None
    assert not any(
        b"1234" in (value.body if isinstance(value, HttpRequest) else repr(value).encode()) for value in kept
    )


async def test_a_request_that_is_one_of_several_is_not_remembered() -> None:
    repeats = Repeats()
    repeats.remember(POST + b"1234", HttpRequest("POST", "/a", "", {}, b"another body", None))
    assert repeats.find(POST + b"1234") is None


async def test_while_a_request_is_answered_the_next_one_waits(parsed: list[bytes]) -> None:
    told = Told(waits=True)
    await told.hear(POST + b"1234", POST + b"5678", POST + b"90ab")
    assert [request.body for request in told.seen] == [b"1234"]
    told.go_on.set()
    await told.hear()
    assert [request.body for request in told.seen] == [b"1234", b"5678", b"90ab"]
    assert len(parsed) == 3, "what stands behind another is the parser's"


async def test_what_finds_no_room_is_refused_as_ever_and_what_was_held_is_given_back() -> None:
    told = Told(room=9)
    await told.hear(POST + b"1234", POST + b"5678")
    assert told.budget.take(9)
    told.budget.give_back(3)
    await told.hear(POST + b"5678")
    assert b"HTTP/1.1 503 " in told.transport.written
    assert told.transport.closed
    assert len(told.seen) == 2


class Forgetful(Repeats):
    """Remembers nothing."""

    def remember(self, data: bytes | memoryview, request: HttpRequest) -> None: ...


HEADS = st.sampled_from(
    [
        POST,
        POST.replace(b"POST", b"HEAD"),
        POST.replace(b"Host: x", b"hOst:x"),
        POST.replace(b"POST /a", b"POST /z"),
        b"GET /abcdefg HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://u@y/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST[:-2] + b"Connection: close\r\n\r\n",
        POST.replace(b"\r\n", b"\n"),
        POST.replace(b"1.1", b"1.0"),
        POST.replace(b"1.1", b"1.0")[:-2] + b"Connection: keep-alive\r\n\r\n",
    ]
)
BODIES = st.sampled_from(
    [b"1234", b"5678", b"\r\n\r\n", b"", b"GET ", b"3\r\nabc\r\n0\r\n\r\n", b"12345", b"\r", b"\n"]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(HEADS, BODIES, st.integers(0, 80)), max_size=8))
def test_it_is_answered_as_if_it_had_been_parsed(parts: Sequence[tuple[bytes, bytes, int]]) -> None:
    pieces = []
    for head, body, at in parts:
        whole = head + body
        pieces += [whole[:at], whole[at:]] if at < 40 else [whole]

    async def hear(*, forgets: bool) -> tuple[list[HttpRequest], bytes, bool]:
        told = Told()
        if forgets:
            told.connection._repeats = Forgetful()
        await told.hear(*filter(None, pieces))
        assert told.budget.take(100_000) or not told.connection._between, "what was held is given back"
        return told.seen, re.sub(rb"date: [^\r]*", b"", told.transport.written), told.transport.closed

    assert asyncio.run(hear(forgets=False)) == asyncio.run(hear(forgets=True))


def test_the_parser_stands_where_it_stood_before_line_ends_between_requests() -> None:
    """What a comparison relies on: between two requests, the parser passes over line ends as if none had come."""

    class Seen:
        def __init__(self) -> None:
            self.urls: list[bytes] = []

        def on_url(self, url: bytes) -> None:
            self.urls.append(url)

    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    for piece in (POST + b"1234", b"\r", b"\n\r", POST + b"5678"):
        parser.feed_data(piece)
    assert seen.urls == [b"/a?b=c"] * 2
