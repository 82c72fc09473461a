"""Ctrl-C, `kill` and a closed terminal, each of which must end everything that was started, at whatever moment it comes."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns the first of these signals into KeyboardInterrupt; later ones change nothing, so that ending is not cut short.

    A signal that comes in a `held` block waits for its end: nothing is started there without being written down.
    Outside of `with` nothing is caught, and `held` does nothing.
    """

    def __init__(self) -> None:
        self._holders = 0
        self._waiting = self._raised = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` asks for a closed terminal to be ignored
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A block that is not interrupted. Raises: KeyboardInterrupt, at its end, for a signal that came in between."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if self._waiting:
                self._interrupt()

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._waiting = True
        self._interrupt()

    def _interrupt(self) -> None:
        if not self._holders and not self._raised:
            self._raised = True
            raise KeyboardInterrupt
