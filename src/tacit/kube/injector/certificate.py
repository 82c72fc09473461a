"""The webhook's own certificate, as a Secret holds it: what is in it, whether it is due, and what comes next.

It signs itself, and the webhook's configuration names it as the only one to trust, so there is no authority whose key
could be stolen. When a new one is made, the one before stays trusted until its end: replicas change at their own pace.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tacit.errors import PkiError
from tacit.kube.objects import Object
from tacit.pki import KeyPair, issue_self_signed, parse_key_pair
from tacit.pki.keys import parse_certificates

LIFETIME = timedelta(days=90)
_LEEWAY = timedelta(minutes=5)  # that another machine's clock may be behind ours
_DUE = 2 / 3  # of its lifetime, after which a certificate is renewed

_CERTIFICATE, _KEY, _PREVIOUS = "tls.crt", "tls.key", "previous.crt"


@dataclass(frozen=True, slots=True)
class Held:
    """What serves: a certificate and its key, both PEM, and the certificates that callers are to trust."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    bundle_pem: bytes


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names under which a cluster calls a service of its own."""
    place = f"{service}.{namespace}"
    return f"{place}.svc", place, f"{place}.svc.cluster.local"


def read_secret(secret: Object, *, names: tuple[str, ...], now: datetime) -> Held | None:
    """What a Secret holds, if it can serve under these names for long enough; None where a new one is due."""
    data: Mapping[str, Any] = secret.get("data") or {}
    try:
        certificate, key = _decode(data.get(_CERTIFICATE)), _decode(data.get(_KEY))
        pair = parse_key_pair(certificate, key)
        found = parse_certificates(certificate)[0]
        held = _names_of(pair)
    except (PkiError, ValueError):
        return None  # empty as the chart made it, or damaged: either way there is one way on
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    if not begin <= now < begin + (end - begin) * _DUE or not held >= set(names):
        return None
    return Held(certificate, key, certificate + _still_valid(data.get(_PREVIOUS), now=now))


def renew_secret(
    secret: Object, *, names: tuple[str, ...], now: datetime, lifetime: timedelta = LIFETIME
) -> dict[str, Any]:
    """The Secret with a new certificate; the one that it had stays trusted until its end. Raises: PkiError."""
    pair = issue_self_signed(names, common_name=names[0], now=now - _LEEWAY, lifetime=lifetime + _LEEWAY)
    data: Mapping[str, Any] = secret.get("data") or {}
    new = {_CERTIFICATE: _encode(pair.certificate_pem), _KEY: _encode(pair.key_pem)}
    before = _still_valid(data.get(_CERTIFICATE), now=now)
    return {**secret, "data": {**new, **({_PREVIOUS: _encode(before)} if before else {})}}


def _names_of(pair: KeyPair) -> set[str]:
    from tacit.pki.shape import alternative_names

    return set(alternative_names(pair.certificate.extensions).dns)


def _still_valid(text: object, *, now: datetime) -> bytes:
    """A certificate of a Secret, PEM; nothing where there is none that is in date."""
    try:
        pem = _decode(text)
        certificate = parse_certificates(pem)[0]
    except (PkiError, ValueError):
        return b""
    return pem if now < certificate.not_valid_after_utc else b""


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: object) -> bytes:
    """Raises: ValueError."""
    if not isinstance(text, str):
        raise ValueError("no text")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError("no base64") from exc
