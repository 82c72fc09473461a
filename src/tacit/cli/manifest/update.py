"""`tacit manifest update`: change the manifest of a running coordinator, by one user or several."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.coordinator.secret import CertificateOption, KeyOption
from tacit.cli.files import (
    FileFormatOption,
    FormatOption,
    OutputOption,
    check_format,
    check_output,
    load_key_pair,
    load_manifest,
    printable,
    write_output,
)
from tacit.cli.manifest.recovery import RecoveryOption, keep_recovery
from tacit.cli.trust import HostArgument, InsecureOption, Reached, open_store, reach, while_doing
from tacit.client.answers import UpdateOutcome
from tacit.client.coordinator import fingerprint

app = typer.Typer(no_args_is_help=True, help="Change the manifest of a running coordinator.")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Manifest, JSON or YAML.")]


@app.command()
def apply(
    file: FileArgument,
    host: HostArgument,
    cert: CertificateOption,
    key: KeyOption,
    recovery: RecoveryOption = None,
    insecure: InsecureOption = False,
    output: FormatOption = "text",
) -> None:
    """Submit an update: packages alone with higher security versions, or a whole manifest.

    Example: tacit manifest update apply next.json localhost:4433 --cert owner.crt --key owner.key
    """
    check_format(output)
    given = _Given(file, cert, key, recovery)
    reached = reach(host, insecure=insecure, quiet=True, cached=True, sending=True)
    with reached.client(given.user) as client, while_doing("applying update: applying manifest update"):
        outcome = client.update(given.raw)
    verb = "user still needs" if outcome.needed == 1 else "users still need"
    waits = (
        "Update manifest submitted successfully.",
        "Changes are pending and have not been applied yet.",
        f"{outcome.needed} {verb} to acknowledge the update manifest.",
        f"The following users may acknowledge the update: {', '.join(outcome.missing)}",
    )
    _finish(reached, given, outcome, waits if outcome.needed else ("Update manifest set successfully",), output)


@app.command()
def acknowledge(
    file: FileArgument,
    host: HostArgument,
    cert: CertificateOption,
    key: KeyOption,
    recovery: RecoveryOption = None,
    insecure: InsecureOption = False,
    output: FormatOption = "text",
) -> None:
    """Agree to the update that waits: FILE is the very manifest that was submitted. The last one applies it.

    Example: tacit manifest update acknowledge next.json localhost:4433 --cert bob.crt --key bob.key
    """
    check_format(output)
    given = _Given(file, cert, key, recovery)
    reached = reach(host, insecure=insecure, quiet=True, cached=True, sending=True)
    doing = "acknowledging update manifest: sending manifest update acknowledgement"
    with reached.client(given.user) as client, while_doing(doing):
        outcome = client.acknowledge_update(given.raw)
    _finish(reached, given, outcome, ("Acknowledgement successful:", outcome.message), output)


@app.command()
def cancel(host: HostArgument, cert: CertificateOption, key: KeyOption, insecure: InsecureOption = False) -> None:
    """Drop the update that waits.

    Example: tacit manifest update cancel localhost:4433 --cert owner.crt --key owner.key
    """
    user = load_key_pair(cert, key)
    reached = reach(host, insecure=insecure, quiet=True, cached=True)
    with reached.client(user) as client, while_doing("canceling update: sending manifest update cancel"):
        client.cancel_update()
    typer.echo("Cancellation successful")


@app.command()
def get(
    host: HostArgument,
    output: OutputOption = None,
    missing: Annotated[bool, typer.Option("--missing", help="Who has not acknowledged it, instead.")] = False,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Print the update that waits, as it was submitted.

    Example: tacit manifest update get localhost:4433
    """
    check_format(form)
    reached = reach(host, insecure=insecure, quiet=True, cached=True)
    doing = "retrieving pending update manifest: retrieving pending manifest update"
    with reached.client() as client, while_doing(doing):
        pending = client.pending_update()
    content = pending.manifest
    if form == "json":
        manifest = pending.manifest.decode("utf-8", "replace")
        fields = {"Manifest": manifest, "MissingUsers": list(pending.missing), "Message": pending.message}
        content = json.dumps(fields).encode() + b"\n"
    elif missing:
        names = " ".join(pending.missing)
        content = f"{printable(f'The following users have not yet acknowledged the update: [{names}]')}\n".encode()
    if output is not None:
        write_output(output, content)
    else:
        typer.echo(content.decode("utf-8", "replace"), nl=False)


class _Given:
    """What a user gives to an update, read before anybody is asked. Raises: FileInputError, InputError, PkiError."""

    def __init__(self, file: Path, cert: Path, key: Path, recovery: Path | None) -> None:
        self.user = load_key_pair(cert, key)
        self.raw = load_manifest(file)
        self.recovery = recovery
        check_output(recovery, option="-r")


def _finish(reached: Reached, given: _Given, outcome: UpdateOutcome, lines: Sequence[str], output: str) -> None:
    """Recovery secrets where the update changed the keys, what is expected from now on, and the outcome in lines or JSON."""
    kept = keep_recovery(outcome.recovery_secrets, given.recovery)
    try:
        _follow(reached, given.raw, outcome)
    finally:
        kept.tell_after(lines, output)
        if output == "json":
            fields = {"MissingAcknowledgments": outcome.needed, "MissingUsers": list(outcome.missing)}
            typer.echo(json.dumps(fields))


def _follow(reached: Reached, raw: bytes, outcome: UpdateOutcome) -> None:
    """Pin the manifest that this user gave, where it is the one in force now and another one was pinned."""
    store = open_store()
    known = store.load_hosts().get(reached.host)
    if outcome.needed or reached.tee == "unverified" or known is None or known.manifest_fingerprint is None:
        return
    with reached.client() as client:
        stored = client.manifest()
    if fingerprint(stored.raw) == fingerprint(raw):
        store.pin_manifest(reached.host, fingerprint(raw))
