"""What a listener serves, who asks, and what strangers may cost: the values that every connection of it shares."""

from dataclasses import dataclass, field

from tacit.edge.http import Date, text_answer
from tacit.edge.http2 import Rules
from tacit.edge.listener import Exporter, GrpcMethods, HttpHandler, HttpRefusal


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    connections: int = 1000  # at once; the one beyond is closed as it comes
    handshake_time: float = 15.0  # for TLS
    request_time: float = 60.0  # for the head of a request, and for each further `progress` of its body
    progress: int = 1 << 20  # body that buys another `request_time`; slower than this is holding a connection for ever
    keep_alive: float = 75.0  # that an HTTP/1.1 connection is kept between requests
    send_time: float = 75.0  # that an answer waits for a client that takes nothing of it
    ping_after: float = 60.0  # without a byte from an HTTP/2 client, until we ask whether it is there
    ping_time: float = 20.0  # for the answer to that
    idle_time: float = 1800.0  # that an HTTP/2 connection is kept without a request
    head: int = 64 << 10  # request line and headers of HTTP/1.1
    discard: int = 64 << 20  # of a refused HTTP/1.1 body, taken so that its sender gets to read the refusal
    bodies: int = 1 << 30  # of all requests that are being received or handled together; at least the largest one
    size_flag: str = ""  # that moves the size of one request; named where one is refused
    bodies_flag: str = ""  # that moves `bodies`
    inflated: int = 0  # of one compressed gRPC message, once inflated; 0 takes none
    http2: Rules = field(default_factory=Rules)

    def look_every(self) -> float:
        """Seconds between two looks at the connections: a limit is held to within a quarter of it, or a second."""
        times = (
            self.handshake_time,
            self.request_time,
            self.keep_alive,
            self.send_time,
            self.ping_after,
            self.ping_time,
            self.idle_time,
        )
        return min(1.0, min(times) / 4)


class Budget:
    """Bytes that requests may hold in all. Who does not get them refuses its request; nobody waits for another."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    def take(self, size: int) -> bool:
        """Take `size` bytes, if there are so many."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        """Bytes that are no longer held."""
        self._free += size


@dataclass(frozen=True, slots=True)
class Service:
    """Handlers and limits. Without `http`, requests that are not gRPC are refused; `grpc` is None where there is none."""

    http: HttpHandler | None
    grpc: GrpcMethods | None
    max_body: int
    max_message: int
    limits: Limits
    budget: Budget
    refuse: HttpRefusal = text_answer  # what becomes of a request over HTTP that no handler sees
    date: Date = field(default_factory=Date)

    def full(self) -> str:
        """The refusal of a request for which there is no room."""
        return f"the server holds as many requests as it can{named(self.limits.bodies_flag)}; try again later"

    def too_large(self) -> str:
        """The refusal of an HTTP body above `max_body`."""
        return f"the body is larger than {self.max_body} bytes{named(self.limits.size_flag)}"

    def speaks_http1(self) -> bool:
        """Whether HTTP/1.1 is spoken, which gRPC alone cannot use."""
        return self.http is not None


def named(flag: str) -> str:
    """What a refusal says of the flag that moves its limit; nothing where there is none."""
    return f" ({flag})" if flag else ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: its certificate (DER), if it showed one, the exporter of TLS 1.3, and HOST:PORT."""

    certificate: bytes | None = None
    exporter: Exporter | None = None
    address: str = ""
