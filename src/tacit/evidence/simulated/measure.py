"""What MRENCLAVE stands for on a simulated platform: every module a program may load, and what it depends on.

(1) From the program's composition roots, follow every import of a `tacit` module, wherever it stands in the source
    (inside functions too), and the packages above each. Modules named by a string count as well: engines are chosen so.
(2) Of each module: its name and the SHA-256 of its file as it lies on disk now. Of each package reached: its data
    files, likewise.
(3) Of each distribution that provides an imported module, and of its requirements, and theirs: name, version and the
    SHA-256 of its recorded file hashes. The files themselves are not read again.
(4) The Python version.

Paths, byte-compiled files, the way of installation and the order of anything do not enter.
A package that is only passed through on the way to one of its modules offers no lazy attributes to this program, so
for such a package only the imports that run with it count.
"""

import ast
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tacit.errors import PlatformError
from tacit.evidence.verify.binding import length_prefixed

PACKAGE = "tacit"
_MODULE_NAME = re.compile(rf"{PACKAGE}(\.[A-Za-z_]\w*)+")
_LABEL = b"tacit simulated measurement v1\0"
# Written by installers, or different from one installation of the same files to the next.
_RECORD_NOISE = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")


@dataclass(frozen=True, slots=True)
class Module:
    """A module of ours: its dotted name, its source, and the data files beside it if it is a package."""

    name: str
    source: bytes
    is_package: bool
    data: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution that something of ours needs; `record` is the SHA-256 of `normal_record`."""

    name: str
    version: str
    record: bytes


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that a measurement is made of. `files` maps a name to the SHA-256 of a file."""

    python: str
    files: Mapping[str, bytes]
    distributions: Sequence[Distribution]
    missing: frozenset[str]

    def measurement(self) -> bytes:
        """MRENCLAVE: 32 bytes that change with any entry."""
        entries = [("python", self.python.encode())]
        entries += [(f"file {name}", digest) for name, digest in sorted(self.files.items())]
        entries += sorted((f"distribution {one.name} {one.version}", one.record) for one in self.distributions)
        entries += [(f"missing {name}", b"") for name in sorted(self.missing)]
        digest = sha256(_LABEL)
        for name, value in entries:
            digest.update(length_prefixed(name.encode()) + length_prefixed(value))
        return digest.digest()


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    above = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*above, node.module] if node.module else above)


def _is_for_type_checkers(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def parse_imports(module: Module, *, lazy: bool) -> frozenset[str]:
    """Dotted names that a module may import; `from a import b` gives `a` and `a.b`, one of which may be no module.

    With `lazy`, what stands inside functions and what strings name counts too. What only type checkers see never does.

    Raises:
        PlatformError: the source is not Python.
    """
    try:
        tree = ast.parse(module.source)
    except (SyntaxError, ValueError) as exc:
        raise PlatformError(f"the module {module.name} cannot be measured: it is not Python ({exc})") from exc
    names: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module.name, is_package=module.is_package)
            names.update((source, *(f"{source}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.If) and _is_for_type_checkers(node.test):
            waiting.extend(node.orelse)
        elif lazy and isinstance(node, ast.Constant):
            if isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
                names.add(node.value)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def close_imports(
    roots: Sequence[str], find: Callable[[str], Module | None]
) -> tuple[dict[str, Module], frozenset[str]]:
    """The modules of ours that the roots may load, by name, and the names of others' that they import.

    `find` gives a module of ours, or None for a name that is none.
    """
    modules: dict[str, Module] = {}
    foreign: set[str] = set()
    seen: set[tuple[str, bool]] = set()
    # Packages that are only passed through come last, from the left: most of them are wanted for themselves by then.
    waiting = deque((root, True) for root in roots)
    while waiting:
        name, wanted = waiting.pop()
        if not seen.isdisjoint({(name, True), (name, wanted)}):
            continue
        seen.add((name, wanted))
        if name.split(".")[0] != PACKAGE:
            foreign.add(name)
            continue
        parent = name.rpartition(".")[0]
        if parent:
            waiting.appendleft((parent, False))
        module = modules.get(name) or find(name)
        if module is None:
            continue
        modules[name] = module
        waiting.extend((one, one != PACKAGE) for one in parse_imports(module, lazy=wanted))
    return modules, frozenset(foreign)


def hash_files(modules: Iterable[Module]) -> dict[str, bytes]:
    """Name -> SHA-256, of each module's file and each package's data files."""
    files = {}
    for module in modules:
        files[module.name] = sha256(module.source).digest()
        for name, content in module.data.items():
            files[f"{module.name}/{name}"] = sha256(content).digest()
    return files


def normal_record(record: str) -> bytes:
    """The lines of a distribution's RECORD that say what was installed, sorted.

    Left out: lines without a hash (byte code), scripts outside the packages (they name the interpreter's path), and
    what an installer writes about itself.

    Source: Python packaging, "Recording installed projects".
    """
    kept = []
    for line in record.splitlines():
        path, _, rest = line.rpartition(",")[0].rpartition(",")
        path = path.strip('"')
        outside = path.startswith(("..", "/"))
        noise = ".dist-info/" in path and path.rpartition("/")[2] in _RECORD_NOISE
        if rest and not outside and not noise and not path.endswith(".pyc"):
            kept.append(f"{path},{rest}")
    return "\n".join(sorted(kept)).encode()


def parse_requirement(text: str) -> str | None:
    """The normal name of a requirement that comes without any extra; None for one that belongs to an extra.

    Other markers (platform, Python version) are not weighed: what does not apply is not installed.
    """
    requirement, _, marker = text.partition(";")
    name = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if name is None or re.search(r"\bextra\b", marker):
        return None
    return normal_name(name[1])


def normal_name(name: str) -> str:
    """A distribution's name as indexes compare it. Source: Python packaging, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()
