"""Tree → plain values by a table of kinds, with everything on the way written down.

One walk serves both readings. It never stops: each thing that is not exactly as it should be becomes a `Finding`,
and the reader decides. The strict reading refuses on any finding. The lenient reading refuses where MarbleRun's would,
with its words, and reports the rest.

Go's rules, as recorded: a key matches exactly or else ignoring case; an unknown key is ignored; a later duplicate
overwrites, and objects merge; null leaves a plain value as it was and empties a map, list or pointer; of several
wrong types the first is reported, yet a content that cannot be decoded ends the reading at once.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Protocol

from tacit.manifest.codec.text import Member, Node, Shape

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_UNSIGNED = re.compile(r"[0-9]{1,20}")


class Weight(IntEnum):
    """What a finding means for the lenient reading."""

    TOLERATED = 0
    WRONG = 1  # refused once all is read
    FATAL = 2  # refused at once, before anything that is only wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `message` is for people, `wire` is what MarbleRun says."""

    weight: Weight
    path: str
    offset: int
    message: str
    wire: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the manifest a value stands: for people as a path, for Go's messages as struct and field names."""

    path: str = ""
    struct: str = ""
    fields: tuple[str, ...] = ()
    alone: bool = False

    def named(self, name: str) -> "Place":
        """The place of an entry of a map. Go's messages leave the names of entries out."""
        shown = f".{name}" if _NAME.fullmatch(name) else f'["{name}"]'
        return replace(self, path=(self.path + shown).removeprefix("."))

    def within(self, go_type: str, name: str) -> "Place":
        """The place of a field of a struct. One without a name, or read alone, leaves that of the struct around it."""
        struct = self.struct if self.alone or go_type.startswith("struct ") else go_type.rpartition(".")[2]
        return Place(f"{self.path}.{name}".removeprefix("."), struct, (*self.fields, name), self.alone)

    def at(self, index: int) -> "Place":
        """The place of an element of a list."""
        return replace(self, path=f"{self.path}[{index}]")


@dataclass(slots=True)
class Report:
    """The findings of one walk, in the order of the text."""

    findings: list[Finding] = field(default_factory=list)

    def tolerate(self, place: Place, offset: int, message: str) -> None:
        """Note what the lenient reading lets pass."""
        self.findings.append(Finding(Weight.TOLERATED, place.path, offset, message))

    def wrong(self, place: Place, offset: int, message: str, wire: str) -> None:
        """Note what both readings refuse."""
        self.findings.append(Finding(Weight.WRONG, place.path, offset, message, wire))

    def adopt(self, findings: list[Finding]) -> None:
        """Take over what was found in a value that Go decodes on its own: a wrong type ends the reading there."""
        for one in findings:
            weight = Weight.FATAL if one.weight is Weight.WRONG else one.weight
            self.findings.append(replace(one, weight=weight))

    def fatal(self, place: Place, offset: int, message: str, wire: str) -> None:
        """Note what both readings refuse, the lenient one at once."""
        self.findings.append(Finding(Weight.FATAL, place.path, offset, message, wire))

    def wrong_type(self, node: Node, place: Place, go_type: str, *, expected: str, literal: bool = False) -> None:
        """Note a value of another type than the field's. `literal` shows the number, as Go does for number fields."""
        got = f"{node.shape.value} {_shortened(node.text)}" if literal else node.shape.value
        into = f"Go struct field {place.struct}.{'.'.join(place.fields)}" if place.struct else "Go value"
        article = "an" if node.shape in (Shape.OBJECT, Shape.ARRAY) else "a"
        found = f"number {_shortened(node.text)}" if node.shape is Shape.NUMBER else f"{article} {node.shape.value}"
        message = f"found {found}, expected {expected}"
        self.wrong(place, node.offset, message, f"json: cannot unmarshal {got} into {into} of type {go_type}")


class Kind(Protocol):
    """How one value is read."""

    @property
    def go_type(self) -> str:
        """Go's name of the type, for its messages."""

    def empty(self) -> Any:
        """The value where the manifest says nothing."""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The value of `node`; `current` is what an earlier duplicate gave."""


def _null(node: Node, place: Place, report: Report) -> bool:
    if node.shape is not Shape.NULL:
        return False
    report.tolerate(place, node.offset, "null read as absent; leave the key out")
    return True


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    go_type: str = "string"

    def empty(self) -> str:
        """No text."""
        return ""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The string; U+FFFD stands where it was not valid Unicode."""
        if _null(node, place, report):
            return current
        if node.shape is not Shape.STRING:
            report.wrong_type(node, place, self.go_type, expected="a string")
            return current
        if node.damaged:
            report.tolerate(place, node.offset, "text is not valid Unicode; U+FFFD put in its place")
        return node.text


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    go_type: str = "bool"

    def empty(self) -> bool:
        """False."""
        return False

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The truth value."""
        if _null(node, place, report):
            return current
        if node.shape is not Shape.BOOL:
            report.wrong_type(node, place, self.go_type, expected="true or false")
            return current
        return node.text == "true"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`; an `optional` one is None where it is absent."""

    go_type: str
    high: int
    low: int = 0
    optional: bool = False

    def empty(self) -> int | None:
        """None or zero."""
        return None if self.optional else 0

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The number."""
        if _null(node, place, report):
            return None if self.optional else current
        if node.shape is not Shape.NUMBER:
            report.wrong_type(node, place, self.go_type, expected="a whole number")
            return current
        # The length is checked first: turning a million digits into a number would take minutes.
        written = _INTEGER if self.low < 0 else _UNSIGNED
        value = int(node.text) if written.fullmatch(node.text) else None
        if value is None or not self.low <= value <= self.high:
            expected = f"a whole number from {self.low} to {self.high}"
            report.wrong_type(node, place, self.go_type, expected=expected, literal=True)
            return current
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; None where it is absent."""

    item: Kind

    @property
    def go_type(self) -> str:
        """Go's name of the type."""
        return f"[]{self.item.go_type}"

    def empty(self) -> list[Any] | None:
        """None, which is not the same as an empty list."""
        return None

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The list; a later duplicate replaces it whole."""
        if _null(node, place, report):
            return None
        if node.shape is not Shape.ARRAY:
            report.wrong_type(node, place, self.go_type, expected="a list")
            return current
        return [
            self.item.decode(item, place.at(index), self.item.empty(), report) for index, item in enumerate(node.items)
        ]


@dataclass(frozen=True, slots=True)
class MapOf:
    """Names of the manifest's own choosing, each with a value. Names are told apart exactly, case included."""

    value: Kind

    @property
    def go_type(self) -> str:
        """Go's name of the type."""
        return f"map[string]{self.value.go_type}"

    def empty(self) -> dict[str, Any]:
        """No names."""
        return {}

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The map; a later duplicate of the whole map adds to it, one of a name replaces that name's value."""
        if _null(node, place, report):
            return {}
        if node.shape is not Shape.OBJECT:
            report.wrong_type(node, place, self.go_type, expected="an object")
            return current
        values = dict(current)
        seen: set[str] = set()
        for member in node.members:
            inner = place.named(member.key)
            if member.key in seen:
                report.tolerate(inner, member.offset, f'"{member.key}" stands here again; the last one was used')
            if member.damaged:
                report.tolerate(inner, member.offset, "name is not valid Unicode; U+FFFD put in its place")
            seen.add(member.key)
            values[member.key] = self.value.decode(member.value, inner, self.value.empty(), report)
        return values


@dataclass(frozen=True, slots=True)
class Unused:
    """A field that exists and that we do not use: never read, and said so."""

    why: str = "not used"
    go_type: str = ""

    def empty(self) -> None:
        """Nothing."""
        return

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> None:
        """Nothing; the finding says why."""
        if node.shape is not Shape.NULL:
            report.tolerate(place, node.offset, self.why)


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with known keys."""

    go_type: str
    fields: Mapping[str, Kind]

    def empty(self) -> dict[str, Any]:
        """Every field with its own empty value."""
        return {name: kind.empty() for name, kind in self.fields.items()}

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The fields by their proper names."""
        if _null(node, place, report):
            return current
        if node.shape is not Shape.OBJECT:
            report.wrong_type(node, place, self.go_type, expected="an object")
            return current
        values = dict(current)
        seen: set[str] = set()
        for member in node.members:
            name = self.recognise(member, place, seen, report)
            if name is not None:
                inner = place.within(self.go_type, name)
                values[name] = self.fields[name].decode(member.value, inner, values[name], report)
        return values

    def recognise(self, member: Member, place: Place, seen: set[str], report: Report) -> str | None:
        """The proper name of a key, or None for an unknown one; notes what is tolerated about it."""
        inner = place.named(member.key)
        name = self.proper_name(member.key)
        if name is not None and name != member.key:
            report.tolerate(inner, member.offset, f'key "{member.key}" read as "{name}"')
        if name is None:
            message = f'unknown key "{_shortened(member.key)}" ignored{self.suggestion(member.key)}'
            report.tolerate(inner, member.offset, message)
            return None
        if name in seen:
            report.tolerate(inner, member.offset, f'"{name}" stands here again; the last value was used')
        seen.add(name)
        return name

    def proper_name(self, key: str) -> str | None:
        """The field that Go takes a key for: the one of exactly this name, or else ignoring case; None for no field."""
        if key in self.fields:
            return key
        folded = _folded(key)
        return next((known for known in self.fields if _folded(known) == folded), None)

    def suggestion(self, key: str) -> str:
        """What the key may have meant, or what there is."""
        by_folded = {_folded(name): name for name in self.fields}
        near = difflib.get_close_matches(_folded(key[:64]), by_folded, n=1, cutoff=0.6)
        if near:
            return f'; did you mean "{by_folded[near[0]]}"?'
        return f"; known here: {', '.join(sorted(self.fields))}"


@dataclass(frozen=True, slots=True)
class Alone:
    """A value that Go decodes by a function of its own: what is wrong in it ends the reading.

    Text in its place is ignored; `text` says why.
    """

    kind: Kind
    text: str

    @property
    def go_type(self) -> str:
        """Go's name of the type."""
        return self.kind.go_type

    def empty(self) -> Any:
        """As of the value within."""
        return self.kind.empty()

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The value within."""
        if node.shape is Shape.STRING:
            report.tolerate(place, node.offset, self.text)
            return current
        own = Report()
        value = self.kind.decode(node, replace(place, alone=True), current, own)
        report.adopt(own.findings)
        return value


def _folded(key: str) -> str:
    """A key as Go compares it when the exact one is unknown: simple case folding, long s and Kelvin sign included."""
    return key.replace("\u017f", "s").replace("\u212a", "k").upper() if len(key) < 64 else key


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
