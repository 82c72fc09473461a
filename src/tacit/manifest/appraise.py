"""Is this software, on this platform, allowed to be this package?

The claims are authentic when they come here. Each rule takes them and the package and raises if they do not fit; the
list runs in order and ends at the first refusal. What comes out is the only thing that opens a release of secrets.

(1) kind of TEE, (2) debug, (3) a package that names nothing allows nothing, (4) measurement, (5) signer, product and
security version, (6) TCB status, (7) advisories. (2) and (4) to (7) are MarbleRun's rules; (1) and (3) are ours.
"""

import hmac
from collections.abc import Callable
from dataclasses import InitVar, dataclass

from tacit.errors import (
    AppraisalError,
    DebugNotAllowedError,
    MeasurementError,
    SignerError,
    TcbStatusError,
    WrongTeeError,
)
from tacit.evidence.claims import Claims, Tee
from tacit.manifest.model import Package

ALWAYS_ACCEPTED = "UpToDate"
NEVER_ACCEPTED = "Revoked"
DEFAULT_ACCEPTED_STATUSES = ("SWHardeningNeeded",)
"""Beside UpToDate, where an SGX package lists none: MarbleRun's default. A simulated platform gets no such grace."""

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
        hint = ' add "TEE": "simulated" to the package to allow it;' if claims.tee is Tee.SIMULATED else ""
        message = f"evidence is from a {claims.tee} TEE;{hint} the package allows {expected}"
        raise WrongTeeError(message)


def require_debug_as_named(claims: Claims, package: Package) -> None:
    """(2) Debug has to be equal: the host reads a debug enclave, and a debug package is not meant for production."""
    if claims.debug and not package.debug:
        message = "this is a debug enclave, whose memory its host can read; the package does not say Debug"
        raise DebugNotAllowedError(message)
    if package.debug and not claims.debug:
        message = "the package says Debug, and this is no debug enclave; take Debug out of the package"
        raise DebugNotAllowedError(message)


def require_named_software(claims: Claims, package: Package) -> None:
    """(3) Without UniqueID or SignerID anybody's enclave would fit, so none does."""
    if package.unique_id is None and package.signer_id is None:
        message = "the package names neither UniqueID nor SignerID, so it allows nothing; `tacit package-info` has them"
        raise MeasurementError(message)


def require_measurement(claims: Claims, package: Package) -> None:
    """(4) MRENCLAVE is the package's UniqueID, where it names one."""
    if package.unique_id is not None and not _equal(claims.measurement, package.unique_id):
        message = (
            f"measurement is {claims.measurement.hex()}, the package's UniqueID is {_shown(package.unique_id)}: "
            "another program, or one of its files or libraries was changed"
        )
        raise MeasurementError(message)


def require_signer(claims: Claims, package: Package) -> None:
    """(5) MRSIGNER, product id, and at least the security version, where the package names them."""
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


def require_tcb_status(claims: Claims, package: Package) -> None:
    """(6) UpToDate, or a status that the package lists; Revoked never."""
    if claims.tcb_status == ALWAYS_ACCEPTED:
        return
    default = DEFAULT_ACCEPTED_STATUSES if claims.tee is Tee.SGX else ()
    accepted = default if package.accepted_tcb_statuses is None else package.accepted_tcb_statuses
    if claims.tcb_status == NEVER_ACCEPTED or claims.tcb_status not in accepted:
        allowed = ", ".join((ALWAYS_ACCEPTED, *(status for status in accepted if status != NEVER_ACCEPTED)))
        message = f"the platform's TCB status is {claims.tcb_status}, the package accepts {allowed}"
        raise TcbStatusError(message)


def require_advisories(claims: Claims, package: Package) -> None:
    """(7) Where the package lists advisories, a platform that is not UpToDate may have those and no other."""
    if package.accepted_advisories is None or claims.tcb_status == ALWAYS_ACCEPTED:
        return
    open_ones = sorted(claims.advisories - set(package.accepted_advisories))
    if open_ones:
        message = f"the platform is subject to {', '.join(open_ones)}, which the package does not accept"
        raise TcbStatusError(message)


RULES: tuple[Callable[[Claims, Package], None], ...] = (
    require_tee,
    require_debug_as_named,
    require_named_software,
    require_measurement,
    require_signer,
    require_tcb_status,
    require_advisories,
)


def _equal(claimed: bytes, named: bytes) -> bool:
    """Equal 32-byte digests. The length is asked for: text that was no digest stands as `b""` in a package."""
    return len(named) == 32 and hmac.compare_digest(claimed, named)


def _shown(named: bytes) -> str:
    return named.hex() if len(named) == 32 else "no digest (64 hexadecimal digits are needed)"
