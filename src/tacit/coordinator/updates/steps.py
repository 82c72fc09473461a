"""Updates step by step: proposed, agreed to or taken back, and applied once enough users agree.

Order of the checks: (1) the state, (2) whether the manifest can be read, (3) whether another update is pending, (4) the
user's permission, (5) whether the manifest fits together.
An update that fails while it is applied is pending no more, and the log says so.

Source: order and words as recorded from MarbleRun v1.9.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from tacit.coordinator.access import require_version_update
from tacit.coordinator.log import EventLog
from tacit.coordinator.log.entries import (
    Entry,
    manifest_updated,
    update_acknowledged,
    update_cancelled,
    update_failed,
    update_proposed,
    versions_raised,
)
from tacit.coordinator.log.lines import (
    update_acknowledged_line,
    update_cancelled_line,
    update_failed_line,
    update_proposed_line,
    updated_line,
    version_raised_line,
)
from tacit.coordinator.sealed.keys import SEALED_TO
from tacit.coordinator.sealed.records import KEY_SIZE
from tacit.coordinator.sealed.shares import share_key
from tacit.coordinator.secrets import Random
from tacit.coordinator.state import Event, Holdings, Pending, PendingChanged, Replaced
from tacit.coordinator.updates.effects import (
    NewIdentity,
    Outcome,
    after_replacement,
    after_version_update,
    check_update,
    propose,
    read_update,
    require_none_pending,
    require_pending,
    require_updater,
)
from tacit.coordinator.updates.ledger import Ledger, manifest_of
from tacit.errors import ManifestError, UpdateError
from tacit.manifest import Manifest
from tacit.manifest.update import is_version_update, raise_versions, same_recovery


@dataclass(frozen=True, slots=True)
class Tools:
    """What an update takes besides what is held."""

    clock: Callable[[], datetime]
    random: Random
    log: EventLog
    new_identity: NewIdentity
    environ: Mapping[str, str]


class Updates:
    """Updates of what a ledger holds."""

    def __init__(self, ledger: Ledger, tools: Tools) -> None:
        self._ledger = ledger
        self._tools = tools

    def pending(self) -> Pending:
        """The update that waits for users to agree.

        Raises:
            NoUpdateError: there is none.
        """
        return require_pending(self._ledger.holdings)

    def update(self, user: str, raw: bytes) -> Outcome:
        """Raise security versions, or propose another manifest, which is applied once enough users agree.

        Raises:
            IllegalTransitionError: no manifest is set.
            UpdateError: another update is pending.
            ForbiddenError: the user may not do this.
            ManifestError: it was refused, or could not be applied; says where and why.
            StateError: it could not be stored.
        """
        with self._ledger.lock:
            holdings, manifest = self._ledger.opened(Event.UPDATE)
            update, leniencies = read_update(raw)
            require_none_pending(holdings)
            for leniency in leniencies:
                self._tools.log.warning("manifest read leniently", at=leniency)
            if is_version_update(update):
                return self._raise_versions(holdings, manifest, user, update)
            require_updater(manifest, user, "update the complete manifest")
            for warning in check_update(manifest, update, environ=self._tools.environ):
                self._tools.log.warning("manifest checked", warning=warning)
            return self._settle(holdings, propose(manifest, user, raw), user, _PROPOSED)

    def acknowledge(self, user: str, raw: bytes) -> Outcome:
        """Agree to the pending update, which has to be this one.

        Raises:
            IllegalTransitionError: no manifest is set.
            ForbiddenError: the user may not do this.
            NoUpdateError: none is pending.
            UpdateError: another one is pending.
            ManifestError: it could not be applied, and is pending no more.
            StateError: it could not be stored.
        """
        with self._ledger.lock:
            holdings, manifest = self._ledger.opened(Event.UPDATE)
            pending = require_pending(holdings)
            require_updater(manifest, user, "acknowledge manifest updates")
            if pending.raw != raw:
                raise UpdateError("provided manifest does not match the pending manifest")
            return self._settle(holdings, pending.agreed_by(user), user, _ACKNOWLEDGED)

    def cancel(self, user: str) -> None:
        """Take the pending update back.

        Raises:
            IllegalTransitionError: no manifest is set.
            ForbiddenError: the user may not do this.
            NoUpdateError: none is pending.
            StateError: it could not be stored.
        """
        with self._ledger.lock:
            holdings, manifest = self._ledger.opened(Event.UPDATE)
            require_updater(manifest, user, "cancel the manifest update")
            fingerprint = sha256(require_pending(holdings).raw).hexdigest()
            line = update_cancelled_line(self._tools.clock(), user=user, fingerprint=fingerprint)
            self._ledger.change(PendingChanged(None, (line,)), update_cancelled(user=user, fingerprint=fingerprint))
        self._tools.log.info("update cancelled", user=user, fingerprint=fingerprint)

    def _raise_versions(self, holdings: Holdings, manifest: Manifest, user: str, update: Manifest) -> Outcome:
        require_version_update(manifest, user, update.packages)
        raised = raise_versions(manifest, update)
        now = self._tools.clock()
        after = after_version_update(holdings, raised, new_identity=self._tools.new_identity, now=now)
        versions = {name: package.security_version or 0 for name, package in sorted(update.packages.items())}
        lines = [version_raised_line(now, user=user, package=name, version=one) for name, one in versions.items()]
        replaced = Replaced(replace(after, update_log=(*holdings.update_log, *lines)))
        self._ledger.change(replaced, versions_raised(user=user, versions=versions))
        self._tools.log.info("security versions raised", user=user, packages=sorted(update.packages))
        return Outcome()

    def _settle(self, holdings: Holdings, pending: Pending, user: str, words: "_Words") -> Outcome:
        """Wait for more users, or apply what enough have agreed to."""
        now, fingerprint = self._tools.clock(), sha256(pending.raw).hexdigest()
        first = words.line(now, user=user, needed=pending.needed, missing=pending.missing, fingerprint=fingerprint)
        entry = words.entry(user=user, needed=pending.needed, fingerprint=fingerprint)
        self._tools.log.info("update agreed to", user=user, needed=pending.needed, fingerprint=fingerprint)
        if pending.needed:
            self._ledger.change(PendingChanged(pending, (first,)), entry)
            return Outcome(pending.needed, pending.missing)
        try:
            after = self._replacement(holdings, pending.raw, now)
        except ManifestError as exc:
            self._tools.log.warning("update could not be applied", fingerprint=fingerprint, error=str(exc))
            failed = update_failed_line(now, fingerprint=fingerprint)
            told = entry, update_failed(fingerprint=fingerprint, reason=exc.reason)
            self._ledger.change(PendingChanged(None, (first, failed)), *told)
            raise
        lines = (*holdings.update_log, first, updated_line(now, fingerprint=fingerprint))
        shares = self._store_replacement(manifest_of(holdings), replace(after, update_log=lines), entry, fingerprint)
        epoch = self._ledger.held.position.epoch
        self._tools.log.info("manifest updated", fingerprint=fingerprint, epoch=epoch)
        return Outcome(recovery_secrets=shares)

    def _replacement(self, holdings: Holdings, raw: bytes, now: datetime) -> Holdings:
        manifest, _ = read_update(raw)
        return after_replacement(
            holdings,
            manifest_of(holdings),
            manifest,
            signature=holdings.identity.root_key.sign(raw, ECDSA(SHA256())),
            new_identity=self._tools.new_identity,
            now=now,
            random=self._tools.random,
        )

    def _store_replacement(
        self, before: Manifest, after: Holdings, entry: Entry, fingerprint: str
    ) -> dict[str, bytes] | None:
        """Store what an update made; the recovery secrets, where the recovery keys are others now."""
        manifest = manifest_of(after)
        bound_to = SEALED_TO[manifest.config.seal_mode]
        if same_recovery(before, manifest):
            told = entry, manifest_updated(fingerprint=fingerprint, new_recovery=False)
            if bound_to == SEALED_TO[before.config.seal_mode]:
                self._ledger.change(Replaced(after), *told)
            else:
                self._ledger.rekey(after, *told, key=None, plan=b"", bound_to=bound_to)
            return None
        key = self._tools.random(KEY_SIZE)
        shares, plan = share_key(key, manifest, random=self._tools.random)
        told = entry, manifest_updated(fingerprint=fingerprint, new_recovery=True)
        self._ledger.rekey(after, *told, key=key, plan=plan, bound_to=bound_to)
        return shares


@dataclass(frozen=True, slots=True)
class _Words:
    """How the update log and the audit log put one step."""

    line: Callable[..., str]
    entry: Callable[..., Entry]


_PROPOSED = _Words(update_proposed_line, update_proposed)
_ACKNOWLEDGED = _Words(update_acknowledged_line, update_acknowledged)
