"""Metrics and events, for whoever the operator lets reach the port: names, labels and presets are MarbleRun's.

Loaded only where `EDG_COORDINATOR_PROMETHEUS_ADDR` asks for it. What is kept is bounded: labels are types of the
manifest, paths of the table, known methods and codes, and the UUIDs of at most `MAX_UUIDS` activated marbles; events
are the newest `MAX_EVENTS`.

Source: `/metrics` and `/events` as recorded from MarbleRun v1.9.1.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from tacit.coordinator.api.meter import CODE_NAMES, Activation
from tacit.edge import HttpHandler, HttpRequest, HttpResponse
from tacit.errors import Status, UnauthorizedError

MAX_UUIDS = 1000
"""Marbles (type and UUID) that have a series of their own; later ones share one with an empty UUID."""
MAX_EVENTS = 500
"""Events that are kept, the newest."""
MAX_QUOTE = 16 << 10
"""Bytes of a quote in an event; one has about 5,000. A larger one is left out."""

_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5)
_BYTES = (100, 1000, 2000, 5000, 10000)
_METHODS = frozenset(["GET", "PUT", "HEAD", "POST", "DELETE", "CONNECT", "OPTIONS", "NOTIFY", "TRACE", "PATCH"])
_GRPC = {"grpc_type": "unary", "grpc_service": "rpc.Marble", "grpc_method": "Activate"}
_PLAIN = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}


class _EventActivation(msgspec.Struct):
    marble_type: str = msgspec.field(name="marbleType")
    uuid: str
    quote: bytes | None


class _Event(msgspec.Struct):
    time: str
    activation: _EventActivation


class Metrics:
    """Counts for one coordinator, and answers `/metrics` and `/events`.

    `state` is asked at each scrape; `paths` are those of the client API; `tee` is what the status says.
    """

    def __init__(self, *, state: Callable[[], int], paths: Iterable[str], version: str, tee: str) -> None:
        # Series of their own with times, which MarbleRun does not have.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the one function without types
        self.registry = CollectorRegistry(auto_describe=False)
        self._series: set[tuple[str, str]] = set()
        self._events: deque[_Event] = deque(maxlen=MAX_EVENTS)
        marble = ("type", "uuid")
        self._successes = self._counter(
            "coordinator_marble_activations_success", "Number of successful Marble activations.", marble
        )
        self._attempts = self._counter(
            "coordinator_marble_activations", "Number of Marble activation attempts.", marble
        )
        self._gauge("coordinator_state", "State of the Coordinator.").set_function(state)
        about = self._gauge(
            "coordinator_version_info", "Version information of the coordinator.", ("version", "commit")
        )
        about.labels(version, "")
        self._gauge("tacit_tee_info", "Kind of TEE that the coordinator says it runs in.", ("tee",)).labels(tee)
        self._count_grpc()
        self._count_scrapes()
        self._count_http(paths)

    # ---- what is counted

    def _count_grpc(self) -> None:
        names = tuple(_GRPC)
        handled = self._counter(
            "grpc_server_handled",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            ("grpc_code", *names),
        )
        self._handled = {status: handled.labels(grpc_code=name, **_GRPC) for status, name in CODE_NAMES.items()}
        received = "Total number of RPC stream messages received on the server."
        self._received = self._counter("grpc_server_msg_received", received, names).labels(**_GRPC)
        sent = "Total number of gRPC stream messages sent by the server."
        self._sent = self._counter("grpc_server_msg_sent", sent, names).labels(**_GRPC)
        started = "Total number of RPCs started on the server."
        self._started = self._counter("grpc_server_started", started, names).labels(**_GRPC)

    def _count_scrapes(self) -> None:
        name = "promhttp_metric_handler"
        errors = "Total number of internal errors encountered by the promhttp metric handler."
        failed = self._counter(f"{name}_errors", errors, ("cause",))
        for cause in ("encoding", "gathering"):
            failed.labels(cause)
        self._scraping = self._gauge(f"{name}_requests_in_flight", "Current number of scrapes being served.")
        self._scrapes = self._counter(f"{name}_requests", "Total number of scrapes by HTTP status code.", ("code",))
        for code in ("200", "500", "503"):
            self._scrapes.labels(code)

    def _count_http(self, paths: Iterable[str]) -> None:
        name = "server_client_api_http"
        running = "Number of http requests which are currently running."
        self._running = self._gauge(f"{name}_in_flight_requests", running, ("path",))
        for path in sorted(paths):
            self._running.labels(path)
        self._durations = self._histogram(
            f"{name}_request_duration_histogram_seconds", "Request time duration.", ("path", "method"), _SECONDS
        )
        self._request_sizes = self._histogram(
            f"{name}_request_size_histogram_bytes", "Request size in byte.", ("path",), _BYTES
        )
        self._requests = self._counter(
            f"{name}_request", "Total number of requests received.", ("path", "code", "method")
        )
        self._response_sizes = self._histogram(
            f"{name}_response_size_histogram_bytes", "Response size in byte.", ("path",), _BYTES
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    # ---- counting

    def request_began(self, path: str) -> None:
        """A request to a path of the table of routes."""
        self._running.labels(path).inc()

    def request_ended(self, path: str, request: HttpRequest, response: HttpResponse, *, seconds: float) -> None:
        """Its answer."""
        method = request.method.lower() if request.method in _METHODS else "unknown"
        self._running.labels(path).dec()
        self._durations.labels(path, method).observe(seconds)
        self._request_sizes.labels(path).observe(_size(request))
        self._requests.labels(path, str(response.status), method).inc()
        self._response_sizes.labels(path).observe(len(response.body))

    def call_began(self) -> None:
        """An activation was asked for over gRPC."""
        self._started.inc()
        self._received.inc()

    def call_ended(self, status: Status) -> None:
        """It was answered."""
        self._sent.inc()
        self._handled[status].inc()

    def activated(self, activation: Activation) -> None:
        """A marble got what the manifest gives it."""
        marble = activation.marble_type, activation.uuid
        if len(self._series) < MAX_UUIDS:
            self._series.add(marble)
        shown = marble if marble in self._series else (activation.marble_type, "")
        self._attempts.labels(*shown).inc()
        self._successes.labels(*shown).inc()
        quote = activation.evidence if len(activation.evidence) <= MAX_QUOTE else None
        self._events.append(_Event(_go_time(activation.time), _EventActivation(*marble, quote)))

    def refused(self, marble_type: str) -> None:
        """A marble got nothing. Whoever asked has proven nothing, so its UUID is nobody's."""
        self._attempts.labels(marble_type, "").inc()

    # ---- answering

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """`/metrics`, `/events`, and for anything else Go's answer."""
        if request.path == "/metrics":
            return self._scrape()
        if request.path == "/events":
            events = msgspec.json.encode(list(self._events)) if self._events else b"null"
            return HttpResponse(200, events + b"\n", {"content-type": "application/json"})
        return HttpResponse(404, b"404 page not found\n", _PLAIN)

    def _scrape(self) -> HttpResponse:
        with self._scraping.track_inprogress():
            body = generate_latest(self.registry)
        self._scrapes.labels("200").inc()
        return HttpResponse(200, body, {"content-type": CONTENT_TYPE_PLAIN_0_0_4})


def for_users(handle: HttpHandler, authenticate: Callable[[bytes | None], str]) -> HttpHandler:
    """The same answers for callers with a user's certificate, and none for others."""

    async def checked(request: HttpRequest) -> HttpResponse:
        try:
            authenticate(request.peer_certificate)
        except UnauthorizedError as exc:
            return HttpResponse(401, f"{exc}\n".encode(), _PLAIN)
        return await handle(request)

    return checked


def _size(request: HttpRequest) -> int:
    """About as many bytes as the request had, as Go's handler counts them."""
    head = len(request.method) + len(request.path) + len("HTTP/1.1")
    return head + sum(len(name) + len(value) for name, value in request.headers.items()) + len(request.body)


def _go_time(moment: datetime) -> str:
    """RFC 3339 in UTC; of the fraction no more than it has, as Go writes it."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + "Z"
