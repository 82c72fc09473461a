"""What callers of the client API send: JSON bodies and queries, read as MarbleRun reads them.

The first JSON value counts and what follows it is not read; keys match ignoring case, unknown ones are passed over.
Refusals are in the words of Go's decoder, which users' scripts match on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from tacit.coordinator.secrets import NewValue
from tacit.errors import FieldError, InputError, PkiError
from tacit.evidence.verify.binding import CHANNEL_BINDING
from tacit.manifest.codec import describe_leniencies
from tacit.manifest.codec.content import Blob, EncodingError, decode_base64
from tacit.manifest.codec.decode import Kind, MapOf, Place, Report, Struct, Text, Weight, Whole
from tacit.manifest.codec.text import END, JsonSyntaxError, Node, Shape, parse_text
from tacit.pki.keys import parse_certificate_der

Note = Callable[[str], None]
"""Told of each leniency with its path, for the log."""

MAX_RECOVERY = 20480  # bytes of a request with a recovery secret
MAX_NONCE = 4096  # bytes; a nonce is 32

_AFTER = "after top-level value"
_URL_SAFE = str.maketrans({"-": "+", "_": "/", "+": "*", "/": "*"})  # the standard alphabet's signs become illegal


@dataclass(frozen=True, slots=True)
class _CertificateKind:
    """A certificate, DER in base64."""

    go_type: str = "[]uint8"

    def empty(self) -> bytes:
        """None given."""
        return b""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The DER, checked to be a certificate."""
        der = Blob().decode(node, place, current, report)
        if not der:
            if node.shape is Shape.STRING and not report.findings:
                report.wrong(place, node.offset, "an empty certificate", "x509: malformed certificate")
            return der
        try:
            parse_certificate_der(der)
        except PkiError:
            report.wrong(place, node.offset, "no X.509 certificate", "x509: malformed certificate")
        return der


_NEW_SECRET = Struct("manifest.UserSecret", {"Key": Blob(), "Cert": _CertificateKind(), "Private": Blob()})
_SECRETS_V1 = MapOf(_NEW_SECRET)
_SECRETS_V2 = Struct("clientapi.SecretsSetRequest", {"secrets": _SECRETS_V1})
_RECOVER = Struct("clientapi.RecoverRequest", {"recoverySecret": Blob(), "recoverySecretSignature": Blob()})
_MANIFEST_V2 = Struct("clientapi.ManifestSetRequest", {"manifest": Blob()})
_SIGN_QUOTE = Struct("clientapi.QuoteSignRequest", {"sgxQuote": Blob()})
_COUNTER = Struct("clientapi.MonotonicCounterRequest", {"name": Text(), "value": Whole("uint64", 2**64 - 1)})


def parse_manifest_body(body: bytes, note: Note) -> bytes:
    """The manifest of a v2 request; empty where the field is missing.

    Raises:
        InputError: in the words of Go's decoder.
    """
    raw: bytes = _parse(body, _MANIFEST_V2, note)["manifest"]
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
    """New secrets by name. Raises: InputError."""
    return _new_values(_parse(body, _SECRETS_V1, note))


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
    names = [value for key, value in _pairs(query) if key == "s"]
    if not names:
        raise InputError("invalid query: endpoint requires at least one query parameter")
    if "" in names:
        raise InputError("malformed query string: empty query parameter")
    return names


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _new_values(entries: dict[str, dict[str, bytes]]) -> dict[str, NewValue]:
    return {name: NewValue(one["Key"], one["Cert"], one["Private"]) for name, one in entries.items()}


def _parse(body: bytes, kind: Kind, note: Note) -> Any:
    report = Report()
    value = kind.decode(_first_value(body, report), Place(), kind.empty(), report)
    for finding in report.findings:
        if finding.weight is not Weight.TOLERATED:
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
