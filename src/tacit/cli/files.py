"""Files that a person names for or beside a coordinator: read when small enough, written for their owner alone.

Not found reads as in MarbleRun's command line, whose scripts may look for it.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from tacit.errors import FileInputError, InputError, PkiError, TacitError, UsageError
from tacit.manifest.codec.text import MAX_SIZE, JsonSyntaxError, parse_text, position
from tacit.manifest.yaml_text import convert_yaml
from tacit.pki import KeyPair, parse_key_pair
from tacit.vault.files import sync_folder

MAX_INPUT = 16 << 20  # bytes; a manifest or a file of secrets
_NAME_KEPT = 60  # characters of a name in that of its unfinished file, which must not grow longer than 255 bytes
_DIGEST = 64  # hexadecimal digits of a SHA-256


def _named(path: Path | None) -> Path | None:
    """Refuse an empty name, as an unset variable in a script gives it. Raises: UsageError."""
    if path == Path():
        raise UsageError("output flag must not be empty; name a file with -o")
    return path


OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", callback=_named)]
FormatOption = Annotated[
    str, typer.Option("--output", "--format", metavar="text|json", help="For a person, or for a program.")
]
# Where -o and --output name a file, as they do in MarbleRun's command line.
FileFormatOption = Annotated[str, typer.Option("--format", metavar="text|json", help="For a person, or for a program.")]


def check_format(text: str) -> None:
    """Refuse an unknown form of output. Raises: UsageError."""
    if text not in ("text", "json"):
        raise UsageError(f"the form {text!r} is unknown; expected text or json")


def say(line: str, output: str) -> None:
    """A line for a person: on standard output, unless that is for a program."""
    typer.echo(line, err=output == "json")


def printable(line: str) -> str:
    """A line of its own: what a file or another machine calls things must not steer the terminal or forge another line."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


@contextlib.contextmanager
def about(path: Path | str) -> Iterator[None]:
    """Say of which file a refusal of what is in it is, where that does not stand in it yet. Raises: TacitError."""
    try:
        yield
    except TacitError as exc:
        if str(path) not in str(exc):
            exc.args = (f"{path}: {exc.args[0]}", *exc.args[1:])
        raise


def read_input(path: Path, *, largest: int = MAX_INPUT) -> bytes:
    """A file that somebody named, or what comes out of a pipe, of at most `largest` bytes. Raises: FileInputError."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir() or path.is_fifo()):
            # Reading a device could wait for ever. A pipe (`<(...)`, /dev/stdin) is how a secret comes without a disk.
            raise FileInputError(f"open {path}: not a regular file; name a file, or a pipe")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = b"" if size > largest else stream.read(largest + 1)
        if max(size, len(raw)) > largest:
            much = f"has {size} bytes, and" if size > largest else "gives more bytes than are expected:"
            raise FileInputError(f"{path} {much} at most {largest} are expected; is it the right file?")
        return raw
    except FileNotFoundError as exc:
        raise FileInputError(
            f"open {path}: no such file or directory; check its name and the folder that you are in"
        ) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise FileInputError(f"open {path}: {reason.lower()}") from exc


def write_output(path: Path, content: bytes, *, option: str = "-o") -> None:
    """Write a file for its owner alone, whole or not at all, through a link to what it names.

    What is no file (a pipe, a device, our own output) is written into, and never replaced. `option` is the one that named
    it. Raises: FileInputError.
    """
    with _writing(path, option):
        if _is_stream(path):
            with _open_stream(path) as stream:
                stream.write(content)
        else:
            with _beside(path) as (temporary, target):
                _replace(temporary, target, content, mode=0o600)


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that is no secret, whole or not at all: who could read the old one can read it. Raises: FileInputError."""
    with _writing(path, "-o"):
        path.parent.mkdir(exist_ok=True)
        with _beside(path) as (temporary, target):
            mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
            _replace(temporary, target, content, mode=mode)


def check_output(path: Path | None, *, option: str = "-o") -> None:
    """Make sure that a file can be written, before what cannot be had twice is asked for. Raises: FileInputError."""
    if path is None:
        return
    with _writing(path, option):
        if not _is_stream(path):
            with _beside(path):
                pass


@contextlib.contextmanager
def _writing(path: Path, option: str) -> Iterator[None]:
    """One line for what goes wrong with a file. Raises: FileInputError."""
    if path.is_dir():
        raise FileInputError(f"cannot write {path}: it is a directory; name a file with {option}")
    try:
        yield
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise FileInputError(f"cannot write {path}: {reason}; name another file with {option}") from exc


def _is_stream(path: Path) -> bool:
    """Whether it is there and no file, or the file that our own output goes to."""
    return path.exists() and (not path.is_file() or _own_output(path) is not None)


def _own_output(path: Path) -> int | None:
    """The number of our own output that the path leads to, as /dev/stdout does: replaced, it would lose what follows."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None


def _open_stream(path: Path) -> BinaryIO:
    own = _own_output(path)
    if own is None:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb")
    sys.stdout.flush()
    return os.fdopen(os.dup(own), "wb")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """An empty file for its owner alone beside what the path names in the end, and that; it is gone after the block."""
    target = Path(os.path.realpath(path))
    # A name that nothing has: what a killed command left must not be in the way of one with the same process id.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:_NAME_KEPT]}.", suffix=".tmp", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary, target
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path, content: bytes, *, mode: int) -> None:
    """Have the content on the disk before it has its name: after a loss of power the file is the old one or the new one."""
    with temporary.open("wb") as out:
        out.write(content)
        out.flush()
        os.fchmod(out.fileno(), mode)
        os.fsync(out.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


def load_key_pair(certificate: Path, key: Path) -> KeyPair:
    """A user's certificate and key from their files. Raises: FileInputError, PkiError."""
    certificate_pem, key_pem = read_input(certificate), read_input(key)
    try:
        return parse_key_pair(certificate_pem, key_pem)
    except PkiError as exc:
        raise PkiError(f"{exc} (certificate {certificate}, key {key})") from exc


def load_manifest(path: Path) -> bytes:
    """The manifest's bytes as they are; what is no JSON is read as YAML, and becomes the JSON of MarbleRun's command line.

    Raises: FileInputError, InputError.
    """
    return manifest_json(path, read_input(path), convert_yaml)


def manifest_json(path: Path, raw: bytes, convert: Callable[[bytes], bytes]) -> bytes:
    """A manifest's bytes if they are JSON, whatever the file is called; else what they say as YAML. Raises: InputError."""
    if not raw.strip():
        raise InputError(f"{path} is empty; expected a manifest, as JSON or YAML")
    if len(raw) > MAX_SIZE:
        raise InputError(f"{path} has {len(raw)} bytes; of a manifest at most {MAX_SIZE} are read")
    try:
        parse_text(raw)
        return raw
    except JsonSyntaxError as exc:
        try:
            return convert(raw)
        except InputError as wrong:
            if raw.lstrip().startswith((b"{", b"[")):  # meant as JSON
                line, column = position(raw, exc.offset)
                raise InputError(f"{path} is no JSON: line {line}, column {column}: {exc}") from wrong
            raise InputError(f"{path}: {wrong}") from exc


def parse_fingerprint(text: str) -> bytes:
    """The SHA-256 of a manifest, from its file or from 64 hex digits. Raises: FileInputError, InputError."""
    path = Path(text)
    if path.exists():
        return hashlib.sha256(load_manifest(path)).digest()
    if len(text) != _DIGEST:
        raise InputError(f"{text} is not a file and of invalid length to be a signature (needs to be 32 bytes)")
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        raise InputError(f"{text} is not a file and not a valid signature (needs to be in hex format)") from exc
