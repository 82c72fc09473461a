"""A manifest written as YAML → the JSON that MarbleRun's command line makes of it, byte for byte.

Whoever signs, sets or compares a manifest by its SHA-256 goes by these bytes, so what a plain word of YAML means has to
be what it means there: `yes`, `y` and `on` are true, 010 is eight, a date stays text, and keys become text.

Source: YAML 1.1 as github.com/yaml/go-yaml v2 reads it, written by Go's encoding/json; recorded with v1.9.1.
"""

import base64
import binascii
import codecs
import contextlib
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import yaml

from tacit.errors import InputError

MAX_DEPTH = 100  # mappings and lists around one another; a manifest has 8
MAX_VALUES = 500_000  # aliases written out; a manifest with 1,000 marble types has 20,000

_PLAIN = "tag:tacit,plain"
_STANDARD = "tag:yaml.org,2002:"
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], math.nan),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], math.inf),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], -math.inf),
}
_COLLECTIONS = frozenset([f"{_STANDARD}map", f"{_STANDARD}seq"])
_KINDS: dict[str, tuple[type, ...]] = {
    f"{_STANDARD}bool": (bool,),
    f"{_STANDARD}int": (int,),
    f"{_STANDARD}float": (int, float),
    f"{_STANDARD}null": (type(None),),
}
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?:[Tt ]\d{1,2}:\d{1,2}:\d{1,2}.*)?", re.ASCII)
_WHOLE = re.compile(r"([-+]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)", re.ASCII)
_FRACTION = re.compile(r"[-+]?(?:[0-9]*\.?[0-9]+|[0-9]+\.)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_DOTTED = re.compile(r"\.[0-9]+(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SLASH = b"\\/"
_OTHER_ESCAPE = re.compile(r"\\[^/]", re.DOTALL)
_SMALL, _LARGE = 1e-6, 1e21  # from the one to below the other a number is written without exponent
# Go writes these as escapes, so that JSON can stand in a page of HTML.
_ESCAPED = {code: f"\\u{code:04x}" for code in (*map(ord, "<>&"), 0x2028, 0x2029)}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the same, in C
    """Leaves it open what a plain word means, and tells it from a quoted one."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node that names none."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return super().resolve(kind, value, implicit)


def convert_yaml(raw: bytes) -> bytes:
    """The JSON: keys sorted, without blanks.

    Raises:
        InputError: no YAML, a key that stands twice, what JSON cannot say, or aliases that stand for too much.
    """
    with _told():
        return to_go_json(_mapping(_compose(raw))).encode()


def survey_yaml(raw: bytes) -> bytes:
    """The JSON for whoever looks for all defects: of a key that stands twice it has the last.

    Raises:
        InputError: as `convert_yaml`, but for that.
    """
    with _told():
        root = _compose(raw)
        _drop_repeated(root, set())
        return to_go_json(_mapping(root)).encode()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = "" if mark is None else f": line {mark.line + 1}, column {mark.column + 1}"
        raise InputError(f"no YAML{place}") from exc


def _compose(raw: bytes) -> yaml.MappingNode:
    """What stands there, once it is known how much that is: aliases let a line stand for more than memory holds."""
    _check_events(raw)
    loader = _Loader(raw)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    if _written_out(node, {}) > MAX_VALUES:
        raise InputError(f"more than {MAX_VALUES} values, aliases written out; is it a manifest?")
    if not isinstance(node, yaml.MappingNode):
        raise InputError("no manifest: expected a mapping, as JSON or YAML")
    return node


def _check_events(raw: bytes) -> None:
    """Refuse what MarbleRun's reader does not know, and nesting so deep that the C library would end the process.

    That library calls itself for each level. It knows an escaped slash and newer versions, which are YAML 1.2's.
    """
    depth = 0
    text = _decoded(raw) if _SLASH in raw.replace(b"\0", b"") else ""
    for event in yaml.parse(raw, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError("nested too deeply; is it a manifest?")
        if isinstance(event, yaml.DocumentStartEvent) and event.version not in (None, (1, 1)):
            raise InputError(f"{_place(event)}: YAML 1.1 is read; leave the line with %YAML out")
        if text and isinstance(event, yaml.ScalarEvent) and event.style == '"':
            start, end = (cast("yaml.Mark", mark).index for mark in (event.start_mark, event.end_mark))
            if "\\/" in _OTHER_ESCAPE.sub("", text[start:end]):
                raise InputError(f"{_place(event)}: a slash is not escaped in YAML 1.1; leave the backslash out")


def _decoded(raw: bytes) -> str:
    """The text as the library counts it: in UTF-16 where a mark says so, and without the mark."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    return raw.decode("utf-8-sig", "replace")


def _drop_repeated(node: yaml.Node, seen: set[int]) -> None:
    """Of keys that stand twice leave the last alone."""
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        last = {(key.tag, str(key.value)): (key, value) for key, value in node.value}
        node.value = list(last.values())
    for child in node.value:
        _drop_repeated(child[1] if isinstance(child, tuple) else child, seen)


def to_go_json(value: Any) -> str:
    """A value as Go's encoding/json writes it. Raises: InputError: a number that JSON has not."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_go_json(key)}:{to_go_json(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_go_json, value)) + "]"
    if isinstance(value, float):
        return _fraction(value)
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


def _fraction(number: float) -> str:
    """The shortest digits that give the number back; with an exponent only where it is very small or large."""
    if not math.isfinite(number):
        raise InputError("JSON has no word for a number that is none, or without end")
    if number and not _SMALL <= abs(number) < _LARGE:
        digits, _, exponent = repr(number).partition("e")
        return f"{digits}e{int(exponent):+d}"
    text = f"{Decimal(repr(number)):f}"
    return text.removesuffix(".0")


def _written_out(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many values a node stands for, each alias counted as what it names; infinitely many if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_written_out(child, known) for child in children)
    return known[id(node)]


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
        raise InputError(f"{_place(node)}: the tag {node.tag} means nothing in a manifest; leave it out")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    return _scalar(node) if isinstance(node, yaml.ScalarNode) else None


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        entries = _merged(value) if key.tag == _PLAIN and key.value == "<<" else {_name(key): _value(value)}
        for name, entry in entries.items():
            if name in found:
                raise InputError(f'{_place(key)}: the key "{name}" stands here again; say it once')
            found[name] = entry
    return found


def _merged(node: yaml.Node) -> dict[str, Any]:
    """What a mapping takes over from another, or from a list of them."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return _mapping(
            yaml.MappingNode(node.tag, [(yaml.ScalarNode(_PLAIN, "<<", item.start_mark), item) for item in node.value])
        )
    raise InputError(f"{_place(node)}: << takes a mapping, or a list of them")


def _name(node: yaml.Node) -> str:
    value = _scalar(node) if isinstance(node, yaml.ScalarNode) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise InputError(f"{_place(node)}: a key has to be text; quote it")


def _scalar(node: yaml.ScalarNode) -> str | bool | int | float | None:
    text = str(node.value)
    if node.tag == _PLAIN:
        return _plain(text)
    if node.tag == f"{_STANDARD}binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise InputError(f"{_place(node)}: !!binary is no base64 of text") from exc
    kinds = _KINDS.get(node.tag)
    value = text if kinds is None else _plain(text)
    if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise InputError(f"{_place(node)}: {node.tag.replace(_STANDARD, '!!')} does not fit what stands behind it")
    return float(value) if kinds is not None and float in kinds and isinstance(value, int) else value


def _plain(text: str) -> str | bool | int | float | None:
    """What a word without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith("."):
        return float(text) if _DOTTED.fullmatch(text) else text
    if text[0] not in "+-0123456789" or _DATE.fullmatch(text):
        return text
    digits = text.replace("_", "")
    whole = _WHOLE.fullmatch(digits)
    if whole is not None:
        number = int(whole[2], _base(whole[2]))
        number = -number if whole[1] == "-" else number
        if -(2**63) <= number < 2**64:
            return number
    fraction = float(digits) if _FRACTION.fullmatch(digits) else math.inf
    return fraction if math.isfinite(fraction) else text


def _base(digits: str) -> int:
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbBoO":
        return 8
    return 0


def _place(node: yaml.Node | yaml.Event) -> str:
    mark = cast("yaml.Mark", node.start_mark)
    return f"line {mark.line + 1}, column {mark.column + 1}"
