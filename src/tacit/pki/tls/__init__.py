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

from tacit.pki.tls.client import (
    client_context,
    known_key_client_context,
    pinned_client_context,
    unverified_client_context,
)
from tacit.pki.tls.connection import PLAIN_HTTP, TlsPeer
from tacit.pki.tls.server import ClientCertificates, ServerContext, peer_certificate, server_context

__all__ = [
    "PLAIN_HTTP",
    "ClientCertificates",
    "ServerContext",
    "TlsPeer",
    "client_context",
    "known_key_client_context",
    "peer_certificate",
    "pinned_client_context",
    "server_context",
    "unverified_client_context",
]
