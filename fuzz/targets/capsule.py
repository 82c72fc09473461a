"""A capsule: `c` + its bytes. Else the JSON of an index that its own key has sealed, so that what stands in it is reached."""

import hashlib
from io import BytesIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import VaultError
from tacit.vault.capsule import Source, read_capsule, read_header, write_capsule
from tacit.vault.keys import derive_capsule_keys
from tacit.vault.layout import END, TRAILER, build_header, open_index, parse_header, seal_index

REFUSALS = (VaultError,)
LIMIT = 8192  # bytes
KEY = bytes(range(32))
_SALT = bytes(32)
_KEYS = derive_capsule_keys(KEY, _SALT)
_HEADER = build_header(_SALT, _KEYS.commitment)


def check(data: bytes) -> None:
    if data[:1] == b"c":
        _capsule(data[1:])
        return
    sealed = AESGCM(_KEYS.index).encrypt(bytes(12), data[1:], hashlib.sha256(_HEADER).digest())
    header = parse_header(_HEADER)
    index = open_index(sealed, header, _KEYS.index)
    assert open_index(seal_index(index, _HEADER, _KEYS.index), header, _KEYS.index) == index
    _capsule(_HEADER + bytes(16) + sealed + TRAILER.pack(len(sealed), END))


def _capsule(raw: bytes) -> None:
    identity = read_header(BytesIO(raw)).id
    with read_capsule(BytesIO(raw), KEY) as capsule:
        files = {file.name: bytes(capsule.read(file.name)) for file in capsule.info.files}
        info = capsule.info
    assert info.id == identity
    again = BytesIO()
    sources = [Source(name, len(content), lambda content=content: BytesIO(content)) for name, content in files.items()]
    write_capsule(
        again, sources, KEY, name=info.name, version=info.version, random_bytes=lambda size: raw[16 : 16 + size]
    )
    assert again.getvalue() == raw, "a capsule of the same files under the same salt is the same"
