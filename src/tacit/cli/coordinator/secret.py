"""`tacit secret`: what the manifest lets a user read and write."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from tacit.cli.files import (
    FileFormatOption,
    OutputOption,
    about,
    check_format,
    load_key_pair,
    read_input,
    say,
    write_output,
)
from tacit.cli.trust import HostArgument, InsecureOption, note_unpinned, reach, while_doing
from tacit.cli.trust.flags import current_flags
from tacit.cli.trust.through import service_host
from tacit.client.answers import NewSecret, ReadSecret
from tacit.client.coordinator import parse_secrets_file
from tacit.errors import InputError, UsageError
from tacit.pki.keys import CERTIFICATE_ERRORS

app = typer.Typer(no_args_is_help=True, help="Secrets that the manifest lets a user read and write.")

CertificateOption = Annotated[
    Path, typer.Option("--cert", "-c", help="Your certificate, as it stands in the manifest (PEM).")
]
KeyOption = Annotated[Path, typer.Option("--key", "-k", help="Your private key (PEM).")]

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s*(.*?)-----END \1-----", re.DOTALL)


@app.command("set")
def set_(
    file: Annotated[Path, typer.Argument(help='JSON such as {"name": {"Key": "BASE64"}}; or PEM, with --from-pem.')],
    host: HostArgument,
    cert: CertificateOption,
    key: KeyOption,
    from_pem: Annotated[
        str | None, typer.Option("--from-pem", help="Name of the secret that the PEM file holds.")
    ] = None,
    insecure: InsecureOption = False,
) -> None:
    """Give user-defined secrets their values.

    Example: tacit secret set model_key.json localhost:4433 --cert owner.crt --key owner.key
    """
    raw = read_input(file)
    with about(file):
        values = parse_secrets_file(raw) if from_pem is None else {from_pem: _pem_secret(raw)}
    user = load_key_pair(cert, key)
    reached = reach(host, insecure=insecure, quiet=True, cached=True, sending=True)
    with reached.client(user) as client, while_doing("setting secrets"):
        client.set_secrets(values)
    typer.echo("Secret successfully set")


@app.command("get")
def get(
    names_and_host: Annotated[
        list[str], typer.Argument(metavar="NAME... HOST:PORT", help="Secrets to read, then the coordinator.")
    ],
    cert: CertificateOption,
    key: KeyOption,
    output: OutputOption = None,
    insecure: InsecureOption = False,
    form: FileFormatOption = "text",
) -> None:
    """Read secrets.

    Example: tacit secret get model_key localhost:4433 --cert owner.crt --key owner.key
    """
    check_format(form)
    # With --kube the coordinator need not be named; who names it all the same writes its port.
    named = not current_flags().kube or ":" in names_and_host[-1]
    *names, host = names_and_host if named else [*names_and_host, service_host(current_flags().namespace)]
    if not names:
        raise UsageError("requires at least 2 arg(s), only received 1: tacit secret get NAME... HOST:PORT")
    user = load_key_pair(cert, key)
    reached = reach(host, insecure=insecure, quiet=True, cached=True)
    note_unpinned(reached)
    with reached.client(user) as client, while_doing("retrieving secrets: retrieving secrets"):
        found = client.secrets(names)
    fields = {name: _as_json(value) for name, value in found.items()}
    if output is not None:
        write_output(output, json.dumps(fields, separators=(",", ":")).encode())
        say(f"Saved secrets to: {output}", form)
    elif form == "json":
        typer.echo(json.dumps(fields, indent=2))
    else:
        for name, value in found.items():
            typer.echo(f"{name}:\n{_describe(value)}")


def _pem_secret(raw: bytes) -> NewSecret:
    """The first certificate and the first private key of a PEM file, as their bytes are. Raises: InputError."""
    found: dict[str, bytes] = {}
    for label, body in _PEM_BLOCK.findall(raw):
        kind = "Cert" if label == b"CERTIFICATE" else "Private" if b"PRIVATE" in label else None
        if kind is None:
            raise InputError(f"unrecognized PEM type for secret: {label.decode()}; expected CERTIFICATE or PRIVATE KEY")
        try:
            found.setdefault(kind, base64.b64decode(b"".join(body.split()), validate=True))
        except binascii.Error as exc:
            raise InputError(f"the {label.decode()} block in the file is damaged: its base64 cannot be read") from exc
    if not found:
        raise InputError("the file has no PEM block; expected a CERTIFICATE, a PRIVATE KEY, or both")
    return NewSecret(certificate=found.get("Cert", b""), private=found.get("Private", b""))


def _describe(value: ReadSecret) -> str:
    """A secret as MarbleRun's command line prints it; of a certificate the subject instead of its whole structure."""
    rows: list[tuple[str, object]] = [("Type", value.type)]
    if value.type == "plain":
        rows.append(("Data", _go_bytes(value.private)))
    else:
        rows.append(("UserDefined", str(value.user_defined).lower()))
        if value.size or value.type == "symmetric-key":
            rows.append(("Size", value.size))
        if value.type == "symmetric-key":
            rows.append(("Key", _go_bytes(value.private)))
        else:
            rows += [
                ("Valid For", value.valid_for),
                ("Certificate", _subject(value.certificate)),
                ("Public Key", _go_bytes(value.public)),
                ("Private Key", _go_bytes(value.private)),
            ]
    return "".join(f"\t{name + ':':<14} {content}\n" for name, content in rows)


def _subject(certificate: bytes) -> str:
    """Whom a certificate (DER) names; empty where there is none."""
    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string() if certificate else ""
    except CERTIFICATE_ERRORS:
        return "(unreadable)"


def _go_bytes(content: bytes) -> str:
    """Bytes as MarbleRun's command line prints them: a list of decimal numbers."""
    return "[" + " ".join(str(byte) for byte in content) + "]"


def _as_json(value: ReadSecret) -> Mapping[str, object]:
    def text(content: bytes) -> str | None:
        return base64.b64encode(content).decode() if content else None

    return {
        "Type": value.type,
        "Size": value.size,
        "Shared": value.shared,
        "UserDefined": value.user_defined,
        "Cert": text(value.certificate),
        "ValidFor": value.valid_for,
        "Private": text(value.private),
        "Public": text(value.public),
    }
