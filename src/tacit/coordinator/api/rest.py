"""The client API: a request becomes an answer by the table in `routes`.

What goes wrong there is an error of `tacit.errors`; `_refuse` turns it into MarbleRun's codes and envelopes, in one
place. A path that is not in the table answers as an unknown one does, 405, which MarbleRun's command line takes for an
older coordinator.

Source: recorded requests and answers of MarbleRun v1.9.1.
"""

import asyncio
import contextlib
import html
import posixpath
import traceback
from collections.abc import Mapping
from concurrent.futures import Executor
from urllib.parse import quote, unquote

from tacit.coordinator.api.meter import Meter, NoMeter
from tacit.coordinator.api.routes import PATHS, Route, Routes
from tacit.coordinator.core import Coordinator
from tacit.coordinator.log import EventLog
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import (
    FeatureOffError,
    FieldError,
    ForbiddenError,
    GoneError,
    IllegalTransitionError,
    InputError,
    NoUpdateError,
    TacitError,
    UnauthorizedError,
)
from tacit.wire.rest import API_V2, BAD_STATE, Envelope, encode_envelope

MAX_BODY = 4 << 20
"""Bytes of a request. A manifest with 1,000 marble types has 0.7 MB, a third more as base64."""

_JSON = {"content-type": "application/json"}
_PLAIN = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
_HTML = {"content-type": "text/html; charset=utf-8"}


class ClientApi:
    """Answers requests to one coordinator. What may take long runs in `executor`, so that nobody else waits for it."""

    def __init__(
        self, coordinator: Coordinator, *, executor: Executor, log: EventLog, meter: Meter | None = None
    ) -> None:
        self._coordinator = coordinator
        self._executor = executor
        self._log = log
        self._meter = meter or NoMeter()
        self.routes = Routes(coordinator, executor=executor, log=log).table

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The answer to any request; never raises."""
        path = unquote(request.path)
        clean = _clean(path)
        if clean != path:
            return _redirect(clean, request)
        if path not in PATHS:
            return await self._answer(request, path)
        clock = asyncio.get_running_loop().time
        began = clock()
        self._meter.request_began(path)
        response = await self._answer(request, path)
        self._meter.request_ended(path, request, response, seconds=clock() - began)
        return response

    async def _answer(self, request: HttpRequest, path: str) -> HttpResponse:
        route = self.routes.get((request.method, path))
        if route is None:
            answer = _answer(405, Envelope("error"), _PLAIN)
            return HttpResponse(405, b"", answer.headers) if request.method == "HEAD" else answer
        if route.version == 1:
            self._log.info(f"Usage of deprecated API endpoint. Consider using {API_V2 + path} instead", path=path)
        try:
            data = await route.handler(request)
        except TacitError as exc:
            return self._refuse(exc, request, route)
        except Exception as exc:
            # The text of a foreign exception may quote what it was given; its kind and place are enough.
            self._log.error("request failed", path=path, error=type(exc).__name__, at=_place(exc))
            return _answer(500, Envelope("error", None, "internal error"), _PLAIN)
        return _answer(200, Envelope("success", data), _JSON)

    def _refuse(self, exc: TacitError, request: HttpRequest, route: Route) -> HttpResponse:
        message = str(exc)
        if isinstance(exc, IllegalTransitionError):
            code, message = route.failure, BAD_STATE
        elif isinstance(exc, UnauthorizedError):
            code = 401
        elif isinstance(exc, InputError):
            code = 400
        elif isinstance(exc, FeatureOffError):
            code = 403
        elif isinstance(exc, NoUpdateError):
            code = 404
        elif isinstance(exc, GoneError):
            code = 410
        else:
            code = route.failure
        self._log.warning(
            "request refused",
            method=request.method,
            path=request.path[:200],
            code=code,
            reason=exc.reason,
            error=str(exc),
        )
        if request.method == "POST" or isinstance(exc, UnauthorizedError | ForbiddenError):
            audit = self._coordinator.audit
            entries = audit.request_refused(request.peer_certificate, request.path, exc)
            if entries:
                with contextlib.suppress(RuntimeError):  # the program is ending
                    self._executor.submit(audit.write, entries)
        if route.version == 2 and code in (400, 401):
            data = {exc.field: exc.detail} if isinstance(exc, FieldError) else None
            return _answer(code, Envelope("fail", data, message), _JSON)
        return _answer(code, Envelope("error", None, message), _PLAIN)


def _answer(code: int, envelope: Envelope, headers: Mapping[str, str]) -> HttpResponse:
    return HttpResponse(code, encode_envelope(envelope), headers)


def _clean(path: str) -> str:
    """The path without empty and dot segments; a slash at the end stays."""
    if not path.startswith("/"):
        path = "/" + path
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if path.endswith("/") and clean != "/":
        clean += "/"
    return clean


def _redirect(clean: str, request: HttpRequest) -> HttpResponse:
    # Encoded again: what was decoded to be compared may hold line ends, or a backslash that browsers take for a host.
    target = quote(clean, safe="/:@!$&'()*+,;=~") + (f"?{request.query}" if request.query else "")
    body = f'<a href="{html.escape(target)}">Temporary Redirect</a>.\n\n'.encode()
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(307, b"", {"location": target})
    return HttpResponse(307, b"" if request.method == "HEAD" else body, {**_HTML, "location": target})


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
