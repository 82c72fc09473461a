"""What is a model at rest?

In: a model's files and a key. Out: one encrypted file, and from it, file by file, plaintext in memory.
`capsule` is the format, pure over seekable streams; `legacy` is the original demo's CTR stream; `files` touches the disk.
"""

from tacit.vault.capsule import Capsule, CapsuleFile, CapsuleInfo
from tacit.vault.files import decrypt_ctr, open_capsule, require_tmpfs, seal_folder
from tacit.vault.keys import KEY_SIZE, generate_key, parse_key

__all__ = [
    "KEY_SIZE",
    "Capsule",
    "CapsuleFile",
    "CapsuleInfo",
    "decrypt_ctr",
    "generate_key",
    "open_capsule",
    "parse_key",
    "require_tmpfs",
    "seal_folder",
]
