"""How long a session's ways to servers are good: until it is closed, in one process, and in each loop anew."""

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW
from fakes.tls_server import Server, running, server_leaf
from tacit.client.address import Address
from tacit.client.channel import HttpsChannel
from tacit.client.connect import AttestedCoordinator, attest_coordinator
from tacit.client.session import renewal as renewal_module
from tacit.client.session.renewal import Renewal
from tacit.client.trust import TrustStore
from tacit.errors import InputError, TacitError, UsageError
from tacit.pki.tls import client_context


@dataclass
class Place:
    coordinator: FakeCoordinator
    trust: TrustStore
    platform: Path
    folder: Path
    server: Server

    def attest(self) -> AttestedCoordinator:
        host, nonce = self.coordinator.host, bytes(32)
        return attest_coordinator(host, self.trust, now=NOW, nonce=nonce, platform=self.platform, timeout=5)

    def open(self) -> tacit.Session:
        first = self.attest()
        return tacit.Session(first, Renewal(first, self.attest, max_age=timedelta(hours=1), clock=lambda: NOW))

    def quotes(self) -> int:
        """How often evidence was asked for."""
        return sum(path.startswith("/api/v2/quote") for _, path, _ in self.coordinator.requests)

    def channel(self) -> HttpsChannel:
        assert self.coordinator.intermediate is not None
        tls = client_context(roots_pem=self.coordinator.intermediate.certificate_pem)
        return HttpsChannel(Address("localhost", self.server.port), tls, timeout=5)


@pytest.fixture
def place(coordinator: FakeCoordinator, pinned: TrustStore, platform: Path, tmp_path: Path) -> Iterator[Place]:
    assert coordinator.intermediate is not None
    with running(Server(server_leaf(coordinator.intermediate))) as server:
        yield Place(coordinator, pinned, platform, tmp_path / "config" / "tacit", server)


# ---- closed


def test_what_a_closed_session_gave_sends_nothing_more(place: Place) -> None:
    session = place.open()
    at = place.server.address
    used, unused = session.grpc_channel(at), session.grpc_channel(at)
    model, other = session.model("m", address=at), session.model("m", address=at, protocol="open-inference")
    assert used.unary_unary("/a.Service/Do")(b"x", timeout=10) == b"over grpc: x"
    session.close()
    for ask in (
        lambda: used.unary_unary("/a.Service/Do")(b"x", timeout=10),
        lambda: unused.unary_unary("/a.Service/Do")(b"x", timeout=10),
        lambda: unused.unary_unary("/a.Service/Do").future(b"x", timeout=10),
        lambda: model.predict([1.0]),
        lambda: other.predict([1.0]),
    ):
        with pytest.raises(UsageError, match="was closed, and sends nothing more; open another"):
            ask()
    assert place.server.calls == 1


def test_what_was_closed_asks_nothing_over_https(place: Place) -> None:
    with place.channel() as channel:
        assert channel.call("GET", "/").status == 200
    with pytest.raises(UsageError, match=r"the way to localhost:\d+ was closed, and sends nothing more"):
        channel.call("GET", "/")
    with place.open() as session:
        client = session.attested_rest(place.server.address)
    with pytest.raises(UsageError, match="was closed, and sends nothing more"):
        client.status("m")
    assert place.server.calls == 1


def test_a_closed_session_opens_no_more(place: Place) -> None:
    session = place.open()
    session.close()
    session.close()
    ways: list[Callable[[str], Any]] = [
        lambda at: session.model("m", address=at),
        lambda at: session.async_model("m", address=at),
        session.grpc_channel,
        session.grpc_aio_channel,
        session.attested_rest,
        lambda _: session.ssl_context(),
        lambda _: session.grpc_credentials(),
        lambda _: session.http_transport(),
        lambda _: session.async_http_transport(),
    ]
    for way in ways:
        with pytest.raises(
            UsageError, match=r"the session with localhost:\d+ was closed; open another with tacit.connect"
        ):
            way(place.server.address)
    assert session.tee == "simulated"  # what it was can still be asked


def test_an_error_inside_a_session_is_told_and_the_session_closed(place: Place) -> None:
    channels = []

    def fail() -> None:
        with place.open() as session:
            channels.append(session.grpc_channel(place.server.address))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(UsageError):
        channels[0].unary_unary("/a.Service/Do")(b"x")


def test_a_connection_that_fails_to_close_keeps_no_other_open(place: Place) -> None:
    class Failing:
        def close(self) -> None:
            raise OSError("gone already")

    session = place.open()
    channel = session.grpc_channel(place.server.address)
    session._channels.append(Failing())
    with pytest.raises(OSError, match="gone already"):
        session.close()
    with pytest.raises(UsageError):
        channel.unary_unary("/a.Service/Do")(b"x")


def test_a_closed_transport_opens_no_connection(place: Place) -> None:
    with place.open() as session:
        transport = session.http_transport()
        client = httpx.Client(transport=transport, base_url=f"https://{place.server.address}")
        assert client.get("/").status_code == 200
        transport.close()
        with pytest.raises(UsageError, match="was closed"):
            client.get("/")
    assert place.server.calls == 1


def test_a_closed_channel_of_asyncio_sends_nothing_more(place: Place) -> None:
    async def ask(session: tacit.Session) -> None:
        async with session.async_model("m", address=place.server.address) as model:
            pass
        with pytest.raises(UsageError, match="was closed"):
            await model.predict([1.0])

    with place.open() as session:
        asyncio.run(ask(session))
        asyncio.run(ask(session))
    assert place.server.calls == 0


# ---- loops


def test_one_channel_of_asyncio_is_good_in_each_loop(place: Place) -> None:
    async def ask() -> bytes:
        return bytes(await channel.unary_unary("/a.Service/Do")(b"x", timeout=10))

    with place.open() as session:
        channel = session.grpc_aio_channel(place.server.address)
        assert [asyncio.run(ask()) for _ in range(3)] == [b"over grpc: x"] * 3
        asyncio.run(channel.close())
        with pytest.raises(UsageError, match="was closed"):
            asyncio.run(ask())


def test_a_call_that_was_cancelled_before_it_was_made_says_so_and_cancels_nobody_else(place: Place) -> None:
    async def ask() -> tuple[Any, ...]:
        async with session.grpc_aio_channel(place.server.address) as channel:
            call = channel.unary_unary("/a.Service/Do")(b"x", timeout=10)
            assert call.cancel()
            return await call.code(), await call.details(), list(await call.trailing_metadata())

    with place.open() as session:
        assert asyncio.run(ask()) == (grpc.StatusCode.CANCELLED, "cancelled before it was made", [])
    assert place.server.calls == 0


def test_a_call_that_is_asked_for_its_code_alone_leaves_no_traceback(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> Any:
        async with session.grpc_aio_channel(place.server.address) as channel:
            return await channel.unary_unary("/a.Service/Nothing")(b"x", timeout=10).code()

    with place.open() as session:
        assert asyncio.run(ask()) is grpc.StatusCode.UNIMPLEMENTED
    gc.collect()
    assert caplog.text == ""


# ---- processes


def in_child(what: Callable[[], object]) -> str:
    """What it gives in a child of this process, or the name of the error; killed where it hangs."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads: it is what is tried
        child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            said = repr(what())
        except BaseException as exc:
            said = f"{type(exc).__name__}: {exc}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def test_t28_a_child_process_has_its_own_connections_over_https(place: Place) -> None:
    with place.channel() as channel:
        assert channel.call("GET", "/").status == 200
        assert in_child(lambda: channel.call("GET", "/").status) == "200"
        kept = channel._idle[0]
        assert channel.call("GET", "/").status == 200
        assert channel._idle == [kept]  # and the parent's goes on


def test_t28_a_child_process_has_its_own_connections_of_httpx(place: Place) -> None:
    with place.open() as session, httpx.Client(transport=session.http_transport()) as client:
        url = f"https://{place.server.address}/"
        assert client.get(url).status_code == 200
        assert in_child(lambda: client.get(url).status_code) == "200"
        assert client.get(url).status_code == 200


def test_t28_a_child_process_has_its_own_channels_of_grpc(place: Place) -> None:
    with place.open() as session:
        channel = session.grpc_channel(place.server.address)
        ask = channel.unary_unary("/a.Service/Do")
        assert ask(b"x", timeout=10) == b"over grpc: x"
        (_, made) = channel._inner._made[0]

        def asked_anew() -> bool:
            return ask(b"x", timeout=10) == b"over grpc: x" and channel._inner._made[0][1] is not made

        assert in_child(asked_anew) == "True"
        assert ask(b"x", timeout=10) == b"over grpc: x"
        assert channel._inner._made[0][1] is made


def test_t28_a_child_process_attests_a_connection_of_its_own(place: Place) -> None:
    attested = place.attest()
    with attested.open(clock=lambda: NOW, timeout=5) as client:
        assert client.status().code == 3
        asked = place.quotes()
        assert in_child(lambda: client.status().code) == "3"
        assert place.quotes() == asked + 1
        assert client.status().code == 3
        assert place.quotes() == asked + 1


def test_a_child_process_does_not_wait_for_what_its_parents_threads_held(place: Place) -> None:
    first = place.attest()
    renewal = Renewal(first, lambda: first, max_age=timedelta(hours=1), clock=lambda: NOW)
    with renewal._lock, renewal._renewing:
        assert in_child(lambda: (renewal.current() is first, renewal.after_refusal(first) is first)) == "(True, True)"


# ---- threads


def test_a_kept_connection_that_another_thread_took_is_no_error(place: Place) -> None:
    class Raced(list[Any]):
        """There is one, says whoever looks; it is gone when it is taken."""

        def __bool__(self) -> bool:
            return True

    with place.channel() as channel:
        channel._idle = Raced()
        assert channel.call("GET", "/").status == 200


def test_a_process_without_room_for_a_thread_goes_on_under_the_last_attestation(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRoom:
        def __init__(self, **_: object) -> None:
            """As a thread."""

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    first, now = place.attest(), [NOW]
    renewal = Renewal(first, place.attest, max_age=timedelta(hours=1), clock=lambda: now[0])
    monkeypatch.setattr(renewal_module, "Thread", NoRoom)
    now[0] += timedelta(minutes=90)
    assert renewal.current() is first
    assert not renewal._working
    now[0] += timedelta(minutes=40)
    assert renewal.current() is not first


# ---- what is no session


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timeout": 0}, "a timeout of 0 is none: expected seconds, above 0"),
        ({"timeout": float("nan")}, "a timeout of nan is none"),
        ({"timeout": None}, "a timeout of None is none"),
        ({"max_age": 3600}, "max_age is 3600; expected a timedelta above 0"),
        ({"max_age": timedelta()}, "expected a timedelta above 0"),
        ({"package": "coordinator.json"}, "coordinator.json cannot be read: No such file or directory"),
        ({"package": 5}, "the package is neither a file nor what stands in one"),
        ({"package": {"TEE": b"sgx"}}, "the package is neither a file nor what stands in one"),
        ({"signers": Path("owner.pem"), "signatures": Path("owner.sig")}, "or one in a list"),
        ({"host": None}, "None is not an address: expected HOST or HOST:PORT"),
    ],
)
def test_a_value_that_is_none_of_its_kind_is_refused_with_what_was_expected(
    wrong: dict[str, Any], said: str, place: Place
) -> None:
    with pytest.raises(InputError, match=said):
        tacit.connect(**{"host": place.coordinator.host, "config": place.folder, **wrong})
    assert place.coordinator.requests == []


def test_files_and_folders_may_be_named_by_text(place: Place, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(place.coordinator.manifest)
    where = {"config": str(place.folder), "platform": str(place.platform), "manifest": str(manifest)}
    with tacit.connect(place.coordinator.host, **where) as session:
        assert session.manifest_pinned


def test_an_age_without_end_is_one(place: Place) -> None:
    first = place.attest()
    renewal = Renewal(first, place.attest, max_age=timedelta.max, clock=lambda: NOW)
    assert renewal.current() is first


@pytest.mark.parametrize("wrong", [{"protocol": "rest"}, {"timeout": -1}, {"address": None, "version": "x"}])
def test_a_model_that_cannot_be_is_refused(wrong: dict[str, Any], place: Place) -> None:
    with place.open() as session, pytest.raises(TacitError, match="expected"):
        session.model("m", **{"address": place.server.address, **wrong}).predict([1.0])
    assert place.server.calls == 0
