"""Puts a mutant in place of what it was made of, in this process: `exchange`."""

import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from mutants import Mutant


def forget_all() -> None:
    """What functions remember of calls before would hide what became of them."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tacit."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def code_of(source: str, file: str, function: str) -> CodeType | None:
    """The code of a function by its dotted name."""
    found = compile(source, file, "exec")
    for name in function.split("."):
        inner = [one for one in found.co_consts if isinstance(one, CodeType) and one.co_name == name]
        if len(inner) != 1:
            return None
        found = inner[0]
    return found


def plain(value: Any) -> FunctionType | None:
    """The function under what decorators made of it."""
    while not isinstance(value, FunctionType):
        value = getattr(value, "fget", None) or getattr(value, "__func__", None) or getattr(value, "__wrapped__", None)
        if value is None:
            return None
    return plain(value.__wrapped__) if hasattr(value, "__wrapped__") else value


def exchange(module: ModuleType, mutant: Mutant, file: str) -> None:
    """Put the mutant in place of what it was made of, in this process."""
    forget_all()
    names = mutant.function.split(".") if mutant.function else []
    owner: Any = module
    for at, name in enumerate(names):
        owner = vars(owner).get(name)
        function = plain(owner)
        if function is not None:
            code = code_of(mutant.source, file, ".".join(names[: at + 1]))
            if code is not None and code.co_freevars == function.__code__.co_freevars:
                function.__code__ = code
                return
            break
    fresh = anew(module, mutant, file)
    for name, value in list(fresh.items()):
        old = vars(module).get(name)
        if name.startswith("__") or old is None or isinstance(value, FunctionType | type) or plain(value):
            continue
        if old != value:
            for other in [m for n, m in sys.modules.items() if n.startswith(("tacit.", "fakes")) or "test_" in n]:
                if vars(other).get(name) is old or (name in vars(other) and vars(other)[name] == old):
                    setattr(other, name, value)


def anew(module: ModuleType, mutant: Mutant, file: str) -> dict[str, Any]:
    """What the mutated module would define."""
    fresh: dict[str, Any] = {"__name__": module.__name__, "__file__": file, "__package__": module.__package__}
    exec(compile(mutant.source, file, "exec"), fresh)
    return fresh
