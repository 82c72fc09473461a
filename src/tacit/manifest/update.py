"""What may change, and who has to agree?

An update that names packages alone raises their security versions; everything else is a new manifest in place of the
old one. What a certificate, key or store makes of it is the coordinator's.

Source: rules and words of refusal as recorded from MarbleRun v1.9.1.
"""

from dataclasses import replace

from tacit.errors import ManifestError
from tacit.evidence.claims import Tee
from tacit.manifest.access import UPDATE_MANIFEST
from tacit.manifest.model import Manifest, Package, SecretRule

UPDATE_SECURITY_VERSION = "updatesecurityversion"


def is_version_update(update: Manifest) -> bool:
    """Whether it raises security versions alone. Config is not looked at."""
    return not (
        update.infrastructures
        or update.marbles
        or update.users
        or update.recovery_keys
        or update.roles
        or update.secrets
        or update.tls
        or update.models
        or update.clients
    )


def raise_versions(current: Manifest, update: Manifest) -> Manifest:
    """The current manifest with the security versions of the update. Its text stays what it was.

    Raises:
        ManifestError: the update says more than that, or less.
    """
    if not update.packages:
        raise ManifestError("checking update manifest: no packages defined")
    packages = dict(current.packages)
    for name, package in sorted(update.packages.items()):
        if defect := _version_defect(packages.get(name), package):
            raise ManifestError(f"checking update manifest: {defect}")
        packages[name] = replace(packages[name], security_version=package.security_version)
    return replace(current, packages=packages)


def check_replacement(current: Manifest, update: Manifest) -> None:
    """Refuse what no update can change.

    Raises:
        ManifestError: sealing would have to begin or to end.
    """
    before, after = current.config.seal_mode, update.config.seal_mode
    if (before == "Disabled") is not (after == "Disabled"):
        raise ManifestError(
            f'Config.SealMode: an update cannot change it from "{before}" to "{after}"; a state that was never '
            "written cannot be sealed later, and a sealed one does not go away"
        )


def updaters(manifest: Manifest) -> tuple[str, ...]:
    """The users who may replace the manifest, sorted."""
    return tuple(
        name
        for name, user in sorted(manifest.users.items())
        if any(
            role.resource_type == "Manifest" and UPDATE_MANIFEST in (action.lower() for action in role.actions)
            for role in (manifest.roles[one] for one in user.roles if one in manifest.roles)
        )
    )


def needed_acknowledgments(manifest: Manifest) -> int:
    """How many users have to agree to another manifest; who proposes it is one of them."""
    return manifest.config.update_threshold or len(updaters(manifest))


def same_secret(before: SecretRule | None, after: SecretRule) -> bool:
    """Whether a secret's value outlives the update: its definition is the same, whatever its certificate looks like."""
    if before is None:
        return False
    fields = ("type", "size", "shared", "user_defined", "valid_for")
    return all(getattr(before, field) == getattr(after, field) for field in fields)


def same_recovery(before: Manifest, after: Manifest) -> bool:
    """Whether the recovery secrets that were handed out stay good."""
    return dict(before.recovery_keys) == dict(after.recovery_keys) and _threshold(before) == _threshold(after)


def _threshold(manifest: Manifest) -> int:
    return manifest.config.recovery_threshold or len(manifest.recovery_keys)


def _version_defect(current: Package | None, update: Package) -> str:
    if current is None:
        return "update manifest specifies a package which the original manifest does not contain"
    if _names_more(current, update):
        return "update manifest contains unupdatable values"
    if update.security_version is None:
        return "update manifest does not specify a SecurityVersion to update"
    if current.security_version is not None and update.security_version < current.security_version:
        return "update manifest tries to downgrade SecurityVersion of the original manifest"
    return ""


def _names_more(current: Package, update: Package) -> bool:
    """Whether an update would change what a security version does not.

    What MarbleRun's packages accept (statuses, advisories) may stand there and changes nothing, as MarbleRun has it;
    so may the kind of TEE that the package has already.
    """
    same_tee = (update.tee or Tee.SGX) == (current.tee or Tee.SGX)
    passed_over = replace(update, security_version=None, accepted_tcb_statuses=None, accepted_advisories=None)
    return replace(passed_over, tee=None if same_tee else update.tee) != Package()
