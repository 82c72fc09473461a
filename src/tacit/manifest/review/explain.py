"""What would a manifest have to say to allow this evidence? Each rule of `appraise`, with the lines that it asks for.

Lines are written for exactly what the claims show. That a line would allow something is no reason to write it: a
package with all of them says "whoever made this evidence", so a person takes those that were meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tacit.errors import AppraisalError
from tacit.evidence.claims import PROGRAM_REGISTERS, REVOCATION_UNCHECKED, Claims, Tee
from tacit.manifest.appraise import (
    ALWAYS_ACCEPTED,
    NEVER_ACCEPTED,
    NOT_RATED,
    require_advisories,
    require_checks,
    require_debug_as_named,
    require_hardware,
    require_lowest_tcb,
    require_measurement,
    require_named_software,
    require_no_weakness,
    require_signer,
    require_tcb_status,
    require_tee,
)
from tacit.manifest.model import Package

Lines = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Explained:
    """One rule: its number and question, what it says to the package, and the lines that it would be content with.

    `refusal` is empty where it has nothing against the package, and None where none was compared. There are no lines
    where none is needed, or none can help.
    """

    number: int
    question: str
    refusal: str | None
    lines: Lines


def explain(claims: Claims, package: Package | None = None) -> tuple[Explained, ...]:
    """Every rule in order; compared with a package where there is one."""
    return tuple(
        Explained(number, question, None if package is None else _refusal(rule, claims, package), lines(claims))
        for number, (rule, question, lines) in enumerate(_RULES, 1)
    )


def package_lines(claims: Claims) -> dict[str, Any]:
    """A package, as a manifest has it, that allows exactly this software in the state in which it was found."""
    found: dict[str, Any] = {}
    for _, _, lines in _RULES:
        for name, value in lines(claims).items():
            found[name] = found[name] + value if isinstance(value, list) and name in found else value
    return found


def _refusal(rule: Callable[[Claims, Package], None], claims: Claims, package: Package) -> str:
    try:
        rule(claims, package)
    except AppraisalError as exc:
        return str(exc)
    return ""


def _tee(claims: Claims) -> Lines:
    return {"TEE": str(claims.tee)}


def _checks(claims: Claims) -> Lines:
    return {"AcceptedWeaknesses": [REVOCATION_UNCHECKED]} if REVOCATION_UNCHECKED in claims.weaknesses else {}


def _debug(claims: Claims) -> Lines:
    return {"Debug": True} if claims.debug else {}


def _software(claims: Claims) -> Lines:
    program = PROGRAM_REGISTERS.get(claims.tee.layout)
    if program is None:
        return {"UniqueID": claims.measurement.hex()}
    return {"Measurements": {program: claims.registers[program].hex()}}


def _measurement(claims: Claims) -> Lines:
    """Beside what was started, what it measured since: registers that are not empty."""
    if claims.tee.layout is not Tee.TDX:
        return {}
    names = ("MRTD", *(f"RTMR{index}" for index in range(4)))
    return {"Measurements": {name: claims.registers[name].hex() for name in names if any(claims.registers[name])}}


def _signer(claims: Claims) -> Lines:
    if claims.tee.layout is not Tee.SGX:
        return {}
    numbers = {"ProductID": claims.product_id, "SecurityVersion": claims.security_version}
    return {"SignerID": claims.signer.hex(), **numbers}


def _weaknesses(claims: Claims) -> Lines:
    found = sorted(claims.weaknesses - {REVOCATION_UNCHECKED})
    return {"AcceptedWeaknesses": found} if found else {}


def _status(claims: Claims) -> Lines:
    if claims.tcb_status in (ALWAYS_ACCEPTED, NEVER_ACCEPTED):
        return {}
    return _lowest(claims) if claims.tcb_status == NOT_RATED else {"AcceptedTCBStatuses": [claims.tcb_status]}


def _advisories(claims: Claims) -> Lines:
    rated = claims.tcb_status not in (ALWAYS_ACCEPTED, NOT_RATED)
    return {"AcceptedAdvisories": sorted(claims.advisories)} if rated else {}


def _lowest(claims: Claims) -> Lines:
    if claims.tcb_versions:
        return {"MinimumTCB": dict(claims.tcb_versions)}
    return {"MinimumTCBEvaluation": claims.tcb_evaluation_number}


def _hardware(claims: Claims) -> Lines:
    return {"AllowedHardwareIDs": [claims.hardware_id.hex()]} if any(claims.hardware_id) else {}


_RULES: tuple[tuple[Callable[[Claims, Package], None], str, Callable[[Claims], Lines]], ...] = (
    (require_tee, "which kind of TEE", _tee),
    (require_checks, "was every check made", _checks),
    (require_debug_as_named, "can its host read it", _debug),
    (require_named_software, "is the software named", _software),
    (require_measurement, "is it that software", _measurement),
    (require_signer, "who signed it, and which version", _signer),
    (require_no_weakness, "does it protect less than it could", _weaknesses),
    (require_tcb_status, "is the platform up to date", _status),
    (require_advisories, "which known flaws does it have", _advisories),
    (require_lowest_tcb, "is it new enough", _lowest),
    (require_hardware, "which machine is it", _hardware),
)
