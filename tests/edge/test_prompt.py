"""Work that is begun where it is asked for."""

import asyncio
import threading

import pytest

from tacit.edge.calls.prompt import Pause, begin, may_pause


async def test_what_waits_for_nothing_is_done_at_once() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert begin(asyncio.get_running_loop(), work()) is None
    assert done == [1]


@pytest.mark.parametrize("fails", [False, True])
async def test_what_waits_goes_on_as_a_task_with_what_it_waited_for(fails: bool) -> None:
    loop, seen = asyncio.get_running_loop(), list[object]()
    first: asyncio.Future[int] = loop.create_future()

    async def work() -> None:
        seen.append("begun")
        try:
            seen.append(await first)
        except ValueError as exc:
            seen.append(str(exc))
        await asyncio.sleep(0)
        seen.append("done")

    task = begin(loop, work())
    assert task is not None
    assert seen == ["begun"]
    if fails:
        first.set_exception(ValueError("no"))
    else:
        first.set_result(7)
    await task
    assert seen == ["begun", "no" if fails else 7, "done"]


async def test_a_cancellation_reaches_who_waits() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    task = begin(asyncio.get_running_loop(), work())
    assert task is not None
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


async def test_a_cancellation_before_the_next_turn_reaches_who_waits_too() -> None:
    ended = []
    waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await waited
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = begin(asyncio.get_running_loop(), work())
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(5):
        await asyncio.sleep(0)
    assert (ended, waited.cancelled()) == (["cancelled"], True)


async def test_a_time_limit_holds_once_it_is_a_task() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    task = begin(asyncio.get_running_loop(), work())
    assert task is not None
    with pytest.raises(TimeoutError):
        await task


async def test_a_pause_ends_where_somebody_ends_it_and_the_work_goes_on_there() -> None:
    pause, seen = Pause[int](), list[object]()

    async def work() -> None:
        seen.append(may_pause())
        seen.append(await pause)
        seen.append(may_pause())

    assert begin(asyncio.get_running_loop(), work()) is pause
    pause.set_result(7)
    assert seen == [True]
    pause.go_on()
    assert seen == [True, 7, False]
    pause.go_on()  # it is over
    assert seen == [True, 7, False]
    assert not may_pause()


async def test_work_that_has_waited_may_not_pause_where_other_work_lets_it_go_on() -> None:
    loop, pause, seen = asyncio.get_running_loop(), Pause[int](), list[bool]()

    async def waits() -> None:
        await pause
        seen.append(may_pause())

    async def ends_the_wait() -> None:
        pause.go_on()
        seen.append(may_pause())

    begin(loop, waits())
    begin(loop, ends_the_wait())
    assert seen == [False, True]


async def test_work_that_another_thread_drives_is_nothing_to_this_one() -> None:
    loop, begun, over, seen = asyncio.get_running_loop(), threading.Event(), threading.Event(), list[bool]()

    async def long() -> None:
        begun.set()
        over.wait(30)

    async def short() -> None:
        over.set()
        other.join(30)  # it ends before this does, and neither leaves anything behind
        seen.append(may_pause())

    other = threading.Thread(target=lambda: begin(loop, long()))
    other.start()
    assert begun.wait(30)
    assert not may_pause()
    begin(loop, short())
    assert seen == [True]
    assert not may_pause()


async def test_a_failure_reaches_who_paused() -> None:
    pause, seen = Pause[int](), list[str]()

    async def work() -> None:
        try:
            await pause
        except ValueError as exc:
            seen.append(str(exc))

    begin(asyncio.get_running_loop(), work())
    pause.set_exception(ValueError("no"))
    pause.go_on()
    assert seen == ["no"]


async def test_a_pause_that_is_cancelled_wants_no_outcome_and_its_work_hears_of_it() -> None:
    pause, seen = Pause[int](), list[str]()

    async def work() -> None:
        try:
            await pause
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    handle = begin(asyncio.get_running_loop(), work())
    assert handle is not None
    assert pause.set_running_or_notify_cancel()
    handle.cancel()
    assert (pause.cancelled(), pause.set_running_or_notify_cancel(), seen) == (True, False, [])
    pause.set_result(7)
    pause.go_on()
    assert seen == ["cancelled"]


@pytest.mark.parametrize("when", ["while it pauses", "while it waits"])
async def test_after_a_pause_work_may_wait_for_anything_and_is_cancelled_there_too(when: str) -> None:
    pause, seen = Pause[int](), list[object]()
    waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            seen.append(await pause)
            seen.append(await waited)
        except asyncio.CancelledError:
            seen.append("cancelled")
            if when == "while it pauses":
                await asyncio.sleep(0)  # what it still has to do
                seen.append("tidied")
            raise

    handle = begin(asyncio.get_running_loop(), work())
    assert handle is not None
    if when == "while it pauses":
        handle.cancel()
    pause.set_result(7)
    pause.go_on()
    if when == "while it waits":
        await asyncio.sleep(0)
        handle.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert seen == ([7, "cancelled"] if when == "while it waits" else ["cancelled", "tidied"])


async def test_after_a_pause_work_goes_on_as_a_task() -> None:
    pause, seen = Pause[int](), list[object]()
    waited: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        seen.append(await pause)
        seen.append(await waited)

    begin(asyncio.get_running_loop(), work())
    pause.set_result(7)
    pause.go_on()
    waited.set_result("later")
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen == [7, "later"]


async def test_work_that_fails_after_a_pause_is_told_to_the_loop_and_to_nobody_else() -> None:
    pause, told = Pause[int](), list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))

    async def work() -> None:
        await pause
        raise ValueError("no")

    begin(loop, work())
    pause.go_on()
    assert [str(exc) for exc in told] == ["no"]


async def test_work_that_is_cancelled_in_its_first_step_is_over() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    assert begin(asyncio.get_running_loop(), work()) is None
