"""MarbleRun's verbs against real coordinators, one on a simulated platform and one unattested: their lines, files, codes."""

import base64
import contextlib
import hashlib
import io
import json
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fakes.command_line import Outcome, run_main
from fakes.place import HEADLESS, Place, make_place
from fakes.programs import CoordinatorProcess
from tacit.cli.app import main
from tacit.errors import FileInputError
from tacit.pki import issue_self_signed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from make_place(tmp_path_factory.mktemp("cli"))


def refused(done: Outcome, *parts: str) -> None:
    assert done.code == 1
    for part in parts:
        assert part in done.err


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- status


def test_status_is_marbleruns_line_and_the_tee_goes_to_standard_error(place: Place) -> None:
    done = run_main("status", place.attested)
    assert done.out == "3: Coordinator is running correctly and ready to accept marbles.\n"
    assert "TEE: SIMULATED; epoch of its state: " in done.err  # never "state 4" beside the state 3


def test_status_without_evidence_prints_nothing_more_on_standard_output(place: Place) -> None:
    done = run_main("status", place.unattested, "-i")
    assert done.out == "3: Coordinator is running correctly and ready to accept marbles.\n"
    assert done.err.startswith(HEADLESS)
    assert "UNATTESTED" in done.err


def test_status_for_programs_is_json(place: Place) -> None:
    found = json.loads(run_main("status", place.attested, "--output", "json").out)
    assert found["StatusCode"] == 3
    assert found["State"]["TEE"] == "simulated"
    assert found["State"]["Epoch"] > 0


def test_a_coordinator_that_nobody_spoke_of_is_not_asked(place: Place) -> None:
    refused(run_main("status", place.unattested), f"`tacit trust {place.unattested} --tee ...`")


# ---- manifest


def test_manifest_get_gives_the_bytes_that_were_set(place: Place) -> None:
    done = run_main("manifest", "get", place.attested)
    head = "Successfully verified Coordinator, now requesting manifest\n"
    assert done.out == head + place.manifest.read_text() + "\n"


def test_manifest_get_with_its_signature_goes_to_a_private_file(place: Place) -> None:
    target = place.folder / "got.json"
    done = run_main("manifest", "get", place.unattested, "-i", "-s", "-o", target)
    assert done.out == HEADLESS + "Successfully verified Coordinator, now requesting manifest\n"
    sha = hashlib.sha256(place.manifest.read_bytes()).hexdigest()
    assert target.read_text() == f'{{\n"ManifestSignature": "{sha}",\n"Manifest": {place.manifest.read_text()}}}'
    assert is_private(target)


def test_manifest_verify_takes_a_file_or_its_signature(place: Place) -> None:
    sha = hashlib.sha256(place.manifest.read_bytes()).hexdigest()
    assert run_main("manifest", "verify", place.manifest, place.attested).out == "OK\n"
    assert run_main("manifest", "verify", sha, place.unattested, "-i").out == HEADLESS + "OK\n"


def test_manifest_verify_names_both_signatures(place: Place) -> None:
    sha = hashlib.sha256(place.manifest.read_bytes()).hexdigest()
    done = run_main("manifest", "verify", "0" * 64, place.unattested, "-i")
    refused(done, f'manifest hash does not match local hash: "{sha}" != "{"0" * 64}"')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abcd", "abcd is not a file and of invalid length to be a signature (needs to be 32 bytes)"),
        ("zz" + "0" * 62, "is not a file and not a valid signature (needs to be in hex format)"),
    ],
)
def test_what_is_no_manifest_is_refused_before_anything_is_asked(place: Place, text: str, reason: str) -> None:
    done = run_main("manifest", "verify", text, place.unattested, "-i")
    refused(done, reason)
    assert done.out == ""


def test_manifest_signature_of_yaml_is_that_of_sorted_compact_json(place: Place) -> None:
    text = place.folder / "m.yaml"
    text.write_text("Packages:\n  p:\n    Debug: true\nMarbles:\n  m:\n    Package: p\n")
    expected = hashlib.sha256(b'{"Marbles":{"m":{"Package":"p"}},"Packages":{"p":{"Debug":true}}}').hexdigest()
    assert run_main("manifest", "signature", text).out == expected + "\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [", "line 2"),
        ("when: .inf", "JSON has no word"),
        ("? [a]\n: b", "a key has to be text"),
        ("a: &a [*a]", "aliases written out"),
    ],
)
def test_yaml_that_cannot_be_a_manifest_is_refused_with_its_place(place: Place, content: str, reason: str) -> None:
    path = place.folder / "bad.yaml"
    path.write_text(content + "\n")
    refused(run_main("manifest", "signature", path), reason)


@pytest.mark.parametrize("step", ["a{0}: &a{0} [{1}]", "a{0}: &a{0} {{k: [{1}]}}"], ids=["lists", "maps"])
def test_t44_aliases_that_stand_for_more_than_memory_are_refused(place: Place, step: str) -> None:
    lines = [step.format(0, ",".join("x" * 10)), *(step.format(n, ",".join([f"*a{n - 1}"] * 10)) for n in range(1, 12))]
    path = place.folder / "bomb.yaml"
    path.write_text("\n".join(lines))
    refused(run_main("manifest", "signature", path), "aliases written out")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("hello", "expected a mapping, as JSON or YAML"), ("# c", "expected a mapping"), ("{", "is no JSON: line 1")],
)
def test_what_is_neither_json_nor_yaml_has_no_signature(place: Place, content: str, reason: str) -> None:
    path = place.folder / "odd.json"
    path.write_text(content)
    done = run_main("manifest", "signature", path)
    refused(done, "odd.json", reason)
    assert done.out == ""


@pytest.mark.parametrize(
    ("name", "content", "signed"),
    [
        ("yaml.json", "Packages: {}\n", '{"Packages":{}}'),
        ("manifest", "Packages: {}\n", '{"Packages":{}}'),
        ("json.yaml", '{"Packages": {}}\n', '{"Packages": {}}\n'),
    ],
)
def test_whether_a_manifest_is_json_is_seen_in_it_and_not_in_its_name(
    place: Place, name: str, content: str, signed: str
) -> None:
    path = place.folder / name
    path.write_text(content)
    assert run_main("manifest", "signature", path).out == hashlib.sha256(signed.encode()).hexdigest() + "\n"


@pytest.mark.parametrize("name", ["nofile.json", "huge.json"])
def test_a_manifest_that_cannot_be_read_is_refused_before_anybody_is_asked(place: Place, name: str) -> None:
    with (place.folder / "huge.json").open("wb") as file:
        file.truncate(1 << 30)
    done = run_main("manifest", "set", name, "127.0.0.1:1")
    refused(done, f"{name}")
    assert "127.0.0.1:1" not in done.err
    assert done.out == ""


def test_a_second_manifest_is_refused_in_the_coordinators_words(place: Place) -> None:
    done = run_main("manifest", "set", place.manifest, place.unattested, "-i")
    refused(
        done,
        f"Error: setting manifest: setting manifest: POST https://{place.unattested}/api/v2/manifest: "
        "500 Internal Server Error: error: server is not in expected state",
    )


def test_a_missing_manifest_is_refused_in_marbleruns_words(place: Place) -> None:
    done = run_main("manifest", "set", "nofile.json", place.unattested, "-i")
    refused(done, "Error: open nofile.json: no such file or directory")


@pytest.mark.parametrize(
    ("name", "reason"), [(".", "is a directory"), ("/dev/zero", "not a regular file"), ("a\0b", "null byte")]
)
def test_what_is_no_file_is_refused(place: Place, name: str, reason: str) -> None:
    refused(run_main("manifest", "signature", name), reason)


def test_a_huge_file_is_refused_unread(place: Place) -> None:
    huge = place.folder / "huge.json"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    refused(run_main("manifest", "signature", huge), "1099511627776 bytes")


def test_a_manifest_that_only_a_lenient_reading_accepts_needs_the_flag(place: Place) -> None:
    odd = place.folder / "odd.json"
    odd.write_text('{"packages": {}}')
    refused(run_main("manifest", "set", odd, place.unattested, "-i"), "--lenient")


def test_manifest_check_names_the_defect(place: Place) -> None:
    odd = place.folder / "defect.json"
    odd.write_text('{"Packages": {"p": {"UniqueID": "zz"}}, "Marbles": {}}')
    refused(run_main("manifest", "check", odd), "Packages.p")
    assert run_main("manifest", "check", place.manifest).out.startswith("OK: 1 packages, 1 marbles")


# ---- certificates


@pytest.mark.parametrize(
    ("noun", "name", "count"),
    [
        ("root", "marblerunRootCA.crt", 1),
        ("intermediate", "marblerunIntermediateCA.crt", 1),
        ("chain", "marblerunChainCA.crt", 2),
    ],
)
def test_certificates_go_to_marbleruns_files(place: Place, noun: str, name: str, count: int) -> None:
    first = {"root": "Root certificate", "intermediate": "Intermediate certificate", "chain": "Certificate chain"}[noun]
    assert run_main("certificate", noun, place.attested).out == f"{first} written to {name}\n"
    target = place.folder / name
    assert target.read_text().count("BEGIN CERTIFICATE") == count
    assert is_private(target)
    ssl.create_default_context(cadata=target.read_text())


def test_the_chain_is_intermediate_then_root(place: Place) -> None:
    texts = {}
    for noun in ("root", "intermediate", "chain"):
        run_main("certificate", noun, place.unattested, "-i", "-o", place.folder / f"{noun}.pem")
        texts[noun] = (place.folder / f"{noun}.pem").read_text()
    assert texts["chain"] == texts["intermediate"] + texts["root"]


@pytest.mark.parametrize("target", ["missing/x.crt", "config", "/dev/full/x"])
def test_a_file_that_cannot_be_written_leaves_nothing_behind(place: Place, target: str) -> None:
    before = sorted(place.folder.rglob("*"))
    refused(run_main("certificate", "root", place.unattested, "-i", "-o", target), f"cannot write {target}")
    assert sorted(place.folder.rglob("*")) == before


# ---- secrets


def write(place: Place, content: object) -> Path:
    path = place.folder / "values.json"
    path.write_text(json.dumps(content))
    return path


def test_a_secret_is_set_and_read_as_marblerun_prints_it(place: Place) -> None:
    values = write(place, {"token": {"Key": base64.b64encode(b"hello token").decode()}})
    done = run_main("secret", "set", values, place.attested, *place.user("owner"))
    assert done.out == "Secret successfully set\n"
    done = run_main("secret", "get", "token", place.attested, *place.user("owner"))
    assert (
        done.out == "token:\n\tType:          plain\n\tData:          [104 101 108 108 111 32 116 111 107 101 110]\n\n"
    )


def test_secrets_go_to_a_private_file_without_being_printed(place: Place) -> None:
    key = os.urandom(32)
    values = write(place, {"weights": {"Key": base64.b64encode(key).decode()}})
    said = run_main("secret", "set", values, place.attested, *place.user("owner"))
    target = place.folder / "secrets.json"
    done = run_main("secret", "get", "weights", "made", place.attested, *place.user("owner"), "-o", target)
    assert done.out == f"Saved secrets to: {target}\n"
    assert is_private(target)
    found = json.loads(target.read_text())
    assert base64.b64decode(found["weights"]["Private"]) == key
    assert found["made"]["ValidFor"] == 30
    for text in (said.out, said.err, done.out, done.err):
        assert base64.b64encode(key).decode() not in text
        assert str(key[0]) + " " + str(key[1]) not in text


def test_a_symmetric_key_and_a_certificate_have_their_rows(place: Place) -> None:
    write(place, {})
    done = run_main("secret", "get", "made", place.attested, *place.user("owner"))
    rows = [line.split(":")[0].strip() for line in done.out.splitlines() if line.startswith("\t")]
    assert rows == ["Type", "UserDefined", "Size", "Valid For", "Certificate", "Public Key", "Private Key"]


def test_a_certificate_comes_from_a_pem_file(place: Place) -> None:
    pair = issue_self_signed(["localhost"], common_name="identity", now=datetime.now(UTC))
    key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = place.folder / "identity.pem"
    pem.write_bytes(key + pair.certificate_pem)
    done = run_main("secret", "set", pem, place.attested, "--from-pem", "identity", *place.user("owner"))
    assert done.out == "Secret successfully set\n"
    assert "CN=identity" in run_main("secret", "get", "identity", place.attested, *place.user("owner")).out


def break_pem(text: bytes) -> bytes:
    return text.replace(b"MI", b"!!", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _pem: b"", "no PEM block"),
        (break_pem, "its base64 cannot be read"),
        (lambda pem: pem.replace(b"CERTIFICATE", b"PUBLIC KEY"), "unrecognized PEM type for secret: PUBLIC KEY"),
    ],
)
def test_a_pem_file_that_is_none_is_refused(place: Place, change: Callable[[bytes], bytes], reason: str) -> None:
    pem = place.folder / "bad.pem"
    pem.write_bytes(change((place.folder / "owner.crt").read_bytes()))
    refused(run_main("secret", "set", pem, place.attested, "--from-pem", "identity", *place.user("owner")), reason)


def test_a_certificate_for_a_key_is_refused_by_the_coordinator(place: Place) -> None:
    done = run_main(
        "secret", "set", place.folder / "owner.crt", place.attested, "--from-pem", "weights", *place.user("owner")
    )
    refused(done, "setting secrets: POST https://", "declared size and actual size don't match: weights")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "c2VjcmV0"}', '{"token": {"key": "c2VjcmV0"}}'])
def test_a_file_of_secrets_that_is_none_is_refused_without_its_values(place: Place, content: str) -> None:
    path = place.folder / "bad.json"
    path.write_text(content)
    done = run_main("secret", "set", path, place.attested, *place.user("owner"))
    refused(done, 'expected {"NAME": {"Key": "BASE64"}}')
    assert "c2VjcmV0" not in done.err


def test_a_secret_that_the_role_does_not_name_is_refused(place: Place) -> None:
    done = run_main("secret", "get", "hidden", place.attested, *place.user("owner"))
    refused(
        done,
        f"retrieving secrets: retrieving secrets: GET https://{place.attested}/api/v2/secrets?s=hidden: "
        "500 Internal Server Error: error: user owner is not allowed to read one or more secrets of: [hidden]",
    )


def test_a_strangers_certificate_is_refused(place: Place) -> None:
    done = run_main("secret", "get", "token", place.attested, *place.user("stranger"))
    refused(
        done, "authorizing user: unauthorized user: client certificate did not match any MarbleRun users", "?s=token"
    )


def test_a_key_of_another_certificate_is_refused(place: Place) -> None:
    words = "-c", place.folder / "owner.crt", "-k", place.folder / "stranger.key"
    refused(run_main("secret", "get", "token", place.attested, *words), "does not belong to the certificate")


def test_a_certificate_that_is_none_is_refused(place: Place) -> None:
    words = "-c", place.manifest, "-k", place.folder / "owner.key"
    refused(run_main("secret", "get", "token", place.attested, *words), "certificate")


@pytest.mark.parametrize("given", [(), ("-c", "owner.crt"), ("-k", "owner.key")])
def test_certificate_and_key_are_both_needed(place: Place, given: tuple[str, ...]) -> None:
    refused(run_main("secret", "get", "token", place.attested, *given), "Missing option")


def test_a_secret_without_a_coordinator_is_refused(place: Place) -> None:
    refused(run_main("secret", "get", place.attested, *place.user("owner")), "requires at least 2 arg(s)")


# ---- trust


def test_t68_nothing_that_insecure_showed_is_remembered(place: Place) -> None:
    before = place.trust.path.read_bytes()
    sha = hashlib.sha256(place.manifest.read_bytes()).hexdigest()
    for address in (place.unattested, place.attested):
        run_main("status", address, "-i")
        run_main("certificate", "chain", address, "-i")
        run_main("manifest", "get", address, "-i")
        run_main("manifest", "verify", sha, address, "-i")
    assert place.trust.path.read_bytes() == before
    assert place.unattested not in place.trust.load_hosts()


def test_t68_insecure_is_said_each_time(place: Place) -> None:
    assert run_main("certificate", "root", place.attested, "-i").out.startswith(HEADLESS)
    assert run_main("status", place.attested, "-i").err.startswith(HEADLESS)


def test_a_pinned_manifest_is_expected_by_every_later_command(place: Place) -> None:
    expected = place.trust.load_expectation(place.attested).manifest_fingerprint
    assert expected == hashlib.sha256(place.manifest.read_bytes()).digest()
    place.trust.pin_manifest(place.attested, b"\1" * 32)
    refused(run_main("status", place.attested), "manifest")
    place.trust.pin_manifest(place.attested, expected)


def test_t15_a_signed_manifest_is_expected_by_every_later_command(place: Place, tmp_path: Path) -> None:
    known = place.trust.load_expectation(place.attested)
    officer = issue_self_signed(["officer"], common_name="officer", now=datetime.now(UTC))
    key, folder = tmp_path / "officer.key", tmp_path / "signatures"
    key.write_bytes(officer.key_pem)
    folder.mkdir()
    signed = replace(known, manifest_fingerprint=None, signers=(officer.public_der,), signatures=str(folder))
    place.trust.store_expectation(place.attested, signed)
    try:
        refused(run_main("status", place.attested), "no trusted signer stands", "tacit manifest sign")
        # What a person reads before they sign it is shown all the same.
        assert run_main("manifest", "get", place.attested).code == 0
        assert run_main("manifest", "sign", place.manifest, "--key", key, "-o", folder).code == 0
        assert run_main("status", place.attested).out.startswith("3: ")
    finally:
        place.trust.store_expectation(place.attested, known)


def test_an_unattested_coordinator_is_trusted_only_by_that_name(place: Place) -> None:
    run_main("trust", place.unattested, "--tee", "simulated")
    refused(run_main("status", place.unattested), "evidence")
    done = run_main("trust", place.unattested, "--tee", "unattested")
    assert "UNATTESTED: no evidence will be asked for" in done.out
    assert run_main("status", place.unattested).out.startswith("3: ")
    assert run_main("trust", place.unattested, "--forget").code == 0


def test_another_program_is_refused_with_the_way_out(place: Place) -> None:
    known = place.trust.load_expectation(place.attested)
    run_main("trust", place.attested, "--tee", "simulated", "--unique-id", "ab" * 32)
    refused(run_main("status", place.attested), "measurement", f"`tacit trust {place.attested} --tee ...` again")
    place.trust.store_expectation(place.attested, known)


# ---- recovery data


@pytest.fixture
def recoverable(tmp_path: Path) -> Path:
    """A manifest with a recovery key."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import PublicFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    manifest = {"Packages": {"p": {"Debug": True}}, "Marbles": {"m": {"Package": "p"}}, "RecoveryKeys": {"r": public}}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    return tmp_path / "m.json"


def test_recovery_secrets_go_to_a_private_file(recoverable: Path, tmp_path: Path) -> None:
    target = tmp_path / "recovery.json"
    with CoordinatorProcess(tmp_path) as coordinator:
        done = run_main("manifest", "set", recoverable, coordinator.client, "-i", "-r", target)
    assert done.code == 0, done.err
    assert done.out.endswith(f"Manifest successfully set\nRecovery data saved to: {target}\n")
    assert is_private(target)
    assert list(json.loads(target.read_text())["RecoverySecrets"]) == ["r"]


class _Left(io.StringIO):
    """Standard output whose reader leaves before the last lines."""

    def write(self, text: str) -> int:
        if "successfully set" in text:
            raise BrokenPipeError
        return super().write(text)

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.parametrize("named", [True, False])
def test_recovery_secrets_are_not_lost_with_whoever_reads_the_output(
    recoverable: Path, tmp_path: Path, named: bool
) -> None:
    target, err = tmp_path / "recovery.json", io.StringIO()
    with (
        CoordinatorProcess(tmp_path) as coordinator,
        contextlib.redirect_stdout(_Left()),
        contextlib.redirect_stderr(err),
    ):
        words = ["manifest", "set", str(recoverable), coordinator.client, "-i"]
        assert main([*words, "-r", str(target)] if named else words) == 1
    assert "RecoverySecrets" in (target.read_text() if named else err.getvalue())
    assert ("RecoverySecrets" in err.getvalue()) is not named


def test_recovery_secrets_are_kept_where_the_manifest_cannot_be_pinned(
    recoverable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FileInputError("no space left on the device")

    monkeypatch.setattr("tacit.cli.manifest.commands._remember", full)
    with CoordinatorProcess(tmp_path) as coordinator:
        done = run_main("manifest", "set", recoverable, coordinator.client, "-i")
    refused(done, "no space left on the device")
    assert "RecoverySecrets" in done.out


def test_a_file_for_recovery_secrets_that_there_are_none_of_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"Packages": {"p": {"Debug": true}}, "Marbles": {"m": {"Package": "p"}}}')
    with CoordinatorProcess(tmp_path) as coordinator:
        done = run_main("manifest", "set", tmp_path / "m.json", coordinator.client, "-i", "-r", tmp_path / "rec.json")
    assert done.code == 0
    assert "rec.json was not written: the manifest has no RecoveryKeys" in done.err
    assert not (tmp_path / "rec.json").exists()
