"""`tacit log`: a coordinator's audit log, to read, to keep, and to check without the coordinator."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.core import TyperGroup

from tacit.cli.coordinator.secret import CertificateOption, KeyOption
from tacit.cli.files import (
    FileFormatOption,
    FormatOption,
    OutputOption,
    check_format,
    load_key_pair,
    printable,
    read_input,
    write_output,
)
from tacit.cli.trust import HostArgument, InsecureOption, open_store, reach, while_doing
from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.log import MAX_LINE, export_log, verify_export
from tacit.errors import FileInputError, InputError, NotTrustedError, PeerError

_ABOUT = ("number", "time", "event", "salt")


class _Group(TyperGroup):
    """`tacit log HOST:PORT` is `tacit log show HOST:PORT`."""

    default_command = "show"

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [self.default_command, *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0].startswith("-") and args[0] != "--help":
            args = [self.default_command, *args]  # an option first: it is that of `show`
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="The audit log of a coordinator: who did what, and which server got which keys.",
)

AfterOption = Annotated[int, typer.Option("--after", min=0, help="Leave out entries up to this number.")]


@app.command()
def show(
    host: HostArgument,
    cert: CertificateOption,
    key: KeyOption,
    output: OutputOption = None,
    after: AfterOption = 0,
    form: FileFormatOption = "text",
    insecure: InsecureOption = False,
) -> None:
    """Print the log, or export it as JSON lines that `tacit log verify` checks. The word `show` may be left out.

    Example: tacit log show localhost:4433 --cert officer.crt --key officer.key -o log.jsonl
    """
    check_format(form)
    user = load_key_pair(cert, key)
    with reach(host, insecure=insecure, quiet=True).client(user) as client, while_doing("reading the log"):
        lines = export_log(client.log, after)
        if output is not None:
            written = [line + b"\n" for line in lines]
            write_output(output, b"".join(written))
            typer.echo(
                f"Log written to {output}; check it with: tacit log verify {output} {host}{_beginning(written[0])}"
            )
            last = written[-1]
        else:
            last = _print(lines, form)
    _note_end(last, after)


def _beginning(first: bytes) -> str:
    """What `verify` has to be told where an export does not begin with the first entry."""
    begins = json.loads(first).get("begins") if first.startswith(b'{"begins":') else None
    return f" --after {begins['after']}" if begins else ""


def _print(lines: Iterator[bytes], form: str) -> bytes:
    """The last line, which is the mark."""
    line = b""
    for line in lines:
        text = line.decode() if form == "json" else _for_a_person(line)
        if text:
            typer.echo(text)
    return line


def _note_end(mark: bytes, after: int) -> None:
    entries = json.loads(mark)["mark"]["entries"]
    if entries <= after:
        typer.echo(f"The log has no entry after {after}: it ends at entry {entries}", err=True)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What `tacit log HOST:PORT -o FILE` wrote; - for standard input.")],
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST:PORT]", help="Whose log it is: its root was remembered when checked.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="The root certificate (PEM), in place of HOST:PORT.")
    ] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="The export begins after this entry.")] = 0,
    older: Annotated[bool, typer.Option("--older", help="It was made before this client saw the log last.")] = False,
    output: FormatOption = "text",
) -> None:
    """Check an export: nothing is missing, moved or altered, and the coordinator's root key signed its end.

    Works without the coordinator. What this client remembers of it must be in the log too; of an export that was made
    earlier `--older` says so, and then an end that was cut off cannot be told.

    Example: tacit log verify log.jsonl localhost:4433
    """
    check_format(output)
    certificate = _root(host, root)
    seen = open_store().load_sighting(certificate.public_bytes(Encoding.DER))
    log = None if seen is None or older else seen.log
    verified = verify_export(_lines(file), certificate, after=after, seen=log)
    first = verified.begins.number + 1
    if output == "json":
        typer.echo(json.dumps({"first": first, "last": verified.ends.number, "epoch": verified.epoch}))
    else:
        typer.echo(f"Entries {first} to {verified.ends.number} are whole and signed, with state {verified.epoch}")
    if older:
        typer.echo("Not compared with what was seen of this log, so an end that was cut off cannot be told", err=True)
    elif log is None:
        typer.echo("Nothing was remembered of this coordinator, so a log that ends too early cannot be told", err=True)


def _root(host: str | None, path: Path | None) -> x509.Certificate:
    """The pinned root. Raises: InputError, NotTrustedError, FileInputError."""
    if (host is None) is (path is None):
        raise InputError("whose log is it? Give HOST:PORT, or the root certificate with --root")
    if path is not None:
        try:
            return x509.load_pem_x509_certificate(read_input(path))
        except ValueError as exc:
            raise FileInputError(f"{path} holds no certificate (PEM): {exc}") from exc
    address = str(parse_address(host or "", default_port=COORDINATOR_PORT))
    der = open_store().load_expectation(address).root_der
    if der is None:
        raise NotTrustedError(f"the root of {address} was not seen yet; check it once with `tacit status {address}`")
    return x509.load_der_x509_certificate(der)


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, however large; of one that is longer than an entry may be, only so much that it is refused.

    Raises: FileInputError.
    """
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as stream:
            while line := stream.readline(MAX_LINE + 2):
                yield line.rstrip(b"\n")
    except OSError as exc:
        raise FileInputError(f"open {file}: {(exc.strerror or str(exc)).lower()}") from exc


def _for_a_person(line: bytes) -> str:
    """One entry as a line of text; nothing for the mark. Raises: PeerError."""
    try:
        said: dict[str, Any] = json.loads(line)
        if "mark" in said:
            return ""
        if "begins" in said:
            return f"(entries up to {said['begins']['after']} are not here)"
        details = " ".join(f"{name}={_shown(value)}" for name, value in said.items() if name not in _ABOUT)
        return printable(f"{said['number']:>6}  {said['time']}  {said['event']}  {details}".rstrip())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise PeerError(
            f"the coordinator gave a line that is no entry of an audit log ({printable(line.decode()[:60])}); expected JSON "
            "with number, time and event. Is it a coordinator of tacit's?"
        ) from exc


def _shown(value: object) -> str:
    plain = isinstance(value, str) and value and " " not in value and value.isprintable()
    return str(value) if plain else json.dumps(value, separators=(",", ":"))
