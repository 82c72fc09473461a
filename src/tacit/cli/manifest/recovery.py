"""The recovery secrets that a coordinator gives once, when a manifest is set or its recovery keys are changed."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import say, write_output
from tacit.errors import FileInputError

RecoveryOption = Annotated[Path | None, typer.Option("--recoverydata", "-r", help="File for the recovery secrets.")]


def keep_recovery(secrets: Mapping[str, bytes], target: Path | None, *, output: str = "text") -> None:
    """Write the recovery secrets to their file, or print them where none was named.

    They are given once: where the file cannot be written they are printed, and then that is said.
    Raises: FileInputError.
    """
    named = {name: base64.b64encode(value).decode() for name, value in secrets.items()}
    text = json.dumps({"RecoverySecrets": named}, separators=(",", ":"))
    if target is None:
        typer.echo(text)
        return
    try:
        write_output(target, text.encode(), option="-r")
    except FileInputError:
        typer.echo(text)
        raise
    say(f"Recovery data saved to: {target}", output)
