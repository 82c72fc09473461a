"""The lines of the update log, which anybody reads over the client API, as MarbleRun has them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime


def manifest_set_line(now: datetime) -> str:
    """The first line of every update log."""
    return _line(now, "Initial manifest set")


def secret_set_line(now: datetime, *, user: str, secret: str, type_: str) -> str:
    """One secret set by its owner."""
    return _line(now, "Secret set", user=user, secret=secret, type=type_)


def version_raised_line(now: datetime, *, user: str, package: str, version: int) -> str:
    """One package's security version raised, or confirmed."""
    return _line(now, "SecurityVersion increased", user=user, package=package, **{"new version": version})


def update_proposed_line(now: datetime, *, user: str, needed: int, missing: Sequence[str], fingerprint: str) -> str:
    """A new manifest proposed; `needed` more users have to agree."""
    start = "Complete Manifest update initiated by user. "
    if not needed:
        return _line(now, f"{start}No further acknowledgements required", user=user, manifestFingerprint=fingerprint)
    waiting = {"missingAcknowledgments": needed, "missingUsers": list(missing)}
    event = f"{start}Waiting for acknowledgments to apply the update"
    return _line(now, event, user=user, **waiting, manifestFingerprint=fingerprint)


def update_acknowledged_line(now: datetime, *, user: str, needed: int, missing: Sequence[str], fingerprint: str) -> str:
    """A user agreed."""
    waiting = {"missingAcknowledgments": needed, "missingUsers": list(missing)}
    event = "Complete Manifest update acknowledged by user"
    return _line(now, event, user=user, **waiting, manifestFingerprint=fingerprint)


def updated_line(now: datetime, *, fingerprint: str) -> str:
    """The new manifest counts."""
    return _line(now, "Complete Manifest updated", manifestFingerprint=fingerprint)


def update_cancelled_line(now: datetime, *, user: str, fingerprint: str) -> str:
    """Taken back."""
    return _line(now, "Complete Manifest update cancelled by user", user=user, manifestFingerprint=fingerprint)


def update_failed_line(now: datetime, *, fingerprint: str) -> str:
    """Everybody agreed, and it could not be applied."""
    return _line(now, "Complete Manifest update cancelled due to error during apply", manifestFingerprint=fingerprint)


def _line(now: datetime, update: str, **fields: object) -> str:
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    return json.dumps({"time": moment, "update": update, **fields}, ensure_ascii=False, separators=(",", ":"))
