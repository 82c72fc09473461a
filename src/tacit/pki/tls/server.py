"""A server's context: asks for a client certificate, and leaves the judgement of its bytes to whoever handles the request."""

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from cryptography import x509

from tacit.errors import PkiError
from tacit.pki.keys import Credentials, parse_certificates, parse_key_pair
from tacit.pki.tls.connection import TlsObject, reason_of

if TYPE_CHECKING:
    from OpenSSL import SSL

ClientCertificates = Literal["none", "request", "require"]

_TLS12_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
_TLS13_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
_PARTIAL_WRITE = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL switches on and does not name

_LOG = logging.getLogger("tacit.pki")


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
            raise PkiError(f"OpenSSL does not take the server's certificate or key: {reason_of(exc)}") from exc
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
