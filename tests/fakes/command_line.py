"""A command as it is typed: its exit code and what it says, with errors shown as the whole command line shows them."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import typer
from typer.testing import CliRunner

from tacit.cli.app import main
from tacit.errors import TacitError, UsageError


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run_app(app: typer.Typer, *words: object) -> Outcome:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, TacitError):
        code = 2 if isinstance(done.exception, UsageError) else 1
        message = f"Error: {done.exception}"
        assert "\n" not in message, "an error is one line"
        return Outcome(code, done.stdout, done.stderr + message + "\n")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Outcome(done.exit_code, done.stdout, done.stderr)


def run_command(function: Callable[..., None], *words: object) -> Outcome:
    app = typer.Typer()
    app.command()(function)
    return run_app(app, *words)


def run_main(*words: object) -> Outcome:
    """The whole command line, as the program `tacit` runs it; a failure is one line and never a traceback.

    Only a manifest's defects have a line each below it, indented.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    errors = [
        line for line in err.getvalue().splitlines() if not line.startswith(("Note: ", "Warning: ", "TEE: ", "  "))
    ]
    if code:
        assert len(errors) == 1, errors
        assert errors[0].startswith("Error: ")
    assert "Traceback" not in err.getvalue()
    return Outcome(code, out.getvalue(), err.getvalue())
