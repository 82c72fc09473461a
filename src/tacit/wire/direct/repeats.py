"""Messages like one before: all of them is the same, but for the values of one tensor.

A client sends the same message again and again with other values. Protobuf puts its length in front of every field, so
what stands around those values means the same each time: it is parsed once, and then only compared. That spares a message
of megabytes two copies as well.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")

_KEY = 16  # bytes of a message that tell it from others of its length
_AROUND = 512  # bytes around the values at most: names, a shape and a filter
_HEAD = 64  # bytes of the values that are looked for first
_LOOKS = 4  # places where those may stand: more is not worth the time
_REMEMBERED = 64  # messages


@dataclass(frozen=True, slots=True)
class _Known(Generic[Meaning]):
    before: bytes
    behind: bytes
    meaning: Meaning


class Repeats(Generic[Meaning]):
    """The last messages of one kind, and what each meant. Nothing in a meaning may depend on who sent the message."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], _Known[Meaning]] = {}

    def find(self, message: bytes) -> tuple[Meaning, int] | None:
        """What a message means that differs from one before in its values alone, and where they begin; None for any other."""
        known = self._known.get((len(message), message[:_KEY]))
        if known is None or not (message.startswith(known.before) and message.endswith(known.behind)):
            return None
        return known.meaning, len(known.before)

    def remember(self, message: bytes, values: bytes, meaning: Meaning) -> None:
        """Keep what a message meant. `values` is all that one of its fields of bytes holds.

        Where the same bytes stand elsewhere in it too, nothing says which of them are the field's: it is not kept.
        """
        begin = _place(message, values)
        if begin is None:
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        key = len(message), message[:_KEY]
        self._known[key] = _Known(message[:begin], message[begin + len(values) :], meaning)


def _place(message: bytes, values: bytes) -> int | None:
    """Where the values begin; None where that is not certain, or they are too small a part of the message."""
    room = len(message) - len(values)
    if room > _AROUND or not values:
        return None
    head = values[:_HEAD]
    found, at = None, -1
    for _ in range(_LOOKS):
        at = message.find(head, at + 1, room + len(head))
        if at < 0:
            return found if found is None or found >= _KEY else None
        if message.startswith(values, at):
            if found is not None:
                return None
            found = at
    return None
