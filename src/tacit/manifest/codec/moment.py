"""Dates and times as Go's encoding/json reads them, which is more than RFC 3339 allows, with its words of refusal.

Source: the documentation of Go's time.Parse and the layout RFC3339; what it does with odd texts was tried.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tacit.manifest.codec.content import EncodingError
from tacit.manifest.codec.decode import Place, Report, Text
from tacit.manifest.codec.text import Node, Shape

LAYOUT = "2006-01-02T15:04:05Z07:00"
_MAX_SHOWN = 100  # characters of a text that is no time
_FRACTION = re.compile(r"[.,]([0-9]+)", re.ASCII)
_ZONE = re.compile(r"([+-])([0-9]{2}):([0-9]{2})", re.ASCII)
_MAX_ZONE_HOURS, _MAX_ZONE_MINUTES = 24, 60
# What stands in the layout, how many digits, and the name and limits of what is checked where it stands.
_PARTS = (
    ("2006", r"[0-9]{4}", "", 0, 9999),
    ("-", "-", "", 0, 0),
    ("01", r"[0-9]{2}", "month", 1, 12),
    ("-", "-", "", 0, 0),
    ("02", r"[0-9]{2}", "", 0, 99),
    ("T", "T", "", 0, 0),
    ("15", r"[0-9]{1,2}", "hour", 0, 23),
    (":", ":", "", 0, 0),
    ("04", r"[0-9]{2}", "minute", 0, 59),
    (":", ":", "", 0, 0),
    ("05", r"[0-9]{2}", "second", 0, 59),
)


def parse_moment(text: str) -> datetime | None:
    """The moment, in UTC; None for the first one that Go knows, which stands for none.

    Raises:
        EncodingError: it is none.
    """
    rest = text
    numbers: list[int] = []
    for layout, pattern, name, low, high in _PARTS:
        found = re.match(pattern, rest, re.ASCII)
        if found is None:
            raise _unlike(text, rest, layout)
        rest = rest[found.end() :]
        if layout.isdigit():
            numbers.append(int(found[0]))
            if not low <= numbers[-1] <= high:
                raise _refused(text, f"{name} out of range")
    year, month, day, *clock = numbers
    fraction = _FRACTION.match(rest)
    if fraction is not None:
        rest = rest[fraction.end() :]
    offset, rest = _zone(text, rest)
    if rest:
        raise _refused(text, f"extra text: {_quote(rest)}")
    if not 1 <= day <= calendar.monthrange(year or 4, month)[1]:  # the year 0 is a leap year
        raise _refused(text, "day out of range")
    return _moment(text, (year, month, day, *clock), fraction[1] if fraction else "", offset)


def _zone(text: str, rest: str) -> tuple[timedelta, str]:
    if rest.startswith("Z"):
        return timedelta(), rest[1:]
    found = _ZONE.match(rest)
    if found is None:
        raise _unlike(text, rest, "Z07:00")
    hours, minutes = int(found[2]), int(found[3])
    for name, value, most in (("hour", hours, _MAX_ZONE_HOURS), ("minute", minutes, _MAX_ZONE_MINUTES)):
        if value > most:
            raise _refused(text, f"time zone offset {name} out of range")
    offset = timedelta(hours=hours, minutes=minutes)
    return (-offset if found[1] == "-" else offset), rest[found.end() :]


def _moment(text: str, parts: tuple[int, ...], fraction: str, offset: timedelta) -> datetime | None:
    year, month, day, hour, minute, second = parts
    microsecond = int(fraction[:6].ljust(6, "0")) if fraction else 0
    try:
        moment = datetime(year, month, day, hour, minute, second, microsecond, UTC) - offset
    except (ValueError, OverflowError) as exc:
        raise _refused(text, "only the years 1 to 9999 are supported") from exc
    return None if moment == datetime(1, 1, 1, tzinfo=UTC) else moment


def _unlike(text: str, rest: str, layout: str) -> EncodingError:
    shown = f"parsing time {_quote(text)} as {_quote(LAYOUT)}"
    return EncodingError(f"{shown}: cannot parse {_quote(rest)} as {_quote(layout)}")


def _refused(text: str, why: str) -> EncodingError:
    return EncodingError(f"parsing time {_quote(text)}: {why}")


def _quote(text: str) -> str:
    return '"' + "".join(_quoted(text[:_MAX_SHOWN])) + '"'


def _quoted(text: str) -> Iterator[str]:
    for character in text:
        if character in '"\\':
            yield "\\" + character
        elif " " <= character < "\x80":
            yield character
        else:
            yield from (f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Moment:
    """A date and time with its zone; None where absent."""

    go_type: str = "time.Time"

    def empty(self) -> datetime | None:
        """Not given."""
        return None

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The moment."""
        if node.shape is Shape.NULL:
            return Text().decode(node, place, current, report)
        expected = "expected a time such as 2031-01-02T03:04:05Z"
        if node.shape is not Shape.STRING:
            report.fatal(place, node.offset, expected, "Time.UnmarshalJSON: input is not a JSON string")
            return current
        try:
            return parse_moment(node.text)
        except EncodingError as exc:
            report.fatal(place, node.offset, expected, str(exc))
            return current
