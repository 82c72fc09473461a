"""What a coordinator answers, as values: status, quote, manifest, secrets, updates, recovery."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tacit.wire.log import LogMark


@dataclass(frozen=True, slots=True)
class StateMark:
    """Where a coordinator's state stands: position and hash of its newest record, signed by its root key.

    `tee` is the kind of TEE that it says it runs in (`simulated`, `unattested`, ...); only evidence proves it.
    `log` is where its audit log stands, with a signature of its own; None for a coordinator that keeps none.
    """

    tee: str
    epoch: int
    head: bytes
    signature: bytes
    log: LogMark | None = None


@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """State of a coordinator: 1 recovery, 2 waits for a manifest, 3 accepts marbles. `mark` is None for MarbleRun's."""

    code: int
    message: str
    mark: StateMark | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """The certificates (PEM: intermediate, then root) and the evidence, empty where the coordinator has no TEE."""

    chain_pem: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class ShownQuote:
    """A quote, and the connection that brought it: the certificate (DER) that its server showed, and its exporter.

    `newer` tells that v2 answered. `binding` is what the coordinator says that the evidence is bound to beside the key,
    None where it says nothing.
    """

    quote: Quote
    certificate: bytes
    newer: bool
    binding: str | None = None
    exporter: Callable[[bytes, int], bytes] | None = None


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """The manifest as it was uploaded, the SHA-256 that the coordinator names, and the root key's signature over it."""

    raw: bytes
    fingerprint: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A value for a user-defined secret: `key`, or `certificate` (DER) with `private` (PKCS#8 DER)."""

    key: bytes = field(default=b"", repr=False)
    certificate: bytes = b""
    private: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ReadSecret:
    """A secret as the coordinator holds it; values are empty while unset. `size` is bits, `valid_for` days."""

    type: str
    size: int
    shared: bool
    user_defined: bool
    valid_for: int
    certificate: bytes
    private: bytes = field(repr=False)
    public: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """An update, or an acknowledgment of one: how many acknowledgments it still needs, and who may give them.

    `recovery_secrets` are there where it was applied and the recovery keys are others now. `message` is empty for an
    update that was just submitted. Version 1 of the API says nothing of an update that was submitted: `needed` is None.
    """

    needed: int | None
    missing: Sequence[str] = ()
    message: str = ""
    recovery_secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class PendingUpdate:
    """The update that waits: its manifest as it was submitted, who has not acknowledged it, and that in words."""

    manifest: bytes
    missing: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A recovery secret was taken: how many remain, at most, and that in words. Version 1 gives words alone."""

    remaining: int | None
    message: str
