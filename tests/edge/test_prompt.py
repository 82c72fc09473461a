"""Work that is begun where it is asked for."""

import asyncio

import pytest

from tacit.edge.prompt import begin


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
