"""Updates and recovery on an attested coordinator: the whole way, by the verbs that a person types."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fakes.command_line import Outcome, run_main
from fakes.programs import CoordinatorProcess, make_platform_folder
from tacit.cli.manifest.recovery import keep_recovery
from tacit.client.trust import TrustStore
from tacit.errors import FileInputError
from tacit.pki import issue_self_signed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # keys of RSA are made on the way, and the machine may be busy


class Deployment:
    """An attested coordinator with two people who may change its manifest, and one recovery key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = make_platform_folder(folder / "platform")
        self.running = CoordinatorProcess(folder, platform=self.platform)
        self.manifest = self._make_manifest()
        self.write("m.json", self.manifest)

    @property
    def host(self) -> str:
        return self.running.client

    def write(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(content))
        return path

    def user(self, name: str) -> tuple[str, Path, str, Path]:
        return "-c", self.folder / f"{name}.crt", "-k", self.folder / f"{name}.key"

    def lose_the_sealing_key(self) -> None:
        """As on another machine: the address stays, the key is gone."""
        address = self.host
        self.running.end()
        (self.running.seal_folder / "sealed_key").unlink()
        environ = {"EDG_COORDINATOR_CLIENT_ADDR": address}
        self.running = CoordinatorProcess(self.folder, platform=self.platform, environ=environ)

    def _make_manifest(self) -> dict[str, Any]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "rec.key").write_bytes(pem)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        users = {}
        for name in ("alice", "bob"):
            user = issue_self_signed([], common_name=name, now=datetime.now(UTC))
            (self.folder / f"{name}.crt").write_bytes(user.certificate_pem)
            (self.folder / f"{name}.key").write_bytes(user.key_pem)
            users[name] = {"Certificate": user.certificate_pem.decode(), "Roles": ["updater"]}
        return {
            "Packages": {"p": {"UniqueID": "ab" * 32}},
            "Marbles": {"m": {"Package": "p", "MaxActivations": 1}},
            "Users": users,
            "Roles": {"updater": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]}},
            "RecoveryKeys": {"rec": public},
        }


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        patch.setenv("TACIT_PLATFORM", str(made.platform))
        patch.chdir(tmp_path)
        assert run_main("trust", made.host, "--tee", "simulated").code == 0
        done = run_main("manifest", "set", "m.json", made.host, "-r", "recovery.json")
        assert done.code == 0, done.err
        assert run_main("status", made.host).code == 0
        yield made
        made.running.kill()


def refused(done: Outcome, *parts: str) -> None:
    assert done.code == 1
    for part in parts:
        assert part in done.err


def test_an_update_by_two_users_is_followed_by_what_is_pinned(deployment: Deployment) -> None:
    host = deployment.host
    following = {**deployment.manifest, "Marbles": {"m": {"Package": "p", "MaxActivations": 2}}}
    deployment.write("next.json", following)
    done = run_main("manifest", "update", "apply", "next.json", host, *deployment.user("alice"))
    assert done.lines[0] == "Update manifest submitted successfully."
    refused(run_main("manifest", "update", "acknowledge", "m.json", host, *deployment.user("bob")), "does not match")
    waiting = run_main("manifest", "update", "get", host, "--format", "json")
    assert json.loads(waiting.out)["MissingUsers"] == ["bob"]
    assert json.loads(json.loads(waiting.out)["Manifest"]) == following
    done = run_main("manifest", "update", "acknowledge", "next.json", host, *deployment.user("bob"))
    assert done.lines[-1] == "All users have acknowledged the update manifest. Update successfully applied"
    # Bob gave the new manifest himself, so his commands expect it from here on.
    assert run_main("certificate", "root", host).code == 0
    shown = run_main("manifest", "get", host, "-u")
    assert '"MaxActivations": 2' in shown.out
    log = json.loads(run_main("manifest", "log", host, "--format", "json").out)["UpdateLog"]
    assert [one["update"] for one in log][-1] == "Complete Manifest updated"


def test_an_update_that_is_pending_can_be_cancelled(deployment: Deployment) -> None:
    host = deployment.host
    deployment.write("next.json", {**deployment.manifest, "Config": {"UpdateThreshold": 1}})
    run_main("manifest", "update", "apply", "next.json", host, *deployment.user("alice"))
    done = run_main("manifest", "update", "cancel", host, *deployment.user("bob"))
    assert (done.code, done.out) == (0, "Cancellation successful\n"), done.err
    refused(run_main("manifest", "update", "get", host), "404 Not Found: error: no update in progress")


def test_recovery_secrets_of_an_update_are_saved(deployment: Deployment) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    deployment.write("next.json", {**deployment.manifest, "RecoveryKeys": {"other": public}})
    host = deployment.host
    run_main("manifest", "update", "apply", "next.json", host, *deployment.user("alice"))
    words = ("manifest", "update", "acknowledge", "next.json", host, *deployment.user("bob"))
    done = run_main(*words, "-r", "new.json", "--output", "json")
    assert json.loads(done.out) == {"MissingAcknowledgments": 0, "MissingUsers": []}
    assert list(json.loads((deployment.folder / "new.json").read_text())["RecoverySecrets"]) == ["other"]


@pytest.mark.parametrize("verb", ["set", "update apply", "update acknowledge"])
def test_a_file_for_recovery_secrets_is_tried_before_they_are_asked_for(deployment: Deployment, verb: str) -> None:
    user = () if verb == "set" else deployment.user("alice")
    done = run_main("manifest", *verb.split(), "m.json", deployment.host, *user, "-r", "missing/new.json")
    refused(done, "Error: cannot write missing/new.json: No such file or directory; name another file with -r")
    assert done.out == ""
    assert not list(deployment.folder.glob(".*.tmp"))


def test_recovery_secrets_are_printed_where_their_file_cannot_be_written_after_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileInputError, match="with -r"):
        keep_recovery({"other": b"secret"}, tmp_path / "gone" / "new.json").tell_after([])
    assert capsys.readouterr().out == '{"RecoverySecrets":{"other":"c2VjcmV0"}}\n'


def test_a_coordinator_that_lost_its_sealing_key_is_recovered(deployment: Deployment) -> None:
    deployment.lose_the_sealing_key()
    host = deployment.host
    assert run_main("status", host).out.startswith("1: Coordinator is in recovery mode.")
    refused(run_main("certificate", "root", host), "is in recovery mode and shows a temporary root")
    done = run_main("recover", "recovery.json", host, "--key", "rec.key")
    assert (done.code, done.out) == (0, "Recovery successful.\n"), done.err
    assert run_main("status", host).out.startswith("3: ")
    assert run_main("manifest", "verify", "m.json", host).out == "OK\n"


def test_t68_a_temporary_root_is_never_remembered(deployment: Deployment) -> None:
    store = TrustStore(deployment.folder / "config" / "tacit")
    before = store.load_expectation(deployment.host).root_der
    assert before is not None
    deployment.lose_the_sealing_key()
    run_main("status", deployment.host)
    assert store.load_expectation(deployment.host).root_der == before
    # Nor by one who meets the coordinator in this mode for the first time.
    run_main("trust", deployment.host, "--forget")
    run_main("trust", deployment.host, "--tee", "simulated", "--manifest", "m.json")
    refused(run_main("certificate", "root", deployment.host), "is in recovery mode and holds no manifest")
    assert run_main("status", deployment.host).out.startswith("1: ")
    assert store.load_expectation(deployment.host).root_der is None


def test_a_coordinator_is_recovered_by_a_key_that_stays_elsewhere(deployment: Deployment) -> None:
    deployment.lose_the_sealing_key()
    host, signed = deployment.host, "recover-with-signature"
    secret = json.loads((deployment.folder / "recovery.json").read_text())["RecoverySecrets"]["rec"]
    (deployment.folder / "secret").write_bytes(base64.b64decode(secret))
    found = json.loads(run_main(signed, "public-key", host, "--format", "json", "-o", "eph.pem").out)
    assert found["PEM"] == (deployment.folder / "eph.pem").read_text()
    assert run_main(signed, "sign-secret", "secret", "-k", "rec.key", "-o", "sig").out == ""
    words = (signed, "encrypt-secret", "secret", "-k", "rec.key", "--coordinator-pub-key", "eph.pem", "-o", "enc")
    assert run_main(*words).out == ""
    refused(run_main(*words), "open enc: file exists")
    done = run_main(signed, "send", "enc", host, "--signature", "sig", "--output", "json")
    assert json.loads(done.out) == {"Remaining": 0, "Message": "Recovery successful."}
    refused(
        run_main(signed, "enc", host, "-s", "sig"),
        "sending recovery request: POST https://",
        "server is not in expected state",
    )


@pytest.mark.parametrize(
    ("secret", "key", "reason"),
    [
        (b"", "rec.key", "the file is empty"),
        (b"x" * 384, "rec.key", "crypto/rsa: decryption error"),
        (b"{}", "rec.key", "the recovery data cannot be read"),
        (b'{"RecoverySecrets": {}}', "rec.key", "the file is empty"),
        (b"x" * 32, "ec.key", "is an RSA key"),
        (b"x" * 32, "m.json", "no PEM private key"),
        (b"x" * 32, "none.key", "open none.key: no such file or directory"),
    ],
)
def test_what_is_no_recovery_secret_or_key_is_one_line(tmp_path: Path, secret: bytes, key: str, reason: str) -> None:
    ec_key = ec.generate_private_key(ec.SECP256R1())
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for name, made in (("ec.key", ec_key), ("rec.key", rsa_key)):
        (tmp_path / name).write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "m.json").write_text("{}")
    (tmp_path / "secret").write_bytes(secret)
    words = ("sign-secret", tmp_path / "secret", "-k", tmp_path / key, "-o", tmp_path / "sig")
    refused(run_main("recover-with-signature", *words), reason.replace("open ", f"open {tmp_path}/"))
    assert not (tmp_path / "sig").exists()


def test_a_secret_that_is_still_encrypted_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 384)
    words = (
        "encrypt-secret",
        tmp_path / "secret",
        "--coordinator-pub-key",
        tmp_path / "secret",
        "-o",
        tmp_path / "out",
    )
    refused(run_main("recover-with-signature", *words), "still encrypted", "--key")


def test_what_is_no_key_of_a_coordinator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 32)
    words = (
        "encrypt-secret",
        tmp_path / "secret",
        "--coordinator-pub-key",
        tmp_path / "secret",
        "-o",
        tmp_path / "out",
    )
    refused(run_main("recover-with-signature", *words), "no PEM public key found")
