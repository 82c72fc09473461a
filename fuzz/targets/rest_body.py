"""What callers of the client API send. The first byte chooses the route, the rest is its body or query."""

import json

from tacit.coordinator.api import bodies
from tacit.errors import InputError

REFUSALS = (InputError,)
LIMIT = 4096  # bytes


def check(data: bytes) -> None:
    noted: list[str] = []
    which, rest, note = data[:1], data[1:], noted.append
    if which == b"m":
        bodies.parse_manifest_body(rest, note, request="ManifestSetRequest")
    elif which == b"r":
        secret, signature = bodies.parse_recovery(rest, note)
        assert len(secret) + len(signature) <= len(rest)
    elif which == b"s":
        values = bodies.parse_secrets_v1(rest, note)
        wrapped = b'{"secrets":' + rest + b"}"
        if _is_json(rest):
            assert bodies.parse_secrets_v2(wrapped, note) == values, "v1 and v2 read the same values"
    elif which == b"g":
        bodies.parse_quote(rest, note)
    elif which == b"c":
        _, value = bodies.parse_counter(rest, note)
        assert 0 <= value < 2**64
    elif which == b"n":
        assert len(bodies.parse_nonce(rest.decode("latin-1"))) <= bodies.MAX_NONCE
    elif which == b"q":
        assert bodies.parse_secret_names(rest.decode("latin-1"))
    else:
        bodies.parse_secrets_v2(rest, note)
    assert all(noted), "a leniency is said in words"


def _is_json(raw: bytes) -> bool:
    """Whether this is one value and no more: v1 passes over what follows, inside v2's object it cannot stand."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True
