"""The program `tacit`: the owner's command line."""

import os
import signal
import sys

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _open_missing_streams()
    # grpcio writes lines of its own about failed connections; ours say it once, with the fix. It reads this when imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        _end_as_by_ctrl_c()
        from tacit.cli.app import main as run

        code = run()
    except KeyboardInterrupt:  # while everything is still being imported
        print("Interrupted.", file=sys.stderr)  # noqa: T201  # the last word of this program
        code = 130
    sys.exit(code)


def _end_as_by_ctrl_c() -> None:
    """Have `kill` and a closed terminal take away what is half done too, a model's plaintext before all."""
    for number in _ENDINGS:
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` asks for a closed terminal to be ignored
            signal.signal(number, signal.default_int_handler)


def _open_missing_streams() -> None:
    """Give what the caller closed (`>&-`) to nobody: the next file opened would take its number, and get our lines."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
