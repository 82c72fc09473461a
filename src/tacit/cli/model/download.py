"""Fetching a published model, and holding it to the bytes that were seen first.

Publishers of models seldom publish a checksum. So the first download is trusted as the owner sees it and its SHA-256
is recorded twice: in the user's folder, and beside the file (as `sha256sum` writes it). From then on, whatever the
address, those bytes and no others are taken.

1. The recorded digest, if any; a file that is there already must have it, and then nothing is fetched.
2. Fetch over https (plain http from this machine only) into a temporary file, within a size limit.
3. Check: whole, of the recorded digest, and of the promised format.
4. Rename, and record the digest if it is the first.
"""

import hashlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
import msgspec

from tacit.cli.model.files import COPY_SIZE, file_error, file_size, load_file, replacing
from tacit.cli.model.progress import Advance
from tacit.errors import FileInputError, InputError, ModelFormatError, PeerError, TlsError, UnreachableError
from tacit.graph import parse_graph

RECORD = "models.json"
MAX_RECORD = 1 << 20  # bytes
CONNECT_TIMEOUT = 15.0  # seconds
MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model that somebody publishes, where, and what it becomes here. `largest` is in bytes."""

    name: str
    url: str
    file: str
    largest: int


PUBLISHED = {
    "resnet50-v15-fp32": PublishedModel(
        name="resnet50-v15-fp32",
        url="https://storage.googleapis.com/intel-optimized-tensorflow/models/v1_8/resnet50_fp32_pretrained_model.pb",
        file="resnet50-v15-fp32.pb",
        largest=512 << 20,
    ),
}


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Where the model is, its SHA-256 (hex), whether it was fetched now, and whether that was the first time."""

    path: Path
    sha256: str
    fetched: bool
    first: bool


class RecordJson(msgspec.Struct):
    """One line of the record: the digest in hex, and the address that it was first seen at."""

    sha256: str
    url: str


def fetch_published(
    model: PublishedModel, folder: Path, *, url: str, config: Path, progress: Advance, timeout: float = 60.0
) -> Downloaded:
    """The model's file in `folder`, fetched from `url` unless it is there. `timeout`: seconds without a byte.

    Raises:
        FileInputError: other bytes than recorded, here or there, or a file that was not fetched by this command.
        InputError: an address that is neither https nor on this machine.
        UnreachableError, TlsError, PeerError: the server.
        ModelFormatError: what came is no frozen graph.
    """
    check_address(url)
    path = folder / model.file
    beside = path.with_name(path.name + ".sha256")
    record = _load_record(config / RECORD)
    known = record.get(model.name)
    expected = known.sha256 if known is not None else _load_digest_beside(beside)
    if path.exists() or path.is_symlink():
        return _check_existing(path, model, expected, config / RECORD)
    with replacing(path) as out:
        digest = _fetch(url, out, largest=model.largest, progress=progress, timeout=timeout)
        if expected is not None and digest != expected:
            raise FileInputError(
                f"{url} gave other bytes than the first time: SHA-256 {digest}, recorded {expected}; nothing was kept. "
                f"If you know that the publisher replaced the file, delete the entry in {config / RECORD} and {beside}"
            )
        out.flush()
        _check_format(Path(out.name), url)
    if known is None:
        record[model.name] = RecordJson(sha256=digest, url=url)
        with replacing(config / RECORD) as out:
            out.write(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    with replacing(beside) as out:
        out.write(f"{digest}  {path.name}\n".encode())
    return Downloaded(path, digest, fetched=True, first=expected is None)


def check_address(url: str) -> None:
    """Refuse an address from which bytes could be changed on the way. Raises: InputError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise InputError(f"{url!r} is no address: {exc}") from exc
    if not parsed.host:
        raise InputError(f"{url!r} is no address; expected https://HOST/PATH")
    if parsed.scheme != "https" and not (parsed.scheme == "http" and _is_this_machine(parsed.host)):
        raise InputError(f"{url} is not fetched: only https is (and http from this machine)")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetch(url: str, out: BinaryIO, *, largest: int, progress: Advance, timeout: float) -> str:
    """Write the body of `url` to `out` and give its SHA-256 in hex."""
    try:
        with (
            httpx.Client(
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
                # Every request is checked, those that redirects lead to as well.
                event_hooks={"request": [lambda request: check_address(str(request.url))]},
                headers={"Accept-Encoding": "identity"},
            ) as client,
            client.stream("GET", url) as response,
        ):
            return _receive(response, url, out.write, largest, progress)
    except httpx.TimeoutException as exc:
        raise UnreachableError(f"{url}: no answer within {timeout:.0f} s; check the network, or try again") from exc
    except httpx.ConnectError as exc:
        # httpx has no class of its own for a failed handshake; OpenSSL's text names it.
        if "CERTIFICATE" in str(exc) or "SSL" in str(exc):
            raise TlsError(f"{url}: TLS failed ({exc}); is a proxy in between, or this machine's clock wrong?") from exc
        raise UnreachableError(
            f"{url}: cannot be reached ({exc}); check the network, or give a mirror with --url"
        ) from exc
    except httpx.TransportError as exc:
        raise PeerError(f"{url}: the connection broke ({exc}); nothing was kept, try again") from exc
    except httpx.TooManyRedirects as exc:
        raise PeerError(f"{url}: redirected more than {MAX_REDIRECTS} times") from exc


def _receive(response: httpx.Response, url: str, write: Callable[[bytes], int], largest: int, progress: Advance) -> str:
    if response.status_code != 200:
        raise PeerError(
            f"{url}: the server answered {response.status_code} {response.reason_phrase}; give another --url"
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise PeerError(f"{url}: the server sent a compressed body that was not asked for; give another --url")
    announced = response.headers.get("content-length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() else 0
    digest, done = hashlib.sha256(), 0
    for chunk in response.iter_raw(COPY_SIZE):
        done += len(chunk)
        if max(done, total) > largest:
            raise PeerError(
                f"{url}: {max(done, total)} bytes are more than this model can have ({largest}); nothing was kept"
            )
        digest.update(chunk)
        write(chunk)
        progress(done, total)
    if done == 0:
        raise PeerError(f"{url}: the server sent an empty file")
    return digest.hexdigest()


def _check_format(path: Path, url: str) -> None:
    try:
        parse_graph(path.read_bytes())
    except ModelFormatError as exc:
        raise ModelFormatError(f"{url}: {exc}; nothing was kept") from exc


def _check_existing(path: Path, model: PublishedModel, expected: str | None, record: Path) -> Downloaded:
    if expected is None:
        raise FileInputError(
            f"{path} exists, but no SHA-256 was recorded for it in {record}; move it away, and it is downloaded again"
        )
    file_size(path, what="the downloaded model", largest=model.largest)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise file_error(path, exc) from exc
    if digest != expected:
        raise FileInputError(
            f"{path} was changed since it was downloaded: SHA-256 {digest}, recorded {expected}; "
            "delete it, and it is downloaded again"
        )
    return Downloaded(path, digest, fetched=False, first=False)


def _load_record(path: Path) -> dict[str, RecordJson]:
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(
            load_file(path, what="a record of downloads", largest=MAX_RECORD), type=dict[str, RecordJson]
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise FileInputError(f"{path}: not a record of downloads ({exc}); correct it or delete it") from exc


def _load_digest_beside(path: Path) -> str | None:
    if not path.exists():
        return None
    word = load_file(path, what="a SHA-256", largest=4096).split(b" ")[0].decode("ascii", "replace").strip()
    if len(word) != 64 or not all(sign in "0123456789abcdef" for sign in word):
        raise FileInputError(f"{path}: no SHA-256 in it; delete it, and the next download writes it again")
    return word
