"""The id of a model that is not encrypted, for a manifest that names it. Pure.

    SHA-256 over every file, in the order of the names: length of the name (8 bytes, big endian) ‖ name (UTF-8) ‖
    SHA-256 of the content

The id of a file in the demo's encrypted format is the SHA-256 of that file as it is; a capsule has its own.
"""

import hashlib
from collections.abc import Mapping
from io import BufferedIOBase

from tacit.errors import ModelFormatError


def plain_id(digests: Mapping[str, bytes]) -> bytes:
    """The id (32 bytes) of files whose SHA-256 stand here by relative name, with `/` between a name's parts.

    Raises:
        ModelFormatError: a name that is not UTF-8; the file system lets it be any bytes.
    """
    whole = hashlib.sha256()
    for name in sorted(digests):
        try:
            encoded = name.encode()
        except UnicodeEncodeError as exc:
            raise ModelFormatError(
                f"{name!r} is not UTF-8, and the model's id covers its files' names; rename it"
            ) from exc
        whole.update(len(encoded).to_bytes(8, "big") + encoded + digests[name])
    return whole.digest()


def sha256_of(stream: BufferedIOBase) -> bytes:
    """SHA-256 of a stream's content, read piece by piece from its beginning."""
    return hashlib.file_digest(stream, "sha256").digest()
