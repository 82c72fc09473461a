"""What comes in one turn of the event loop runs together, for a model that is quicker than any queue."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed, example, half_plus_two
from tacit.edge.calls.prompt import Handle, Pause, begin
from tacit.edge.server import serve_grpc
from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.batching import BatchRules, ModelQueue
from tacit.serving.batching import queue as batching_queue
from tacit.serving.batching.loaded import LoadedModel, Queueing
from tacit.serving.batching.turn import Steady, Turn
from tacit.serving.plane import Plane, Selector
from tacit.serving.tfs.service import TfsService
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor, encode_tensor


class Doubler:
    """Doubles its input, by rows; remembers what it was given, and refuses negative numbers."""

    platform = "fake"
    signatures: Mapping[str, Signature] = {
        "serving_default": Signature({"x": TensorSpec("x:0", 1, (-1, 1))}, {"y": TensorSpec("y:0", 1, (-1, 1))})
    }

    def close(self) -> None:
        """Nothing is held."""

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.threads: set[str] = set()
        self.pause = 0.0  # seconds

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        array = inputs["x"].array
        self.runs.append(array.ravel().tolist())
        self.threads.add(threading.current_thread().name)
        until = time.perf_counter() + self.pause
        while time.perf_counter() < until:
            pass
        if array.size and array.min() < 0:
            raise RequestError(Status.INVALID_ARGUMENT, "the model takes no negative numbers")
        return {"y": Tensor(1, array.sum() * np.ones(1, np.float32) if signature == "whole" else array * 2)}


def rows(*values: float) -> dict[str, Tensor]:
    return {"x": Tensor(1, np.array(values, np.float32).reshape(-1, 1))}


class One(FakeModels):
    """One model that is loaded."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def find(self, selector: Selector) -> Any:
        return self._loaded


class Asker:
    """Asks a queue as the data plane does, and keeps what came of it."""

    def __init__(self, runner: Doubler, rules: BatchRules | None = None, *, max_waiting: int = 1024) -> None:
        self.runner = runner
        self.queue = ModelQueue(
            "m", runner, rules=rules or BatchRules(), joinable=("s", "whole"), max_waiting=max_waiting, quick=True
        )
        self.told: dict[int, object] = {}
        self.handles: list[Handle | None] = []

    async def _ask(self, number: int, value: Mapping[str, Tensor], signature: str, client: bytes | None) -> None:
        try:
            pause, soon = Pause[dict[str, Tensor]](), asyncio.get_running_loop().call_soon
            held = self.queue.hold(signature, value, ("y",), pause, soon=soon, client=client)
            found = await pause if held else self.queue.attempt(signature, value, ("y",))
            if found is None:
                found = await asyncio.wrap_future(self.queue.submit(signature, value, ("y",)))
        except RequestError as exc:
            self.told[number] = str(exc)
        else:
            self.told[number] = found["y"].array.ravel().tolist()

    def ask(self, *values: float, signature: str = "s", client: bytes | None = None) -> None:
        self.ask_for(rows(*values), signature, client)

    def ask_for(self, value: Mapping[str, Tensor], signature: str = "s", client: bytes | None = None) -> None:
        work = self._ask(len(self.handles), value, signature, client)
        self.handles.append(begin(asyncio.get_running_loop(), work))

    async def crowd(self) -> None:
        """Turns in which several come, until that is noticed."""
        for _ in range(20):
            self.ask(1)
            self.ask(1)
            await asyncio.sleep(0)
        self.told.clear()
        self.handles.clear()
        self.runner.runs.clear()


async def test_requests_that_come_together_run_together_on_the_loops_own_thread() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    asker.ask(1)
    asker.ask(2, 3)
    asker.ask(4)
    assert (asker.told, asker.runner.runs) == ({}, [])
    await asyncio.sleep(0)
    assert asker.told == {0: [2], 1: [4, 6], 2: [8]}
    assert asker.runner.runs == [[1, 2, 3, 4]]
    assert asker.runner.threads == {threading.current_thread().name}
    assert asker.queue.statistics.success.count == 43


async def test_a_lone_request_is_answered_where_it_asks() -> None:
    asker = Asker(Doubler())
    for number in range(100):
        asker.ask(number)
        assert asker.told[number] == [2 * number]
        await asyncio.sleep(0)


async def test_once_they_come_alone_again_they_are_held_no_more() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    held = []
    for number in range(6):
        asker.ask(number)
        held.append(number not in asker.told)
        await asyncio.sleep(0)
    assert held == [True, True, True, True, False, False]


async def test_the_number_of_rows_stays_the_same_from_run_to_run() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    for count in (7, 3, 8, 5):
        for number in range(count):
            asker.ask(number)
        await asyncio.sleep(0)
    assert [len(run) for run in asker.runner.runs] == [8, 8, 8, 8]
    assert list(asker.told.values()) == [[2.0 * number] for count in (7, 3, 8, 5) for number in range(count)]


async def test_a_refusal_reaches_only_its_own_caller() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    for value in (1, -2, 3):
        asker.ask(value)
    await asyncio.sleep(0)
    assert asker.told == {0: [2], 1: "the model takes no negative numbers", 2: [6]}


async def test_who_is_cancelled_in_the_same_turn_is_not_run() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    for value in (1, 2, 3):
        asker.ask(value)
    handle = asker.handles[1]
    assert handle is not None
    handle.cancel()
    await asyncio.sleep(0)
    assert asker.told == {0: [2], 2: [6]}
    assert asker.runner.runs == [[1, 3]]


async def test_clients_are_not_mixed_where_the_rules_say_so() -> None:
    asker = Asker(Doubler(), BatchRules(mix_clients=False))
    await asker.crowd()
    for value, client in ((1, b"a"), (2, b"b"), (3, b"a"), (4, None)):
        asker.ask(value, client=client)
    await asyncio.sleep(0)
    assert asker.told == {0: [2], 1: [4], 2: [6], 3: [8]}
    for run in asker.runner.runs:
        assert not ({1, 3} & set(run) and {2, 4} & set(run))


@pytest.mark.parametrize(
    "rules", [BatchRules(max_batch=4), BatchRules(max_batch=16, max_execution=4, allowed=(1, 2, 4))]
)
async def test_a_run_has_no_more_rows_than_the_rules_allow(rules: BatchRules) -> None:
    asker = Asker(Doubler(), rules)
    await asker.crowd()
    for value in range(10):
        asker.ask(value)
    await asyncio.sleep(0)
    assert asker.told == {number: [2 * number] for number in range(10)}
    assert [len(run) for run in asker.runner.runs] == [4, 4, 4]


async def test_only_allowed_sizes_are_run() -> None:
    asker = Asker(Doubler(), BatchRules(max_batch=6, allowed=(1, 3, 6)))
    await asker.crowd()
    for value in (1, 2, 3, 4, 5):
        asker.ask(value)
    await asyncio.sleep(0)
    assert asker.told == {number: [2 * number + 2] for number in range(5)}
    assert {len(run) for run in asker.runner.runs} <= {1, 3, 6}


async def test_after_a_refusal_each_is_run_with_its_own_rows_alone() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    for value in (*range(63), -1):
        asker.ask(value)
    await asyncio.sleep(0)
    assert [len(run) for run in asker.runner.runs] == [64] + [1] * 64
    assert asker.told[63] == "the model takes no negative numbers"


async def test_a_lone_request_that_was_filled_up_and_is_no_answer_by_rows_is_run_whole() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    asker.ask(3, signature="whole")
    asker.ask(4, signature="whole")
    asker.queue._joinable.add("whole")
    await asyncio.sleep(0)
    asker.queue._joinable.add("whole")
    asker.ask(5, signature="whole")
    await asyncio.sleep(0)
    assert asker.told == {0: [3], 1: [4], 2: [5]}


async def test_no_tensor_outlives_a_turn_in_which_one_was_refused() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    kept = []
    gc.disable()
    try:
        for value in (1, -2, 3):
            given = rows(value)
            kept.append(weakref.ref(given["x"].array))
            asker.ask_for(given)
            del given
        await asyncio.sleep(0)
        asker.handles.clear()
        assert [one() for one in kept] == [None] * 3
    finally:
        gc.enable()


async def test_no_more_are_held_than_may_wait() -> None:
    asker = Asker(Doubler(), max_waiting=3)
    await asker.crowd()
    for value in range(10):
        asker.ask(value)
    assert len(asker.told) == 7
    await asyncio.sleep(0)
    assert len(asker.told) == 10


async def test_many_shapes_in_one_turn_are_each_looked_at_once() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    for width in range(500):
        asker.ask_for({"x": Tensor(1, np.zeros((1, 0, width), np.float32))})
    await asyncio.sleep(0)
    assert len(asker.told) == len(asker.runner.runs) == 500
    assert len(asker.queue._steady) <= 64


async def test_what_is_no_answer_by_rows_is_run_alone_from_then_on() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    asker.ask(1, signature="whole")
    asker.ask(2, signature="whole")
    await asyncio.sleep(0)
    assert asker.told == {0: [1], 1: [2]}
    asker.ask(5, signature="whole")
    assert asker.told[2] == [5]  # at once


async def test_while_the_engines_thread_is_at_work_what_was_held_goes_to_its_queue() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    with asker.queue._running:
        asker.ask(1)
        asker.ask(2)
        await asyncio.sleep(0)
        assert asker.told == {}
    while len(asker.told) < 2:
        await asyncio.sleep(0.001)
    assert asker.told == {0: [2], 1: [4]}


async def test_a_model_that_was_unloaded_in_the_same_turn_says_so_to_who_was_held() -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    told: list[object] = []

    async def ask() -> None:
        pause, soon = Pause[dict[str, Tensor]](), asyncio.get_running_loop().call_soon
        assert asker.queue.hold("s", rows(1), ("y",), pause, soon=soon)
        told.append(await pause)

    begin(asyncio.get_running_loop(), ask())
    assert asker.queue.close(60)
    await asyncio.sleep(0)
    assert (told, asker.runner.runs) == ([None], [])


async def test_without_rules_nobody_is_held() -> None:
    alone, soon = ModelQueue("m", Doubler(), joinable=("s",), quick=True), asyncio.get_running_loop().call_soon
    for _ in range(10):
        held = [alone.hold("s", rows(1), ("y",), Pause[dict[str, Tensor]](), soon=soon) for _ in range(20)]
        assert not any(held)
        await asyncio.sleep(0)


async def test_who_waits_in_a_task_of_its_own_is_not_held() -> None:
    held: list[object] = []

    class Holding(FakeServed):
        def hold(self, *asked: object, **how: object) -> bool:
            held.append(asked)
            return super().hold(*asked, **how)

    found = example().find(Selector("half_plus_two"))
    served = Holding(found.name, found.version, found.signatures, half_plus_two)
    plane = Plane(FakeModels(served))

    async def ask() -> None:
        await plane.predict(Selector("half_plus_two"), "", rows(1), decode=lambda _alias, tensor: tensor)

    await asyncio.create_task(ask())
    assert held == []
    begin(asyncio.get_running_loop(), ask())
    assert len(held) == 1
    await asyncio.sleep(0.01)


async def test_many_that_take_long_together_are_no_slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(Doubler())
    await asker.crowd()
    monkeypatch.setattr(batching_queue, "_ATTEMPT_NS", 200_000)
    asker.runner.pause = 0.001
    for _ in range(10):
        for value in range(16):
            asker.ask(value)
        await asyncio.sleep(0)
    assert [len(run) for run in asker.runner.runs] == [16] * 10


async def test_over_real_connections_everybody_gets_his_own_rows_and_many_run_together() -> None:
    engine = Doubler()
    loaded = LoadedModel("m", 1, engine, queueing=Queueing(rules=BatchRules()), quick=True)
    service = TfsService(Plane(One(loaded)))
    port = await serve_grpc(service.handlers(), host="127.0.0.1", port=0, tls=None, max_message=1 << 20)
    wrong: list[object] = []

    async def client(number: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}", options) as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            for turn in range(40):
                request = PredictRequest()
                request.model_spec.name = "m"
                encode_tensor(rows(number, turn)["x"], request.inputs["x"], as_content=True)
                found = PredictResponse.FromString(await predict(request.SerializeToString()))
                if list(found.outputs["y"].float_val) != [2 * number, 2 * turn]:
                    wrong.append(found)

    try:
        await asyncio.gather(*(client(number) for number in range(16)))
        assert wrong == []
        assert max(len(run) for run in engine.runs) > 2
        assert loaded.statistics.success.count == 16 * 40
    finally:
        await port.close(1)
        loaded.close()


async def test_a_turn_is_looked_at_now_and_then() -> None:
    ends: list[int] = []
    turn, loop = Turn(lambda: ends.append(1)), asyncio.get_running_loop().call_soon
    assert not any([turn.count(loop) for _ in range(16)])
    await asyncio.sleep(0)
    assert not any([turn.count(loop) for _ in range(2)])  # this one is
    await asyncio.sleep(0)
    assert (turn.count(loop), ends) == (True, [])
    await asyncio.sleep(0)
    assert ends == [1]


@pytest.mark.parametrize(
    ("rows_of_runs", "sizes"), [((1, 3, 2, 4, 5), (1, 4, 4, 4, 8)), ((100,), (100,)), ((60,), (64,))]
)
def test_a_steady_size_grows_by_powers_of_two_up_to_the_most(rows_of_runs: list[int], sizes: list[int]) -> None:
    steady = Steady()
    assert [steady.size_for(count, 100) for count in rows_of_runs] == list(sizes)


def test_a_steady_size_is_left_where_filling_up_to_it_costs_more_than_planning_anew() -> None:
    steady = Steady()
    assert steady.size_for(64, 1000) == 64
    steady.ran(64, 64_000)  # a microsecond a row
    assert [steady.size_for(3, 1000) for _ in range(5)] == [64] * 5
    steady.ran(64, 64 * 100_000)
    assert steady.size_for(3, 1000) == 64  # once it was the machine
    for _ in range(100):
        steady.ran(64, 64 * 100_000)
    assert [steady.size_for(count, 1000) for count in (3, 64, 61, 33)] == [4, 64, 64, 33]


def test_a_steady_size_never_exceeds_what_may_run_at_once() -> None:
    assert Steady().size_for(10, 4) == 4
