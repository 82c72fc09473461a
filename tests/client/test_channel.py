"""Another way to an address: the connection goes elsewhere, and whoever answers is judged by the address all the same."""

import asyncio
from datetime import UTC, datetime

import pytest

from tacit.client.address import Address
from tacit.client.bound.channel import BoundChannel
from tacit.client.channel import HttpsChannel, through, way_to
from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.server import serve_http
from tacit.errors import TlsError, UnreachableError
from tacit.pki import issue_self_signed
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
