"""Evidence that is bound to the very connection: what stands between two ends is found out, whatever it holds."""

import base64
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fakes.connections import lose_connections
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee
from tacit.client.address import Address, parse_address
from tacit.client.bound.channel import BoundChannel
from tacit.client.connect import AttestedCoordinator, attest_coordinator
from tacit.client.coordinator import CoordinatorClient
from tacit.client.trust import Expectation, TrustStore
from tacit.errors import AppraisalError, BindingError, ConnectError, PeerError, TlsError, UnreachableError
from tacit.evidence import Role, report_data
from tacit.evidence.verify.binding import CHANNEL_BINDING
from tacit.pki import issue_self_signed

NONCE = bytes(range(32))


@dataclass
class Relay(FakeCoordinator):
    """Holds the coordinator's own TLS key, and passes questions for evidence on to it over a connection of its own."""

    genuine: FakeCoordinator | None = None
    strips: bool = False  # what the evidence is bound to is left out of the answer
    asks: bool = True  # for evidence that is bound to the channel

    def _get_quote(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any]:
        assert self.genuine is not None
        nonce = base64.urlsafe_b64decode(query["nonce"][0])
        channel = BoundChannel(parse_address(self.genuine.host, default_port=4433))
        with CoordinatorClient.from_channel(channel) as client:
            shown = client.shown_quote(nonce, binding=CHANNEL_BINDING if self.asks else None)
        text = base64.b64encode(shown.quote.evidence).decode()
        found = {"cert": shown.quote.chain_pem.decode(), "quote": text}
        return found if self.strips else {**found, "channel": CHANNEL_BINDING}


def attest(where: FakeCoordinator, trust: TrustStore, platform: Path, *, nonce: bytes = NONCE) -> AttestedCoordinator:
    return attest_coordinator(where.host, trust, now=NOW, nonce=nonce, platform=platform, timeout=60)


def relay_to(genuine: FakeCoordinator, **more: Any) -> Relay:
    return Relay(tee=genuine.tee, root=genuine.root, intermediate=genuine.intermediate, genuine=genuine, **more)


def expect_same(trust: TrustStore, there: FakeCoordinator, here: FakeCoordinator) -> None:
    trust.store_expectation(here.host, trust.load_expectation(there.host))


def clock() -> datetime:
    return NOW


def test_evidence_is_bound_to_the_connection_and_every_call_goes_over_it(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest(coordinator, trust, platform)
    assert found.channel_bound
    assert found.claims is not None
    assert {one.number: one.made for one in found.claims.checks}["B2"]
    assert len([path for _, path, _ in coordinator.requests if "quote" in path]) == 1


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_t02_an_attacker_with_the_servers_tls_key_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path, strips: bool, asks: bool
) -> None:
    with relay_to(coordinator, strips=strips, asks=asks) as relay:
        expect_same(trust, coordinator, relay)
        before = trust.path.read_bytes()
        with pytest.raises(BindingError, match="does not bind"):
            attest(relay, trust, platform)
        assert trust.path.read_bytes() == before
        assert {path.split("?")[0] for _, path, _ in relay.requests} == {"/api/v2/quote"}, "nothing else was said"


def test_t02_evidence_of_one_connection_is_worth_nothing_on_another(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    """The same ends, the same key, the same nonce: only the connection differs."""
    channel = BoundChannel(parse_address(coordinator.host, default_port=4433))
    with CoordinatorClient.from_channel(channel) as client:
        coordinator.evidence = client.shown_quote(NONCE, binding=CHANNEL_BINDING).quote.evidence
    with pytest.raises(BindingError, match="another connection"):
        attest(coordinator, trust, platform)


def test_t02_a_later_connection_is_attested_before_anything_is_sent(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest(coordinator, trust, platform)
    with relay_to(coordinator) as relay:
        # Whoever can answer in the coordinator's place from now on: another machine at its address.
        assert found.proof is not None
        taken = replace(found, host=relay.host, proof=replace(found.proof, address=relay.host))
        with taken.open(clock=clock, timeout=60) as client, pytest.raises(BindingError):
            client.set_manifest(b"{}")
        assert [method for method, _, _ in relay.requests] == ["GET"]
        assert relay.manifest != b"{}"


def test_each_connection_of_a_client_is_attested_by_itself(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest(coordinator, trust, platform)
    coordinator.requests.clear()
    with found.open(clock=clock, timeout=60) as client:
        client.status()
        client.status()
        assert [path.split("?")[0] for _, path, _ in coordinator.requests] == [
            "/api/v2/quote", "/api/v2/status", "/api/v2/status",
        ]  # fmt: skip
        nonces = {path for _, path, _ in coordinator.requests if "nonce" in path}
        lose_connections(client)
        client.status()
    nonces |= {path for _, path, _ in coordinator.requests if "nonce" in path}
    assert len(nonces) == 2, "a nonce of its own for each"


def test_a_coordinator_that_ends_the_connection_while_it_is_attested_is_refused(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest(coordinator, trust, platform)
    coordinator.ends_connections = True
    with found.open(clock=clock, timeout=60) as client, pytest.raises(PeerError, match="while it was being attested"):
        client.status()


def test_a_restarted_program_of_another_measurement_is_refused_on_its_next_connection(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest(coordinator, trust, platform)
    coordinator.tee = FakeTee(measurement=b"\xee" * 32)
    with found.open(clock=clock, timeout=60) as client, pytest.raises(AppraisalError):
        client.status()


def test_t03_a_marbles_evidence_bound_to_the_channel_is_no_coordinators(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.role = Role.MARBLE
    with pytest.raises(BindingError, match="in the role 'coordinator'"):
        attest(coordinator, trust, platform)


def test_t01_evidence_bound_to_a_channel_is_refused_after_a_restart(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    attest(coordinator, trust, platform)
    channel = BoundChannel(parse_address(coordinator.host, default_port=4433))
    with CoordinatorClient.from_channel(channel) as client:
        kept = client.shown_quote(NONCE, binding=CHANNEL_BINDING).quote.evidence
    restarted = FakeCoordinator(tee=coordinator.tee, root=coordinator.root, intermediate=coordinator.intermediate)
    with restarted:
        restarted.evidence = kept
        expect_same(trust, coordinator, restarted)
        for nonce in (NONCE, os.urandom(32)):
            with pytest.raises(BindingError):
                attest(restarted, trust, platform, nonce=nonce)


def test_t06_nothing_falls_back_to_evidence_that_is_bound_to_a_key_alone(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.only_key_bound = True
    with pytest.raises(BindingError, match="--key-bound"):
        attest(coordinator, trust, platform)
    expected = trust.load_expectation(coordinator.host)
    trust.store_expectation(coordinator.host, replace(expected, key_bound=True))
    found = attest(coordinator, trust, platform)
    assert not found.channel_bound
    assert found.claims is not None
    assert "B2" not in {one.number for one in found.claims.checks}
    with found.open(clock=clock) as client:
        assert client.status().code == 3


def test_marbleruns_own_coordinator_is_taken_where_it_was_named_and_only_there(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.only_key_bound, coordinator.role = True, None
    with pytest.raises(BindingError, match="--key-bound"):
        attest(coordinator, trust, platform)
    expected = trust.load_expectation(coordinator.host)
    trust.store_expectation(coordinator.host, replace(expected, key_bound=True))
    found = attest(coordinator, trust, platform)
    assert found.claims is not None
    assert (found.channel_bound, found.claims.report_data[32:]) == (False, bytes(32))


def test_t03_evidence_without_a_role_is_refused_of_one_that_can_bind(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.role = None
    with pytest.raises(BindingError):
        attest(coordinator, trust, platform)


def test_t03_a_marbles_evidence_is_refused_of_marbleruns_own_too(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    expected = trust.load_expectation(coordinator.host)
    trust.store_expectation(coordinator.host, replace(expected, key_bound=True))
    coordinator.only_key_bound = True
    coordinator.role = Role.MARBLE
    with pytest.raises(BindingError):
        attest(coordinator, trust, platform)
    assert coordinator.tee is not None
    # MarbleRun's marbles bind their certificate alone.
    data = report_data(role=None, key=coordinator.root.certificate_der)
    coordinator.evidence = coordinator.tee.issue_evidence(data)
    with pytest.raises(BindingError, match="another key or another nonce"):
        attest(coordinator, trust, platform)


def test_another_certificate_than_the_evidence_names_is_refused_on_a_bound_connection(
    trust: TrustStore, platform: Path, expectation: Expectation
) -> None:
    with FakeCoordinator(tee=FakeTee(), shown=issue_self_signed(("localhost",), common_name="other", now=NOW)) as other:
        trust.store_expectation(other.host, expectation)
        with pytest.raises(TlsError, match="another certificate than the attested root"):
            attest(other, trust, platform)


def test_a_user_is_known_by_the_certificate_on_a_bound_connection(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    user = issue_self_signed(("user",), common_name="user", now=NOW)
    found = attest(coordinator, trust, platform)
    assert coordinator.certificates == {None}
    coordinator.certificates.clear()
    with found.open(clock=clock, certificate=user, timeout=60) as client:
        client.status()
    assert coordinator.certificates == {user.certificate_der}


def test_a_large_body_and_a_large_answer_pass(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    found = attest(coordinator, trust, platform)
    big = b"{" + b" " * (4 << 20) + b"}"
    with found.open(clock=clock, timeout=60) as client:
        client.set_manifest(big)
        assert client.manifest().raw == big


def test_t06_tls_1_2_has_no_channel_to_bind_to(trust: TrustStore, platform: Path, expectation: Expectation) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    pair = issue_self_signed(("localhost",), common_name="other", now=NOW)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    file = platform.parent / "pair.pem"
    file.write_bytes(pair.certificate_pem + pair.key_pem)
    context.load_cert_chain(file)

    def answer() -> None:
        sock, _ = server.socket.accept()
        with sock:
            try:
                context.wrap_socket(sock, server_side=True).close()
            except (ssl.SSLError, OSError) as exc:
                refused.append(exc)

    refused: list[Exception] = []
    thread = threading.Thread(target=answer)
    thread.start()
    host = f"localhost:{server.server_port}"
    trust.store_expectation(host, expectation)
    with pytest.raises(TlsError):
        attest_coordinator(host, trust, now=NOW, nonce=NONCE, platform=platform, timeout=60)
    thread.join()
    server.server_close()
    assert refused


def answering(answer: Callable[[socket.socket], None]) -> tuple[threading.Thread, int]:
    """Somebody on loopback who takes one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as sock:
            sock.settimeout(60)
            answer(sock)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, listener.getsockname()[1]


def test_t13_a_server_that_ends_tls_in_the_handshake_is_unreachable() -> None:
    def close_notify(sock: socket.socket) -> None:
        sock.recv(1 << 14)
        sock.sendall(bytes.fromhex("15030300020100"))
        sock.recv(1)

    thread, port = answering(close_notify)
    with BoundChannel(Address("localhost", port), timeout=60) as channel, pytest.raises(UnreachableError):
        channel.call("GET", "/")
    thread.join()


def test_t13_a_certificate_that_cannot_be_read_is_a_fault_of_tls(tmp_path: Path) -> None:
    pair = issue_self_signed(("localhost",), common_name="other", now=NOW)
    odd = pair.certificate_der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1)  # version 10
    file = tmp_path / "odd.pem"
    file.write_bytes(ssl.DER_cert_to_PEM_cert(odd).encode() + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    def shake(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(1)

    thread, port = answering(shake)
    with BoundChannel(Address("localhost", port), timeout=60) as channel:
        with pytest.raises(TlsError, match="cannot be read"):
            channel.call("GET", "/")
        assert not channel._idle
    thread.join()


def test_nobody_at_the_address_is_said_so() -> None:
    with pytest.raises(ConnectError):
        BoundChannel(parse_address("localhost:1", default_port=1), timeout=1).call("GET", "/")
