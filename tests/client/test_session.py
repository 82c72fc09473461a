"""Sessions that live for long: attested again by age and on rotation, and drop-ins for other people's clients."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.pccs import wait_until
from fakes.tee import NOW, FakeTee
from fakes.tls_server import Server, running, server_leaf
from tacit.client.address import Address
from tacit.client.channel import through
from tacit.client.connect import AttestedCoordinator, attest_coordinator
from tacit.client.coordinator import fingerprint
from tacit.client.session.renewal import Renewal
from tacit.client.trust import TrustStore
from tacit.errors import (
    AppraisalError,
    BindingError,
    CollateralAbsentError,
    EvidenceFormatError,
    EvidenceSignatureError,
    FileInputError,
    InputError,
    InRecoveryError,
    NotSetError,
    PeerError,
    PinMismatchError,
    RollbackError,
    TacitError,
    TlsError,
    UnreachableError,
    UntrustedRootError,
)
from tacit.pki import KeyPair, issue_intermediate, issue_root

NONCE = bytes(range(32))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """A connection that a fake had accepted as it ended is left to the collector: here, and in no later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def place(pinned: TrustStore, coordinator: FakeCoordinator, platform: Path) -> Iterator[tuple[Server, "Sessions"]]:
    assert coordinator.intermediate is not None
    with running(Server(server_leaf(coordinator.intermediate))) as server:
        yield server, Sessions(coordinator, pinned, platform)


class Sessions:
    def __init__(self, coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
        self.coordinator, self.trust, self.platform = coordinator, trust, platform
        self.attested = 0

    def attest(self) -> AttestedCoordinator:
        self.attested += 1
        return attest_coordinator(
            self.coordinator.host, self.trust, now=NOW, nonce=NONCE, platform=self.platform, timeout=60
        )

    def open(self, *, clock: Clock | None = None, max_age: timedelta = timedelta(hours=1)) -> tacit.Session:
        first = self.attest()
        return tacit.Session(first, Renewal(first, self.attest, max_age=max_age, clock=clock or Clock()))

    def rotate(self) -> KeyPair:
        """A new intermediate, as after an update of the manifest."""
        self.coordinator.intermediate = issue_intermediate(self.coordinator.root, ("localhost",), now=NOW)
        return self.coordinator.intermediate


Place = tuple[Server, Sessions]


@dataclass(frozen=True)
class Elsewhere:
    """A server's name, where nobody answers by itself."""

    address: str


def over_http(session: tacit.Session, server: Server | Elsewhere) -> Callable[[], bytes]:
    def ask() -> bytes:
        with httpx.Client(transport=session.http_transport(), base_url=f"https://{server.address}") as client:
            return client.post("/v1", content=b"x").content

    return ask


def over_async_http(session: tacit.Session, server: Server | Elsewhere) -> Callable[[], bytes]:
    async def ask() -> bytes:
        transport = session.async_http_transport()
        async with httpx.AsyncClient(transport=transport, base_url=f"https://{server.address}") as client:
            return (await client.post("/v1", content=b"x")).content

    return lambda: asyncio.run(ask())


def over_grpc(session: tacit.Session, server: Server | Elsewhere) -> Callable[[], bytes]:
    stub = session.grpc_channel(server.address).unary_unary("/a.Service/Do")
    return lambda: bytes(stub(b"x", timeout=60))


def over_grpc_aio(session: tacit.Session, server: Server | Elsewhere) -> Callable[[], bytes]:
    async def ask() -> bytes:
        async with session.grpc_aio_channel(server.address) as channel:
            return bytes(await channel.unary_unary("/a.Service/Do")(b"x", timeout=60))

    return lambda: asyncio.run(ask())


WAYS = {"httpx": over_http, "async httpx": over_async_http, "grpc": over_grpc, "grpc.aio": over_grpc_aio}


@pytest.mark.parametrize("way", WAYS)
def test_a_drop_in_reaches_servers_that_the_coordinator_vouches_for(way: str, place: Place) -> None:
    server, sessions = place
    with sessions.open() as session:
        assert WAYS[way](session, server)().endswith(b": x")
    assert sessions.attested == 1


@pytest.mark.parametrize("way", WAYS)
def test_t40_a_drop_in_takes_no_other_server(way: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    server, sessions = place
    other = issue_root(("localhost",), now=NOW)
    file = sessions.platform.parent / "system.pem"
    file.write_bytes(other.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(file))
    server.shown = server_leaf(issue_intermediate(other, ("localhost",), now=NOW))
    with sessions.open() as session, pytest.raises((httpx.ConnectError, grpc.RpcError)):
        WAYS[way](session, server)()
    assert server.calls == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_drop_in_goes_another_way_where_one_is_open_and_judges_by_the_name(way: str, place: Place) -> None:
    server, sessions = place
    there = Address("127.0.0.1", server.port)
    named, other = Elsewhere("localhost:8499"), Elsewhere("another.shop:8499")
    with sessions.open() as session:
        for _ in range(2):
            with through(Address("localhost", 8499), there):
                assert WAYS[way](session, named)().endswith(b": x")
        with through(Address("another.shop", 8499), there), pytest.raises((httpx.ConnectError, grpc.RpcError)):
            WAYS[way](session, other)()
    assert server.calls == 2


def test_httpx_keeps_no_connection_that_was_judged_by_another_name(place: Place) -> None:
    server, sessions = place
    there = Address("127.0.0.1", server.port)
    with sessions.open() as session, httpx.Client(transport=session.http_transport()) as client:
        with through(Address("localhost", 8499), there):
            answer = client.get("https://localhost:8499/v1")
            assert (answer.status_code, str(answer.url)) == (200, "https://localhost:8499/v1")
        # One that was judged as `localhost` is kept for that name alone, however it was opened.
        assert client.get(f"https://localhost:{server.port}/v1").status_code == 200
        for way in (there, Address("localhost", server.port)):
            with through(Address("another.shop", 8499), way), pytest.raises(httpx.ConnectError):
                client.get("https://another.shop:8499/v1")


def test_t06_the_drop_ins_for_httpx_send_nothing_in_the_clear(place: Place) -> None:
    server, sessions = place
    with sessions.open() as session, httpx.Client(transport=session.http_transport()) as client:
        with pytest.raises(InputError, match=r"http://localhost:\d+/v1 would be asked in the clear"):
            client.post(f"http://localhost:{server.port}/v1?key=hidden", content=b"secret")

        async def ask() -> None:
            async with httpx.AsyncClient(transport=session.async_http_transport()) as again:
                await again.post(f"http://localhost:{server.port}/v1", content=b"secret")

        with pytest.raises(InputError, match="in the clear"):
            asyncio.run(ask())
    assert server.calls == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_rotation_costs_no_request(way: str, place: Place) -> None:
    server, sessions = place
    with sessions.open() as session:
        ask = WAYS[way](session, server)
        ask()
        old = session.coordinator.intermediate_pem
        server.shown = server_leaf(sessions.rotate())
        if way == "grpc":
            ask = WAYS[way](session, server)  # the connection that there is goes on under the old chain
        assert ask().endswith(b": x")
        assert session.coordinator.intermediate_pem != old
    assert sessions.attested == 2


@pytest.mark.parametrize("way", WAYS)
def test_t15_a_changed_manifest_stops_every_client_with_what_changed(way: str, place: Place) -> None:
    server, sessions = place
    with sessions.open() as session:
        sessions.coordinator.manifest = b'{"Packages": {"theirs": {}}}'
        server.shown = server_leaf(sessions.rotate())
        with pytest.raises(PinMismatchError, match="another manifest than the pinned one"):
            WAYS[way](session, server)()
        # And nothing goes to the servers of before either.
        with pytest.raises(PinMismatchError):
            WAYS[way](session, server)()
    assert server.calls == 0


def test_stubs_of_any_service_go_over_an_aio_channel_and_their_own(place: Place) -> None:
    server, sessions = place

    async def ask(session: tacit.Session) -> bytes:
        async with session.grpc_aio_channel(server.address) as channel:
            return bytes(await channel.unary_unary("/a.Service/Do")(b"x"))

    with sessions.open() as session:
        assert asyncio.run(ask(session)) == b"over grpc: x"
        # As Triton's client makes its own: grpc.secure_channel(url, creds).
        with grpc.secure_channel(server.address, session.grpc_credentials()) as channel:
            assert channel.unary_unary("/a.Service/Do")(b"x") == b"over grpc: x"


# ---- age


def test_an_old_attestation_is_made_anew_while_calls_go_on(place: Place) -> None:
    server, sessions = place
    clock = Clock()
    with sessions.open(clock=clock) as session:
        ask = over_grpc(session, server)
        clock.now += timedelta(minutes=59)
        ask()
        assert sessions.attested == 1
        clock.now += timedelta(minutes=2)
        assert ask() == b"over grpc: x"
        wait_until(lambda: sessions.attested == 2)


def test_a_coordinator_that_became_another_program_is_left_at_the_next_call(place: Place) -> None:
    server, sessions = place
    clock = Clock()
    with sessions.open(clock=clock) as session:
        ask = over_grpc(session, server)
        ask()
        sessions.coordinator.tee = FakeTee(measurement=b"\xee" * 32)
        clock.now += timedelta(minutes=61)
        ask()  # the last one under the attestation before

        def refused() -> bool:
            try:
                ask()
            except AppraisalError:
                return True
            return False

        wait_until(refused)


def test_a_coordinator_out_of_reach_ends_a_session_at_twice_the_age(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    clock, asked = Clock(), []
    first = attest_coordinator(coordinator.host, pinned, now=NOW, nonce=NONCE, platform=platform, timeout=60)

    def attest() -> AttestedCoordinator:
        asked.append(clock.now)
        raise UnreachableError("nobody answers")

    renewal = Renewal(first, attest, max_age=timedelta(hours=1), clock=clock)
    clock.now += timedelta(minutes=90)
    assert renewal.current() is first
    wait_until(lambda: len(asked) == 1)
    clock.now += timedelta(minutes=30)
    with pytest.raises(UnreachableError):
        renewal.current()
    clock.now = NOW - timedelta(minutes=1)
    with pytest.raises(UnreachableError):
        renewal.current()  # a clock that was turned back makes nothing young again


def failing(
    first: AttestedCoordinator, error: type[TacitError], clock: Clock
) -> tuple[Renewal, list[TacitError], list[AttestedCoordinator]]:
    """A renewal whose attestations fail, until there is an answer; what they failed with."""
    failures: list[TacitError] = []
    answers: list[AttestedCoordinator] = []

    def attest() -> AttestedCoordinator:
        if answers:
            return answers[0]
        failures.append(error("so it is"))
        raise failures[-1]

    return Renewal(first, attest, max_age=timedelta(hours=1), clock=clock), failures, answers


SAYS_NOTHING = (
    *(UnreachableError, PeerError, TlsError, CollateralAbsentError, NotSetError, InRecoveryError),
    *(EvidenceFormatError, EvidenceSignatureError, UntrustedRootError, FileInputError),
)


@pytest.mark.parametrize("error", SAYS_NOTHING)
def test_what_says_nothing_about_a_coordinator_ends_a_session_only_at_twice_the_age(
    error: type[TacitError], coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    clock, sessions = Clock(), Sessions(coordinator, pinned, platform)
    first = sessions.attest()
    renewal, failures, answers = failing(first, error, clock)
    clock.now += timedelta(minutes=90)
    assert renewal.current() is first
    wait_until(lambda: len(failures) == 1 and not renewal._working)
    assert renewal.current() is first
    wait_until(lambda: len(failures) == 2 and not renewal._working)
    clock.now += timedelta(minutes=30)
    with pytest.raises(error):
        renewal.current()
    answers.append(replace(first))
    assert renewal.current() is answers[0]


@pytest.mark.parametrize("error", [AppraisalError, BindingError, PinMismatchError, RollbackError])
def test_what_a_coordinator_is_refused_for_stays(
    error: type[TacitError], coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    sessions = Sessions(coordinator, pinned, platform)
    first = sessions.attest()
    renewal, _, answers = failing(first, error, Clock())
    with pytest.raises(error):
        renewal.after_refusal(first)
    answers.append(replace(first))
    with pytest.raises(error, match="so it is"):
        renewal.current()


def test_a_refusal_that_is_told_again_keeps_nothing_of_who_called(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    first = Sessions(coordinator, pinned, platform).attest()
    renewal, _, _ = failing(first, AppraisalError, Clock())
    told: list[TacitError] = []
    for call in (lambda: renewal.after_refusal(first), renewal.current, renewal.current):
        with pytest.raises(AppraisalError) as caught:
            call()
        told.append(caught.value)
    assert len({id(one) for one in told}) == 3
    assert renewal._refused is not None
    assert renewal._refused.__traceback__ is renewal._refused.__context__ is None


def test_a_clock_that_was_turned_back_once_does_not_end_renewal(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    clock, sessions = Clock(), Sessions(coordinator, pinned, platform)
    renewal = Renewal(sessions.attest(), sessions.attest, max_age=timedelta(hours=1), clock=clock)
    clock.now -= timedelta(minutes=1)
    renewal.current()
    assert sessions.attested == 2
    clock.now += timedelta(minutes=61)
    renewal.current()
    wait_until(lambda: sessions.attested == 3)


def test_many_callers_that_meet_a_new_chain_attest_once(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    sessions = Sessions(coordinator, pinned, platform)
    first = sessions.attest()
    renewal = Renewal(first, sessions.attest, max_age=timedelta(hours=1), clock=Clock())
    found: list[AttestedCoordinator] = []
    threads = [threading.Thread(target=lambda: found.append(renewal.after_refusal(first))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sessions.attested == 2
    assert {id(one) for one in found} == {id(renewal.last)}


def test_a_refusal_is_the_same_for_every_later_call(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path
) -> None:
    sessions = Sessions(coordinator, pinned, platform)
    first = sessions.attest()
    renewal = Renewal(first, sessions.attest, max_age=timedelta(hours=1), clock=Clock())
    pinned.pin_manifest(coordinator.host, fingerprint(b"another"))
    for call in (lambda: renewal.after_refusal(first), renewal.current, renewal.current):
        with pytest.raises(TacitError, match="another manifest"):
            call()
    assert sessions.attested == 2
    assert replace(first) == first
