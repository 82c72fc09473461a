"""What a coordinator is told, and what it reaches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tacit.coordinator.activate import Verifier
from tacit.coordinator.log import EventLog
from tacit.evidence import Claims
from tacit.evidence.claims import Issuer


@dataclass(frozen=True, slots=True)
class Settings:
    """What a coordinator is told at its start.

    `tee` is what it says of itself in its status; `mark` stands in every certificate that it issues where the TEE is
    not a real one; `names` are the DNS names and addresses of its own certificates. `environ` has the names of variables
    that are set, for features of a manifest that need some; not their values.
    """

    names: tuple[str, ...] = ("localhost",)
    tee: str = "unattested"
    mark: str | None = "UNATTESTED"
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """What a coordinator reaches: its TEE, the verifier of marbles, the clock and the source of randomness.

    `issuer` and `verify` are None together, in unattested mode. `judge` verifies quotes that callers want signed, of
    whatever they are bound to; None where there is nothing to verify them by.
    """

    issuer: Issuer | None
    verify: Verifier | None
    clock: Callable[[], datetime]
    random: Callable[[int], bytes]
    log: EventLog
    judge: Callable[[bytes], Claims] | None = None
