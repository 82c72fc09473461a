"""The REST port as a whole: what holds for both of its protocols."""

from collections.abc import Mapping
from typing import Any

import pytest

from fakes.served import example
from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.calls.admission import Turnstile
from tacit.programs.model_server.doors import Doors, open_doors
from tacit.serving.oip.rest import OipRest
from tacit.serving.plane import Plane
from tacit.serving.tfs.flags import parse_flags
from tacit.serving.tfs.rest import TfsRest

V1, V2 = "/v1/models/half_plus_two", "/v2/models/half_plus_two"
ALLOWED = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}


class RestPort:
    """The handler of a REST port without its socket."""

    def __init__(self, doors: Doors) -> None:
        plane = Plane(example())
        self.doors = doors
        self._handle = doors.http(TfsRest(plane).handle, OipRest(plane, max_inflated=1000).handle)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        return await self._handle(HttpRequest(method, path, "", headers or {}, body, None))


def opened(*flags: str) -> RestPort:
    return RestPort(open_doors(parse_flags(["--rest_api_enable_cors_support", *flags])))


def allowed(response: HttpResponse) -> dict[str, Any]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", [V1, V2, "/v2", "/v1/models/other", "/v2/models/other", "/elsewhere"])
async def test_web_pages_of_any_origin_may_read_every_answer_where_that_is_asked_for(path: str) -> None:
    assert allowed(await opened().ask("GET", path)) == ALLOWED
    assert allowed(await RestPort(open_doors(parse_flags([]))).ask("GET", path)) == {}


@pytest.mark.parametrize("path", [f"{V1}:predict", f"{V2}/infer", "/v2"])
async def test_a_browser_that_asks_first_is_told_that_it_may(path: str) -> None:
    for origin, status in (("https://page", 200), ("http://page", 200), ("null", 400), ("", 400)):
        response = await opened().ask("OPTIONS", path, headers={"origin": origin})
        assert (response.status, response.body, allowed(response)) == (status, b"", ALLOWED)
    closed = RestPort(open_doors(parse_flags([])))
    assert (await closed.ask("OPTIONS", path, headers={"origin": "https://page"})).status == 400


async def test_web_pages_may_read_refusals_too() -> None:
    port = RestPort(Doors(Turnstile(at_once=0, rate=1, clock=lambda: 0.0), 10, cors=True))
    large = await port.ask("POST", f"{V2}/infer", bytes(11))
    often = await port.ask("GET", V2)
    assert [(each.status, allowed(each)) for each in (large, often)] == [(429, ALLOWED)] * 2
    refused = port.doors.refuse(413, "too large")
    assert (refused.status, refused.body, allowed(refused)) == (413, b'{"error": "too large"}', ALLOWED)
    assert allowed(RestPort(open_doors(parse_flags([]))).doors.refuse(413, "too large")) == {}
