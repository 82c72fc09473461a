"""What callers of the client API send: JSON bodies and queries, read as MarbleRun reads them.

The first JSON value counts and what follows it is not read, but in v1; keys match ignoring case, unknown ones are passed over.
Refusals are in the words of Go's decoder, which users' scripts match on.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

from tacit.coordinator.secrets import NewValue
from tacit.errors import FieldError, InputError
from tacit.evidence.verify.binding import CHANNEL_BINDING
from tacit.manifest.codec import describe_leniencies
from tacit.manifest.codec.certificate import CERTIFICATE
from tacit.manifest.codec.content import Blob, EncodingError, decode_base64, read_certificate
from tacit.manifest.codec.decode import Alone, Kind, MapOf, Place, Report, Struct, Text, Weight, Whole
from tacit.manifest.codec.text import END, JsonSyntaxError, Node, Shape, parse_text

Note = Callable[[str], None]
"""Told of each leniency with its path, for the log."""

MAX_RECOVERY = 20480  # bytes of a request with a recovery secret
MAX_NONCE = 4096  # bytes; a nonce is 32

_MALFORMED = re.compile(r";|%(?![0-9A-Fa-f]{2})")
_AFTER = "after top-level value"
_URL_SAFE = str.maketrans({"-": "+", "_": "/", "+": "*", "/": "*"})  # the standard alphabet's signs become illegal


@dataclass(frozen=True, slots=True)
class _CertificateKind:
    """A certificate, DER in base64. Go decodes it by a function of its own: what is wrong in it ends the reading."""

    go_type: str = "x509.Certificate"

    def empty(self) -> bytes:
        """None given."""
        return b""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The DER, checked to be a certificate. What MarbleRun takes and makes no certificate of is none."""
        if node.shape is not Shape.STRING:
            Alone(CERTIFICATE, "").decode(node, place, CERTIFICATE.empty(), report)
            if node.shape is Shape.OBJECT:
                report.tolerate(place, node.offset, "how a certificate is to look is none; give its DER as base64")
            return b""
        return read_certificate(node, place, report)


_NEW_SECRET = Struct(
    "manifest.UserSecret", {"Key": Blob(), "Cert": _CertificateKind(), "Private": Blob("manifest.PrivateKey")}
)
_SECRETS_V1 = MapOf(_NEW_SECRET)
_SECRETS_V2 = Struct("v2.SecretsSetRequest", {"secrets": _SECRETS_V1})
_RECOVER = Struct("v2.RecoveryRequest", {"recoverySecret": Blob(), "recoverySecretSignature": Blob()})
_SIGN_QUOTE = Struct("v2.QuoteSignRequest", {"sgxQuote": Blob()})
_COUNTER = Struct("v2.MonotonicCounterRequest", {"name": Text(), "value": Whole("uint64", 2**64 - 1)})
ManifestRequest = Literal["ManifestSetRequest", "UpdateApplyRequest", "UpdateManifestPostRequest"]
"""What MarbleRun calls a request that holds a manifest."""


def parse_manifest_body(body: bytes, note: Note, *, request: ManifestRequest) -> bytes:
    """The manifest of a v2 request; empty where the field is missing.

    Raises:
        InputError: in the words of Go's decoder.
    """
    raw: bytes = _parse(body, Struct(f"v2.{request}", {"manifest": Blob()}), note)["manifest"]
    return raw


def parse_recovery(body: bytes, note: Note) -> tuple[bytes, bytes]:
    """A recovery secret and its signature. Raises: InputError."""
    # What lies beyond the limit is not read, as MarbleRun does not.
    values = _parse(body[:MAX_RECOVERY], _RECOVER, note)
    return values["recoverySecret"], values["recoverySecretSignature"]


def parse_quote(body: bytes, note: Note) -> bytes:
    """The quote of a request to sign it; empty where the field is missing. Raises: FieldError."""
    try:
        quote: bytes = _parse(body, _SIGN_QUOTE, note)["sgxQuote"]
    except InputError as exc:
        raise FieldError(f"bad request: {exc}", field="sgxQuote", detail="failed to parse JSON data") from exc
    return quote


def parse_counter(body: bytes, note: Note) -> tuple[str, int]:
    """A counter's name and its new value. Raises: InputError."""
    values = _parse(body, _COUNTER, note)
    return values["name"], values["value"]


def parse_secrets_v1(body: bytes, note: Note) -> dict[str, NewValue]:
    """New secrets by name. Unlike the other bodies, this one is read whole. Raises: InputError."""
    try:
        node = parse_text(body)
    except JsonSyntaxError as exc:
        raise InputError(str(exc)) from exc
    return _new_values(_read(node, _SECRETS_V1, Report(), note))


def parse_secrets_v2(body: bytes, note: Note) -> dict[str, NewValue]:
    """New secrets by name. Raises: InputError."""
    return _new_values(_parse(body, _SECRETS_V2, note)["secrets"])


def parse_nonce(query: str) -> bytes:
    """The nonce of a quote request; empty where none is asked for. URL-safe base64, padded.

    Raises:
        InputError: another encoding, or too long.
    """
    text = dict(reversed(_pairs(query))).get("nonce", "")
    if len(text) > MAX_NONCE:
        raise InputError(f"invalid query: bad nonce format: {len(text)} characters, at most {MAX_NONCE} are read")
    try:
        return decode_base64(text.translate(_URL_SAFE))
    except EncodingError as exc:
        raise InputError(f"invalid query: bad nonce format: {exc}") from exc


def parse_channel(query: str) -> bool:
    """Whether a quote request asks for evidence that is bound to its very connection (`channel=tls-exporter-v1`).

    Raises:
        InputError: another kind of binding, or no nonce beside it.
    """
    asked = dict(reversed(_pairs(query)))
    kind = asked.get("channel")
    if kind is None:
        return False
    if kind != CHANNEL_BINDING:
        raise InputError(f"invalid query: this coordinator binds evidence to a channel by {CHANNEL_BINDING} alone")
    if not asked.get("nonce"):
        raise InputError("invalid query: evidence that is bound to a channel needs a nonce too")
    return True


def parse_secret_names(query: str) -> list[str]:
    """The names that a request for secrets gives, in its order.

    Raises:
        InputError: none, or an empty one.
    """
    names = [value for key, value in _pairs(_without_malformed(query)) if key == "s"]
    if not names:
        raise InputError("invalid query: endpoint requires at least one query parameter")
    if "" in names:
        raise InputError("malformed query string: empty query parameter")
    return names


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _without_malformed(query: str) -> str:
    """A query without the parts that Go drops: those with a semicolon, and those with a sign for no byte."""
    return "&".join(part for part in query.split("&") if not _MALFORMED.search(part))


def _new_values(entries: dict[str, dict[str, bytes]]) -> dict[str, NewValue]:
    return {name: NewValue(one["Key"], one["Cert"], one["Private"]) for name, one in entries.items()}


def _parse(body: bytes, kind: Kind, note: Note) -> Any:
    report = Report()
    return _read(_first_value(body, report), kind, report, note)


def _read(node: Node, kind: Kind, report: Report, note: Note) -> Any:
    value = kind.decode(node, Place(), kind.empty(), report)
    for weight in (Weight.FATAL, Weight.WRONG):
        for finding in report.findings:
            if finding.weight is weight:
                raise InputError(finding.wire)
    for leniency in describe_leniencies(report.findings):
        note(leniency)
    return value


def _first_value(body: bytes, report: Report) -> Node:
    if not body.strip(b" \t\r\n"):
        raise InputError("EOF")
    try:
        return parse_text(body)
    except JsonSyntaxError as exc:
        if str(exc).endswith(_AFTER):
            report.tolerate(Place(), exc.offset, "what follows the first value was not read")
            return parse_text(body[: exc.offset])
        # A stream that ends within a value, as Go's stream decoder puts it.
        raise InputError("unexpected EOF" if str(exc) == END else str(exc)) from exc
