"""The HTTP listener on real sockets."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from fakes.http1 import PATIENCE, answers_to
from tacit.edge import HttpHandler, HttpRequest, HttpResponse, Listener, server
from tacit.edge.server import serve_http
from tacit.edge.service import Limits
from tacit.errors import InputError, PortInUseError
from tacit.pki.tls import client_context, server_context

MAX_BODY = 30 << 20


async def mirror(request: HttpRequest) -> HttpResponse:
    text = f"{request.method} {request.path} {request.query} {len(request.body)}"
    return HttpResponse(200, text.encode(), {"Content-Type": "text/plain"})


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, request.body)


@asynccontextmanager
async def listening(
    handler: HttpHandler = mirror, *, tls: ssl.SSLContext | None = None, max_body: int = MAX_BODY, **limits: Any
) -> AsyncIterator[Listener]:
    listener = await serve_http(handler, host="127.0.0.1", port=0, tls=tls, max_body=max_body, limits=Limits(**limits))
    try:
        yield listener
    finally:
        await listener.close(0.5)


@asynccontextmanager
async def serving(*arguments: Any, **options: Any) -> AsyncIterator[int]:
    async with listening(*arguments, **options) as listener:
        yield listener.port


def tls_of(mesh: Any, wanted: str = "request") -> ssl.SSLContext:
    return server_context(mesh.credentials, client_certificates=wanted, alpn=["http/1.1"])


def client_of(mesh: Any, certificate: Any = None) -> httpx.AsyncClient:
    context = client_context(roots_pem=mesh.root.certificate_pem, certificate=certificate)
    return httpx.AsyncClient(verify=context, timeout=PATIENCE)


def silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> bool:
    return capfd.readouterr().err == "" and not [record for record in caplog.records if record.levelname != "DEBUG"]


async def test_path_and_query_arrive_as_they_were_sent() -> None:
    async with serving() as port:
        answer = await answers_to(port, b"GET /a%2Fb/%zz//../c?x=%20&y HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nGET /a%2Fb/%zz//../c x=%20&y 0")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"http://x.example/v2/health/live?a=/b?c", b"/v2/health/live a=/b?c x.example"),
        (b"HTTPS://x.example:80/a//b", b"/a//b  x.example:80"),
        (b"http://x.example", b"/  x.example"),
        (b"http://x.example?q", b"/ q x.example"),
        (b"/http://x.example/a", b"/http://x.example/a  header.example"),
        (b"/a", b"/a  header.example"),
    ],
)
async def test_a_target_may_be_a_whole_address_whose_host_is_the_one_that_counts(target: bytes, told: bytes) -> None:
    async def tell(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, f"{request.path} {request.query} {request.headers['host']}".encode())

    async with serving(tell) as port:
        answer = await answers_to(
            port, b"GET " + target + b" HTTP/1.1\r\nHost: header.example\r\nConnection: close\r\n\r\n"
        )
        without = await answers_to(port, b"GET http://x/ HTTP/1.1\r\n\r\n")
        named = await answers_to(port, b"GET http://user@x/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == told
    assert without.startswith(b"HTTP/1.1 400 ")
    assert named.startswith(b"HTTP/1.1 400 ")


async def test_an_answer_has_no_other_headers_than_date_and_length() -> None:
    async with serving() as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
    assert set(answer.headers) == {"content-type", "date", "content-length"}


async def test_head_has_the_length_and_no_body() -> None:
    async with serving() as port, httpx.AsyncClient() as client:
        answer = await client.head(f"http://127.0.0.1:{port}/")
    assert (answer.headers["content-length"], answer.content) == ("9", b"")


async def test_the_client_certificate_stands_in_every_request(mesh: Any) -> None:
    seen: list[bytes | None] = []

    async def look(request: HttpRequest) -> HttpResponse:
        seen.append(request.peer_certificate)
        return HttpResponse(204, b"")

    async with serving(look, tls=tls_of(mesh)) as port:
        async with client_of(mesh, mesh.user) as client:
            await client.get(f"https://localhost:{port}/")
            await client.get(f"https://localhost:{port}/")
        async with client_of(mesh) as client:
            await client.get(f"https://localhost:{port}/")
    assert seen == [mesh.user.certificate_der, mesh.user.certificate_der, None]


async def test_a_renewed_certificate_is_served_to_the_next_connection(mesh: Any) -> None:
    async with serving(tls=tls_of(mesh)) as port:
        async with client_of(mesh) as client:
            assert (await client.get(f"https://localhost:{port}/")).status_code == 200
        mesh.server = mesh.issue("other.example")
        async with client_of(mesh) as client:
            with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
                await client.get(f"https://localhost:{port}/")


async def test_bodies_of_20_megabytes_pass_both_ways_over_tls(mesh: Any) -> None:
    body = bytes(range(256)) * (20 * 4096)
    async with serving(echo, tls=tls_of(mesh)) as port, client_of(mesh, mesh.user) as client:
        assert (await client.post(f"https://localhost:{port}/", content=body)).content == body


async def test_a_hundred_requests_at_once(mesh: Any) -> None:
    async with serving(echo, tls=tls_of(mesh)) as port, client_of(mesh) as client:
        answers = await asyncio.gather(
            *(client.post(f"https://localhost:{port}/", content=b"%d" % n) for n in range(100))
        )
    assert [answer.content for answer in answers] == [b"%d" % n for n in range(100)]


async def test_t48_a_body_above_the_limit_gets_413() -> None:
    async with serving(max_body=1000) as port, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}/"
        assert (await client.post(url, content=bytes(1000))).status_code == 200
        assert (await client.post(url, content=bytes(1001))).status_code == 413
        assert (await client.post(url, content=bytes(5_000_000))).status_code == 413


async def test_t48_a_chunked_body_above_the_limit_gets_413() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(100)

    async with serving(max_body=1000) as port, httpx.AsyncClient() as client:
        assert (await client.post(f"http://127.0.0.1:{port}/", content=pieces())).status_code == 413


async def test_t48_a_body_announced_too_large_is_not_even_asked_for() -> None:
    async with serving(max_body=1000) as port:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
        assert (await answers_to(port, head)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(100)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["many headers", "one without end", "path"],
)
async def test_t48_a_head_above_the_limit_gets_431(head: bytes) -> None:
    async with serving() as port:
        assert (await answers_to(port, head)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ],
    ids=[
        "nonsense",
        "two framings",
        "two lengths",
        "space before colon",
        "negative length",
        "connect",
        "no host",
        "two hosts",
    ],
)
async def test_t48_what_two_parsers_could_read_differently_is_refused(
    sent: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as port:
        assert (await answers_to(port, sent)).startswith(b"HTTP/1.1 400 ")
    assert silent(capfd, caplog)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"],
    ids=["nothing", "half a head", "half a second head"],
)
async def test_t48_a_slow_sender_is_cut_off(begun: bytes) -> None:
    async with serving(request_time=0.1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                await reader.read()
        writer.transport.abort()


@pytest.mark.parametrize(
    "offer", [b"", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"], ids=["plain", "an offer of HTTP/2"]
)
async def test_t48_a_slow_body_is_cut_off_and_never_handled(offer: bytes) -> None:
    handled: list[HttpRequest] = []

    async def note(request: HttpRequest) -> HttpResponse:
        handled.append(request)
        return HttpResponse(200, b"")

    async with serving(note, request_time=0.1) as port:
        answer = await answers_to(port, b"POST / HTTP/1.1\r\nHost: x\r\n" + offer + b"Content-Length: 10\r\n\r\nabc")
    assert (answer, handled) == (b"", [])


async def test_t48_who_never_reads_the_answer_is_cut_off() -> None:
    answered = asyncio.Event()

    async def large(_request: HttpRequest) -> HttpResponse:
        answered.set()
        return HttpResponse(200, bytes(30 << 20))

    async with listening(large, send_time=0.05) as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as deaf:
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
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


async def test_an_idle_connection_is_ended_after_a_while() -> None:
    async with serving(keep_alive=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_request_that_breaks_off_is_never_handled(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[HttpRequest] = []

    async def note(request: HttpRequest) -> HttpResponse:
        handled.append(request)
        return HttpResponse(200, b"")

    async with serving(note) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
    assert handled == []
    assert silent(capfd, caplog)


async def test_a_client_that_does_not_wait_leaves_no_trace(
    mesh: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(_request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0.1)
        return HttpResponse(200, bytes(5_000_000))

    context = client_context(roots_pem=mesh.root.certificate_pem)
    async with serving(slow, tls=tls_of(mesh)) as port:
        for pause in (0.0, 0.05, 0.15):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(pause)
            writer.transport.abort()
        await asyncio.sleep(0.15)
    assert silent(capfd, caplog)


async def test_a_failing_handler_tells_the_log_and_not_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_request: HttpRequest) -> HttpResponse:
        raise ValueError("the secret is 42")

    async with serving(fail) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
    assert (answer.status_code, answer.content) == (500, b"internal error\n")
    assert "the secret is 42" in caplog.text


@pytest.mark.parametrize("headers", [{"x": "1\r\ny: 2"}, {"x": "1\0"}, {"x\r\ny": "1"}, {"x": "\u20ac"}, {"": "1"}])
async def test_t48_a_header_that_would_become_two_is_not_sent(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def split(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"", headers)

    async with serving(split) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
        assert (answer.status_code, set(answer.headers)) == (500, {"date", "content-type", "content-length"})
        assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 500
    assert "cannot be sent as it is" in caplog.text


async def test_an_answer_that_ends_its_connection_is_sent_to_its_end(mesh: Any) -> None:
    async def large(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, bytes(20 << 20))

    def visit(port: int) -> int:
        context = client_context(roots_pem=mesh.root.certificate_pem)
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            time.sleep(1.5)
            received = 0
            while piece := tls.recv(1 << 16):
                received += len(piece)
            return received

    async with serving(large, tls=tls_of(mesh)) as port:
        assert await asyncio.to_thread(visit, port) > 20 << 20


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async with serving() as port:
        head = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        answer = await answers_to(port, b"".join(head % number for number in range(300)), answers=300)
    assert [int(part.split(b"POST /")[1].split()[0]) for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [*range(300)]


async def test_what_came_before_nonsense_is_answered_first() -> None:
    async with serving() as port:
        answer = await answers_to(port, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"nonsense\r\n\r\n", answers=3)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]


async def test_t48_answers_are_not_made_ahead_for_a_client_that_reads_none() -> None:
    made = 0

    async def large(_request: HttpRequest) -> HttpResponse:
        nonlocal made
        made += 1
        return HttpResponse(200, bytes(20 << 20))

    async with serving(large) as port:
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
            async with asyncio.timeout(PATIENCE):
                while not made:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert made == 1


async def test_a_client_that_waits_for_100_continue_gets_it() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    ],
)
async def test_another_version_and_another_coding_are_refused(head: bytes, status: int) -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)
        writer.close()


async def test_a_client_of_http_1_0_is_sent_no_100_continue() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_port_in_use_is_named(unused: Callable[[], socket.socket]) -> None:
    taken = unused()
    port = taken.getsockname()[1]
    with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{port}"):
        await serve_http(mirror, host="127.0.0.1", port=port, tls=None, max_body=1)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
async def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(InputError):
        await serve_http(mirror, host=host, port=0, tls=None, max_body=1)


async def test_an_empty_host_listens_on_both_families() -> None:
    listener = await serve_http(mirror, host="", port=0, tls=None, max_body=1)
    async with httpx.AsyncClient() as client:
        for host in ("127.0.0.1", "[::1]"):
            assert (await client.get(f"http://{host}:{listener.port}/")).status_code == 200
    await listener.close(0.5)


async def test_closing_lets_a_running_request_finish() -> None:
    begun = asyncio.Event()

    async def slow(_request: HttpRequest) -> HttpResponse:
        begun.set()
        await asyncio.sleep(0.2)
        return HttpResponse(200, b"done")

    listener = await serve_http(slow, host="127.0.0.1", port=0, tls=None, max_body=1)
    async with httpx.AsyncClient() as client:
        running = asyncio.create_task(client.get(f"http://127.0.0.1:{listener.port}/"))
        await begun.wait()
        await listener.close(600)
        assert (await running).content == b"done"
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{listener.port}/")


@pytest.mark.parametrize("come", [0, 1, 60, 75])
async def test_a_request_that_has_come_when_the_server_ends_is_answered_though_it_is_not_read_yet(come: int) -> None:
    listener = await serve_http(mirror, host="127.0.0.1", port=0, tls=None, max_body=100)
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n" + bytes(30)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(whole)  # one that is kept alive, as it is between two requests
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
    with writer.get_extra_info("socket").dup() as raw:
        raw.send(whole[:come] or whole)  # nobody reads it before the next turn of the loop
        if come:
            await asyncio.sleep(0.05)
        ending = asyncio.create_task(listener.close(600))
        await asyncio.sleep(0.02)
        raw.send(whole[come:] if come else b"")
    head = await reader.readuntil(b"\r\n\r\n")
    assert (head[:17], b"connection: close" in head) == (b"HTTP/1.1 200 OK\r\n", True)
    await ending
    writer.close()


async def test_all_that_was_asked_at_once_before_the_end_is_answered() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: HttpRequest) -> HttpResponse:
        begun.set()
        await go_on.wait()
        return HttpResponse(200, b"done")

    listener = await serve_http(slow, host="127.0.0.1", port=0, tls=None, max_body=100)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    await begun.wait()
    ending = asyncio.create_task(listener.close(600))
    await asyncio.sleep(0.02)
    go_on.set()
    answered = await reader.read()
    await ending
    writer.close()
    assert (answered.count(b"HTTP/1.1 200 OK"), answered.count(b"connection: close")) == (3, 1)


async def test_closing_ends_what_outlives_the_grace(mesh: Any) -> None:
    begun = asyncio.Event()

    async def stuck(_request: HttpRequest) -> HttpResponse:
        begun.set()
        await asyncio.sleep(600)
        return HttpResponse(200, b"")

    listener = await serve_http(stuck, host="127.0.0.1", port=0, tls=tls_of(mesh), max_body=1)
    async with client_of(mesh) as client:
        running = asyncio.create_task(client.get(f"https://localhost:{listener.port}/"))
        await begun.wait()
        async with asyncio.timeout(PATIENCE):
            await listener.close(0.1)
            with pytest.raises(httpx.HTTPError):
                (await running).raise_for_status()


async def test_an_idle_connection_does_not_hold_up_the_end(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FAREWELL", 600)  # it is not waited for either
    listener = await serve_http(mirror, host="127.0.0.1", port=0, tls=tls_of(mesh), max_body=1)
    async with client_of(mesh) as client:
        await client.get(f"https://localhost:{listener.port}/")
        async with asyncio.timeout(PATIENCE):
            await listener.close(600)
