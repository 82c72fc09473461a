"""TLS contexts on real sockets: who is asked for a certificate, what is refused, what big bodies and endings do."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import crypto

from tacit.errors import PkiError
from tacit.pki import (
    CertificateRequest,
    KeyPair,
    issue_intermediate,
    issue_leaf,
    issue_marble_root,
    issue_root,
    issue_secret_certificate,
    issue_self_signed,
    parse_csr,
)
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.pki.tls import (
    client_context,
    known_key_client_context,
    peer_certificate,
    pinned_client_context,
    server_context,
    unverified_client_context,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = issue_root(["localhost"], now=NOW)
INTERMEDIATE = issue_intermediate(ROOT, [], now=NOW)
USER = issue_self_signed([], common_name="alice", now=NOW)

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def leaf(names: list[str], issuer: KeyPair = INTERMEDIATE) -> KeyPair:
    csr = parse_csr(create_csr(generate_key(), names))
    return issue_leaf(csr, issuer=issuer, uuid="u", marble_type="t", allowed_names=tuple(names), now=NOW)


LEAF = leaf(["localhost"])


def credentials(pair: KeyPair = LEAF) -> tuple[bytes, bytes]:
    return pair.certificate_pem + INTERMEDIATE.certificate_pem, pair.key_pem


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 20):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def serving(context: ssl.SSLContext, talk: Conversation = echo) -> AsyncIterator[int]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=60)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.02)


async def visit(port: int, context: ssl.SSLContext, message: bytes = b"hello", name: str = "localhost") -> bytes:
    """What comes back for a message, in full length."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        writer.write(message)
        return await reader.readexactly(len(message))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def trusting(certificate: KeyPair | None = None, roots: KeyPair = ROOT, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    return client_context(roots_pem=roots.certificate_pem, certificate=certificate, alpn=alpn)


def server(wanted: str = "request", alpn: tuple[str, ...] = ("h2", "http/1.1")) -> ssl.SSLContext:
    return server_context(credentials, client_certificates=wanted, alpn=alpn)


async def answer_with(
    context: ssl.SSLContext, client: ssl.SSLContext, ask: Callable[[asyncio.StreamWriter], object]
) -> str:
    """What the server's side of a connection says about it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(repr(ask(writer)).encode() + b"\n")
        await writer.drain()

    async with serving(context, talk) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        writer.write(b"?")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line.decode().strip()


# ---- client certificates


def issued(issuer: KeyPair, **more: object) -> KeyPair:
    request = CertificateRequest("client", "cert-ecdsa", size=256, valid_for=2, **more)  # type: ignore[arg-type]
    return issue_secret_certificate(request, issuer=issuer, now=datetime.now(UTC) - timedelta(hours=1))


async def test_with_roots_a_clients_chain_is_verified() -> None:
    current = issue_root(["localhost"], now=datetime.now(UTC) - timedelta(hours=1))
    other = issue_root(["localhost"], now=datetime.now(UTC) - timedelta(hours=1))
    context = server_context(credentials, client_certificates="require", client_roots=current.certificate_pem, alpn=())
    right = issued(current)
    assert await answer_with(context, trusting(right), lambda w: peer_certificate(w.transport)) == repr(
        right.certificate_der
    )
    for wrong in (issued(other), USER, None):
        async with serving(context) as port:
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await visit(port, trusting(wrong))


def test_roots_for_clients_that_are_none_are_refused() -> None:
    with pytest.raises(PkiError):
        server_context(credentials, client_certificates="require", client_roots=b"none", alpn=())


async def test_a_self_signed_certificate_is_seen_as_it_was_shown() -> None:
    seen = await answer_with(server("request"), trusting(USER), lambda w: peer_certificate(w.transport))
    assert seen == repr(USER.certificate_der)


async def test_a_certificate_behind_ones_own_speaks_for_nobody(tmp_path: Path) -> None:
    """A user's certificate stands in the manifest, for everybody to send: only the first one's key was proven."""
    own = issue_self_signed([], common_name="mallory", now=NOW)
    (tmp_path / "pem").write_bytes(own.certificate_pem + USER.certificate_pem + own.key_pem)
    client = trusting()
    client.load_cert_chain(tmp_path / "pem")
    seen = await answer_with(server("request"), client, lambda w: peer_certificate(w.transport))
    assert seen == repr(own.certificate_der)


async def test_without_certificate_a_requesting_server_sees_none() -> None:
    assert await answer_with(server("request"), trusting(), lambda w: peer_certificate(w.transport)) == "None"


async def test_a_server_that_asks_for_nothing_sees_none() -> None:
    assert await answer_with(server("none"), trusting(USER), lambda w: peer_certificate(w.transport)) == "None"


@pytest.mark.parametrize(
    "pair",
    [
        issue_secret_certificate(CertificateRequest("s", "cert-ed25519", valid_for=1), issuer=ROOT, now=NOW),
        issue_secret_certificate(CertificateRequest("s", "cert-rsa", 2048), issuer=ROOT, now=NOW - timedelta(days=900)),
    ],
    ids=["ed25519, expired", "rsa, expired"],
)
async def test_any_certificate_passes_the_handshake(pair: KeyPair) -> None:
    seen = await answer_with(server("require"), trusting(pair), lambda w: peer_certificate(w.transport))
    assert seen == repr(pair.certificate_der)


@pytest.mark.parametrize(
    ("version", "alert"),
    [(ssl.TLSVersion.TLSv1_3, "CERTIFICATE_REQUIRED"), (ssl.TLSVersion.TLSv1_2, "HANDSHAKE_FAILURE")],
)
async def test_a_required_certificate_that_is_missing_is_told_by_an_alert(version: ssl.TLSVersion, alert: str) -> None:
    client = trusting()
    client.minimum_version = client.maximum_version = version
    async with serving(server("require")) as port:
        with pytest.raises(ssl.SSLError, match=alert):
            await visit(port, client)


# ---- versions, ciphers, protocols


async def test_tls_1_1_is_refused_with_an_alert() -> None:
    client = unverified_client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(server()) as port:
        with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|HANDSHAKE_FAILURE|NO_PROTOCOLS|NO_CIPHERS"):
            await visit(port, client)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA"])
async def test_other_ciphers_than_aes_gcm_are_refused(cipher: str) -> None:
    client = trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    async with serving(server()) as port:
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            await visit(port, client)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_served(version: ssl.TLSVersion) -> None:
    client = trusting(USER)
    client.minimum_version = client.maximum_version = version
    async with serving(server("require")) as port:
        assert await visit(port, client) == b"hello"


@pytest.mark.parametrize(
    ("offered", "spoken"), [(("h2",), "'h2'"), (("http/1.1", "h2"), "'h2'"), ((), "None"), (("spdy",), "None")]
)
async def test_alpn_follows_the_servers_order(offered: tuple[str, ...], spoken: str) -> None:
    def protocol(writer: asyncio.StreamWriter) -> object:
        return writer.get_extra_info("ssl_object").selected_alpn_protocol()

    assert await answer_with(server(), trusting(alpn=offered), protocol) == spoken


async def test_t41_a_resumption_attempt_gets_a_full_handshake() -> None:
    client = unverified_client_context()
    client.options &= ~ssl.OP_NO_TICKET
    sessions: list[bool] = []

    def blocking(port: int) -> None:
        import socket

        session = None
        for _ in range(3):
            with (
                socket.create_connection(("127.0.0.1", port)) as raw,
                client.wrap_socket(raw, server_hostname="localhost", session=session) as tls,
            ):
                tls.sendall(b"x")
                assert tls.recv(1) == b"x"
                sessions.append(bool(tls.session_reused))
                session = tls.session

    async with serving(server()) as port:
        await asyncio.to_thread(blocking, port)
    assert sessions == [False, False, False]


async def test_exporter_gives_both_ends_the_same_secret() -> None:
    from OpenSSL import SSL

    found: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        found.append(writer.get_extra_info("ssl_object").export_keying_material(b"EXPORTER-test", 32, b"c"))

    def other_end(port: int) -> None:
        import socket

        with socket.create_connection(("127.0.0.1", port)) as raw:
            connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), raw)
            connection.set_connect_state()
            connection.do_handshake()
            found.append(connection.export_keying_material(b"EXPORTER-test", 32, b"c"))
            connection.send(b"x")
            connection.shutdown()

    async with serving(server(), talk) as port:
        await asyncio.to_thread(other_end, port)
        async with asyncio.timeout(60):
            while len(found) < 2:
                await asyncio.sleep(0.01)
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(found[0]) == 32


async def test_t06_exporter_below_tls_1_3_is_refused() -> None:
    client = trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    def export(writer: asyncio.StreamWriter) -> object:
        with pytest.raises(PkiError, match=r"TLSv1\.2"):
            writer.get_extra_info("ssl_object").export_keying_material(b"EXPORTER-test", 32)
        return "refused"

    assert await answer_with(server(), client, export) == "'refused'"


# ---- credentials


async def test_a_renewed_certificate_reaches_the_next_connection() -> None:
    current = [leaf(["old.example"])]
    context = server_context(lambda: credentials(current[0]), client_certificates="none", alpn=())
    async with serving(context) as port:
        assert await visit(port, trusting(), name="old.example") == b"hello"
        current[0] = leaf(["new.example"])
        assert await visit(port, trusting(), name="new.example") == b"hello"


@pytest.mark.parametrize("bad", [(b"", b""), (LEAF.certificate_pem, USER.key_pem)])
async def test_credentials_that_turn_bad_leave_the_last_good_ones(bad: tuple[bytes, bytes]) -> None:
    current = [credentials()]
    context = server_context(lambda: current[0], client_certificates="none", alpn=())
    async with serving(context) as port:
        current[0] = bad
        assert await visit(port, trusting()) == b"hello"


def test_bad_credentials_are_refused_at_once() -> None:
    with pytest.raises(PkiError):
        server_context(lambda: (LEAF.certificate_pem, USER.key_pem), client_certificates="none", alpn=())


# ---- clients


async def test_t40_a_client_trusts_only_the_given_root() -> None:
    stranger = issue_root(["localhost"], now=NOW)
    async with serving(server()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await visit(port, trusting(roots=stranger))


async def test_t40_the_system_store_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    store = Path(str(tmp_path)) / "store.pem"
    store.write_bytes(ROOT.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    async with serving(server()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await visit(port, trusting(roots=issue_root([], now=NOW)))


async def test_t40_another_host_name_is_refused() -> None:
    async with serving(server()) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await visit(port, trusting(), name="bank.example")


async def test_a_common_name_is_no_host_name() -> None:
    pair = issue_secret_certificate(
        CertificateRequest(
            "s", "cert-ecdsa", 256, common_name="bank.example", not_after=datetime(2100, 1, 1, tzinfo=UTC)
        ),
        issuer=INTERMEDIATE,
        now=NOW,
    )
    context = server_context(lambda: credentials(pair), client_certificates="none", alpn=())
    async with serving(context) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await visit(port, trusting(), name="bank.example")


async def test_an_expired_certificate_is_refused() -> None:
    pair = issue_secret_certificate(
        CertificateRequest("s", "cert-ecdsa", 256, valid_for=1),
        issuer=INTERMEDIATE,
        now=datetime(2020, 1, 1, tzinfo=UTC),
    )
    context = server_context(lambda: credentials(pair), client_certificates="none", alpn=())
    async with serving(context) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await visit(port, trusting())


async def test_a_pinned_intermediate_is_enough() -> None:
    async with serving(server()) as port:
        assert await visit(port, trusting(roots=INTERMEDIATE)) == b"hello"


async def test_t40_a_leaf_is_no_authority() -> None:
    context = server_context(lambda: credentials(leaf(["localhost"], issuer=LEAF)), client_certificates="none", alpn=())
    async with serving(context) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await visit(port, trusting())


async def test_an_unverified_client_takes_any_server_and_shows_its_certificate() -> None:
    seen = await answer_with(
        server("require"), unverified_client_context(certificate=USER), lambda w: peer_certificate(w.transport)
    )
    assert seen == repr(USER.certificate_der)


@pytest.mark.parametrize("roots", [b"", b"nonsense"])
def test_roots_without_certificate_are_refused(roots: bytes) -> None:
    with pytest.raises(PkiError):
        client_context(roots_pem=roots)


def test_a_client_certificate_loads_without_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    assert unverified_client_context(certificate=USER)


# ---- bytes


async def test_bodies_of_20_megabytes_pass_both_ways() -> None:
    body = bytes(range(256)) * (20 * 4096)
    async with serving(server("require")) as port:
        assert await visit(port, trusting(USER), body) == body


async def test_half_a_connection_still_answers() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.readexactly(100_000)))
        await writer.drain()

    async with serving(server(), talk) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="localhost")
        writer.write(bytes(100_000))
        assert await reader.read() == b"100000"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"nonsense", b"\x16\x03\x01\xff\xff" + bytes(70_000)])
async def test_a_stranger_that_breaks_off_leaves_no_trace(
    sent: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(server("require")) as port:
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            writer.transport.abort()
        assert await visit(port, trusting(USER)) == b"hello"
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


async def test_a_client_that_vanishes_mid_body_leaves_no_trace(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(server()) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="localhost")
        writer.write(bytes(5_000_000))
        writer.transport.abort()
        await asyncio.sleep(0.05)
        assert await visit(port, trusting()) == b"hello"
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


async def test_plain_http_is_told_what_this_port_is() -> None:
    async with serving(server()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.0 400 Bad Request\r\n"
        writer.close()


async def test_a_hundred_clients_at_once() -> None:
    client = trusting(USER)
    async with serving(server("require")) as port:
        answers = await asyncio.gather(*(visit(port, client, b"%03d" % n) for n in range(100)))
    assert answers == [b"%03d" % n for n in range(100)]


def test_a_servers_context_is_no_clients() -> None:
    with pytest.raises(PkiError):
        server().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=False)


async def test_t40_a_pinned_server_is_spoken_to() -> None:
    pinned = pinned_client_context(pinned_pem=ROOT.certificate_pem)
    context = server_context(lambda: (ROOT.certificate_pem, ROOT.key_pem), client_certificates="none", alpn=())
    async with serving(context) as port:
        assert await visit(port, pinned) == b"hello"


async def test_t40_a_server_below_the_pinned_certificate_is_not_the_pinned_one() -> None:
    pinned = pinned_client_context(pinned_pem=ROOT.certificate_pem)
    async with serving(server("none")) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="is not that certificate"):
            await visit(port, pinned)


async def test_t40_a_blocking_client_sees_the_pin_too() -> None:
    pinned = pinned_client_context(pinned_pem=ROOT.certificate_pem)

    def blocking(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            pytest.raises(ssl.SSLCertVerificationError, match="is not that certificate"),
        ):
            pinned.wrap_socket(raw, server_hostname="localhost")

    async with serving(server("none")) as port:
        await asyncio.to_thread(blocking, port)


async def test_t40_a_known_key_is_enough_under_whatever_certificate() -> None:
    known = known_key_client_context(known_pem=INTERMEDIATE.certificate_pem, certificate=USER)
    shown = issue_marble_root(INTERMEDIATE, now=NOW)
    context = server_context(lambda: (shown.certificate_pem, shown.key_pem), client_certificates="require", alpn=())
    async with serving(context) as port:
        assert await visit(port, known, name="nobody.example") == b"hello"


async def test_t40_another_key_under_the_same_root_is_refused() -> None:
    known = known_key_client_context(known_pem=INTERMEDIATE.certificate_pem)
    async with serving(server("none")) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="its key is not"):
            await visit(port, known)


def test_t40_a_key_of_a_foreign_kind_is_another_one(tmp_path: Path) -> None:
    key = ed448.Ed448PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=9999))
    pem = builder.sign(key, None).public_bytes(Encoding.PEM)
    (tmp_path / "pem").write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    foreign = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    foreign.load_cert_chain(tmp_path / "pem")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        known_key_client_context(known_pem=INTERMEDIATE.certificate_pem).wrap_bio(back, there),
        foreign.wrap_bio(there, back, server_side=True),
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="its key is not"):
        shake(*ends)


async def test_credentials_that_cannot_be_read_leave_the_last_good_ones(caplog: pytest.LogCaptureFixture) -> None:
    answers = [credentials()]

    def failing() -> tuple[bytes, bytes]:
        if answers:
            return answers.pop()
        raise OSError("the disk is gone")

    async with serving(server_context(failing, client_certificates="none", alpn=())) as port:
        assert await visit(port, trusting()) == b"hello"
    assert "previous certificate stays" in caplog.text


def test_a_certificate_that_openssl_finds_too_weak_is_refused() -> None:
    weak = issue_secret_certificate(CertificateRequest("s", "cert-rsa", size=1024), issuer=ROOT, now=NOW)
    with pytest.raises(PkiError, match="too small"):
        server_context(lambda: (weak.certificate_pem, weak.key_pem), client_certificates="none", alpn=())
    with pytest.raises(PkiError, match="client certificate"):
        unverified_client_context(certificate=weak)


def test_a_root_that_openssl_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        refusal = ssl.SSLError(1, "[X509] no start line")
        refusal.reason = "NO_START_LINE"
        raise refusal

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refuse)
    with pytest.raises(PkiError, match="root certificate"):
        trusting()


def test_a_clients_root_that_openssl_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise crypto.Error([])

    monkeypatch.setattr(crypto.X509Store, "add_cert", refuse)
    with pytest.raises(PkiError, match="root for clients"):
        server_context(credentials, client_certificates="require", client_roots=ROOT.certificate_pem, alpn=())


def test_a_transport_without_tls_has_no_certificate() -> None:
    class Plain:
        def get_extra_info(self, _name: str) -> None:
            return None

    assert peer_certificate(Plain()) is None


# ---- the object that asyncio drives, without asyncio


def shake(*ends: ssl.SSLObject) -> None:
    """Both ends of a handshake in turn, until both are done."""
    for _ in range(8):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()


class Wire:
    """Two ends joined by memory; `server` is the object under test."""

    def __init__(self, certificate: KeyPair | None = None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server().wrap_bio(self.to_server, self.to_client, server_side=True)
        context = trusting(certificate)
        context.maximum_version = version
        self.client = context.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")

    def shake(self) -> None:
        shake(self.client, self.server)


def test_the_object_reads_into_memory_of_its_own_and_of_the_caller() -> None:
    wire = Wire()
    wire.shake()
    wire.client.write(b"hello, world")
    assert wire.server.read(5) == b"hello"
    assert wire.server.pending() == 7
    assert wire.server.read(10, bytearray()) == 0
    target = bytearray(20)
    assert wire.server.read(20, target) == 7
    assert target[:7] == b", world"


def test_a_blocking_socket_is_refused_by_name() -> None:
    with pytest.raises(PkiError, match="asyncio only"):
        server().wrap_socket(object())


def test_the_object_tells_what_was_agreed() -> None:
    wire = Wire(USER)
    wire.shake()
    assert wire.server.cipher()[1] == "TLSv1.3"
    assert wire.server.compression() is None
    assert wire.server.get_channel_binding() is None
    assert wire.server.getpeercert() == {}
    assert peer_certificate(wire.server) == USER.certificate_der


def test_before_the_handshake_nothing_is_agreed() -> None:
    assert Wire().server.cipher() is None


def test_the_ends_close_one_after_the_other() -> None:
    wire = Wire()
    wire.shake()
    with pytest.raises(ssl.SSLWantReadError):
        wire.server.unwrap()
    wire.client.unwrap()
    wire.server.unwrap()
    assert wire.server.read(10) == b""


def test_a_close_without_goodbye_is_the_end_of_the_stream() -> None:
    wire = Wire()
    wire.shake()
    wire.to_server.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        wire.server.read(10)


def test_altered_bytes_end_the_connection() -> None:
    wire = Wire()
    wire.shake()
    wire.client.write(b"hello")
    sent = bytearray(wire.to_server.read())
    sent[-1] ^= 1
    wire.to_server.write(bytes(sent))
    with pytest.raises(ssl.SSLError):
        wire.server.read(10)


def test_t41_a_refused_handshake_stays_refused() -> None:
    wire = Wire()
    wire.to_server.write(b"\x16\x03\x01\x00\x05nonse")
    with pytest.raises(ssl.SSLWantReadError):  # once, so that the alert is sent
        wire.server.do_handshake()
    with pytest.raises(ssl.SSLError) as first:
        wire.server.do_handshake()
    assert not isinstance(first.value, ssl.SSLWantReadError)
