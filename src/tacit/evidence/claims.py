"""The words of evidence: what is shown, what was checked, and against which anchor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Literal, Protocol

from tacit.errors import EvidenceError


class Tee(StrEnum):
    """Kinds of trusted execution environment. A simulated one is a kind of its own, never a flag on another."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    SIMULATED = "simulated"
    """The layout of SGX."""
    SIMULATED_TDX = "simulated-tdx"
    SIMULATED_SNP = "simulated-snp"

    @property
    def is_simulated(self) -> bool:
        """Whether this kind protects nothing."""
        return self in (Tee.SIMULATED, Tee.SIMULATED_TDX, Tee.SIMULATED_SNP)

    @property
    def layout(self) -> "Tee":
        """The real kind whose layout and rules this one has."""
        simulated = {Tee.SIMULATED: Tee.SGX, Tee.SIMULATED_TDX: Tee.TDX, Tee.SIMULATED_SNP: Tee.SNP}
        return simulated.get(self, self)


REGISTERS: Mapping[Tee, Mapping[str, int]] = {
    Tee.SGX: {"MRENCLAVE": 32, "MRSIGNER": 32, "CONFIGID": 64, "ISVFAMILYID": 16, "ISVEXTPRODID": 16},
    Tee.TDX: dict.fromkeys(
        ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3", "MRCONFIGID", "MROWNER", "MROWNERCONFIG", "MRSEAM", "MRSERVICETD"),
        48,
    ),
    Tee.SNP: {
        "MEASUREMENT": 48, "HOST_DATA": 32, "ID_KEY_DIGEST": 48, "AUTHOR_KEY_DIGEST": 48, "FAMILY_ID": 16,
        "IMAGE_ID": 16,
    },
}  # fmt: skip
"""By layout: the names that `Claims.registers` has, and their sizes in bytes."""
PROGRAM_REGISTERS = {Tee.TDX: "MRTD", Tee.SNP: "MEASUREMENT"}
"""The register without which nothing says what was started."""
REVOCATION_UNCHECKED = "revocation-unchecked"
WEAKNESSES: Mapping[Tee, frozenset[str]] = {
    Tee.SGX: frozenset(),
    Tee.TDX: frozenset(("sept-ve-off", "migratable", "profiling", "service-td", "module-downgraded")),
    Tee.SNP: frozenset(("migration-agent", "vmpl-1", "vmpl-2", "vmpl-3", REVOCATION_UNCHECKED)),
}
"""By layout: the names that `Claims.weaknesses` may have."""
TCB_COMPONENTS = frozenset(("bootloader", "tee", "snp", "microcode", "fmc"))
"""The names that `Claims.tcb_versions` may have (SNP; `fmc` on Turin alone)."""


class Role(StrEnum):
    """Who speaks: bound into report data, so that one role's evidence is worth nothing in another."""

    COORDINATOR = "coordinator"
    MARBLE = "marble"


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """The root that a chain of evidence must end at.

    `tee` is the kind that this anchor vouches for: a simulated root can never vouch for SGX. `root_der` is empty where
    the package pins keys instead of a certificate (AMD). `foreign` says on purpose that a root other than the maker's
    shall count for a real TEE; nothing stores it, so it has to be said each time.
    """

    tee: Tee
    name: str
    root_der: bytes
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step of verification: its number in docs/evidence.md and what it answers."""

    number: str
    name: str

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


@dataclass(frozen=True, slots=True)
class Check:
    """One check, with the SHA-256 of what it was made over; None says that it was not made."""

    number: str
    name: str
    input_sha256: bytes | None

    @property
    def made(self) -> bool:
        """Whether there is an input's digest at all. Nothing is presumed."""
        return self.input_sha256 is not None


@dataclass(frozen=True, slots=True)
class Digested:
    """The SHA-256 of an input that many verifications share, taken once."""

    sha256: bytes


class Checklist:
    """The steps of one verification. One is ticked off only by having been done without a refusal."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self._made: dict[Step, bytes] = {}

    def doing(self, step: Step, over: bytes | Digested) -> "naming":
        """For `with`: the body does this step over these bytes; a refusal that comes out of it says which it was."""
        return naming(step, self, over)

    def tick(self, step: Step, over: bytes | Digested) -> None:
        """This step was done over these bytes, by whoever says so."""
        self._made[step] = over.sha256 if isinstance(over, Digested) else sha256(over).digest()

    @property
    def open(self) -> tuple[Step, ...]:
        """The steps that were not done."""
        return tuple(step for step in self._steps if step not in self._made)

    def checks(self) -> tuple[Check, ...]:
        """Every step in order, made or not."""
        return tuple(Check(step.number, step.name, self._made.get(step)) for step in self._steps)


class naming:  # noqa: N801 -- reads as a verb: `with naming(step):`
    """For `with`: a refusal that comes out of the body says which step it was; one that already does keeps its word."""

    __slots__ = ("_done", "_over", "_step")

    def __init__(self, step: Step, done: Checklist | None = None, over: bytes | Digested = b"") -> None:
        self._step, self._done, self._over = step, done, over

    def __enter__(self) -> None:
        """Nothing is ticked off yet."""

    def __exit__(self, kind: object, refused: BaseException | None, trace: object) -> None:
        """Tick off, or name the step in the refusal."""
        if isinstance(refused, EvidenceError):
            refused.step = refused.step or str(self._step)
        if refused is None and self._done is not None:
            self._done.tick(self._step, self._over)


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified evidence says. Authentic; whether it is allowed is for `manifest.appraise`.

    `measurement` is MRENCLAVE (32 bytes), MRTD or SNP's MEASUREMENT (48 each); `signer` is MRSIGNER or SNP's
    ID_KEY_DIGEST, empty for TDX, which has none. `registers` are all measured values by the maker's own names.
    `weaknesses` are the ways in which it protects less than it could (`manifest.appraise` refuses each that the package
    does not accept); debug is told apart. `tcb_status` is Intel's word (`UpToDate`, `OutOfDate`, ...) or `NotRated`:
    AMD rates nothing, so there `tcb_versions` count, each the lowest of reported, committed and launch.
    `hardware_id` is the PPID or CHIP_ID, `product_line` the FMSPC (hex) or AMD's name. `outdated_since` is when a level
    above the platform's came out, None where there is none. `expires` is the earliest end of any collateral's validity,
    `verified_at` the time of the verdict (both UTC).
    """

    tee: Tee
    measurement: bytes
    signer: bytes
    product_id: int
    security_version: int
    debug: bool
    report_data: bytes
    tcb_status: str
    advisories: frozenset[str]
    tcb_evaluation_number: int
    hardware_id: bytes
    expires: datetime
    checks: tuple[Check, ...]
    registers: Mapping[str, bytes] = field(default_factory=dict)
    weaknesses: frozenset[str] = frozenset()
    product_line: str = ""
    tcb_versions: Mapping[str, int] = field(default_factory=dict)
    outdated_since: datetime | None = None
    verified_at: datetime | None = None

    def with_check(self, step: Step, over: bytes) -> "Claims":
        """The same claims with one more check made."""
        return self.with_listed(Check(step.number, step.name, sha256(over).digest()))

    def with_listed(self, check: Check) -> "Claims":
        """The same claims with this check in place of the one of its number, or behind the others."""
        others = tuple(one for one in self.checks if one.number != check.number)
        return replace(self, checks=(*others, check))


@dataclass(frozen=True, slots=True)
class PackageInfo:
    """What a manifest's package has to say about one program: reference values, not evidence.

    `unique_id` is MRENCLAVE and `signer_id` is MRSIGNER, 32 bytes each. A virtual machine has `measurements` instead, by
    the maker's names, and SNP's the lowest TCB.
    """

    tee: Tee
    unique_id: bytes
    signer_id: bytes
    product_id: int
    security_version: int
    debug: bool
    measurements: Mapping[str, bytes] = field(default_factory=dict)
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)


class Issuer(Protocol):
    """A TEE seen from inside: the one thing that only the program in it can use."""

    @property
    def tee(self) -> Tee:
        """The kind of TEE whose evidence comes out."""

    def issue_evidence(self, data: bytes) -> bytes:
        """Evidence over 64 bytes of report data, in Open Enclave's envelope where it is an SGX quote. Raises: TeeError."""

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes | None:
        """32 bytes that only this program (or only this signer's programs) gets on this platform, every time.

        None where this kind of TEE has no such key. A key may be bound more tightly than asked, never less.
        """
