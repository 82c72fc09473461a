"""TLS between a socket and a protocol: pyOpenSSL over memory, with as few steps for a byte as Python allows.

asyncio's own TLS asks its object for one record after the other, through three layers; on bodies of megabytes that cost
more than the decryption. Here all records that have come are decrypted into one buffer and passed on together:

(1) received bytes go into OpenSSL's memory;
(2) the handshake takes what it needs; its end tells the protocol who the client is;
(3) what can be decrypted is decrypted, and the protocol gets it in one piece;
(4) what is written is encrypted at once; the socket's own buffer says when that becomes too much;
(5) the end: our last word, then silence until the client has ended too, so that it gets to read that word.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from OpenSSL import SSL

# The decryption below is pyOpenSSL's `recv` without its two copies of each record.
from OpenSSL.SSL import _ffi, _lib  # type: ignore[attr-defined]

from tacit.pki.tls import PLAIN_HTTP, ServerContext, TlsPeer

_RECORD = 16 << 10  # bytes that one record can hold
_PLAIN = 256 << 10  # bytes that are passed on at once
_CIPHER = 256 << 10  # bytes that are read from the socket at once
_OVERHEAD = 64  # bytes that a record adds, and more
_LINGER = 1.0  # seconds that a client gets to end its side


class Above(Protocol):
    """What stands on TLS."""

    def accepted(self, transport: asyncio.Transport) -> None:
        """There is a connection; nothing can be sent on it yet."""

    def secured(self, peer: TlsPeer) -> None:
        """The handshake is done."""

    def data_received(self, data: bytes | memoryview) -> None:
        """Bytes of the client; a view is valid during this call."""

    def pause_writing(self) -> None:
        """The socket takes nothing more for now."""

    def resume_writing(self) -> None:
        """The socket takes more."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""


class Buffers:
    """Memory that all connections of a port use in turn: what is in it is used up before the next one has its turn.

    Views of it live no longer than a call: up to Python 3.11.7, a view in a cycle of garbage crashes its collector.
    """

    def __init__(self) -> None:
        self.cipher = bytearray(_CIPHER)
        self.plain = bytearray(_PLAIN)
        self.plain_pointer = _ffi.from_buffer(self.plain)


class TlsTransport(asyncio.Transport):
    """What the protocol above writes to."""

    def __init__(self, below: "Tls") -> None:
        super().__init__()
        self._below = below

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        self._below.write(data)

    def close(self) -> None:
        """Say that nothing follows, and end when the client has heard it."""
        self._below.close()

    def abort(self) -> None:
        """End now."""
        self._below.abort()

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._below.is_ending()

    def pause_reading(self) -> None:
        """Pass nothing on for now."""
        self._below.pause()

    def resume_reading(self) -> None:
        """Go on passing on what comes."""
        self._below.resume()

    def get_write_buffer_size(self) -> int:
        """Bytes that the client has not taken."""
        return self._below.unsent()


class Tls(asyncio.BufferedProtocol):
    """The server's end of one TLS connection."""

    def __init__(self, context: ServerContext, above: Above, buffers: Buffers) -> None:
        self._connection, self._above, self._buffers = context.accept(), above, buffers
        self._loop = asyncio.get_running_loop()
        self._socket: asyncio.Transport | None = None
        self._secured = self._ending = self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    # ---- what the socket says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._socket = cast("asyncio.Transport", transport)
        self._above.accepted(TlsTransport(self))

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the socket puts what it reads."""
        return self._buffers.cipher

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes from the client."""
        if self._ending:
            return
        self._connection.bio_write(memoryview(self._buffers.cipher)[:nbytes])
        self._advance()

    def eof_received(self) -> bool:
        """The client sends nothing more: so the connection ends, as it does at TLS's own word for that."""
        return False

    def pause_writing(self) -> None:
        """The socket takes nothing more for now."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._ending = True
        self._socket = None
        if self._timer is not None:
            self._timer.cancel()
        self._above.connection_lost(exc)

    # ---- what the protocol above says

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._ending or not data:
            return
        try:
            self._connection.send(data)  # all of it: there are no partial writes
        except SSL.Error:
            self.abort()
            return
        self._flush(len(data))

    def close(self) -> None:
        """Say that nothing follows, and end when the client has heard it."""
        if self._ending:
            return
        if self._secured:
            try:
                self._connection.shutdown()
            except SSL.Error:
                self.abort()
                return
            self._flush()
        self._linger()

    def abort(self) -> None:
        """End now."""
        self._ending = True
        if self._socket is not None:
            self._socket.abort()

    def is_ending(self) -> bool:
        """Whether nothing can be written any more."""
        return self._ending

    def pause(self) -> None:
        """Pass nothing on for now."""
        self._paused = True
        if self._socket is not None and not self._ending:
            self._socket.pause_reading()

    def resume(self) -> None:
        """Go on passing on what comes."""
        self._paused = False
        if self._socket is not None and not self._ending:
            self._socket.resume_reading()
            self._loop.call_soon(self._advance)  # what was not passed on lies in OpenSSL's memory

    def unsent(self) -> int:
        """Bytes that the client has not taken."""
        return 0 if self._socket is None else self._socket.get_write_buffer_size()

    # ---- steps

    def _advance(self) -> None:
        """Go on with the handshake, or with what can be decrypted."""
        if not self._secured and not self._ending:
            self._attempt(self._shake_hands)
        while self._secured and not self._paused and not self._ending:
            if not self._attempt(self._pass_on):
                break

    def _attempt(self, step: Callable[[], bool]) -> bool:
        """Whether a step leads to another one. What goes wrong in it ends the connection."""
        try:
            return step()
        except SSL.WantReadError:
            if not self._secured:
                self._flush()
        except SSL.ZeroReturnError:
            self.close()
        except SSL.Error as exc:
            self._flush()  # the alert that tells the client why
            reasons = [entry[2] for entry in exc.args[0]] if exc.args and isinstance(exc.args[0], list) else []
            if "http request" in reasons and self._socket is not None:
                self._socket.write(PLAIN_HTTP)
            self._linger()
        return False

    def _shake_hands(self) -> bool:
        self._connection.do_handshake()
        self._secured = True
        self._flush()
        self._above.secured(TlsPeer(self._connection))
        return True

    def _pass_on(self) -> bool:
        """Decrypt a buffer full, and pass it on; whether there may be more."""
        buffers, handle, size, result = self._buffers, self._connection._ssl, 0, 0
        while size <= _PLAIN - _RECORD:
            result = _lib.SSL_read(handle, buffers.plain_pointer + size, _RECORD)
            if result <= 0:
                break
            size += result
        if size:
            data = memoryview(buffers.plain)[:size]
            if result > 0:
                self._above.data_received(data)
                return True
            if _lib.SSL_get_error(handle, result) == _lib.SSL_ERROR_WANT_READ:
                self._above.data_received(data)
                return False
            # The error belongs to this connection until it is asked for, so it is asked for before anything else.
            try:
                self._connection._raise_ssl_error(handle, result)
            finally:
                self._above.data_received(data)
        else:
            self._connection._raise_ssl_error(handle, result)
        return False

    def _flush(self, expected: int = 0) -> None:
        """Send what OpenSSL has written."""
        want = max(_RECORD, expected + (expected // _RECORD + 2) * _OVERHEAD)
        while self._socket is not None:
            try:
                piece = self._connection.bio_read(want)
            except SSL.WantReadError:
                return
            self._socket.write(piece)
            if len(piece) < want:
                return

    def _linger(self) -> None:
        """Nothing more is sent. Closing at once would take back what the client has not read yet."""
        self._ending = True
        sock = self._socket
        if sock is None or sock.is_closing():
            return
        try:
            sock.write_eof()
        except OSError:  # the client has gone already
            sock.abort()
            return
        sock.resume_reading()
        self._wait()

    def _wait(self) -> None:
        """Give the client its time, which begins when all of our last word is on its way."""
        self._timer = self._loop.call_later(_LINGER, self._wait if self.unsent() else self.abort)
