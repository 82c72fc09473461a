"""What the threat table promises of the coordinator and no other test's name says: keys, clocks, approvals, routes, oracles."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.core import encode, make_coordinator, make_order, make_world
from fakes.tee import NOW, FakeTee
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.core import Coordinator, Settings
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import MemoryStore, SealedFolder
from tacit.edge import HttpRequest
from tacit.errors import ActivationError, AppraisalError, ForbiddenError, StateError, UpdateError
from tacit.pki import issue_self_signed

USERS = {name: issue_self_signed([name], common_name=name, now=NOW) for name in ("ann", "ben", "eve")}
KEYS = {name: bytes([at]) * 32 for at, name in enumerate(("cats", "dogs", "mail"), 1)}


def manifest(config: dict[str, Any] | None = None, **more: Any) -> bytes:
    """Three users who may update together, and one word that ann alone may read."""
    roles = {
        "up": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
        "r": {"ResourceType": "Secrets", "ResourceNames": ["word"], "Actions": ["ReadSecret", "WriteSecret"]},
    }
    users = {
        name: {"Certificate": pair.certificate_pem.decode(), "Roles": ["up", *(["r"] if name == "ann" else [])]}
        for name, pair in USERS.items()
    }
    made = {
        "Packages": {"p": {"UniqueID": "11" * 32, "TEE": "simulated"}},
        "Marbles": {"m": {"Package": "p", "MaxActivations": 2}},
        "Secrets": {"word": {"Type": "plain", "UserDefined": True}},
        "Users": users,
        "Roles": roles,
        "Config": config or {},
    }
    return encode({**made, **more})


# ---- T05


def test_t05_root_intermediate_and_leaves_have_keys_of_their_own() -> None:
    made = make_coordinator(tee=FakeTee())
    made.core.set_manifest(manifest())
    identity = made.core.holdings.identity
    tee = FakeTee()
    leaves = [made.core.activate(make_order(tee=tee)).env["MARBLE_PREDEFINED_PRIVATE_KEY"] for _ in range(2)]
    assert len({identity.root.key_pem, identity.intermediate.key_pem, *leaves}) == 4
    assert identity.marble_root.key_pem == identity.intermediate.key_pem, "one key under two certificates, as MarbleRun"


# ---- T10


def test_t10_a_clock_that_is_turned_back_gives_nothing_back() -> None:
    clock = [NOW]
    tee = FakeTee()
    world, _ = make_world(tee=tee, clock=lambda: clock[0])
    core = Coordinator(MemoryStore(), Settings(("localhost",), "simulated", "SIMULATED"), world)
    core.set_manifest(manifest())
    epochs = [core.status().position.epoch]
    for moved in (timedelta(days=-3), timedelta(days=2)):
        clock[0] = NOW + moved
        core.activate(make_order(tee=tee))
        epochs.append(core.status().position.epoch)
    assert epochs == sorted(set(epochs)), "an epoch is counted, not dated"
    clock[0] = NOW - timedelta(days=3)
    with pytest.raises(ActivationError, match="reached max activations"):
        core.activate(make_order(tee=tee))


@pytest.mark.parametrize("now", [NOW - timedelta(days=400), NOW, NOW + timedelta(days=400)])
def test_t10_a_fresh_nonce_is_asked_for_whatever_the_clock_says(now: datetime) -> None:
    tee = FakeTee()
    world, _ = make_world(tee=tee, clock=lambda: now)
    core = Coordinator(MemoryStore(), Settings(("localhost",), "simulated", "SIMULATED"), world)
    first, second = core.quote(b"1" * 32), core.quote(b"2" * 32)
    assert first.evidence != second.evidence


# ---- T15, T16


def test_t15_after_an_update_nothing_new_is_signed_by_the_key_that_clients_pinned() -> None:
    made = make_coordinator(tee=FakeTee())
    made.core.set_manifest(manifest({"UpdateThreshold": 1}))
    before = made.core.holdings.identity
    made.core.updates.update("ann", manifest({"UpdateThreshold": 1}, Marbles={"n": {"Package": "p"}}))
    after = made.core.holdings.identity
    assert after.root.key_pem == before.root.key_pem
    assert after.intermediate.public_der != before.intermediate.public_der
    chain = made.core.activate(make_order("n", tee=FakeTee())).env["MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"]
    assert after.intermediate.certificate_pem in chain
    assert before.intermediate.certificate_pem not in chain
    assert any("update" in line.lower() for line in made.core.update_log())


def test_t16_approvals_of_one_text_are_none_for_another() -> None:
    made = make_coordinator()
    made.core.set_manifest(manifest({"UpdateThreshold": 2}))
    good = manifest({"UpdateThreshold": 2}, Marbles={"good": {"Package": "p"}})
    bad = manifest({"UpdateThreshold": 2}, Marbles={"bad": {"Package": "p"}})
    made.core.updates.update("ann", good)
    for text in (bad, good + b" ", good.replace(b'"good"', b'"g\\u006fod"')):
        with pytest.raises(UpdateError):
            made.core.updates.acknowledge("ben", text)
    assert made.core.holdings.manifest is not None
    assert set(made.core.holdings.manifest.marbles) == {"m"}
    made.core.updates.acknowledge("ben", good)
    assert set(made.core.holdings.manifest.marbles) == {"good"}


def test_t16_one_user_s_approval_counts_once() -> None:
    made = make_coordinator()
    made.core.set_manifest(manifest({"UpdateThreshold": 2}))
    new = manifest({"UpdateThreshold": 1}, Marbles={"n": {"Package": "p"}})
    made.core.updates.update("ann", new)
    made.core.updates.acknowledge("ann", new)
    assert made.core.holdings.manifest is not None
    assert set(made.core.holdings.manifest.marbles) == {"m"}, "a lower threshold needs the old one"


# ---- T27


def test_t27_a_marble_gets_the_keys_of_its_models_and_of_no_other() -> None:
    names = list(KEYS)
    types = {f"t{at}": list(chosen) for at, chosen in enumerate(itertools.combinations(names, 2))} | {"none": []}
    raw = manifest(
        Packages={"p": {"UniqueID": "11" * 32, "TEE": "simulated"}, "q": {"UniqueID": "22" * 32, "TEE": "simulated"}},
        Marbles={
            name: {"Package": "q" if name == "t0" else "p", **({"Models": models} if models else {})}
            for name, models in types.items()
        },
        Models={name: {"Format": "capsule", "ID": "33" * 32, "MinVersion": 1, "Key": f"key-{name}"} for name in names},
        Secrets={f"key-{name}": {"Type": "symmetric-key", "Size": 256, "UserDefined": True} for name in names},
        Roles={
            "up": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
            "r": {
                "ResourceType": "Secrets",
                "ResourceNames": [f"key-{name}" for name in names],
                "Actions": ["WriteSecret"],
            },
        },
    )
    made = make_coordinator(tee=FakeTee())
    made.core.set_manifest(raw)
    made.core.write_secrets("ann", {f"key-{name}": NewValue(key=key) for name, key in KEYS.items()})
    programs = {"p": FakeTee(), "q": FakeTee(measurement=b"\x22" * 32)}
    for name, models in types.items():
        right, wrong = ("q", "p") if name == "t0" else ("p", "q")
        released = made.core.activate(make_order(name, tee=programs[right]))
        assert dict(released.files) == {f"/tacit/keys/{model}": KEYS[model] for model in models}
        with pytest.raises((AppraisalError, ActivationError)):
            made.core.activate(make_order(name, tee=programs[wrong]))


# ---- T34


def test_t34_two_coordinators_with_one_state_are_told_apart(tmp_path: Path) -> None:
    """On one machine the second is refused; of a copied folder each writes another history, and shows it by its head."""
    store = SealedFolder(tmp_path / "a", FakeTee())
    with pytest.raises(StateError):
        SealedFolder(tmp_path / "a", FakeTee())
    store.close()
    twins = []
    for word in (b"one", b"two"):
        made = make_coordinator()
        made.core.set_manifest(manifest())
        made.core.write_secrets("ann", {"word": NewValue(key=word)})
        twins.append(made.core.status().position)
    assert twins[0].epoch == twins[1].epoch
    assert twins[0].head != twins[1].head


# ---- T47, T49, T56

ADMINISTRATION = [
    "/metrics", "/monitoring/prometheus/metrics", "/debug/pprof", "/admin", "/shutdown", "/config", "/env", "/logs",
    "/api/v2/shutdown", "/api/v2/config", "/api/v1/pods", "/.well-known/x", "/api/v2/secrets/all", "/api/v2/state",
    "/healthz", "/version", "/v1/models", "/v2/repository/index",
]  # fmt: skip


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def send(rest: ClientApi, method: str, target: str, user: str = "", body: bytes = b"") -> tuple[int, bytes]:
    path, _, query = target.partition("?")
    certificate = USERS[user].certificate_der if user else None
    answer = await rest.handle(HttpRequest(method, path, query, {}, body, certificate))
    return answer.status, answer.body


async def test_t47_no_route_of_administration_is_there(executor: ThreadPoolExecutor) -> None:
    made = make_coordinator()
    rest = ClientApi(made.core, executor=executor, log=made.world.log)
    for path in ADMINISTRATION:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"):
            status, body = await send(rest, method, path)
            assert status == 405, f"{method} {path}"
            assert json.loads(body) == {"status": "error", "data": None}


async def test_t04_no_route_signs_bytes_of_a_caller_s_choice(executor: ThreadPoolExecutor) -> None:
    made = make_coordinator(tee=FakeTee())
    rest = ClientApi(made.core, executor=executor, log=made.world.log)
    made.core.set_manifest(manifest())
    for path in ("/api/v2/sign-quote", "/api/v2/quote", "/quote", "/api/v2/evidence", "/api/v2/sign"):
        status, _ = await send(rest, "POST", path, "ann", json.dumps({"sgxQuote": "AAAA"}).encode())
        assert status in (403, 405), path


async def test_t56_an_unknown_secret_and_a_forbidden_one_look_the_same(executor: ThreadPoolExecutor) -> None:
    made = make_coordinator()
    rest = ClientApi(made.core, executor=executor, log=made.world.log)
    made.core.set_manifest(manifest())
    made.core.write_secrets("ann", {"word": NewValue(key=b"v")})
    forbidden, unknown = [await send(rest, "GET", f"/api/v2/secrets?s={name}", "ben") for name in ("word", "wurd")]
    assert forbidden[0] == unknown[0] == 500
    assert forbidden[1] == unknown[1].replace(b"wurd", b"word")
    strangers = {await send(rest, "GET", f"/api/v2/secrets?s={name}") for name in ("word", "wurd")}
    assert len(strangers) == 1, "who is nobody learns nothing of names"
    with pytest.raises(ForbiddenError):
        made.core.read_secrets("ben", ["word"])


@pytest.mark.parametrize("text", ["http://169.254.169.254/latest", "file:///etc/passwd", "gopher://x", "//host/share"])
async def test_t49_an_address_in_a_request_is_text(
    executor: ThreadPoolExecutor, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"something was fetched: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    made = make_coordinator()
    rest = ClientApi(made.core, executor=executor, log=made.world.log)
    raw = manifest(
        Marbles={"m": {"Package": "p", "Parameters": {"Files": {"a": text}, "Env": {"U": text}, "Argv": [text]}}},
        TLS={"t": {"Outgoing": [{"Addr": text, "Port": "1"}]}},
    )
    status, _ = await send(rest, "POST", "/manifest", body=raw)
    assert status == 200
    released = made.core.activate(make_order())
    assert released.files["a"] == text.encode()
    for path in ("/api/v2/manifest", "/api/v2/secrets", "/api/v2/update"):
        await send(rest, "POST", path, "ann", json.dumps({"manifest": text, "url": text, "secrets": {}}).encode())
