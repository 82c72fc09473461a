"""What a coordinator is judged by: era configs, accepted statuses, nonces, certificates that were kept."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from fakes.command_line import Outcome, run_main
from fakes.place import HEADLESS, Place, make_place
from tacit.cli.trust.era import ThisOnce, load_era_config
from tacit.cli.trust.flags import Flags
from tacit.client.coordinator import fingerprint
from tacit.client.trust import TrustStore
from tacit.evidence.claims import Role
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.verify.binding import report_data
from tacit.evidence.verify.envelope import unwrap

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from make_place(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def stranger(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person of whom nothing is known, in a folder of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_package() -> dict[str, object]:
    info: dict[str, object] = json.loads(run_main("package-info", "coordinator", "--output", "json").out)
    return info


def era(folder: Path, **changes: object) -> Path:
    path = folder / "era.json"
    path.write_text(json.dumps({"TEE": "simulated", "UniqueID": own_package()["UniqueID"], **changes}))
    return path


def refused(done: Outcome, *parts: str) -> None:
    assert done.code == 1
    for part in parts:
        assert part in done.err


# ---- era configs


def test_an_era_config_says_what_to_expect_this_once(place: Place, stranger: Path) -> None:
    done = run_main("manifest", "verify", place.manifest, place.attested, "--era-config", era(stranger))
    assert (done.code, done.out) == (0, "OK\n"), done.err
    assert not (stranger / "config" / "tacit" / "trust.json").exists()


def test_an_era_config_of_a_signer_is_enough(place: Place, stranger: Path) -> None:
    package = own_package()
    signed = {key: package[key] for key in ("SignerID", "ProductID", "SecurityVersion")}
    path = era(stranger, UniqueID="", **signed)
    assert run_main("--era-config", path, "certificate", "root", place.attested).code == 0


def test_another_program_than_the_era_configs_is_refused(place: Place, stranger: Path) -> None:
    done = run_main("certificate", "root", place.attested, "--era-config", era(stranger, UniqueID="ab" * 32))
    refused(done, "measurement")
    assert not (stranger / "marblerunRootCA.crt").exists()


def test_the_certificates_that_an_era_config_vouched_for_are_gone_by_later(place: Place, stranger: Path) -> None:
    refused(run_main("status", place.attested), "`tacit trust")
    assert run_main("manifest", "verify", place.manifest, place.attested, "--era-config", era(stranger)).code == 0
    kept = stranger / "config" / "tacit" / "coordinator-cert.pem"
    assert len(x509.load_pem_x509_certificates(kept.read_bytes())) == 2
    done = run_main("status", place.attested)
    assert done.out.startswith("3: ")
    assert f"is compared with the certificates in {kept}" in done.err
    refused(run_main("certificate", "root", place.attested), "`tacit trust")  # this verb asks for evidence


def test_an_era_config_that_lies_here_is_taken_where_nothing_else_is_known(place: Place, stranger: Path) -> None:
    era(stranger).rename(stranger / "era-config.json")
    done = run_main("certificate", "root", place.attested)
    assert done.out == "Reusing existing config file\nRoot certificate written to marblerunRootCA.crt\n"


def test_an_era_config_that_lies_here_says_nothing_about_a_host_that_is_trusted(place: Place, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        era(tmp_path, UniqueID="ab" * 32).rename(tmp_path / "era-config.json")
        assert run_main("certificate", "root", place.attested).out.startswith("Root certificate")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is no era config"),
        ("[]", "is no era config"),
        ('{"UniqueId": "ab"}', "UniqueId"),
        ('{"UniqueID": "zz"}', "is no era config"),
        ('{"SignerID": "abab"}', "needs a UniqueID, or SignerID"),
        ("{}", "needs a UniqueID, or SignerID"),
        ('{"UniqueID": "ab", "TEE": "tpm"}', "tpm"),
    ],
)
def test_what_is_no_era_config_is_refused(place: Place, stranger: Path, content: str, reason: str) -> None:
    path = stranger / "bad.json"
    path.write_text(content)
    refused(run_main("manifest", "verify", "0" * 64, place.attested, "--era-config", path), reason, "bad.json")


def test_an_era_config_that_is_not_there_reads_as_marblerun_says_it(place: Place, stranger: Path) -> None:
    done = run_main("manifest", "verify", "0" * 64, place.attested, "--era-config", "none.json")
    refused(done, "Error: reading era config file: open none.json: no such file or directory")


# ---- statuses and nonces


def test_accepted_statuses_and_advisories_take_the_place_of_those_that_are_expected(place: Place) -> None:
    flags = Flags(accepted_statuses=("OutOfDate",), accepted_advisories=())
    told = place.trust.load_expectation(place.attested)
    for era_config in (None, load_era_config(era(place.folder, AcceptedTCBStatuses=["SWHardeningNeeded"]))):
        memory = ThisOnce(place.trust, flags, era=era_config, pinned=True)
        package = memory.load_expectation(place.attested).package
        assert package is not None
        assert (package.accepted_tcb_statuses, package.accepted_advisories) == (("OutOfDate",), ())
        assert told.package is not None
        assert package.unique_id == told.package.unique_id


def test_statuses_are_read_with_commas_between_them(place: Place) -> None:
    for words in (("--era-config", era(place.folder)), ()):
        assert run_main("status", place.attested, *words, "--accepted-tcb-statuses", "UpToDate, OutOfDate").code == 0


def test_what_was_expected_is_the_same_after_a_command_with_other_statuses(place: Place) -> None:
    before = place.trust.load_expectation(place.attested)
    run_main("status", place.attested, "--accepted-tcb-statuses", "OutOfDate", "--accepted-advisories", "INTEL-SA-1")
    assert place.trust.load_expectation(place.attested) == before


def test_the_evidence_is_saved_as_it_came_and_holds_the_nonce(place: Place) -> None:
    done = run_main(
        "certificate", "root", place.attested, "--nonce", "abc", "--save-sgx-quote", "quote.bin", "-o", "r.pem"
    )
    assert done.code == 0, done.err
    quote = parse_quote(unwrap((place.folder / "quote.bin").read_bytes()))
    root = x509.load_pem_x509_certificate((place.folder / "r.pem").read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding

    half = report_data(role=Role.COORDINATOR, key=root.public_bytes(Encoding.DER), nonce=b"abc")[:32]  # MarbleRun's
    assert half in (place.folder / "quote.bin").read_bytes()
    assert quote is not None


def test_without_evidence_the_saved_quote_is_an_empty_file(place: Place) -> None:
    run_main("status", place.unattested, "-i", "--save-sgx-quote", "none.bin")
    assert (place.folder / "none.bin").read_bytes() == b""


def test_the_namespace_is_taken_and_changes_nothing(place: Place) -> None:
    assert run_main("-n", "marblerun", "status", place.attested).out == run_main("status", place.attested).out


# ---- certificates that were kept


def test_certificates_are_kept_in_the_file_that_was_named(place: Place, stranger: Path) -> None:
    done = run_main("manifest", "get", place.unattested, "-i", "--keep-cert", "--coordinator-cert", "kept.pem")
    assert done.code == 0
    assert run_main("status", place.unattested, "--coordinator-cert", "kept.pem").out.startswith("3: ")


def test_t68_what_nobody_checked_is_not_kept_unless_a_file_is_named(place: Place, stranger: Path) -> None:
    done = run_main("manifest", "get", place.unattested, "-i", "--keep-cert")
    assert "were not checked, so they are not kept" in done.err
    assert run_main("manifest", "verify", place.manifest, place.unattested, "-i").out == HEADLESS + "OK\n"
    assert not (stranger / "config").exists()


def test_marbleruns_own_certificates_are_read_where_nothing_else_is_known(place: Place, stranger: Path) -> None:
    theirs = stranger / "config" / "marblerun" / "coordinator-cert.pem"
    theirs.parent.mkdir(parents=True)
    run_main("certificate", "chain", place.unattested, "-i", "-o", theirs)
    done = run_main("status", place.unattested)
    assert done.out.startswith("3: ")
    assert str(theirs) in done.err
    values = stranger / "values.json"
    values.write_text('{"token": {"Key": "aGVsbG8="}}')
    assert run_main("secret", "set", values, place.unattested, *place.user("owner")).out == "Secret successfully set\n"


def test_another_coordinator_than_the_certificates_is_refused(place: Place, stranger: Path) -> None:
    run_main("certificate", "chain", place.attested, "-i", "-o", "other.pem")
    done = run_main("status", place.unattested, "--coordinator-cert", "other.pem")
    refused(done, "does not lead to the attested root")


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_without_the_root_is_refused_in_marbleruns_words(place: Place, stranger: Path, count: int) -> None:
    run_main("certificate", "root", place.unattested, "-i", "-o", "root.pem")
    (stranger / "few.pem").write_text((stranger / "root.pem").read_text() * count)
    done = run_main("status", place.unattested, "--coordinator-cert", "few.pem")
    refused(done, "could not parse Coordinator root certificate from PEM data" if count else "no PEM certificate found")


# ---- a pinned manifest


@pytest.fixture
def unpinned(place: Place) -> Iterator[Place]:
    """The attested coordinator, as one finds it of whose manifest one knows nothing."""
    known = place.trust.load_expectation(place.attested).manifest_fingerprint
    place.trust.pin_manifest(place.attested, None)
    yield place
    place.trust.pin_manifest(place.attested, known)


@pytest.mark.parametrize(
    "words",
    [
        "secret set values.json HOST -c owner.crt -k owner.key",
        "manifest update apply manifest.json HOST -c owner.crt -k owner.key",
        "manifest update acknowledge manifest.json HOST -c owner.crt -k owner.key",
        "predict HOST digits image.json",
    ],
)
def test_t14_nothing_goes_where_no_manifest_is_pinned(unpinned: Place, words: str) -> None:
    (unpinned.folder / "values.json").write_text('{"token": {"Key": "c2VjcmV0"}}')
    (unpinned.folder / "image.json").write_text("[[1]]")
    done = run_main(*words.replace("HOST", unpinned.attested).split())
    refused(done, "no manifest is pinned", f"`tacit manifest verify FILE {unpinned.attested}`")
    assert "Secret set" not in run_main("manifest", "log", unpinned.attested).out


def test_t14_a_manifest_that_somebody_else_set_first_is_told(unpinned: Place) -> None:
    own = unpinned.folder / "own.json"
    own.write_text(unpinned.manifest.read_text().replace("ab" * 32, "cd" * 32))
    refused(run_main("manifest", "set", own, unpinned.attested), "server is not in expected state: another manifest")
    refused(
        run_main("manifest", "set", unpinned.manifest, unpinned.attested), "this very manifest is set there already"
    )


@pytest.mark.parametrize("words", ["certificate intermediate HOST", "secret get token HOST -c owner.crt -k owner.key"])
def test_t14_what_an_unknown_manifest_may_have_given_is_told(unpinned: Place, words: str) -> None:
    done = run_main(*words.replace("HOST", unpinned.attested).split())
    assert done.code == 0
    assert "Note: no manifest is pinned" in done.err


def test_manifest_set_pins_what_it_set(place: Place) -> None:
    assert place.trust.load_expectation(place.attested).manifest_fingerprint == fingerprint(place.manifest.read_bytes())


def test_another_manifest_than_the_pinned_one_can_be_read_and_pinned(place: Place) -> None:
    store = TrustStore(place.trust.path.parent)
    known = store.load_expectation(place.attested)
    store.pin_manifest(place.attested, b"\1" * 32)
    try:
        refused(run_main("certificate", "root", place.attested), "another manifest than the pinned one")
        done = run_main("manifest", "get", place.attested)
        assert done.code == 0
        assert "not the manifest that is pinned" in done.err
        assert run_main("manifest", "verify", place.manifest, place.attested).out == "OK\n"
        assert run_main("certificate", "root", place.attested).code == 0
    finally:
        current = store.load_expectation(place.attested)
        store.store_expectation(place.attested, replace(current, manifest_fingerprint=known.manifest_fingerprint))
