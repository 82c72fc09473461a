"""Who waits for whom: readers for nobody, entries for no change that is being made, and all who wait share one write."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from fakes.core import Made, encode, make_coordinator, make_order
from fakes.officers import LOGGED, read_log
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import MemoryStore
from tacit.errors import ActivationError, SecretError, StateError

CALLERS = 8


class SlowStore(MemoryStore):
    """A disk that takes as long as a test wants, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.writes = 0
        self.fails = False

    def append(self, payload: bytes) -> None:
        self.reached.set()
        assert self.gate.wait(60)
        if self.fails:
            raise StateError("cannot write: No space left on device")
        self.writes += 1
        super().append(payload)


class Arrivals(deque[Any]):
    """What waits to be written; `came` tells how many did."""

    def __init__(self, came: threading.Semaphore) -> None:
        super().__init__()
        self.came = came

    def append(self, item: Any) -> None:
        super().append(item)
        self.came.release()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * CALLERS) as executor:
        yield executor


def make(**limits: int) -> tuple[Made, SlowStore]:
    store = SlowStore()
    made = make_coordinator(store=store)
    manifest = {**LOGGED, "Marbles": {**LOGGED["Marbles"], "few": {"Package": "p", "MaxActivations": 3}}}
    made.core.set_manifest(encode(manifest))
    store.writes = 0
    store.reached.clear()
    return made, store


def while_the_disk_is_busy(
    made: Made, store: SlowStore, pool: ThreadPoolExecutor, first: Callable[[], Any], then: list[Callable[[], Any]]
) -> list[Future[Any]]:
    """One write under way, and the others behind it; none of them is done."""
    ledger, came = made.core._ledger, threading.Semaphore(0)
    ledger._changes, ledger._notes = Arrivals(came), Arrivals(came)
    store.gate.clear()
    futures = [pool.submit(first)]
    assert store.reached.wait(60)
    futures += [pool.submit(one) for one in then]
    for _ in futures:
        assert came.acquire(timeout=60)
    assert not any(future.done() for future in futures)
    return futures


@pytest.mark.parametrize("kind", ["m", "counted"])
def test_releases_that_wait_are_stored_by_one_write(pool: ThreadPoolExecutor, kind: str) -> None:
    made, store = make()
    order = make_order(kind)

    def act() -> object:
        return made.core.activate(order)

    futures = while_the_disk_is_busy(made, store, pool, act, [act] * CALLERS)
    store.gate.set()
    for future in futures:
        assert future.result(timeout=60)
    assert store.writes <= 3
    assert len(read_log(made.core)) == 1 + 1 + CALLERS
    assert made.core.holdings.activations == ({} if kind == "m" else {"counted": 1 + CALLERS})


def test_status_waits_for_no_write(pool: ThreadPoolExecutor) -> None:
    made, store = make()
    order = make_order("counted")
    before = made.core.status().position
    futures = while_the_disk_is_busy(made, store, pool, lambda: made.core.activate(order), [])
    for _ in range(20):
        assert made.core.status().position == before
        assert made.core.quote().chain_pem
        assert made.core.manifest()
    assert not futures[0].done()
    store.gate.set()
    futures[0].result(timeout=60)
    assert made.core.status().position.epoch == before.epoch + 1


def test_a_release_without_a_limit_waits_for_no_change_that_is_being_made() -> None:
    made, _ = make()
    with made.core._ledger.lock:
        assert made.core.activate(make_order())
        assert made.core.read_secrets("owner", ["key"])


def test_a_budget_holds_when_many_are_stored_by_one_write(pool: ThreadPoolExecutor) -> None:
    made, store = make()
    few, many = make_order("few"), make_order("m")

    def act() -> str:
        try:
            made.core.activate(few)
        except ActivationError as exc:
            return exc.reason
        return "released"

    futures = while_the_disk_is_busy(made, store, pool, lambda: made.core.activate(many), [act] * CALLERS)
    store.gate.set()
    assert sorted(future.result(timeout=60) for future in futures[1:]) == ["activation"] * 5 + ["released"] * 3
    assert made.core.holdings.activations == {"few": 3}


def test_one_that_is_refused_takes_nobody_along(pool: ThreadPoolExecutor) -> None:
    made, store = make()
    order = make_order("counted")

    def bad() -> str:
        with pytest.raises(SecretError):
            made.core.write_secrets("owner", {"key": NewValue(key=b"short")})
        return "refused"

    futures = while_the_disk_is_busy(
        made, store, pool, lambda: made.core.activate(order), [bad, lambda: made.core.activate(order), bad]
    )
    store.gate.set()
    for future in futures:
        assert future.result(timeout=60)
    assert made.core.holdings.activations == {"counted": 2}


@pytest.mark.parametrize("kind", ["m", "counted"])
def test_what_one_write_could_not_store_is_refused_to_each_who_waited_for_it(
    pool: ThreadPoolExecutor, kind: str
) -> None:
    made, store = make()
    order = make_order(kind)
    before = made.core.holdings, made.core.status()

    def act() -> str:
        try:
            made.core.activate(order)
        except StateError as exc:
            return str(exc)
        return "released"

    futures = while_the_disk_is_busy(made, store, pool, act, [act] * CALLERS)
    store.fails = True
    store.gate.set()
    assert {future.result(timeout=60) for future in futures} == {"cannot write: No space left on device"}
    assert (made.core.holdings, made.core.status()) == before
    store.fails = False
    assert made.core.activate(order)
    assert len(read_log(made.core)) == 2


def test_a_fault_in_the_midst_is_nobodys_success(pool: ThreadPoolExecutor) -> None:
    made, store = make()
    order = make_order("counted")

    def broken(_: bytes) -> None:
        raise RuntimeError("a fault")

    store.append = broken  # type: ignore[method-assign]
    for kind in ("m", "counted"):
        with pytest.raises(RuntimeError, match="a fault"):
            made.core.activate(make_order(kind))
    del store.append  # type: ignore[method-assign]
    assert made.core.activate(order)
    assert made.core.holdings.activations == {"counted": 1}
