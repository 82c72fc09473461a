"""What the coordinator's values are on the wire. Words are MarbleRun's."""

from msgspec import UNSET, UnsetType

from tacit.coordinator.core import Status
from tacit.coordinator.secrets import Secret
from tacit.coordinator.updates.effects import Outcome
from tacit.wire.rest import AcknowledgedV2, LogHead, SecretEntry, StateMark, UpdateV2

UPDATE_APPLIED = "All users have acknowledged the update manifest. Update successfully applied"
UPDATE_CANCELLED = "Update successfully cancelled"


def state_mark(status: Status) -> StateMark:
    """Where the sealed state and its log stand."""
    log = LogHead(status.log.number, status.log.head.hex(), status.log_signature)
    return StateMark(status.tee, status.position.epoch, status.position.head.hex(), status.signature, log)


def still_needed(count: int) -> str:
    """How many users have yet to agree, in words."""
    users = "1 user still needs" if count == 1 else f"{count} users still need"
    return f"{users} to acknowledge the update manifest"


def update_answer(outcome: Outcome) -> UpdateV2:
    """What became of an update."""
    return UpdateV2(outcome.needed, list(outcome.missing) or None, _given(outcome))


def acknowledged_answer(outcome: Outcome) -> AcknowledgedV2:
    """What became of a user's agreement."""
    message = UPDATE_APPLIED
    if outcome.needed:
        names = ", ".join(outcome.missing)
        message = f"{still_needed(outcome.needed)}.\nThe following users have not yet accepted: {names}"
    missing = list(outcome.missing) or None
    return AcknowledgedV2(message, missing, outcome.needed, _given(outcome))


def _given(outcome: Outcome) -> dict[str, bytes] | UnsetType:
    return UNSET if outcome.recovery_secrets is None else dict(outcome.recovery_secrets)


def secret_entry(secret: Secret) -> SecretEntry:
    """A secret, values and all, for a user who may read it."""
    return SecretEntry(
        secret.type,
        secret.size,
        secret.shared,
        secret.user_defined,
        secret.certificate or None,
        secret.valid_for,
        secret.private or None,
        secret.public or None,
    )
