"""The client API of a coordinator, as JSON: MarbleRun's answers, v1 and v2, and one field of ours at their end.

Every answer stands in an envelope with `status`, `data` and, for failures, `message`, in this order. Bytes are padded
standard base64, absent bytes are null. Field order is that of the wire.

Source: recorded answers of MarbleRun v1.9.1.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

API_V2 = "/api/v2"
"""Before the path of a v1 route, where the v2 route is."""

BAD_STATE = "server is not in expected state"
"""What both versions say when something is not possible in the coordinator's state."""


JSON_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not the JSON they should be: text that is no UTF-8 and deep nesting too."""


class Envelope(msgspec.Struct):
    """Around every answer. `status` is `success`, `fail` (the request is wrong) or `error`."""

    status: str
    data: Any = None
    message: str | UnsetType = UNSET


Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""What is signed as eight bytes; nothing counts that far."""


class LogHead(msgspec.Struct):
    """How many entries the audit log has, the head after them (hex), and a signature over these and the state's."""

    entries: Count
    head: str
    signature: bytes


class StateMark(msgspec.Struct, omit_defaults=True):
    """Ours: the kind of TEE that the coordinator says it runs in, its state's epoch and head (hex), signed, and its log.

    A coordinator before the audit log has no `log`.
    """

    tee: str
    epoch: Count
    head: str
    signature: bytes
    log: LogHead | UnsetType = UNSET


def state_mark_message(epoch: int, head: bytes) -> bytes:
    """What the root key signs (ECDSA, SHA-384) for clients to remember: a label, the epoch, and the head (32 bytes)."""
    return b"tacit state head v1\0" + epoch.to_bytes(8, "big") + head


class StatusV1(msgspec.Struct):
    """GET /status."""

    code: int = msgspec.field(name="StatusCode")
    message: str = msgspec.field(name="StatusMessage")
    tacit: StateMark | UnsetType = UNSET


class StatusV2(msgspec.Struct):
    """GET /api/v2/status."""

    code: int
    message: str
    tacit: StateMark | UnsetType = UNSET


class QuoteV1(msgspec.Struct):
    """GET /quote: certificates in PEM, intermediate then root; evidence, null where there is no TEE."""

    cert: str = msgspec.field(name="Cert")
    quote: bytes | None = msgspec.field(name="Quote")


class QuoteV2(msgspec.Struct):
    """GET /api/v2/quote. `channel` is ours: what of the connection the evidence is bound to, where that was asked for."""

    cert: str
    quote: bytes | None
    channel: str | msgspec.UnsetType = msgspec.UNSET


class ManifestV1(msgspec.Struct):
    """GET /manifest. What is called signature is the SHA-256, in hex."""

    root_signature: bytes | None = msgspec.field(name="ManifestSignatureRootECDSA")
    fingerprint: str = msgspec.field(name="ManifestSignature")
    manifest: bytes | None = msgspec.field(name="Manifest")


class ManifestV2(msgspec.Struct):
    """GET /api/v2/manifest."""

    root_signature: bytes | None = msgspec.field(name="manifestSignatureRootECDSA")
    fingerprint: str = msgspec.field(name="manifestFingerprint")
    manifest: bytes | None


class ManifestSetV2(msgspec.Struct):
    """POST /api/v2/manifest."""

    manifest: bytes


class RecoverySecrets(msgspec.Struct):
    """The answer to a manifest: for each recovery key, what its holder decrypts."""

    secrets: dict[str, bytes] = msgspec.field(name="RecoverySecrets")


class RecoverySetV2(msgspec.Struct):
    """POST /api/v2/recover, what is asked: one secret, and its holder's signature over it in clear."""

    secret: bytes = msgspec.field(name="recoverySecret")
    signature: bytes = msgspec.field(name="recoverySecretSignature")


class RecoverV1(msgspec.Struct):
    """POST /recover, as older coordinators answer it."""

    message: str = msgspec.field(name="StatusMessage", default="")


class RecoverV2(msgspec.Struct):
    """POST /api/v2/recover: how many secrets remain, at most."""

    remaining: int
    message: str


class RecoveryPublicKey(msgspec.Struct):
    """GET /api/v2/recover/public-key; the key is PKIX DER."""

    algorithm: str
    key: bytes = msgspec.field(name="ephemeralPublicKey")


class UpdateV2(msgspec.Struct):
    """POST /api/v2/update. Recovery secrets are there only where the recovery keys are others now."""

    needed: int = msgspec.field(name="missingAcknowledgments")
    missing: list[str] | None = msgspec.field(name="missingUsers")
    recovery_secrets: dict[str, bytes] | UnsetType = msgspec.field(name="recoverySecrets", default=UNSET)


class AcknowledgedV2(msgspec.Struct):
    """POST /api/v2/update-manifest."""

    message: str
    missing: list[str] | None = msgspec.field(name="missingUsers")
    needed: int = msgspec.field(name="missingAcknowledgments")
    recovery_secrets: dict[str, bytes] | UnsetType = msgspec.field(name="recoverySecrets", default=UNSET)


class PendingUpdate(msgspec.Struct):
    """GET /update-manifest, both versions."""

    manifest: bytes
    message: str
    missing: list[str] | None = msgspec.field(name="missingUsers")


class SignedQuoteV2(msgspec.Struct):
    """POST /api/v2/sign-quote: the root key's signature over the quote in base64, followed by the status."""

    tcb_status: str = msgspec.field(name="tcbStatus")
    signature: bytes = msgspec.field(name="verificationSignature")


class CounterV2(msgspec.Struct):
    """POST /api/v2/monotonic-counter: the value before."""

    value: int


class Message(msgspec.Struct):
    """POST /api/v2/update-cancel."""

    message: str


class SecretEntry(msgspec.Struct):
    """A secret as its readers get it. Size is bits, ValidFor days; values are null while unset."""

    type: str = msgspec.field(name="Type")
    size: int = msgspec.field(name="Size")
    shared: bool = msgspec.field(name="Shared")
    user_defined: bool = msgspec.field(name="UserDefined")
    certificate: bytes | None = msgspec.field(name="Cert")
    valid_for: int = msgspec.field(name="ValidFor")
    private: bytes | None = msgspec.field(name="Private")
    public: bytes | None = msgspec.field(name="Public")


class SecretsV2(msgspec.Struct):
    """GET /api/v2/secrets. In v1 the map stands alone."""

    secrets: dict[str, SecretEntry]


class NewSecretEntry(msgspec.Struct, omit_defaults=True):
    """A value that an owner sets: a key, or a certificate (DER) with its private key (PKCS#8 DER)."""

    key: bytes | UnsetType = msgspec.field(name="Key", default=UNSET)
    certificate: bytes | UnsetType = msgspec.field(name="Cert", default=UNSET)
    private: bytes | UnsetType = msgspec.field(name="Private", default=UNSET)


class SecretsSetV2(msgspec.Struct):
    """POST /api/v2/secrets. In v1 the map stands alone."""

    secrets: dict[str, NewSecretEntry]


class UpdateLogV2(msgspec.Struct):
    """GET /api/v2/update. In v1 the lines stand in one text, each with its line feed."""

    lines: list[str] = msgspec.field(name="updateLog")


# Go's encoder escapes these inside strings, and they stand nowhere else in JSON.
_ESCAPED = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def encode_envelope(envelope: Envelope) -> bytes:
    """The bytes of an answer, as Go's encoder writes them: keys of maps sorted, HTML escaped, a line feed at the end."""
    return encode_like_go(envelope) + b"\n"


def encode_like_go(value: object) -> bytes:
    """JSON as Go writes it: keys of maps sorted, no blanks, HTML escaped, other text as it is."""
    raw = msgspec.json.encode(value, order="deterministic")
    for character, escaped in _ESCAPED:
        raw = raw.replace(character, escaped)
    return raw
