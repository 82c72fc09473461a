"""Work that is done in another thread, and its outcome back in the loop.

`run_in_executor` makes two futures and chains them; for an activation that takes a millisecond, one is enough.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(executor: Executor, function: Callable[[], _T]) -> _T:
    """What the function gives or raises. Who is cancelled takes it back where it has not begun."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def work() -> None:
        try:
            value = function()
        except BaseException as exc:
            loop.call_soon_threadsafe(_fail, outcome, exc)
        else:
            loop.call_soon_threadsafe(_give, outcome, value)

    begun = executor.submit(work)
    try:
        return await outcome
    except asyncio.CancelledError:
        begun.cancel()
        raise


async def in_turn(gate: asyncio.Semaphore, executor: Executor, function: Callable[[], _T]) -> _T:
    """As `in_thread`, when the gate lets it. A thread that works for somebody who left holds its place to the end."""
    await gate.acquire()
    work = asyncio.ensure_future(in_thread(executor, function))
    work.add_done_callback(lambda _: gate.release())
    return await asyncio.shield(work)


def _give(outcome: asyncio.Future[_T], value: _T) -> None:
    if not outcome.done():
        outcome.set_result(value)


def _fail(outcome: asyncio.Future[_T], error: BaseException) -> None:
    if not outcome.done():
        outcome.set_exception(error)
