"""Template text → tokens.

The text is held as Latin-1, so that one character is one byte and positions are byte offsets, as in Go's messages.

Source: the lexical rules of Go's text/template as its documentation gives them.
"""

import re
from dataclasses import dataclass
from enum import Enum

from tacit.errors import TemplateError

NAME = "data"
"""What Go's messages call the template."""


class Token(Enum):
    """Kinds of token."""

    TEXT = "text"
    LEFT = "{{"
    RIGHT = "}}"
    SPACE = "space"
    FIELD = "field"
    VARIABLE = "variable"
    NAME = "identifier"
    KEYWORD = "keyword"
    TRUTH = "bool"
    NIL = "nil"
    DOT = "."
    NUMBER = "number"
    STRING = "string"
    PIPE = "|"
    OPEN = "("
    CLOSE = ")"
    DECLARE = ":="
    ASSIGN = "="
    COMMA = ","
    END = "EOF"


@dataclass(frozen=True, slots=True)
class Item:
    """A token, its text, and its byte offset."""

    kind: Token
    text: str
    at: int


KEYWORDS = frozenset(["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"])

_WORD = r"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*"
_TOKENS = re.compile(
    r"(?P<SPACE>[ \t\r\n]+)"
    rf"|(?P<FIELD>\.{_WORD})"
    rf"|(?P<VARIABLE>\$(?:{_WORD})?)"
    rf"|(?P<WORD>{_WORD})"
    r"|(?P<NUMBER>[+-]?(?:\.[0-9]|[0-9])[0-9A-Za-z_.]*|'(?:[^'\\\n]|\\.)+')"
    r'|(?P<STRING>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)'
    r"|(?P<DECLARE>:=)|(?P<ASSIGN>=)|(?P<PIPE>\|)|(?P<OPEN>\()|(?P<CLOSE>\))|(?P<COMMA>,)|(?P<DOT>\.)"
)
_SEPARATED = frozenset(["FIELD", "VARIABLE", "WORD", "DOT", "NUMBER"])
_BLANK = " \t\r\n"
_TRIM_LEFT = re.compile(r"\{\{-(?=[ \t\r\n])")
_TRIM_RIGHT = re.compile(r"[ \t\r\n]-\}\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def template_error(text: str, at: int, message: str) -> TemplateError:
    """A refusal of the text itself, as Go words it: with the line and no column."""
    return TemplateError(f"template: {NAME}:{text.count(chr(10), 0, at) + 1}: {message}")


def lex(text: str) -> list[Item]:
    """The tokens of a template, the last one END.

    Raises:
        TemplateError: an action or comment that is not closed, a character that starts nothing.
    """
    items: list[Item] = []
    at = 0
    trim = False
    while True:
        left = text.find("{{", at)
        end = len(text) if left < 0 else left
        plain = text[at:end]
        start = at
        if trim:
            start += len(plain) - len(plain.lstrip(_BLANK))
            plain = plain.lstrip(_BLANK)
        trims_left = left >= 0 and _TRIM_LEFT.match(text, left) is not None
        if trims_left:
            plain = plain.rstrip(_BLANK)
        if plain:
            items.append(Item(Token.TEXT, plain, start))
        if left < 0:
            items.append(Item(Token.END, "", len(text)))
            return items
        at, trim = _lex_action(text, left, trims_left, items)


def _lex_action(text: str, left: int, trims_left: bool, items: list[Item]) -> tuple[int, bool]:
    """Tokens of one action; gives where it ended, and whether white space after it goes."""
    at = left + (4 if trims_left else 2)  # the mark is a dash and one blank
    if text.startswith("/*", at):
        return _skip_comment(text, at)
    items.append(Item(Token.LEFT, "{{", left))
    depth = 0
    while True:
        closes = 0
        if text.startswith("}}", at):
            closes = 2
        elif _TRIM_RIGHT.match(text, at):
            closes = 4
        if closes:
            if depth:
                raise template_error(text, at, "unclosed left paren")
            items.append(Item(Token.RIGHT, "}}", at))
            return at + closes, closes == 4
        item = _next_item(text, at)
        depth += (item.kind is Token.OPEN) - (item.kind is Token.CLOSE)
        if depth < 0:
            raise template_error(text, at, "unexpected right paren")
        items.append(item)
        at += len(item.text)


def _skip_comment(text: str, at: int) -> tuple[int, bool]:
    comment = _COMMENT.match(text, at)
    if comment is None:
        raise template_error(text, at, "unclosed comment")
    after = comment.end()
    if text.startswith("}}", after):
        return after + 2, False
    if _TRIM_RIGHT.match(text, after):
        return after + 4, True
    raise template_error(text, at, "comment ends before closing delimiter")


def _next_item(text: str, at: int) -> Item:
    if at >= len(text):
        raise template_error(text, at, "unclosed action")
    match = _TOKENS.match(text, at)
    if match is None:
        raise _bad_character(text, at)
    group = match.lastgroup or ""
    word = match.group()
    if group == "SPACE" and _TRIM_RIGHT.match(text, match.end() - 1):
        word = word[:-1]  # the last blank belongs to the mark that trims
    if group in _SEPARATED and not _ends_here(text, at + len(word)):
        raise _bad_character(text, at + len(word))
    return Item(_word_kind(word) if group == "WORD" else Token[group], word, at)


def _word_kind(word: str) -> Token:
    if word in KEYWORDS:
        return Token.KEYWORD
    if word in ("true", "false"):
        return Token.TRUTH
    return Token.NIL if word == "nil" else Token.NAME


def _ends_here(text: str, at: int) -> bool:
    return at >= len(text) or text[at] in " \t\r\n.,|:()=" or text.startswith("}}", at)


def _bad_character(text: str, at: int) -> TemplateError:
    character = text[at]
    unclosed = {'"': "unterminated quoted string", "`": "unterminated raw quoted string"}
    if character in unclosed:
        return template_error(text, at, unclosed[character])
    if character == "'":
        return template_error(text, at, "unterminated character constant")
    if character == ":":
        return template_error(text, at, "expected :=")
    shown = f" '{character}'" if " " < character < "\x7f" else ""
    return template_error(text, at, f"unexpected bad character U+{ord(character):04X}{shown} in command")
