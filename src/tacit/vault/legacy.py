"""The original demo's format: AES-256 in counter mode, and the IV behind the ciphertext. Pure.

    ciphertext (as long as the plaintext) ‖ IV (16 bytes, the whole initial counter block)

Nothing is authenticated: a wrong key gives nonsense, and whoever stores the file can flip bits of the model at will.
It exists so that models of that demo can be read and made. Source: NIST SP 800-38A, section 6.5.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tacit.errors import InputError, VaultError

IV_SIZE = 16  # bytes
_PIECE = 1 << 20  # bytes read and decrypted at a time


def iter_encrypted_ctr(source: BinaryIO, key: bytes, iv: bytes) -> Iterator[bytes]:
    """The ciphertext of `source`, and behind it the IV; byte for byte what the demo's own tool writes."""
    cipher = _cipher(key, iv).encryptor()
    while piece := source.read(_PIECE):
        yield cipher.update(piece)
    yield cipher.finalize() + iv


def iter_decrypted_ctr(source: BinaryIO, key: bytes) -> Iterator[bytes]:
    """The plaintext of a seekable stream in the demo's format, unauthenticated.

    Raises:
        VaultError: too short to hold an IV.
    """
    size = source.seek(0, io.SEEK_END) - IV_SIZE
    if size < 0:
        raise VaultError(
            f"the file has {size + IV_SIZE} bytes, and its format ends with an IV of {IV_SIZE}; was it cut?"
        )
    source.seek(size)
    iv = source.read(IV_SIZE)
    if len(iv) < IV_SIZE:
        raise _shrank()
    cipher = _cipher(key, iv).decryptor()
    source.seek(0)
    while size:
        piece = source.read(min(_PIECE, size))
        if not piece:
            raise _shrank()
        size -= len(piece)
        yield cipher.update(piece)
    yield cipher.finalize()


def _cipher(key: bytes, iv: bytes) -> "Cipher[CTR]":
    if len(key) != 32:
        raise InputError(f"the key has {len(key)} bytes, expected 32")
    if len(iv) != IV_SIZE:
        raise InputError(f"the IV has {len(iv)} bytes, expected {IV_SIZE}")
    return Cipher(AES(key), CTR(iv))


def _shrank() -> VaultError:
    return VaultError("the file became shorter while it was read; decrypt it when nobody writes to it")
