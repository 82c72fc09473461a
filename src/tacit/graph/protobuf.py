"""Walks a protobuf message where it lies: a model of gigabytes is looked at for a few names, without copying its weights.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

from tacit.errors import ModelFormatError


def fields(message: memoryview, *, what: str) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, whole encoding and payload of the length-delimited fields; the others are skipped.

    Raises:
        ModelFormatError: no message; the text says that it is not `what`.
    """
    position = 0
    while position < len(message):
        begin = position
        key, position = _varint(message, position, what)
        wire_type = key & 7
        if key >> 3 == 0:
            raise ModelFormatError(f"not {what}: a field has the number 0")
        if wire_type == 0:
            _, position = _varint(message, position, what)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length, position = _varint(message, position, what)
            if length > len(message) - position:
                raise ModelFormatError(f"not {what}: a field is longer than the file")
            yield key >> 3, message[begin : position + length], message[position : position + length]
            position += length
        else:
            raise ModelFormatError(f"not {what}: wire type {wire_type}")


def tagged(number: int, payload: bytes) -> bytes:
    """The encoding of a length-delimited field; `number` is below 16."""
    length, digits = len(payload), bytearray()
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((number << 3 | 2, *digits, length)) + payload


def _varint(message: memoryview, position: int, what: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelFormatError(f"not {what}: a number is cut short")
