"""A walk over DER (ASN.1): elements as they stand, with their own bytes, so that signatures can be checked over them.

For what the certificate library has no class for, and for certificates that it may one day refuse (`snp.certificates`).
Every length is checked against what is there; nothing here recurses. Source: ITU-T X.690, section 8.1.
"""

from dataclasses import dataclass

BOOLEAN, INTEGER, BIT_STRING, OCTETS, OID, ENUMERATED = 0x01, 0x02, 0x03, 0x04, 0x06, 0x0A
SEQUENCE, SET = 0x30, 0x31
_MAX_ELEMENTS = 256  # in one sequence; a platform's certificate has 25


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, its content, and `raw`, which is both with the length between."""

    tag: int
    content: bytes
    raw: bytes

    def elements(self, tag: int = SEQUENCE) -> "list[Element]":
        """What stands inside a constructed element of this tag. Raises: ValueError."""
        if self.tag != tag:
            raise ValueError(f"an element of type {self.tag:#x} where {tag:#x} belongs")
        return parse_elements(self.content)

    def bytes_of(self, tag: int) -> bytes:
        """The content of a primitive element of this tag. Raises: ValueError."""
        if self.tag != tag:
            raise ValueError(f"an element of type {self.tag:#x} where {tag:#x} belongs")
        return self.content

    def number(self) -> int:
        """A whole number that is not negative. Raises: ValueError."""
        content = self.bytes_of(INTEGER)
        number = int.from_bytes(content, "big", signed=True)
        if not content or number < 0:
            raise ValueError("a number that is negative or empty")
        return number


def parse_elements(der: bytes) -> list[Element]:
    """The elements that stand one after the other; their content is not looked into. Raises: ValueError."""
    found: list[Element] = []
    at = 0
    while at < len(der):
        if len(der) - at < 2 or len(found) == _MAX_ELEMENTS:
            raise ValueError("cut element, or too many")
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 2 or len(der) < start + size:
                raise ValueError("a length of more than 65535, or cut")
            length, start = int.from_bytes(der[start : start + size], "big"), start + size
        if length > len(der) - start:
            raise ValueError("cut element")
        found.append(Element(tag, der[start : start + length], der[at : start + length]))
        at = start + length
    return found


def parse_one(der: bytes) -> Element:
    """The one element that these bytes are, with nothing behind it. Raises: ValueError."""
    elements = parse_elements(der)
    if len(elements) != 1:
        raise ValueError(f"{len(elements)} elements where one belongs")
    return elements[0]
