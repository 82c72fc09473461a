"""What is held after an update, and who has agreed to one that is pending.

Pure: from what is held and a manifest to what is held next. Every update brings a new intermediate authority and marble
root, and with them new certificates; the root stays, so who pinned it goes on.

Source: effects and words as recorded from MarbleRun v1.9.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from tacit.coordinator.activate import rehearse
from tacit.coordinator.secrets import (
    ROOT_SECRET_SIZE,
    Random,
    Secret,
    check_own_rules,
    generate_one,
    renew_certificate,
    unset_secret,
)
from tacit.coordinator.state import Holdings, Identity, Pending
from tacit.errors import ForbiddenError, ManifestError, NoUpdateError, PkiError, SecretError, TemplateError, UpdateError
from tacit.manifest import Manifest, check_manifest, parse_manifest
from tacit.manifest.material import check_recovery_keys, check_secrets, check_users
from tacit.manifest.model import SecretRule
from tacit.manifest.update import check_replacement, needed_acknowledgments, same_secret, updaters
from tacit.pki import KeyPair

NewIdentity = Callable[[Identity], Identity]
"""The same root with a new intermediate and marble root."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an update or an acknowledgment brought. `missing` names who may still acknowledge.

    `recovery_secrets` is None where those from before go on, and empty where there are no recovery keys any more.
    """

    needed: int = 0
    missing: tuple[str, ...] = ()
    recovery_secrets: Mapping[str, bytes] | None = None


def read_update(raw: bytes) -> tuple[Manifest, tuple[str, ...]]:
    """An update's manifest, and each leniency that reading it took.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        parsed = parse_manifest(raw)
    except ManifestError as exc:
        text = str(exc).replace("unmarshaling manifest", "unmarshaling update manifest", 1)
        raise ManifestError(text, defects=exc.defects) from exc
    return parsed.manifest, parsed.leniencies


def check_update(current: Manifest, update: Manifest, *, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The warnings of a manifest that is to replace the current one.

    Raises:
        ManifestError: it does not fit together, or changes what cannot change.
    """
    try:
        warnings = check_manifest(update, environ=environ)
        check_replacement(current, update)
    except ManifestError as exc:
        raise ManifestError(f"invalid manifest: {exc}") from exc
    return warnings


def require_updater(manifest: Manifest, user: str, action: str) -> None:
    """Refuse whoever may not replace the manifest.

    Raises:
        ForbiddenError: names the user and what was tried.
    """
    if user not in updaters(manifest):
        raise ForbiddenError(f"user {user} is not allowed to {action}")


def propose(manifest: Manifest, user: str, raw: bytes) -> Pending:
    """A pending update, to which the user who proposes it agrees."""
    return Pending(raw, needed_acknowledgments(manifest), updaters(manifest)).agreed_by(user)


def require_pending(holdings: Holdings) -> Pending:
    """The pending update.

    Raises:
        NoUpdateError: there is none.
    """
    if holdings.pending is None:
        raise NoUpdateError("no update in progress")
    return holdings.pending


def require_none_pending(holdings: Holdings) -> None:
    """Refuse a second update beside a pending one.

    Raises:
        UpdateError: says what can be done.
    """
    if holdings.pending is not None:
        raise UpdateError(
            "update already in progress. Acknowledge the update to apply it, or cancel it to start a new one"
        )


def after_version_update(
    holdings: Holdings, manifest: Manifest, *, new_identity: NewIdentity, now: datetime
) -> Holdings:
    """What is held with raised security versions: new certificates, each with the end of validity that it had.

    Raises:
        ManifestError: a certificate cannot be issued again.
    """
    identity = new_identity(holdings.identity)
    secrets: dict[str, Secret] = {}
    try:
        for name, secret in holdings.secrets.items():
            rule = manifest.secrets[name]
            if secret.certificate and not rule.user_defined:
                end = x509.load_der_x509_certificate(secret.certificate).not_valid_after_utc
                secret = renew_certificate(name, rule, secret, not_after=end, issuer=identity.marble_root, now=now)  # noqa: PLW2901 -- renewed or as it was
            secrets[name] = secret
    except (PkiError, SecretError) as exc:
        raise ManifestError(f"updating secrets: {exc}") from exc
    return replace(
        holdings,
        identity=identity,
        manifest=manifest,
        secrets=secrets,
    )


def after_replacement(
    holdings: Holdings,
    before: Manifest,
    manifest: Manifest,
    *,
    signature: bytes,
    new_identity: NewIdentity,
    now: datetime,
    random: Random,
) -> Holdings:
    """What is held with another manifest in place of the one before.

    Raises:
        ManifestError: a secret cannot be made, or a template not be filled in.
    """
    check_users(manifest)
    identity = new_identity(holdings.identity)
    rotate = manifest.config.rotate_root_secret
    try:
        check_secrets(manifest)
        secrets, previous = _replaced_secrets(
            holdings, before, manifest, issuer=identity.marble_root, now=now, random=random
        )
        check_own_rules(manifest, issuer=identity.marble_root, now=now)
        after = replace(
            holdings,
            identity=identity,
            manifest=manifest,
            signature=signature,
            secrets=secrets,
            previous_secrets=previous,
            root_secret=random(ROOT_SECRET_SIZE) if rotate else holdings.root_secret,
            previous_root_secret=holdings.root_secret if rotate else holdings.previous_root_secret,
            pending=None,
        )
        rehearse(after, manifest, secrets=secrets, random=random)
    except TemplateError as exc:
        raise TemplateError(f"updating secrets: {exc}") from exc
    except ManifestError as exc:
        raise ManifestError(f"updating secrets: {exc}") from exc
    check_recovery_keys(manifest)
    return after


def _replaced_secrets(
    holdings: Holdings, before: Manifest, manifest: Manifest, *, issuer: KeyPair, now: datetime, random: Random
) -> tuple[dict[str, Secret], dict[str, Secret]]:
    """The secrets that are held with another manifest, and the values before."""
    secrets: dict[str, Secret] = {}
    previous: dict[str, Secret] = {}
    for name, rule in manifest.secrets.items():
        if not (rule.shared or rule.user_defined):
            continue
        old = holdings.secrets.get(name) if same_secret(before.secrets.get(name), rule) else None
        if old is not None and _outlives(rule, rotate=manifest.config.rotate_root_secret):
            secrets[name] = old
        elif rule.user_defined:
            secrets[name] = unset_secret(rule)
        else:
            secrets[name] = generate_one(name, rule, issuer=issuer, now=now, random=random)
        previous[name] = _previous(name, holdings, old=old, new=secrets[name])
    return secrets, previous


def _previous(name: str, holdings: Holdings, *, old: Secret | None, new: Secret) -> Secret:
    """The value before: of a value that stays, the one that was before already, so that no later update loses it."""
    if old is None:
        return new
    return old if new is not old else holdings.previous_secrets.get(name, old)


def _outlives(rule: SecretRule, *, rotate: bool) -> bool:
    """Whether a value of the same definition stays: what owners gave always, keys unless all are rotated."""
    return rule.user_defined or (rule.type == "symmetric-key" and not rotate)
