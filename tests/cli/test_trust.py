"""What is told to `tacit trust` is kept, listed and forgotten; what could mean anything is refused, and changes nothing."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.command_line import run_main
from fakes.manifests import MINIMAL, raw
from fakes.programs import make_platform_folder
from fakes.tee import NOW
from tacit.cli.trust.era import ThisOnce
from tacit.cli.trust.flags import Flags
from tacit.client.connect import MANIFEST_LABEL
from tacit.client.trust import Expectation, TrustStore
from tacit.pki import issue_self_signed
from tacit.pki.detached import parse_signatures, verify_detached

ID = "ab" * 32
HOST = "coordinator.example.org:4433"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_platform_folder(tmp_path_factory.mktemp("trust") / "platform")


@pytest.fixture
def store(platform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrustStore]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("TACIT_PLATFORM", str(platform))
    return TrustStore(tmp_path / "tacit")


def test_without_a_host_all_that_is_known_is_listed(store: TrustStore) -> None:
    run_main("trust", HOST, "--tee", "simulated", "--unique-id", ID, "--manifest", "cd" * 32)
    run_main("trust", "other", "--tee", "unattested")
    assert run_main("trust").out.splitlines() == [
        f"{HOST}: TEE simulated",
        f"\tUniqueID: {ID}",
        f"\tManifest: {'cd' * 32}",
        "other:4433: TEE unattested",
    ]


def test_nothing_known_is_said_with_the_way(store: TrustStore) -> None:
    done = run_main("trust")
    assert (done.code, done.out) == (0, "")
    assert "tacit trust HOST:PORT --tee" in done.err


def test_the_coordinator_of_this_installation_is_the_default(store: TrustStore) -> None:
    run_main("trust", HOST, "--tee", "simulated")
    package = store.load_expectation(HOST).package
    found = json.loads(run_main("package-info", "coordinator", "--output", "json").out)
    assert package is not None
    assert package.unique_id is not None
    assert package.unique_id.hex() == found["UniqueID"]


def test_a_manifest_is_pinned_by_its_file(store: TrustStore, tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_bytes(raw(MINIMAL))
    run_main("trust", HOST, "--tee", "unattested", "--manifest", file)
    assert store.load_expectation(HOST).manifest_fingerprint == hashlib.sha256(raw(MINIMAL)).digest()


def test_what_was_told_is_forgotten(store: TrustStore) -> None:
    run_main("trust", HOST, "--tee", "unattested")
    assert run_main("trust", HOST, "--forget").out.startswith(f"Forgot {HOST}")
    assert HOST not in store.load_hosts()
    assert "nothing to forget" in run_main("trust", HOST, "--forget").err


def test_forgetting_and_telling_anew_is_one_command(store: TrustStore) -> None:
    run_main("trust", HOST, "--tee", "unattested")
    assert run_main("trust", HOST, "--forget", "--tee", "simulated").code == 0
    assert store.load_expectation(HOST).tee == "simulated"


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ([], 2, "which kind of TEE"),
        (["--tee", "SGX"], 1, "'SGX' is no kind of TEE"),
        (["--tee", "sgx"], 2, "--tee sgx needs --unique-id"),
        (["--tee", "tdx"], 2, "--tee tdx needs --package FILE"),
        (["--tee", "snp", "--unique-id", ID], 1, "needs MEASUREMENT"),
        (["--tee", "simulated-arm"], 1, "expected one of"),
        (["--tee", "sgx", "--unique-id", ID, "--package", "p.json"], 2, "leave out the single ids"),
        (["--tee", "sgx", "--unique-id", ID, "--collateral", "http://a b"], 1, "no address"),
        (["--tee", "sgx", "--unique-id", ID, "--collateral", "/nowhere"], 1, "bundle of collateral cannot be read"),
        (["--tee", "simulated", "--collateral", "https://pccs:8081"], 2, "--collateral is for real TEEs"),
        (["--tee", "unattested", "--unique-id", ID], 2, "leave them out"),
        (["--tee", "simulated", "--unique-id", "zz"], 1, "no hexadecimal text"),
        (["--tee", "simulated", "--unique-id", "abcd"], 1, "has 2 bytes, expected 32"),
        (["--tee", "simulated", "--signer-id", ID], 1, "ProductID"),
        (["--tee", "simulated", "--platform", "/nowhere"], 1, "no simulated platform in /nowhere"),
        (["--tee", "simulated", "--manifest", "nofile"], 1, "nofile is not a file"),
        (["--tee", "unattested", "--forget", "--manifest", "nofile"], 1, "nofile is not a file"),
    ],
)
def test_what_could_mean_anything_is_refused_and_changes_nothing(
    store: TrustStore, words: list[str], code: int, reason: str
) -> None:
    run_main("trust", HOST, "--tee", "unattested")
    before = store.path.read_bytes()
    done = run_main("trust", HOST, *words)
    assert (done.code, done.out) == (code, "")
    assert reason in done.err
    assert store.path.read_bytes() == before


def test_a_package_says_all_that_is_expected_and_an_address_where_collateral_is(
    store: TrustStore, tmp_path: Path
) -> None:
    package = {"TEE": "tdx", "Measurements": {"MRTD": "31" * 48}, "AcceptedWeaknesses": ["sept-ve-off"]}
    (tmp_path / "package.json").write_text(json.dumps(package))
    words = ("--tee", "tdx", "--package", tmp_path / "package.json")
    assert run_main("trust", HOST, *words, "--collateral", "https://pccs.example.org:8081").code == 0
    known = store.load_expectation(HOST)
    assert known.package is not None
    assert known.package.measurements == {"MRTD": b"\x31" * 48}
    assert known.package.accepted_weaknesses == ("sept-ve-off",)
    assert known.collateral == "https://pccs.example.org:8081"
    assert "Collateral: https://pccs.example.org:8081" in run_main("trust").out
    other = run_main("trust", HOST, "--tee", "snp", "--package", tmp_path / "package.json")
    assert (other.code, store.load_expectation(HOST)) == (2, known)
    assert "package.json is for TEE tdx, and --tee says snp" in other.err


@pytest.mark.parametrize(
    "package",
    [
        {"TEE": "sgx", "UniqueID": ID, "SignerID": ID, "ProductID": 1, "SecurityVersion": 1},
        {"TEE": "tdx", "Measurements": {"MRTD": "31" * 48}},
        {"TEE": "snp", "Measurements": {"MEASUREMENT": "31" * 48}},
    ],
    ids=lambda package: package["TEE"],
)
def test_the_kind_of_tee_is_that_of_the_package(store: TrustStore, tmp_path: Path, package: dict[str, object]) -> None:
    file = tmp_path / "coordinator.json"
    file.write_text(json.dumps(package))
    done = run_main("trust", HOST, "--package", file)
    assert (done.code, done.out) == (0, f"Expecting a coordinator in TEE {package['TEE']} at {HOST}\n")
    by_package = store.load_expectation(HOST)
    run_main("trust", HOST, "--tee", str(package["TEE"]), "--package", file)
    assert store.load_expectation(HOST) == by_package


def test_what_package_info_prints_is_all_that_has_to_be_told(store: TrustStore, tmp_path: Path) -> None:
    file = tmp_path / "coordinator.json"
    file.write_text(run_main("package-info", "coordinator", "--output", "json").out)
    done = run_main("trust", HOST, "--package", file)
    assert (done.code, done.out.splitlines()[1:]) == (0, ["SIMULATED: this proves nothing about a real machine."])
    assert store.load_expectation(HOST).tee == "simulated"


@pytest.mark.parametrize(
    ("package", "words", "code", "reason"),
    [
        ({"UniqueID": ID}, [], 2, "which kind of TEE? Give it by name"),
        ({"UniqueID": ID}, ["--tee", "tdx"], 2, "is for TEE sgx, and --tee says tdx"),
        ({"TEE": "sgx", "UniqueID": ID}, ["--tee", "unattested"], 2, "is for TEE sgx, and --tee says unattested"),
        ({"TEE": "sgx", "UniqueID": ID}, ["--unique-id", ID], 2, "leave out the single ids"),
        ({"TEE": "sgx", "UniqueID": ID}, ["--forget"], 2, "so --package would mean nothing"),
        ({"TEE": "unattested", "UniqueID": ID}, [], 2, "--tee unattested asks for no evidence"),
        ({"TEE": "SGX", "UniqueID": ID}, [], 1, "'SGX' is no kind of TEE"),
    ],
)
def test_a_package_that_leaves_doubt_is_refused_and_changes_nothing(
    store: TrustStore, tmp_path: Path, package: dict[str, str], words: list[str], code: int, reason: str
) -> None:
    run_main("trust", HOST, "--tee", "sgx", "--unique-id", "cd" * 32)
    before = store.path.read_bytes()
    file = tmp_path / "coordinator.json"
    file.write_text(json.dumps(package))
    done = run_main("trust", HOST, "--package", file, *words)
    assert (done.code, done.out) == (code, "")
    assert reason in done.err
    assert store.path.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("--unique-id", ID),
        ("--security-version", "0"),
        ("--collateral", "https://pccs:8081"),
        ("--key-bound",),
        ("--platform", "folder"),
        ("--manifest", "cd" * 32),
        ("--signer", "officer.pem"),
    ],
    ids=lambda words: words[0],
)
def test_nothing_is_told_beside_forget_without_a_kind(store: TrustStore, words: tuple[str, ...]) -> None:
    run_main("trust", HOST, "--tee", "unattested")
    done = run_main("trust", HOST, "--forget", *words)
    assert (done.code, done.out) == (2, "")
    assert f"--forget drops what was told, so {words[0]} would mean nothing" in done.err
    assert HOST in store.load_hosts()
    assert run_main("trust", *words).code == 2


def test_t06_evidence_bound_to_a_key_alone_has_to_be_asked_for(store: TrustStore) -> None:
    run_main("trust", HOST, "--tee", "sgx", "--unique-id", ID)
    assert not store.load_expectation(HOST).key_bound
    assert json.loads(run_main("trust", "--output", "json").out)[HOST]["KeyBound"] is False
    done = run_main("trust", HOST, "--tee", "sgx", "--unique-id", ID, "--key-bound")
    assert "KEY-BOUND: whoever has its TLS key passes for it" in done.out
    assert store.load_expectation(HOST).key_bound
    assert "Key-bound" in run_main("trust").out


def test_an_option_without_a_host_is_refused(store: TrustStore) -> None:
    assert run_main("trust", "--forget").code == 2


def test_a_platform_travels_and_is_never_overwritten(platform: Path, store: TrustStore, tmp_path: Path) -> None:
    file = tmp_path / "platform.json"
    assert run_main("platform", "export", "--public", file).code == 0
    assert run_main("platform", "import", file, "--platform", tmp_path / "copy").code == 0
    assert "already holds" in run_main("platform", "init").err
    file.write_text("{}")
    assert run_main("platform", "import", file, "--platform", tmp_path / "other").code == 1
    assert not (tmp_path / "other" / "platform.json").exists()


def test_an_export_replaces_no_file_unless_that_is_said(platform: Path, store: TrustStore, tmp_path: Path) -> None:
    file = tmp_path / "platform.json"
    file.write_text("the keys of another platform")
    done = run_main("platform", "export", file)
    assert (done.code, file.read_text()) == (1, "the keys of another platform")
    assert "--force replaces it" in done.err
    assert run_main("platform", "export", file, "--force").code == 0
    assert file.read_bytes() == (platform / "platform.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"), [("", "is empty"), ("garbage", "no manifest"), ("[1]", "no manifest"), ("{}", "no manifest")]
)
def test_t14_only_a_manifest_is_pinned(store: TrustStore, tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "m.json"
    file.write_text(content)
    done = run_main("trust", "localhost:4433", "--tee", "simulated", "--manifest", file)
    assert done.code == 1
    assert reason in done.err
    assert "localhost:4433" not in store.load_hosts()


def test_an_export_without_a_name_says_so(platform: Path, store: TrustStore) -> None:
    assert "Error: . cannot be written: Is a directory" in run_main("platform", "export", "").err


def test_another_platform_is_replaced_only_when_that_is_said(platform: Path, store: TrustStore, tmp_path: Path) -> None:
    file, other = tmp_path / "platform.json", tmp_path / "other"
    assert run_main("platform", "export", file).code == 0
    assert run_main("platform", "init", "--platform", other).code == 0
    refused = run_main("platform", "import", file, "--platform", other)
    assert refused.code == 1
    assert "--replace" in refused.err
    assert run_main("platform", "import", file, "--platform", other, "--replace").code == 0
    assert (other / "platform.json").read_bytes() == (platform / "platform.json").read_bytes()


def test_package_info_prints_what_a_manifest_needs(store: TrustStore) -> None:
    rows = dict(line.split(":", 1) for line in run_main("package-info").out.splitlines())
    values = json.loads(run_main("package-info", "--output", "json").out)
    assert list(rows) == list(values) == ["TEE", "UniqueID", "SignerID", "ProductID", "SecurityVersion"]
    assert [rows[name].strip() for name in rows] == [str(value) for value in values.values()]


def test_t15_signers_of_manifests_are_told_listed_and_sign(store: TrustStore, tmp_path: Path) -> None:
    officer = issue_self_signed(["officer"], common_name="officer", now=NOW)
    key, certificate, folder = tmp_path / "key.pem", tmp_path / "officer.pem", tmp_path / "signatures"
    key.write_bytes(officer.key_pem)
    certificate.write_bytes(officer.certificate_pem)
    folder.mkdir()
    told = ("trust", HOST, "--tee", "simulated", "--signer", str(certificate), "--signatures", str(folder))
    assert run_main(*told).code == 0
    assert store.load_expectation(HOST).signers == (officer.public_der,)
    digest = hashlib.sha256(officer.public_der).hexdigest()
    assert f"\tManifest: signed by {digest}, in {folder}" in run_main("trust").out.splitlines()
    assert json.loads(run_main("trust", "--output", "json").out)[HOST]["ManifestSigners"] == [digest]
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(raw(MINIMAL))
    other = issue_self_signed(["other"], common_name="other", now=NOW)
    (tmp_path / "other.pem").write_bytes(other.key_pem)
    for signer, file_of_key, count in ((officer, key, 1), (other, tmp_path / "other.pem", 2), (officer, key, 2)):
        assert run_main("manifest", "sign", str(manifest), "--key", str(file_of_key), "-o", str(folder)).code == 0
        (file,) = folder.iterdir()
        assert file.name == f"{hashlib.sha256(raw(MINIMAL)).hexdigest()}.sig"
        given = parse_signatures(file.read_bytes())
        assert len(given) == count
        assert verify_detached(MANIFEST_LABEL, raw(MINIMAL), given[-1:], [signer.public_der]) == signer.public_der


def test_signatures_are_for_everybody_who_could_read_them_and_a_folder_is_made(
    store: TrustStore, tmp_path: Path
) -> None:
    officer = issue_self_signed(["officer"], common_name="officer", now=NOW)
    key, manifest, folder = tmp_path / "key.pem", tmp_path / "manifest.json", tmp_path / "new"
    key.write_bytes(officer.key_pem)
    manifest.write_bytes(raw(MINIMAL))
    assert run_main("manifest", "sign", str(manifest), "--key", str(key), "-o", f"{folder}/").code == 0
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o640)
    assert run_main("manifest", "sign", str(manifest), "--key", str(key), "-o", str(file)).code == 0
    assert file.stat().st_mode & 0o777 == 0o640


def test_signatures_go_nowhere_where_no_place_is_named(
    store: TrustStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_bytes(issue_self_signed(["a"], common_name="a", now=NOW).key_pem)
    (tmp_path / "manifest.json").write_bytes(raw(MINIMAL))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    done = run_main("manifest", "sign", "manifest.json", "--key", "key.pem", "-o", "")
    assert (done.code, set(tmp_path.iterdir())) == (1, before)
    assert "output flag must not be empty" in done.err


@pytest.mark.parametrize("said", [("--signer", "officer.pem"), ("--signatures", "folder")])
def test_signers_are_told_of_one_coordinator(store: TrustStore, said: tuple[str, str]) -> None:
    done = run_main("trust", *said)
    assert (done.code, done.out) == (2, "")
    assert "of which coordinator?" in done.err


@pytest.mark.parametrize("era", [True, False])
def test_t15_what_is_pinned_of_a_manifest_holds_for_an_era_config_too_and_for_no_recovery(
    store: TrustStore, era: bool
) -> None:
    officer = issue_self_signed(["officer"], common_name="officer", now=NOW)
    told = Expectation("unattested", signers=(officer.public_der,), signatures="/signatures")
    store.store_expectation(HOST, told)
    config = Expectation("unattested") if era else None
    once = ThisOnce(store, Flags(), era=config, pinned=True).load_expectation(HOST)
    assert (once.signers, once.signatures) == (told.signers, told.signatures)
    free = ThisOnce(store, Flags(), era=config, pinned=False).load_expectation(HOST)
    assert (free.manifest_fingerprint, free.signers, free.signatures) == (None, (), None)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--signatures", "/s"), "give both"),
        (("--signer", "officer.pem"), "give both"),
        (("--signer", "officer.pem", "--signatures", "/s", "--manifest", "cd" * 32), "give one of them"),
    ],
)
def test_signers_that_would_say_nothing_are_refused(store: TrustStore, more: tuple[str, ...], reason: str) -> None:
    done = run_main("trust", HOST, "--tee", "simulated", *more)
    assert (done.code, store.load_hosts()) == (2, {})
    assert reason in done.err


def test_where_signatures_lie_is_looked_at_and_what_is_not_there_yet_is_told(store: TrustStore, tmp_path: Path) -> None:
    officer = issue_self_signed(["officer"], common_name="officer", now=NOW)
    (tmp_path / "officer.pem").write_bytes(officer.certificate_pem)
    os.mkfifo(tmp_path / "pipe")
    told = ("trust", HOST, "--tee", "simulated", "--signer", tmp_path / "officer.pem", "--signatures")
    for name, reason in (("pipe", "is neither a file nor a folder"), ("\udcff", "is no text that can be remembered")):
        done = run_main(*told, tmp_path / name)
        assert (done.code, store.load_hosts(), len(done.err.splitlines())) == (1, {}, 1)
        assert reason in done.err
    done = run_main(*told, tmp_path / "later")
    assert done.code == 0
    assert f"Note: there is no {tmp_path / 'later'} yet" in done.err


def test_a_file_that_is_no_signatures_is_not_added_to(store: TrustStore, tmp_path: Path) -> None:
    officer = issue_self_signed(["officer"], common_name="officer", now=NOW)
    key, manifest, place = tmp_path / "key.pem", tmp_path / "manifest.json", tmp_path / "notes.txt"
    key.write_bytes(officer.key_pem)
    manifest.write_bytes(raw(MINIMAL))
    place.write_bytes(b"my notes")
    done = run_main("manifest", "sign", str(manifest), "--key", str(key), "-o", str(place))
    assert (done.code, place.read_bytes()) == (1, b"my notes")
    assert "a file of signatures" in done.err
