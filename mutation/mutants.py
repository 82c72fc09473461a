"""What could be wrong in a module, one small change at a time: `mutants_of` gives each as a source of its own.

Changed are comparisons, `and` and `or`, `not`, `&`, `|`, `+`, `-` and shifts, numbers, byte strings, words, True and
False, conditions as a whole (never, always), and what is done or raised, which is left out. Left alone are docstrings,
messages (f-strings, words with blanks, all that stands in a `raise`), annotations, imports, `__all__`, decorators,
`strict=`, defaults of arguments and what stands in a class outside its methods.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=", ast.NotEq: "==", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-", ast.Sub: "+", ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<", ast.Mult: "+",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """`source` is the whole module with one change: in `function` (dotted; empty at the top), `before` became `after`.

    `twin` counts the same changes of the same words in one function: what is said of one is not said of the others.
    """

    function: str
    line: int
    before: str
    after: str
    source: str
    twin: int = 1

    @property
    def name(self) -> str:
        """The same for as long as these lines are: it names no line number."""
        told = f"{self.function or 'the module'}: {self.before} -> {self.after}"
        return told if self.twin == 1 else f"{told} (no. {self.twin})"


class _Finder(ast.NodeVisitor):
    """Edits as (function, node, text in its place)."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stack: list[str] = []
        self.found: list[tuple[str, ast.AST, str]] = []

    def _add(self, node: ast.AST, text: str) -> None:
        self.found.append((".".join(self._stack), node, text))

    def _text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._source, node) or ""

    def _scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._stack.append(node.name)
        whole = not isinstance(node, ast.ClassDef)
        for one in node.body:
            if whole or isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.visit(one)
        self._stack.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope  # ast's names

    def _skip(self, node: ast.AST) -> None:
        pass

    visit_Import = visit_ImportFrom = visit_JoinedStr = visit_alias = _skip

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(isinstance(one, ast.Name) and one.id in ("__all__", "message", "hint") for one in node.targets):
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self._add(node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        self._add(node, "pass")
        self.visit(node.value)

    def _condition(self, node: ast.If | ast.IfExp) -> None:
        if "TYPE_CHECKING" not in self._text(node.test):
            self._add(node.test, "False")
            self._add(node.test, "True")
        self.generic_visit(node)

    visit_If = visit_IfExp = _condition

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add(test, "True")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        parts = [self._text(node.left), *(self._text(one) for one in node.comparators)]
        for index, operator in enumerate(node.ops):
            signs = [_COMPARISONS[type(one)] if at == index else _sign(one) for at, one in enumerate(node.ops)]
            text = parts[0] + "".join(f" {sign} {part}" for sign, part in zip(signs, parts[1:], strict=True))
            if type(operator) in _COMPARISONS:
                self._add(node, f"({text})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = " or " if isinstance(node.op, ast.And) else " and "
        self._add(node, "(" + other.join(f"({self._text(one)})" for one in node.values) + ")")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.Invert):
            self._add(node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _OPERATORS:
            self._add(node, f"(({self._text(node.left)}) {_OPERATORS[type(node.op)]} ({self._text(node.right)}))")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add(node, str(not value))
        elif isinstance(value, int):
            self._add(node, str(value + 1))
        elif isinstance(value, bytes):
            self._add(node, repr(value + b"!" if value else b"!"))
        elif isinstance(value, str) and value and " " not in value:
            self._add(node, repr(f"{value}!"))


def _sign(operator: ast.cmpop) -> str:
    return next(sign for kind, sign in _SIGNS if isinstance(operator, kind))


_SIGNS: list[tuple[type[ast.cmpop], str]] = [
    (ast.Eq, "=="), (ast.NotEq, "!="), (ast.Lt, "<"), (ast.LtE, "<="), (ast.Gt, ">"), (ast.GtE, ">="), (ast.Is, "is"),
    (ast.IsNot, "is not"), (ast.In, "in"), (ast.NotIn, "not in"),
]  # fmt: skip


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every change that still compiles."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    raw = source.encode()
    twins: Counter[str] = Counter()
    for function, node, text in finder.found:
        begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        before = raw[begin:end].decode()
        changed = raw[:begin] + text.encode() + raw[end:]
        try:
            compile(changed, "mutant", "exec")
        except (SyntaxError, ValueError):
            continue
        mutant = Mutant(function, node.lineno, _one_line(before), _one_line(text), changed.decode())  # type: ignore[attr-defined]
        twins[mutant.name] += 1
        yield replace(mutant, twin=twins[mutant.name])


def unchanged(source: str) -> Iterator[Mutant]:
    """Each function put in its own place, and the module's top: what fails with these is no test's finding."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    lines = {function: node.lineno for function, node, _ in reversed(finder.found)}  # type: ignore[attr-defined]
    for function, line in lines.items():
        yield Mutant(function, line, "nothing", "nothing", source)


def _one_line(text: str) -> str:
    return " ".join(text.split())
