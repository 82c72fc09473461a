"""The format's own vectors: each names the failure that it must give."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.errors import VaultError
from tacit.vault.capsule import read_capsule

FOLDER = Path(__file__).parents[1] / "vectors" / "vault"
VECTORS = json.loads((FOLDER / "capsules.json").read_text())


def outcome(raw: bytes, key: bytes) -> str:
    try:
        capsule = read_capsule(io.BytesIO(raw), key)
        for file in capsule.info.files:
            capsule.read(file.name)
    except VaultError as error:
        return error.reason
    return "ok"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_gives_what_it_names(vector: dict[str, str]) -> None:
    assert outcome(base64.b64decode(vector["capsule"]), bytes.fromhex(vector["key"])) == vector["expect"]


def test_the_vectors_are_what_their_script_makes() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "make.py")], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == VECTORS
