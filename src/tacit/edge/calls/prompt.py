"""Work that nearly always ends without waiting for anything: begun where it is asked for, not in a later turn of the loop.

What does wait goes on as a task, as any other. Python does the same by itself from 3.12 on, but for one kind of wait: a
`Pause` ends within the turn of the loop in which it began, and then the work goes on where it was ended, without a task.
"""

import asyncio
import threading
from collections.abc import Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

Result = TypeVar("Result")
Work = Coroutine[Any, Any, None]


class Handle(Protocol):
    """What is left of work that was begun."""

    def cancel(self) -> object:
        """Nobody waits for it any more."""


class Pause(Generic[Result]):
    """The wait of work that `begin` drives, for somebody who ends it in this turn of the loop: an outcome, then `go_on`."""

    __slots__ = ("_cancelled", "_error", "_loop", "_result", "_task", "_work")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: Work | None = None
        self._task: asyncio.Task[None] | None = None  # once it waits for something else
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Any, Any, Result | None]:
        yield self
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # with itself in one of its frames it would keep what those hold, until a collector comes

    def belong(self, loop: asyncio.AbstractEventLoop, work: Work) -> None:
        """This is the work that waits, and its loop."""
        self._loop, self._work = loop, work

    def cancel(self) -> None:
        """Nobody waits for the work any more: it hears of that when it goes on."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def cancelled(self) -> bool:
        """Whether that was said."""
        return self._cancelled

    def set_running_or_notify_cancel(self) -> bool:
        """Whether an outcome is still wanted."""
        return not self._cancelled

    def set_result(self, result: Result) -> None:
        """The outcome."""
        self._result = result

    def set_exception(self, error: BaseException) -> None:
        """The outcome."""
        self._error = error

    def go_on(self) -> None:
        """The wait is over: let the work go on, here and now."""
        work, loop = self._work, self._loop
        self._work = None
        if work is None or loop is None:  # it went on before, or its work never waited
            return
        heard = self._cancelled
        before, _begun.now = _begun.now, False  # it has waited, wherever it goes on
        try:
            waited = work.throw(asyncio.CancelledError()) if heard else work.send(None)
        except (StopIteration, asyncio.CancelledError):
            return
        except Exception as exc:  # as a task that nobody asks
            loop.call_exception_handler({"message": "work that was begun failed", "exception": exc})
            return
        finally:
            _begun.now = before
        self._task = _as_task(loop, work, waited)
        if self._cancelled and not heard:
            self._task.cancel()


class _Rest:
    """What is left of a coroutine that has come to its first wait."""

    def __init__(self, work: Work, waited: Any) -> None:
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


def _as_task(loop: asyncio.AbstractEventLoop, work: Work, waited: Any) -> "asyncio.Task[None]":
    rest = _Rest(work, waited)
    task = loop.create_task(_go_on(rest))
    task.add_done_callback(rest.when_done)
    return task


class _Begun(threading.local):
    """Whether this thread is in a step of work that `begin` drives: another thread has a loop of its own."""

    now = False


_begun = _Begun()


def may_pause() -> bool:
    """Whether who asks is in work that `begin` drives, and has not waited yet: then alone it may wait for a `Pause`."""
    return _begun.now


def begin(loop: asyncio.AbstractEventLoop, work: Work) -> Handle | None:
    """Run `work` up to its first wait; what does the rest, None where there is none.

    Nothing in it may ask for the task that it is in before it waits, and after a `Pause`: `asyncio.timeout` does.
    """
    before, _begun.now = _begun.now, True
    try:
        waited = work.send(None)
    except (StopIteration, asyncio.CancelledError):
        return None
    finally:
        _begun.now = before
    if isinstance(waited, Pause):
        waited.belong(loop, work)
        return waited
    return _as_task(loop, work, waited)
