"""How is a process put together?

One module per program, and `memory`, with which each begins. A program reads the environment once, builds the objects
and starts; nothing below them knows where its parts came from.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

# The program `tacit` has its own way.
_LONG_RUNNING = ("tacit-coordinator", "tacit-premain", "tacit-serve", "tacit-injector")


def _leave(number: int, _frame: FrameType | None) -> None:
    """End without a traceback, also while everything is still being imported. Raises: SystemExit."""
    # There is no log yet, and a line may be half written: Python's own stream takes no second one then.
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted.\n" if number == signal.SIGINT else b"Ended by SIGTERM.\n")
    raise SystemExit(128 + number)


if Path(sys.argv[0]).name in _LONG_RUNNING:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    # The first process of a container is not ended by a signal that it has no handler for, and would wait to be killed.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)
