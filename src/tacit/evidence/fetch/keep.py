"""Collateral that is kept on disk: the cache, one file for each platform, and the bundle, one file for many.

The disk is not trusted. What is read is verified like what comes from a service; a file that is damaged is as good as
none. What was seen newest (`newest.json`) keeps a service or a cache from going back; whoever can write to the disk can
take that memory away, which is why a manifest can name a lowest TCB evaluation number too.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.errors import CollateralAbsentError, CollateralError, EvidenceError
from tacit.evidence.anchor.certificates import parse_crl
from tacit.evidence.anchor.strict_json import MAX_JSON_SIZE, parse_strict_json
from tacit.evidence.fetch.amd import AmdPlatform, of_cloud, platform_of_certificates
from tacit.evidence.fetch.intel import IntelPlatform, platform_of_collateral
from tacit.evidence.intel.collateral import (
    IntelCollateral,
    parse_intel_collateral,
    parse_time,
    read_collateral,
    render_collateral,
)
from tacit.evidence.snp.collateral import AmdCollateral, parse_amd_collateral, read_chain, render_amd_collateral
from tacit.evidence.verify.collateral import Collateral

Platform = IntelPlatform | AmdPlatform

_NEWEST = "newest.json"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """Collateral, when it was fetched, and the window in which all of it is in force (UTC). Nothing of it is trusted."""

    collateral: Collateral
    fetched: datetime
    begin: datetime
    end: datetime

    def in_force(self, now: datetime) -> bool:
        """Whether a verifier could use it now: a choice among copies, and no verdict."""
        return self.begin <= now < self.end

    def fetched_by(self, now: datetime) -> datetime:
        """When it was fetched. A date in the future says nothing, and then it is as old as its youngest part."""
        return self.fetched if self.fetched <= now else self.begin


def keep(collateral: Collateral, *, fetched: datetime | None = None) -> Kept:
    """Collateral with its window; of unknown age, it is as old as its youngest part.

    Raises:
        CollateralError: it does not parse.
    """
    if isinstance(collateral, IntelCollateral):
        windows = [(begin, end) for _, begin, end in read_collateral(collateral).windows]
    else:
        windows = [(one.begin, one.end) for one in read_chain(collateral)]
        if collateral.crl:
            crl = parse_crl(collateral.crl, "AMD")
            windows.append((crl.last_update_utc, crl.next_update_utc or crl.last_update_utc))
    begin, end = max(one for one, _ in windows), min(one for _, one in windows)
    return Kept(collateral, fetched or begin, begin, end)


def platform_of(collateral: Collateral) -> Platform:
    """Which platform collateral is for, as it says itself. Raises: CollateralError, UntrustedRootError."""
    if isinstance(collateral, IntelCollateral):
        return platform_of_collateral(collateral)
    return of_cloud(platform_of_certificates(collateral), collateral)


def render_kept(kept: Kept) -> dict[str, Any]:
    """The object of a cache's file, or of one entry of a bundle."""
    collateral = kept.collateral
    raw = render_amd_collateral(collateral) if isinstance(collateral, AmdCollateral) else render_collateral(collateral)
    return {"fetched": f"{kept.fetched.astimezone(UTC):{_TIME}}", "collateral": json.loads(raw)}


def parse_kept(value: Any) -> Kept:
    """What `render_kept` made.

    Raises:
        CollateralError: something else.
    """
    if not isinstance(value, dict) or set(value) != {"fetched", "collateral"}:
        raise CollateralError("kept collateral is an object with `fetched` and `collateral`")
    return keep(_parse_either(value["collateral"]), fetched=parse_time(value["fetched"], "fetched"))


def _parse_either(value: Any) -> Collateral:
    if not isinstance(value, dict):
        raise CollateralError("collateral is a JSON object; this is another value")
    return parse_amd_collateral(value) if "leaf" in value else parse_intel_collateral(value)


# ---- the bundle


def render_bundle(entries: Sequence[Kept]) -> bytes:
    """A bundle's file."""
    return (
        json.dumps({"version": _VERSION, "entries": [render_kept(one) for one in entries]}, indent=1).encode() + b"\n"
    )


def parse_bundle(raw: bytes) -> tuple[Kept, ...]:
    """The entries of a bundle, or of a file with the collateral of one platform.

    Raises:
        CollateralError: neither.
    """
    value = parse_strict_json(raw, lambda defect: CollateralError(f"the bundle: {defect}"))
    if isinstance(value, dict) and "entries" not in value:
        return (keep(_parse_either(value)),)
    if not isinstance(value, dict) or set(value) != {"version", "entries"} or not isinstance(value["entries"], list):
        raise CollateralError("a bundle is an object with `version` and `entries`; `tacit evidence bundle` makes one")
    if value["version"] != _VERSION:
        raise CollateralError(f"the bundle has version {value['version']!r}; this program knows {_VERSION}: update it")
    return tuple(parse_kept(one) for one in value["entries"])


class Bundle:
    """The entries of a bundle's file by platform; read again when the file is another one."""

    def __init__(self, file: Path) -> None:
        """Raises: CollateralAbsentError, CollateralError."""
        self._file = file
        self._read()

    @property
    def entries(self) -> Mapping[str, Kept]:
        """All of them, by platform, as last read."""
        return self._entries

    def load(self, platform: Platform) -> Kept | None:
        """What is kept for a platform, and None where nothing is; for a cloud that is not known, the first of its TCB.

        Raises:
            CollateralAbsentError: the file is gone.
            CollateralError: it is no bundle any more.
        """
        if self._stamp() != self._read_as:
            self._read()
        found = self._entries.get(str(platform))
        if found is None and isinstance(platform, AmdPlatform) and not (platform.chip_id or platform.cloud):
            found = next((one for name, one in self._entries.items() if name.startswith(f"{platform}-")), None)
        return found

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat()
        except OSError as exc:
            # Callers of an API may read this: where the file lies is the operator's affair.
            raise CollateralAbsentError(f"the bundle of collateral cannot be read: {exc.strerror}") from exc
        if not stat.S_ISREG(found.st_mode):  # a pipe would hold us up
            raise CollateralAbsentError("the bundle of collateral cannot be read: it is no regular file; name a file")
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> None:
        stamp = self._stamp()
        try:
            with self._file.open("rb") as stream:
                raw = stream.read(MAX_JSON_SIZE + 1)
        except OSError as exc:
            raise CollateralAbsentError(f"the bundle of collateral cannot be read: {exc.strerror}") from exc
        self._entries = {str(platform_of(one.collateral)): one for one in parse_bundle(raw)}
        self._read_as = stamp  # a file that cannot be read is refused every time


# ---- the cache


class Cache:
    """Collateral by platform, and the newest numbers seen, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, platform: Platform) -> Kept | None:
        """What is kept for a platform; None where there is nothing that can be read."""
        try:
            with (self._folder / f"{platform}.json").open("rb") as stream:
                raw = stream.read(MAX_JSON_SIZE + 1)
            return parse_kept(parse_strict_json(raw, CollateralError))
        except (OSError, EvidenceError):
            return None

    def store(self, platform: Platform, kept: Kept) -> None:
        """Keep it in place of what was kept before. Raises: OSError."""
        with self._locked():
            self._write(f"{platform}.json", render_kept(kept))

    def load_newest(self) -> dict[str, int]:
        """The newest numbers seen, by what they number; none where the file is absent or damaged."""
        try:
            with (self._folder / _NEWEST).open("rb") as stream:
                value = parse_strict_json(stream.read(MAX_JSON_SIZE + 1), CollateralError)
        except (OSError, EvidenceError):
            return {}
        found = value.items() if isinstance(value, dict) else ()
        return {name: number for name, number in found if isinstance(number, int)}

    def raise_newest(self, seen: Mapping[str, int]) -> None:
        """Remember these where they are higher than what was remembered. Raises: OSError."""
        with self._locked():
            before = self.load_newest()
            after = before | {name: max(number, before.get(name, 0)) for name, number in seen.items()}
            if after != before:
                self._write(_NEWEST, after)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time, so that none forgets what another saw."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, name: str, value: Any) -> None:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(json.dumps(value, indent=1).encode())
            Path(temporary).replace(self._folder / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
