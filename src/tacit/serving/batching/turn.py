"""Requests that come in one turn of the event loop, for a model that is quicker than any queue: run together at its end.

Holding a lone request back until then costs it more than it brings. So whether several come in a turn is looked at now
and then, and while they do, they are held.
"""

from collections.abc import Callable

_LOOK_EVERY = 16  # requests
_ALONE_IN_A_ROW = 4  # turns with one request, and no more are held
_PLAN_NS = 300_000  # that an engine takes to plan anew for another number of rows, about


class Turn:
    """Whose requests are held; `end` is called at the end of a turn in which some were."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._requests = 0  # that were not held
        self._looks = False  # whether the next turn is looked at
        self._came = 0  # in this turn, if it is being looked at
        self._alone = 0
        self._holds = False

    def count(self, soon: Callable[[Callable[[], None]], object]) -> bool:
        """Count one more request; whether it is to be held until the end of this turn, when what `soon` is given is called."""
        if self._came:
            self._came += 1
        elif self._holds or self._looks:
            self._looks, self._came = False, 1
            soon(self._over)
        else:
            self._requests += 1
            if self._requests % _LOOK_EVERY == 0:
                soon(self._look)
        return self._holds

    def _look(self) -> None:
        """The next request is the first of its turn, which this one may not have been."""
        self._looks = True

    def _over(self) -> None:
        came, self._came = self._came, 0
        held, self._alone = self._holds, self._alone + 1 if came == 1 else 0
        self._holds = self._alone < _ALONE_IN_A_ROW if held else came > 1
        if held:
            self._end()


class Steady:
    """A number of rows that stays the same from run to run: an engine plans anew for each other one.

    A run is filled up to it as far as that costs less than planning.
    """

    def __init__(self) -> None:
        self._size = 1
        self._row_ns = 0  # what a row takes, in the quickest of the last runs

    def size_for(self, rows: int, most: int) -> int:
        """What a run of so many rows is filled up to: `most` or less, and a power of two where that is less."""
        if rows > self._size or self._is_dear(self._size - rows):
            self._size = 1 << (rows - 1).bit_length()
        size = rows if self._is_dear(self._size - rows) else self._size
        return min(size, most)

    def ran(self, size: int, ns: int) -> None:
        """A run of so many rows took so long."""
        self._row_ns = min(self._row_ns + self._row_ns // 8 + 1, ns // size) if self._row_ns else ns // size

    def _is_dear(self, rows: int) -> bool:
        return rows * self._row_ns > _PLAN_NS
