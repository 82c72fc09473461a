"""How a command line is read, and how a program says what is wrong with it."""

import argparse
import sys
from typing import NoReturn

from tacit.errors import TacitError, UsageError


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """One line. Raises: UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def fail(program: str, exc: TacitError, *, code: int) -> int:
    """Say in one line why the program ends; its exit code."""
    text = " ".join(str(exc).split("\n"))
    print(f"{program}: {text}", file=sys.stderr, flush=True)  # noqa: T201 -- for the person who started it
    return code
