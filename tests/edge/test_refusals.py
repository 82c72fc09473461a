"""What the edge itself says to requests over HTTP: in the words of whoever is served there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.http import error_answer, text_answer
from tacit.edge.server import serve_http
from tacit.edge.service import Limits
from tacit.pki.tls import client_context, server_context

LIMITS = Limits(head=4096, bodies=1000, size_flag="--size", bodies_flag="--bodies")


class Gate:
    """A handler that answers once it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def handle(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/fails":
            raise ValueError("the secret is 42")
        self.begun.set()
        await self.go_on.wait()
        return HttpResponse(200, b"")


@asynccontextmanager
async def serving(mesh: Any, gate: Gate, **more: Any) -> AsyncIterator[str]:
    tls = server_context(mesh.credentials, client_certificates="request", alpn=["h2", "http/1.1"])
    listener = await serve_http(gate.handle, host="127.0.0.1", port=0, tls=tls, max_body=800, limits=LIMITS, **more)
    try:
        yield f"https://localhost:{listener.port}"
    finally:
        await listener.close(0.5)


async def refused(base: str, client: httpx.AsyncClient, gate: Gate) -> list[httpx.Response]:
    """Too large as it says itself, too large as it turns out, a handler that fails, one request too many."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield bytes(100)

    answers = [
        await client.post(f"{base}/", content=bytes(801)),
        await client.post(f"{base}/", content=pieces()),
        await client.get(f"{base}/fails"),
    ]
    first = asyncio.create_task(client.post(f"{base}/", content=bytes(700)))
    await gate.begun.wait()
    answers.append(await client.post(f"{base}/", content=bytes(700)))
    gate.go_on.set()
    assert (await first).status_code == 200
    return answers


@pytest.mark.parametrize("http2", [False, True])
async def test_a_refusal_is_in_the_words_that_the_port_was_given(mesh: Any, http2: bool) -> None:
    context = client_context(roots_pem=mesh.root.certificate_pem)
    gate, client = Gate(), httpx.AsyncClient(verify=context, http2=http2, timeout=60)
    async with serving(mesh, gate, refuse=error_answer) as base, client:
        answers = await refused(base, client, gate)
        if not http2:
            answers.append(await client.get(f"{base}/", headers={"x": "a" * 5000}))
            answers.append(await client.request("CONNECT", f"{base}/"))
    assert [answer.status_code for answer in answers] == [413, 413, 500, 503] + ([] if http2 else [431, 400])
    told = [(answer.headers["content-type"], json.loads(answer.text)["error"]) for answer in answers]
    assert {kind for kind, _ in told} == {"application/json"}
    assert ["--size" in told[0][1], "--bodies" in told[3][1], "secret" in told[2][1]] == [True, True, False]


@pytest.mark.parametrize("http2", [False, True])
async def test_a_refusal_is_text_where_the_port_was_given_no_words(mesh: Any, http2: bool) -> None:
    context = client_context(roots_pem=mesh.root.certificate_pem)
    gate, client = Gate(), httpx.AsyncClient(verify=context, http2=http2, timeout=60)
    async with serving(mesh, gate) as base, client:
        answers = await refused(base, client, gate)
    assert [answer.status_code for answer in answers] == [413, 413, 500, 503]
    assert {answer.headers["content-type"] for answer in answers} == {"text/plain; charset=utf-8"}


def test_an_error_is_one_json_object_whatever_its_text() -> None:
    for text in ("", 'a "b" \\ c', "line\nline", "ü\ud800"):
        assert json.loads(error_answer(400, text).body) == {"error": text}
    assert text_answer(400, "a").body == b"a\n"
