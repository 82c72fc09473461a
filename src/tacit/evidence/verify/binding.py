"""What report data says: which key, in which role, for which nonce.

Report data has two halves, and `verify_binding` compares both:

- `[0:32]` = SHA-256(key ‖ nonce). This is what MarbleRun binds, so that its command line can check our coordinator.
  It names no role, and nothing separates key from nonce, so it is never enough by itself.
- `[32:64]` = SHA-256(label ‖ length-prefixed role ‖ length-prefixed nonce ‖ key), under a label that nothing else
  in this project hashes. A coordinator's evidence therefore is worth nothing as a marble's, and no byte can move
  from the nonce to the key.

`key` is the DER of the coordinator's root certificate (`Role.COORDINATOR`), or of the client certificate of a marble's
own TLS connection (`Role.MARBLE`). This binds a key, not a connection.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256

from tacit.errors import BindingError
from tacit.evidence.claims import Claims, Role, Step, naming

BINDING = Step("B1", "report data binds this key, role and nonce")

# Versioned: another layout gets another label, so that old evidence cannot be read as new.
_LABEL = b"tacit report data v1\0"


@dataclass(frozen=True, slots=True)
class Binding:
    """What evidence has to be bound to.

    `role` None asks for the form of programs that know no roles (MarbleRun's, Gramine's): key and nonce alone, the
    second half zero. Who asks for it gives up what roles protect from, so it has to be said.
    """

    role: Role | None
    key: bytes
    nonce: bytes = b""


def length_prefixed(field: bytes) -> bytes:
    """The field behind its length (4 bytes, big endian), so that no byte can move to its neighbour."""
    return len(field).to_bytes(4, "big") + field


def report_data(*, role: Role | None, key: bytes, nonce: bytes = b"") -> bytes:
    """64 bytes that bind `key` (DER of a certificate) to a role and a nonce."""
    first = sha256(key + nonce).digest()
    if role is None:
        return first + bytes(32)
    fields = length_prefixed(role.value.encode()) + length_prefixed(nonce)
    return first + sha256(_LABEL + fields + key).digest()


def verify_binding(claims: Claims, *, role: Role | None, key: bytes, nonce: bytes = b"") -> Claims:
    """The claims, with this check made: they were made for exactly this key, role and nonce.

    Raises:
        BindingError: either half of the report data is another one; the message says which.
    """
    expected = report_data(role=role, key=key, nonce=nonce)
    # Both halves are compared before either is judged, in constant time.
    key_and_nonce = hmac.compare_digest(claims.report_data[:32], expected[:32])
    role_and_all = hmac.compare_digest(claims.report_data[32:], expected[32:])
    with naming(BINDING):
        if not key_and_nonce:
            raise BindingError(
                "the evidence was made for another key or another nonce: it is a replay, or somebody stands in "
                "between; ask for fresh evidence over this connection"
            )
        if not role_and_all:
            raise BindingError(
                f"the evidence does not bind this key and nonce to the role '{role}': it comes from a program in "
                "another role, or from one that binds no role (MarbleRun's own programs do not)"
            )
    return claims.with_check(BINDING, expected)
