"""One inference in flight per model.

A model on two cores gains nothing from two inferences at once and loses its latency: so every model has one engine
thread, and what arrives meanwhile waits in its queue. No timer delays a lone request.

(1) A request joins the queue, if there is room; where its rows are more than a batch may have, it is split when it runs.
(2) The engine's thread takes the first, and with batching all that fit to it. With a timeout it waits for more until
    the first has waited so long.
(3) Who was cancelled, or whose deadline passed, is not run; a cancelled one leaves the queue at once.
(4) The engine runs the batch. Where it refuses, each request is run alone, so that nobody pays for another.
(5) Each gets its rows.

A model that answers faster than a thread wakes up is run by whoever asks, if nobody else runs it (`attempt`); where
requests are joined and come together, at the end of the event loop's turn in which they came (`hold`).
"""

import contextlib
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Protocol

from tacit.errors import RequestError, Status
from tacit.serving.batching.rows import count_rows, join, row_key, stack, take_rows
from tacit.serving.batching.rules import BatchRules
from tacit.serving.batching.statistics import Statistics
from tacit.serving.batching.turn import Steady, Turn
from tacit.serving.batching.waiting import Asker, Outputs, Waiting, fits_in_one_run, is_small
from tacit.wire.tensor import Tensor

ENGINE_THREAD = "engine"  # how the names of threads that run models begin
MAX_WAITING = 1024  # requests; each may hold a whole image batch, so this is far below what a queue could take
_ATTEMPT_NS = 5_000_000  # an attempt that takes longer is slow: once it may be another process's turn on the processor
_SLOW_IN_A_ROW = 3  # such attempts that took the processor all the time, and no more are made
_LATE_IN_A_ROW = 30  # the same, whatever they waited for
_REMEMBERED = 64  # kinds of requests whose number of rows is kept
_HANGS = "the request was sent to a version that is unloaded and hangs:"


class QueueClosedError(Exception):
    """The model was unloaded between being found and being asked; the caller looks it up again."""


class Runner(Protocol):
    """What runs: an engine. Never called by two threads at once."""

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Outputs:
        """The outputs asked for."""


class ModelQueue:
    """Runs requests one after another, or together where `rules` say so, in the order in which they came.

    `quick` says that the model answers faster than a thread wakes up.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        rules: BatchRules | None = None,
        joinable: Iterable[str] = (),
        max_waiting: int = MAX_WAITING,
        quick: bool = False,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.statistics = Statistics()
        self._name, self._runner, self._rules = name, runner, rules
        self._joinable = set(joinable)
        self._max_waiting = max_waiting
        self._quick, self._slow, self._late = quick, 0, 0
        self._wall_clock = wall_clock
        self._items: SimpleQueue[Waiting | None] = SimpleQueue()
        self._ahead: deque[Waiting] = deque()  # what the engine's thread has received, and not taken yet
        self._gate = threading.Lock()
        self._running = threading.Lock()
        self._turn = Turn(self._run_turn)
        self._held: dict[Hashable, list[Waiting]] = {}  # what runs at the end of this turn of the loop, and is alike
        self._askers: list[Asker] = []  # who waits for that
        self._steady: dict[Hashable, Steady] = {}  # of what was alike in the last turns
        self._least = 0  # rows that a run is filled up to at least
        self._waiting = self._rows = 0
        self._closed = self._ended = self._given_up = False
        self._thread = threading.Thread(target=self._run, name=f"{ENGINE_THREAD} {name}", daemon=True)
        self._thread.start()

    def attempt(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Outputs | None:
        """The outputs, computed right here where that is the quickest way; None where the request had better `submit`.

        Raises:
            RequestError: the model's refusal.
        """
        if not self._quick or self._waiting or not is_small(inputs) or not self._is_one_run(signature, inputs):
            return None
        if not self._running.acquire(blocking=False):
            return None
        try:
            if self._closed:
                return None
            # Asked of the system, which costs more than looking at a clock: so only once there is reason for it.
            spent = time.thread_time_ns() if self._slow else 0
            begin = time.perf_counter_ns()
            try:
                found = self._runner.infer(signature, inputs, outputs)
            except Exception:
                self.statistics.fail.add(time.perf_counter_ns() - begin)
                raise
            took = time.perf_counter_ns() - begin
            self._count(count_rows(inputs) or 1, took)
            self.statistics.success.add(took)
            self._judge(took, spent)
            return found
        finally:
            self._running.release()

    def _judge(self, took: int, spent: int) -> None:
        """Attempt no more where attempts are slow by themselves, and not because others have the processor.

        `took` is one attempt's time, `spent` this thread's own before it where the one before was slow.
        """
        if took <= _ATTEMPT_NS:
            self._slow = self._late = 0
            return
        self._late += 1
        if not self._slow or time.thread_time_ns() - spent > _ATTEMPT_NS:
            self._slow += 1
        if self._slow >= _SLOW_IN_A_ROW or self._late >= _LATE_IN_A_ROW:
            self._quick = False

    def _is_one_run(self, signature: str, inputs: Mapping[str, Tensor]) -> bool:
        """Whether the rules let a request run as it is."""
        if self._rules is None or signature not in self._joinable:
            return True
        rows = count_rows(inputs)
        return not rows or fits_in_one_run(rows, self._rules)

    def hold(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        asker: Asker,
        *,
        soon: Callable[[Callable[[], None]], object],
        client: bytes | None = None,
    ) -> bool:
        """Whether a request is run at the end of this turn of the loop, with all that are alike: `asker` goes on then.

        It is not where nothing is gained by waiting. `soon` calls something at the end of the turn.

        Raises:
            RequestError: As `submit` does.
        """
        if self._rules is None or not self._quick or signature not in self._joinable:
            return False
        full = self._waiting or len(self._askers) >= self._max_waiting
        if not self._turn.count(soon) or full or not is_small(inputs):
            return False
        item = self._enter(signature, inputs, outputs, deadline=None, client=client, future=asker)
        if item.alike is None or not fits_in_one_run(item.rows, self._rules):
            return False
        self._held.setdefault(item.alike, []).append(item)
        self._askers.append(asker)
        return True

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        *,
        deadline: float | None = None,
        client: bytes | None = None,
    ) -> Future[Outputs]:
        """The future of a request, which will run on the engine's thread unless `deadline` (monotonic seconds) passes first.

        The future then fails with DEADLINE_EXCEEDED. Cancelling it makes room for another at once.

        Raises:
            QueueClosedError: `close` was called before.
            RequestError: UNAVAILABLE, too many wait already; INVALID_ARGUMENT, more rows than a batch may have.
        """
        future: Future[Outputs] = Future()
        item = self._enter(signature, inputs, outputs, deadline=deadline, client=client, future=future)
        with self._gate:
            if self._closed:
                raise QueueClosedError
            self._check_room(item.rows)
            self._waiting += 1
            self._rows += item.rows
            self._items.put(item)
        future.add_done_callback(self._leaver(item))
        return future

    def close(self, patience: float = -1) -> bool:
        """Take no more requests and run those that wait; whether the last one is done after `patience` seconds (-1: waits)."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._items.put(None)
        self._thread.join(None if patience < 0 else patience)
        if self._thread.is_alive() or not self._running.acquire(timeout=patience):  # an attempt may still run
            return False
        self._running.release()
        return True

    def give_up(self) -> None:
        """Answer with UNAVAILABLE all that waits, after `close`; what runs is answered when the model lets go of it.

        The engine's thread may never come back to them, so this one answers.
        """
        self._given_up = True
        waiting = list(self._ahead.copy())  # at once: what the other thread moves right now, it refuses itself
        with contextlib.suppress(Empty):
            while (item := self._items.get_nowait()) is not None:
                waiting.append(item)
            self._items.put(None)
        for item in waiting:
            if self._leave(item) and item.future.set_running_or_notify_cancel():
                self._refuse(item, Status.UNAVAILABLE, _HANGS)

    # ---- joining the queue

    def _enter(
        self,
        signature: str,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        *,
        deadline: float | None,
        client: bytes | None,
        future: Future[Outputs] | Asker,
    ) -> Waiting:
        rules, rows, key = self._rules, count_rows(inputs), None
        by_rows = rules is not None and bool(rows) and signature in self._joinable
        if rules is not None and rows and by_rows:
            if rows > rules.max_batch and not rules.split:
                raise RequestError(
                    Status.INVALID_ARGUMENT,
                    f"Task size {rows} is larger than maximum input batch size {rules.max_batch}; "
                    f"max_batch_size in --batching_parameters_file moves it, enable_large_batch_splitting splits",
                )
            if rules.mix_clients or client:
                whose = None if rules.mix_clients else client
                key = (signature, tuple(outputs), whose, row_key(inputs, pad=rules.pad))
        return Waiting(signature, inputs, outputs, deadline, rows or 1, by_rows, key, time.perf_counter_ns(), future)

    def _check_room(self, rows: int) -> None:
        rules = self._rules
        if rules is not None and self._rows and self._rows + rows > rules.max_enqueued * rules.max_batch:
            raise RequestError(
                Status.UNAVAILABLE,
                f"The batch scheduling queue to which this task was submitted is full: {self._rows} rows wait for "
                f"{self._name}, and max_enqueued_batches is {rules.max_enqueued} (--batching_parameters_file)",
            )
        if self._waiting >= self._max_waiting:
            raise RequestError(
                Status.UNAVAILABLE,
                f"{self._max_waiting} requests wait for {self._name} already (--max_waiting_requests); try again later",
            )

    def _leaver(self, item: Waiting) -> Callable[[Future[Outputs]], None]:
        """What makes room once a request is cancelled.

        A future keeps its callbacks for ever: one that held the request would keep its tensors until a collector comes.
        """
        kept = weakref.ref(item)

        def leave(future: Future[Outputs]) -> None:
            if future.cancelled() and (found := kept()) and self._leave(found):
                found.inputs = {}
                future.set_running_or_notify_cancel()

        return leave

    def _leave(self, item: Waiting) -> bool:
        """It waits no longer; whether it did, and is the caller's to answer now, and nobody else's."""
        with self._gate:
            if item.taken:
                return False
            item.taken = True
            self._waiting -= 1
            self._rows -= item.rows
            return True

    # ---- the end of a turn

    def _run_turn(self) -> None:
        """Run what came in this turn of the loop, and let those who asked go on."""
        held, askers = self._held, self._askers
        self._held, self._askers = {}, []
        if self._running.acquire(blocking=False):
            try:
                for alike, items in held.items():
                    self._run_alike(alike, items)
            finally:
                self._least = 0
                self._running.release()
        for asker in askers:
            asker.go_on()

    def _run_alike(self, alike: Hashable, items: Sequence[Waiting]) -> None:
        rules, batch, rows = self._rules, list[Waiting](), 0
        if rules is None:
            return
        for item in items:
            if rows + item.rows > rules.max_batch:
                self._run_held(alike, batch, rules)
                batch, rows = [], 0
            batch.append(item)
            rows += item.rows
        self._run_held(alike, batch, rules)

    def _run_held(self, alike: Hashable, batch: Sequence[Waiting], rules: BatchRules) -> None:
        """Run one batch, unless the model was unloaded meanwhile, or became slow: who gets nothing submits."""
        if self._closed or not self._quick:
            return
        live = [item for item in batch if self._is_wanted(item)]
        if not live:
            return
        if len(self._steady) >= _REMEMBERED and alike not in self._steady:
            self._steady.clear()
        steady = self._steady.setdefault(alike, Steady())
        rows = sum(item.rows for item in live)
        self._least = steady.size_for(rows, rules.largest)
        spent, begin = time.thread_time_ns() if self._slow else 0, time.perf_counter_ns()
        self._answer(live)
        took = time.perf_counter_ns() - begin
        if self._least:  # all went together
            steady.ran(max(rows, self._least), took)
        self._judge(took // len(live), spent)

    # ---- the engine's thread

    def _run(self) -> None:
        ahead = self._ahead
        while True:
            if not ahead:
                if self._ended:
                    return
                self._receive(ahead, None)
                continue
            with self._running:  # nothing is taken while an attempt runs: it may hang, and what waits is then given up
                batch = self._take(ahead)
                live = [item for item in batch if self._is_wanted(item)]
                if live:
                    self._answer(live)
            # Waiting for the next request must not keep the last one's tensors alive.
            batch.clear()
            live.clear()

    def _receive(self, ahead: deque[Waiting], wait: float | None) -> None:
        """Take all that has come, and wait for the first of it: for ever with None."""
        try:
            item = self._items.get(wait is None or wait > 0, wait)
            while item is not None:
                ahead.append(item)
                item = self._items.get_nowait()
            self._ended = True
        except Empty:
            return

    def _take(self, ahead: deque[Waiting]) -> list[Waiting]:
        """The next batch, (2): the first that waits and those that fit to it."""
        first, rules = ahead.popleft(), self._rules
        batch = [first]
        if rules is not None and first.alike is not None:
            if not self._ended:
                self._receive(ahead, 0)
            rows = self._gather(ahead, batch, first.rows, rules)
            until = first.since + int(rules.timeout * 1e9)
            while rows < rules.max_batch and not self._ended and (left := until - time.perf_counter_ns()) > 0:
                self._receive(ahead, left / 1e9)
                rows = self._gather(ahead, batch, rows, rules)
        return [item for item in batch if self._leave(item)]

    def _gather(self, ahead: deque[Waiting], batch: list[Waiting], rows: int, rules: BatchRules) -> int:
        """Move those that fit from `ahead` into the batch, which has `rows`; how many it has then."""
        if not ahead or rows >= rules.max_batch:
            return rows
        first, kept = batch[0], []
        for item in ahead:
            if first.fits(item) and rows + item.rows <= rules.max_batch and not item.future.cancelled():
                batch.append(item)
                rows += item.rows
            else:
                kept.append(item)
        ahead.clear()
        ahead.extend(kept)
        return rows

    def _is_wanted(self, item: Waiting) -> bool:
        """Whether a request is still to be run, (3)."""
        if not item.future.set_running_or_notify_cancel():
            return False
        if item.deadline is not None and time.monotonic() >= item.deadline:
            self._refuse(item, Status.DEADLINE_EXCEEDED, "the deadline passed while the request waited for")
            return False
        if self._given_up:
            self._refuse(item, Status.UNAVAILABLE, _HANGS)
            return False
        self.statistics.queue.add(time.perf_counter_ns() - item.since)
        return True

    def _answer(self, items: Sequence[Waiting]) -> None:
        """Run requests and answer them, (4) and (5)."""
        try:
            answers = self._infer(items)
        except BaseException as exc:
            if len(items) == 1 and not self._least:
                self._fail(items[0], exc)
                return
        else:
            now = time.perf_counter_ns()
            for item, answer in zip(items, answers, strict=True):
                self.statistics.success.add(now - item.since)
                item.future.set_result(answer)
            return
        # Not within the handling of their common failure, which would be kept with each of theirs, and all their inputs.
        self._least = 0
        for item in items:
            self._answer([item])

    def _refuse(self, item: Waiting, status: Status, why: str) -> None:
        self._fail(item, RequestError(status, f"{why} {self._name}"))

    def _fail(self, item: Waiting, exc: BaseException) -> None:
        self.statistics.fail.add(time.perf_counter_ns() - item.since)
        # The frames in which it failed hold the request's tensors, and the one that called them holds its future.
        at = exc.__traceback__
        traceback.clear_frames(at)
        item.inputs = {}
        item.future.set_exception(exc.with_traceback(at.tb_next if at else None))

    def _infer(self, items: Sequence[Waiting]) -> list[Outputs]:
        first, rules = items[0], self._rules
        rows = sum(item.rows for item in items)
        whole = len(items) == 1 and (first.signature not in self._joinable or not first.by_rows)
        if rules is None or whole or (len(items) == 1 and rows >= self._least and fits_in_one_run(rows, rules)):
            return [self._call(first.signature, first.inputs, first.outputs, rows)]
        begin = time.perf_counter_ns()
        joined = join([item.inputs for item in items], rows) if len(items) > 1 else first.inputs
        self.statistics.joined.add(time.perf_counter_ns() - begin)
        found = stack([self._slice(first, joined, at, rows, rules) for at in range(0, rows, rules.largest)])
        begin = time.perf_counter_ns()
        answers, at = [], 0
        for item in items:
            answers.append(take_rows(found, at, at + item.rows))
            at += item.rows
        self.statistics.parted.add(time.perf_counter_ns() - begin)
        return answers

    def _slice(self, asked: Waiting, inputs: Mapping[str, Tensor], begin: int, rows: int, rules: BatchRules) -> Outputs:
        """One run of at most `rules.largest` rows, from `begin`, filled up to a size that is allowed."""
        count = min(rows - begin, rules.largest)
        part = take_rows(inputs, begin, begin + count)
        size = rules.size_for(max(count, self._least))
        found = self._call(asked.signature, join([part], size) if size > count else part, asked.outputs, count)
        if count_rows(found) != size:
            # What is no answer by rows belongs to the request as a whole: it is run alone from now on.
            self._joinable.discard(asked.signature)
            raise RequestError(
                Status.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                "tensors; such a signature is not batched, send the request again",
            )
        return take_rows(found, 0, count) if size > count else found

    def _call(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str], rows: int) -> Outputs:
        begin = time.perf_counter_ns()
        found = self._runner.infer(signature, inputs, outputs)
        self._count(rows, time.perf_counter_ns() - begin)
        return found

    def _count(self, rows: int, ns: int) -> None:
        self.statistics.ran(rows, ns)
        self.statistics.last = self._wall_clock() // 1_000_000
