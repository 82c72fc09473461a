"""Model keys: 32 bytes, raw or as base64, and what is derived from them for one capsule."""

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import InputError

KEY_SIZE = 32  # bytes
_LABEL = b"tacit capsule v1 "


@dataclass(frozen=True, slots=True)
class CapsuleKeys:
    """What one model key becomes for one salt. `commitment` is public; it names the key without giving it away."""

    commitment: bytes
    content: bytes = field(repr=False)
    index: bytes = field(repr=False)


def generate_key(random_bytes: Callable[[int], bytes] = os.urandom) -> bytes:
    """A new model key, 32 bytes."""
    return random_bytes(KEY_SIZE)


def parse_key(text: bytes) -> bytes:
    """The 32 bytes of a key, given raw or as standard base64 with or without a final newline.

    Raises:
        InputError: neither; the message says what was found and never quotes it.
    """
    if len(text) == KEY_SIZE:
        return text
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as exc:
        raise InputError(
            f"the key is neither {KEY_SIZE} raw bytes nor base64: it has {len(text)} bytes; is it the right file?"
        ) from exc
    if len(key) != KEY_SIZE:
        raise InputError(f"the key is base64 of {len(key)} bytes, expected {KEY_SIZE}; is it the right file?")
    return key


def derive_capsule_keys(key: bytes, salt: bytes) -> CapsuleKeys:
    """Content key, index key and commitment for one capsule. Source: RFC 5869; docs/format.md, section 3."""
    return CapsuleKeys(
        commitment=_derive(key, salt, b"commitment"),
        content=_derive(key, salt, b"content"),
        index=_derive(key, salt, b"index"),
    )


def _derive(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    if len(key) != KEY_SIZE:
        raise InputError(f"the key has {len(key)} bytes, expected {KEY_SIZE}")
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt, info=_LABEL + purpose).derive(key)
