"""TLS contexts: the server's own kind, and clients that trust one list of roots and nothing else.

Python's `ssl` verifies a client certificate or does not ask for one; the mesh needs "ask, and let policy judge the
bytes", because a marble's certificate is self-signed and its evidence speaks for it. So a server's context is a
subclass of `ssl.SSLContext` whose `wrap_bio` gives asyncio a pyOpenSSL connection that looks like an `ssl.SSLObject`:

(1) asyncio feeds received bytes into one memory BIO and takes bytes to send from the other;
(2) at the start of a handshake the credentials are asked for again, so a renewed certificate reaches the next client;
(3) a client certificate is requested or required, its possession proven by the handshake; its chain is judged by nobody,
    unless roots for clients are given;
(4) after the handshake its DER, and the TLS 1.3 exporter, can be read from the transport.

Rules of every server: TLS 1.2 and 1.3, AES-GCM alone, no tickets and no session cache (a connection must not outlive
a change of the manifest by resumption), no renegotiation, no compression. Groups are OpenSSL's default: NIST curves,
X25519, and the hybrid post-quantum ones. Clients are Python's own `ssl` with the given roots only: the system's store
is never read. pyOpenSSL is imported by servers alone, so that a client needs no more than the standard library.
"""

import logging
import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat

from tacit.errors import PkiError
from tacit.pki.keys import CERTIFICATE_ERRORS, Credentials, KeyPair, parse_certificates, parse_key_pair, public_key_of

if TYPE_CHECKING:
    from OpenSSL import SSL

ClientCertificates = Literal["none", "request", "require"]

_TLS12_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
_TLS13_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
_CLIENT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_PARTIAL_WRITE = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL switches on and does not name
_CHUNK = 64 * 1024  # bytes taken from OpenSSL's outgoing buffer at once

# What MarbleRun's coordinator says to somebody who forgot the s; the length lets a client finish without our end.
_PLAIN_ANSWER = b"Client sent an HTTP request to an HTTPS server.\n"
PLAIN_HTTP = b"HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_PLAIN_ANSWER),
    _PLAIN_ANSWER,
)

_LOG = logging.getLogger("tacit.pki")


# ---- servers


def server_context(
    credentials: Credentials,
    *,
    client_certificates: ClientCertificates,
    alpn: Sequence[str],
    client_roots: bytes | Callable[[], bytes] | None = None,
) -> "ServerContext":
    """A context for asyncio servers, backed by pyOpenSSL.

    Args:
        credentials: Asked now and at every handshake. When a later answer cannot be used, the last good one stays in
            use and a warning is logged.
        client_certificates: `request` takes any certificate or none, `require` refuses a client without one. Without
            `client_roots` neither verifies a chain: whoever handles the request judges the certificate's bytes.
        alpn: Protocols in the server's order of preference. A client that offers none of them is served without.
        client_roots: PEM, or where it comes from, asked as the credentials are. A client's certificate must then be one
            of these or lead to one, be in date, and be made for clients where it says what it is made for; any other
            ends the handshake.

    Raises:
        PkiError: The credentials cannot be read or do not belong together, or `client_roots` holds no certificate.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    protocols = tuple(name.encode() for name in alpn)
    context.settings = _Settings(credentials, client_certificates, protocols, client_roots)
    return context


def peer_certificate(transport_or_ssl_object: Any) -> bytes | None:
    """The certificate (DER) that the other end showed, None without one or without TLS. Nobody has judged it."""
    ssl_object = transport_or_ssl_object
    if hasattr(ssl_object, "get_extra_info"):
        ssl_object = ssl_object.get_extra_info("ssl_object")
    if ssl_object is None:
        return None
    der: bytes | None = ssl_object.getpeercert(True)
    return der


class _Settings:
    """What a server's connections have in common; makes the OpenSSL context anew when the credentials change."""

    def __init__(
        self,
        credentials: Credentials,
        wanted: ClientCertificates,
        alpn: tuple[bytes, ...],
        roots: bytes | Callable[[], bytes] | None,
    ) -> None:
        self._credentials, self._wanted, self._alpn, self._roots = credentials, wanted, alpn, roots
        self._current = self._read()
        self._context = self._build(*self._current)
        self._refused: tuple[bytes, bytes, bytes | None] | None = None

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        """Chain, key and clients' roots as they are now."""
        chain, key = self._credentials()
        return chain, key, self._roots() if callable(self._roots) else self._roots

    def connection(self) -> "SSL.Connection":
        """A connection over memory, ready to accept."""
        from OpenSSL import SSL

        connection = SSL.Connection(self._fresh())
        connection.set_accept_state()
        return connection

    def _fresh(self) -> "SSL.Context":
        """The context with the newest credentials that can be used."""
        try:
            found = self._read()
        except Exception:
            # A renewal that fails is no reason to stop serving with what is still valid.
            _LOG.warning("credentials could not be read; the previous certificate stays in use", exc_info=True)
            return self._context
        if found not in (self._current, self._refused):
            try:
                self._context, self._current = self._build(*found), found
            except PkiError as exc:
                self._refused = found
                _LOG.warning("new credentials cannot be used (%s); the previous certificate stays in use", exc)
        return self._context

    def _build(self, chain_pem: bytes, key_pem: bytes, roots_pem: bytes | None) -> "SSL.Context":
        from OpenSSL import SSL

        pair = parse_key_pair(chain_pem, key_pem)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(
            SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"tacit")
        context.set_cipher_list(_TLS12_CIPHERS)
        context.set_tls13_ciphersuites(_TLS13_CIPHERS)
        # A write is finished in one call, as with Python's own objects; asyncio would copy the rest again and again.
        context.clear_mode(_PARTIAL_WRITE)
        self._judge_clients(context, parse_certificates(roots_pem) if roots_pem is not None else ())
        if self._alpn:
            context.set_alpn_select_callback(self._select)
        try:
            context.use_certificate(pair.certificate)
            context.use_privatekey(pair.key)
            for certificate in parse_certificates(chain_pem)[1:]:
                context.add_extra_chain_cert(certificate)
            context.check_privatekey()
        except SSL.Error as exc:
            raise PkiError(f"OpenSSL does not take the server's certificate or key: {_reason(exc)}") from exc
        return context

    def _judge_clients(self, context: "SSL.Context", roots: Sequence[x509.Certificate]) -> None:
        """With roots, OpenSSL's own verdict on a client's chain counts; without, every certificate passes."""
        from OpenSSL import SSL, crypto

        if not roots:
            context.set_verify(self._verify_mode(), lambda *_: True)
            return
        store = cast("crypto.X509Store", context.get_cert_store())  # a context of this kind always has one
        try:
            for root in roots:
                store.add_cert(crypto.X509.from_cryptography(root))
        except (crypto.Error, SSL.Error) as exc:
            raise PkiError("OpenSSL does not take a root for clients' certificates") from exc
        # As on the gRPC port, any certificate that is given ends a chain: an intermediate is enough.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        context.set_verify(self._verify_mode(), lambda _connection, _certificate, _code, _depth, fine: bool(fine))

    def _verify_mode(self) -> int:
        from OpenSSL import SSL

        if self._wanted == "none":
            return SSL.VERIFY_NONE
        required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if self._wanted == "require" else 0
        return SSL.VERIFY_PEER | required

    def _select(self, _connection: "SSL.Connection", offered: list[bytes]) -> Any:
        from OpenSSL import SSL

        return next((name for name in self._alpn if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


class ServerContext(ssl.SSLContext):
    """What asyncio takes for a context of its own."""

    settings: _Settings

    def accept(self) -> "SSL.Connection":
        """A connection over memory with the newest credentials, for whoever moves its bytes without asyncio's TLS."""
        return self.settings.connection()

    def wrap_bio(  # type: ignore[override]
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> "TlsObject":
        """What asyncio's own TLS works with. Raises: PkiError, for a client."""
        if not server_side:
            raise PkiError("a server's TLS context was given to a client; use client_context")
        return TlsObject(self, self.settings.connection(), incoming, outgoing)

    def wrap_socket(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Not offered. Raises: PkiError."""
        raise PkiError("this TLS context serves asyncio only; blocking sockets are not supported")


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


def _reason(exc: "SSL.Error") -> str:
    """OpenSSL's own words for an error."""
    errors = exc.args[0] if exc.args and isinstance(exc.args[0], list) else []
    return "; ".join(entry[2] for entry in errors if entry[2]) or "unknown reason"


def _ssl_error(exc: "SSL.Error") -> ssl.SSLError:
    reason = _reason(exc)
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.reason = reason.split(";")[0].upper().replace(" ", "_")
    error.library = "SSL"
    return error


# ---- clients


def client_context(*, roots_pem: bytes, certificate: KeyPair | None = None, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's context that verifies name and chain against `roots_pem` alone, with TLS 1.2 or 1.3.

    Any certificate of `roots_pem` ends a chain, so a pinned intermediate is enough. Names are looked for among the
    alternative names only.

    Raises:
        PkiError: `roots_pem` holds no certificate, or the client certificate cannot be used.
    """
    context = _client(certificate, alpn)
    roots = b"".join(root.public_bytes(Encoding.PEM) for root in parse_certificates(roots_pem))
    try:
        context.load_verify_locations(cadata=roots.decode("ascii"))
    except ssl.SSLError as exc:
        raise PkiError(f"OpenSSL does not take a root certificate: {exc}") from exc
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    return context


def pinned_client_context(*, pinned_pem: bytes, certificate: KeyPair | None = None) -> ssl.SSLContext:
    """As `client_context`, and the server has to show one of the certificates in `pinned_pem` itself.

    A root vouches for whatever is signed below it, and a marble below it may bear any name that its manifest leaves
    open, the coordinator's too. So a chain is not enough where only one server is meant. Checked at the end of the
    handshake, before anything is sent.

    Raises:
        PkiError: as `client_context`.
    """
    context = client_context(roots_pem=pinned_pem, certificate=certificate)
    pinned = frozenset(one.public_bytes(Encoding.DER) for one in parse_certificates(pinned_pem))

    def check(shown: bytes | None) -> str:
        return "" if shown in pinned else "it is signed by the pinned certificate, and is not that certificate"

    return _with_check(context, check)


def known_key_client_context(
    *, known_pem: bytes, certificate: KeyPair | None = None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """A client's context that takes any server with the key of one of the certificates in `known_pem`.

    For the mesh port: it shows the intermediate's key under another certificate, with names that nobody has to know.

    Raises:
        PkiError: `known_pem` holds no certificate, or the client certificate cannot be used.
    """
    known = frozenset(_key_of(one.public_bytes(Encoding.DER)) for one in parse_certificates(known_pem))

    def check(shown: bytes | None) -> str:
        try:
            same = shown is not None and _key_of(shown) in known
        except (PkiError, *CERTIFICATE_ERRORS):  # a key of no kind that the mesh has
            same = False
        return "" if same else "its key is not that of the expected certificate"

    return _with_check(unverified_client_context(certificate=certificate, alpn=alpn), check)


def _key_of(certificate: bytes) -> bytes:
    key = public_key_of(x509.load_der_x509_certificate(certificate))
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _with_check(context: ssl.SSLContext, check: Callable[[bytes | None], str]) -> ssl.SSLContext:
    """The context, whose handshakes fail where `check` says what is wrong with the server's certificate (DER)."""

    def verify(shown: bytes | None) -> None:
        if wrong := check(shown):
            error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"another certificate than expected: {wrong}")
            error.reason = error.verify_message = wrong
            raise error

    class CheckedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            verify(self.getpeercert(True))

    class CheckedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            verify(self.getpeercert(True))

    context.sslsocket_class, context.sslobject_class = CheckedSocket, CheckedObject
    return context


def unverified_client_context(*, certificate: KeyPair | None = None, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's context that takes any server: only for fetching evidence, which then says whose key it was.

    Raises:
        PkiError: The client certificate cannot be used.
    """
    context = _client(certificate, alpn)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _client(certificate: KeyPair | None, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.set_ciphers(_CLIENT_CIPHERS)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        password = secrets.token_hex(32)
        locked = certificate.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode())
        )
        try:
            with _readable(certificate.certificate_pem + locked) as path:
                context.load_cert_chain(path, password=password)
        except ssl.SSLError as exc:
            raise PkiError(f"OpenSSL does not take the client certificate: {exc.reason}") from exc
    return context


@contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """A path under which `content` can be read while the block lasts.

    `ssl` takes a private key from a file only. The file is memory without a name where the kernel has that; elsewhere
    it is temporary. Its key is encrypted under a password that never leaves this process, so either way no key is
    written.
    """
    try:
        descriptor = os.memfd_create("tls")
    except (AttributeError, OSError):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    try:
        os.write(descriptor, content)
        path = Path("/proc/self/fd") / str(descriptor)
        yield str(path)
    finally:
        os.close(descriptor)
