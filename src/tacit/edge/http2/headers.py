"""Header blocks: HPACK by the `hpack` library, and the rules of RFC 9113 section 8 for what stands in them.

The same client sends the same block again and again. Its meaning depends on HPACK's table alone; while that stays as it
is, a block that was read before is not read again.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import hpack

from tacit.edge.http2.frames import ConnectionFault, ErrorCode

_REMEMBERED = 32  # blocks of one connection
_REMEMBERED_SIZE = 1024  # bytes of such a block
_REMEMBERED_FIELDS = 4096  # bytes of what it says, which can be far more than itself
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # a token (RFC 9110, 5.6.2), without upper case
_VALUE = re.compile(rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))

Fields = Iterable[tuple[bytes, bytes]]


class MalformedError(Exception):
    """A header list that breaks the rules; its text says how."""


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. Header names are lower case; a name that came twice has its values joined by a comma.

    `length` is what content-length says, None where it does not stand. `metadata` are the headers that are text: what ends
    in -bin is bytes, and no handler reads those.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    length: int | None
    metadata: Mapping[str, str]


def parse_request(fields: Fields) -> Request:
    """The request that a header list says.

    Raises:
        MalformedError: RFC 9113 section 8 forbids it.
    """
    pseudo: dict[bytes, str] = {}
    headers: dict[str, str] = {}
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise MalformedError("a header's value holds what no value may hold")
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or headers:
                raise MalformedError("a pseudo-header is unknown, stands twice, or stands after a header")
            pseudo[name] = value.decode("latin-1")
        else:
            _check_field(name, value)
            key, text = name.decode("ascii"), value.decode("latin-1")
            if key in headers:
                text = headers[key] + ("; " if key == "cookie" else ", ") + text
            headers[key] = text
    method, path, authority = _target(pseudo)
    if authority and headers.setdefault("host", authority) != authority:
        raise MalformedError("host and :authority differ")
    metadata = {name: value for name, value in headers.items() if not name.endswith("-bin")}
    return Request(method, path, MappingProxyType(headers), _length(headers), MappingProxyType(metadata))


def check_trailers(fields: Fields) -> None:
    """Trailers hold no pseudo-header. Raises: MalformedError."""
    for name, value in fields:
        if name.startswith(b":") or not _VALUE.fullmatch(value):
            raise MalformedError("trailers hold a pseudo-header, or what no value may hold")
        _check_field(name, value)


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise MalformedError("a header's name holds what no name may hold")
    if name in _OF_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
        raise MalformedError(f"{name.decode('ascii')} belongs to HTTP/1.1")


def _target(pseudo: Mapping[bytes, str]) -> tuple[str, str, str]:
    """Method, path and authority."""
    method, path = pseudo.get(b":method", ""), pseudo.get(b":path", "")
    if not _NAME.fullmatch(method.lower().encode("latin-1")) or b":scheme" not in pseudo:
        raise MalformedError("the method or the scheme is missing")
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        raise MalformedError("the path is missing, or does not begin with a slash")
    if " " in path or "\t" in path:
        raise MalformedError("the path holds a space")
    return method, path, pseudo.get(b":authority", "")


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise MalformedError("content-length is no length")
    return int(text)


class HeaderDecoder:
    """Reads the header blocks of one connection, in their order."""

    def __init__(self, max_headers: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_headers)
        self._known: dict[bytes, Request] = {}

    def request(self, block: bytes) -> Request:
        """The request in a block.

        Raises:
            MalformedError: The list breaks a rule; the block was read, and the next one can be.
            ConnectionFault: The block is no HPACK, or becomes too large.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        fields, steady = self._decode(block)
        request = parse_request(fields)
        size = sum(len(name) + len(value) for name, value in fields)
        if steady and len(block) <= _REMEMBERED_SIZE and size <= _REMEMBERED_FIELDS:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = request
        return request

    def trailers(self, block: bytes) -> None:
        """Read a block of trailers. Raises: as `request`."""
        fields, _ = self._decode(block)
        check_trailers(fields)

    def skip(self, block: bytes) -> None:
        """Read a block that nobody wants, for what it does to HPACK's table. Raises: ConnectionFault."""
        self._decode(block)

    def _decode(self, block: bytes) -> tuple[Fields, bool]:
        """The fields, and whether HPACK's table is what it was before: then the block will mean the same again."""
        table = self._decoder.header_table
        before = _front(table.dynamic_entries), len(table.dynamic_entries), table.maxsize
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as exc:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too large") from exc
        except hpack.HPACKError as exc:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "the header block is no HPACK") from exc

        # Whatever is added stands in front as an object of its own; `before` keeps the old one alive, so that no other
        # can take its place in memory.
        front = _front(table.dynamic_entries)
        steady = front is before[0] and (len(table.dynamic_entries), table.maxsize) == before[1:]
        if not steady:
            self._known.clear()
        return fields, steady


def _front(entries: Sequence[object]) -> object:
    return entries[0] if entries else None


def encode_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block that leaves the other end's table as it is, so that it can be made once and sent often.

    The first fields are `:status` and its like. Values are latin-1, as everywhere in HTTP.
    """
    encoder = hpack.Encoder()
    raw = [hpack.NeverIndexedHeaderTuple(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
    return encoder.encode(raw, huffman=False)
