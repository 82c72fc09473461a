"""`tacit platform` and `tacit package-info`: the simulated platform of this machine, and what runs on it.

The one module of the command line that reaches the evidence I/O.
"""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format, read_input
from tacit.errors import EvidenceFormatError, EvidenceSignatureError, FileInputError, PlatformError, UsageError
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
from tacit.evidence.sgx.sigstruct import find_sigstruct

_MAX_ENCLAVE = 1 << 30  # bytes; a signed enclave may hold a whole runtime

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


def package_of(program: str, folder: Path | None = None) -> PackageInfo:
    """What this installation's `program` (`coordinator` or `marble`) would show as evidence. Raises: PlatformError."""
    return load_package_info(platform_folder(folder), program=program)


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
    typer.echo(f"{anchor.tee.upper()} platform {anchor.name} in {place}")
    typer.echo(f"Root: {digest}")


def package_info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="marble|coordinator|PATH", help="A program of this installation; or a .sig file or enclave."
        ),
    ] = "marble",
    folder: FolderOption = None,
    output: FormatOption = "text",
) -> None:
    """Print the values that a manifest needs for a program: of this installation on the simulated platform, or of a signed enclave.

    Example: tacit package-info marble
    """
    check_format(output)
    info = package_of(target, folder) if target in ("marble", "coordinator") else _signed(Path(target))
    if output == "json":
        # The keys and types of a manifest's package: what is printed can be pasted there.
        values = {"TEE": str(info.tee), "UniqueID": info.unique_id.hex(), "SignerID": info.signer_id.hex()}
        numbers = {"ProductID": info.product_id, "SecurityVersion": info.security_version}
        typer.echo(json.dumps({**values, **numbers, **({"Debug": True} if info.debug else {})}))
        return
    typer.echo(f"TEE:             {info.tee}")
    typer.echo(f"UniqueID:        {info.unique_id.hex()}")
    typer.echo(f"SignerID:        {info.signer_id.hex()}")
    typer.echo(f"ProductID:       {info.product_id}")
    typer.echo(f"SecurityVersion: {info.security_version}")
    if info.debug:
        typer.echo("Debug:           true")
        typer.echo("Note: it may be started in debug mode, in which the host reads its memory.", err=True)


def _signed(path: Path) -> PackageInfo:
    """What the signer of an enclave says of it. Raises: UsageError, FileInputError, EvidenceError."""
    if not path.exists():
        raise UsageError(
            f"{path} is neither a file nor a program of this installation; expected marble, coordinator or PATH"
        )
    try:
        return find_sigstruct(read_input(path, largest=_MAX_ENCLAVE))
    except (EvidenceFormatError, EvidenceSignatureError) as exc:
        raise type(exc)(f"{path}: {exc}") from exc
