"""What to expect of a coordinator this once: an era config, as MarbleRun's releases carry it, and the flags beside it."""

from dataclasses import replace
from pathlib import Path

import msgspec

from tacit.cli.files import read_input
from tacit.cli.platform import platform_folder
from tacit.cli.trust.flags import Flags
from tacit.client.connect import load_simulated_expectation
from tacit.client.trust import Expectation, Sighting, TrustStore, check_expectation
from tacit.errors import FileInputError, InputError
from tacit.evidence import Tee
from tacit.evidence.anchor import MAKERS
from tacit.manifest import Package

_EXPECTED = (
    "expected UniqueID, or SignerID, ProductID and SecurityVersion, as MarbleRun's coordinator-era.json has them"
)


class _EraJson(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    security_version: int | None = None
    unique_id: str | None = msgspec.field(name="UniqueID", default=None)
    signer_id: str | None = msgspec.field(name="SignerID", default=None)
    product_id: int | None = msgspec.field(name="ProductID", default=None)
    debug: bool = False
    accepted_tcb_statuses: tuple[str, ...] | None = msgspec.field(name="AcceptedTCBStatuses", default=None)
    accepted_advisories: tuple[str, ...] | None = None
    tee: str = msgspec.field(name="TEE", default=str(Tee.SGX))


class ThisOnce:
    """What is expected of a host for one command: an era config's, or what was told, with what the options change in it.

    What was seen of a host that is known still counts, and is remembered; of another host nothing is. Without `rooted`
    neither happens: the root is one for the time of a recovery.
    """

    def __init__(
        self, store: TrustStore, flags: Flags, *, era: Expectation | None, pinned: bool, rooted: bool = True
    ) -> None:
        self._store = store
        self._flags = flags
        self._era = era
        self._pinned = pinned
        self._rooted = rooted

    def load_expectation(self, host: str) -> Expectation:
        """What to expect of `host`. Raises: NotTrustedError."""
        told = self._era is None or host in self._store.load_hosts()
        known = self._store.load_expectation(host) if told else Expectation("")
        pins = replace(
            self._era or known,
            root_der=known.root_der if self._rooted else None,
            manifest_fingerprint=known.manifest_fingerprint if self._pinned else None,
            signers=known.signers if self._pinned else (),
            signatures=known.signatures if self._pinned else None,
        )
        return _accepting(pins, self._flags)

    def load_sighting(self, root_der: bytes) -> Sighting | None:
        """As the store does; for the time of a recovery nothing."""
        return self._store.load_sighting(root_der) if self._rooted else None

    def verify_sighting(self, host: str, sighting: Sighting) -> None:
        """As the store does, for a host that it knows. Raises: PinMismatchError, RollbackError."""
        if self._rooted and host in self._store.load_hosts():
            self._store.verify_sighting(host, sighting)

    def forgetting(self, host: str) -> str:
        """As the store says it."""
        return self._store.forgetting(host)

    def record_sighting(self, host: str, sighting: Sighting) -> None:
        """As the store does, for a host that it knows. Raises: PinMismatchError, RollbackError."""
        if self._rooted and host in self._store.load_hosts():
            self._store.record_sighting(host, sighting)


def load_era_config(path: Path) -> Expectation:
    """What the file says to expect. `"TEE": "simulated"` in it is ours; without it SGX is meant.

    Raises:
        FileInputError: not there.
        InputError: no era config, or one that would allow anything.
    """
    try:
        raw = read_input(path)
    except FileInputError as exc:
        raise FileInputError(f"reading era config file: {exc}") from exc
    try:
        wire = msgspec.json.decode(raw, type=_EraJson)
        package = _package(wire)
    except (msgspec.DecodeError, ValueError) as exc:
        raise InputError(f"{path} is no era config ({exc}); {_EXPECTED}") from exc
    try:
        expectation = _expectation(package)
        check_expectation(expectation)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc
    return expectation


def _accepting(expectation: Expectation, flags: Flags) -> Expectation:
    """The expectation with the statuses and advisories of the options, where they were given."""
    package = expectation.package
    if package is None:
        return expectation
    statuses, advisories = flags.accepted_statuses, flags.accepted_advisories
    accepted = replace(
        package,
        accepted_tcb_statuses=package.accepted_tcb_statuses if statuses is None else statuses,
        accepted_advisories=package.accepted_advisories if advisories is None else advisories,
    )
    return replace(expectation, package=accepted)


def _package(wire: _EraJson) -> Package:
    # Go writes what is not given as empty text and zero.
    return Package(
        debug=wire.debug,
        unique_id=bytes.fromhex(wire.unique_id) if wire.unique_id else None,
        signer_id=bytes.fromhex(wire.signer_id) if wire.signer_id else None,
        product_id=None if wire.unique_id and not wire.signer_id else wire.product_id,
        security_version=None if wire.unique_id and not wire.signer_id else wire.security_version,
        accepted_tcb_statuses=wire.accepted_tcb_statuses,
        accepted_advisories=wire.accepted_advisories or None,
        tee=wire.tee,
    )


def _expectation(package: Package) -> Expectation:
    kind = Tee(package.tee) if package.tee in tuple(Tee) else Tee.SGX
    if kind.is_simulated:
        return load_simulated_expectation(platform_folder(), tee=kind, package=package)
    # What MarbleRun released is its own coordinator, which binds evidence to its key alone.
    return Expectation(str(package.tee), package, MAKERS[kind], key_bound=True)
