"""What this client expects of each coordinator, and what it has seen of it, in one file (`trust.json`).

Expected, told once by `tacit trust`: the kind of TEE by its exact name, the root that its evidence must end at, the
package that it must be, and if wanted the manifest or who signs it. Seen: its root certificate, the newest state (epoch and head), and
where its audit log stood.
What was seen is kept by the coordinator's root key and not by host name, so one that is reached under two names has one
memory, and a copy of its state that is older than any that this client saw is refused under each of them.
"""

import base64
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import FileInputError, InputError, NotTrustedError, PinMismatchError, RollbackError
from tacit.evidence import Tee, TrustAnchor
from tacit.evidence.claims import PROGRAM_REGISTERS
from tacit.manifest.model import Package
from tacit.wire.log import LogPosition
from tacit.wire.rest import JSON_ERRORS

UNATTESTED = "unattested"
"""The name by which a client asks for a coordinator without evidence; as with a TEE, only this exact word does."""

_FILE_NAME = "trust.json"
_FORGET = "run `tacit trust HOST --forget` and trust it again"
_MOVE = "give another folder by XDG_CONFIG_HOME"
_MAX_FILE = 16 << 20  # bytes; thousands of coordinators fit in one


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to expect of one coordinator.

    `tee` is a `Tee` value or `unattested`. `package` and `anchor` are None only for `unattested`.
    `manifest_fingerprint` is the SHA-256 (32 bytes) of the manifest that it must hold, None where any will do.
    `root_der` is the root certificate that was attested first; None until then.
    `collateral` is where a real TEE's comes from: an address or a bundle's file, None for the maker's own service.
    `key_bound` is for MarbleRun's own coordinator, which cannot bind evidence to a connection, only to its key.
    `signers` (public keys, DER) are those of whom one has to have signed the manifest, where no fingerprint is pinned;
    `signatures` is where those lie: a file, or a folder in which each is named by the manifest's fingerprint.
    """

    tee: str
    package: Package | None = None
    anchor: TrustAnchor | None = None
    manifest_fingerprint: bytes | None = None
    root_der: bytes | None = None
    collateral: str | None = None
    key_bound: bool = False
    signers: tuple[bytes, ...] = ()
    signatures: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a coordinator showed this time. `epoch` 0 and an empty `head` stand for one that keeps no epochs.

    `log` is where its audit log stood; None for one that keeps none.
    """

    root_der: bytes
    epoch: int
    head: bytes
    log: LogPosition | None = None


def default_trust_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's expectations lie: `tacit` below $XDG_CONFIG_HOME or ~/.config. Raises: InputError."""
    base = environ.get("XDG_CONFIG_HOME")
    if base:
        return Path(base) / "tacit"
    if not environ.get("HOME"):
        raise InputError("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for what this client trusts")
    return Path(environ["HOME"]) / ".config" / "tacit"


class Memory(Protocol):
    """What is expected of coordinators, and what was seen of them, wherever that is kept."""

    def load_expectation(self, host: str) -> Expectation:
        """What to expect of `host` (`name:port`). Raises: NotTrustedError."""

    def load_sighting(self, root_der: bytes) -> Sighting | None:
        """What was seen last of the coordinator with this root certificate."""

    def verify_sighting(self, host: str, sighting: Sighting) -> None:
        """Compare with what was seen before. Raises: PinMismatchError, RollbackError."""

    def record_sighting(self, host: str, sighting: Sighting) -> None:
        """Compare, then remember. Raises: as `verify_sighting`."""

    def forgetting(self, host: str) -> str:
        """How a person takes back what was seen of `host`, for messages."""


class Recollection:
    """A `Memory` that lives as long as its process, for a caller that says itself what to expect.

    The first root certificate that passes is the one from then on, and no state older than one seen passes.
    """

    def __init__(self, expectation: Expectation) -> None:
        self._expectation = expectation
        self._seen: Sighting | None = None
        self._lock = Lock()

    def load_expectation(self, host: str) -> Expectation:
        """What the caller said, and the root that was seen."""
        return self._expectation

    def load_sighting(self, root_der: bytes) -> Sighting | None:
        """What was seen last, if it was of this root."""
        return self._seen if self._seen is not None and self._seen.root_der == root_der else None

    def verify_sighting(self, host: str, sighting: Sighting) -> None:
        """Raises: PinMismatchError, RollbackError."""
        forget = self.forgetting(host)
        verify_root(host, self._expectation, sighting.root_der, forget=forget)
        verify_epoch(host, self.load_sighting(sighting.root_der), sighting, forget=forget)

    def record_sighting(self, host: str, sighting: Sighting) -> None:
        """Raises: as `verify_sighting`."""
        with self._lock:
            self.verify_sighting(host, sighting)
            self._expectation = replace(self._expectation, root_der=sighting.root_der)
            self._seen = sighting

    def forgetting(self, host: str) -> str:
        """As the store says it."""
        return "connect anew"


# ---- the file


class _PackageJson(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    debug: bool = False
    unique_id: str | None = None
    signer_id: str | None = None
    product_id: int | None = None
    security_version: int | None = None
    accepted_tcb_statuses: tuple[str, ...] | None = None
    accepted_advisories: tuple[str, ...] | None = None
    tee: str | None = None
    measurements: dict[str, str] = {}
    accepted_weaknesses: tuple[str, ...] = ()
    tcb_grace_days: int | None = None
    minimum_tcb_evaluation: int | None = None
    minimum_tcb: dict[str, int] = {}
    allowed_hardware_ids: tuple[str, ...] | None = None
    refused_hardware_ids: tuple[str, ...] = ()
    refused_product_lines: tuple[str, ...] = ()


class _AnchorJson(msgspec.Struct, forbid_unknown_fields=True):
    tee: str
    name: str
    root: str


class _HostJson(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    tee: str
    package: _PackageJson | None = None
    anchor: _AnchorJson | None = None
    manifest_fingerprint: str | None = None
    root: str | None = None
    collateral: str | None = None
    key_bound: bool = False
    signers: tuple[str, ...] = ()
    signatures: str | None = None


class _SeenJson(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    epoch: int
    head: str
    entries: int = 0
    log_head: str = ""


class _TrustJson(msgspec.Struct, forbid_unknown_fields=True):
    version: int = 1
    hosts: dict[str, _HostJson] = {}
    coordinators: dict[str, _SeenJson] = {}


class TrustStore:
    """The expectations of one person or program, kept in `folder` (0700) as `trust.json` (0600).

    Every change is made under a lock and written beside the file before it replaces it, so two processes lose nothing.
    `forget` says how a person takes back what was seen of HOST, and `move` how to give another folder: for messages.
    """

    def __init__(self, folder: Path, *, forget: str = _FORGET, move: str = _MOVE) -> None:
        self._folder = folder
        self._path = folder / _FILE_NAME
        self._forget = forget
        self._move = move

    @property
    def path(self) -> Path:
        """Where the expectations lie."""
        return self._path

    def forgetting(self, host: str) -> str:
        """How a person takes back what was seen of `host`."""
        return self._forget.replace("HOST", host)

    def load_hosts(self) -> Mapping[str, Expectation]:
        """All expectations, by `host:port`. Raises: FileInputError."""
        return {host: _expectation(entry) for host, entry in self._load().hosts.items()}

    def load_expectation(self, host: str) -> Expectation:
        """What to expect of `host` (`name:port`).

        Raises:
            NotTrustedError: nothing was told yet.
            FileInputError: the file is damaged or others may write to it.
        """
        return _find(self._load(), host)

    def store_expectation(self, host: str, expectation: Expectation) -> None:
        """Remember what to expect of `host`, in place of what was told before; what was seen of it is kept.

        Raises:
            InputError: an expectation that would allow anything: no such TEE, no package, no reference values in it.
        """
        check_expectation(expectation)
        with self._change() as wire:
            if expectation.root_der is None and host in wire.hosts:
                expectation = replace(expectation, root_der=_find(wire, host).root_der)
            wire.hosts[host] = _host_json(expectation)

    def pin_manifest(self, host: str, fingerprint: bytes | None) -> None:
        """Expect exactly this manifest (its SHA-256) from now on, or with None any. Raises: NotTrustedError."""
        with self._change() as wire:
            expectation = replace(_find(wire, host), manifest_fingerprint=fingerprint)
            wire.hosts[host] = _host_json(expectation)

    def verify_sighting(self, host: str, sighting: Sighting) -> None:
        """Compare with what was seen before, and remember nothing. Raises: as `record_sighting`."""
        self._verify(self._load(), host, sighting)

    def record_sighting(self, host: str, sighting: Sighting) -> None:
        """Compare with what was seen before, then remember the newer.

        Raises:
            PinMismatchError: another root certificate than the one that was attested first.
            RollbackError: an older state than one already seen, or another history of the same length.
            NotTrustedError: `host` was never told to `tacit trust`.
        """
        with self._change() as wire:
            expectation = self._verify(wire, host, sighting)
            wire.hosts[host] = _host_json(replace(expectation, root_der=sighting.root_der))
            wire.coordinators[_root_key(sighting.root_der)] = _seen_json(sighting)

    def load_sighting(self, root_der: bytes) -> Sighting | None:
        """What was seen last of the coordinator with this root certificate. Raises: FileInputError."""
        return _sighting(root_der, self._load().coordinators.get(_root_key(root_der)))

    def forget(self, host: str) -> None:
        """Drop what was told and seen of `host`, its epochs included. Raises: NotTrustedError."""
        with self._change() as wire:
            expectation = _find(wire, host)
            del wire.hosts[host]
            if expectation.root_der is not None:
                wire.coordinators.pop(_root_key(expectation.root_der), None)

    def _verify(self, wire: _TrustJson, host: str, sighting: Sighting) -> Expectation:
        expectation, forget = _find(wire, host), self.forgetting(host)
        seen = wire.coordinators.get(_root_key(sighting.root_der))
        verify_root(host, expectation, sighting.root_der, forget=forget)
        verify_epoch(host, _sighting(sighting.root_der, seen), sighting, forget=forget)
        return expectation

    def _load(self) -> _TrustJson:
        try:
            info = self._path.stat()
            raw = self._path.read_bytes() if info.st_size <= _MAX_FILE else b""
        except FileNotFoundError:
            return _TrustJson()
        except OSError as exc:
            raise FileInputError(f"cannot read {self._path}: {exc.strerror}") from exc
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FileInputError(
                f"others may write to {self._path}, which says whom to trust; chmod 600 it, and look inside"
            )
        try:
            wire = msgspec.json.decode(raw, type=_TrustJson)
        except JSON_ERRORS as exc:
            raise FileInputError(
                f"{self._path} is damaged ({exc}); mend it, or remove it and run `tacit trust` again"
            ) from exc
        if wire.version != 1:
            raise FileInputError(f"{self._path} has version {wire.version}; this program knows version 1, so update it")
        return wire

    @contextmanager
    def _change(self) -> Iterator[_TrustJson]:
        """What is stored, under a lock, and written back unless an error leaves the block."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / f"{_FILE_NAME}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise FileInputError(f"cannot write to {self._folder}: {exc.strerror}; {self._move}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wire = self._load()
            before = msgspec.json.encode(wire)
            yield wire
            after = msgspec.json.encode(wire)
            if after != before:
                self._write(msgspec.json.format(after, indent=1) + b"\n")
        finally:
            os.close(lock)

    def _write(self, raw: bytes) -> None:
        temporary = ""
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{_FILE_NAME}.", dir=self._folder)  # 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError as exc:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise FileInputError(f"cannot write {self._path}: {exc.strerror}; {self._move}") from exc


# ---- the checks


def check_expectation(expectation: Expectation) -> None:
    """Refuse an expectation that would allow anything. Raises: InputError."""
    if expectation.signers and expectation.signatures is None:
        raise InputError("signers of the manifest are trusted, and nothing says where their signatures lie")
    if expectation.tee == UNATTESTED:
        return
    if expectation.tee not in tuple(Tee):
        known = ", ".join((*Tee, UNATTESTED))
        raise InputError(f"{expectation.tee!r} is no kind of TEE; expected one of {known}")
    package, anchor = expectation.package, expectation.anchor
    if package is None or anchor is None:
        raise InputError(
            f"to trust a coordinator in TEE {expectation.tee}, its package and the root of its platform are needed"
        )
    if anchor.tee != expectation.tee:
        raise InputError(f"the root {anchor.name!r} vouches for TEE {anchor.tee}, and not for {expectation.tee}")
    if (package.tee or Tee.SGX) != expectation.tee:
        raise InputError(f"the package is for TEE {package.tee or Tee.SGX}, and {expectation.tee} is to be trusted")
    program = PROGRAM_REGISTERS.get(Tee(expectation.tee).layout)
    if program is not None:
        if program not in package.measurements:
            raise InputError(f"the coordinator's package needs {program} among its Measurements")
        return
    signed = package.signer_id and package.product_id is not None and package.security_version is not None
    if not package.unique_id and not signed:
        raise InputError(
            "the coordinator's package needs a UniqueID, or SignerID, ProductID and SecurityVersion; "
            "`tacit package-info` prints them"
        )


def verify_root(host: str, expectation: Expectation, root_der: bytes, *, forget: str) -> None:
    """Refuse another root certificate than the one that was attested first. Raises: PinMismatchError."""
    if expectation.root_der is None or expectation.root_der == root_der:
        return
    got, expected = hashlib.sha256(root_der).hexdigest(), hashlib.sha256(expectation.root_der).hexdigest()
    raise PinMismatchError(
        f"the coordinator at {host} shows another root certificate than before (got SHA-256 {got[:16]}..., "
        f"expected {expected[:16]}...): it was set up anew, or this is another one. "
        f"If that is meant, {forget}"
    )


def verify_epoch(host: str, seen: Sighting | None, now: Sighting, *, forget: str) -> None:
    """Refuse a state or log older than one already seen, and a second history of the same length.

    That a longer one goes on from what was seen is `log.verify_descent`'s to say.
    Raises: RollbackError.
    """
    if seen is None:
        return
    if now.epoch > seen.epoch or (now.epoch, now.head) == (seen.epoch, seen.head):
        verify_log(host, seen.log, now.log, forget=forget)
        return
    advice = f"If it was restored on purpose, {forget}"
    if now.epoch < seen.epoch:
        raise RollbackError(
            f"the coordinator at {host} runs on an older copy of its state: it shows epoch {now.epoch}, "
            f"and epoch {seen.epoch} was seen before. {advice}"
        )
    raise RollbackError(
        f"the coordinator at {host} has another history than before: epoch {now.epoch} has head "
        f"{now.head.hex()[:16]}..., and {seen.head.hex()[:16]}... was seen before. {advice}"
    )


def verify_log(host: str, seen: LogPosition | None, now: LogPosition | None, *, forget: str) -> None:
    """Refuse a log that is shorter than it was, or another of the same length. Raises: RollbackError."""
    if seen is None or (now is not None and (now.number > seen.number or now == seen)):
        return
    found = "no log" if now is None else f"a log of {now.number} entries with head {now.head.hex()[:16]}..."
    raise RollbackError(
        f"the coordinator at {host} runs on an older copy of its state: it shows {found}, and one of {seen.number} "
        f"entries with head {seen.head.hex()[:16]}... was seen before. "
        f"If it was restored on purpose, {forget}"
    )


# ---- between the file and the values


def _root_key(root_der: bytes) -> str:
    """SHA-256 of the root's public key: what a coordinator's memory is kept by."""
    public_key = x509.load_der_x509_certificate(root_der).public_key()
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _sighting(root_der: bytes, seen: _SeenJson | None) -> Sighting | None:
    try:
        if seen is None:
            return None
        log = LogPosition(seen.entries, bytes.fromhex(seen.log_head)) if seen.log_head else None
        return Sighting(root_der, seen.epoch, bytes.fromhex(seen.head), log)
    except ValueError as exc:
        raise FileInputError(f"{_FILE_NAME} is damaged ({exc}); remove it and run `tacit trust` again") from exc


def _seen_json(sighting: Sighting) -> _SeenJson:
    log = sighting.log
    if log is None:
        return _SeenJson(sighting.epoch, sighting.head.hex())
    return _SeenJson(sighting.epoch, sighting.head.hex(), log.number, log.head.hex())


def _find(wire: _TrustJson, host: str) -> Expectation:
    if host not in wire.hosts:
        raise NotTrustedError(
            f"nothing is known about what to expect of the coordinator at {host}; "
            f"say it once with `tacit trust {host} --tee ...`"
        )
    return _expectation(wire.hosts[host])


def _host_json(value: Expectation) -> _HostJson:
    return _HostJson(
        tee=str(value.tee),
        package=None if value.package is None else _package_json(value.package),
        anchor=None
        if value.anchor is None
        else _AnchorJson(str(value.anchor.tee), value.anchor.name, base64.b64encode(value.anchor.root_der).decode()),
        manifest_fingerprint=None if value.manifest_fingerprint is None else value.manifest_fingerprint.hex(),
        root=None if value.root_der is None else base64.b64encode(value.root_der).decode(),
        collateral=value.collateral,
        key_bound=value.key_bound,
        signers=tuple(base64.b64encode(one).decode() for one in value.signers),
        signatures=value.signatures,
    )


def _package_json(package: Package) -> _PackageJson:
    return _PackageJson(
        debug=package.debug,
        unique_id=None if package.unique_id is None else package.unique_id.hex(),
        signer_id=None if package.signer_id is None else package.signer_id.hex(),
        product_id=package.product_id,
        security_version=package.security_version,
        accepted_tcb_statuses=package.accepted_tcb_statuses,
        accepted_advisories=package.accepted_advisories,
        tee=package.tee,
        measurements={name: value.hex() for name, value in package.measurements.items()},
        accepted_weaknesses=package.accepted_weaknesses,
        tcb_grace_days=package.tcb_grace_days,
        minimum_tcb_evaluation=package.minimum_tcb_evaluation,
        minimum_tcb=dict(package.minimum_tcb),
        allowed_hardware_ids=None if package.allowed_hardware_ids is None else _hex(package.allowed_hardware_ids),
        refused_hardware_ids=_hex(package.refused_hardware_ids),
        refused_product_lines=package.refused_product_lines,
    )


def _hex(values: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(value.hex() for value in values)


def _expectation(entry: _HostJson) -> Expectation:
    try:
        return Expectation(
            tee=entry.tee,
            package=None if entry.package is None else _package(entry.package),
            anchor=None
            if entry.anchor is None
            else TrustAnchor(
                Tee(entry.anchor.tee), entry.anchor.name, base64.b64decode(entry.anchor.root, validate=True)
            ),
            manifest_fingerprint=None
            if entry.manifest_fingerprint is None
            else bytes.fromhex(entry.manifest_fingerprint),
            root_der=None if entry.root is None else base64.b64decode(entry.root, validate=True),
            collateral=entry.collateral,
            key_bound=entry.key_bound,
            signers=tuple(base64.b64decode(one, validate=True) for one in entry.signers),
            signatures=entry.signatures,
        )
    except ValueError as exc:
        raise FileInputError(f"{_FILE_NAME} is damaged ({exc}); remove it and run `tacit trust` again") from exc


def _package(entry: _PackageJson) -> Package:
    return Package(
        debug=entry.debug,
        unique_id=None if entry.unique_id is None else bytes.fromhex(entry.unique_id),
        signer_id=None if entry.signer_id is None else bytes.fromhex(entry.signer_id),
        product_id=entry.product_id,
        security_version=entry.security_version,
        accepted_tcb_statuses=entry.accepted_tcb_statuses,
        accepted_advisories=entry.accepted_advisories,
        tee=entry.tee,
        measurements={name: bytes.fromhex(value) for name, value in entry.measurements.items()},
        accepted_weaknesses=entry.accepted_weaknesses,
        tcb_grace_days=entry.tcb_grace_days,
        minimum_tcb_evaluation=entry.minimum_tcb_evaluation,
        minimum_tcb=entry.minimum_tcb,
        allowed_hardware_ids=None
        if entry.allowed_hardware_ids is None
        else tuple(map(bytes.fromhex, entry.allowed_hardware_ids)),
        refused_hardware_ids=tuple(map(bytes.fromhex, entry.refused_hardware_ids)),
        refused_product_lines=entry.refused_product_lines,
    )
