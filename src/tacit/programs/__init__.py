"""How is a process put together?

One module per program, and `memory`, with which each begins. A program reads the environment once, builds the objects
and starts; nothing below them knows where its parts came from.
"""

import signal
import sys
from pathlib import Path
from types import FrameType

# The program `tacit` has its own way.
_LONG_RUNNING = ("tacit-coordinator", "tacit-premain", "tacit-serve")


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End at Ctrl-C without a traceback, also while everything is still being imported. Raises: SystemExit."""
    print("Interrupted.", file=sys.stderr)  # noqa: T201  # there is no log yet
    raise SystemExit(130)


if Path(sys.argv[0]).name in _LONG_RUNNING and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
