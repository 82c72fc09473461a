"""A client's contexts: each trusts what it was given, and nothing of the system's."""

import os
import secrets
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat

from tacit.errors import PkiError
from tacit.pki.keys import CERTIFICATE_ERRORS, KeyPair, parse_certificates, public_key_of

if TYPE_CHECKING:
    pass

_CLIENT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


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
