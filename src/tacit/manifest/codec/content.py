"""Values of a manifest that are encoded within JSON: contents of files, bytes, digests.

Source: encodings as Go's encoding/base64 and encoding/hex read them, with their words of refusal.
"""

import binascii
import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

from tacit.errors import PkiError
from tacit.manifest.codec.decode import Flag, ListOf, Place, Report, Struct, Text, Whole
from tacit.manifest.codec.text import Node, Shape
from tacit.manifest.model import Content
from tacit.pki.keys import parse_certificate_der

_GO_CONTENT = "struct { Data string; Encoding string; NoTemplates bool }"
_CONTENT = Struct(_GO_CONTENT, {"Data": Text(), "Encoding": Text(), "NoTemplates": Flag()})
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SYMBOLS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_HEX = frozenset("0123456789abcdefABCDEF")
_DURATION = re.compile(r"(?:([0-9]{1,7})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,10})s)?")


class EncodingError(ValueError):
    """Text that does not follow its encoding, in Go's words."""


def decode_base64(text: str) -> bytes:
    """The bytes of padded standard base64; line breaks are skipped.

    Raises:
        EncodingError: the position of the first byte that does not fit.
    """
    joined = text.replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(joined):
        message = f"illegal base64 data at input byte {_illegal_base64(text)}"
        raise EncodingError(message)
    return binascii.a2b_base64(joined)


def _illegal_base64(text: str) -> int:
    """Where Go stops: the byte that is no symbol, or, for text cut short, where its last group began."""
    raw = text.encode().decode("latin-1")
    places = [index for index, symbol in enumerate(raw) if symbol not in "\r\n"]
    for count, index in enumerate(places):
        if raw[index] in _SYMBOLS:
            continue
        if raw[index] != "=" or count % 4 < 2:
            return index
        return _illegal_padding(raw, places[count:], needed=2 if count % 4 == 2 else 1)
    return len(raw) - len(places) % 4


def _illegal_padding(raw: str, rest: list[int], *, needed: int) -> int:
    if needed == 2:
        if len(rest) < 2:
            return len(raw)
        if raw[rest[1]] != "=":
            return rest[1] - 1
    return rest[needed]  # something follows the padding


def decode_hex(text: str) -> bytes:
    """The bytes of hexadecimal text.

    Raises:
        EncodingError: a byte that is no digit, or half a byte.
    """
    for code in text.encode():
        if chr(code) not in _HEX:
            shown = f" '{chr(code)}'" if 0x20 <= code < 0x7F or code > 0xA0 else ""
            message = f"encoding/hex: invalid byte: U+{code:04X}{shown}"
            raise EncodingError(message)
    if len(text) % 2:
        message = "encoding/hex: odd length hex string"
        raise EncodingError(message)
    return bytes.fromhex(text)


@dataclass(frozen=True, slots=True)
class ContentKind:
    """A file or variable: plain text, or an object with Data, Encoding and NoTemplates."""

    go_type: str = "manifest.File"

    def empty(self) -> Content:
        """No bytes."""
        return Content(b"")

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The content, decoded."""
        own = Report()
        content = self._decode(node, place, current, own)
        report.adopt(own.findings)
        return content

    def _decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        if node.shape is Shape.STRING:
            return Content(Text().decode(node, place, "", report).encode())
        if node.shape is Shape.NULL:
            message = "found null, expected a string or an object with Data"
            report.fatal(place, node.offset, message, "got: %!t(<nil>), expected: string or interface")
            return current
        if node.shape is not Shape.OBJECT:
            report.wrong_type(node, place, _GO_CONTENT, expected="a string or an object with Data")
            return current
        values = _CONTENT.decode(node, place, _CONTENT.empty(), report)
        try:
            data = _decoded(values["Data"], values["Encoding"])
        except EncodingError as exc:
            report.fatal(place, node.offset, str(exc), str(exc))
            return current
        return Content(data, templates=not values["NoTemplates"])


def _decoded(data: str, encoding: str) -> bytes:
    match encoding.lower():
        case "" | "string":
            return data.encode()
        case "base64":
            return decode_base64(data)
        case "hex":
            return decode_hex(data)
    message = f"unknown encoding type: {encoding}"
    raise EncodingError(message)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes as base64."""

    go_type: str = "[]uint8"

    def empty(self) -> bytes:
        """No bytes."""
        return b""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The bytes; Go also takes them as a list of numbers."""
        if node.shape is Shape.ARRAY:
            report.tolerate(place, node.offset, "a list of numbers was read as bytes; write them as base64")
            return bytes(ListOf(Whole("uint8", 255)).decode(node, place, [], report))
        text = Text(self.go_type).decode(node, place, None, report)
        if text is None:
            return b"" if node.shape is Shape.NULL else current
        try:
            return decode_base64(text)
        except EncodingError as exc:
            report.wrong(place, node.offset, str(exc), str(exc))
            return current


def read_certificate(node: Node, place: Place, report: Report) -> bytes:
    """The DER of a certificate; empty for what is no base64: Go makes no certificate of it, and no mistake either."""
    try:
        der = decode_base64(node.text)
    except EncodingError as exc:
        report.tolerate(place, node.offset, f"{exc}, so no certificate was given")
        return b""
    try:
        parse_certificate_der(der)
    except PkiError:
        report.fatal(place, node.offset, "no X.509 certificate", "x509: malformed certificate")
    return der


@dataclass(frozen=True, slots=True)
class Hex:
    """Bytes of any number as hexadecimal text. What is none becomes `b""`: given, and never matched."""

    go_type: str = "string"

    def empty(self) -> bytes:
        """Given, and never matched."""
        return b""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The bytes."""
        text = Text().decode(node, place, "", report)
        if text and len(text) % 2 == 0 and set(text) <= _HEX:
            return bytes.fromhex(text)
        report.tolerate(place, node.offset, "not hexadecimal digits in pairs, so nothing ever matches it")
        return b""


@dataclass(frozen=True, slots=True)
class Digest:
    """32 bytes as hexadecimal text; None where absent or empty.

    MarbleRun compares such text as text and takes any. What is no digest becomes `b""`: given, and never matched.
    """

    go_type: str = "string"

    def empty(self) -> bytes | None:
        """Not given."""
        return None

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The digest."""
        text = Text().decode(node, place, None, report)
        if text is None:
            return current
        if text == "":
            report.tolerate(place, node.offset, "empty text read as absent; leave the key out")
            return None
        if len(text) == 64 and set(text) <= _HEX:
            return bytes.fromhex(text)
        message = f"not 64 hexadecimal digits ({len(text)} characters), so nothing ever matches it"
        report.tolerate(place, node.offset, message)
        return b""


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of time as Go writes it (`24h`, `1h30m`, `90s`), in whole hours, minutes and seconds; None where absent."""

    go_type: str = "time.Duration"

    def empty(self) -> timedelta | None:
        """Not given."""
        return None

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The span."""
        if node.shape is not Shape.STRING:
            return Text(self.go_type).decode(node, place, current, report)
        found = _DURATION.fullmatch(node.text)
        if found is None or not node.text:
            expected = f'"{node.text[:40]}" is no span of time such as 24h, 1h30m or 3600s'
            report.wrong(place, node.offset, expected, f"{place.path}: {expected}")
            return current
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address as text."""

    go_type: str = "net.IP"

    def empty(self) -> str:
        """No address."""
        return ""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The address, checked to be one."""
        if node.shape is not Shape.STRING:
            return Text(self.go_type).decode(node, place, current, report)
        try:
            # A zone (`fe80::1%eth0`) cannot stand in a certificate.
            return str(ip_address(node.text)) if "%" not in node.text else _no_address(node.text)
        except ValueError:
            report.wrong(place, node.offset, "not an IP address", f"invalid IP address: {node.text[:60]}")
            return current


def _no_address(text: str) -> str:
    raise ValueError(text)
