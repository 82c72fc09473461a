"""JSON text → a tree that remembers where everything stood.

The standard library's decoder tells neither the place of a value nor every key of an object, and it accepts what
Go's refuses (NaN, Infinity) or refuses it in other words. Both readings of a manifest, the strict and the lenient,
use this one scanner, so that there is no text which they understand differently.

The text is held as Latin-1: one character is one byte, and offsets are byte offsets.

Source: RFC 8259; the words of the refusals are those of Go's encoding/json, which users' scripts match on.
"""

import re
from dataclasses import dataclass
from enum import Enum

from tacit.errors import ManifestError

MAX_SIZE = 4 << 20
"""Bytes of a manifest. One with 1,000 marble types has 0.7 MB."""
MAX_DEPTH = 64
"""Nested objects and arrays. A manifest needs nine."""

END = "unexpected end of JSON input"

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'"([^"\\\x00-\x1f]*)"')
_CHUNK = re.compile(r'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_HEX = "0123456789abcdefABCDEF"
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")


class Shape(Enum):
    """What a JSON value is; the words are Go's."""

    OBJECT = "object"
    ARRAY = "array"
    STRING = "string"
    NUMBER = "number"
    BOOL = "bool"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value. Only the part that fits its shape is filled: `members`, `items`, or `text`.

    `text` is the decoded string, the number as written, or `true`/`false`. `damaged` marks a string that was not
    valid Unicode, where U+FFFD now stands.
    """

    shape: Shape
    offset: int
    text: str = ""
    members: tuple["Member", ...] = ()
    items: tuple["Node", ...] = ()
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One key of an object, in the order written; a key may stand twice."""

    key: str
    offset: int
    value: Node
    damaged: bool = False


class JsonSyntaxError(ManifestError):
    """Not JSON. `offset` is where reading stopped."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def parse_text(raw: bytes) -> Node:
    """The tree of one JSON value.

    Raises:
        JsonSyntaxError: not JSON, something after the value, nested too deeply or too large; in Go's words.
    """
    if len(raw) > MAX_SIZE:
        message = f"manifest has {len(raw)} bytes; at most {MAX_SIZE} are read"
        raise JsonSyntaxError(message, 0)
    scanner = _Scanner(raw.decode("latin-1"))
    node = scanner.value(1)
    scanner.skip()
    if scanner.at < len(scanner.text):
        raise scanner.unexpected("after top-level value")
    return node


def position(raw: bytes, offset: int) -> tuple[int, int]:
    """Line and column of a byte offset, both from 1; columns count characters, as editors do."""
    before = raw[:offset]
    line_start = before.rfind(b"\n") + 1
    return before.count(b"\n") + 1, len(before[line_start:].decode("utf-8", "replace")) + 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def peek(self) -> str:
        """The next character that is no white space; refuses the end of the text."""
        self.skip()
        if self.at >= len(self.text):
            raise JsonSyntaxError(END, self.at)
        return self.text[self.at]

    def unexpected(self, context: str, *, in_word: bool = False) -> JsonSyntaxError:
        """A refusal of the next character. Go sees a blank at the end of the text, which ends no word."""
        if self.at >= len(self.text) and not in_word:
            return JsonSyntaxError(END, self.at)
        found = self.text[self.at : self.at + 1] or " "
        return JsonSyntaxError(f"invalid character {_quoted(found)} {context}", self.at)

    def value(self, depth: int) -> Node:
        first = self.peek()
        start = self.at
        if first in "{[":
            if depth > MAX_DEPTH:
                raise JsonSyntaxError("exceeded max depth", start)
            return self.object(depth) if first == "{" else self.array(depth)
        if first == '"':
            text, damaged = self.string()
            return Node(Shape.STRING, start, text, damaged=damaged)
        if first == "-" or first in "0123456789":
            return Node(Shape.NUMBER, start, self.number())
        for word, shape in (("true", Shape.BOOL), ("false", Shape.BOOL), ("null", Shape.NULL)):
            if first == word[0]:
                self.literal(word)
                return Node(shape, start, word)
        raise self.unexpected("looking for beginning of value")

    def object(self, depth: int) -> Node:
        start = self.at
        self.at += 1
        members: list[Member] = []
        if self.peek() == "}":
            self.at += 1
            return Node(Shape.OBJECT, start)
        while True:
            if self.peek() != '"':
                raise self.unexpected("looking for beginning of object key string")
            key_start = self.at
            key, damaged = self.string()
            if self.peek() != ":":
                raise self.unexpected("after object key")
            self.at += 1
            members.append(Member(key, key_start, self.value(depth + 1), damaged))
            if not self.comma("}", "after object key:value pair"):
                return Node(Shape.OBJECT, start, members=tuple(members))

    def array(self, depth: int) -> Node:
        start = self.at
        self.at += 1
        items: list[Node] = []
        if self.peek() == "]":
            self.at += 1
            return Node(Shape.ARRAY, start)
        while True:
            items.append(self.value(depth + 1))
            if not self.comma("]", "after array element"):
                return Node(Shape.ARRAY, start, items=tuple(items))

    def comma(self, closing: str, context: str) -> bool:
        """Whether another member follows; steps over the comma or the closing bracket."""
        following = self.peek()
        if following not in ("," + closing):
            raise self.unexpected(context)
        self.at += 1
        return following == ","

    def literal(self, word: str) -> None:
        for expected in word:
            if self.at >= len(self.text) or (self.text[self.at] != expected):
                raise self.unexpected(f"in literal {word} (expecting {_quoted(expected)})", in_word=True)
            self.at += 1

    def number(self) -> str:
        start = self.at
        match = _NUMBER.match(self.text, start)
        if match is None:
            self.at += 1  # the sign, after which no digit came
            raise self.unexpected("in numeric literal", in_word=True)
        self.at = match.end()
        written = match.group()
        following = self.text[self.at : self.at + 1]
        if following == "." and not set(written) & set(".eE"):
            self.at += 1
            raise self.unexpected("after decimal point in numeric literal", in_word=True)
        if following in ("e", "E") and not set(written) & set("eE"):
            self.at += 1
            if self.text[self.at : self.at + 1] in ("+", "-"):
                self.at += 1
            raise self.unexpected("in exponent of numeric literal", in_word=True)
        return written

    def string(self) -> tuple[str, bool]:
        """The decoded string at the opening quote, and whether it was not valid Unicode."""
        if match := _PLAIN.match(self.text, self.at):
            self.at = match.end()
            return _unicode(match.group(1))
        start = self.at + 1
        self.at = start
        while True:
            match = _CHUNK.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.text[self.at : self.at + 1] == '"':
                self.at += 1
                return _unescaped(self.text[start : self.at - 1])
            if self.text[self.at : self.at + 1] != "\\":
                raise self.unexpected("in string literal")
            self.escape()

    def escape(self) -> None:
        self.at += 1
        kind = self.text[self.at : self.at + 1]
        if kind == "u":
            for _ in range(4):
                self.at += 1
                if self.text[self.at : self.at + 1] not in _HEX or self.at >= len(self.text):
                    raise self.unexpected("in \\u hexadecimal character escape", in_word=True)
        elif kind not in _ESCAPES:
            raise self.unexpected("in string escape code", in_word=True)
        self.at += 1


def _unicode(latin: str) -> tuple[str, bool]:
    if latin.isascii():
        return latin, False
    raw = latin.encode("latin-1")
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), True


def _unescaped(latin: str) -> tuple[str, bool]:
    """Escapes are undone after UTF-8 was decoded, so that neither can complete the other."""
    text, damaged = _unicode(latin)
    plain = _ESCAPED.sub(lambda m: chr(int(m.group(1), 16)) if m.group(1) else _ESCAPES[m.group(2)], text)
    whole = _PAIR.sub(lambda m: m.group().encode("utf-16", "surrogatepass").decode("utf-16"), plain)
    mended = _LONE.sub("\ufffd", whole)
    return mended, damaged or mended != whole


def _quoted(character: str) -> str:
    """A character as Go prints it in an error: quoted, with its escapes."""
    special = {"'": r"\'", '"': '"', "\\": r"\\", "\n": r"\n", "\t": r"\t", "\r": r"\r"}
    special |= {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\v": r"\v"}
    if character in special:
        return f"'{special[character]}'"
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"'\\x{code:02x}'"
    if 0x80 <= code < 0xA1 or code == 0xAD:
        return f"'\\u{code:04x}'"
    return f"'{character}'"
