"""The way to an address, and answers from there.

A connection may go elsewhere, and whoever answers is judged by the address all the same. An answer is waited for so long
and no longer, and read to its end.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from socket import create_server

import pytest

from tacit.client.address import Address
from tacit.client.bound.channel import BoundChannel
from tacit.client.channel import HttpsChannel, through, way_to
from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.server import serve_http
from tacit.errors import InputError, TlsError, UnreachableError
from tacit.pki import KeyPair, issue_root, issue_self_signed
from tacit.pki.tls import client_context, server_context

NAME = Address("coordinator-client-api.shop", 4433)


async def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, request.headers["host"].encode())


async def test_connections_go_another_way_and_the_name_is_still_that_of_the_address() -> None:
    pair = issue_self_signed([NAME.host], common_name="c", now=datetime.now(UTC))
    tls = server_context(lambda: (pair.certificate_pem, pair.key_pem), client_certificates="none", alpn=["http/1.1"])
    listener = await serve_http(answer, host="127.0.0.1", port=0, tls=tls, max_body=10)
    trusted = client_context(roots_pem=pair.certificate_pem)

    def ask() -> None:
        with through(NAME, Address("127.0.0.1", listener.port)):
            with HttpsChannel(NAME, trusted) as channel:
                assert channel.call("GET", "/").body == f"{NAME.host}:4433".encode()
            with BoundChannel(NAME) as bound:
                assert bound.call("GET", "/").body == f"{NAME.host}:4433".encode()
        other = Address("another.shop", 4433)
        with (
            through(other, Address("127.0.0.1", listener.port)),
            HttpsChannel(other, trusted) as channel,
            pytest.raises(TlsError, match=r"does not name it.*another\.shop"),
        ):
            channel.call("GET", "/")
        assert way_to(NAME) == NAME
        with HttpsChannel(NAME, trusted, timeout=1) as channel, pytest.raises(UnreachableError):
            channel.call("GET", "/")

    try:
        await asyncio.to_thread(ask)
    finally:
        await listener.close(1)


def test_ways_may_be_open_at_once_and_end_in_any_order() -> None:
    first, second = through(NAME, Address("127.0.0.1", 1)), through(NAME, Address("127.0.0.1", 2))
    first.__enter__()
    second.__enter__()
    assert way_to(NAME).port == 2
    first.__exit__(None, None, None)
    assert way_to(NAME).port == 2
    second.__exit__(None, None, None)
    assert way_to(NAME) == NAME


def test_of_two_ways_to_the_same_place_the_one_that_ended_is_gone() -> None:
    here, there = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
    first, second, third = through(NAME, here), through(NAME, there), through(NAME, here)
    for one in (first, second, third):
        one.__enter__()
    third.__exit__(None, None, None)
    assert way_to(NAME) == there
    for one in (second, first):
        one.__exit__(None, None, None)


# ---- answers

ROOT = issue_root(("localhost",), now=datetime.now(UTC))
Open = Callable[[Address, float], HttpsChannel]
CHANNELS: dict[str, Open] = {
    "by certificate": lambda at, timeout: HttpsChannel(
        at, client_context(roots_pem=ROOT.certificate_pem), timeout=timeout
    ),
    "bound": lambda at, timeout: BoundChannel(at, timeout=timeout),
}


@contextmanager
def answering(parts: Sequence[bytes], pause: float, folder: Path, identity: KeyPair = ROOT) -> Iterator[Address]:
    """A server of one connection that hears one request and says these parts, with a pause before each."""
    (folder / "shown.pem").write_bytes(identity.certificate_pem + identity.key_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "shown.pem")
    with create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            accepted, _ = listening.accept()
            # The other side may have left already, as one that was kept waiting does.
            with suppress(OSError), closing(tls.wrap_socket(accepted, server_side=True)) as sock:
                sock.recv(1000)
                for part in parts:
                    time.sleep(pause)
                    sock.sendall(part)
                sock.unwrap()

        thread = threading.Thread(target=run)
        thread.start()
        yield Address("localhost", listening.getsockname()[1])
        thread.join(20)


DROPS = {
    "a head": [b"H"] * 50,
    "heads that mean nothing yet": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 50,
    "a body": [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 50],
}


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("what", DROPS)
def test_an_answer_drop_by_drop_keeps_nobody_waiting(what: str, channel: str, tmp_path: Path) -> None:
    with answering(DROPS[what], 0.1, tmp_path) as at, CHANNELS[channel](at, 0.5) as opened:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer within"):
            opened.call("GET", "/")
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("length", [b"", b"Content-Length: 3000000\r\n"])
def test_the_last_answer_of_a_connection_is_read_to_its_end(length: bytes, channel: str, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n"
    with answering([head, b"x" * 3_000_000], 0.1, tmp_path) as at, CHANNELS[channel](at, 10) as opened:
        assert opened.call("GET", "/").body == b"x" * 3_000_000
        assert opened._idle == []


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_long_answer_may_take_longer_than_one_part_of_it(channel: str, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n"
    with answering([head, *[b"x" * (1 << 20)] * 4], 0.9, tmp_path) as at, CHANNELS[channel](at, 3) as opened:
        assert len(opened.call("GET", "/").body) == 4 << 20


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), None, "1"])
def test_a_timeout_that_is_no_time_to_wait_is_refused(seconds: object) -> None:
    with pytest.raises(InputError, match="a timeout of .* is none: expected seconds, above 0"):
        HttpsChannel(NAME, None, timeout=seconds)  # type: ignore[arg-type]  # wrong types are what is refused
