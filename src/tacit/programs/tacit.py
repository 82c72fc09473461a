"""The program `tacit`: the owner's command line."""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # grpcio writes lines of its own about failed connections; ours say it once, with the fix. It reads this when imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tacit.cli.app import main as run

    sys.exit(run())
