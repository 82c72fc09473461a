"""Is this software, on this platform, allowed to be this package?

The claims are authentic when they come here. Each rule takes them and the package and raises if they do not fit; the
list runs in order and ends at the first refusal. What comes out is the only thing that opens a release of secrets.

(1) kind of TEE, (2) every check of the evidence was made, (3) debug, (4) a package that names nothing allows nothing,
(5) measurements, (6) signer, product and security version, (7) weaknesses, (8) TCB status, (9) advisories, (10) lowest
TCB, (11) hardware. (3), (5), (6), (8) and (9) are MarbleRun's rules; the others are ours.
"""

import hmac
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from datetime import timedelta

from tacit.errors import (
    AppraisalError,
    DebugNotAllowedError,
    HardwareError,
    MeasurementError,
    SignerError,
    TcbStatusError,
    UncheckedError,
    WeaknessError,
    WrongTeeError,
)
from tacit.evidence.claims import PROGRAM_REGISTERS, REVOCATION_UNCHECKED, Claims, Tee
from tacit.manifest.model import Package

ALWAYS_ACCEPTED = "UpToDate"
NEVER_ACCEPTED = "Revoked"
NOT_RATED = "NotRated"
DEFAULT_ACCEPTED_STATUSES = ("SWHardeningNeeded",)
"""Beside UpToDate, where an SGX package lists none: MarbleRun's default. A simulated platform gets no such grace."""

# What a status becomes where being out of date is forgiven.
_WITHIN_GRACE = {"OutOfDate": ALWAYS_ACCEPTED, "OutOfDateConfigurationNeeded": "ConfigurationNeeded"}
_REVOCATION = "A6"  # the number of the check of AMD's revocation list in docs/evidence.md

_BY_APPRAISE = object()


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Claims that a package allows. Only `appraise` makes one, so to hold one is to have passed every rule."""

    claims: Claims
    package: Package
    made_by: InitVar[object] = None  # not kept, so that no copy with other claims can be made of one

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _BY_APPRAISE:
            message = "an Appraisal is made by appraise() alone"
            raise AppraisalError(message)


@dataclass(frozen=True, slots=True)
class Unattested:
    """Nothing was appraised: the coordinator runs in unattested mode. `reason` says who chose that."""

    reason: str


def appraise(claims: Claims, package: Package) -> Appraisal:
    """The permission to be this package.

    Raises:
        AppraisalError: the subclass names the rule that refused.
    """
    for rule in RULES:
        rule(claims, package)
    return Appraisal(claims, package, _BY_APPRAISE)


def require_tee(claims: Claims, package: Package) -> None:
    """(1) A package that names no TEE means SGX, as in MarbleRun's manifests."""
    expected = package.tee or Tee.SGX
    if claims.tee != expected:
        hint = f' add "TEE": "{claims.tee}" to the package to allow it;' if claims.tee.is_simulated else ""
        message = f"evidence is from a {claims.tee} TEE;{hint} the package allows {expected}"
        raise WrongTeeError(message)


def require_checks(claims: Claims, package: Package) -> None:
    """(2) What was not checked does not count as checked; of all checks, a package can forgo AMD's revocation list."""
    excused = REVOCATION_UNCHECKED in claims.weaknesses and REVOCATION_UNCHECKED in package.accepted_weaknesses
    missing = [one for one in claims.checks if not one.made and not (excused and one.number == _REVOCATION)]
    if missing:
        listed = ", ".join(f"{one.number} {one.name}" for one in missing)
        message = f"the evidence was not checked in full, so it proves nothing yet; not made: {listed}"
        raise UncheckedError(message)


def require_debug_as_named(claims: Claims, package: Package) -> None:
    """(3) Debug has to be equal: the host reads a debug enclave, and a debug package is not meant for production."""
    if claims.debug and not package.debug:
        message = "this is a debug enclave, whose memory its host can read; the package does not say Debug"
        raise DebugNotAllowedError(message)
    if package.debug and not claims.debug:
        message = "the package says Debug, and this is no debug enclave; take Debug out of the package"
        raise DebugNotAllowedError(message)


def require_named_software(claims: Claims, package: Package) -> None:
    """(4) Without UniqueID or SignerID, or the register that says what was started, anybody's software would fit."""
    program = PROGRAM_REGISTERS.get(claims.tee.layout)
    if program is not None and program not in package.measurements:
        message = (
            f"the package's Measurements do not name {program}, so it allows nothing: any program could have started"
        )
        raise MeasurementError(message)
    if program is None and package.unique_id is None and package.signer_id is None:
        message = "the package names neither UniqueID nor SignerID, so it allows nothing; `tacit package-info` has them"
        raise MeasurementError(message)


def require_measurement(claims: Claims, package: Package) -> None:
    """(5) MRENCLAVE is the package's UniqueID, and each register what its Measurements say, where it names them."""
    if package.unique_id is not None and not _equal(claims.measurement, package.unique_id):
        message = (
            f"measurement is {claims.measurement.hex()}, the package's UniqueID is {_shown(package.unique_id)}: "
            "another program, or one of its files or libraries was changed"
        )
        raise MeasurementError(message)
    for name, expected in package.measurements.items():
        found = claims.registers.get(name)
        if found is None:
            message = f"{claims.tee} evidence has no register {name}; it has {', '.join(claims.registers)}"
            raise MeasurementError(message)
        if len(expected) != len(found) or not hmac.compare_digest(found, expected):
            shown = expected.hex() or "no hexadecimal text"
            message = (
                f"{name} is {found.hex()}, the package's Measurements say {shown}: other software or configuration"
            )
            raise MeasurementError(message)


def require_signer(claims: Claims, package: Package) -> None:
    """(6) MRSIGNER, product id, and at least the security version, where the package names them."""
    if package.signer_id is not None and not _equal(claims.signer, package.signer_id):
        message = f"signer is {claims.signer.hex()}, the package's SignerID is {_shown(package.signer_id)}"
        raise SignerError(message)
    if package.product_id is not None and claims.product_id != package.product_id:
        message = f"product id is {claims.product_id}, the package's ProductID is {package.product_id}"
        raise SignerError(message)
    if package.security_version is not None and claims.security_version < package.security_version:
        message = (
            f"security version is {claims.security_version}, the package asks for at least "
            f"{package.security_version}; update the software"
        )
        raise SignerError(message)


def require_no_weakness(claims: Claims, package: Package) -> None:
    """(7) Ways in which evidence says that it protects less, each of which the package has to accept by name."""
    open_ones = sorted(claims.weaknesses - set(package.accepted_weaknesses))
    if open_ones:
        message = f"the evidence says {', '.join(open_ones)}, which the package's AcceptedWeaknesses do not name"
        raise WeaknessError(message)


def require_tcb_status(claims: Claims, package: Package) -> None:
    """(8) UpToDate, or a status that the package lists; Revoked never. Nobody rates SNP: there MinimumTCB decides."""
    status = _status_within_grace(claims, package)
    if status == ALWAYS_ACCEPTED or (status == NOT_RATED and package.minimum_tcb):
        return
    default = DEFAULT_ACCEPTED_STATUSES if claims.tee is Tee.SGX else ()
    accepted = default if package.accepted_tcb_statuses is None else package.accepted_tcb_statuses
    if status == NEVER_ACCEPTED or status not in accepted:
        allowed = ", ".join((ALWAYS_ACCEPTED, *(status for status in accepted if status != NEVER_ACCEPTED)))
        hint = "; name the lowest versions in MinimumTCB" if status == NOT_RATED else ""
        message = f"the platform's TCB status is {claims.tcb_status}, the package accepts {allowed}{hint}"
        raise TcbStatusError(message)


def _status_within_grace(claims: Claims, package: Package) -> str:
    """The status without being out of date, for as many days as the package gives since a newer level came out."""
    within = (
        package.tcb_grace_days is not None
        and claims.outdated_since is not None
        and claims.verified_at is not None
        and claims.verified_at < claims.outdated_since + timedelta(days=package.tcb_grace_days)
    )
    return _WITHIN_GRACE.get(claims.tcb_status, claims.tcb_status) if within else claims.tcb_status


def require_advisories(claims: Claims, package: Package) -> None:
    """(9) Where the package lists advisories, a platform that is not UpToDate may have those and no other."""
    if package.accepted_advisories is None or claims.tcb_status == ALWAYS_ACCEPTED:
        return
    open_ones = sorted(claims.advisories - set(package.accepted_advisories))
    if open_ones:
        message = f"the platform is subject to {', '.join(open_ones)}, which the package does not accept"
        raise TcbStatusError(message)


def require_lowest_tcb(claims: Claims, package: Package) -> None:
    """(10) No older collateral than the package says (Intel), and no older component (SNP)."""
    lowest = package.minimum_tcb_evaluation
    if lowest is not None and claims.tcb_evaluation_number < lowest:
        message = (
            f"the collateral has the TCB evaluation number {claims.tcb_evaluation_number}, the package asks for at "
            f"least {lowest}: an older judgement of the same platform"
        )
        raise TcbStatusError(message)
    for name, version in package.minimum_tcb.items():
        found = claims.tcb_versions.get(name)
        if found is None or found < version:
            message = f"the platform's {name} is {'absent' if found is None else found}, MinimumTCB asks for {version}"
            raise TcbStatusError(message)


def require_hardware(claims: Claims, package: Package) -> None:
    """(11) A platform that the package allows by id, and neither its id nor its product line refused."""
    shown = claims.hardware_id.hex()
    if package.allowed_hardware_ids is not None and claims.hardware_id not in package.allowed_hardware_ids:
        message = f"the hardware {shown} is not among the package's AllowedHardwareIDs"
        raise HardwareError(message)
    if claims.hardware_id in package.refused_hardware_ids:
        message = f"the hardware {shown} is among the package's RefusedHardwareIDs"
        raise HardwareError(message)
    if claims.product_line.upper() in {line.upper() for line in package.refused_product_lines}:
        message = f"the product line {claims.product_line} is among the package's RefusedProductLines"
        raise HardwareError(message)


RULES: tuple[Callable[[Claims, Package], None], ...] = (
    require_tee,
    require_checks,
    require_debug_as_named,
    require_named_software,
    require_measurement,
    require_signer,
    require_no_weakness,
    require_tcb_status,
    require_advisories,
    require_lowest_tcb,
    require_hardware,
)


def _equal(claimed: bytes, named: bytes) -> bool:
    """Equal 32-byte digests. The length is asked for: text that was no digest stands as `b""` in a package."""
    return len(named) == 32 and hmac.compare_digest(claimed, named)


def _shown(named: bytes) -> str:
    return named.hex() if len(named) == 32 else "no digest (64 hexadecimal digits are needed)"
