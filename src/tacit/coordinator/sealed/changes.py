"""What a record says: everything (a snapshot), or one change.

A payload is a kind (one byte) and a MessagePack map. The manifest stands as it was uploaded and is parsed again, so
that there is one reading of it; keys are DER. Changes stand in a step together with the entries of the audit log that
tell of them, so neither is ever stored without the other.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import msgspec
from cryptography import x509

from tacit.coordinator.log.journal import Journal, open_journal
from tacit.coordinator.secrets import Secret, as_taken
from tacit.coordinator.state import (
    Activated,
    Change,
    CounterRaised,
    Holdings,
    Identity,
    Pending,
    PendingChanged,
    Replaced,
    SecretsSet,
    State,
    apply,
)
from tacit.errors import ManifestError, PkiError, SealedStateError
from tacit.manifest import Manifest
from tacit.manifest.codec import parse_sealed_manifest
from tacit.pki import KeyPair
from tacit.pki.keys import CERTIFICATE_ERRORS, parse_private_key_der
from tacit.wire.log import LogPosition

_SNAPSHOT, _SECRETS, _ACTIVATED, _PENDING, _COUNTER, _STEP = b"S", b"s", b"a", b"p", b"c", b"e"


class _Pair(msgspec.Struct, forbid_unknown_fields=True):
    certificate: bytes
    key: bytes


class _Secret(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    size: int
    shared: bool
    user_defined: bool
    valid_for: int
    certificate: bytes
    private: bytes
    public: bytes


class _Pending(msgspec.Struct, forbid_unknown_fields=True):
    raw: bytes
    threshold: int
    users: list[str]
    agreed: list[str]


class _Counters(msgspec.Struct, forbid_unknown_fields=True):
    marble_type: str
    uuid: str
    values: dict[str, int]


class _Log(msgspec.Struct, forbid_unknown_fields=True):
    key: bytes
    archived: int
    head: bytes
    tail: list[bytes]


class _Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    manifest: bytes
    signature: bytes
    root: _Pair
    intermediate: _Pair
    marble_root: _Pair
    root_secret: bytes
    previous_root_secret: bytes
    secrets: dict[str, _Secret]
    previous_secrets: dict[str, _Secret]
    activations: dict[str, int]
    update_log: list[str]
    # Later than the rest: a file without them is an older one.
    security_versions: dict[str, int] = {}
    pending: _Pending | None = None
    counters: list[_Counters] = []
    # None in files of version 1, and in a step, where the log goes on as it was.
    log: _Log | None = None


class _Step(msgspec.Struct, forbid_unknown_fields=True):
    changes: list[bytes]
    entries: list[bytes]


class _PendingChanged(msgspec.Struct, forbid_unknown_fields=True):
    pending: _Pending | None
    log_lines: list[str]


class _SecretsSet(msgspec.Struct, forbid_unknown_fields=True):
    secrets: dict[str, _Secret]
    log_lines: list[str]


class _Activated(msgspec.Struct, forbid_unknown_fields=True):
    marble_type: str
    uuid: str


class _CounterRaised(msgspec.Struct, forbid_unknown_fields=True):
    marble_type: str
    uuid: str
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a file comes to: all that is held, and the end of the log; None where the file is of version 1."""

    holdings: Holdings
    journal: Journal | None


def encode_snapshot(holdings: Holdings, journal: Journal | None = None) -> bytes:
    """Everything that is held, as a payload. A manifest has been set. Without a journal it is a change of a step."""
    if holdings.manifest is None:
        raise SealedStateError("nothing is sealed before a manifest is set")
    identity = holdings.identity
    snapshot = _Snapshot(
        manifest=holdings.manifest.raw,
        signature=holdings.signature,
        root=_pair(identity.root),
        intermediate=_pair(identity.intermediate),
        marble_root=_pair(identity.marble_root),
        root_secret=holdings.root_secret,
        previous_root_secret=holdings.previous_root_secret,
        secrets={name: _Secret(**asdict(one)) for name, one in holdings.secrets.items()},
        previous_secrets={name: _Secret(**asdict(one)) for name, one in holdings.previous_secrets.items()},
        activations=dict(holdings.activations),
        update_log=list(holdings.update_log),
        security_versions={
            name: package.security_version
            for name, package in holdings.manifest.packages.items()
            if package.security_version is not None
        },
        pending=_written(holdings.pending),
        counters=[_Counters(*marble, dict(values)) for marble, values in holdings.counters.items()],
        log=None
        if journal is None
        else _Log(journal.key, journal.archived.number, journal.archived.head, list(journal.tail)),
    )
    return _SNAPSHOT + msgspec.msgpack.encode(snapshot)


def encode_change(change: Change) -> bytes:
    """One change, as a payload."""
    if isinstance(change, SecretsSet):
        secrets = {name: _Secret(**asdict(one)) for name, one in change.secrets.items()}
        return _SECRETS + msgspec.msgpack.encode(_SecretsSet(secrets, list(change.log_lines)))
    if isinstance(change, PendingChanged):
        return _PENDING + msgspec.msgpack.encode(_PendingChanged(_written(change.pending), list(change.log_lines)))
    if isinstance(change, Replaced):
        return encode_snapshot(change.holdings)
    if isinstance(change, CounterRaised):
        raised = _CounterRaised(change.marble_type, change.uuid, change.name, change.value)
        return _COUNTER + msgspec.msgpack.encode(raised)
    return _ACTIVATED + msgspec.msgpack.encode(_Activated(change.marble_type, change.uuid))


def encode_step(changes: Sequence[bytes], entries: Sequence[bytes]) -> bytes:
    """Changes and the entries that tell of them, as a payload."""
    return _STEP + msgspec.msgpack.encode(_Step(list(changes), list(entries)))


def replay(payloads: Sequence[bytes]) -> Replayed:
    """What a file comes to after all its payloads, the first of which is a snapshot.

    Raises:
        SealedStateError: a payload that this program does not know.
    """
    holdings: Holdings | None = None
    log: _Log | None = None
    entries: list[bytes] = []
    for payload in payloads:
        try:
            if payload[:1] == _SNAPSHOT:
                snapshot = msgspec.msgpack.decode(payload[1:], type=_Snapshot)
                holdings, log = _holdings(snapshot), snapshot.log
                entries = list(log.tail) if log else []
                continue
            step = _step(payload)
            for change in step.changes:
                holdings = _after(holdings, change)
            entries += step.entries
        except (msgspec.MsgspecError, ManifestError, PkiError, *CERTIFICATE_ERRORS) as exc:
            raise _unknown(payload[:1]) from exc
    if holdings is None:
        raise SealedStateError("the sealed state holds nothing")
    return Replayed(holdings, open_journal(log.key, LogPosition(log.archived, log.head), entries) if log else None)


def _step(payload: bytes) -> _Step:
    """A step; a change that stands alone, as in version 1, is one without entries."""
    if payload[:1] == _STEP:
        return msgspec.msgpack.decode(payload[1:], type=_Step)
    return _Step([payload], [])


def _after(holdings: Holdings | None, payload: bytes) -> Holdings:
    kind, body = payload[:1], payload[1:]
    if kind == _SNAPSHOT:
        return _holdings(msgspec.msgpack.decode(body, type=_Snapshot))
    if holdings is None:
        raise _unknown(kind)
    return apply(holdings, _change(kind, body))


def _change(kind: bytes, body: bytes) -> Change:
    if kind == _SECRETS:
        read = msgspec.msgpack.decode(body, type=_SecretsSet)
        return SecretsSet(_secrets(read.secrets), tuple(read.log_lines))
    if kind == _ACTIVATED:
        activated = msgspec.msgpack.decode(body, type=_Activated)
        return Activated(activated.marble_type, activated.uuid)
    if kind == _COUNTER:
        raised = msgspec.msgpack.decode(body, type=_CounterRaised)
        return CounterRaised(raised.marble_type, raised.uuid, raised.name, raised.value)
    if kind == _PENDING:
        changed = msgspec.msgpack.decode(body, type=_PendingChanged)
        return PendingChanged(_read(changed.pending), tuple(changed.log_lines))
    raise _unknown(kind)


def _manifest(read: _Snapshot) -> Manifest:
    """The manifest with the security versions that updates brought."""
    manifest = parse_sealed_manifest(read.manifest)
    secrets = {name: as_taken(name, rule) for name, rule in manifest.secrets.items()}
    packages = {
        name: replace(package, security_version=read.security_versions.get(name, package.security_version))
        for name, package in manifest.packages.items()
    }
    return replace(manifest, packages=packages, secrets=secrets)


def _written(pending: Pending | None) -> _Pending | None:
    if pending is None:
        return None
    return _Pending(pending.raw, pending.threshold, list(pending.users), list(pending.agreed))


def _read(pending: _Pending | None) -> Pending | None:
    if pending is None:
        return None
    return Pending(pending.raw, pending.threshold, tuple(pending.users), tuple(pending.agreed))


def _holdings(read: _Snapshot) -> Holdings:
    return Holdings(
        state=State.ACCEPTING_MARBLES,
        identity=Identity(_key_pair(read.root), _key_pair(read.intermediate), _key_pair(read.marble_root)),
        manifest=_manifest(read),
        signature=read.signature,
        root_secret=read.root_secret,
        previous_root_secret=read.previous_root_secret,
        secrets=_secrets(read.secrets),
        previous_secrets=_secrets(read.previous_secrets),
        activations=read.activations,
        update_log=tuple(read.update_log),
        pending=_read(read.pending),
        counters={(one.marble_type, one.uuid): one.values for one in read.counters},
    )


def _secrets(read: dict[str, _Secret]) -> dict[str, Secret]:
    return {name: Secret(**{key: getattr(one, key) for key in one.__struct_fields__}) for name, one in read.items()}


def _pair(pair: KeyPair) -> _Pair:
    return _Pair(pair.certificate_der, pair.key_der)


def _key_pair(read: _Pair) -> KeyPair:
    return KeyPair(x509.load_der_x509_certificate(read.certificate), parse_private_key_der(read.key))


def _unknown(kind: bytes) -> SealedStateError:
    message = f"the sealed state holds a record of kind {kind!r} that this program does not know; use a newer program"
    return SealedStateError(message)
