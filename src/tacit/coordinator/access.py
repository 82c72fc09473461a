"""Who calls, and may they?

A user is one exact certificate: no chain, no expiry, no name counts. A permission is an action on a set of names; roles
with the same action add their sets. Nothing is implicit: a user without roles may do nothing.
"""

import hmac
from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from tacit.errors import FeatureOffError, ForbiddenError, PkiError, UnauthorizedError
from tacit.manifest import Manifest
from tacit.manifest.access import READ_SECRET, WRITE_SECRET
from tacit.manifest.model import RoleRule
from tacit.manifest.update import UPDATE_SECURITY_VERSION
from tacit.pki.leaf import LeafIdentity, verify_leaf

SIGN_QUOTE = "SignQuoteEndpoint"
MONOTONIC_COUNTER = "MonotonicCounter"


def authenticate(manifest: Manifest | None, certificate: bytes | None) -> str:
    """The name of the user with this client certificate (DER).

    Raises:
        UnauthorizedError: there is no such user, no certificate or no manifest yet.
    """
    found = None
    for name, user in (manifest.users if manifest else {}).items():
        # Every user is compared, so that the time taken does not tell which one it was.
        if certificate and user.certificate and hmac.compare_digest(user.certificate, certificate):
            found = name
    if found is None:
        raise UnauthorizedError("unauthorized user: client certificate did not match any MarbleRun users")
    return found


def authenticate_marble(certificate: bytes | None, *, issuer: x509.Certificate, now: datetime) -> LeafIdentity:
    """The marble with this client certificate (DER), which `issuer`, the marble root of now, has signed.

    Raises:
        UnauthorizedError: none given, or not the certificate of a marble.
    """
    if certificate is None:
        raise UnauthorizedError("unauthorized marble: client certificate did not match any Marble")
    try:
        return verify_leaf(certificate, issuer=issuer, now=now)
    except PkiError as exc:
        raise UnauthorizedError(f"unauthorized marble: {exc}") from exc


def require_feature(manifest: Manifest | None, gate: str) -> None:
    """Refuse what the manifest has to switch on and does not.

    Raises:
        FeatureOffError: names the gate.
    """
    gates = manifest.config.feature_gates if manifest else ()
    if gate.lower() not in (one.lower() for one in gates):
        raise FeatureOffError(f"{gate} feature is not enabled in the manifest")


def granted(manifest: Manifest, user: str, action: str, *, resource: str = "Secrets") -> frozenset[str]:
    """The secrets, or other resources, on which a user may do this."""
    roles = _allowing(manifest, user, action, resource=resource)
    return frozenset(name for role in roles for name in role.resource_names)


def _allowing(manifest: Manifest, user: str, action: str, *, resource: str) -> list[RoleRule]:
    roles = (manifest.roles[name] for name in manifest.users[user].roles if name in manifest.roles)
    return [one for one in roles if one.resource_type == resource and action in (name.lower() for name in one.actions)]


def require_log_reader(manifest: Manifest, user: str) -> None:
    """Refuse the audit log to whoever the manifest does not let read it.

    Raises:
        ForbiddenError: names the user, and what would allow it.
    """
    if not manifest.users[user].read_log:
        raise ForbiddenError(f'user {user} is not allowed to read the log; Users.{user} needs "ReadLog": true for it')


def require_read(manifest: Manifest, user: str, names: Iterable[str]) -> None:
    """Refuse to read unless every name is allowed; an unknown name looks like a forbidden one.

    Raises:
        ForbiddenError: names the user and all that was asked for.
    """
    asked = list(names)
    if not granted(manifest, user, READ_SECRET).issuperset(asked):
        raise ForbiddenError(f"user {user} is not allowed to read one or more secrets of: [{' '.join(asked)}]")


def require_version_update(manifest: Manifest, user: str, packages: Iterable[str]) -> None:
    """Refuse to raise security versions unless every package is allowed; no packages need a permission too.

    Raises:
        ForbiddenError: names the user and all that was asked for.
    """
    asked = sorted(packages)
    roles = _allowing(manifest, user, UPDATE_SECURITY_VERSION, resource="Packages")
    if not roles or not granted(manifest, user, UPDATE_SECURITY_VERSION, resource="Packages").issuperset(asked):
        raise ForbiddenError(f"user {user} is not allowed to update one or more packages of [{' '.join(asked)}]")


def require_write(manifest: Manifest, user: str, names: Iterable[str]) -> None:
    """Refuse to set unless every name is allowed.

    Raises:
        ForbiddenError: names the first secret that is not.
    """
    allowed = granted(manifest, user, WRITE_SECRET)
    for name in names:
        if name not in allowed:
            raise ForbiddenError(f"user {user} is not allowed to update secret: {name}")
