"""`tacit predict`: one prediction from a server whose coordinator was checked."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tacit.cli.trust import HostArgument, read_input
from tacit.client.session import connect
from tacit.errors import InputError


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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a .npz file instead of printing JSON.")
    ] = None,
) -> None:
    """Check the coordinator, send one input to its server over TLS, and print what comes back.

    Example: tacit predict localhost:4433 digits image.npy
    """
    inputs = load_arrays(file)
    with connect(host) as session:
        if session.simulated:
            typer.echo(f"Note: this is {session.tee.upper()}: nothing protects the input.", err=True)
        result = session.model(model, address=server).predict(inputs)
    named: Mapping[str, Any] = result if isinstance(result, Mapping) else {"output": result}
    if output is not None:
        np.savez(output, allow_pickle=False, **{name: np.asarray(value) for name, value in named.items()})
        typer.echo(f"Prediction written to {output}")
        return
    typer.echo(json.dumps({name: _jsonable(value) for name, value in named.items()}))


def load_arrays(path: Path) -> Any:
    """An array, or arrays by input name, from a file. Pickled objects are refused. Raises: FileInputError, InputError."""
    raw = read_input(path)
    if not raw:
        raise InputError(f"{path} is empty; expected a .npy, .npz or JSON file")
    if path.suffix == ".json":
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise InputError(f"{path} is no JSON ({exc})") from exc
        return (
            {name: np.asarray(item) for name, item in value.items()} if isinstance(value, dict) else np.asarray(value)
        )
    try:
        loaded = np.load(BytesIO(raw), allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (ValueError, OSError, EOFError, KeyError) as exc:
        raise InputError(
            f"{path} holds no numpy array ({exc}); numpy.save writes one, or give JSON in a .json file"
        ) from exc


def _jsonable(value: Any) -> Any:
    """Lists of numbers and text; bytes as text."""
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind == "S":
        return np.vectorize(
            lambda item: item.decode("utf-8", "replace") if isinstance(item, bytes) else item, otypes=[object]
        )(array).tolist()
    return array.tolist()
