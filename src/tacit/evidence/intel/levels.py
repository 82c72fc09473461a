"""In which state is the platform? The TCB levels that it, its quoting enclave and its TDX module reach.

Of each list the highest level counts of which every component is reached; its order is not trusted. The statuses of all
three converge to one: an outdated part makes a good platform outdated, a revoked one is refused.

Source: Intel SGX and TDX PCS API v4, "selecting TCB status"; a TDX module of version 1 or higher is judged by the
identity `TDX_<version>`, and the platform's first two TDX components are then not compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from tacit.errors import CollateralError, EvidenceSignatureError, RevokedError, TcbError
from tacit.evidence.anchor.certificates import KEPT
from tacit.evidence.intel.collateral import ReadCollateral, parse_time
from tacit.evidence.intel.fields import take, take_hex, take_objects
from tacit.evidence.intel.pck import PckExtension
from tacit.evidence.intel.quote import Quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.tdx.report import TdReport

_COMPONENTS = 16
# Every status that is reported; `Revoked` never is, and a word that is not here is refused.
TCB_STATUSES = frozenset(
    (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
    )
)
_REVOKED = "Revoked"
_UP_TO_DATE, _OUT_OF_DATE = "UpToDate", "OutOfDate"


@dataclass(frozen=True, slots=True)
class Level:
    """The level that something reached. `superseded` is when the next higher one came out, None for the highest."""

    status: str
    advisories: frozenset[str]
    superseded: datetime | None


@dataclass(frozen=True, slots=True)
class State:
    """All levels of a platform as one."""

    tcb_status: str
    advisories: frozenset[str]
    tcb_evaluation_number: int
    outdated_since: datetime | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One level of a list: what is needed for it, and what it says."""

    needed: tuple[int, ...]
    status: str
    advisories: frozenset[str]
    date: datetime


def find_state(quote: Quote, read: ReadCollateral, pck: PckExtension) -> State:
    """The state of an authentic platform.

    Raises:
        TcbError: no level fits, or a status that is not known here.
        RevokedError: a level that is revoked.
        CollateralError: levels of another form.
        EvidenceSignatureError: a TDX module that is not Intel's.
    """
    report = quote.report
    levels = _platform_levels(report.tcb_svn if isinstance(report, TdReport) else None, read, pck)
    started, quoting_enclave = _converged(levels), _qe_level(quote.qe_report, read)
    status = converge(started, quoting_enclave.status)
    if isinstance(report, TdReport) and report.tcb_svn2 != report.tcb_svn:
        # Judged even where it changes nothing: a module that is unknown or revoked must not run.
        now = _converged(_platform_levels(report.tcb_svn2, read, pck))
        status = _relaunch_status(started, now) if quoting_enclave.status == _UP_TO_DATE else status
    levels.append(quoting_enclave)
    numbers = [
        take(value, "tcbEvaluationDataNumber", int, name)
        for value, name in ((read.tcb_info, "TCB info"), (read.qe_identity, "QE identity"))
    ]
    outdated = [one.superseded for one in levels if one.superseded and one.status.startswith(_OUT_OF_DATE)]
    return State(
        tcb_status=status,
        advisories=frozenset().union(*(level.advisories for level in levels)),
        tcb_evaluation_number=min(numbers),
        outdated_since=min(outdated, default=None),
    )


def converge(platform: str, part: str) -> str:
    """One status for a platform and a part of it (its quoting enclave, its TDX module).

    Raises:
        RevokedError: either was revoked.
        TcbError: a status of the part that has no place in Intel's table.
    """
    if _REVOKED in (platform, part):
        raise RevokedError("the TCB level of the platform or of a part of it was revoked")
    if part == _UP_TO_DATE:
        return platform
    if part != _OUT_OF_DATE:
        raise TcbError(f"a quoting enclave or TDX module with the TCB status {part!r} is not known here")
    if platform in (_UP_TO_DATE, "SWHardeningNeeded"):
        return _OUT_OF_DATE
    if platform in ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"):
        return "OutOfDateConfigurationNeeded"
    return platform


def _converged(levels: Sequence[Level]) -> str:
    status = levels[0].status
    for level in levels[1:]:
        status = converge(status, level.status)
    if status == _REVOKED:
        raise RevokedError("the TCB level of the platform was revoked")
    return status


def _relaunch_status(started: str, now: str) -> str:
    """The status of a TD that started on an outdated TDX module which was updated under it: it should start again."""
    if not started.startswith(_OUT_OF_DATE) or now.startswith(_OUT_OF_DATE):
        return started
    configured = started == _OUT_OF_DATE and now in (_UP_TO_DATE, "SWHardeningNeeded")
    return "TDRelaunchAdvised" if configured else "TDRelaunchAdvisedConfigurationNeeded"


def check_tdx_module(report: TdReport, tcb_info: Mapping[str, Any]) -> None:
    """Accept a TDX module that TCB info knows: its signer and attributes.

    Raises:
        EvidenceSignatureError: another module, signer or attribute than TCB info says.
        CollateralError: TCB info of another form.
    """
    identity = _module_identity(report.tcb_svn, tcb_info)
    what = "TCB info's TDX module"
    if report.mr_signer_seam != take_hex(identity, "mrsigner", 48, what):
        raise EvidenceSignatureError("the TDX module is signed by another than TCB info says (MRSIGNERSEAM)")
    attributes = report.seam_attributes.to_bytes(8, "little")
    expected, mask = (take_hex(identity, name, 8, what) for name in ("attributes", "attributesMask"))
    if bytes(a & b for a, b in zip(attributes, mask, strict=True)) != expected:
        raise EvidenceSignatureError("the TDX module's SEAMATTRIBUTES are not those of TCB info")
    if report.seam_attributes:
        raise EvidenceSignatureError(f"the TDX module has SEAMATTRIBUTES {report.seam_attributes:#x}; none are known")


def _module_identity(tcb_svn: bytes, tcb_info: Mapping[str, Any]) -> Mapping[str, Any]:
    version = tcb_svn[1]
    if version == 0:
        found: Mapping[str, Any] = take(tcb_info, "tdxModule", dict, "TCB info")
        return found
    name = f"TDX_{version:02X}"
    named = [one for one in take_objects(tcb_info, "tdxModuleIdentities", "TCB info") if one.get("id") == name]
    if len(named) != 1:
        raise EvidenceSignatureError(
            f"TCB info knows no TDX module {name}, or several; is it newer than the collateral?"
        )
    return named[0]


def _parse_steps(
    value: Mapping[str, Any], what: str, needed: Callable[[Mapping[str, Any]], tuple[int, ...]]
) -> tuple[_Step, ...]:
    """The levels of a list, the highest first."""
    steps = []
    for level in take_objects(value, "tcbLevels", what):
        status = take(level, "tcbStatus", str, what)
        if status not in TCB_STATUSES and status != _REVOKED:
            raise TcbError(f"{what} has a TCB status that is not known here: {status[:40]!r}")
        advisories = level.get("advisoryIDs", [])
        if not isinstance(advisories, list) or not all(isinstance(one, str) for one in advisories):
            raise CollateralError(f"{what}: advisoryIDs is not a list of names")
        date = parse_time(level.get("tcbDate"), f"{what}'s tcbDate")
        steps.append(_Step(needed(take(level, "tcb", dict, what)), status, frozenset(advisories), date))
    return tuple(sorted(steps, key=lambda one: one.needed, reverse=True))


def _reach(steps: Sequence[_Step], reached: tuple[int, ...], missing: str) -> Level:
    """The first of the sorted levels of which every part is reached."""
    higher: datetime | None = None
    for step in steps:
        if all(have >= need for have, need in zip(reached, step.needed, strict=True)):
            return Level(step.status, step.advisories, higher)
        higher = step.date
    raise TcbError(missing)


def _components(tcb: Mapping[str, Any], name: str) -> tuple[int, ...]:
    what = "TCB info"
    components = take_objects(tcb, name, what)
    if len(components) != _COMPONENTS:
        raise CollateralError(f"{what}: a level has {len(components)} components, expected {_COMPONENTS}")
    return tuple(take(one, "svn", int, what) for one in components)


@lru_cache(maxsize=KEPT)
def _platform_steps(read: ReadCollateral, *, is_td: bool, skipped: int) -> tuple[_Step, ...]:
    def needed(tcb: Mapping[str, Any]) -> tuple[int, ...]:
        base = (*_components(tcb, "sgxtcbcomponents"), take(tcb, "pcesvn", int, "TCB info"))
        return (*base, *_components(tcb, "tdxtcbcomponents")[skipped:]) if is_td else base

    return _parse_steps(read.tcb_info, "TCB info", needed)


@lru_cache(maxsize=KEPT)
def _qe_steps(read: ReadCollateral) -> tuple[_Step, ...]:
    return _parse_steps(read.qe_identity, "QE identity", lambda tcb: (take(tcb, "isvsvn", int, "QE identity"),))


def _platform_levels(tcb_svn: bytes | None, read: ReadCollateral, pck: PckExtension) -> list[Level]:
    """The levels of platform and TDX module, for the module of this TEE_TCB_SVN (None for SGX)."""
    if tcb_svn is None:
        skipped, td_part = 0, b""
    else:
        # A module with a version of its own is judged by its identity, not by the first two components.
        skipped = 2 if tcb_svn[1] else 0
        td_part = tcb_svn[skipped:]
    missing = "no matching TCB level: the platform is older than the oldest level that TCB info knows"
    steps = _platform_steps(read, is_td=tcb_svn is not None, skipped=skipped)
    levels = [_reach(steps, (*pck.components, pck.pce_svn, *td_part), missing)]
    if tcb_svn is not None and tcb_svn[1]:
        levels.append(_module_level(tcb_svn, read))
    return levels


@lru_cache(maxsize=KEPT)
def _module_steps(read: ReadCollateral, version: int) -> tuple[_Step, ...]:
    what = "TCB info's TDX module"
    identity = _module_identity(bytes((0, version)), read.tcb_info)
    return _parse_steps(identity, what, lambda tcb: (take(tcb, "isvsvn", int, what),))


def _module_level(tcb_svn: bytes, read: ReadCollateral) -> Level:
    missing = "no matching TCB level: the TDX module is older than the oldest level that TCB info knows"
    return _reach(_module_steps(read, tcb_svn[1]), (tcb_svn[0],), missing)


def _qe_level(report: SgxReport, read: ReadCollateral) -> Level:
    missing = "no matching TCB level: the quoting enclave is older than the oldest that QE identity knows"
    return _reach(_qe_steps(read), (report.security_version,), missing)
