"""Which refusals, and which other things that anybody can cause, get an entry of their own; the others are counted.

Anybody can be refused as often as they like, so nobody may fill a disk that way: each kind of caller has a bucket of
entries that fills up slowly. What finds it empty is counted by its reason, and the count is an entry before the next
refusal that is listed, and before the log is read. Kinds are apart, so that a stranger's noise hides no user's refusal.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tacit.coordinator.log.entries import Entry, refusals_not_listed

BURST = 30
"""Refusals of one kind that are listed one after the other."""
REFILL = 60.0
"""Seconds until one more of a kind may be listed: at most 1,440 a day, well below a megabyte."""

Caller = Literal["user", "marble", "stranger"]


@dataclass(slots=True)
class _Bucket:
    left: float
    filled: datetime


class Refusals:
    """The buckets. May be asked from any thread. `unlisted` makes the entry of those that are counted alone."""

    def __init__(self, unlisted: Callable[[Mapping[str, int]], Entry] = refusals_not_listed) -> None:
        self._make_unlisted = unlisted
        self._lock = threading.Lock()
        self._buckets: dict[Caller, _Bucket] = {}
        self._unlisted: Counter[str] = Counter()

    def admit(self, caller: Caller, reason: str, *, now: datetime) -> bool:
        """Count a refusal in, and say whether it may have an entry of its own."""
        with self._lock:
            bucket = self._buckets.setdefault(caller, _Bucket(BURST, now))
            passed = max((now - bucket.filled).total_seconds(), 0.0)
            bucket.left, bucket.filled = min(bucket.left + passed / REFILL, BURST), now
            if bucket.left < 1:
                self._unlisted[reason] += 1
                return False
            bucket.left -= 1
            return True

    def take_unlisted(self) -> tuple[Entry, ...]:
        """The count of those without an entry, as one, if there were any; counting begins anew."""
        with self._lock:
            counts, self._unlisted = self._unlisted, Counter()
        return (self._make_unlisted(counts),) if counts else ()
