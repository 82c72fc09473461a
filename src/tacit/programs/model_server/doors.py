"""Both protocols behind two doors: which handlers a port has, and who gets to them.

TensorFlow Serving's interfaces and the Open Inference Protocol share the gRPC port and the REST port, over one plane.
"""

import re
from dataclasses import dataclass

from tacit.edge import GrpcMethods, HttpHandler, HttpRequest, HttpResponse
from tacit.edge.calls.admission import Turnstile, refusal
from tacit.edge.http import error_answer
from tacit.edge.service import Limits
from tacit.errors import RequestError
from tacit.serving.oip import rest as oip_rest
from tacit.serving.oip import service as oip_service
from tacit.serving.oip.bodies import HEADER, MAX_INFLATED
from tacit.serving.plane import Plane
from tacit.serving.tfs.flags import Flags
from tacit.serving.tfs.values import check_json_size

# Whoever looks after the server shares its limits with clients without a certificate, and must not be told that it is
# ill because they are many.
_PROBES = ("/grpc.health.v1.Health/Check", oip_service.PATH + "ServerLive", oip_service.PATH + "ServerReady")
_HEALTH = (oip_rest.PREFIX + "/health/live", oip_rest.PREFIX + "/health/ready")

_ORIGIN = re.compile(r"https?://")
_PAGES = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET",
    "access-control-allow-headers": "Content-Type",
}


@dataclass(frozen=True, slots=True)
class Doors:
    """What stands before the handlers of both ports. With `cors` web pages of any origin may call the REST port."""

    turnstile: Turnstile
    max_json: int
    cors: bool = False

    def grpc(self, *methods: GrpcMethods) -> GrpcMethods:
        """The methods of all protocols, behind their doors; probes are not counted."""
        found = {path: method for each in methods for path, method in each.items()}
        return {**self.turnstile.around_grpc(found), **{path: found[path] for path in _PROBES if path in found}}

    def http(self, tfs: HttpHandler, oip: HttpHandler, *, metrics_path: str = "") -> HttpHandler:
        """The handler of the REST port: what is below /v2 is the Open Inference Protocol's. Probes are not counted."""
        largest = self.max_json

        async def handle(request: HttpRequest) -> HttpResponse:
            path = request.path
            for_oip = path == oip_rest.PREFIX or path.startswith(oip_rest.PREFIX + "/")
            if self.cors and request.method == "OPTIONS" and (for_oip or path.lower().startswith("/v1/")):
                return HttpResponse(200 if _ORIGIN.match(request.headers.get("origin", "")) else 400, b"")
            size = len(request.body)
            if size > largest:  # what is compressed is looked at again by who inflates it
                try:
                    check_json_size(_json_size(request) if for_oip else size, largest)
                except RequestError as exc:
                    return refusal(exc)
            return await (oip if for_oip else tfs)(request)

        counted, free = self.turnstile.around_http(handle), {*_HEALTH, metrics_path}

        async def enter(request: HttpRequest) -> HttpResponse:
            is_probe = request.method in ("GET", "HEAD") and request.path in free
            return self._open(await (handle if is_probe else counted)(request))

        return enter

    def refuse(self, status: int, text: str) -> HttpResponse:
        """What the REST port says to requests that reach no handler; both protocols spell it alike."""
        return self._open(error_answer(status, text))

    def _open(self, response: HttpResponse) -> HttpResponse:
        """An answer that a web page gets to see, where that is wanted."""
        if not self.cors:
            return response
        return HttpResponse(response.status, response.body, {**response.headers, **_PAGES})


def _json_size(request: HttpRequest) -> int:
    header = request.headers.get(HEADER, "")
    if header.isascii() and header.isdigit() and len(header) < 20:
        return min(int(header), len(request.body))
    return len(request.body)


def open_doors(flags: Flags) -> Doors:
    """The doors that the command line wants."""
    turnstile = Turnstile(at_once=flags.number("max_client_requests"), rate=flags.number("max_client_rate"))
    return Doors(turnstile, flags.number("max_json_bytes"), cors=flags.switch("rest_api_enable_cors_support"))


def oip_handlers(plane: Plane, flags: Flags) -> tuple[GrpcMethods, HttpHandler]:
    """The Open Inference Protocol's gRPC methods, and its REST."""
    rest = oip_rest.OipRest(
        plane,
        max_inflated=flags.number("max_message_bytes"),
        max_json=flags.number("max_json_bytes"),
        timeout=rest_timeout(flags),
    )
    return oip_service.OipService(plane).handlers(), rest.handle


def rest_timeout(flags: Flags) -> float | None:
    """Seconds that a REST request may wait for its model and run; None for no end."""
    given = flags.number("rest_api_timeout_in_ms")
    return given / 1000 if given > 0 else None


def edge_limits(flags: Flags, *, open_to_all: bool) -> Limits:
    """What all requests of a port together may hold, and the flags that the edge's refusals name.

    Compressed gRPC messages are taken where everybody may call, as often as he likes: which model is meant stands within
    the message, and nothing is inflated for who may not call it, or not yet.
    """
    counted = flags.number("max_client_requests") or flags.number("max_client_rate")
    return Limits(
        inflated=MAX_INFLATED if open_to_all and not counted else 0,
        bodies=flags.number("max_inflight_bytes"),
        size_flag="--max_message_bytes",
        bodies_flag="--max_inflight_bytes",
    )
