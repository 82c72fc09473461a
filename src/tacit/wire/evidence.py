"""The question for a model server's own evidence, bound to the connection that it is asked over (REST port)."""

import msgspec

EVIDENCE_PATH = "/tacit/v1/evidence"
"""`?nonce=` 32 bytes in hex. Asked over TLS 1.3 alone; the evidence binds the certificate of that connection too."""
NONCE_SIZE = 32  # bytes


class ServerEvidence(msgspec.Struct):
    """The answer. `channel` says what of the connection the evidence is bound to."""

    evidence: bytes
    channel: str
