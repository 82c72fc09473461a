"""The end of the audit log that is held in memory, and where the whole of it stands.

Entries are stored with the change that they tell of, in the same record of the state file. When some have gathered they
are copied to the log files, from where they are read; what was copied need not be held, nor be in the next snapshot.
One immutable value, so a reader never sees half of a move.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from tacit.coordinator.log.entries import SALT_SIZE, Entry, encode_entry
from tacit.errors import SealedStateError
from tacit.wire.log import LOG_START, LogPosition


@dataclass(frozen=True, slots=True)
class Journal:
    """`tail` are the entries after `archived`, `position` is where they end. `key` is that of the log files."""

    key: bytes = field(repr=False)
    archived: LogPosition = LOG_START
    tail: tuple[bytes, ...] = ()
    position: LogPosition = LOG_START

    def with_entries(self, entries: Sequence[Entry], *, now: datetime, random: Callable[[int], bytes]) -> "Journal":
        """The same with some entries more."""
        first = self.position.number + 1
        lines = tuple(
            encode_entry(entry, number=number, now=now, salt=random(SALT_SIZE))
            for number, entry in enumerate(entries, first)
        )
        return replace(self, tail=self.tail + lines, position=self.position.after_lines(lines))

    def lines_after(self, position: LogPosition) -> tuple[bytes, ...]:
        """The entries after one that the tail still reaches back to."""
        return self.tail[position.number - self.archived.number :]

    def with_archived(self, end: LogPosition) -> "Journal":
        """The same without the entries up to `end`, which the log files have.

        Raises:
            SealedStateError: the files tell of another history, or of more than the state knows of.
        """
        if end.number > self.position.number:
            raise SealedStateError(
                f"the log files go on to entry {end.number} and the state ends at {self.position.number}: this is an "
                "older copy of the state; bring back the newest, or move the files sealed_log.* away to go on with it"
            )
        count = end.number - self.archived.number
        if self.archived.after_lines(self.tail[:count]) != end:
            raise SealedStateError(
                f"the log files and the state tell different histories at entry {end.number}; bring back the folder "
                "as it was, or move the files sealed_log.* away to go on with the state"
            )
        return replace(self, archived=end, tail=self.tail[count:])


def open_journal(key: bytes, archived: LogPosition, tail: Sequence[bytes]) -> Journal:
    """A journal as it was stored."""
    return Journal(key, archived, tuple(tail), archived.after_lines(tail))
