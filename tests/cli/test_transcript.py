"""The lines of MarbleRun's command line, from a transcript of our own: what a plain checkout can replay."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fakes.transcript import Entry, Stage, parse_transcript, settled
from tacit.pki import issue_self_signed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # keys of RSA are made on the way, and the machine may be busy

TRANSCRIPT = Path(__file__).parents[1] / "vectors" / "cli" / "transcript.txt"
COUNT = 50
USERS = ("alice", "bob", "carol", "mallory")
KEYS = ("rec1", "rec2")


def make_users(folder: Path) -> dict[str, str]:
    """Certificates (PEM) by name; certificate and key of each lie in the folder."""
    found = {}
    for name in USERS:
        user = issue_self_signed([], common_name=name, now=datetime.now(UTC))
        (folder / f"{name}.crt").write_bytes(user.certificate_pem)
        (folder / f"{name}.key").write_bytes(user.key_pem)
        found[name] = user.certificate_pem.decode()
    return found


def make_recovery_keys(folder: Path) -> dict[str, str]:
    found = {}
    for name in KEYS:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
        found[name] = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return found


def make_manifests(folder: Path) -> None:
    certificates, keys = make_users(folder), make_recovery_keys(folder)
    roles = {
        "updater": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
        "versions": {"ResourceType": "Packages", "ResourceNames": ["a"], "Actions": ["UpdateSecurityVersion"]},
        "secrets": {"ResourceType": "Secrets", "ResourceNames": ["tok"], "Actions": ["ReadSecret", "WriteSecret"]},
        "reader": {"ResourceType": "Secrets", "ResourceNames": ["key", "cert"], "Actions": ["ReadSecret"]},
    }
    held = {"alice": ["updater", "versions", "secrets", "reader"], "bob": ["updater"], "carol": ["updater"]}
    manifest: dict[str, Any] = {
        "Packages": {"a": {"SignerID": "ab" * 32, "ProductID": 1, "SecurityVersion": 1}},
        "Marbles": {"m": {"Package": "a"}},
        "Secrets": {
            "tok": {"Type": "plain", "UserDefined": True},
            "key": {"Type": "symmetric-key", "Size": 128, "Shared": True},
            "cert": {"Type": "cert-ecdsa", "Size": 256, "Shared": True, "ValidFor": 30},
        },
        "Users": {name: {"Certificate": certificates[name], "Roles": roles} for name, roles in held.items()},
        "Roles": roles,
        "RecoveryKeys": keys,
    }
    contents = {
        "m.json": manifest,
        "next.json": {**manifest, "Marbles": {"m": {"Package": "a", "MaxActivations": 5}}},
        "svn.json": {"Packages": {"a": {"SecurityVersion": 4}}},
        "down.json": {"Packages": {"a": {"SecurityVersion": 2}}},
        "bad.json": {"Packages": {}, "Marbles": {}},
        "tok.json": {"tok": {"Key": base64.b64encode(b"hello token").decode()}},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "m.yaml").write_text("Packages:\n  p:\n    Debug: true\nMarbles:\n  m:\n    Package: p\n")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    make_manifests(tmp_path)
    made = Stage(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        patch.setenv("TACIT_PLATFORM", str(tmp_path / "none"))
        patch.chdir(tmp_path)
        yield made
        made.end()


def after(stage: Stage, entry: Entry) -> None:
    """Files that a person makes of what was written: one recovery secret for each holder."""
    if "rec.json" not in entry.words or entry.code:
        return
    for name, text in json.loads((stage.folder / "rec.json").read_text())["RecoverySecrets"].items():
        (stage.folder / f"{name}.enc").write_bytes(base64.b64decode(text))


def test_each_command_gives_its_lines(stage: Stage) -> None:
    entries = list(parse_transcript(TRANSCRIPT.read_text()))
    assert len(entries) == COUNT
    for entry in entries:
        for event in entry.events:
            stage.happen(event)
        done = stage.type(entry)
        label = f"{' '.join(entry.words)}\n{done.out}{done.err}"
        assert done.code == entry.code, label
        assert settled(done.out.splitlines(), hashes=True) == settled(entry.out, hashes=True), label
        assert settled([entry.refusal], hashes=True)[0] in settled([done.err], hashes=True)[0], label
        after(stage, entry)
