"""The protocol's REST routes, all below /v2.

    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models, /v2/models/stats
    GET  /v2/models/NAME[/versions/N][/ready, /config, /stats]
    POST /v2/models/NAME[/versions/N]/infer
    POST /v2/repository/index, /v2/repository/models/NAME/load, .../unload
    GET, POST /v2/trace/setting, /v2/models/NAME/trace/setting, /v2/logging

Source: open-inference-protocol, inference_rest.md; Triton's extensions.
"""

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import orjson

from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import RequestError, Status
from tacit.serving.callers import Caller, caller_of
from tacit.serving.oip import about
from tacit.serving.oip.bodies import HEADER, MAX_INFLATED, decode, raw_question, read_question, unpack, write_answer
from tacit.serving.oip.question import answer, find, refuse_to_share, select, signature_of
from tacit.serving.plane import Plane, Selector, start_managing
from tacit.serving.tfs.values import parse_json

PREFIX = "/v2"
_CODES = {
    Status.UNAUTHENTICATED: 401,
    Status.PERMISSION_DENIED: 403,
    Status.NOT_FOUND: 404,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.CANCELLED: 499,
    Status.INTERNAL: 500,
    Status.UNKNOWN: 500,
    Status.DATA_LOSS: 500,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.DEADLINE_EXCEEDED: 504,
}
_JSON = {"content-type": "application/json"}
_MODEL = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    r"(?:/(?P<verb>infer|ready|config|stats|generate|generate_stream))?/?"
)
_REPOSITORY = re.compile(r"/v2/repository/(?:[^/]+/)?models/(?P<name>[^/]+)/(?P<verb>load|unload)/?")
_TRACE = re.compile(r"/v2(?:/models/(?P<name>[^/]+))?/trace/setting/?")
_SHARED_MEMORY = re.compile(r"/v2/(?:systemsharedmemory|cudasharedmemory)(?:/.*)?")


class OipRest:
    """The HTTP handler of everything below /v2.

    `max_inflated` bounds a compressed body and `max_json` its JSON, in bytes; `timeout` an inference, in seconds.
    """

    def __init__(
        self, plane: Plane, *, max_inflated: int, max_json: int | None = None, timeout: float | None = None
    ) -> None:
        self._plane = plane
        self._max_inflated = min(max_inflated, MAX_INFLATED)
        self._max_json, self._timeout = max_json, timeout
        self._facts: Mapping[str, Callable[[], HttpResponse]] = {
            "/v2": lambda: _answer(about.server()),
            "/v2/health/live": lambda: _answer({"live": True}),
            "/v2/health/ready": self._health,
        }

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The answer to one request; errors are JSON with one key, `error`."""
        try:
            return await self._route(request)
        except RequestError as exc:
            # A name in a request may hold half a character, which JSON can spell and UTF-8 cannot.
            body = orjson.dumps({"error": str(exc).encode("utf-8", "replace").decode()})
            return HttpResponse(_CODES.get(exc.status, 400), body, _JSON)

    async def _route(self, request: HttpRequest) -> HttpResponse:
        method, path, caller = request.method, request.path, _caller(request)
        if found := _MODEL.fullmatch(path):
            # /v2/models/stats is the statistics of all.
            if path.rstrip("/") == "/v2/models/stats":
                return _answer(about.statistics(self._plane, None, caller))
            if found["verb"] == "infer":
                _require("POST", method, path)
                return await self._infer(found, request, caller)
            if found["verb"] in ("generate", "generate_stream"):
                raise RequestError(Status.UNIMPLEMENTED, f"/{found['verb']} is not served here; /infer is")
            _require("GET", method, path)
            return self._model(found, caller)
        if found := _REPOSITORY.fullmatch(path):
            _require("POST", method, path)
            return await self._manage(unquote(found["name"]), found["verb"], request)
        if _SHARED_MEMORY.fullmatch(path):
            raise refuse_to_share(path)
        return self._server(request)

    def _server(self, request: HttpRequest) -> HttpResponse:
        method, path = request.method, request.path.rstrip("/")
        if path == "/v2/repository/index":
            _require("POST", method, path)
            return _answer(about.index(self._plane, _caller(request), ready=_changes(request).get("ready") is True))
        if found := _TRACE.fullmatch(path):
            name = found["name"]
            selector = None if name is None else Selector(unquote(name), caller=_caller(request))
            return _answer(about.trace_settings(self._plane, selector, _settings(request)))
        if path == "/v2/models":
            _require("GET", method, path)
            return _answer({"models": about.visible(self._plane, _caller(request))})
        if path == "/v2/logging":
            return _answer(about.log_settings(_settings(request)))
        told = self._facts.get(path)
        if told is None:
            raise RequestError(Status.NOT_FOUND, f"there is no {request.path[:256]} here")
        _require("GET", method, path)
        return told()

    def _health(self) -> HttpResponse:
        ready = self._plane.models.ready
        return _answer({"ready": ready}, 200 if ready else 503)

    def _model(self, found: re.Match[str], caller: Caller) -> HttpResponse:
        verb = found["verb"]
        selector = select(unquote(found["name"]), found["version"] or "", caller)
        if verb == "ready":
            ready = about.is_ready(self._plane, selector)
            return _answer({"name": selector.model, "ready": ready}, 200 if ready else 503)
        if verb == "stats":
            return _answer(about.statistics(self._plane, selector, caller))
        served = find(self._plane, selector)
        return _answer(about.config(served) if verb == "config" else about.metadata(self._plane, served))

    async def _infer(self, found: re.Match[str], request: HttpRequest, caller: Caller) -> HttpResponse:
        selector = select(unquote(found["name"]), found["version"] or "", caller)
        # Before a byte is inflated or parsed for a stranger.
        self._plane.callers.check_model(selector.model, selector.caller)
        encoding = request.headers.get("content-encoding", "").strip().lower()
        body = unpack(request.body, encoding, limit=self._max_inflated)
        header = request.headers.get(HEADER)
        if header is not None and header.strip() == "0":
            served = find(self._plane, selector)
            asked, form = raw_question(selector, body, served.signatures[signature_of(served)])
        else:
            asked, form = read_question(selector, body, header, max_json=self._max_json)
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        answered = await answer(self._plane, asked, decode=decode, deadline=deadline)
        text, headers = write_answer(answered, form)
        return HttpResponse(200, text, headers)

    async def _manage(self, name: str, verb: str, request: HttpRequest) -> HttpResponse:
        self._plane.callers.check_management(_caller(request))
        parameters = _changes(request).get("parameters") or {}
        models = self._plane.models
        if verb == "load":
            about.refuse_overrides(list(parameters) if isinstance(parameters, dict) else [])
        await start_managing(partial(models.load_model if verb == "load" else models.unload_model, name))
        return HttpResponse(200, b"", _JSON)


def _caller(request: HttpRequest) -> Caller:
    return caller_of(request.peer_certificate, request.headers)


def _require(wanted: str, method: str, path: str) -> None:
    if method != wanted and not (wanted == "GET" and method == "HEAD"):
        raise RequestError(Status.INVALID_ARGUMENT, f"{path[:256]} is asked with {wanted}, not {method[:16]}")


def _settings(request: HttpRequest) -> dict[str, Any]:
    """The settings that somebody wants changed; none where they are only asked for. Raises: RequestError."""
    if request.method == "POST":
        return _changes(request)
    if request.method not in ("GET", "HEAD"):
        text = f"{request.path[:256]} is asked with GET or POST, not {request.method[:16]}"
        raise RequestError(Status.INVALID_ARGUMENT, text)
    return {}


def _answer(document: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, orjson.dumps(document), _JSON)


def _changes(request: HttpRequest) -> dict[str, Any]:
    """The JSON object of a body that may be empty. Raises: RequestError."""
    if not request.body.strip():
        return {}
    document = parse_json(request.body)
    if not isinstance(document, dict):
        raise RequestError(Status.INVALID_ARGUMENT, "the body is no JSON object")
    return document
