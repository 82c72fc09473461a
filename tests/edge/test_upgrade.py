"""HTTP/1.1 requests that offer another protocol: they are ordinary requests, bodies and all, and no way around a limit."""

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from fakes.garbage import no_views_in_cycles
from fakes.http1 import answers_to
from tacit.edge import HttpHandler, HttpRequest, HttpResponse
from tacit.edge.server import serve_http
from tacit.edge.service import Limits
from tacit.pki.tls import client_context, server_context

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: x\r\n" + H2C.replace(b"%", b"%%") + b"%s\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@asynccontextmanager
async def serving(
    handler: HttpHandler, *, tls: Any = None, max_body: int = 1 << 20, **limits: Any
) -> AsyncIterator[int]:
    listener = await serve_http(handler, host="127.0.0.1", port=0, tls=tls, max_body=max_body, limits=Limits(**limits))
    try:
        yield listener.port
    finally:
        await listener.close(0.5)


async def tell(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b"<" + request.method.encode() + b" " + request.path.encode() + b" " + request.body + b">")


def bodies(answer: bytes) -> list[bytes]:
    """What the answers say, one after the other."""
    return [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 ")[1:]]


def statuses(answer: bytes) -> list[bytes]:
    return [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 3\r\n", b"abc"),
        (b"Content-Length: 0\r\n", b""),
        (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),
        (CHUNKED, b"1\r\na\r\n2\r\nbc\r\n0\r\nX: y\r\n\r\n"),
        (b"", b""),
    ],
    ids=["length", "length of nothing", "chunked", "trailers", "no body"],
)
async def test_an_offer_of_another_protocol_is_passed_over_with_its_body(headers: bytes, body: bytes) -> None:
    said = b"abc" if b"abc" in body or b"bc" in body else b""
    async with serving(tell) as port:
        sent = (POST % (1, headers) + body) * 2 + b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await answers_to(port, sent, answers=3)
    assert bodies(answer) == [b"<POST /1 " + said + b">"] * 2 + [b"<GET /2 >"]


async def test_an_offer_is_passed_over_wherever_its_bytes_are_torn() -> None:
    sent = (
        POST % (1, b"Content-Length: 3\r\n")
        + b"abc"
        + POST % (2, CHUNKED + b"Connection: close\r\n")
        + b"3\r\ndef\r\n0\r\n\r\n"
    )
    places = [len(sent.partition(b"\r\n\r\n")[0]) + step for step in range(-2, 9)]
    async with serving(tell) as port:
        for place in places:
            answer = await answers_to(port, sent[:place], sent[place:], answers=2)
            assert bodies(answer) == [b"<POST /1 abc>", b"<POST /2 def>"]


async def test_a_websocket_offer_is_an_ordinary_request_that_may_end_its_connection() -> None:
    offer = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade%s\r\nUpgrade: websocket\r\n\r\n"
    async with serving(tell) as port:
        assert statuses(await answers_to(port, offer % b"" * 2, answers=2)) == [b"200", b"200"]
        answer = await answers_to(port, offer % b", close" + offer % b"")
    assert statuses(answer) == [b"200"]
    assert b"connection: close" in answer


async def test_an_offer_by_http_1_0_ends_its_connection_as_any_request_of_it() -> None:
    head = b"POST / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    async with serving(tell) as port:
        answer = await answers_to(port, head + head)
    assert statuses(answer) == [b"200"]
    assert answer.endswith(b"<POST / abc>")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length : 3\r\n",
        b"Content-Length:\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunkedd\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\nContent-Length: 3\r\n",
        b"X: y\rContent-Length: 3\r\n",
    ],
)
async def test_t48_an_offer_of_another_protocol_loosens_nothing_of_what_says_where_a_body_ends(
    headers: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    for before, after in itertools.product((b"", H2C), (b"", H2C)):
        if not before and not after:
            continue
        head = b"POST / HTTP/1.1\r\nHost: x\r\n" + before + headers + (after if not before else b"") + b"\r\n"
        async with serving(tell) as port:
            plain = statuses(await answers_to(port, head.replace(H2C, b"") + b"0\r\n\r\n" + smuggled))
            answer = await answers_to(port, head + b"0\r\n\r\n" + smuggled)
        assert plain == statuses(answer) == [b"400"]
        assert b"smuggled" not in answer
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


async def test_t48_trailers_that_offer_another_protocol_change_nothing() -> None:
    body = b"3\r\nabc\r\n0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n"
    async with serving(tell) as port:
        answer = await answers_to(port, (head + body) * 2, answers=2)
    assert bodies(answer) == [b"<POST / abc>"] * 2


async def test_t48_the_limits_hold_for_a_request_that_offers_another_protocol() -> None:
    async with serving(tell, max_body=10) as port:
        assert statuses(await answers_to(port, POST % (1, b"Content-Length: 11\r\n") + bytes(11))) == [b"413"]
        assert statuses(await answers_to(port, POST % (1, CHUNKED) + b"b\r\n" + bytes(11) + b"\r\n0\r\n\r\n")) == [
            b"413"
        ]
        asked = b"Content-Length: 11\r\nExpect: 100-continue\r\n"
        assert statuses(await answers_to(port, POST % (1, asked))) == [b"413"]
        after = POST % (1, b"Content-Length: 3\r\n") + b"abc" + b"GET /" + b"a" * 100_000
        assert statuses(await answers_to(port, after, answers=2)) == [b"200", b"431"]
        assert statuses(await answers_to(port, POST % (1, b"X: " + b"a" * 100_000 + b"\r\n"))) == [b"431"]


async def test_who_offers_another_protocol_and_waits_for_100_continue_hears_it_once() -> None:
    async with serving(tell) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST % (1, b"Connection: close\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"<POST /1 abc>")


@pytest.mark.skipif(shutil.which("javac") is None and os.environ.get("TACIT_CI") != "1", reason="Java is not installed")
async def test_javas_own_client_is_answered_in_http_1_1(tmp_path: Any) -> None:
    program = tmp_path / "Post.java"
    program.write_text(JAVA)
    async with serving(tell) as port:
        done = await asyncio.to_thread(
            subprocess.run,
            ["java", str(program), f"http://127.0.0.1:{port}/a"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.split() == ["<POST", "/a", "abc>"] * 2, done.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;

class Post {
    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int turn = 0; turn < 2; turn++) {
            var request = HttpRequest.newBuilder(URI.create(args[0])).POST(HttpRequest.BodyPublishers.ofString("abc")).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"""


@pytest.mark.parametrize("offer", [b"", H2C], ids=["plain", "offer"])
async def test_t48_requests_that_are_refused_leave_no_view_in_a_cycle(mesh: Any, offer: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + offer
    sent = [
        head + b"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        head + b"Content-Length: 99\r\nExpect: 100-continue\r\n\r\n",
        head + b"Transfer-Encoding: gzip\r\n\r\n",
        head + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        head + b"Content-Length: 3\r\n\r\nabcnonsense\r\n\r\n",
    ]
    trusted = client_context(roots_pem=mesh.root.certificate_pem)
    for tls in (None, server_context(mesh.credentials, client_certificates="request", alpn=["http/1.1"])):
        with no_views_in_cycles():
            async with serving(tell, tls=tls, max_body=10) as port:
                for each in sent:
                    more: Any = {"ssl": trusted, "server_hostname": "localhost"} if tls else {}
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, **more)
                    writer.write(each)
                    with suppress(ConnectionError):
                        assert b" 4" in await reader.read()
                    writer.transport.abort()
            await asyncio.sleep(0.05)
