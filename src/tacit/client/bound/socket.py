"""A blocking TLS 1.3 socket with an exporter, which Python's `ssl` does not have; for Python's own HTTP client.

Nothing vouches for the server here: whoever opens one judges its evidence, or compares its certificate, first.
"""

import errno
import io
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPConnection
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tacit.errors import PkiError
from tacit.pki import KeyPair
from tacit.pki.keys import CERTIFICATE_ERRORS

_T = TypeVar("_T")
_PIECE = 16 << 10  # bytes; one record of TLS


class TlsSocket:
    """As much of a socket as `http.client` uses, over pyOpenSSL."""

    def __init__(self, sock: socket.socket, context: SSL.Context, server_name: str | None) -> None:
        self._sock = sock
        self._timeout = sock.gettimeout()
        sock.setblocking(False)
        self._tls = SSL.Connection(context, sock)
        if server_name is not None:
            self._tls.set_tlsext_host_name(server_name.encode("idna"))
        self._tls.set_connect_state()
        self._readers = 0
        self._closing = False

    def do_handshake(self) -> None:
        """Raises: ssl.SSLError, OSError."""
        self._run(self._tls.do_handshake)

    def getpeercert(self, binary_form: bool = True) -> bytes | None:
        """The server's certificate, DER. Raises: ssl.SSLError, where it cannot be read."""
        try:
            shown = self._tls.get_peer_certificate(as_cryptography=True)
        except CERTIFICATE_ERRORS as exc:  # OpenSSL takes some that cryptography does not
            raise _ssl_error(f"the server's certificate cannot be read: {exc}") from exc
        return None if shown is None else shown.public_bytes(Encoding.DER)

    def export(self, label: bytes, length: int) -> bytes:
        """Secret bytes that only the two ends of this connection know. Source: RFC 8446 section 7.5."""
        return self._tls.export_keying_material(label, length, None)

    def selected_alpn_protocol(self) -> str | None:
        """What both ends agreed to speak."""
        return self._tls.get_alpn_proto_negotiated().decode("ascii") or None

    def settimeout(self, seconds: float | None) -> None:
        """For each answer that is waited for."""
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        """Seconds."""
        return self._timeout

    def fileno(self) -> int:
        """Of the socket below."""
        return self._sock.fileno()

    def sendall(self, data: Any) -> None:
        """Raises: ssl.SSLError, OSError."""
        rest = memoryview(data).cast("B")
        while rest:
            sent = self._run(partial(self._tls.send, bytes(rest[:_PIECE])))
            rest = rest[sent:]

    def recv(self, size: int) -> bytes:
        """Empty at the end. Raises: ssl.SSLError, OSError."""

        def receive() -> bytes:
            try:
                return self._tls.recv(size)
            except SSL.ZeroReturnError:
                return b""

        return self._run(receive)

    def has_word(self) -> bool:
        """Whether anything but TLS's own records (tickets, which are not used) came although nothing was asked."""
        try:
            self._tls.recv(1, socket.MSG_PEEK)
        except SSL.WantReadError:
            return False
        except SSL.Error:
            return True
        return True

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        """What answers are read from; as long as one is open the connection is, as with Python's own sockets."""
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """End the connection, once its last answer has been read."""
        self._closing = True
        if not self._readers:
            self._end()

    def reader_closed(self) -> None:
        """One of `makefile` is done with."""
        self._readers -= 1
        if self._closing and not self._readers:
            self._end()

    def _end(self) -> None:
        try:
            self._tls.shutdown()
        except SSL.Error:
            pass  # the other end has left, or was never there
        finally:
            self._sock.close()

    def leave(self) -> None:
        """Give up this process's part of it; the connection goes on in another."""
        self._sock.close()

    def _run(self, action: Callable[[], _T]) -> _T:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                return action()
            except SSL.WantReadError:
                self._wait(select.POLLIN, deadline)
            except SSL.WantWriteError:
                self._wait(select.POLLOUT, deadline)
            except SSL.ZeroReturnError as exc:
                raise ConnectionResetError(errno.ECONNRESET, "the server ended TLS") from exc
            except SSL.SysCallError as exc:
                raise ConnectionResetError(exc.args[0], str(exc.args[1])) from exc
            except SSL.Error as exc:
                raise _ssl_error(_reason(exc)) from exc

    def _wait(self, event: int, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        poll = select.poll()
        poll.register(self._sock, event)
        if not poll.poll(None if left is None else left * 1000):
            raise TimeoutError("timed out")


class _Reader(io.RawIOBase):
    def __init__(self, sock: TlsSocket) -> None:
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._sock.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.reader_closed()


class BoundConnection(HTTPConnection):
    """An HTTP connection over such a socket."""

    def __init__(self, host: str, port: int, context: SSL.Context, *, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._context = context

    def connect(self) -> None:
        """Raises: ssl.SSLError, OSError."""
        # The library's seam: somebody may have opened another way to this host.
        below: socket.socket = self._create_connection((self.host, self.port), self.timeout)  # type: ignore[attr-defined]
        try:
            below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = TlsSocket(below, self._context, None if _is_address(self.host) else self.host)
            secured.do_handshake()
        except BaseException:
            below.close()
            raise
        self.sock: Any = secured


def bound_context(*, certificate: KeyPair | None = None, alpn: Sequence[str] = ()) -> SSL.Context:
    """A client's context for TLS 1.3 alone, without tickets, that takes any server: evidence says which one it is.

    Raises:
        PkiError: the client certificate cannot be used.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if alpn:
        context.set_alpn_protos([name.encode() for name in alpn])
    if certificate is not None:
        try:
            context.use_certificate(certificate.certificate)
            context.use_privatekey(certificate.key)
            context.check_privatekey()
        except (SSL.Error, TypeError) as exc:
            raise PkiError(f"OpenSSL does not take the client certificate: {exc}") from exc
    return context


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.reason = reason
    return error


def _reason(exc: SSL.Error) -> str:
    found = exc.args[0] if exc.args else ()
    return str(found[0][2]) if isinstance(found, list) and found else "unexpected end"
