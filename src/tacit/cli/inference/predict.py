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

from tacit.cli.files import OutputOption, load_key_pair, read_input, write_output
from tacit.cli.trust import HostArgument
from tacit.cli.trust.through import open_way
from tacit.client.address import COORDINATOR_PORT, GRPC_PORT, parse_address
from tacit.client.inference import Credential
from tacit.client.session import connect
from tacit.errors import InputError, UsageError

_MAX_TOKEN = 8192  # bytes; a header is not longer
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

    Example: tacit predict localhost:4433 digits image.npy
    """
    inputs = load_arrays(file)
    _check_text(model)
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
        memory = BytesIO()
        np.savez(memory, allow_pickle=False, **{name: np.asarray(value) for name, value in named.items()})
        write_output(output, memory.getvalue())
        typer.echo(f"Prediction written to {output}")
        return
    typer.echo(json.dumps({name: _jsonable(value) for name, value in named.items()}))


def _check_text(word: str) -> None:
    """Refuse a name that no request can hold. Raises: InputError."""
    try:
        word.encode()
    except UnicodeEncodeError as exc:
        raise InputError(
            f"{word!r} is no text, so nothing is called that; check the name of the model or input"
        ) from exc


def load_credential(cert: Path | None, key: Path | None, token_file: Path | None) -> Credential | None:
    """What to show where the manifest says who may call. Raises: UsageError, InputError."""
    if [cert, key].count(None) == 1:
        raise UsageError("--cert and --key belong together: a certificate, and the key that it is for")
    if cert is None and token_file is None:
        return None
    pair = load_key_pair(cert, key) if cert is not None and key is not None else None
    token = read_input(token_file, largest=_MAX_TOKEN).decode("utf-8", "replace").strip() if token_file else ""
    return Credential(pair, token)


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
        _check_text(name)
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
