"""Any bytes, cut anywhere: what they become is the same, and no parser fails in a way of its own."""

import asyncio
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import frames as f
from fakes.transport import Transport
from tacit.edge import GrpcCall, HttpRequest, HttpResponse
from tacit.edge.calls import Multiplexer
from tacit.edge.calls.messages import MessageReader, parse_timeout
from tacit.edge.http1 import Http1
from tacit.edge.service import Budget, Limits, Peer, Service
from tacit.errors import RequestError

cuts = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def pieces(raw: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`raw`, cut at these sizes; the last piece is whatever is left."""
    found, position = [], 0
    for size in sizes:
        found.append(raw[position : position + size])
        position += size
    return [piece for piece in (*found, raw[position:]) if piece]


async def mirror(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, f"{request.method} {request.path} {len(request.body)}".encode())


async def echo(message: bytes, _call: GrpcCall) -> bytes:
    return message


def service(budget: Budget) -> Service:
    return Service(mirror, {"/rpc.Test/Call": echo}, 1000, 1000, Limits(), budget)


class Free(Budget):
    """A budget that tells what is left."""

    @property
    def left(self) -> int:
        return self._free


async def told(kind: type[Http1] | type[Multiplexer], parts: Sequence[bytes]) -> tuple[bytes, int]:
    """What a connection answers to these bytes, and what of its budget is missing at the end."""
    transport, budget = Transport(), Free(100_000)
    connection = kind(transport, service(budget), Peer())
    for part in parts:
        connection.receive(part)
    for _ in range(10):
        await asyncio.sleep(0)
    connection.lost()
    for _ in range(3):
        await asyncio.sleep(0)
    return transport.written, 100_000 - budget.left


REQUESTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n",
                b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde",
                b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"POST /d HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + bytes(3000),
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n",
                b"POST /e HTTP/1.1\r\nHost: x\r\nUpgrade: y\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nab",
            ]
        ),
        st.binary(max_size=30),
    ),
    max_size=6,
)


@settings(max_examples=150)
@given(REQUESTS, cuts)
def test_t48_any_bytes_on_http1_are_answered_or_refused(parts: list[bytes], sizes: list[int]) -> None:
    raw = b"".join(parts)
    answer, missing = asyncio.run(told(Http1, pieces(raw, sizes)))
    assert missing == 0
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert answer.count(b"HTTP/1.1 4") <= 1, "the first refusal is the end"


OFFER = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
NO_OFFER = OFFER.replace(b"Connection", b"X-Nection-")  # of the same length, if a body takes it for its own
FRAMINGS = st.sampled_from(
    [
        b"", b"Content-Length: 0", b"Content-Length: 3", b"Content-Length: 40", b"Content-Length: 1001",
        b"Content-Length: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue",
    ]
)  # fmt: skip
BODIES = st.sampled_from(
    [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nab", b"GET / HTTP/1.1\r\nHost: y\r\n\r\n", b"\r\n"]
)
STARTS = st.sampled_from([b"POST /%d HTTP/1.1", b"GET /%d HTTP/1.1", b"POST /%d HTTP/1.0", b"GET http://z/%d HTTP/1.1"])


@settings(max_examples=200)
@given(st.lists(st.tuples(STARTS, st.lists(FRAMINGS, max_size=3), st.booleans(), BODIES), max_size=5), cuts)
def test_t48_an_offer_of_another_protocol_changes_no_answer(
    parts: list[tuple[bytes, list[bytes], bool, bytes]], sizes: list[int]
) -> None:
    def written(offer: bytes) -> bytes:
        return b"".join(
            start % number
            + b"\r\nHost: x\r\n"
            + (offer if first else b"")
            + b"".join(line + b"\r\n" for line in framings if line)
            + (b"" if first else offer)
            + b"\r\n"
            + body
            for number, (start, framings, first, body) in enumerate(parts)
        )

    plain, offering = (asyncio.run(told(Http1, pieces(raw, sizes))) for raw in (written(NO_OFFER), written(OFFER)))
    undated = [re.sub(rb"date: [^\r]*", b"", answer) for answer, _ in (plain, offering)]
    assert undated[0] == undated[1]
    assert offering[1] == plain[1] == 0


CALLS = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda number: f.call(2 * number + 1, b"x" * number)),
        st.integers(0, 5).map(lambda number: f.headers(2 * number + 1)),
        st.integers(0, 5).map(lambda number: f.frame(f.RST_STREAM, 0, 2 * number + 1, bytes(4))),
        st.builds(f.frame, st.integers(0, 9), st.integers(0, 40), st.integers(0, 9), st.binary(max_size=20)),
    ),
    max_size=12,
)


@settings(max_examples=100)
@given(CALLS, cuts)
def test_t48_any_frames_are_answered_and_hold_nothing_at_the_end(parts: list[bytes], sizes: list[int]) -> None:
    raw = f.PREFACE + f.settings() + b"".join(parts)
    answer, missing = asyncio.run(told(Multiplexer, pieces(raw, sizes)))
    assert missing == 0
    assert sum(len(each.payload) + 9 for each in f.parse(answer)) == len(answer), "what is sent is whole frames"


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=50), max_size=8), cuts)
def test_messages_are_the_same_however_their_bytes_are_cut(messages: list[bytes], sizes: list[int]) -> None:
    reader = MessageReader(1000)
    raw = b"".join(f.message(each) for each in messages)
    assert [one for piece in pieces(raw, sizes) for one in reader.feed(piece)] == messages
    assert reader.is_between()


@given(st.one_of(st.text(max_size=12), st.from_regex("[0-9]{1,9}[HMSmunx]", fullmatch=True)))
def test_any_timeout_is_seconds_or_refused(text: str) -> None:
    if re.fullmatch("[0-9]{1,8}[HMSmun]", text):
        assert 0 <= parse_timeout(text) < 4e11
    else:
        with pytest.raises(RequestError, match="grpc-timeout"):
            parse_timeout(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5S", 5), ("2M", 120), ("1H", 3600), ("250m", 0.25), ("10u", 1e-5), ("7n", 7e-9)]
)
def test_a_timeout_has_its_unit(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)
