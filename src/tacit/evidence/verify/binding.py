"""What report data says: which key, in which role, for which nonce.

Report data has two halves, and `verify_binding` compares both:

- `[0:32]` = SHA-256(key ‖ nonce). This is what MarbleRun binds, so that its command line can check our coordinator.
  It names no role, and nothing separates key from nonce, so it is never enough by itself.
- `[32:64]` = SHA-256(label ‖ length-prefixed role ‖ length-prefixed nonce ‖ key), under a label that nothing else
  in this project hashes. A coordinator's evidence therefore is worth nothing as a marble's, and no byte can move
  from the nonce to the key.

`key` is the DER of the coordinator's root certificate (`Role.COORDINATOR`), or of the client certificate of a marble's
own TLS connection (`Role.MARBLE`). This binds a key, not a connection.

With `channel`, secret bytes that only the two ends of one TLS 1.3 connection can compute (`CHANNEL_LABEL`), the second
half is SHA-256(another label ‖ length-prefixed role ‖ length-prefixed nonce ‖ length-prefixed channel ‖ key). Evidence
then is worth nothing on any other connection, not even to somebody who has the server's TLS key.

Source: RFC 8446 section 7.5 (exporters).
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256

from tacit.errors import BindingError
from tacit.evidence.claims import Claims, Role, Step, naming

BINDING = Step("B1", "report data binds this key, role and nonce")
CHANNEL = Step("B2", "report data binds the channel of this very connection")

CHANNEL_BINDING = "tls-exporter-v1"
"""The name by which a client asks for evidence that is bound to its connection, and by which the answer says that it is."""
CHANNEL_LABEL, CHANNEL_SIZE = b"EXPORTER-tacit-evidence-v1", 32
"""What both ends ask their TLS for; no context, for the nonce stands in the report data itself."""

# Versioned: another layout gets another label, so that old evidence cannot be read as new.
_LABEL = b"tacit report data v1\0"
_CHANNEL_LABEL = b"tacit report data with channel v1\0"


@dataclass(frozen=True, slots=True)
class Binding:
    """What evidence has to be bound to.

    `role` None asks for the form of programs that know no roles (MarbleRun's, Gramine's): key and nonce alone, the
    second half zero. Who asks for it gives up what roles protect from, so it has to be said. `channel` are the exported
    bytes of the connection that evidence has to be bound to, empty where it is bound to a key alone.
    """

    role: Role | None
    key: bytes
    nonce: bytes = b""
    channel: bytes = b""


def length_prefixed(field: bytes) -> bytes:
    """The field behind its length (4 bytes, big endian), so that no byte can move to its neighbour."""
    return len(field).to_bytes(4, "big") + field


def report_data(*, role: Role | None, key: bytes, nonce: bytes = b"", channel: bytes = b"") -> bytes:
    """64 bytes that bind `key` (DER of a certificate) to a role, a nonce, and where `channel` is given to that."""
    first = sha256(key + nonce).digest()
    if role is None:
        return first + bytes(32)
    fields = length_prefixed(role.value.encode()) + length_prefixed(nonce)
    if channel:
        return first + sha256(_CHANNEL_LABEL + fields + length_prefixed(channel) + key).digest()
    return first + sha256(_LABEL + fields + key).digest()


def verify_binding(
    claims: Claims, *, role: Role | None, key: bytes, nonce: bytes = b"", channel: bytes = b""
) -> Claims:
    """The claims, with this check made: they were made for exactly this key, role and nonce, and for this channel.

    Raises:
        BindingError: either half of the report data is another one; the message says which.
    """
    if role is None and channel:
        raise BindingError("what binds no role binds no connection either; ask for evidence of our own kind")
    expected = report_data(role=role, key=key, nonce=nonce, channel=channel)
    # Both halves are compared before either is judged, in constant time.
    key_and_nonce = hmac.compare_digest(claims.report_data[:32], expected[:32])
    role_and_all = hmac.compare_digest(claims.report_data[32:], expected[32:])
    with naming(BINDING if not (channel and key_and_nonce) else CHANNEL):
        if not key_and_nonce:
            raise BindingError(
                "the evidence was made for another key or another nonce: it is a replay, or somebody stands in "
                "between; ask for fresh evidence over this connection"
            )
        if not role_and_all and channel:
            raise BindingError(
                f"the evidence does not bind this very connection in the role '{role}': somebody stands in between and "
                "passes on what was made for another connection, or it is another role's"
            )
        if not role_and_all:
            raise BindingError(
                f"the evidence does not bind this key and nonce to the role '{role}': it comes from a program in "
                "another role, or from one that binds no role (MarbleRun's own programs do not)"
            )
    claims = claims.with_check(BINDING, expected)
    return claims.with_check(CHANNEL, channel) if channel else claims
