"""Tokens → a tree of what to do.

The part of Go's text/template that manifests use: actions with pipelines, fields, variables, `if`, `with`, `else`,
`range`. What else Go has (`define`, `template`, `block`, `break`, `continue`, some functions) is refused by name.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn

from tacit.errors import TemplateError
from tacit.manifest.template.functions import as_characters, quote
from tacit.manifest.template.lex import Item, Token, lex_until_error, template_error

MAX_DEPTH = 50
"""Parentheses and blocks within each other."""
CACHED = 1024
"""Templates whose steps are kept."""

_SHOWN = 10  # characters of a token that is out of place
_HEX_FRACTION = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?[0-9]+")
_GO_ONLY = frozenset(["call", "html", "js", "slice", "urlquery"])


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is put out as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Path:
    """`.A.B`, `$x.A`, or `.` and `$x` with no fields. `start` is `.` or the variable's name."""

    at: int
    start: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.start == "." and self.fields:
            return "".join(f".{name}" for name in self.fields)
        return self.start + "".join(f".{name}" for name in self.fields)


@dataclass(frozen=True, slots=True)
class Constant:
    """Text, a whole number, truth or nil, as written in the template."""

    at: int
    written: str
    value: object

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function."""

    at: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`."""

    at: int
    pipe: "Pipe"
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"({self.pipe})" + "".join(f".{name}" for name in self.fields)


Operand = Path | Constant | Function | Chain


@dataclass(frozen=True, slots=True)
class Command:
    """A function or value, and its arguments."""

    at: int
    operands: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(map(str, self.operands))


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each of which gets the value of the one before; and the variables that get the last value."""

    at: int
    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    assigns: bool = False

    def __str__(self) -> str:
        sign = "=" if self.assigns else ":="
        declared = f"{', '.join(self.variables)} {sign} " if self.variables else ""
        return declared + " | ".join(map(str, self.commands))


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is put out, unless it went into a variable."""

    at: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`, with what follows and what follows `else`."""

    at: int
    word: str
    pipe: Pipe
    body: tuple["Step", ...]
    otherwise: tuple["Step", ...]


Step = Text | Action | Branch


@lru_cache(maxsize=CACHED)
def parse(text: str, functions: frozenset[str]) -> tuple[Step, ...]:
    """What a template does. `functions` are those that it may call.

    Kept for the next activation: the text is the manifest's, which is public, and steps hold no secret.

    Raises:
        TemplateError: with the line, in Go's words where Go has them.
    """
    return _Parser(text, functions).steps()


@dataclass(slots=True)
class _Parser:
    text: str
    functions: frozenset[str]
    items: list[Item] = field(init=False)
    index: int = 0
    depth: int = 0
    variables: list[str] = field(default_factory=lambda: ["$"])

    def __post_init__(self) -> None:
        self.items = lex_until_error(self.text)

    # ---- tokens

    def next(self) -> Item:
        item = self.peek()
        self.index += 1
        return item

    def peek(self) -> Item:
        """The next token, still to be read. Raises: TemplateError: there is none, as `lex` found."""
        item = self.items[self.index]
        if item.kind is Token.ERROR:
            raise TemplateError(item.text)
        return item

    def follows(self, kind: Token) -> bool:
        return self.items[self.index].kind is kind

    def skip(self) -> Item:
        """The next token that is no white space, still to be read."""
        while self.peek().kind is Token.SPACE:
            self.index += 1
        return self.peek()

    def fail(self, item: Item, message: str) -> NoReturn:
        raise template_error(self.text, item.at, message)

    def unexpected(self, item: Item, context: str) -> NoReturn:
        shown = quote(item.text) if len(item.text) <= _SHOWN else f"{quote(_cut(item.text))}..."
        if item.kind is Token.KEYWORD:
            shown = f"<{item.text}>"
        self.fail(item, f"unexpected {shown} in {context}")

    def deeper(self, item: Item) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(item, f"nested more than {MAX_DEPTH} deep")

    # ---- steps

    def steps(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        while self.peek().kind is not Token.END:
            found = self.step()
            if isinstance(found, Item):
                self.fail(found, f"unexpected {{{{{found.text}}}}}")
            steps.append(found)
        return tuple(steps)

    def step(self) -> Step | Item:
        """A step, or the `else` or `end` that closes the block around; `else` is followed by what it was given."""
        item = self.next()
        if item.kind is Token.TEXT:
            return Text(item.text)
        first = self.skip()
        if first.kind is not Token.KEYWORD:
            return Action(first.at, self.pipe("command", Token.RIGHT))
        self.next()
        match first.text:
            case "if" | "range" | "with":
                return self.branch(first)
            case "end":
                self.close("end")
                return first
            case "else":
                return first
        self.fail(first, f"{{{{{first.text}}}}} is not supported in a manifest")

    def close(self, context: str) -> None:
        if (item := self.skip()).kind is not Token.RIGHT:
            self.unexpected(item, context)
        self.next()

    def branch(self, word: Item) -> Branch:
        self.deeper(word)
        known = len(self.variables)
        pipe = self.pipe(word.text, Token.RIGHT)
        body, closing = self.block()
        otherwise: tuple[Step, ...] = ()
        if closing.text == "else":
            following = self.skip()
            chains = following.kind is Token.KEYWORD and following.text in ("if", "with")
            if chains and following.text == word.text:
                self.next()
                otherwise = (self.branch(following),)  # it reads the one `end` of both
            elif chains:
                self.unexpected(following, "input")
            else:
                self.close("else")
                otherwise, closing = self.block()
                if closing.text == "else":
                    self.fail(closing, "expected end; found {{else}}")
        del self.variables[known:]
        self.depth -= 1
        return Branch(word.at, word.text, pipe, body, otherwise)

    def block(self) -> tuple[tuple[Step, ...], Item]:
        """The steps of a block, and the `else` or `end` that closed it."""
        steps: list[Step] = []
        while self.peek().kind is not Token.END:
            found = self.step()
            if isinstance(found, Item):
                return tuple(steps), found
            steps.append(found)
        self.fail(self.peek(), "unexpected EOF")

    # ---- pipelines

    def pipe(self, context: str, end: Token) -> Pipe:
        start = self.skip()
        declared, assigns = self.declarations(context)
        commands: list[Command] = []
        while True:
            item = self.skip()
            if item.kind is end:
                self.next()
                break
            if item.kind not in _STARTS:
                self.unexpected(item, context)
            commands.append(self.command())
        if not commands:
            self.fail(item, f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.operands[0], Constant) or str(command.operands[0]) == ".":
                self.fail(item, f"non executable command in pipeline stage {stage}")
        if not assigns:
            self.variables += declared
        return Pipe(start.at, tuple(commands), declared, assigns)

    def declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """The variables before `:=` or `=`, if the pipeline begins with such."""
        begin = self.index
        names: list[str] = []
        while (item := self.skip()).kind is Token.VARIABLE:
            self.next()
            names.append(item.text)
            sign = self.skip()
            if sign.kind in (Token.DECLARE, Token.ASSIGN):
                self.next()
                if sign.kind is Token.ASSIGN:
                    for name in names:
                        self.require_variable(item, name)
                return tuple(names), sign.kind is Token.ASSIGN
            if sign.kind is not Token.COMMA:
                break
            self.next()
            if context != "range" or len(names) > 1:
                self.fail(sign, f"too many declarations in {context}")
        self.index = begin
        return (), False

    def command(self) -> Command:
        operands: list[Operand] = []
        start = self.skip()
        while True:
            self.skip()
            operand = self.operand()
            if operand is not None:
                operands.append(operand)
            item = self.peek()
            if item.kind is Token.SPACE:
                self.next()
                continue
            if item.kind is Token.PIPE:
                self.next()  # nothing may follow: Go takes that, too
            elif item.kind not in (Token.RIGHT, Token.CLOSE):
                self.unexpected(self.next(), "operand")
            break
        return Command(operands[0].pipe.at if isinstance(operands[0], Chain) else start.at, tuple(operands))

    def operand(self) -> Operand | None:
        item = self.peek()
        if item.kind not in _STARTS:
            return None
        self.next()
        fields: list[str] = [item.text[1:]] if item.kind is Token.FIELD else []
        at = item.at
        if self.follows(Token.FIELD) and item.kind not in (Token.FIELD, Token.VARIABLE, Token.OPEN):
            at = self.peek().at
        pipe = self.parenthesised(item) if item.kind is Token.OPEN else None
        if self.follows(Token.FIELD):
            at = self.peek().at  # Go counts a chain of fields from its second part
        while self.follows(Token.FIELD):
            fields.append(self.next().text[1:])
        if pipe is not None:
            return Chain(at, pipe, tuple(fields))
        if item.kind is Token.FIELD:
            return Path(at, ".", tuple(fields))
        if item.kind is Token.VARIABLE:
            self.require_variable(item, item.text)
            return Path(at, item.text, tuple(fields))
        if fields:
            self.unexpected(Item(Token.FIELD, f".{fields[0]}", at), "operand")
        return self.single(item)

    def parenthesised(self, item: Item) -> Pipe:
        self.deeper(item)
        pipe = self.pipe("parenthesized pipeline", Token.CLOSE)
        self.depth -= 1
        return pipe

    def single(self, item: Item) -> Operand:
        match item.kind:
            case Token.DOT:
                return Path(item.at, ".")
            case Token.TRUTH:
                return Constant(item.at, item.text, item.text == "true")
            case Token.NIL:
                return Constant(item.at, "nil", None)
            case Token.NUMBER:
                return Constant(item.at, item.text, self.number(item))
            case Token.STRING:
                return Constant(item.at, item.text, self.string(item))
        if item.text not in self.functions:
            if item.text in _GO_ONLY:
                self.fail(item, f'function "{item.text}" is not supported in a manifest')
            self.fail(item, f'function "{item.text}" not defined')
        return Function(item.at, item.text)

    def require_variable(self, item: Item, name: str) -> None:
        if name not in self.variables:
            self.fail(item, f'undefined variable "{name}"')

    def number(self, item: Item) -> int:
        """A whole number as Go writes them: decimal, 0x, 0o, 0b, with underscores."""
        written = item.text
        try:
            if len(written) > 40 or "'" in written:
                raise ValueError(written)
            value = int(written, 8 if _octal(written) else 0)
        except ValueError:
            self.fail(item, _no_whole_number(written))
        if not -(2**63) <= value < 2**63:
            self.fail(item, f"integer overflow: {quote(written)}")
        return value

    def string(self, item: Item) -> str:
        if item.text[0] == "`":
            return item.text[1:-1].replace("\r", "")
        try:
            return _unquote(item.text[1:-1])
        except ValueError:
            self.fail(item, "invalid syntax")


_STARTS = frozenset(
    (
        Token.TRUTH,
        Token.DOT,
        Token.FIELD,
        Token.NAME,
        Token.NUMBER,
        Token.NIL,
        Token.STRING,
        Token.VARIABLE,
        Token.OPEN,
    )
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_ESCAPE_WIDTHS = {"x": 2, "u": 4, "U": 8}


def _no_whole_number(written: str) -> str:
    """Why: Go knows more numbers than we do, and what looks like one may be none."""
    try:
        float(written)
        if written.isdigit() or written[1:].isdigit():
            return f"integer overflow: {quote(written)}"  # as Go says it of 08
    except ValueError:
        if not (written[0] == "'" or written[-1] == "i" or _HEX_FRACTION.fullmatch(written)):
            return f"illegal number syntax: {quote(written)}"
    return f"number {written[:40]} is not supported in a manifest; only whole numbers are"


def _cut(latin: str) -> str:
    """The first characters of what was read, as a message shows it."""
    return as_characters(latin)[:_SHOWN].encode("utf-8", "surrogateescape").decode("latin-1")


def _octal(written: str) -> bool:
    """Whether a leading zero makes it octal, which Python does not take without an `o`."""
    digits = written.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"


def _unquote(body: str) -> str:
    """A Go string without its quotes; the result is again one character a byte."""
    parts = body.split("\\")
    out = [parts[0]]
    rest = iter(parts[1:])
    for part in rest:
        if part == "":  # a backslash that stood twice: the text up to the next one is plain
            out.append("\\" + next(rest, ""))
        elif part[0] in _ESCAPES:
            out.append(_ESCAPES[part[0]] + part[1:])
        elif part[0] in _ESCAPE_WIDTHS:
            width = _ESCAPE_WIDTHS[part[0]]
            code = int(part[1 : 1 + width], 16) if len(part) > width else _invalid(part)
            character = chr(code) if part[0] == "x" else chr(code).encode().decode("latin-1")
            out.append(character + part[1 + width :])
        elif part[:3].isdigit() and len(part) >= 3:
            out.append(chr(int(part[:3], 8)) + part[3:])
        else:
            _invalid(part)
    return "".join(out)


def _invalid(part: str) -> NoReturn:
    raise ValueError(part)
