"""The folder of a simulated platform. Touches files; for composition roots.

It holds one file, `platform.json`, for its owner's eyes alone. Files are written under a temporary name and renamed, so
that no reader ever sees half a file.
"""

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from tacit.errors import FileInputError, PlatformError
from tacit.evidence.anchor.strict_json import MAX_JSON_SIZE
from tacit.evidence.simulated.platform import (
    PLATFORM_FILE,
    SimulatedPlatform,
    generate_platform,
    parse_platform,
    render_platform,
)


def default_platform_folder(environ: Mapping[str, str]) -> Path:
    """Where the simulated platform lives: $TACIT_PLATFORM, or `tacit/platform` in the user's data folder.

    Raises:
        PlatformError: the environment names neither that, nor a data folder, nor a home.
    """
    if named := environ.get("TACIT_PLATFORM"):
        return Path(named)
    if data := environ.get("XDG_DATA_HOME"):
        return Path(data) / "tacit" / "platform"
    if home := environ.get("HOME"):
        return Path(home) / ".local" / "share" / "tacit" / "platform"
    raise PlatformError("no folder for the simulated platform: set TACIT_PLATFORM, or HOME")


def init_platform(folder: Path, *, now: datetime) -> None:
    """Make a new simulated platform in a folder that has none.

    Raises:
        PlatformError: there is one already, or the folder cannot be written.
    """
    target = folder / PLATFORM_FILE
    exists = PlatformError(f"{folder} already holds a simulated platform; use it, or name another folder")
    if target.exists():
        raise exists
    _make_folder(folder)
    content = render_platform(generate_platform(now=now, random=secrets.token_bytes))
    try:
        with _temporary(target, content) as temporary:
            os.link(temporary, target)  # unlike a rename, this never replaces what another process just made
    except FileExistsError:
        raise exists from None
    except OSError as exc:
        raise PlatformError(f"the simulated platform cannot be written to {folder}: {exc.strerror}") from exc


def export_platform(folder: Path, file: Path, *, public: bool) -> None:
    """Write the platform of a folder to one file; into a pipe or a device, and through a link to what it names.

    The whole makes another machine this platform too; its public part is for those who shall only verify.

    Raises:
        PlatformError: no platform in the folder, or only its public part where the whole was asked for.
        FileInputError: the file cannot be written.
    """
    platform = load_platform(folder)
    if not public and platform.keys is None:
        raise PlatformError(f"{folder} holds only the public part of a simulated platform; export with --public")
    content = render_platform(platform.public() if public else platform)
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            store(file.resolve(), content)
    except OSError as exc:
        raise FileInputError(f"{file} cannot be written: {exc.strerror}; name another file") from exc


def import_platform(file: Path, folder: Path, *, replace: bool = False) -> None:
    """Take the platform of an exported file into a folder.

    A public part never pushes out the private part of the same platform that is already there.

    Raises:
        PlatformError: not an exported platform; or the folder holds another one and `replace` was not said.
        FileInputError: the file cannot be read.
    """
    try:
        platform = _parse_file(file)
    except OSError as exc:
        raise FileInputError(f"{file} cannot be read: {exc.strerror}; 'tacit platform export' makes one") from exc
    if (folder / PLATFORM_FILE).exists() and not replace:
        held = load_platform(folder)
        if held.root != platform.root:
            raise PlatformError(
                f"{folder} already holds another simulated platform; what it sealed and whoever trusts it would be "
                "lost: name another folder, or say --replace"
            )
        if platform.keys is None and held.keys is not None:
            return
        # An export from before a part was made does not take it away.
        platform = platform.with_parts_of(held)
    _make_folder(folder)
    try:
        store(folder / PLATFORM_FILE, render_platform(platform))
    except OSError as exc:
        raise PlatformError(f"the simulated platform cannot be written to {folder}: {exc.strerror}") from exc


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise PlatformError(f"the folder {folder} cannot be made: {exc.strerror}") from exc


@contextlib.contextmanager
def _temporary(target: Path, content: bytes) -> Iterator[Path]:
    """A file (mode 0600) with this content beside the target; gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in this folder: two programs that start together must not make two chips."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def store(target: Path, content: bytes) -> None:
    """Write a file as a whole, for its owner alone. Raises: OSError."""
    with _temporary(target, content) as temporary:
        temporary.replace(target)


def _parse_file(file: Path) -> SimulatedPlatform:
    with file.open("rb") as stream:
        return parse_platform(stream.read(MAX_JSON_SIZE + 1), source=str(file))


def load_platform(folder: Path) -> SimulatedPlatform:
    """The platform of a folder, with its keys if they are there. Raises: PlatformError."""
    try:
        return _parse_file(folder / PLATFORM_FILE)
    except FileNotFoundError as exc:
        raise PlatformError(
            f"no simulated platform in {folder}: make one with 'tacit platform init', or bring one with "
            "'tacit platform import FILE'"
        ) from exc
    except OSError as exc:
        raise PlatformError(f"the simulated platform in {folder} cannot be read: {exc.strerror}") from exc
