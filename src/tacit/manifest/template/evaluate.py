"""A tree of steps → text.

Secrets come in as values and go out as text that nobody parses again: what a secret contains can change the place
where it is put out, and nothing else.

Messages are Go's: `template: data:1:3: executing "data" at <hex .Secrets.x>: error calling hex: ...`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

from tacit.errors import TemplateError
from tacit.manifest.template.data import Bytes, Entries, Record
from tacit.manifest.template.functions import (
    FUNCTIONS,
    SHORT_CIRCUIT,
    CallError,
    Target,
    call,
    format_value,
    is_true,
    type_name,
)
from tacit.manifest.template.lex import NAME
from tacit.manifest.template.parse import (
    Action,
    Branch,
    Chain,
    Command,
    Constant,
    Function,
    Operand,
    Path,
    Pipe,
    Step,
    Text,
)

MAX_OUTPUT = 4 << 20
"""Bytes. More does not fit into the message that carries it to the marble."""
MAX_STEPS = 100_000
"""Steps. Nested `range`s over few secrets could otherwise run for hours."""


def evaluate(steps: tuple[Step, ...], root: Record, *, text: str, target: Target) -> str:
    """What a template puts out. `text` is the template itself, for the places in messages.

    Raises:
        TemplateError: a field, function or value that does not fit, or more output than `MAX_OUTPUT`.
    """
    evaluator = _Evaluator(text, target, [("$", root)])
    evaluator.walk(steps, root)
    return "".join(evaluator.out)


@dataclass(slots=True)
class _Evaluator:
    """One run of one template."""

    text: str
    target: Target
    variables: list[tuple[str, object]]
    out: list[str] = field(default_factory=list)
    size: int = 0
    steps_left: int = MAX_STEPS

    # ---- steps

    def walk(self, steps: tuple[Step, ...], dot: object) -> None:
        for step in steps:
            self.count(step)
            match step:
                case Text():
                    self.put(step.text)
                case Action():
                    value = self.pipe(step.pipe, dot)
                    if not step.pipe.variables:
                        self.show(step, value)
                case Branch(word="if" | "with"):
                    known = len(self.variables)
                    value = self.pipe(step.pipe, dot)
                    if is_true(value):
                        self.walk(step.body, value if step.word == "with" else dot)
                    else:
                        self.walk(step.otherwise, dot)
                    del self.variables[known:]
                case _:
                    self.range(step, dot)

    def count(self, step: Step) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            at = 0 if isinstance(step, Text) else step.at
            self.fail(at, "...", f"more than {MAX_STEPS} steps")

    def put(self, text: str) -> None:
        self.size += len(text)
        if self.size > MAX_OUTPUT:
            message = f"template: {NAME}: output exceeds {MAX_OUTPUT} bytes"
            raise TemplateError(message)
        self.out.append(text)

    def show(self, step: Action, value: object) -> None:
        try:
            self.put(format_value("v", value))
        except CallError as exc:
            self.fail(step.at, f"{{{{{step.pipe}}}}}", str(exc))

    def range(self, step: Branch, dot: object) -> None:
        known = len(self.variables)
        value = self.pipe(step.pipe, dot)  # its variables are the whole until the first element, and in `else`
        if isinstance(value, int) and not isinstance(value, bool) and len(step.pipe.variables) > 1:
            last = step.pipe.commands[-1]
            written = isinstance(last.operands[0], Constant)  # else it may be a byte of a secret
            shown = value if written else "a value of type int"
            self.fail(last.at, str(last), f"can't use {shown} to iterate over more than one variable")
        after = len(self.variables)
        empty = True
        for key, element in self.elements(step, value):
            empty = False
            self.count(step)  # a body without steps costs time, too
            self.bind(step.pipe, key, element)
            self.walk(step.body, element)
            del self.variables[after:]
        if empty:
            self.walk(step.otherwise, dot)
        del self.variables[known:]

    def elements(self, step: Branch, value: object) -> Iterator[tuple[object, object]]:
        match value:
            case Entries():
                self.steps_left -= len(value.values)  # sorting them is work, too
                for name in sorted(value.values):
                    yield name, value.values[name]
            case Bytes() if value.label != "CERTIFICATE":
                yield from enumerate(value.data)
            case int() if not isinstance(value, bool):
                yield from ((number, number) for number in range(value))
            case None:
                return
            case _:
                last = step.pipe.commands[-1]
                self.fail(last.at, str(last), f"range can't iterate over a value of type {type_name(value)}")

    def bind(self, pipe: Pipe, key: object, element: object) -> None:
        """One variable gets the element; of two the first gets the key."""
        values = (element,) if len(pipe.variables) == 1 else (key, element)
        for name, value in zip(pipe.variables, values, strict=False):
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))

    def assign(self, name: str, value: object) -> None:
        """The innermost variable of this name gets a new value; the parser knows that there is one."""
        index = max(index for index, (known, _) in enumerate(self.variables) if known == name)
        self.variables[index] = (name, value)

    # ---- values

    def pipe(self, pipe: Pipe, dot: object) -> object:
        value: object = None
        for number, command in enumerate(pipe.commands):
            piped = () if number == 0 else (value,)
            value = self.command(command, dot, piped)
        for name in pipe.variables:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))
        return value

    def command(self, command: Command, dot: object, piped: tuple[object, ...]) -> object:
        first = command.operands[0]
        if isinstance(first, Function):
            return self.function(command, first, dot, piped)
        if len(command.operands) > 1 or piped:
            if isinstance(first, Path) and first.fields:
                owner = self.operand(replace(first, fields=first.fields[:-1]), dot)
                known = isinstance(owner, Record) and first.fields[-1] in owner.fields
                words = (
                    "has arguments but cannot be invoked as function" if known else "is not a method but has arguments"
                )
                message = f"{first.fields[-1]} {words}"
                self.fail(first.at, str(first), message)
            self.fail(first.at, str(first), f"can't give argument to non-function {first}")
        if isinstance(first, Constant) and first.value is None:
            self.fail(first.at, str(first), "nil is not a command")
        return self.operand(first, dot)

    def function(self, command: Command, function: Function, dot: object, piped: tuple[object, ...]) -> object:
        name = function.name
        given = len(command.operands) - 1 + len(piped)
        if name in SHORT_CIRCUIT:
            if given == 0:
                message = f"wrong number of args for {name}: want at least 1 got 0"
                self.fail(function.at, name, message)
            return self.short_circuit(name, command, dot, piped)
        _, least, most = FUNCTIONS[self.target][name]
        if given < least or (most is not None and given > most):
            wanted = f"at least {least}" if most is None else str(least)
            self.fail(function.at, name, f"wrong number of args for {name}: want {wanted} got {given}")
        arguments = [self.operand(operand, dot) for operand in command.operands[1:]]
        try:
            return call(self.target, name, (*arguments, *piped))
        except CallError as exc:
            self.fail(command.at, str(command), f"error calling {name}: {exc}")

    def short_circuit(self, name: str, command: Command, dot: object, piped: tuple[object, ...]) -> object:
        value: object = None
        for operand in command.operands[1:]:
            value = self.operand(operand, dot)
            if is_true(value) is (name == "or"):
                return value
        return piped[0] if piped else value

    def operand(self, operand: Operand, dot: object) -> object:
        match operand:
            case Constant():
                return operand.value
            case Chain():
                return self.fields(operand, self.pipe(operand.pipe, dot))
            case Function():
                return self.function(Command(operand.at, (operand,)), operand, dot, ())
            case Path(start="."):
                return self.fields(operand, dot)
            case _:
                found = next(value for name, value in reversed(self.variables) if name == operand.start)
                return self.fields(operand, found)

    def fields(self, operand: Path | Chain, value: object) -> object:
        for name in operand.fields:
            match value:
                case None:
                    return None  # a secret that does not exist has no parts either
                case Record() if name in value.fields:
                    value = value.fields[name]
                case Entries():
                    value = value.values.get(name)
                case Bytes(label="CERTIFICATE") if name == "Raw":
                    value = Bytes("[]uint8", "", value.data)
                case _:
                    message = f"can't evaluate field {_shown(name)} in type {type_name(value)}"
                    self.fail(operand.at, str(operand), message)
        return value

    def fail(self, at: int, context: str, message: str) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1)
        place = f'template: {NAME}:{line}:{column}: executing "{NAME}" at <{_shown(context)}>'
        raise TemplateError(f"{place}: {message}")


def _shown(latin: str) -> str:
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")
