"""`tacit recover` and `tacit recover-with-signature`: the holders of recovery keys open a sealed state again.

The second one is for a key that no machine with a network may see: its holder decrypts the secret elsewhere, signs it
(`sign-secret`), encrypts it to the coordinator's key of this very recovery (`public-key`, `encrypt-secret`), and only
then is it sent.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import rsa
from typer.core import TyperGroup

from tacit.cli.coordinator.shares import (
    encrypt_share,
    load_recovery_key,
    load_share,
    parse_ephemeral_key,
    sign_share,
    write_ephemeral_key,
)
from tacit.cli.files import (
    FileFormatOption,
    FormatOption,
    OutputOption,
    about,
    check_format,
    printable,
    read_input,
    say,
    write_output,
)
from tacit.cli.trust import HostArgument, InsecureOption, Reached, reach, while_doing
from tacit.errors import FileInputError

_MAX_SECRET = 16384  # bytes; what a coordinator takes

SecretArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The recovery secret; or the recovery data of `manifest set -r`.")
]
KeyOption = Annotated[Path, typer.Option("--key", "-k", help="Private key of the recovery key (PEM).")]
NewFileOption = Annotated[Path, typer.Option("--output", "-o", help="File to write; it must not exist.")]


class SendingGroup(TyperGroup):
    """A noun that does something itself: where no verb stands behind it, `send` is meant."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # its own copy of click
        """Put the verb in where it was left out."""
        help_wanted = {"--help", "-h"} & set(args)
        if args and not help_wanted and args[0] not in self.commands:
            args = ["send", *args]
        return super().parse_args(ctx, args)


signed_app = typer.Typer(
    cls=SendingGroup,
    no_args_is_help=True,
    help="Recovery where the key's holder signs and encrypts the secret elsewhere.",
)


def recover(
    file: SecretArgument,
    host: HostArgument,
    key: KeyOption,
    insecure: InsecureOption = False,
    output: FormatOption = "text",
) -> None:
    """Decrypt a recovery secret with its key, and give it to a coordinator that lost its sealing key.

    Example: tacit recover recovery.json localhost:4433 --key recovery.key
    """
    check_format(output)
    raw, holder = read_input(file, largest=_MAX_SECRET * 64), _load_holder(key)
    reached = reach(host, insecure=insecure, quiet=output == "json", recovering=True)
    with about(file):
        share = load_share(raw, holder)
    _send(reached, share, sign_share(share, holder), output)


@signed_app.command()
def send(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The secret, as `encrypt-secret` wrote it.")],
    host: HostArgument,
    signature: Annotated[Path, typer.Option("--signature", "-s", help="As `sign-secret` wrote it.")],
    insecure: InsecureOption = False,
    output: FormatOption = "text",
) -> None:
    """Give a recovery secret and its signature to a coordinator. The word `send` may be left out.

    Example: tacit recover-with-signature send secret.enc localhost:4433 --signature secret.sig
    """
    check_format(output)
    secret, signed = (read_input(path, largest=_MAX_SECRET) for path in (file, signature))
    _send(reach(host, insecure=insecure, quiet=output == "json", recovering=True), secret, signed, output)


@signed_app.command("public-key")
def public_key(
    host: HostArgument,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Print the key that secrets are encrypted to, of a coordinator in recovery mode.

    Example: tacit recover-with-signature public-key localhost:4433 -o coordinator.pem
    """
    check_format(form)
    reached = reach(host, insecure=insecure, quiet=form == "json", recovering=True)
    with reached.client() as client, while_doing("retrieving recovery public key: retrieving recovery public key"):
        pem = write_ephemeral_key(client.recovery_public_key())
    if output is not None:
        write_output(output, pem)
    if form == "json":
        typer.echo(json.dumps({"File": None if output is None else str(output), "PEM": pem.decode()}))
    elif output is None:
        typer.echo(pem.decode())


@signed_app.command("encrypt-secret")
def encrypt_secret(
    file: SecretArgument,
    public: Annotated[
        Path, typer.Option("--coordinator-pub-key", help="Key of the coordinator, as `public-key` wrote it (PEM).")
    ],
    output: NewFileOption,
    key: Annotated[
        Path | None, typer.Option("--key", "-k", help="Private key (PEM), where the secret is still encrypted to it.")
    ] = None,
) -> None:
    """Encrypt a recovery secret to the coordinator that is being recovered.

    Example: tacit recover-with-signature encrypt-secret secret --coordinator-pub-key coordinator.pem -o secret.enc
    """
    _refuse_existing(output)
    share = _load_share(file, None if key is None else _load_holder(key))
    with about(public):
        ephemeral = parse_ephemeral_key(read_input(public))
    write_output(output, encrypt_share(share, ephemeral))


@signed_app.command("sign-secret")
def sign_secret(file: SecretArgument, key: KeyOption, output: NewFileOption) -> None:
    """Sign a recovery secret with the key that it was encrypted to.

    Example: tacit recover-with-signature sign-secret secret --key recovery.key -o secret.sig
    """
    _refuse_existing(output)
    holder = _load_holder(key)
    write_output(output, sign_share(_load_share(file, holder), holder))


def _load_holder(key: Path) -> rsa.RSAPrivateKey:
    with about(key):
        return load_recovery_key(read_input(key))


def _load_share(file: Path, holder: rsa.RSAPrivateKey | None) -> bytes:
    with about(file):
        return load_share(read_input(file, largest=_MAX_SECRET * 64), holder)


def _send(reached: Reached, secret: bytes, signature: bytes, output: str) -> None:
    with reached.client() as client, while_doing("sending recovery request"):
        done = client.recover(secret, signature)
    say(printable(done.message), output)
    if output == "json":
        typer.echo(json.dumps({"Remaining": done.remaining, "Message": done.message}))


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileInputError(f"open {path}: file exists; name another with -o")
