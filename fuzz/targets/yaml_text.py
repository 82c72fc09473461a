"""A manifest in YAML, as the command line turns it into JSON."""

import os
from pathlib import Path

from tacit.cli.files import load_manifest
from tacit.errors import InputError

REFUSALS = (InputError,)
LIMIT = 4096  # bytes

_FILE = Path("/dev/shm") / f"tacit-fuzz-{os.getpid()}.yaml"  # the command line reads files


def check(data: bytes) -> None:
    text = _load(data)
    assert _load(text) == text, (
        "what became JSON stays as it is, and what was JSON (Go's, with any bytes in its strings) too"
    )


def _load(data: bytes) -> bytes:
    _FILE.write_bytes(data)
    try:
        return load_manifest(_FILE)
    finally:
        _FILE.unlink()
