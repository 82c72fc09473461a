"""The TLS entries of a manifest and what becomes of them for a marble: JSON that names exactly their ports."""

import json
from datetime import UTC, datetime

from tacit.coordinator.activate import ttls_config
from tacit.coordinator.secrets import Secret
from tacit.coordinator.state import Identity
from tacit.errors import ManifestError
from tacit.manifest import check_manifest, parse_manifest
from tacit.pki import issue_intermediate, issue_marble_root, issue_root

REFUSALS = (ManifestError,)
LIMIT = 2048  # bytes

_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_ROOT = issue_root((), now=_NOW)
_INTERMEDIATE = issue_intermediate(_ROOT, (), now=_NOW)
_IDENTITY = Identity(_ROOT, _INTERMEDIATE, issue_marble_root(_INTERMEDIATE, now=_NOW))
_CERTIFICATE = Secret("cert-ecdsa", 256, True, False, 365, _ROOT.certificate_der, _ROOT.key_der, b"")
_AROUND = (
    b'{"Packages":{"p":{"UniqueID":"%s"}},"Marbles":{"m":{"Package":"p","TLS":["t"]}},'
    b'"Secrets":{"c":{"Type":"cert-ecdsa","Size":256,"Shared":true}},"TLS":' % (b"00" * 32),
    b"}",
)


def check(data: bytes) -> None:
    manifest = parse_manifest(_AROUND[0] + data + _AROUND[1]).manifest
    check_manifest(manifest, environ={})
    tags = tuple(tag for marble in manifest.marbles.values() for tag in marble.tls)
    secrets = dict.fromkeys(manifest.secrets, _CERTIFICATE)
    raw = ttls_config(manifest, tags, secrets, _IDENTITY, _INTERMEDIATE)
    config = json.loads(raw, object_pairs_hook=_in_order)["tls"]
    rules = [manifest.tls[tag] for tag in tags]
    assert set(config["Incoming"]) == {f"*:{one.port}" for rule in rules for one in rule.incoming}
    assert set(config["Outgoing"]) == {f"{one.addr}:{one.port}" for rule in rules for one in rule.outgoing}
    assert not set(b"<>&") & set(raw)


def _in_order(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    assert names == sorted(set(names))
    return dict(pairs)
