"""`tacit predict`: one prediction from a server whose coordinator was checked."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tacit.cli.files import OutputOption, read_input, write_output
from tacit.cli.trust import HostArgument
from tacit.client.session import connect
from tacit.errors import InputError

_MAX_ARRAYS = 1 << 30  # bytes; a gRPC message has at most twice that


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
    output: OutputOption = None,
) -> None:
    """Check the coordinator, send one input to its server over TLS, and print what comes back as JSON; with -o as a .npz file.

    Example: tacit predict localhost:4433 digits image.npy
    """
    inputs = load_arrays(file)
    with connect(host) as session:
        if session.simulated:
            typer.echo(f"Note: this is {session.tee.upper()}: nothing protects the input.", err=True)
        result = session.model(model, address=server).predict(inputs)
    named: Mapping[str, Any] = result if isinstance(result, Mapping) else {"output": result}
    if output is not None:
        memory = BytesIO()
        np.savez(memory, allow_pickle=False, **{name: np.asarray(value) for name, value in named.items()})
        write_output(output, memory.getvalue())
        typer.echo(f"Prediction written to {output}")
        return
    typer.echo(json.dumps({name: _jsonable(value) for name, value in named.items()}))


def load_arrays(path: Path) -> Any:
    """An array, or arrays by input name, from a file. Pickled objects are refused. Raises: FileInputError, InputError."""
    raw = read_input(path, largest=_MAX_ARRAYS)
    if not raw:
        raise InputError(f"{path} is empty; expected a .npy, .npz or JSON file")
    if path.suffix == ".json":
        return _parse_json(path, raw)
    try:
        loaded = np.load(BytesIO(raw), allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, SyntaxError, TypeError) as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        if "pickle" in reason:
            # An array of Python objects, or a file that is no array at all: numpy tries both as a pickle.
            reason = "it is neither .npy nor .npz, or holds Python objects, which are never loaded"
        raise InputError(
            f"{path} holds no numpy array ({reason[:200]}); numpy.save writes one, or give JSON in a .json file"
        ) from exc


def _parse_json(path: Path, raw: bytes) -> Any:
    """Nested lists as one array, or an object as arrays by input. Raises: InputError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path} is no JSON ({exc})") from exc
    arrays: dict[str, Any] = {}
    for name, item in value.items() if isinstance(value, dict) else [("", value)]:
        try:
            array = np.asarray(item)
        except (ValueError, OverflowError) as exc:
            raise InputError(f"{path}: {name or 'the list'} is no array: its rows differ in length or kind") from exc
        if array.dtype == object:
            raise InputError(
                f"{path}: {name or 'the list'} holds null, an object or too large a number; expected numbers or text"
            )
        # Plain lists go on, and not arrays: they take the type that the model declares.
        arrays[name] = item
    return arrays if isinstance(value, dict) else value


def _jsonable(value: Any) -> Any:
    """Lists of numbers and text; bytes as text."""
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind == "S":
        return np.vectorize(
            lambda item: item.decode("utf-8", "replace") if isinstance(item, bytes) else item, otypes=[object]
        )(array).tolist()
    return array.tolist()
