"""The recovery secrets that a coordinator gives once, when a manifest is set or its recovery keys are changed."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import say, write_output
from tacit.errors import FileInputError

RecoveryOption = Annotated[Path | None, typer.Option("--recoverydata", "-r", help="File for the recovery secrets.")]


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of recovery secrets: where they are, or they themselves with why no file has them. Nothing: there were none."""

    saved: Path | None = None
    secrets: str = field(default="", repr=False)
    trouble: FileInputError | None = None

    def tell_after(self, lines: Sequence[str], output: str = "text") -> None:
        """Print the lines and this, which whoever reads our output may have left: then the secrets go to standard error.

        Raises: FileInputError, where their file could not be written.
        """
        try:
            for line in lines:
                say(line, output)
            if self.secrets:
                typer.echo(self.secrets)
        except OSError:
            typer.echo(self.secrets, err=True, nl=bool(self.secrets))
            raise
        if self.saved is not None:
            say(f"Recovery data saved to: {self.saved}", output)
        if self.trouble is not None:
            raise self.trouble


def keep_recovery(secrets: Mapping[str, bytes], target: Path | None) -> Kept:
    """Write the recovery secrets to the file that was named, before anything is printed: they are given once."""
    if not secrets:
        return Kept()
    named = {name: base64.b64encode(value).decode() for name, value in secrets.items()}
    text = json.dumps({"RecoverySecrets": named}, separators=(",", ":"))
    if target is None:
        return Kept(secrets=text)
    try:
        write_output(target, text.encode(), option="-r")
    except FileInputError as exc:
        return Kept(secrets=text, trouble=exc)
    return Kept(saved=target)
