"""Does this text look like a key that somebody wrote down?

Bytes of a file, a variable or an argument come in, with the name under which they stand; what goes out says what kind of
thing was seen and never the thing itself.
"""

import base64
import binascii
import re

KEY_SIZES = (16, 24, 32, 64)
"""Bytes of the usual symmetric keys, and of the digests that are used as keys."""

_TEMPLATE = re.compile(rb"\{\{.*?\}\}", re.DOTALL)
_TELLING = re.compile(r"key|secret|token|passw|passphrase|credential|private", re.IGNORECASE)
_PRIVATE_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\[nr])*[A-Za-z0-9+/]{16}")
_KNOWN_TOKEN = re.compile(rb"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.")
_ASSIGNMENT = re.compile(
    rb"""([\w.-]*(?:key|secret|token|passw|credential)[\w.-]*)["']?[ \t]*[:=][ \t]*["']?([\w+/=-]{22,128})(?![\w+/=-])""",
    re.IGNORECASE,
)
_HEX = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}|[A-Za-z0-9_-]+={0,2}")
_CLASSES = (re.compile(rb"[a-z]"), re.compile(rb"[A-Z]"), re.compile(rb"[0-9]"))
_MAX_LOOKED_AT = 1 << 20  # bytes; a manifest has at most 4 MiB, and a key does not hide behind a megabyte of text


def describe_key_material(name: str, data: bytes) -> str | None:
    """What kind of key stands in `data`, which is written under `name`; None where nothing looks like one."""
    # What the coordinator fills in is not written in the manifest.
    text = _TEMPLATE.sub(b"\0", data[:_MAX_LOOKED_AT])
    if _PRIVATE_PEM.search(text):
        return "a private key in PEM form"
    if _KNOWN_TOKEN.search(text):
        return "an access token"
    if _TELLING.search(name) and (kind := _describe_value(text.strip(b" \t\r\n\"'"), binary=text)):
        return kind
    for match in _ASSIGNMENT.finditer(text):
        if kind := _describe_value(match.group(2), binary=b""):
            return kind
    return None


def _describe_value(value: bytes, *, binary: bytes) -> str | None:
    if _HEX.fullmatch(value) and len(value) / 2 in KEY_SIZES:
        return f"a key of {len(value) // 2} bytes in hexadecimal digits"
    size = _base64_size(value)
    if size is not None:
        return f"a key of {size} bytes in base64"
    if len(binary) in KEY_SIZES and not binary.isascii():
        return f"a key of {len(binary)} bytes"
    return None


def _base64_size(value: bytes) -> int | None:
    """Bytes of a key in base64; None for what is none, or a word or path that happens to have its letters."""
    if not _BASE64.fullmatch(value) or value.startswith(b"/") or not all(one.search(value) for one in _CLASSES):
        return None
    bare = value.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        size = len(base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None
    return size if size in KEY_SIZES else None
