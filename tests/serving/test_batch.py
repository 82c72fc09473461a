"""One inference in flight per model."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from tacit.errors import RequestError, Status
from tacit.serving.batch import EngineQueue, QueueClosedError


def test_calls_run_one_after_another_in_their_order() -> None:
    queue: EngineQueue[int] = EngineQueue("m")
    running, most, order = 0, 0, []

    def call(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(number)
        running -= 1
        return number

    futures = [queue.submit(lambda n=number: call(n)) for number in range(50)]
    assert [future.result(5) for future in futures] == list(range(50))
    assert (most, order) == (1, list(range(50)))
    queue.close()


def test_an_error_reaches_only_its_own_caller() -> None:
    queue: EngineQueue[int] = EngineQueue("m")
    bad, good = queue.submit(lambda: 1 // 0), queue.submit(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        bad.result(5)
    assert good.result(5) == 7
    queue.close()


def test_a_cancelled_call_is_not_run() -> None:
    queue: EngineQueue[int] = EngineQueue("m")
    gate, ran = threading.Event(), []
    first = queue.submit(lambda: gate.wait(5) or 0)
    second = queue.submit(lambda: ran.append(1) or 0)
    assert second.cancel()
    gate.set()
    first.result(5)
    queue.close()
    with pytest.raises(CancelledError):
        second.result(0)
    assert not ran


def test_a_full_queue_answers_unavailable() -> None:
    queue: EngineQueue[int] = EngineQueue("m", max_waiting=1)
    gate, started = threading.Event(), threading.Event()
    queue.submit(lambda: started.set() or gate.wait(5) or 0)
    started.wait(5)
    queue.submit(lambda: 0)
    with pytest.raises(RequestError) as refused:
        queue.submit(lambda: 0)
    assert refused.value.status is Status.UNAVAILABLE
    gate.set()
    queue.close()


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    queue: EngineQueue[int] = EngineQueue("m")
    futures = [queue.submit(lambda n=number: n) for number in range(20)]
    queue.close()
    assert [future.result(0) for future in futures] == list(range(20))
    with pytest.raises(QueueClosedError):
        queue.submit(lambda: 0)


def test_a_call_whose_deadline_passed_while_it_waited_is_not_run() -> None:
    queue: EngineQueue[int] = EngineQueue("m")
    gate, ran = threading.Event(), []
    first = queue.submit(lambda: gate.wait(5) or 0)
    late = queue.submit(lambda: ran.append(1) or 0, deadline=time.monotonic())
    early = queue.submit(lambda: 7, deadline=time.monotonic() + 60)
    gate.set()
    first.result(5)
    with pytest.raises(RequestError, match="deadline") as refused:
        late.result(5)
    assert (refused.value.status, early.result(5), ran) == (Status.DEADLINE_EXCEEDED, 7, [])
    queue.close()
