"""Work that nearly always ends without waiting for anything: begun where it is asked for, not in a later turn of the loop.

What does wait goes on as a task, as any other. Python does the same by itself from 3.12 on.
"""

import asyncio
import sys
from collections.abc import Coroutine, Generator
from typing import Any


class _Rest:
    """What is left of a coroutine that has come to its first wait."""

    def __init__(self, work: Coroutine[Any, Any, None], waited: Any) -> None:
        self._work, self._waited = work, waited
        self._begun = False

    def when_done(self, task: "asyncio.Task[None]") -> None:
        """A task that is cancelled before its first step throws nothing into the work: let it be cancelled one step later."""
        if not self._begun:
            again = task.get_loop().create_task(_go_on(self))
            task.get_loop().call_soon(again.cancel)

    def __await__(self) -> Generator[Any, Any, None]:
        self._begun = True
        work, waited = self._work, self._waited
        while True:
            try:
                try:
                    got = yield waited
                except BaseException as exc:  # a cancellation above all: it goes to whoever waits
                    waited = work.throw(exc)
                else:
                    waited = work.send(got)
            except StopIteration:
                return


async def _go_on(rest: _Rest) -> None:
    await rest


def begin(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
    """Run `work` up to its first wait; the task that does the rest, None where there is none.

    Before Python 3.12 nothing in it may ask for the task that it is in before it waits: `asyncio.timeout` does.
    """
    if sys.version_info >= (3, 12):
        task = asyncio.Task(work, loop=loop, eager_start=True)
        return None if task.done() else task
    try:
        waited = work.send(None)
    except StopIteration:
        return None
    rest = _Rest(work, waited)
    task = loop.create_task(_go_on(rest))
    task.add_done_callback(rest.when_done)
    return task
