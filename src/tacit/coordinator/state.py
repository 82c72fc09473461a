"""Which states there are, what is possible in each, and what a coordinator holds.

`NEXT` is the whole state machine: what stands not in it is refused. `Holdings` is one immutable value; a change makes
another one, so a reader never sees half of it and a change that could not be stored leaves nothing behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from tacit.coordinator.secrets import Secret
from tacit.errors import IllegalTransitionError
from tacit.manifest import Manifest
from tacit.pki import KeyPair


class State(IntEnum):
    """The states, with their numbers on the wire."""

    RECOVERY = 1
    ACCEPTING_MANIFEST = 2
    ACCEPTING_MARBLES = 3


class Event(Enum):
    """What can be asked for that depends on the state."""

    SET_MANIFEST = "set a manifest"
    ACTIVATE = "activate a marble"
    READ_LOG = "read the update log"
    READ_SECRETS = "read secrets"
    WRITE_SECRETS = "set secrets"
    UPDATE = "update the manifest"
    RECOVER = "recover the sealed state"
    FETCH_RECOVERY_KEY = "fetch the key for recovery secrets"


NEXT: Mapping[tuple[State, Event], State] = {
    (State.RECOVERY, Event.FETCH_RECOVERY_KEY): State.RECOVERY,
    (State.RECOVERY, Event.RECOVER): State.ACCEPTING_MARBLES,
    (State.RECOVERY, Event.SET_MANIFEST): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MANIFEST, Event.SET_MANIFEST): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MARBLES, Event.ACTIVATE): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MARBLES, Event.UPDATE): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MARBLES, Event.READ_LOG): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MARBLES, Event.READ_SECRETS): State.ACCEPTING_MARBLES,
    (State.ACCEPTING_MARBLES, Event.WRITE_SECRETS): State.ACCEPTING_MARBLES,
}

STATUS_TEXT: Mapping[State, str] = {
    State.RECOVERY: (
        "Coordinator is in recovery mode. Either upload a key to unseal the saved state, or set a new manifest. "
        "For more information on how to proceed, consult the documentation."
    ),
    State.ACCEPTING_MANIFEST: "Coordinator is ready to accept a manifest.",
    State.ACCEPTING_MARBLES: "Coordinator is running correctly and ready to accept marbles.",
}
"""Words of the status answer; users' scripts match on them."""


def advance(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        IllegalTransitionError: `NEXT` has no such move; says what is possible.
    """
    after = NEXT.get((state, event))
    if after is None:
        allowed = ", ".join(sorted(known.value for at, known in NEXT if at is state)) or "nothing"
        raise IllegalTransitionError(f"cannot {event.value} in state {state.name}; possible now: {allowed}")
    return after


@dataclass(frozen=True, slots=True)
class Identity:
    """The coordinator's own keys: root, the intermediate that it signed, and the same key as a root for marbles."""

    root: KeyPair
    intermediate: KeyPair
    marble_root: KeyPair

    @property
    def root_key(self) -> EllipticCurvePrivateKey:
        """The root's private key."""
        return cast("EllipticCurvePrivateKey", self.root.key)


@dataclass(frozen=True, slots=True)
class Pending:
    """A manifest that waits for users to agree: how many in all have to, who may, and who has."""

    raw: bytes
    threshold: int
    users: tuple[str, ...]
    agreed: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """How many have yet to agree."""
        return max(self.threshold - len(self.agreed), 0)

    @property
    def missing(self) -> tuple[str, ...]:
        """Who may and has not agreed."""
        return tuple(user for user in self.users if user not in self.agreed)

    def agreed_by(self, user: str) -> "Pending":
        """The same with this user's agreement, which counts once."""
        return replace(self, agreed=tuple(dict.fromkeys((*self.agreed, user))))


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that a coordinator holds. Before a manifest is set, `manifest` is None and only `identity` counts.

    `signature` is the root key's over the manifest. `activations` counts by marble type, where a limit is set.
    `update_log` are the lines of the update log, oldest first. `manifest.packages` have the security versions that
    updates brought, which its `raw` has not. `counters` are values by name, of each marble (type, UUID).
    """

    state: State
    identity: Identity
    manifest: Manifest | None = None
    signature: bytes = b""
    root_secret: bytes = field(default=b"", repr=False)
    previous_root_secret: bytes = field(default=b"", repr=False)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    previous_secrets: Mapping[str, Secret] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)
    update_log: tuple[str, ...] = ()
    pending: Pending | None = None
    counters: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecretsSet:
    """Users' values for user-defined secrets, and the lines that the update log gets."""

    secrets: Mapping[str, Secret]
    log_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Activated:
    """One more activation of a type that has a limit."""

    marble_type: str
    uuid: str


@dataclass(frozen=True, slots=True)
class CounterRaised:
    """A marble's counter has a greater value."""

    marble_type: str
    uuid: str
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class PendingChanged:
    """An update was proposed, acknowledged or taken back, and the lines that the update log gets."""

    pending: Pending | None
    log_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replaced:
    """Everything is another: an update was applied."""

    holdings: Holdings


Change = SecretsSet | Activated | CounterRaised | PendingChanged | Replaced


def apply(holdings: Holdings, change: Change) -> Holdings:
    """What is held after a change."""
    if isinstance(change, SecretsSet):
        # Setting a secret is no update, so `.Previous` stays what it was, as recorded. Updates keep what an owner gave, so
        # there is never a value before it.
        return replace(
            holdings,
            secrets={**holdings.secrets, **change.secrets},
            update_log=(*holdings.update_log, *change.log_lines),
        )
    if isinstance(change, PendingChanged):
        return replace(holdings, pending=change.pending, update_log=(*holdings.update_log, *change.log_lines))
    if isinstance(change, Replaced):
        return change.holdings
    if isinstance(change, CounterRaised):
        marble = change.marble_type, change.uuid
        own = {**holdings.counters.get(marble, {}), change.name: change.value}
        return replace(holdings, counters={**holdings.counters, marble: own})
    count = holdings.activations.get(change.marble_type, 0) + 1
    return replace(holdings, activations={**holdings.activations, change.marble_type: count})
