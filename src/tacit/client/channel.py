"""The one door of the client's HTTPS: requests out, answers in, every foreign error turned into one of ours.

No proxy, no system certificates and no redirect is taken, and no compressed answer: what the environment says does not
choose whom we talk to. Python's own HTTP client does the talking, so that premain, whose code is measured, brings no
other for the two questions that it asks.
"""

import contextlib
import io
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode
from weakref import WeakSet

from tacit.client.address import Address
from tacit.errors import InputError, PeerError, TlsError, UnreachableError, UsageError

MAX_ANSWER = 64 << 20  # bytes; the largest honest answer is a manifest of a few MB or a tensor in JSON
CONNECT_TIMEOUT = 10.0  # seconds
_PIECE = 1 << 20  # bytes
_PATH_SIGNS = "/:@!$&'()*+,;=~-._"  # what a path may hold as it is (RFC 3986, pchar)


Exporter = Callable[[bytes, int], bytes]
"""Label and length to secret bytes that only the two ends of one TLS 1.3 connection know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and phrase, body, and the certificate (DER) that the server of this very connection showed.

    `exporter` gives secret bytes of that connection, where its TLS can (`tacit.client.bound`).
    """

    status: int
    phrase: str
    body: bytes
    certificate: bytes | None
    exporter: Exporter | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A way that somebody opened; another one from and to the same places is another."""

    address: Address
    way: Address


_ways: list[_Opened] = []  # the newest is last


@contextlib.contextmanager
def through(address: Address, way: Address) -> Iterator[None]:
    """For the length of the block, connections to `address` are made to `way`, which leads there.

    Nothing else changes: whoever answers is judged by the name and the evidence of `address`. Several may open ways at
    once, in threads too; the newest counts.
    """
    opened = _Opened(address, way)
    _ways.append(opened)
    try:
        yield
    finally:
        _ways.remove(opened)


def way_to(address: Address) -> Address:
    """Where a connection to `address` is to be made: there, unless somebody opened another way."""
    opened = tuple(_ways)  # others may open and end theirs meanwhile
    return next((one.way for one in reversed(opened) if one.address == address), address)


class Forked(Protocol):
    """What must not go on in a child process as it was."""

    def begin_anew(self) -> None:
        """In the child, before anything else runs there: leave the parent what is the parent's."""


_forked: WeakSet[Forked] = WeakSet()


def begin_anew_in_child(one: Forked) -> None:
    """Have `one` told, as long as it lives, when this process is the child of a fork.

    Two processes that go on with one TLS connection use the same nonces for different texts, and then nothing is secret.
    """
    _forked.add(one)


def _begin_anew() -> None:
    for one in list(_forked):
        one.begin_anew()


os.register_at_fork(after_in_child=_begin_anew)


def check_timeout(seconds: object) -> float:
    """Seconds to wait for an answer. Raises: InputError, for what is no time to wait."""
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InputError(f"a timeout of {seconds!r} is none: expected seconds, above 0")
    return float(seconds)


class HttpsChannel:
    """Requests to one server over TLS, connections kept. Several threads may use it: each call has its connection.

    `timeout` is seconds until an answer begins, and for each MiB of it: one that comes drop by drop keeps nobody for ever.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext | None, *, timeout: float = 30.0) -> None:
        self._address = address
        self._tls = tls
        self._base = f"{'http' if tls is None else 'https'}://{address}"
        self._timeout = check_timeout(timeout)
        self._connect_timeout = min(self._timeout, CONNECT_TIMEOUT)
        self._idle: list[HTTPConnection] = []
        self._closed = False
        begin_anew_in_child(self)

    def url(self, path: str) -> str:
        """The whole address of `path`, for messages."""
        return f"{self._base}{path}"

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the server answers, whatever its status.

        Raises:
            UsageError: it was closed.
            UnreachableError: no connection, or no answer in time.
            TlsError: the certificate or its name does not fit, or TLS fails otherwise.
            PeerError: the answer is no HTTP, or too large.
        """
        if self._closed:
            raise UsageError(f"the way to {self._address} was closed, and sends nothing more; open another")
        url = self.url(path)
        connection = self._reuse() or self._connect()
        kept = False
        try:
            # First, for the server may end the connection with its answer.
            certificate, exporter = _certificate(connection), _exporter(connection)
            connection.sock.settimeout(self._timeout)
            target = quote(path, safe=_PATH_SIGNS) + (f"?{urlencode(query)}" if query else "")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it answers before it has heard all
                connection.request(method, target, body, {"User-Agent": "tacit", **(headers or {})})
            pace = _Pace(self._timeout)
            connection.response_class = partial(_PacedResponse, pace=pace)  # type: ignore[assignment]  # it makes one
            response = connection.getresponse()
            answer = Answer(response.status, response.reason, _read(response, url, pace), certificate, exporter)
            kept = not response.will_close
        except TimeoutError as exc:
            raise UnreachableError(f"{method} {url}: no answer within {self._timeout:.0f} s") from exc
        except ssl.SSLError as exc:
            raise _tls_error(self._address, exc) from exc
        except (OSError, HTTPException) as exc:
            # It may hold whatever the other side sent, line ends and all.
            detail = " ".join(str(exc).split())[:200] or type(exc).__name__
            raise PeerError(f"{method} {url}: the connection broke before a whole answer came ({detail})") from exc
        else:
            return answer
        finally:
            if kept and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """End the connections; nothing more is sent."""
        self._closed = True
        while (connection := self._take()) is not None:
            connection.close()

    def begin_anew(self) -> None:
        """In a child process: the connections are the parent's, which is told nothing of their end here."""
        while (connection := self._take()) is not None:
            sock = connection.sock
            getattr(sock, "leave", sock.close)()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reuse(self) -> HTTPConnection | None:
        """A kept connection that the server has not ended meanwhile."""
        while (connection := self._take()) is not None:
            if connection.sock is not None and not _has_word(connection.sock):
                return connection
            connection.close()
        return None

    def _take(self) -> HTTPConnection | None:
        """A kept connection, for whoever asks first."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> HTTPConnection:
        """A new connection, its handshake done. Raises: UnreachableError, TlsError."""
        timeout = self._connect_timeout
        connection = self._prepare(timeout)
        way = way_to(self._address)
        if way != self._address:
            # The name stays that of the address, for TLS and for whoever reads the request.
            connect = partial(_connect_to, way)
            connection._create_connection = connect  # type: ignore[attr-defined]  # its one seam for this
        with closed_on_error(connection):
            try:
                connection.connect()
            except TimeoutError as exc:
                raise UnreachableError(
                    f"{self._address} does not answer within {timeout:.0f} s; is it running there?"
                ) from exc
            except ssl.SSLError as exc:
                raise _tls_error(self._address, exc) from exc
            except (OSError, UnicodeError) as exc:  # a name that no resolver can take is a UnicodeError
                detail = getattr(exc, "strerror", None) or str(exc)
                raise UnreachableError(
                    f"nobody answers at {self._address} ({detail}); check the address, and that it is running"
                ) from exc
            connection.sock.settimeout(self._timeout)
        return connection

    def _prepare(self, timeout: float) -> HTTPConnection:
        """A connection that is not made yet."""
        host, port = self._address.host, self._address.port
        if self._tls is None:
            return HTTPConnection(host, port, timeout=timeout)
        return HTTPSConnection(host, port, timeout=timeout, context=self._tls)


def _connect_to(way: Address, _: object, timeout: float, *more: object) -> socket.socket:
    return socket.create_connection((way.host, way.port), timeout)


@contextlib.contextmanager
def closed_on_error(connection: HTTPConnection) -> Iterator[None]:
    """For `with`: an error that leaves the block ends the connection."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _has_word(sock: socket.socket) -> bool:
    """Whether something came although nothing was asked: the end of the connection, and in any case no answer of ours."""
    if (own := getattr(sock, "has_word", None)) is not None:
        return bool(own())
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


class _Pace:
    """When the next part of an answer has to be there."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._until = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds. Raises: TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _PacedResponse(HTTPResponse):
    """A response that is read at a pace; a socket's own timeout counts from byte to byte."""

    def __init__(self, sock: Any, *words: Any, pace: _Pace, **named: Any) -> None:
        super().__init__(sock, *words, **named)
        self.fp = io.BufferedReader(_PacedReader(sock, self.fp, pace))


class _PacedReader(io.RawIOBase):
    def __init__(self, sock: Any, below: io.BufferedReader, pace: _Pace) -> None:
        self._sock, self._below, self._pace = sock, below, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._pace.left())
        return self._below.readinto1(buffer)

    def close(self) -> None:
        self._below.close()
        super().close()


def _read(response: HTTPResponse, url: str, pace: _Pace) -> bytes:
    """The body, read only as far as an honest answer goes: memory is not the server's to spend."""
    parts, size = [], 0
    pace.begin()
    while part := response.read(_PIECE):
        pace.begin()
        size += len(part)
        if size > MAX_ANSWER:
            raise PeerError(f"{url} answered with more than {MAX_ANSWER >> 20} MiB; nothing of it was used")
        parts.append(part)
    if response.length:  # Python's client takes a body that was cut short for a whole one
        raise PeerError(f"{url}: the connection broke before a whole answer came ({response.length} bytes are missing)")
    return b"".join(parts)


def _certificate(connection: HTTPConnection) -> bytes | None:
    shown = getattr(connection.sock, "getpeercert", None)
    found: bytes | None = None if shown is None else shown(True)
    return found


def _exporter(connection: HTTPConnection) -> Exporter | None:
    return getattr(connection.sock, "export", None)


def _tls_error(address: Address, exc: ssl.SSLError) -> TlsError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        if "mismatch" in exc.verify_message or "not valid for" in exc.verify_message:
            return TlsError(
                f"the certificate of {address} does not name it ({exc.verify_message}); connect by a name that it has, "
                f"or start it with EDG_COORDINATOR_DNS_NAMES={address.host} (a server: EDG_MARBLE_DNS_NAMES)"
            )
        if "expired" in exc.verify_message or "not yet valid" in exc.verify_message:
            return TlsError(
                f"the certificate of {address} is not valid at this time ({exc.verify_message}); set the clock, here or there"
            )
        return TlsError(
            f"the certificate of {address} does not lead to the attested root ({exc.verify_message}): "
            "it is another server, or its keys were renewed since"
        )
    reason = str(exc.reason or exc)
    if "certificate required" in reason.lower().replace("_", " "):
        return TlsError(
            f"{address} wants a certificate from whoever connects: is it a coordinator's mesh port, which is for marbles? "
            "The client API is another, 4433 unless it was told otherwise"
        )
    return TlsError(f"TLS with {address} failed ({reason}); does that port speak TLS?")
