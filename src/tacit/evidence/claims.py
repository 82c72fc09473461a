"""The words of evidence: what is shown, what was checked, and against which anchor."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol


class Tee(StrEnum):
    """Kinds of trusted execution environment. A simulated one is a kind of its own, never a flag on another."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    SIMULATED = "simulated"


class Role(StrEnum):
    """Who speaks: bound into report data, so that one role's evidence is worth nothing in another."""

    COORDINATOR = "coordinator"
    MARBLE = "marble"


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """The root that a chain of evidence must end at.

    `tee` is the kind that this anchor vouches for: a simulated root can never vouch for SGX.
    """

    tee: Tee
    name: str
    root_der: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """One check that was made, with the SHA-256 of what it was made over."""

    name: str
    input_sha256: bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified evidence says. Authentic; whether it is allowed is for `manifest.appraise`.

    `measurement` is MRENCLAVE and `signer` is MRSIGNER, 32 bytes each; `report_data` has 64 bytes.
    `tcb_status` is Intel's word (`UpToDate`, `OutOfDate`, ...), `hardware_id` the PPID.
    `expires` is the earliest end of any collateral's validity (UTC).
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


@dataclass(frozen=True, slots=True)
class PackageInfo:
    """What a manifest's package has to say about one program: reference values, not evidence.

    `unique_id` is MRENCLAVE and `signer_id` is MRSIGNER, 32 bytes each.
    """

    tee: Tee
    unique_id: bytes
    signer_id: bytes
    product_id: int
    security_version: int
    debug: bool


class Issuer(Protocol):
    """A TEE seen from inside: the one thing that only the program in it can use."""

    @property
    def tee(self) -> Tee:
        """The kind of TEE whose evidence comes out."""

    def issue_evidence(self, data: bytes) -> bytes:
        """Evidence over 64 bytes of report data, in Open Enclave's envelope (see `sgx.unwrap`)."""

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes:
        """32 bytes that only this program (or only this signer's programs) gets on this platform, every time."""
