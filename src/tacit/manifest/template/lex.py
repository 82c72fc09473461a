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
    CHARACTER = "character"
    ERROR = "error"
    END = "EOF"


@dataclass(frozen=True, slots=True)
class Item:
    """A token, its text, and its byte offset; of an ERROR the text is the refusal's."""

    kind: Token
    text: str
    at: int


KEYWORDS = frozenset(["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"])

_WORD = r"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*"
_TOKENS = re.compile(
    r"(?P<SPACE>[ \t\r\n]+)"
    rf"|(?P<FIELD>\.{_WORD})"
    r"|(?P<VARIABLE>\$[A-Za-z0-9_\x80-\xff]*)"
    rf"|(?P<WORD>{_WORD})"
    r"|(?P<NUMBER>(?=[+-]|\.?[0-9]))|(?P<CONSTANT>'(?:[^'\\\n]|\\.)+')"
    r'|(?P<STRING>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)'
    r"|(?P<DECLARE>:=)|(?P<ASSIGN>=)|(?P<PIPE>\|)|(?P<OPEN>\()|(?P<CLOSE>\))|(?P<COMMA>,)|(?P<DOT>\.)"
)
_SEPARATED = frozenset(["FIELD", "VARIABLE", "WORD", "DOT"])
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?"
    r"|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
_CHARACTER = 4
"""Bytes of the longest one in UTF-8."""
_BLANK = " \t\r\n"
_TRIM_LEFT = re.compile(r"\{\{-(?=[ \t\r\n])")
_TRIM_RIGHT = re.compile(r"[ \t\r\n]-\}\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def template_error(text: str, at: int, message: str) -> TemplateError:
    """A refusal of the text itself, as Go words it: with the line and no column. `message` is in Latin-1, as the text."""
    shown = message.encode("latin-1", "replace").decode("utf-8", "replace")
    return TemplateError(f"template: {NAME}:{text.count(chr(10), 0, at) + 1}: {shown}")


def lex(text: str) -> list[Item]:
    """The tokens of a template, the last one END.

    Raises:
        TemplateError: an action or comment that is not closed, a character that starts nothing.
    """
    items = lex_until_error(text)
    if items[-1].kind is Token.ERROR:
        raise TemplateError(items[-1].text)
    return items


def lex_until_error(text: str) -> list[Item]:
    """The tokens of a template, the last one END, or ERROR: what comes before that may be refused for another reason."""
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
        try:
            at, trim = _lex_action(text, left, trims_left, items)
        except TemplateError as exc:
            items.append(Item(Token.ERROR, str(exc), left))
            return items


def _lex_action(text: str, left: int, trims_left: bool, items: list[Item]) -> tuple[int, bool]:
    """Tokens of one action; gives where it ended, and whether white space after it goes. Raises: TemplateError."""
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
        return _no_token(text, at)
    group = match.lastgroup or ""
    word = match.group()
    if group == "SPACE" and _TRIM_RIGHT.match(text, match.end() - 1):
        word = word[:-1]  # the last blank belongs to the mark that trims
    if group in ("NUMBER", "CONSTANT"):
        return Item(Token.NUMBER, word or _number(text, at), at)
    if group in _SEPARATED:
        word = _name(word)
        if not word:
            return _no_token(text, at)
        if not _ends_here(text, at + len(word)):
            raise template_error(text, at, f"bad character {_code_point(text, at + len(word))}")
    return Item(_word_kind(word) if group == "WORD" else Token[group], word, at)


def _name(word: str) -> str:
    """The beginning that Go takes for a name: bytes above 127 only as letters and digits of UTF-8."""
    if word.isascii():
        return word
    at = 1 if word[0] in ".$" else 0
    while _is_letter(character := _character(word, at)):
        at += len(character.encode())
    return word[:at]


def _number(text: str, at: int) -> str:
    """A number as Go reads one, right or wrong; two with a sign between would be one of its complex numbers."""
    end, good = _scan_number(text, at)
    if good and text[end : end + 1] in ("+", "-"):
        end, good = _scan_number(text, end)
        good = good and text[end - 1] == "i"
    if not good:
        raise template_error(text, at, f'bad number syntax: "{text[at:end]}"')
    return text[at:end]


def _scan_number(text: str, at: int) -> tuple[int, bool]:
    """Where a number ends, and whether no letter follows; one that does is counted in."""
    match = _NUMBER.match(text, at)
    end = match.end() if match else at
    letter = _character(text, end)
    if _is_letter(letter):
        return end + len(letter.encode()), False
    return end, True


def _character(text: str, at: int) -> str:
    """The character that begins at a byte, empty at the end; a lone surrogate where there is none."""
    return text[at : at + _CHARACTER].encode("latin-1").decode("utf-8", "surrogateescape")[:1]


def _is_letter(character: str) -> bool:
    return character == "_" or character.isalpha() or character.isdecimal()


def _word_kind(word: str) -> Token:
    if word in KEYWORDS:
        return Token.KEYWORD
    if word in ("true", "false"):
        return Token.TRUTH
    return Token.NIL if word == "nil" else Token.NAME


def _ends_here(text: str, at: int) -> bool:
    return at >= len(text) or text[at] in " \t\r\n.,|:()" or text.startswith("}}", at)


def _no_token(text: str, at: int) -> Item:
    """A character that the parser refuses where it stands. Raises: TemplateError: it is refused anywhere."""
    character = text[at]
    refused = {
        '"': "unterminated quoted string",
        "`": "unterminated raw quoted string",
        "'": "unterminated character constant",
        ":": "expected :=",
    }
    if character in refused:
        raise template_error(text, at, refused[character])
    if not " " < character < "\x7f":
        raise template_error(text, at, f"unrecognized character in action: {_code_point(text, at)}")
    return Item(Token.CHARACTER, character, at)


def _code_point(text: str, at: int) -> str:
    """A character as Go names it, and itself if it can be seen; in Latin-1 as the text."""
    character = _character(text, at)
    if 0xD800 <= ord(character) < 0xE000:
        character = "\ufffd"  # what Go reads in the place of a byte that is no character
    shown = f" '{character}'" if character.isprintable() else ""
    return f"U+{ord(character):04X}{shown}".encode().decode("latin-1")
