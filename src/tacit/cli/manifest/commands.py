"""`tacit manifest`: set, get, verify and fingerprint the manifest of a coordinator, and read its update log."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import (
    FileFormatOption,
    FormatOption,
    OutputOption,
    about,
    check_format,
    check_output,
    load_manifest,
    parse_fingerprint,
    read_input,
    say,
    write_output,
    write_shared,
)
from tacit.cli.manifest import check, review, update
from tacit.cli.manifest.display import show_updated
from tacit.cli.manifest.recovery import RecoveryOption, keep_recovery
from tacit.cli.trust import HostArgument, InsecureOption, Reached, keep_certificates, open_store, reach, while_doing
from tacit.client.connect import MANIFEST_LABEL, signatures_in
from tacit.client.coordinator import CoordinatorClient, fingerprint
from tacit.errors import ConnectError, InputError, ManifestError, NotSetError, PeerError, UsageError
from tacit.manifest import parse_manifest, parse_manifest_strict
from tacit.pki.detached import add_signature
from tacit.pki.keys import parse_private_key

app = typer.Typer(
    no_args_is_help=True, help="The manifest: which packages may run as which marble, and what each gets."
)
app.add_typer(update.app, name="update")
app.command("check")(check.check)
app.command("lint")(review.lint)
app.command("diff")(review.diff)

_WAITS_FOR_MANIFEST, _ACCEPTS_MARBLES = 2, 3

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Manifest, JSON or YAML.")]


@app.command("set")
def set_(
    file: FileArgument,
    host: HostArgument,
    recovery: RecoveryOption = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Upload what only MarbleRun's lenient reading accepts.")
    ] = False,
    insecure: InsecureOption = False,
) -> None:
    """Upload the manifest to a coordinator that was checked.

    Example: tacit manifest set manifest.json localhost:4433
    """
    check_output(recovery, option="-r")  # the secrets are given once
    loaded = None if insecure else load_manifest(file)  # with -i in MarbleRun's order, as its lines say
    reached = reach(host, insecure=insecure)
    typer.echo("Successfully verified Coordinator, now uploading manifest")
    raw = load_manifest(file) if loaded is None else loaded
    typer.echo(f"Manifest signature: {hashlib.sha256(raw).hexdigest()}")
    if not lenient:
        _refuse_leniency(raw)
    with reached.client() as client, while_doing("setting manifest: setting manifest"):
        try:
            secrets = client.set_manifest(raw)
        except PeerError as exc:
            raise PeerError(f"{exc}{_about_the_one_there(client, reached.host, raw)}") from exc
    kept = keep_recovery(secrets, recovery)
    try:
        _remember(reached, hashlib.sha256(raw).digest())
    finally:
        kept.tell_after(["Manifest successfully set"])
    if recovery is not None and not secrets:
        typer.echo(
            f"Note: {recovery} was not written: the manifest has no RecoveryKeys, so there is no secret.", err=True
        )


@app.command("get")
def get(
    host: HostArgument,
    output: OutputOption = None,
    signature: Annotated[bool, typer.Option("--signature", "-s", help="With its fingerprint.")] = False,
    updated: Annotated[
        bool,
        typer.Option("--display-update", "-u", help="With defaults, and security versions as updates raised them."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep-cert", help="Keep the coordinator's certificates too.")] = False,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Print the manifest of a coordinator.

    Example: tacit manifest get localhost:4433
    """
    check_format(form)
    reached = reach(host, insecure=insecure, quiet=form == "json", pinned=False)
    say("Successfully verified Coordinator, now requesting manifest", form)
    stored, digest = _fetch(reached, "getting manifest")
    _compare_with_pin(reached, digest)
    text = stored.decode("utf-8", "replace")
    if updated:
        with reached.client() as client, while_doing("retrieving update log: retrieving Coordinator update log"):
            text = show_updated(stored, client.update_log())
    if form == "json":
        text = json.dumps({"ManifestSignature": digest.hex(), "Manifest": text})
    elif signature:
        text = f'{{\n"ManifestSignature": "{digest.hex()}",\n"Manifest": {text}}}'
    if output is None:
        typer.echo(text)
    else:
        write_output(output, text.encode())
    if keep:
        keep_certificates(reached, asked=True)


@app.command("verify")
def verify(
    manifest: Annotated[
        str, typer.Argument(metavar="FILE|SHA256", help="The manifest that is expected, or its 64 hex digits.")
    ],
    host: HostArgument,
    insecure: InsecureOption = False,
    output: FormatOption = "text",
) -> None:
    """Check that a coordinator holds this manifest, and pin it: every later command expects it.

    Example: tacit manifest verify manifest.json localhost:4433
    """
    check_format(output)
    expected = parse_fingerprint(manifest)
    reached = reach(host, insecure=insecure, quiet=output == "json", pinned=False)
    _, found = _fetch(reached, "getting Coordinator manifest")
    if found != expected:
        raise InputError(
            "MarbleRun deployment is using a different manifest than expected: manifest hash does not match local hash: "
            f'"{found.hex()}" != "{expected.hex()}"'
        )
    _remember(reached, found)
    say("OK", output)
    if output == "json":
        typer.echo(json.dumps({"ManifestSignature": found.hex(), "TEE": reached.tee}))


@app.command("signature")
def signature(file: FileArgument, output: FormatOption = "text") -> None:
    """Print the fingerprint of a manifest: the SHA-256 that clients pin.

    Example: tacit manifest signature manifest.json
    """
    check_format(output)
    digest = hashlib.sha256(load_manifest(file)).hexdigest()
    typer.echo(json.dumps({"ManifestSignature": digest}) if output == "json" else digest)


@app.command("sign")
def sign(
    file: FileArgument,
    key: Annotated[Path, typer.Option("--key", "-k", help="Private key of one who may sign manifests (PEM).")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="File of signatures, or a folder (with / at its end) with one for each manifest."
        ),
    ],
) -> None:
    """Sign a manifest for clients that trust its signer (`tacit trust --signer`); signatures of others in the file stay.

    Example: tacit manifest sign manifest.json --key officer.key -o signatures/
    """
    if not output:  # as an unset variable in a script gives it; the folder that one is in has a name, `.`
        raise UsageError("output flag must not be empty; name a file or a folder with -o")
    raw = load_manifest(file)
    with about(key):
        signer = parse_private_key(read_input(key))
    place = Path(output)
    if output.endswith("/") or place.is_dir():
        place = signatures_in(place, fingerprint(raw))
    with about(place):
        signed = add_signature(MANIFEST_LABEL, raw, signer, read_input(place) if place.exists() else b"")
    write_shared(place, signed)
    typer.echo(f"Signed {fingerprint(raw).hex()} in {place}")


@app.command("log")
def log(
    host: HostArgument,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Print the update log: who changed the manifest or a secret, and when.

    Example: tacit manifest log localhost:4433
    """
    check_format(form)
    reached = reach(host, insecure=insecure, quiet=True, cached=True)
    say("Successfully verified Coordinator, now requesting update log", form)
    with reached.client() as client, while_doing("retrieving update log: retrieving Coordinator update log"):
        lines = client.update_log()
    text = json.dumps({"UpdateLog": [_event(line) for line in lines]}) if form == "json" else "\n".join(lines)
    if output is not None:
        write_output(output, text.encode())
        return
    say("Update log:", form)
    typer.echo(text if form == "json" else "\n".join(_on_screen(line) for line in lines))


def _on_screen(line: str) -> str:
    """A line of the log, still the same JSON: what a manifest calls its users and secrets steers no terminal."""
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in line)


def _event(line: str) -> object:
    """One line of the log as the object that it is; as text where it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return line


def _compare_with_pin(reached: Reached, digest: bytes) -> None:
    known = open_store().load_hosts().get(reached.host)
    if known is not None and known.manifest_fingerprint not in (None, digest):
        typer.echo(
            "Note: this is not the manifest that is pinned; other commands refuse until `tacit manifest verify` pins it.",
            err=True,
        )


def _remember(reached: Reached, digest: bytes) -> None:
    """Pin the manifest and keep the certificates of a coordinator that was checked."""
    store = open_store()
    known = None if reached.tee == "unverified" else store.load_hosts().get(reached.host)
    if known is not None and known.signers:
        typer.echo("Note: not pinned. Of this coordinator any manifest will do that a trusted signer signed.", err=True)
    elif known is not None:
        store.pin_manifest(reached.host, digest)
    keep_certificates(reached)


def _about_the_one_there(client: CoordinatorClient, host: str, raw: bytes) -> str:
    """Why a coordinator takes no manifest: that it has one, and whose. Empty where it has none."""
    try:
        if client.status().code != _ACCEPTS_MARBLES:
            return ""
        there = fingerprint(client.manifest().raw)
    except (ConnectError, NotSetError):
        return ""
    if there == fingerprint(raw):
        return f": this very manifest is set there already; `tacit manifest verify FILE {host}` pins it"
    return (
        f": another manifest is set there already (SHA-256 {there.hex()}). If you did not set it, somebody else did: give "
        f"that coordinator nothing. `tacit manifest get {host}` shows it; `tacit manifest update apply` changes your own"
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
        try:
            stored = client.manifest()
        except PeerError as exc:
            if client.status().code != _WAITS_FOR_MANIFEST:
                raise
            raise PeerError(
                f"{exc}: it has no manifest yet; set one with `tacit manifest set FILE {reached.host}`"
            ) from exc
    return stored.raw, hashlib.sha256(stored.raw).digest()
