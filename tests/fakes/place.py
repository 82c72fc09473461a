"""Where commands are typed in tests: a folder, two coordinators that have a manifest already, and the people in it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fakes.command_line import run_main
from fakes.programs import CoordinatorProcess, make_platform_folder
from tacit.client.trust import TrustStore
from tacit.pki import KeyPair, issue_self_signed

SET = """Successfully verified Coordinator, now uploading manifest
Manifest signature: {sha}
Manifest successfully set
"""
HEADLESS = "Warning: skipping quote verification\n"


@dataclass(frozen=True)
class Place:
    """Where the commands run, and the two coordinators that have a manifest already."""

    folder: Path
    attested: str
    unattested: str
    manifest: Path
    platform: Path

    @property
    def trust(self) -> TrustStore:
        return TrustStore(self.folder / "config" / "tacit")

    def user(self, name: str) -> tuple[str, Path, str, Path]:
        return "-c", self.folder / f"{name}.crt", "-k", self.folder / f"{name}.key"


def store_user(folder: Path, name: str) -> KeyPair:
    user = issue_self_signed([], common_name=name, now=datetime.now(UTC))
    (folder / f"{name}.crt").write_bytes(user.certificate_pem)
    (folder / f"{name}.key").write_bytes(user.key_pem)
    return user


def make_manifest(owner: KeyPair) -> dict[str, Any]:
    return {
        "Packages": {"p": {"UniqueID": "ab" * 32}},
        "Marbles": {"m": {"Package": "p"}},
        "Secrets": {
            "token": {"Type": "plain", "UserDefined": True},
            "weights": {"Type": "symmetric-key", "Size": 256, "UserDefined": True},
            "identity": {"Type": "cert-ecdsa", "Size": 256, "UserDefined": True},
            "made": {"Type": "cert-ecdsa", "Size": 256, "Shared": True, "ValidFor": 30},
            "hidden": {"Type": "plain", "UserDefined": True},
        },
        "Users": {"owner": {"Certificate": owner.certificate_pem.decode(), "Roles": ["read", "write"]}},
        "Roles": {
            "read": {
                "ResourceType": "Secrets",
                "ResourceNames": ["token", "weights", "identity", "made"],
                "Actions": ["ReadSecret"],
            },
            "write": {
                "ResourceType": "Secrets",
                "ResourceNames": ["token", "weights", "identity"],
                "Actions": ["WriteSecret"],
            },
        },
    }


def prepare(place: Place) -> None:
    """The attested coordinator is trusted, and each has the manifest, set by the command."""
    said = SET.format(sha=hashlib.sha256(place.manifest.read_bytes()).hexdigest())
    assert run_main("trust", place.attested, "--tee", "simulated").code == 0
    done = run_main("manifest", "set", place.manifest, place.attested)
    assert done.out == said, done.err
    assert run_main("manifest", "set", place.manifest, place.unattested, "-i").out == HEADLESS + said


def make_place(folder: Path) -> Iterator[Place]:
    platform = make_platform_folder(folder / "platform")
    owner = store_user(folder, "owner")
    store_user(folder, "stranger")
    content = make_manifest(owner)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(content, indent=2))
    (folder / "a").mkdir()
    (folder / "u").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        CoordinatorProcess(folder / "a", platform=platform) as attested,
        CoordinatorProcess(folder / "u") as unattested,
    ):
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("TACIT_PLATFORM", str(platform))
        patch.chdir(folder)
        prepared = Place(folder, attested.client, unattested.client, manifest, platform)
        prepare(prepared)
        yield prepared
