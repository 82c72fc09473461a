"""A model server attested directly over REST: each connection proves by itself that the attested program holds it."""

import asyncio
import base64
import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import tacit
from fakes.connections import lose_connections
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee
from fakes.tls_server import Server, running, server_leaf
from tacit.client.address import parse_address
from tacit.client.bound.channel import BoundChannel
from tacit.client.connect import AttestedCoordinator, attest_coordinator
from tacit.client.coordinator import fingerprint
from tacit.client.session.renewal import Renewal
from tacit.client.trust import TrustStore
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import (
    BindingError,
    MeasurementError,
    NotTrustedError,
    PeerError,
    PinMismatchError,
    PkiError,
    TacitError,
    TeeError,
    TlsError,
    UsageError,
)
from tacit.evidence import Role, report_data
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_self_signed
from tacit.pki.csr import create_csr, parse_csr
from tacit.programs.model_server.attest import attested, load_issuer
from tacit.programs.model_server.evidence import AttestedRest
from tacit.wire.evidence import EVIDENCE_PATH

SERVER_TEE = FakeTee(measurement=b"\x22" * 32, product_id=2)
MANIFEST = {
    "Packages": {"p": {"TEE": "simulated", "UniqueID": (b"\x22" * 32).hex()}},
    "Marbles": {"t": {"Package": "p"}},
}
STATUS = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_message": ""}}]}


@dataclass
class Place:
    server: Server
    session: tacit.Session
    coordinator: FakeCoordinator

    def ask(self) -> Any:
        with self.session.attested_rest(self.server.address, timeout=60) as client:
            return client.status("m")


@pytest.fixture
def place(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> Iterator[Place]:
    coordinator.manifest = json.dumps(MANIFEST).encode()
    trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
    attested_one = attest_coordinator(coordinator.host, trust, now=NOW, nonce=bytes(32), platform=platform, timeout=60)
    assert coordinator.intermediate is not None
    with running(Server(server_leaf(coordinator.intermediate))) as server, tacit.Session(attested_one) as session:
        serve_with(server, SERVER_TEE)
        yield Place(server, session, coordinator)


def serve_with(server: Server, tee: FakeTee, shown: KeyPair | None = None) -> None:
    async def models(request: HttpRequest) -> HttpResponse:
        server.calls += 1
        return HttpResponse(200, json.dumps(STATUS).encode())

    server.http = AttestedRest(models, tee, lambda: (shown or server.shown).certificate_der).handle  # type: ignore[method-assign]


def test_the_server_itself_is_attested_on_the_very_connection(place: Place) -> None:
    assert place.ask()[0].state == "AVAILABLE"
    assert place.server.calls == 1


def test_each_connection_of_a_server_is_attested_by_itself(place: Place) -> None:
    with place.session.attested_rest(place.server.address, timeout=60) as client:
        client.status("m")
        serve_with(place.server, FakeTee(measurement=b"\xee" * 32))
        client.status("m")  # the connection that was attested
        lose_connections(client)
        with pytest.raises(MeasurementError):
            client.status("m")
    assert place.server.calls == 2


def test_t02_an_attacker_with_the_servers_key_and_its_evidence_is_refused(place: Place) -> None:
    genuine = place.server

    async def relay(request: HttpRequest) -> HttpResponse:
        if request.path != EVIDENCE_PATH:
            stolen.append(request.path)
            return HttpResponse(200, json.dumps(STATUS).encode())

        def fetch() -> bytes:
            with BoundChannel(parse_address(genuine.address, default_port=1)) as channel:
                return channel.call("GET", EVIDENCE_PATH, query=[("nonce", request.query.removeprefix("nonce="))]).body

        return HttpResponse(200, await asyncio.to_thread(fetch))

    stolen: list[str] = []
    attacker = Server(genuine.shown)  # the very same key and certificate
    attacker.http = relay  # type: ignore[method-assign]
    with (
        running(attacker),
        place.session.attested_rest(attacker.address, timeout=60) as client,
        pytest.raises(BindingError, match="another connection"),
    ):
        client.status("m")
    assert not stolen


def test_t01_t03_the_evidence_of_an_activation_and_of_a_coordinator_are_no_servers(place: Place) -> None:
    for role, channel in ((Role.MARBLE, False), (Role.COORDINATOR, True)):

        class Other(FakeTee):
            def issue_evidence(self, data: bytes) -> bytes:
                return super().issue_evidence(self.data)

        other = Other(measurement=b"\x22" * 32, product_id=2)
        key = place.server.shown.certificate_der
        other.data = report_data(role=role, key=key, channel=b"c" * 32 if channel else b"")  # type: ignore[attr-defined]
        serve_with(place.server, other)
        with pytest.raises(BindingError):
            place.ask()
    assert place.server.calls == 0


def test_a_server_of_another_chain_or_type_or_program_is_refused(place: Place) -> None:
    serve_with(place.server, FakeTee(measurement=b"\xee" * 32))
    with pytest.raises(MeasurementError):
        place.ask()
    place.server.shown = issue_self_signed(("localhost",), common_name="other", now=NOW)
    serve_with(place.server, SERVER_TEE)
    with pytest.raises(TlsError, match="no certificate of the attested coordinator's"):
        place.ask()
    # The coordinator's own certificate is no marble's.
    place.server.shown = place.coordinator.root
    serve_with(place.server, SERVER_TEE)
    with pytest.raises(TlsError):
        place.ask()
    assert place.server.calls == 0


def leaf_of(place: Place, *, name: str = "localhost", marble_type: str = "t") -> KeyPair:
    assert place.coordinator.intermediate is not None
    csr = parse_csr(create_csr(ec.generate_private_key(ec.SECP256R1()), [name]))
    issuer = place.coordinator.intermediate
    return issue_leaf(csr, issuer=issuer, uuid="u", marble_type=marble_type, allowed_names=(name,), now=NOW)


def test_t40_an_attested_server_that_was_not_asked_for_is_refused(place: Place) -> None:
    place.server.shown = leaf_of(place, name="another.example.org")
    serve_with(place.server, SERVER_TEE)
    with pytest.raises(TlsError, match="does not name it.*EDG_MARBLE_DNS_NAMES=localhost"):
        place.ask()
    assert place.server.calls == 0


def test_a_server_of_another_type_than_the_one_expected_is_refused(place: Place) -> None:
    with place.session.attested_rest(place.server.address, timeout=60, marble_type="t") as client:
        assert client.status("m")[0].state == "AVAILABLE"
    with (
        place.session.attested_rest(place.server.address, timeout=60, marble_type="other") as client,
        pytest.raises(TlsError, match="of the type 't', expected 'other'"),
    ):
        client.status("m")
    assert place.server.calls == 1


def renewed(place: Place, trust: TrustStore, platform: Path) -> tacit.Session:
    """A session that attests the coordinator as it is then."""

    def attest() -> AttestedCoordinator:
        return attest_coordinator(
            place.coordinator.host, trust, now=NOW, nonce=bytes(32), platform=platform, timeout=60
        )

    first = attest()
    return tacit.Session(first, Renewal(first, attest, max_age=timedelta(hours=1), clock=lambda: NOW))


def test_a_rotation_costs_an_attested_client_no_request(place: Place, trust: TrustStore, platform: Path) -> None:
    with renewed(place, trust, platform) as session:
        client = session.attested_rest(place.server.address, timeout=60)
        client.status("m")
        place.coordinator.intermediate = issue_intermediate(place.coordinator.root, ("localhost",), now=NOW)
        place.server.shown = leaf_of(place)
        client.status("m")  # the connection from before
        lose_connections(client)
        assert client.status("m")[0].state == "AVAILABLE"
    assert place.server.calls == 3


def test_t15_a_refused_coordinator_stops_an_attested_client_on_the_connection_it_has(
    place: Place, trust: TrustStore, platform: Path
) -> None:
    with renewed(place, trust, platform) as session:
        client = session.attested_rest(place.server.address, timeout=60)
        client.status("m")
        trust.pin_manifest(place.coordinator.host, fingerprint(b"another"))
        with pytest.raises(PinMismatchError):
            session._renewal.after_refusal(session.coordinator)
        with pytest.raises(PinMismatchError, match="another manifest"):
            client.status("m")
    assert place.server.calls == 1


def test_a_kept_connection_is_judged_again_under_another_chain(place: Place, trust: TrustStore, platform: Path) -> None:
    with renewed(place, trust, platform) as session:
        client = session.attested_rest(place.server.address, timeout=60)
        client.status("m")
        place.coordinator.intermediate = issue_intermediate(place.coordinator.root, ("localhost",), now=NOW)
        session._renewal.after_refusal(session.coordinator)
        with pytest.raises(TlsError, match="no certificate of the attested coordinator's"):
            client.status("m")  # the server still shows the old one
    assert place.server.calls == 1


def test_a_session_that_ends_ends_the_connections_of_its_attested_clients(place: Place) -> None:
    client = place.session.attested_rest(place.server.address, timeout=60)
    client.status("m")
    [channel] = place.session._channels
    [kept] = channel._idle
    place.session.close()
    assert kept.sock is None
    assert not channel._idle


def test_t06_a_server_that_shows_no_evidence_is_not_fallen_back_to(place: Place) -> None:
    async def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse(404, b"{}")

    place.server.http = plain  # type: ignore[method-assign]
    with pytest.raises(BindingError, match="--attest_connections"):
        place.ask()

    async def stripped(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, json.dumps({"evidence": base64.b64encode(b"x").decode(), "channel": ""}).encode())

    place.server.http = stripped  # type: ignore[method-assign]
    with pytest.raises(BindingError, match="does not bind"):
        place.ask()

    async def nonsense(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"<html>")

    place.server.http = nonsense  # type: ignore[method-assign]
    with pytest.raises(PeerError, match="something else"):
        place.ask()


def test_without_a_pinned_manifest_no_server_can_be_judged(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    found = attest_coordinator(coordinator.host, trust, now=NOW, nonce=bytes(32), platform=platform, timeout=60)
    with pytest.raises(NotTrustedError, match="pinned manifest"):
        tacit.Session(found).attested_rest("localhost:1")


@pytest.mark.parametrize("query", ["", "nonce=", "nonce=zz", "nonce=00", "nonce=" + "00" * 33, "other=" + "00" * 32])
def test_t04_evidence_is_made_for_a_whole_nonce_alone(query: str, place: Place) -> None:
    with BoundChannel(parse_address(place.server.address, default_port=1)) as channel:
        name, _, value = query.partition("=")
        assert channel.call("GET", EVIDENCE_PATH, query=[(name, value)] if name else []).status == 400
        assert channel.call("POST", EVIDENCE_PATH, query=[("nonce", "00" * 32)], body=b"").status == 405


class Busy(FakeTee):
    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.begun = threading.Event(), 0

    def issue_evidence(self, data: bytes) -> bytes:
        self.begun += 1
        assert self.go_on.wait(60)
        return super().issue_evidence(data)


def asking(nonce: int = 0) -> HttpRequest:
    query = f"nonce={nonce:064x}"
    return HttpRequest("GET", EVIDENCE_PATH, query, {}, b"", None, lambda label, size: bytes(size))


async def elsewhere(request: HttpRequest) -> HttpResponse:
    return HttpResponse(404, b"{}")


async def test_t48_strangers_who_ask_for_evidence_neither_wait_without_end_nor_share_the_tee() -> None:
    tee = Busy()
    rest = AttestedRest(elsewhere, tee, lambda: b"certificate")
    asked = [asyncio.create_task(rest.handle(asking(number))) for number in range(9)]
    try:
        await asyncio.sleep(0)
        refused = await asyncio.wait_for(rest.handle(asking(9)), 60)
        assert (refused.status, b"8 others wait" in refused.body) == (503, True)
        asked[0].cancel()
        await asyncio.wait([asked[0]], timeout=60)
        async with asyncio.timeout(60):
            while not tee.begun:
                await asyncio.sleep(0.01)
        late = asyncio.create_task(rest.handle(asking(10)))
        await asyncio.sleep(0.05)
        assert tee.begun == 1, "whoever leaves gives nobody the place of the one at work"
    finally:
        tee.go_on.set()
    assert {answer.status for answer in await asyncio.gather(*asked[1:], late)} == {200}


@pytest.mark.parametrize("error", [TeeError, PkiError])
async def test_a_tee_without_evidence_and_a_certificate_that_is_unreadable_are_an_answer(
    error: type[TacitError], caplog: pytest.LogCaptureFixture
) -> None:
    def certificate() -> bytes:
        raise error("details of this machine")

    answer = await AttestedRest(elsewhere, FakeTee(), certificate).handle(asking())
    assert answer.status == 503
    assert b"no evidence now" in answer.body
    assert b"details" not in answer.body
    assert "details of this machine" in caplog.text


def test_t06_tls_1_2_gets_no_evidence(place: Place) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    url = f"https://{place.server.address}{EVIDENCE_PATH}?nonce={'00' * 32}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, context=context)
    with refused.value as answer:
        assert answer.code == 400
        assert b"TLS 1.3" in answer.read()


# ---- the program


def test_a_server_outside_a_tee_and_one_without_tls_have_nothing_to_attest(tmp_path: Path) -> None:
    for tee in ("", "unattested", "nonsense"):
        with pytest.raises(UsageError, match="--attest_connections needs a TEE"):
            load_issuer({"TACIT_TEE": tee}, now=NOW)

    async def handle(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"")

    with pytest.raises(UsageError, match="needs TLS"):
        attested(handle, SERVER_TEE, None)
