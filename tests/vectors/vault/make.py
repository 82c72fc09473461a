"""Make capsules.json again: small capsules under known keys, and what each must give. Usage: python make.py > capsules.json."""

import base64
import io
import json

from tacit.vault import layout
from tacit.vault.capsule import Source, write_capsule

KEY, SALT = bytes(range(32)), bytes(range(32, 64))
FILES = {"saved_model.pb": b"graph", "variables/variables.index": b""}


def seal(files: dict[str, bytes], *, version: int = 1, salt: bytes = SALT) -> bytes:
    out = io.BytesIO()
    sources = [
        Source(name, len(content), lambda content=content: io.BytesIO(content)) for name, content in files.items()
    ]
    write_capsule(out, sources, KEY, name="tiny", version=version, random_bytes=lambda size: salt)
    return out.getvalue()


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


good = seal(FILES)
first = layout.HEADER.size
chunk = len(FILES["saved_model.pb"]) + layout.TAG
index = first + chunk + layout.TAG
other = seal(FILES, salt=bytes(32))
equal = seal({"a": b"12345", "b": b"54321"})
VECTORS = [
    ("two files", KEY, good, "ok"),
    ("another key", bytes(32), good, "capsule-key"),
    ("salt altered", KEY, flip(good, 20), "capsule-key"),
    ("commitment altered", KEY, flip(good, 50), "capsule-key"),
    ("another magic", KEY, flip(good, 0), "capsule-format"),
    ("version 0", KEY, flip(good, 8), "capsule-format"),
    ("reserved byte set", KEY, flip(good, 12), "capsule-format"),
    ("empty", KEY, b"", "capsule-format"),
    ("header alone", KEY, good[:80], "capsule-format"),
    ("last byte cut", KEY, good[:-1], "capsule-format"),
    ("a byte appended", KEY, good + b"\0", "capsule-format"),
    ("a chunk taken out", KEY, good[:first] + good[first + chunk :], "capsule-format"),
    ("first chunk altered", KEY, flip(good, first), "capsule-chunk"),
    ("tag of the empty file altered", KEY, flip(good, first + chunk), "capsule-chunk"),
    ("files of equal size swapped", KEY, equal[:80] + equal[101:122] + equal[80:101] + equal[122:], "capsule-chunk"),
    ("index altered", KEY, flip(good, index), "capsule-index"),
    ("index of another capsule", KEY, good[:index] + other[index:], "capsule-index"),
]
print(
    json.dumps(
        [
            {"name": name, "key": key.hex(), "capsule": base64.b64encode(raw).decode(), "expect": expect}
            for name, key, raw, expect in VECTORS
        ],
        indent=1,
    )
)
