"""What docs/operate.md says about keys, servers and owners in the wrong hands, typed as it stands there, on a mesh that runs.

Between two commands a test does what a person would: edits the manifest, writes a file, starts a server again.
"""

import base64
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fakes import models
from fakes.programs import make_platform_folder
from fakes.stage import Running, Stage
from tacit.pki import issue_self_signed

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(300)]

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text().partition("## In the wrong hands")[2]
PEOPLE = {"owner": ["keys"], "second": ["update", "raise"], "bob": ["update"], "thief": ["update"], "officer": []}


def commands(heading: str) -> list[str]:
    """The whole commands of one case, in order."""
    text = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0] if heading else PAGE.partition("\n### ")[0]
    return [one for one in re.findall(r"(?:`|^)(tacit [^`\n]*)(?:`|$)", text, re.MULTILINE) if one.count(" ") > 2]


def key_file(key: bytes) -> str:
    return json.dumps({"model_key": {"Key": base64.b64encode(key).decode()}})


class Mesh(Stage):
    """A simulated mesh with a model, a server and five people."""

    recovery: rsa.RSAPrivateKey
    config: Mapping[str, Any]

    def begin(self, updaters: int = 1) -> None:
        self.config = {"UpdateThreshold": updaters}
        source = self.folder / "models" / "my_model"
        source.mkdir(parents=True)
        (source / "model.onnx").write_bytes(models.onnx_model())
        self.types("model", "encrypt", "-k", "model_key", "-m", str(source), "-o", "live.capsule")
        for name in PEOPLE:
            person = issue_self_signed([], common_name=name, now=datetime.now(UTC))
            (self.folder / f"{name}.crt").write_bytes(person.certificate_pem)
            (self.folder / f"{name}.key").write_bytes(person.key_pem)
        self.recovery = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.start_coordinator()
        self.trust()
        self.write("manifest.json", self.manifest_now())
        self.types("manifest", "set", "manifest.json", self.host, "-r", "first-recovery.json")
        self.write("key.json", json.loads(key_file(self.model_key("model_key"))))
        self.types("secret", "set", "key.json", self.host, "--cert", "owner.crt", "--key", "owner.key")

    def write(self, name: str, content: Any) -> None:
        (self.folder / name).write_text(json.dumps(content))

    def model_key(self, name: str) -> bytes:
        return base64.b64decode((self.folder / name).read_bytes())

    def id_of(self, capsule: str) -> str:
        found = re.search(r"ID: ([0-9a-f]{64})", self.types("model", "inspect", capsule))
        assert found is not None
        return found[1]

    def manifest_now(self, capsule: str = "live.capsule", version: int = 1, without: str = "") -> dict[str, Any]:
        made = self.manifest(self.id_of(capsule), "", self.config)
        signed = {key: value for key, value in self.package("marble").items() if key != "UniqueID"}
        made["Packages"] = {"server": signed | {"SecurityVersion": 0}}
        server = made["Marbles"]["server"]
        server["Models"] = ["my_model"]
        argv = server["Parameters"]["Argv"]
        server["Parameters"]["Argv"] = [
            word.replace("=m", "=my_model") if word == "--model_name=m" else word.replace("m.capsule", "live.capsule")
            for word in argv
        ]
        made["Models"] = {"my_model": {**made["Models"]["m"], "MinVersion": version}}
        made["Users"] = {
            name: {
                "Certificate": (self.folder / f"{name}.crt").read_text(),
                "Roles": roles,
                "ReadLog": name == "officer",
            }
            for name, roles in PEOPLE.items()
            if name != without
        }
        made["Roles"] = {
            "keys": {"ResourceType": "Secrets", "ResourceNames": ["model_key"], "Actions": ["WriteSecret"]},
            "update": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]},
            "raise": {"ResourceType": "Packages", "ResourceNames": ["server"], "Actions": ["UpdateSecurityVersion"]},
        }
        made["RecoveryKeys"] = {"r": self.recovery_pem()}
        return made

    def recovery_pem(self) -> str:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.recovery.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def follow(
        self, heading: str, before: Mapping[str, Callable[[], object]], **more: Callable[[], str]
    ) -> dict[str, str]:
        """Type each command of the case; `before` what starts so, a person does something. What each answered."""
        answers = {}
        found = commands(heading)
        assert found, heading
        for command in found:
            for start, act in before.items():
                if command.startswith(start):
                    act()
            words = shlex.split(command.replace("HOST:4433", self.host))[1:]
            words += next((shlex.split(extra()) for verb, extra in more.items() if words[0] == verb), [])
            done = self.try_to(*words)
            # lint and diff end with 1 where they have found something, as grep and diff do not.
            assert done.returncode == 0 or words[1] in ("lint", "diff"), f"{command}\n{done.stdout}{done.stderr}"
            answers[command] = done.stdout + done.stderr
        return answers

    def serve(self) -> Running:
        server = self.start_server()
        server.wait_for('"ready"')
        return server


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    platform = make_platform_folder(tmp_path / "platform")
    made = Mesh(tmp_path, "simulated", lambda _: {}, env={"TACIT_PLATFORM": str(platform)})
    made.package = lambda program: dict(json.loads(made.types("package-info", program, "--output", "json")))
    with made:
        yield made


def test_what_happened_is_kept_before_anything_else(mesh: Mesh) -> None:
    mesh.begin()
    mesh.follow("", {})
    kept = [json.loads(line) for line in (mesh.folder / "incident.jsonl").read_text().splitlines()]
    assert "secrets set" in {one.get("event") for one in kept}


def test_a_leaked_key_opens_nothing_that_is_served_afterwards(mesh: Mesh) -> None:
    mesh.begin()
    old = mesh.serve()
    np.save(mesh.folder / "input.npy", np.ones((2, 4), np.float32))

    def exchange() -> None:
        old.end()
        (mesh.folder / "my_model-2.capsule").replace(mesh.folder / "live.capsule")
        mesh.serve()

    answers = mesh.follow(
        "A model's key",
        {
            "tacit manifest lint": lambda: mesh.write("next.json", mesh.manifest_now("my_model-2.capsule", 2)),
            "tacit secret set": lambda: (mesh.folder / "new_key.json").write_text(key_file(mesh.model_key("new_key"))),
            "tacit predict": exchange,
        },
        predict=lambda: f"--server localhost:{mesh.port}",
    )
    assert "prob" in answers["tacit predict HOST:4433 my_model input.npy"] or "[" in "".join(answers.values())
    leaked = mesh.try_to("model", "decrypt", "-k", "model_key", "-m", "live.capsule", "-o", "/dev/shm/never-there")
    assert leaked.returncode == 1
    assert "another key" in leaked.stderr or "does not open" in leaked.stderr


def test_a_server_with_a_flaw_never_comes_back(mesh: Mesh) -> None:
    mesh.begin()
    mesh.serve().end()
    before = mesh.types("certificate", "intermediate", mesh.host)
    mesh.follow(
        "A server",
        {"tacit manifest update": lambda: mesh.write("raise.json", {"Packages": {"server": {"SecurityVersion": 9}}})},
    )
    refused = mesh.start_server()
    refused.process.wait(60)
    assert "security version" in refused.said.lower() or "SecurityVersion" in refused.said
    assert (mesh.folder / "tensorflow.crt").read_text() not in before


def test_an_owner_whose_key_was_taken_changes_nothing_any_more(mesh: Mesh) -> None:
    mesh.begin(updaters=2)
    mesh.write("kept.json", mesh.manifest_now())
    theirs = mesh.manifest_now()
    theirs["Users"] = {"thief": theirs["Users"]["thief"]}
    mesh.write("theirs.json", theirs)
    stolen = ("--cert", "thief.crt", "--key", "thief.key")
    bob = ("--cert", "bob.crt", "--key", "bob.key")
    mesh.types("manifest", "update", "apply", "theirs.json", mesh.host, *stolen)
    mesh.follow(
        "Who owns the manifest",
        {
            "tacit manifest update apply": lambda: mesh.write("clean.json", mesh.manifest_now(without="thief")),
            "tacit manifest verify": lambda: mesh.types(
                "manifest", "update", "acknowledge", "clean.json", mesh.host, *bob
            ),
        },
    )
    late = mesh.try_to("manifest", "update", "apply", "theirs.json", mesh.host, *stolen)
    assert late.returncode == 1
    assert "thief" in (mesh.folder / "pending.json").read_text()
    assert "thief" not in mesh.types("manifest", "get", mesh.host)


def test_a_recovery_key_that_was_taken_opens_nothing_that_is_written_afterwards(mesh: Mesh) -> None:
    mesh.begin()
    (mesh.folder / "old.pem").write_bytes(
        mesh.recovery.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    mesh.recovery = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    mesh.follow("A recovery key", {"tacit manifest": lambda: mesh.write("next.json", mesh.manifest_now())})
    mesh.running[0].end()
    (mesh.folder / "seal" / "sealed_key").unlink()
    mesh.start_coordinator().wait_for("recovery")
    old = mesh.try_to("recover", "first-recovery.json", mesh.host, "--key", "old.pem")
    assert old.returncode == 1
    (mesh.folder / "new.pem").write_bytes(
        mesh.recovery.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    mesh.types("recover", "recovery.json", mesh.host, "--key", "new.pem")
    assert mesh.types("status", mesh.host).startswith("3: ")
