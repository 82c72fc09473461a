"""The event loop of a program: uvloop where it is installed, else asyncio's own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(main)


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a loop; None for asyncio's own. It is no dependency: nothing needs it but speed."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
