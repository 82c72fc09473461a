"""What a program is, as it is installed now: which modules it may load, and what stands behind them. Reads files."""

import platform as python_platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from tacit.errors import PlatformError
from tacit.evidence.simulated.measure import (
    PACKAGE,
    Distribution,
    Inventory,
    Module,
    close_imports,
    hash_files,
    normal_name,
    normal_record,
    parse_requirement,
)


@dataclass(frozen=True, slots=True)
class Program:
    """A program of ours: what a manifest calls it by, and the composition roots that it starts from."""

    product_id: int
    security_version: int
    roots: tuple[str, ...]


# A marble's image holds premain and the server that it becomes, so both are measured.
_PROGRAMS = {
    "coordinator": Program(1, 1, ("coordinator",)),
    "marble": Program(2, 1, ("premain", "serve")),
}


def load_inventory(program: str) -> Inventory:
    """What the measurement of `program` ("coordinator" or "marble") is made of, as it is installed now.

    Raises:
        PlatformError: another program, or one that is not installed.
    """
    roots = [f"{PACKAGE}.programs.{root}" for root in find_program(program).roots]
    there = [root for root in roots if _find_module(root) is not None]
    if not there:
        raise PlatformError(f"the program '{program}' cannot be measured: {' and '.join(roots)} are not installed")
    modules, foreign = close_imports(there, _find_module)
    distributions, missing = _find_distributions(foreign)
    return Inventory(
        python=f"{python_platform.python_implementation()} {python_platform.python_version()}",
        files=hash_files(modules.values()),
        distributions=distributions,
        missing=missing | (set(roots) - set(there)),
    )


def find_program(program: str) -> Program:
    """The program of this name. Raises: PlatformError."""
    if program not in _PROGRAMS:
        raise PlatformError(f"no program '{program}' can be measured; there are {' and '.join(_PROGRAMS)}")
    return _PROGRAMS[program]


def _find_module(name: str) -> Module | None:
    """A module of ours as its source lies on disk now; what this process has loaded does not matter."""
    base = Path(__file__).parents[2].joinpath(*name.split(".")[1:])
    package = base / "__init__.py"
    try:
        if base.is_dir():
            source = package.read_bytes() if package.is_file() else b""
            return Module(name, source, is_package=True, data=_data_files(base))
        file = base.with_name(f"{base.name}.py")
        return Module(name, file.read_bytes(), is_package=False, data={}) if file.is_file() else None
    except OSError as exc:
        raise PlatformError(f"the module {name} cannot be measured: {exc.strerror}") from exc


def _data_files(package: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in package.iterdir()
        if file.is_file() and file.suffix not in (".py", ".pyc", ".pyi") and not file.name.startswith(".")
    }


def _find_distributions(imported: frozenset[str]) -> tuple[list[Distribution], frozenset[str]]:
    """Distributions that provide these modules, with all they require; and the modules that none provides."""
    records: dict[str, tuple[metadata.Distribution, str]] = {}
    for found in metadata.distributions():
        name = normal_name(found.name)
        # The first on the path is the one that Python would load.
        if name != PACKAGE and name not in records:
            records[name] = found, "\n" + (found.read_text("RECORD") or "")
    waiting, missing = set[str](), set[str]()
    for module in imported:
        if module.split(".")[0] in sys.stdlib_module_names:
            continue
        providers = _find_providers(module, records)
        waiting |= providers
        if not providers:
            missing.add(module.split(".")[0])
    needed: dict[str, Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in needed or name not in records:
            continue
        found, record = records[name]
        needed[name] = Distribution(name, found.version, sha256(normal_record(record)).digest())
        waiting.update(filter(None, map(parse_requirement, found.requires or ())))
    return sorted(needed.values(), key=lambda one: one.name), frozenset(missing)


def _find_providers(module: str, records: Mapping[str, tuple[metadata.Distribution, str]]) -> set[str]:
    """Names of the distributions that install a module; a namespace package is followed one step inwards."""
    path = ""
    for part in module.split("."):
        path = f"{path}/{part}" if path else part
        # A plain module, a package, or a compiled module (`x.abi3.so`).
        owns = re.compile(rf"\n{re.escape(path)}(\.py,|/__init__\.py|\.[\w-]+\.(so|pyd)|\.(so|pyd))")
        found = {name for name, (_, record) in records.items() if f"\n{path}" in record and owns.search(record)}
        if found:
            return found
    return set()
