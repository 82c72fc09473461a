"""`tacit model compare`: the command, for which `compared` does the work."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format
from tacit.errors import UsageError


def compare(
    model: Annotated[Path, typer.Argument(help="A version's folder, a model file or a capsule.")],
    *,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="f16, bf16 or int8; several times for several.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--input", help="Inputs (.npy, .npz, .json). Default: random ones.")
    ] = None,
    key: Annotated[Path | None, typer.Option("-k", "--key", help="Key of a capsule.")] = None,
    output: FormatOption = "text",
) -> None:
    """Print how far faster arithmetic is from f32, and how fast it is, for one model on this machine.

    Example: tacit model compare models/resnet50-v15-fp32/1 --precision bf16 --input images.npz
    """
    # Here, so that the other commands start without numpy and gRPC.
    from tacit.cli.inference.arrays import load_arrays
    from tacit.cli.inference.compared import EXACT, PRECISIONS, as_fields, as_lines, measure

    check_format(output)
    wanted = [EXACT, *(precision or PRECISIONS[1:])]
    if unknown := [name for name in wanted if name not in PRECISIONS]:
        raise UsageError(f"--precision {unknown[0]!r} is unknown; expected {', '.join(PRECISIONS[1:])}")
    if (key is not None) != (model.suffix == ".capsule"):
        raise UsageError("--key belongs to a capsule, and a capsule needs it")
    given = None if data is None else load_arrays(data)
    with tempfile.TemporaryDirectory(prefix="tacit-compare-") as folder:
        found = measure(model, list(dict.fromkeys(wanted)), given, key, Path(folder))
    if output == "json":
        typer.echo(json.dumps(as_fields(found)))
        return
    for line in as_lines(found, random=given is None):
        typer.echo(line)
