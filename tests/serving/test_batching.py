"""One inference in flight per model; what queues while it is busy is the batch."""

import gc
import queue as queue_of_requests
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tacit.errors import RequestError, Status, UsageError
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.batching import BatchRules, ModelQueue, QueueClosedError, pace
from tacit.serving.batching import queue as batching_queue
from tacit.serving.batching.loaded import LoadedModel, Queueing
from tacit.serving.batching.pace import measure_pace
from tacit.wire.tensor import Tensor


def rows(*values: float) -> dict[str, Tensor]:
    return {"x": Tensor(1, np.array(values, np.float32).reshape(-1, 1))}


class Runner:
    """Doubles its input; holds every run until the gate is opened, and remembers what it was given."""

    def __init__(self, *, held: bool = False) -> None:
        self.gate, self.started = threading.Event(), threading.Event()
        if not held:
            self.gate.set()
        self.runs: list[list[Any]] = []
        self.most = self.now = 0
        self.threads: set[str] = set()

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        self.now += 1
        self.most = max(self.most, self.now)
        self.threads.add(threading.current_thread().name)
        self.started.set()
        self.gate.wait(60)
        array = inputs["x"].array
        self.runs.append(array.tolist())
        self.now -= 1
        if array.size and array.min() < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "the model takes no negative numbers")
        return {"y": Tensor(1, array.sum() * np.ones(1, np.float32) if signature == "whole" else array * 2)}


class Held(Runner):
    """The same as an engine that says when it was closed."""

    platform = "held"
    signatures: Mapping[str, Signature] = {}

    def __init__(self) -> None:
        super().__init__(held=True)
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def ask(
    queue: ModelQueue, inputs: Mapping[str, Tensor], signature: str = "s", **more: Any
) -> Future[dict[str, Tensor]]:
    return queue.submit(signature, inputs, ("y",), **more)


def answer(future: Future[dict[str, Tensor]]) -> list[float]:
    return future.result(60)["y"].array.ravel().tolist()


def busy(runner: Runner, queue: ModelQueue) -> Future[dict[str, Tensor]]:
    """A request that keeps the model busy until the gate is opened."""
    first = ask(queue, rows(0))
    assert runner.started.wait(60)
    return first


# ---- without batching


def test_requests_run_one_after_another_in_their_order() -> None:
    runner = Runner()
    queue = ModelQueue("m", runner)
    futures = [ask(queue, rows(number)) for number in range(50)]
    assert [answer(future) for future in futures] == [[2 * number] for number in range(50)]
    assert (runner.most, runner.runs) == (1, [[[number]] for number in range(50)])
    queue.close()


def test_a_queue_that_is_given_up_runs_what_it_is_at_and_nothing_more() -> None:
    runner = Runner(held=True)
    queue = ModelQueue("m", runner)
    first, second = busy(runner, queue), ask(queue, rows(1))
    assert not queue.close(0.05)
    queue.give_up()
    runner.gate.set()
    assert answer(first) == [0]
    with pytest.raises(RequestError, match="unloaded and hangs: m") as refused:
        second.result(60)
    assert refused.value.status is Status.UNAVAILABLE
    assert queue.close(60)
    assert len(runner.runs) == 1


@pytest.mark.parametrize("rules", [None, BatchRules(2, timeout=0)], ids=["one-by-one", "batched"])
def test_t43_who_waits_behind_a_request_that_hangs_is_refused_at_the_unloading(rules: BatchRules | None) -> None:
    engine = Held()
    engine.signatures = {"s": Signature({"x": TensorSpec("x:0", 1, (-1, 1))}, {"y": TensorSpec("y:0", 1, (-1, 1))})}
    loaded = LoadedModel("m", 1, engine, queueing=Queueing(rules, patience=0.05))
    first = loaded.submit("s", rows(0), ("y",))
    assert engine.started.wait(60)
    waiting = [loaded.submit("s", rows(number), ("y",)) for number in range(5)]
    assert waiting[2].cancel()
    assert not loaded.close()
    for one in (*waiting[:2], *waiting[3:]):
        assert one.done(), "the engine has not let go yet"
        with pytest.raises(RequestError, match="unloaded and hangs: m/1") as refused:
            one.result(0)
        assert refused.value.status is Status.UNAVAILABLE
    engine.gate.set()
    assert answer(first) == [0]
    assert engine.closed.wait(60)
    assert len(engine.runs) == 1


def test_t43_what_the_engines_thread_has_received_already_is_refused_as_well() -> None:
    runner = Runner(held=True)
    queue = ModelQueue("m", runner)
    with queue._running:  # what comes is received meanwhile, all of it
        futures = [ask(queue, rows(number)) for number in range(3)]
        while not queue._items.empty():
            time.sleep(0.001)
    assert runner.started.wait(60)
    assert not queue.close(0.05)
    queue.give_up()
    assert [future.done() for future in futures] == [False, True, True]
    runner.gate.set()
    assert answer(futures[0]) == [0]
    assert queue.close(60)
    assert len(runner.runs) == 1


def test_t43_who_waits_behind_an_attempt_that_hangs_is_refused_at_the_unloading() -> None:
    runner = Runner(held=True)
    queue = ModelQueue("m", runner, quick=True)
    attempt = threading.Thread(target=queue.attempt, args=("s", rows(1), ("y",)))
    attempt.start()
    assert runner.started.wait(60)
    behind = ask(queue, rows(2))
    assert not queue.close(0.05)
    queue.give_up()
    with pytest.raises(RequestError, match="unloaded and hangs"):
        behind.result(0)
    runner.gate.set()
    attempt.join(60)
    assert queue.close(60)
    assert len(runner.runs) == 1


def test_a_model_of_this_process_that_hangs_gives_its_memory_back_when_it_returns() -> None:
    engine = Held()
    loaded = LoadedModel("m", 1, engine, queueing=Queueing(patience=0.05))
    first = loaded.submit("s", rows(3), ("y",))
    assert engine.started.wait(60)
    assert not loaded.close()
    assert not engine.closed.is_set()
    engine.gate.set()
    assert answer(first) == [6]
    assert engine.closed.wait(60)


def test_an_error_reaches_only_its_own_caller() -> None:
    queue = ModelQueue("m", Runner())
    bad, good = ask(queue, rows(-1)), ask(queue, rows(7))
    with pytest.raises(RequestError, match="negative"):
        bad.result(60)
    assert answer(good) == [14]
    queue.close()
    assert (queue.statistics.fail.count, queue.statistics.success.count) == (1, 1)


def test_a_cancelled_request_is_not_run_and_makes_room_at_once() -> None:
    runner = Runner(held=True)
    queue = ModelQueue("m", runner, max_waiting=1)
    first = busy(runner, queue)
    second = ask(queue, rows(1))
    with pytest.raises(RequestError) as refused:
        ask(queue, rows(2))
    assert refused.value.status is Status.UNAVAILABLE
    assert "--max_waiting_requests" in str(refused.value)
    assert second.cancel()
    third = ask(queue, rows(3))
    runner.gate.set()
    assert (answer(first), answer(third)) == ([0], [6])
    with pytest.raises(CancelledError):
        second.result(0)
    queue.close()
    assert runner.runs == [[[0]], [[3]]]


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    queue = ModelQueue("m", Runner())
    futures = [ask(queue, rows(number)) for number in range(20)]
    queue.close()
    assert [answer(future) for future in futures] == [[2 * number] for number in range(20)]
    with pytest.raises(QueueClosedError):
        ask(queue, rows(1))
    queue.close()


def test_a_request_whose_deadline_passed_while_it_waited_is_not_run() -> None:
    runner = Runner(held=True)
    queue = ModelQueue("m", runner)
    first = busy(runner, queue)
    late = ask(queue, rows(1), deadline=time.monotonic())
    early = ask(queue, rows(2), deadline=time.monotonic() + 60)
    runner.gate.set()
    answer(first)
    with pytest.raises(RequestError, match="deadline") as refused:
        late.result(60)
    assert (refused.value.status, answer(early), runner.runs) == (Status.DEADLINE_EXCEEDED, [4], [[[0]], [[2]]])
    queue.close()


@pytest.mark.parametrize("value", [1, -1])
def test_a_request_and_its_answer_need_no_collector(value: float) -> None:
    queue = ModelQueue("m", Runner())
    gc.disable()
    try:
        inputs = rows(value)
        sent = weakref.ref(inputs["x"].array)
        future = ask(queue, inputs)
        del inputs
        wait([future], 60)
        answered = weakref.ref(future)
        del future
        queue.close()
        assert (sent(), answered()) == (None, None)
    finally:
        gc.enable()


# ---- with batching


def batching(runner: Runner, **rules: Any) -> ModelQueue:
    return ModelQueue("m", runner, rules=BatchRules(**rules), joinable=("s", "whole"))


def test_a_lone_request_waits_for_nobody() -> None:
    queue, took = batching(Runner()), []
    # The quickest: a timer would be in every one of them, and another process's turn is not.
    while not took or (min(took) >= 0.002 and len(took) < 3000):
        begin = time.monotonic()
        assert answer(ask(queue, rows(1, 2))) == [2, 4]
        took.append(time.monotonic() - begin)
    assert min(took) < 0.002
    queue.close()


def test_what_queues_while_the_model_is_busy_is_the_batch() -> None:
    runner = Runner(held=True)
    queue = batching(runner)
    first = busy(runner, queue)
    others = [ask(queue, rows(number, 10 * number)) for number in (1, 2, 3)]
    runner.gate.set()
    assert answer(first) == [0]
    assert [answer(future) for future in others] == [[2, 20], [4, 40], [6, 60]]
    queue.close()
    assert runner.runs == [[[0]], [[1], [10], [2], [20], [3], [30]]]
    assert (queue.statistics.executions, queue.statistics.inferences) == (2, 7)
    assert {size: run.count for size, run in queue.statistics.runs.items()} == {1: 1, 6: 1}


def test_a_batch_has_at_most_its_rows_and_what_does_not_fit_stays_in_order() -> None:
    runner = Runner(held=True)
    queue = batching(runner, max_batch=3)
    busy(runner, queue)
    others = [ask(queue, inputs) for inputs in (rows(1, 1), rows(2, 2), rows(3), rows(4))]
    runner.gate.set()
    assert [answer(future) for future in others] == [[2, 2], [4, 4], [6], [8]]
    queue.close()
    assert runner.runs[1:] == [[[1], [1], [3]], [[2], [2], [4]]]


def test_a_timeout_counts_from_the_first_request_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits, receive = 0.0, queue_of_requests.SimpleQueue[float](), ModelQueue._receive

    def note(queue: ModelQueue, ahead: Any, wait: float | None) -> None:
        if wait:
            waits.put(wait)
        receive(queue, ahead, wait)

    clock = SimpleNamespace(perf_counter_ns=lambda: int(now * 1e9), monotonic=time.monotonic)
    monkeypatch.setattr(batching_queue, "time", clock)
    monkeypatch.setattr(ModelQueue, "_receive", note)
    runner = Runner()
    queue = batching(runner, timeout=0.3)
    first = ask(queue, rows(1))
    assert waits.get(timeout=60) == pytest.approx(0.3)
    now = 0.2
    second = ask(queue, rows(2))
    while (left := waits.get(timeout=60)) == pytest.approx(0.3):  # as long as the clock stood
        assert not runner.runs
    assert left == pytest.approx(0.1), "the second began the wait anew"
    now = 0.3
    assert (answer(first), answer(second)) == ([2], [4])
    queue.close()
    assert runner.runs == [[[1], [2]]]


def test_a_full_batch_does_not_wait_for_its_timeout() -> None:
    queue = batching(Runner(), timeout=600.0, max_batch=2)
    futures = [ask(queue, rows(1)), ask(queue, rows(2))]
    assert [answer(future) for future in futures] == [[2], [4]]
    queue.close()


def test_closing_does_not_wait_for_a_timeout() -> None:
    queue = batching(Runner(), timeout=600.0)
    future = ask(queue, rows(1))
    queue.close()
    assert answer(future) == [2]


def test_an_oversize_request_is_split() -> None:
    runner = Runner()
    queue = batching(runner, max_batch=4, max_execution=3)
    assert answer(ask(queue, rows(*range(8)))) == [2 * number for number in range(8)]
    queue.close()
    assert [len(run) for run in runner.runs] == [3, 3, 2]


def test_an_oversize_request_is_refused_where_splitting_is_off() -> None:
    queue = batching(Runner(), max_batch=4, split=False)
    with pytest.raises(RequestError, match="Task size 5 is larger than maximum input batch size 4") as refused:
        ask(queue, rows(*range(5)))
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert "--batching_parameters_file" in str(refused.value)
    queue.close()


def test_a_batch_is_filled_up_to_a_size_that_is_allowed() -> None:
    runner = Runner()
    queue = batching(runner, max_batch=8, allowed=(2, 8))
    assert answer(ask(queue, rows(1, 2, 3))) == [2, 4, 6]
    assert answer(ask(queue, rows(5))) == [10]
    queue.close()
    assert runner.runs == [[[1], [2], [3], [1], [1], [1], [1], [1]], [[5], [5]]]
    assert queue.statistics.inferences == 4


def test_rows_of_other_shapes_are_padded_where_that_is_allowed() -> None:
    def wide(width: int, value: float) -> dict[str, Tensor]:
        return {"x": Tensor(1, np.full((1, width), value, np.float32))}

    runner = Runner(held=True)
    queue = batching(runner, pad=True)
    busy(runner, queue)
    first, second = ask(queue, wide(3, 5)), ask(queue, wide(1, 7))
    runner.gate.set()
    assert answer(first) == [10, 10, 10]
    assert answer(second) == [14, 14, 14]
    queue.close()
    assert runner.runs[1:] == [[[5, 5, 5], [7, 7, 7]]]


def test_rows_of_other_shapes_are_run_apart_otherwise() -> None:
    runner = Runner(held=True)
    queue = batching(runner)
    busy(runner, queue)
    first = ask(queue, {"x": Tensor(1, np.full((1, 3), 5, np.float32))})
    second = ask(queue, rows(7))
    runner.gate.set()
    assert (answer(first), answer(second)) == ([10, 10, 10], [14])
    queue.close()
    assert len(runner.runs) == 3


def test_nobody_pays_for_another_request_of_the_batch() -> None:
    runner = Runner(held=True)
    queue = batching(runner)
    busy(runner, queue)
    good, bad = ask(queue, rows(1)), ask(queue, rows(-1))
    runner.gate.set()
    assert answer(good) == [2]
    with pytest.raises(RequestError, match="negative"):
        bad.result(60)
    queue.close()


def test_a_signature_whose_answer_is_not_by_rows_is_batched_no_more() -> None:
    runner = Runner(held=True)
    queue = batching(runner)
    busy(runner, queue)
    futures = [ask(queue, rows(1, 2), "whole"), ask(queue, rows(3, 4), "whole")]
    runner.gate.set()
    assert [answer(future) for future in futures] == [[3], [7]]
    queue.close()


@pytest.mark.parametrize("client", [b"mine", None])
def test_t52_clients_are_not_mixed_where_that_is_asked(client: bytes | None) -> None:
    runner = Runner(held=True)
    queue = batching(runner, mix_clients=False)
    busy(runner, queue)
    asked = [(1, client), (2, b"theirs"), (3, client), (4, b"theirs")]
    futures = [ask(queue, rows(value), client=whose) for value, whose in asked]
    runner.gate.set()
    assert [answer(future) for future in futures] == [[2], [4], [6], [8]]
    queue.close()
    # Who has no certificate may be anybody, and shares a batch with nobody.
    together = [[[1], [3]], [[2], [4]]] if client else [[[1]], [[2], [4]], [[3]]]
    assert runner.runs[1:] == together


@pytest.mark.parametrize("client", [b"mine", None])
def test_a_request_that_is_joined_to_none_keeps_the_rules_of_a_batch(client: bytes | None) -> None:
    runner = Runner()
    queue = batching(runner, mix_clients=False, max_batch=4, allowed=(2, 4))
    assert answer(ask(queue, rows(1, 2, 3), client=client)) == [2, 4, 6]
    assert answer(ask(queue, rows(1, 2, 3, 4, 5), client=client)) == [2, 4, 6, 8, 10]
    queue.close()
    assert [len(run) for run in runner.runs] == [4, 4, 2]


def test_a_full_queue_of_batches_answers_unavailable_and_names_the_flag() -> None:
    runner = Runner(held=True)
    queue = batching(runner, max_batch=2, max_enqueued=2)
    busy(runner, queue)
    waiting = [ask(queue, rows(1, 1)), ask(queue, rows(2, 2))]
    with pytest.raises(
        RequestError, match="The batch scheduling queue to which this task was submitted is full"
    ) as full:
        ask(queue, rows(3))
    assert full.value.status is Status.UNAVAILABLE
    assert "--batching_parameters_file" in str(full.value)
    runner.gate.set()
    assert [answer(future) for future in waiting] == [[2, 2], [4, 4]]
    queue.close()


def test_a_cancelled_and_an_expired_request_are_left_out_of_the_batch() -> None:
    runner = Runner(held=True)
    queue = batching(runner)
    busy(runner, queue)
    gone, late, good = ask(queue, rows(1)), ask(queue, rows(2), deadline=time.monotonic()), ask(queue, rows(3))
    assert gone.cancel()
    runner.gate.set()
    assert answer(good) == [6]
    with pytest.raises(RequestError, match="deadline"):
        late.result(60)
    queue.close()
    assert runner.runs[1:] == [[[3]]]


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        ({"max_batch": 0}, "max_batch_size"),
        ({"max_enqueued": 0}, "max_enqueued_batches"),
        ({"timeout": -1.0}, "batch_timeout_micros"),
        ({"max_batch": 4, "max_execution": 5}, "max_execution_batch_size"),
        ({"max_batch": 4, "allowed": (4, 2)}, "increase"),
        ({"max_batch": 4, "allowed": (2, 3)}, "last of allowed_batch_sizes"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(rules: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        BatchRules(**rules)


# ---- models that are quicker than a queue


def test_a_quick_model_is_run_by_whoever_asks() -> None:
    runner = Runner()
    queue = ModelQueue("m", runner, quick=True)
    found = queue.attempt("s", rows(1), ("y",))
    assert found is not None
    assert found["y"].array.tolist() == [[2]]
    assert runner.threads == {threading.current_thread().name}
    with pytest.raises(RequestError):
        queue.attempt("s", rows(-1), ("y",))
    assert (queue.statistics.success.count, queue.statistics.fail.count) == (1, 1)
    queue.close()
    assert queue.attempt("s", rows(1), ("y",)) is None


def _slow(queue: ModelQueue, runner: Runner) -> None:
    busy(runner, queue)


def _large(queue: ModelQueue, runner: Runner) -> None:
    assert queue.attempt("s", rows(*range(20_000)), ("y",)) is None


@pytest.mark.parametrize("happens", [_slow, _large])
def test_a_quick_model_is_queued_for_while_it_is_busy_and_for_large_inputs(
    happens: Callable[[ModelQueue, Runner], None],
) -> None:
    runner = Runner(held=happens is _slow)
    queue = ModelQueue("m", runner, quick=True)
    happens(queue, runner)
    assert (queue.attempt("s", rows(1), ("y",)) is None) == (happens is _slow)
    runner.gate.set()
    queue.close()


def test_strings_are_queued_for_whatever_their_size() -> None:
    queue = ModelQueue("m", Runner(), quick=True)
    text = np.array([b"x" * (1 << 20)], dtype=object)
    assert queue.attempt("s", {"x": Tensor(7, text)}, ("y",)) is None
    queue.close()


def test_a_quick_model_keeps_the_rules_of_its_batches() -> None:
    runner = Runner()
    queue = ModelQueue(
        "m", runner, rules=BatchRules(max_batch=4, allowed=(2, 4), split=False), joinable="s", quick=True
    )
    assert queue.attempt("s", rows(1, 2, 3), ("y",)) is None  # to be filled up
    assert queue.attempt("s", rows(1, 2, 3, 4, 5), ("y",)) is None  # to be refused
    assert queue.attempt("s", rows(1, 2), ("y",)) is not None
    assert runner.runs == [[[1], [2]]]
    queue.close()


def compute(seconds: float) -> None:
    """Take the processor, and not only time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(("takes", "most"), [(compute, 3), (time.sleep, 30)], ids=["computes", "waits"])
def test_a_model_that_is_slow_several_times_in_a_row_is_attempted_no_more(
    takes: Callable[[float], None], most: int
) -> None:
    """One that waits is given more time: it is others who have the processor."""

    class Slow(Runner):
        def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
            takes(float(inputs["x"].array.max()))
            return super().infer(signature, inputs, outputs)

    queue = ModelQueue("m", Slow(), quick=True)
    for _ in range(2):
        assert queue.attempt("s", rows(0.006), ("y",)) is not None
    while queue._late:  # on a machine at its limit a quick one may be late as well
        assert queue.attempt("s", rows(0), ("y",)) is not None
    for _ in range(most):
        assert queue.attempt("s", rows(0.006), ("y",)) is not None
    assert queue.attempt("s", rows(0), ("y",)) is None
    queue.close()


def test_the_pace_of_a_model_is_that_of_its_quickest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    class Settling(Runner):
        def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
            nonlocal now
            now += {0: 500_000, 2: 1_000_000}.get(len(self.runs), 15_000_000)
            return super().infer(signature, inputs, outputs)

    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter_ns=lambda: now))
    runner = Settling()
    assert measure_pace(runner, "s", rows(1), ("y",)) == 1_000_000  # the first does not count
    assert len(runner.runs) > 3
