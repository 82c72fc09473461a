"""`tacit status`: where a coordinator stands."""

import json

import typer

from tacit.cli.files import FormatOption, check_format, printable
from tacit.cli.trust import HostArgument, InsecureOption, reach, while_doing


def status(host: HostArgument, output: FormatOption = "text", insecure: InsecureOption = False) -> None:
    """Print the state of a coordinator.

    Example: tacit status localhost:4433
    """
    check_format(output)
    with (
        reach(host, insecure=insecure, quiet=True, cached=True, recovering=True).client() as client,
        while_doing("retrieving Coordinator status"),
    ):
        found = client.status()
    if output == "json":
        mark = (
            None
            if found.mark is None
            else {"TEE": found.mark.tee, "Epoch": found.mark.epoch, "Head": found.mark.head.hex()}
        )
        typer.echo(json.dumps({"StatusCode": found.code, "StatusMessage": found.message, "State": mark}))
        return
    typer.echo(printable(f"{found.code}: {found.message}"))
    if found.mark is not None:
        typer.echo(f"TEE: {found.mark.tee.upper()}; epoch of its state: {found.mark.epoch}", err=True)
