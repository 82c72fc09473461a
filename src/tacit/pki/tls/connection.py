"""A server's end of one connection: what its client is, and the interface that asyncio's TLS works with.

pyOpenSSL is imported where it is used, so that a client needs no more than the standard library.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import PkiError

if TYPE_CHECKING:
    from OpenSSL import SSL

_CHUNK = 64 * 1024  # bytes taken from OpenSSL's outgoing buffer at once

# What MarbleRun's coordinator says to somebody who forgot the s; the length lets a client finish without our end.
_PLAIN_ANSWER = b"Client sent an HTTP request to an HTTPS server.\n"
PLAIN_HTTP = b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_PLAIN_ANSWER),
    _PLAIN_ANSWER,
)


class TlsPeer:
    """The client of one connection, after the handshake."""

    def __init__(self, connection: "SSL.Connection") -> None:
        self._connection = connection

    def certificate(self) -> bytes | None:
        """The certificate (DER) that it showed, None without one. Nobody has judged it."""
        certificate = self._connection.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    def protocol(self) -> str | None:
        """What both ends agreed to speak, None without ALPN."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def export(self, label: bytes, length: int, context: bytes | None = None) -> bytes:
        """Secret bytes that only the two ends of this very connection know, for binding evidence to it.

        Raises:
            PkiError: The connection is not TLS 1.3; the exporter of 1.2 is unsafe without extended master secret.

        Source: RFC 8446 section 7.5; RFC 9266.
        """
        version = self._connection.get_protocol_version_name()
        if version != "TLSv1.3":
            raise PkiError(f"channel binding needs TLS 1.3; this connection is {version}")
        return self._connection.export_keying_material(label, length, context)


class TlsObject:
    """A server's end of one connection, with the interface of `ssl.SSLObject` that asyncio uses, and the exporter."""

    server_side = True
    server_hostname = None
    session = None
    session_reused = False

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: "SSL.Connection",
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self.context = context
        self._connection, self._incoming, self._outgoing = connection, incoming, outgoing
        self._failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises: ssl.SSLWantReadError until it is done, ssl.SSLError when it failed."""
        if self._failure is not None:
            raise self._failure
        try:
            self._run(self._connection.do_handshake)
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            raise
        except ssl.SSLError as exc:
            # asyncio throws away what is still to be sent when a handshake fails, and with it the alert that tells
            # the client why. It sends when more is wanted; the failure is raised when the client says anything else,
            # and asyncio's handshake timeout ends the connection of one that stays silent.
            self._failure = exc
            if exc.reason == "HTTP_REQUEST":
                self._outgoing.write(PLAIN_HTTP)
            if self._outgoing.pending:
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is to be sent") from exc
            raise

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        """Up to `size` bytes, or their number when they went into `buffer`; empty (0) after the other end's close."""
        from OpenSSL import SSL

        try:
            if buffer is None:
                return self._run(self._connection.recv, size)
            if not len(buffer):
                return 0
            return self._run(self._connection.recv_into, buffer, min(size, len(buffer)))
        except SSL.ZeroReturnError:
            return b"" if buffer is None else 0

    def write(self, data: Any) -> int:
        """Take all of `data` for sending; its length."""
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            sent += self._run(self._connection.send, view[sent:])
        return len(view)

    def unwrap(self) -> None:
        """Say that nothing follows. Raises: ssl.SSLWantReadError until the other end has said it too."""
        from OpenSSL import SSL

        done = True
        with suppress(SSL.ZeroReturnError):  # the other end had said it already
            done = self._run(self._connection.shutdown)
        if not done:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "waiting for the other end's close")

    def pending(self) -> int:
        """Decrypted bytes that can be read at once."""
        return self._connection.pending()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The client's certificate as DER, or None; the parsed form is empty, as `ssl` has it for unverified ones."""
        certificate = TlsPeer(self._connection).certificate()
        return certificate if binary_form or certificate is None else {}

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol and secret bits of the cipher."""
        name, version = self._connection.get_cipher_name(), self._connection.get_cipher_version()
        return None if name is None or version is None else (name, version, self._connection.get_cipher_bits() or 0)

    def compression(self) -> None:
        """Always None: compressed TLS leaks lengths."""

    def selected_alpn_protocol(self) -> str | None:
        """The protocol that both ends speak, None without ALPN."""
        return TlsPeer(self._connection).protocol()

    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        """None: `tls-unique` does not exist in TLS 1.3; use `export_keying_material`."""

    def export_keying_material(self, label: bytes, length: int, context: bytes | None = None) -> bytes:
        """Secret bytes of this very connection; see `TlsPeer.export`. Raises: PkiError."""
        return TlsPeer(self._connection).export(label, length, context)

    def _run(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """One step of OpenSSL between the two buffers, its errors turned into those of `ssl`.

        ZeroReturnError passes: what it means depends on the step.
        """
        from OpenSSL import SSL

        if received := self._incoming.read():
            self._connection.bio_write(received)
        if self._incoming.eof:
            self._connection.bio_shutdown()
        try:
            return action(*arguments)
        except SSL.WantReadError as exc:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more bytes are needed") from exc
        except SSL.ZeroReturnError:
            raise
        except SSL.SysCallError as exc:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection ended inside TLS") from exc
        except SSL.Error as exc:
            raise _ssl_error(exc) from exc
        finally:
            self._flush()

    def _flush(self) -> None:
        from OpenSSL import SSL

        try:
            while True:
                piece = self._connection.bio_read(_CHUNK)
                self._outgoing.write(piece)
                if len(piece) < _CHUNK:
                    return
        except SSL.WantReadError:
            return


def reason_of(exc: "SSL.Error") -> str:
    """OpenSSL's own words for an error."""
    errors = exc.args[0] if exc.args and isinstance(exc.args[0], list) else []
    return "; ".join(entry[2] for entry in errors if entry[2]) or "unknown reason"


def _ssl_error(exc: "SSL.Error") -> ssl.SSLError:
    reason = reason_of(exc)
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.reason = reason.split(";")[0].upper().replace(" ", "_")
    error.library = "SSL"
    return error
