"""What an entry of the audit log says: who did what, when; names and digests, never values.

Each function makes one kind of entry. What a stranger chose (a path, a type that no manifest has, the words of a
refusal) is cut to a length, so that no line is longer than its maker meant.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

_json: Callable[[Mapping[str, object]], str] = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

SALT_SIZE = 12  # bytes
MAX_TEXT = 200  # characters of anything that a stranger chose


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry before it has a number and a time."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


def encode_entry(entry: Entry, *, number: int, now: datetime, salt: bytes) -> bytes:
    """The line, without a line feed."""
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
    said = {
        "number": number,
        "time": moment,
        "event": entry.event,
        **entry.fields,
        "salt": base64.b64encode(salt).decode(),
    }
    return _json(said).encode()


def log_began(*, version: int) -> Entry:
    """The first entry where the state was an older program's, which kept no such log."""
    return Entry("log began", {"stateVersion": version})


def entries_missing(*, first: int, last: int) -> Entry:
    """Entries that the state names and the folder has not."""
    return Entry("log entries missing", {"first": first, "last": last})


def manifest_set(*, fingerprint: str, recovered_over: bool) -> Entry:
    """The first manifest. `recovered_over` says that a state that could not be opened was set aside for it."""
    return Entry("manifest set", {"manifestFingerprint": fingerprint, "oldStateSetAside": recovered_over})


def update_proposed(*, user: str, needed: int, fingerprint: str) -> Entry:
    """A manifest proposed; so many more users have to agree."""
    return Entry("update proposed", _update(user, needed, fingerprint))


def update_acknowledged(*, user: str, needed: int, fingerprint: str) -> Entry:
    """A user agreed."""
    return Entry("update acknowledged", _update(user, needed, fingerprint))


def update_cancelled(*, user: str, fingerprint: str) -> Entry:
    """A user took the pending update back."""
    return Entry("update cancelled", {"user": user, "manifestFingerprint": fingerprint})


def update_failed(*, fingerprint: str, reason: str) -> Entry:
    """Everybody agreed, and it could not be applied."""
    return Entry("update failed", {"manifestFingerprint": fingerprint, "reason": reason})


def manifest_updated(*, fingerprint: str, new_recovery: bool) -> Entry:
    """Another manifest counts. `new_recovery` says that new recovery secrets were handed out."""
    return Entry("manifest updated", {"manifestFingerprint": fingerprint, "newRecoverySecrets": new_recovery})


def versions_raised(*, user: str, versions: Mapping[str, int]) -> Entry:
    """Security versions raised, or confirmed."""
    return Entry("security versions raised", {"user": user, "packages": dict(versions)})


def secrets_set(*, user: str, names: Sequence[str]) -> Entry:
    """Secrets set by their owner."""
    return Entry("secrets set", {"user": user, "secrets": list(names)})


def secrets_read(*, user: str, names: Sequence[str]) -> Entry:
    """Secrets given to a user."""
    return Entry("secrets read", {"user": user, "secrets": list(names)})


def marble_activated(
    *, marble_type: str, uuid: str, package: str, tee: str, measurement: str, secrets: Sequence[str]
) -> Entry:
    """A release: to which marble, of which package, and the secrets that its templates, ports and models may use."""
    who = {"marbleType": marble_type, "uuid": uuid, "package": package, "tee": tee, "measurement": measurement}
    return Entry("marble activated", {**who, "secrets": list(secrets)})


def state_recovered(*, given: int, refused: int, holders: Sequence[str]) -> Entry:
    """The sealed state was opened with so many secrets; `refused` were offered before and did not open it.

    `holders` are the recovery keys that signed what was given.
    """
    return Entry("state recovered", {"secretsGiven": given, "secretsRefused": refused, "holders": list(holders)})


def counter_raised(*, marble_type: str, uuid: str, name: str, value: int) -> Entry:
    """A marble set one of its counters."""
    said = {"marbleType": marble_type, "uuid": uuid, "counter": _cut(name), "value": value}
    return Entry("counter raised", said)


def quote_signed(*, digest: str, tcb_status: str) -> Entry:
    """A quote that anybody may have sent (its SHA-256) was found to be authentic, and that was signed."""
    return Entry("quote signed", {"quote": digest, "tcbStatus": tcb_status})


def quotes_not_listed(counts: Mapping[str, int]) -> Entry:
    """How many signed quotes since the last entry of this kind have none of their own, by status."""
    return Entry("signed quotes not listed", {"counts": dict(sorted(counts.items()))})


def request_refused(*, caller: str, path: str, reason: str, error: str) -> Entry:
    """A request of the client API. `caller` is a user, or the digest of a certificate that is no user's, or empty."""
    return Entry("request refused", {"caller": caller, "path": path[:MAX_TEXT], "reason": reason, "error": _cut(error)})


def activation_refused(*, marble_type: str, certificate: str, reason: str, error: str) -> Entry:
    """A marble that got nothing. `certificate` is the digest of the one that its connection showed."""
    who = {"marbleType": marble_type[:MAX_TEXT], "certificate": certificate}
    return Entry("activation refused", {**who, "reason": reason, "error": _cut(error)})


def refusals_not_listed(counts: Mapping[str, int]) -> Entry:
    """How many refusals since the last entry of this kind have none of their own, by reason."""
    return Entry("refusals not listed", {"counts": dict(sorted(counts.items()))})


def _update(user: str, needed: int, fingerprint: str) -> Mapping[str, object]:
    return {"user": user, "missingAcknowledgments": needed, "manifestFingerprint": fingerprint}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
