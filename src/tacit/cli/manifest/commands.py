"""`tacit manifest`: set, get, verify and fingerprint the manifest of a coordinator, and check one."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import OutputOption, load_manifest, parse_fingerprint, write_output
from tacit.cli.manifest import review
from tacit.cli.trust import HostArgument, InsecureOption, Reached, open_store, reach, while_doing
from tacit.errors import InputError, ManifestError
from tacit.manifest import check_manifest, parse_manifest, parse_manifest_strict

app = typer.Typer(
    no_args_is_help=True, help="The manifest: which packages may run as which marble, and what each gets."
)
app.command("lint")(review.lint)
app.command("diff")(review.diff)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Manifest, JSON or YAML.")]


@app.command("set")
def set_(
    file: FileArgument,
    host: HostArgument,
    recovery: Annotated[
        Path | None, typer.Option("--recoverydata", "-r", help="File for the recovery secrets.")
    ] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Upload what only MarbleRun's lenient reading accepts.")
    ] = False,
    insecure: InsecureOption = False,
) -> None:
    """Upload the manifest to a coordinator that was checked.

    Example: tacit manifest set manifest.json localhost:4433
    """
    reached = reach(host, insecure=insecure)
    typer.echo("Successfully verified Coordinator, now uploading manifest")
    raw = load_manifest(file)
    typer.echo(f"Manifest signature: {hashlib.sha256(raw).hexdigest()}")
    if not lenient:
        _refuse_leniency(raw)
    with reached.client() as client, while_doing("setting manifest: setting manifest"):
        secrets = client.set_manifest(raw)
    typer.echo("Manifest successfully set")
    if not insecure:
        open_store().pin_manifest(reached.host, hashlib.sha256(raw).digest())
    if secrets:
        _keep_recovery(secrets, recovery)


@app.command("get")
def get(
    host: HostArgument,
    output: OutputOption = None,
    signature: Annotated[bool, typer.Option("--signature", "-s", help="With its fingerprint.")] = False,
    insecure: InsecureOption = False,
) -> None:
    """Print the manifest of a coordinator.

    Example: tacit manifest get localhost:4433
    """
    reached = reach(host, insecure=insecure)
    typer.echo("Successfully verified Coordinator, now requesting manifest")
    stored, digest = _fetch(reached, "getting manifest")
    text = stored.decode("utf-8", "replace")
    if signature:
        text = f'{{\n"ManifestSignature": "{digest.hex()}",\n"Manifest": {text}}}'
    if output is None:
        typer.echo(text)
    else:
        write_output(output, text.encode())


@app.command("verify")
def verify(
    manifest: Annotated[
        str, typer.Argument(metavar="FILE|SHA256", help="The manifest that is expected, or its 64 hex digits.")
    ],
    host: HostArgument,
    insecure: InsecureOption = False,
) -> None:
    """Check that a coordinator holds this manifest, and pin it: every later command expects it.

    Example: tacit manifest verify manifest.json localhost:4433
    """
    expected = parse_fingerprint(manifest)
    reached = reach(host, insecure=insecure)
    _, found = _fetch(reached, "getting Coordinator manifest")
    if found != expected:
        raise InputError(
            "MarbleRun deployment is using a different manifest than expected: manifest hash does not match local hash: "
            f'"{found.hex()}" != "{expected.hex()}"'
        )
    if not insecure:
        open_store().pin_manifest(reached.host, found)
    typer.echo("OK")


@app.command("signature")
def signature(file: FileArgument) -> None:
    """Print the fingerprint of a manifest: the SHA-256 that clients pin.

    Example: tacit manifest signature manifest.json
    """
    typer.echo(hashlib.sha256(load_manifest(file)).hexdigest())


@app.command("check")
def check(file: FileArgument) -> None:
    """Read a manifest strictly and name every defect with its place.

    Example: tacit manifest check manifest.json
    """
    manifest = parse_manifest_strict(load_manifest(file))
    for warning in check_manifest(manifest):
        typer.echo(f"Warning: {warning}", err=True)
    typer.echo(
        f"OK: {len(manifest.packages)} packages, {len(manifest.marbles)} marbles, {len(manifest.secrets)} secrets"
    )


def _refuse_leniency(raw: bytes) -> None:
    """Refuse what only MarbleRun's lenient reading accepts. Raises: ManifestError."""
    try:
        parse_manifest_strict(raw)
    except ManifestError as exc:
        try:
            parse_manifest(raw)
        except ManifestError:
            raise exc from None  # no reading takes it, so there is nothing to offer
        raise ManifestError(f"{exc}\n  Mend it, or upload it as it is with --lenient") from exc


def _fetch(reached: Reached, doing: str) -> tuple[bytes, bytes]:
    """The manifest and its SHA-256, computed here. Raises: ConnectError."""
    with reached.client() as client, while_doing(f"{doing}: retrieving Coordinator manifest"):
        stored = client.manifest()
    return stored.raw, hashlib.sha256(stored.raw).digest()


def _keep_recovery(secrets: Mapping[str, bytes], target: Path | None) -> None:
    """Write the recovery secrets to their file, or print them where none was named."""
    text = json.dumps({"RecoverySecrets": {name: base64.b64encode(value).decode() for name, value in secrets.items()}})
    if target is None:
        typer.echo(text)
        return
    write_output(target, text.encode())
    typer.echo(f"Recovery data saved to: {target}")
