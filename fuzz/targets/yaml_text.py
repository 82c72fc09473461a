"""A manifest in YAML, as the command line turns it into JSON."""

import json
import os
from pathlib import Path

from tacit.cli.files import load_manifest
from tacit.errors import InputError

REFUSALS = (InputError,)
LIMIT = 4096  # bytes

_FILE = Path("/dev/shm") / f"tacit-fuzz-{os.getpid()}.yaml"  # the command line reads files


def check(data: bytes) -> None:
    _FILE.write_bytes(data)
    try:
        text = load_manifest(_FILE)
    finally:
        _FILE.unlink()
    value = json.loads(text)
    again = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert again == text, "the JSON of a manifest is the same once read and written"
