"""`tacit platform`: the simulated platform of this machine, and what runs on it."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format
from tacit.errors import FileInputError, PlatformError, UsageError
from tacit.evidence import Tee
from tacit.evidence.fetch import load_anchor
from tacit.evidence.issue import (
    PLATFORM_FILE,
    PackageInfo,
    default_platform_folder,
    export_platform,
    import_platform,
    init_platform,
    load_package_info,
)

app = typer.Typer(
    no_args_is_help=True,
    help="The simulated TEE platform of this machine. It protects nothing: it is for trying, learning and testing.",
)

FolderOption = Annotated[
    Path | None,
    typer.Option("--platform", help="Folder of the platform (default: $TACIT_PLATFORM, else below ~/.local/share)."),
]


def platform_folder(folder: Path | None = None) -> Path:
    """The platform's folder: the one named, else the one of the environment."""
    return folder or default_platform_folder(os.environ)


def package_of(program: str, folder: Path | None = None, tee: str = str(Tee.SIMULATED)) -> PackageInfo:
    """What this installation's `program` (`coordinator` or `marble`) would show as evidence, simulated as `tee`.

    Raises: PlatformError, UsageError.
    """
    kinds = tuple(kind for kind in Tee if kind.is_simulated)
    if tee not in kinds:
        raise UsageError(f"--tee {tee} is no kind of simulation; expected one of {', '.join(kinds)}")
    return load_package_info(platform_folder(folder), program=program, tee=Tee(tee))


def ensure_platform(folder: Path | None = None) -> Path:
    """The platform's folder, made if there is none yet. Raises: PlatformError."""
    place = platform_folder(folder)
    file = place / PLATFORM_FILE
    if not file.exists():
        try:
            init_platform(place, now=datetime.now(UTC))
        except PlatformError:
            if not file.exists():  # else another process made it in this very moment
                raise
    return place


def whole_platform(folder: Path | None = None) -> bytes:
    """The platform with its keys, as `export` writes it; made if there is none yet. Raises: PlatformError."""
    place = ensure_platform(folder)
    with TemporaryDirectory(prefix="tacit-") as temporary:
        file = Path(temporary, PLATFORM_FILE)
        export_platform(place, file, public=False)
        return file.read_bytes()


@app.command()
def init(folder: FolderOption = None) -> None:
    """Make a simulated platform, with a root and keys of its own.

    Example: tacit platform init
    """
    place = platform_folder(folder)
    init_platform(place, now=datetime.now(UTC))
    typer.echo(f"SIMULATED platform made in {place}")
    typer.echo("It protects nothing. Other machines trust it after `tacit platform export` here and `import` there.")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write the platform.")],
    folder: FolderOption = None,
    public: Annotated[
        bool, typer.Option("--public", help="Only what a client needs: the root and the collateral, no key.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write the platform into one file for other machines.

    Example: tacit platform export --public platform.json
    """
    if file.is_file() and not force:
        raise FileInputError(f"{file} exists already, and may hold another platform's keys; --force replaces it")
    export_platform(platform_folder(folder), file, public=public)
    typer.echo(f"SIMULATED platform written to {file}" + ("" if public else " with its private keys"))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `tacit platform export` wrote.")],
    folder: FolderOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of another platform; what that one sealed is lost.")
    ] = False,
) -> None:
    """Take over a platform that another machine exported.

    Example: tacit platform import platform.json
    """
    place = platform_folder(folder)
    import_platform(file, place, replace=replace)
    typer.echo(f"SIMULATED platform taken over into {place}")


@app.command()
def show(folder: FolderOption = None, output: FormatOption = "text") -> None:
    """Print which simulated platform this machine has.

    Example: tacit platform show
    """
    check_format(output)
    place = platform_folder(folder)
    anchor = load_anchor(place)
    digest = hashlib.sha256(anchor.root_der).hexdigest()
    if output == "json":
        typer.echo(json.dumps({"TEE": str(anchor.tee), "Name": anchor.name, "Folder": str(place), "Root": digest}))
        return
    typer.echo(f"{anchor.tee.upper()} platform in {place}: {anchor.name}")
    typer.echo(f"Root: {digest}")
