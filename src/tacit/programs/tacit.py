"""The program `tacit`: the owner's command line."""

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from tacit.cli.app import main as run

    sys.exit(run())
