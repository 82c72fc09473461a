"""How a coordinator's command line is read."""

import argparse
from typing import NoReturn

from tacit.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        """One line. Raises: UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")
