"""`tacit certificate`: the certificates of a coordinator, written to MarbleRun's files."""

import json
from pathlib import Path

import typer

from tacit.cli.files import FileFormatOption, OutputOption, check_format, say, write_output
from tacit.cli.trust import HostArgument, InsecureOption, Reached, note_unpinned, reach

app = typer.Typer(no_args_is_help=True, help="Certificates of a coordinator, once its evidence was checked.")


@app.command()
def root(
    host: HostArgument,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Write the coordinator's root certificate.

    Example: tacit certificate root localhost:4433 -o root.crt
    """
    reached = _reach(host, insecure=insecure, form=form)
    _write(output or Path("marblerunRootCA.crt"), reached.root_pem, "Root certificate", form)


@app.command()
def intermediate(
    host: HostArgument,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Write the certificate that signs the servers of this manifest: what a client needs to reach them.

    Example: tacit certificate intermediate localhost:4433 -o tensorflow.crt
    """
    reached = _reach(host, insecure=insecure, form=form)
    note_unpinned(reached)
    _write(output or Path("marblerunIntermediateCA.crt"), reached.intermediate_pem, "Intermediate certificate", form)


@app.command()
def chain(
    host: HostArgument,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Write the intermediate and the root certificate.

    Example: tacit certificate chain localhost:4433 -o chain.crt
    """
    reached = _reach(host, insecure=insecure, form=form)
    note_unpinned(reached)
    _write(
        output or Path("marblerunChainCA.crt"), reached.intermediate_pem + reached.root_pem, "Certificate chain", form
    )


def _reach(host: str, *, insecure: bool, form: str) -> Reached:
    check_format(form)
    return reach(host, insecure=insecure, quiet=form == "json")


def _write(target: Path, pem: bytes, what: str, form: str) -> None:
    write_output(target, pem)
    say(f"{what} written to {target}", form)
    if form == "json":
        typer.echo(json.dumps({"File": str(target), "PEM": pem.decode()}))
