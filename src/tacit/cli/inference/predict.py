"""`tacit predict`: one prediction from a server whose coordinator was checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.files import OutputOption, load_key_pair, read_input, write_output
from tacit.cli.trust import HostArgument
from tacit.cli.trust.through import open_way
from tacit.client.address import COORDINATOR_PORT, GRPC_PORT, parse_address
from tacit.errors import UsageError

if TYPE_CHECKING:
    from tacit.client.inference import Credential

_MAX_TOKEN = 8192  # bytes; a header is not longer


def predict(
    host: HostArgument,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A .npy array, a .npz or JSON object of arrays by input, or a JSON array."
        ),
    ],
    server: Annotated[
        str | None,
        typer.Option("--server", help="HOST:PORT of the server (default: port 8500 beside the coordinator)."),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option("--cert", "-c", help="Your certificate, as it stands in the manifest's Clients (PEM)."),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", "-k", help="Its private key (PEM).")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the bearer token that the manifest's Clients know.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Check the coordinator, send one input to its server over TLS, and print what comes back as JSON; with -o as a .npz file.

    JSON has no NaN and no infinities: they are printed as the texts "NaN", "Infinity" and "-Infinity".

    Example: tacit predict localhost:4433 digits image.npy
    """
    # Here, so that the other commands start without numpy and gRPC.
    from tacit.cli.inference.arrays import as_jsonable, as_npz, check_text, load_arrays
    from tacit.client.session import connect

    inputs = load_arrays(file)
    check_text(model)
    credential = load_credential(cert, key, token_file)
    open_way(parse_address(host, default_port=COORDINATOR_PORT))
    if server is not None:
        open_way(parse_address(server, default_port=GRPC_PORT))
    with connect(host) as session:
        if session.simulated:
            typer.echo(f"Note: this is {session.tee.upper()}: nothing protects the input.", err=True)
        result = session.model(model, address=server, credential=credential).predict(inputs)
    named: Mapping[str, Any] = result if isinstance(result, Mapping) else {"output": result}
    if output is not None:
        write_output(output, as_npz(named))
        typer.echo(f"Prediction written to {output}")
        return
    typer.echo(json.dumps({name: as_jsonable(value) for name, value in named.items()}))


def load_credential(cert: Path | None, key: Path | None, token_file: Path | None) -> "Credential | None":
    """What to show where the manifest says who may call. Raises: UsageError, InputError."""
    from tacit.client.inference import Credential

    if [cert, key].count(None) == 1:
        raise UsageError("--cert and --key belong together: a certificate, and the key that it is for")
    if cert is None and token_file is None:
        return None
    pair = load_key_pair(cert, key) if cert is not None and key is not None else None
    token = read_input(token_file, largest=_MAX_TOKEN).decode("utf-8", "replace").strip() if token_file else ""
    return Credential(pair, token)
