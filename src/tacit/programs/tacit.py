"""The program `tacit`: the owner's command line."""

import os
import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # grpcio writes lines of its own about failed connections; ours say it once, with the fix. It reads this when imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from tacit.cli.app import main as run

        code = run()
    except KeyboardInterrupt:  # while everything is still being imported
        print("Interrupted.", file=sys.stderr)  # noqa: T201  # the last word of this program
        code = 130
    sys.exit(code)
