"""HTTP/2 as bytes: what a client's frames become, and what is sent for answers."""

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import frames as f
from tacit.edge.http2 import Connection, DataReceived, ErrorCode, RequestReceived, Rules, StreamEnded, encode_block
from tacit.edge.http2.frames import ConnectionFault, FrameReader

HEAD = encode_block([(":status", "200")])
TAIL = encode_block([("grpc-status", "0")])


def opened(**rules: int) -> Connection:
    """A connection whose first frames are done with."""
    connection = Connection(Rules(**rules))
    assert connection.receive(f.PREFACE + f.settings()) == []
    connection.take(1 << 20)
    return connection


def sent(connection: Connection, limit: int = 1 << 30) -> bytes:
    return connection.take(limit)


class Client:
    """An independent implementation at the other end: the `h2` library."""

    def __init__(self, **rules: int) -> None:
        self.server = Connection(Rules(**rules))
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.exchange()

    def exchange(self) -> tuple[list[Any], list[Any]]:
        """Let both ends talk until both are silent; what each learnt."""
        ours: list[Any] = []
        theirs: list[Any] = []
        while True:
            there, back = self.h2.data_to_send(), b""
            ours += self.server.receive(there) if there else []
            back = self.server.take(1 << 20)
            theirs += self.h2.receive_data(back) if back else []
            if not there and not back:
                return ours, theirs


def test_a_request_and_its_answer_pass_an_independent_client() -> None:
    client = Client()
    client.h2.send_headers(1, list(f.HEAD))
    client.h2.send_data(1, b"hello", end_stream=True)
    ours, _ = client.exchange()
    assert isinstance(ours[0], RequestReceived)
    assert (ours[0].request.method, ours[0].request.path) == ("POST", "/rpc.Test/Call")
    assert ours[0].request.headers == {"content-type": "application/grpc", "te": "trailers", "host": "localhost"}
    assert (bytes(ours[1].data), ours[1].ended) == (b"hello", True)
    client.server.respond(1, HEAD, b"answer", TAIL)
    _, theirs = client.exchange()
    kinds = [type(event) for event in theirs]
    assert kinds == [
        h2.events.ResponseReceived,
        h2.events.DataReceived,
        h2.events.TrailersReceived,
        h2.events.StreamEnded,
    ]
    assert client.server.streams == 0


def test_a_large_answer_waits_for_the_clients_windows() -> None:
    client = Client()
    client.h2.send_headers(1, list(f.HEAD), end_stream=True)
    client.exchange()
    body = bytes(range(256)) * 1000
    client.server.respond(1, HEAD, body, TAIL)
    _, theirs = client.exchange()
    got = b"".join(event.data for event in theirs if isinstance(event, h2.events.DataReceived))
    assert got == body[:65535]
    assert client.server.unsent(1) == len(body) - 65535
    while len(got) < len(body):
        client.h2.increment_flow_control_window(50_000)
        client.h2.increment_flow_control_window(50_000, stream_id=1)
        _, theirs = client.exchange()
        got += b"".join(event.data for event in theirs if isinstance(event, h2.events.DataReceived))
    assert got == body
    assert any(isinstance(event, h2.events.StreamEnded) for event in theirs)


def test_answers_on_several_streams_take_turns() -> None:
    connection = opened()
    connection.receive(f.headers(1, end=True) + f.headers(3, end=True))
    for stream in (1, 3):
        connection.respond(stream, HEAD, bytes(60_000), b"")
    order = [each.stream for each in f.parse(sent(connection)) if each.kind == f.DATA]
    assert order[:4] == [1, 3, 1, 3]


def test_a_client_that_lowers_its_window_below_nothing_is_waited_for() -> None:
    connection = opened()
    connection.receive(f.headers(1, end=True))
    connection.respond(1, HEAD, bytes(30_000), None)
    sent(connection)
    connection.receive(f.settings((4, 10)))
    connection.send(1, b"more", TAIL)
    assert [each.kind for each in f.parse(sent(connection))] == [f.SETTINGS]
    connection.receive(f.frame(f.WINDOW_UPDATE, 0, 1, struct.pack(">I", 30_000)))
    assert [each.kind for each in f.parse(sent(connection))] == [f.DATA, f.HEADERS]


def test_an_early_answer_ends_the_request_without_an_error() -> None:
    connection = opened()
    connection.receive(f.headers(1))
    connection.respond_only(1, HEAD)
    assert f.resets(sent(connection)) == {1: ErrorCode.NO_ERROR}
    assert connection.receive(f.frame(f.DATA, f.END_STREAM, 1, b"late")) == []
    assert (f.resets(sent(connection)), connection.closed) == ({}, False)


def test_padding_is_taken_off_and_given_back() -> None:
    connection = opened(window=20_000)
    connection.receive(f.headers(1))
    padded = f.frame(f.DATA, f.PADDED, 1, b"\xff" + b"x" + bytes(255))
    events = [event for _ in range(150) for event in connection.receive(padded)]
    assert b"".join(bytes(event.data) for event in events) == b"x" * 150
    assert not connection.closed
    assert any(each.kind == f.WINDOW_UPDATE and each.stream == 1 for each in f.parse(sent(connection)))


def test_a_header_block_in_pieces_is_one_block() -> None:
    connection = opened()
    whole = f.block(*f.HEAD)
    connection.receive(f.frame(f.HEADERS, f.END_STREAM, 1, whole[:5]) + f.frame(f.CONTINUATION, 0, 1, whole[5:9]))
    events = connection.receive(f.frame(f.CONTINUATION, f.END_HEADERS, 1, whole[9:]))
    assert [type(event) for event in events] == [RequestReceived]


def test_the_same_block_means_another_thing_once_the_table_has_changed() -> None:
    import hpack

    encoder, connection = hpack.Encoder(), opened()
    first = encoder.encode([*f.HEAD, ("x-id", "one")])
    again = encoder.encode([*f.HEAD, ("x-id", "one")])
    other = encoder.encode([*f.HEAD, ("x-id", "two")])
    last = encoder.encode([*f.HEAD, ("x-id", "one")])
    seen = []
    for number, part in enumerate((first, again, again, other, last, last)):
        events = connection.receive(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 2 * number + 1, part))
        seen.append(events[0].request.headers["x-id"])
    assert again != last
    assert seen == ["one", "one", "one", "two", "one", "one"]


def test_a_client_is_let_go_on_when_bytes_were_used_up() -> None:
    connection = opened(window=1000)
    connection.receive(f.headers(1) + f.frame(f.DATA, 0, 1, bytes(1000)))
    connection.allow(1, 400)
    assert f.parse(sent(connection)) == []
    connection.allow(1, 200)
    assert [(each.kind, each.number) for each in f.parse(sent(connection))] == [(f.WINDOW_UPDATE, 600)]


def test_a_large_message_is_let_in_at_once() -> None:
    connection = opened(window=1000)
    connection.receive(f.headers(1))
    assert connection.expect(1, 50_000) == 49_000
    assert [(each.kind, each.number) for each in f.parse(sent(connection))] == [(f.WINDOW_UPDATE, 49_000)]
    connection.receive(b"".join(f.frame(f.DATA, 0, 1, bytes(10_000)) for _ in range(5)))
    assert not f.resets(sent(connection))


def test_leaving_refuses_new_requests_and_ends_the_old_ones() -> None:
    connection = opened()
    connection.receive(f.headers(1, end=True))
    connection.leave()
    connection.receive(f.headers(3, end=True))
    answer = sent(connection)
    assert (f.goaway(answer), f.resets(answer)) == (ErrorCode.NO_ERROR, {3: ErrorCode.REFUSED_STREAM})
    connection.respond(1, HEAD, b"done", TAIL)
    assert [each.kind for each in f.parse(sent(connection))] == [f.HEADERS, f.DATA, f.HEADERS]
    assert connection.streams == 0


def test_parting_takes_what_the_client_sent_before_it_heard_of_it() -> None:
    connection = opened()
    connection.part()
    connection.part()
    first = f.parse(sent(connection))
    assert [each.kind for each in first] == [f.GOAWAY, f.PING]
    assert first[0].payload[:8] == b"\x7f\xff\xff\xff" + bytes(4)
    connection.receive(f.headers(1, end=True))
    assert (connection.streams, connection.leaving) == (1, False)
    connection.receive(f.frame(f.PING, f.ACK, 0, b"another!"))
    assert connection.parting
    connection.receive(f.frame(f.PING, f.ACK, 0, first[1].payload))
    assert (connection.leaving, connection.parting) == (True, False)
    connection.receive(f.headers(3, end=True))
    answer = sent(connection)
    (final,) = (each for each in f.parse(answer) if each.kind == f.GOAWAY)
    assert (int.from_bytes(final.payload[:4], "big"), f.resets(answer)) == (1, {3: ErrorCode.REFUSED_STREAM})
    connection.respond(1, HEAD, b"done", TAIL)
    assert connection.streams == 0


MALFORMED = {
    "upper case": (*f.HEAD, ("X-Id", "1")),
    "line break": (*f.HEAD, ("x-id", "1\r\nx-other: 2")),
    "nul": (*f.HEAD, ("x-id", "1\0")),
    "space before the value": (*f.HEAD, ("x-id", " 1")),
    "connection": (*f.HEAD, ("connection", "close")),
    "transfer-encoding": (*f.HEAD, ("transfer-encoding", "chunked")),
    "te": (*f.HEAD[:-1], ("te", "gzip")),
    "two paths": (*f.HEAD[:3], (":path", "/other"), *f.HEAD[3:]),
    "pseudo-header after a header": (*f.HEAD, (":path", "/other")),
    "no path": tuple(field for field in f.HEAD if field[0] != ":path"),
    "no method": f.HEAD[1:],
    "path without slash": (*f.HEAD[:2], (":path", "rpc"), *f.HEAD[3:]),
    "path with a space": (*f.HEAD[:2], (":path", "/a HTTP/1.1"), *f.HEAD[3:]),
    "another host": (*f.HEAD, ("host", "elsewhere")),
    "two lengths": (*f.HEAD, ("content-length", "1"), ("content-length", "2")),
    "negative length": (*f.HEAD, ("content-length", "-1")),
    "status": (*f.HEAD[:3], (":status", "200"), *f.HEAD[3:]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_t48_a_malformed_request_is_reset_and_the_next_one_served(name: str) -> None:
    connection = opened()
    assert connection.receive(f.headers(1, *MALFORMED[name], end=True)) == []
    assert f.resets(sent(connection)) == {1: ErrorCode.PROTOCOL_ERROR}
    assert [type(event) for event in connection.receive(f.headers(3, end=True))] == [RequestReceived]


@pytest.mark.parametrize("body", [b"ab", b"abcd"])
def test_t48_a_body_of_another_length_than_announced_is_reset(body: bytes) -> None:
    connection = opened()
    connection.receive(f.headers(1, *f.HEAD, ("content-length", "3")))
    events = connection.receive(f.frame(f.DATA, f.END_STREAM, 1, body))
    assert events == [StreamEnded(1, ErrorCode.PROTOCOL_ERROR)]


BROKEN = {
    "SETTINGS on a stream": (f.frame(f.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of five bytes": (f.frame(f.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS ack with content": (f.frame(f.SETTINGS, f.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "window of 2^31": (f.settings((4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
    "frames of 1 byte": (f.settings((5, 1)), ErrorCode.PROTOCOL_ERROR),
    "push of 2": (f.settings((2, 2)), ErrorCode.PROTOCOL_ERROR),
    "PUSH_PROMISE": (f.frame(f.PUSH_PROMISE, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (f.frame(f.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "PING on a stream": (f.frame(f.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "window update by nothing": (f.frame(f.WINDOW_UPDATE, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "window over 2^31": (f.frame(f.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
    "window update of no stream": (f.frame(f.WINDOW_UPDATE, 0, 5, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "reset of no stream": (f.frame(f.RST_STREAM, 0, 5, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "DATA of no stream": (f.frame(f.DATA, 0, 5, b"x"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (f.frame(f.CONTINUATION, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "a stream of ours": (f.headers(2), ErrorCode.PROTOCOL_ERROR),
    "a frame inside a block": (
        f.frame(f.HEADERS, 0, 1, b"\x82") + f.frame(f.PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "no HPACK": (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "padding of all": (f.frame(f.HEADERS, f.END_HEADERS | f.PADDED, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of 3 bytes": (f.frame(f.GOAWAY, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", BROKEN)
def test_t48_a_broken_rule_ends_the_connection_with_its_code(name: str) -> None:
    raw, code = BROKEN[name]
    connection = opened()
    connection.receive(raw)
    assert (connection.closed, f.goaway(sent(connection))) == (True, code)
    assert connection.receive(f.headers(1)) == []


def test_a_connection_that_does_not_begin_as_http2_ends() -> None:
    for begun in (b"GET / HTTP/1.1\r\n\r\n", f.PREFACE + f.frame(f.PING, 0, 0, bytes(8))):
        connection = Connection(Rules())
        connection.receive(begun)
        assert connection.closed
        assert f.goaway(sent(connection)) == ErrorCode.PROTOCOL_ERROR


def test_t48_more_bytes_than_the_window_are_refused() -> None:
    connection = opened(window=100)
    connection.receive(f.headers(1) + f.frame(f.DATA, 0, 1, bytes(101)))
    assert f.resets(sent(connection)) == {1: ErrorCode.FLOW_CONTROL_ERROR}
    connection = opened(connection_window=70_000)
    connection.receive(f.headers(1) + f.frame(f.DATA, 0, 1, bytes(70_001)))
    assert f.goaway(sent(connection)) == ErrorCode.FLOW_CONTROL_ERROR


def test_t48_a_frame_larger_than_announced_is_refused_before_it_comes() -> None:
    connection = opened(max_frame=20_000)
    connection.receive(f.headers(1) + b"\x00\x4e\x21" + b"\x00\x00\x00\x00\x00\x01")
    assert f.goaway(sent(connection)) == ErrorCode.FRAME_SIZE_ERROR


def test_t48_more_requests_than_announced_are_refused_one_by_one() -> None:
    connection = opened(max_streams=2)
    connection.receive(b"".join(f.headers(stream) for stream in (1, 3, 5)))
    assert f.resets(sent(connection)) == {5: ErrorCode.REFUSED_STREAM}
    assert connection.streams == 2


# ---- floods


def test_t48_rapid_reset_ends_the_connection() -> None:
    """CVE-2023-44487: requests that are taken back at once."""
    connection = opened()
    taken = 0
    for stream in range(1, 2001, 2):
        events = connection.receive(f.headers(stream) + f.frame(f.RST_STREAM, 0, stream, b"\0\0\0\x08"))
        taken += sum(isinstance(event, RequestReceived) for event in events)
    assert f.goaway(sent(connection)) == ErrorCode.ENHANCE_YOUR_CALM
    assert taken <= Rules().max_resets + 1
    assert connection.closed


def test_what_runs_is_answered_where_a_client_takes_too_many_others_back() -> None:
    connection = opened()
    connection.receive(f.headers(1, end=True))
    events = []
    for stream in range(3, 2 * Rules().max_resets + 7, 2):
        events += connection.receive(f.headers(stream, end=True) + f.frame(f.RST_STREAM, 0, stream, b"\0\0\0\x08"))
    told = sent(connection)
    assert f.goaway(told) == ErrorCode.ENHANCE_YOUR_CALM
    last = max(event.stream for event in events if isinstance(event, RequestReceived))
    farewell = next(each for each in f.parse(told) if each.kind == f.GOAWAY)
    assert int.from_bytes(farewell.payload[:4], "big") == last
    assert not any(isinstance(event, StreamEnded) and event.stream == 1 for event in events)
    assert (connection.leaving, connection.closed) == (True, False)
    later = last + 100
    assert not connection.receive(f.headers(later, end=True))
    assert f.resets(sent(connection)) == {later: ErrorCode.REFUSED_STREAM}
    connection.respond(1, HEAD, b"the answer", HEAD)
    assert b"the answer" in sent(connection)
    assert connection.streams == 0


def test_t48_resets_that_the_server_is_made_to_send_are_counted_too() -> None:
    """CVE-2025-8671: frames that make the server reset its streams."""
    connection = opened()
    for stream in range(1, 2001, 2):
        connection.receive(f.headers(stream) + f.frame(f.WINDOW_UPDATE, 0, stream, bytes(4)))
    assert f.goaway(sent(connection)) == ErrorCode.ENHANCE_YOUR_CALM


def test_a_client_that_takes_back_some_of_its_requests_is_served_for_ever() -> None:
    connection = opened()
    for stream in range(1, 4001, 4):
        connection.receive(f.headers(stream, end=True) + f.headers(stream + 2, end=True))
        connection.receive(f.frame(f.RST_STREAM, 0, stream, b"\0\0\0\x08"))
        connection.respond_only(stream + 2, HEAD)
        sent(connection)
    assert not connection.closed


@pytest.mark.parametrize("size", [0, 100])
def test_t48_a_flood_of_continuations_ends_the_connection(size: int) -> None:
    """CVE-2024-27316: a header block without end."""
    connection = opened()
    connection.receive(f.frame(f.HEADERS, 0, 1, b"\x82"))
    for _ in range(100):
        connection.receive(f.frame(f.CONTINUATION, 0, 1, bytes(size)))
    assert f.goaway(sent(connection)) == ErrorCode.ENHANCE_YOUR_CALM


def test_t48_an_hpack_bomb_is_not_unpacked() -> None:
    """CVE-2016-6581: a few bytes that name one large entry of the table again and again."""
    bomb = b"\x40\x01a" + b"\x7f\x81\x1e" + b"x" * 4000  # literal with indexing: name `a`, a value of 4000 bytes
    connection = opened()
    connection.receive(f.frame(f.HEADERS, f.END_HEADERS, 1, f.block(*f.HEAD) + bomb + b"\xbe" * 10_000))
    assert f.goaway(sent(connection)) == ErrorCode.ENHANCE_YOUR_CALM
    assert connection.streams == 0


FLOODS = {
    "PING": f.frame(f.PING, 0, 0, bytes(8)),  # CVE-2019-9512
    "SETTINGS": f.settings((4, 65_535)),  # CVE-2019-9515
    "SETTINGS ack": f.frame(f.SETTINGS, f.ACK),
    "PRIORITY": f.frame(f.PRIORITY, 0, 1, b"\0\0\0\x03\0"),  # CVE-2019-9513
    "empty DATA": f.frame(f.DATA, 0, 1),  # CVE-2019-9518
    "WINDOW_UPDATE": f.frame(f.WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
    "frames of no known kind": f.frame(0xFE, 0, 0, b"abc"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_t48_a_flood_of_frames_that_lead_to_nothing_ends_the_connection(name: str) -> None:
    connection = opened()
    connection.receive(f.headers(1))
    for _ in range(Rules().max_idle_frames + 10):
        connection.receive(FLOODS[name])
    answer = sent(connection)
    assert f.goaway(answer) == ErrorCode.ENHANCE_YOUR_CALM
    assert len(answer) < 40_000


@pytest.mark.parametrize("name", FLOODS)
def test_the_same_frames_now_and_then_are_fine(name: str) -> None:
    connection = opened()
    connection.receive(f.headers(1))
    for _ in range(10):
        connection.receive(FLOODS[name] * 500)
        connection.calm()
        sent(connection)
    assert not connection.closed


# ---- any bytes


@settings(max_examples=150)
@given(st.data())
def test_t48_any_bytes_give_events_or_an_end_and_nothing_is_hoarded(data: st.DataObject) -> None:
    kinds = st.integers(0, 12)
    payloads = st.one_of(st.binary(max_size=40), st.just(f.block(*f.HEAD)), st.just(bytes(4)), st.just(bytes(8)))
    one = st.builds(f.frame, kinds, st.integers(0, 255), st.integers(0, 9), payloads)
    raw = b"".join(data.draw(st.lists(st.one_of(one, one, one, st.binary(max_size=20)), max_size=25)))
    connection = opened()
    rest = raw
    while rest:
        size = data.draw(st.integers(1, max(1, len(rest))))
        for event in connection.receive(rest[:size]):
            if isinstance(event, RequestReceived) and data.draw(st.booleans()):
                connection.respond(event.stream, HEAD, b"ok", TAIL)
        rest = rest[size:]
    answer = sent(connection)
    assert sum(len(each.payload) + 9 for each in f.parse(answer)) == len(answer), "what is sent is whole frames"
    assert len(answer) <= 64 * len(raw) + 100
    assert connection.streams <= 5


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from([f.DATA, f.HEADERS, f.PING, 0x20]), st.binary(max_size=60), st.integers(0, 20)),
        max_size=8,
    ),
    st.lists(st.integers(1, 30), min_size=1, max_size=200),
)
def test_frames_are_the_same_however_their_bytes_are_cut(
    written: list[tuple[int, bytes, int]], cuts: list[int]
) -> None:
    raw, expected = b"", []
    for kind, body, padding in written:
        if kind == f.DATA:
            raw += f.frame(kind, f.PADDED, 1, bytes([padding]) + body + bytes(padding))
        else:
            raw += f.frame(kind, 0, 1, body)
        expected.append((kind, b"" if kind == 0x20 else body))
    reader = FrameReader(max_data=1000, max_small=1000)
    found: list[tuple[int, bytes]] = []
    charged = 0
    position = 0
    for cut in [*cuts, len(raw)]:
        for kind, _, _, payload, charge in reader.feed(raw[position : position + cut]):
            charged += charge
            if kind == f.DATA and not charge:
                found[-1] = (kind, found[-1][1] + bytes(payload))
            else:
                found.append((kind, bytes(payload)))
        position += cut
    assert found == expected
    assert charged == sum(len(body) + 1 + padding for kind, body, padding in written if kind == f.DATA)


def test_padding_larger_than_its_frame_is_refused() -> None:
    with pytest.raises(ConnectionFault, match="padding"):
        list(FrameReader(max_data=100, max_small=100).feed(f.frame(f.DATA, f.PADDED, 1, b"\x05abcd")))


def test_data_is_passed_on_as_it_comes() -> None:
    connection = opened()
    connection.receive(f.headers(1))
    whole = f.frame(f.DATA, f.END_STREAM, 1, b"abcdef")
    first, second = connection.receive(whole[:12]), connection.receive(whole[12:])
    assert [(bytes(event.data), event.ended) for event in first + second if isinstance(event, DataReceived)] == [
        (b"abc", False),
        (b"def", True),
    ]
