"""One question to a server over HTTP, within limits of time and size. Nothing that comes back is trusted.

What is fetched carries its maker's signature, so TLS only hides what is asked: a server on one's own network may be
asked by `http://`, and `https://` is verified against the system's certificates. No proxy, no redirect and no compressed
answer is taken.
"""

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Event, Timer
from urllib.parse import SplitResult, urlsplit

from tacit.errors import CollateralAbsentError

MAX_ANSWER = 1 << 20  # bytes; the largest honest answer, Intel's TCB info, has 20 KiB
DEADLINE = 20.0  # seconds for the whole answer, whatever trickles in
CONNECT_TIMEOUT = 5.0  # seconds
_ADDRESS = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")
_PIECE = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said with status 200; names of headers are in lower case."""

    body: bytes
    headers: Mapping[str, str]


Get = Callable[[str], Answer]
"""URL in, answer out. Raises: CollateralAbsentError."""


def check_address(address: str) -> str:
    """The address of a service, without a slash at its end.

    Raises:
        CollateralAbsentError: not `http://` or `https://` with a host, or something with a user, query or fragment.
    """
    if not _ADDRESS.fullmatch(address):
        raise CollateralAbsentError(
            f"{address!r} is no address of a service with collateral; expected one such as https://pccs.example.org:8081"
        )
    return address.rstrip("/")


def get(url: str, *, deadline: float = DEADLINE, max_answer: int = MAX_ANSWER) -> Answer:
    """What stands at a URL.

    Raises:
        CollateralAbsentError: nobody answers, not in time, with another status than 200, too much, or too little.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    late = CollateralAbsentError(f"{shown} does not answer in time; is the service running there?")
    cut = Event()
    try:
        with closing(_connect(parts, min(CONNECT_TIMEOUT, deadline))) as connection, _guard(connection, deadline, cut):
            answer = _ask(connection, target, shown, max_answer)
    except TimeoutError as exc:
        raise late from exc
    except ssl.SSLCertVerificationError as exc:
        raise CollateralAbsentError(
            f"the certificate of {shown} cannot be verified ({exc.verify_message}); a service of your own may be asked by "
            "http://, for what it sends is signed, or its CA be named by SSL_CERT_FILE"
        ) from exc
    except (OSError, HTTPException, ValueError) as exc:
        if cut.is_set():
            raise late from exc
        detail = " ".join(str(exc).split())[:200] or type(exc).__name__
        raise CollateralAbsentError(f"no whole answer came from {shown} ({detail})") from exc
    if cut.is_set():  # an answer without a length that was cut looks whole
        raise late
    return answer


def _connect(parts: SplitResult, timeout: float) -> HTTPConnection:
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=timeout)
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _guard(connection: HTTPConnection, deadline: float, cut: Event) -> Iterator[None]:
    """Ends the connection at the deadline: a server that sends a byte at a time never runs into a socket's timeout."""
    sock: socket.socket = connection.sock
    sock.settimeout(deadline)

    def end() -> None:
        cut.set()
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS says no goodbye

    timer = Timer(deadline, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _ask(connection: HTTPConnection, target: str, shown: str, max_answer: int) -> Answer:
    connection.request("GET", target, headers={"User-Agent": "tacit", "Accept-Encoding": "identity"})
    with closing(connection.getresponse()) as response:  # which holds the socket too
        if response.status != 200:
            raise CollateralAbsentError(f"{shown} answered with status {response.status}; is it the right service?")
        body = b""
        while part := response.read(_PIECE):
            body += part
            if len(body) > max_answer:
                raise CollateralAbsentError(
                    f"{shown} answered with more than {max_answer} bytes; nothing of it was used"
                )
        if response.length:
            raise CollateralAbsentError(f"the answer of {shown} was cut: {response.length} bytes are missing")
        return Answer(body, {name.lower(): value for name, value in response.getheaders()})
