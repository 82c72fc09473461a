import errno
import json
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.client.trust import UNATTESTED, Expectation, Sighting, TrustStore, check_expectation, default_trust_folder
from tacit.errors import FileInputError, InputError, NotTrustedError, PinMismatchError, RollbackError
from tacit.evidence import INTEL, Tee, TrustAnchor
from tacit.evidence.anchor import AMD, INTEL_TDX
from tacit.manifest.model import Package
from tacit.pki import issue_root

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HOST = "localhost:4433"
ANCHOR = TrustAnchor(Tee.SIMULATED, "SIMULATED root", b"root of a platform")
PACKAGE = Package(
    unique_id=b"\1" * 32,
    signer_id=b"\2" * 32,
    product_id=1,
    security_version=1,
    accepted_tcb_statuses=("UpToDate", "SWHardeningNeeded"),
    accepted_advisories=("INTEL-SA-1",),
    tee="simulated",
)
EXPECTATION = Expectation("simulated", PACKAGE, ANCHOR)


@pytest.fixture(scope="module")
def root() -> bytes:
    return issue_root(("localhost",), now=NOW).certificate_der


@pytest.fixture(scope="module")
def other_root() -> bytes:
    return issue_root(("localhost",), now=NOW).certificate_der


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    store = TrustStore(tmp_path / "tacit")
    store.store_expectation(HOST, EXPECTATION)
    return store


# ---- what is kept


def test_an_expectation_comes_back_as_it_was_stored(store: TrustStore) -> None:
    whole = replace(EXPECTATION, manifest_fingerprint=b"\3" * 32)
    store.store_expectation(HOST, whole)
    assert TrustStore(store.path.parent).load_expectation(HOST) == whole
    assert store.load_hosts() == {HOST: whole}


def test_t11_what_is_expected_of_a_platform_comes_back_as_it_was_stored(store: TrustStore) -> None:
    # A list of refused hardware that was lost on the way would allow that hardware.
    package = Package(
        tee="snp",
        measurements={"MEASUREMENT": b"\4" * 48, "HOST_DATA": b"\5" * 32},
        accepted_weaknesses=("vmpl-1",),
        tcb_grace_days=0,
        minimum_tcb_evaluation=17,
        minimum_tcb={"snp": 24},
        allowed_hardware_ids=(b"\6" * 64,),
        refused_hardware_ids=(b"\7" * 64,),
        refused_product_lines=("Milan",),
    )
    named = {name for name in Package.__dataclass_fields__ if getattr(package, name) != getattr(Package(), name)}
    covered = {name for name in Package.__dataclass_fields__ if getattr(PACKAGE, name) != getattr(Package(), name)}
    assert named | covered | {"debug"} == set(Package.__dataclass_fields__)
    whole = Expectation("snp", package, AMD)
    store.store_expectation(HOST, whole)
    assert TrustStore(store.path.parent).load_expectation(HOST) == whole


@pytest.mark.parametrize(("tee", "anchor"), [("tdx", INTEL_TDX), ("snp", AMD)])
def test_a_package_without_the_register_of_the_program_is_refused(tee: str, anchor: TrustAnchor) -> None:
    for package in (
        Package(tee=tee),
        Package(tee=tee, unique_id=b"\1" * 32),
        Package(tee=tee, measurements={"RTMR3": b""}),
    ):
        with pytest.raises(InputError, match="Measurements"):
            check_expectation(Expectation(tee, package, anchor))


def test_the_file_is_for_its_owner_alone(store: TrustStore) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path.parent.iterdir() if path.name.startswith(".")] == []


def test_a_coordinator_that_nobody_spoke_of_is_not_trusted(store: TrustStore) -> None:
    with pytest.raises(NotTrustedError, match="tacit trust other:4433 --tee"):
        store.load_expectation("other:4433")


def test_a_file_that_others_may_write_to_is_refused(store: TrustStore) -> None:
    store.path.chmod(0o666)
    with pytest.raises(FileInputError, match="chmod 600"):
        store.load_expectation(HOST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"hosts": {"a:1": {}}}',
        '{"extra": 1}',
        '{"hosts": {"localhost:4433": {"tee": "simulated", "root": "§"}}}',
    ],
)
def test_a_damaged_file_is_refused_with_its_name(store: TrustStore, text: str) -> None:
    store.path.write_text(text)
    with pytest.raises(FileInputError, match=r"trust\.json"):
        store.load_expectation(HOST)


def test_a_file_that_is_no_text_is_refused_with_its_name(store: TrustStore) -> None:
    store.path.write_bytes(b'{"version":1,"hosts":{"\xff":{"tee":"simulated"}}}')
    with pytest.raises(FileInputError, match=r"trust\.json"):
        store.load_expectation(HOST)


def test_a_refused_change_leaves_the_file_as_it_was(store: TrustStore, root: bytes) -> None:
    before = store.path.read_bytes()
    with pytest.raises(NotTrustedError):
        store.record_sighting("other:4433", Sighting(root, 1, b"\1" * 32))
    assert store.path.read_bytes() == before


def _trust_many(folder: Path, first: int) -> None:
    store = TrustStore(folder)
    for number in range(first, first + 10):
        store.store_expectation(f"host{number}:4433", EXPECTATION)


def test_several_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda first: _trust_many(tmp_path, first), (0, 10, 20, 30)))
    assert len(TrustStore(tmp_path).load_hosts()) == 40


def test_the_folder_is_the_users_config_folder() -> None:
    assert default_trust_folder({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/tacit")
    assert default_trust_folder({"HOME": "/h"}) == Path("/h/.config/tacit")
    with pytest.raises(InputError, match="XDG_CONFIG_HOME"):
        default_trust_folder({})


# ---- what may be expected


@pytest.mark.parametrize("tee", ["", "Simulated", "SIMULATED", "simulation", "none", "any"])
def test_t07_a_tee_is_asked_for_by_its_exact_name(tee: str) -> None:
    with pytest.raises(InputError, match="no kind of TEE"):
        check_expectation(replace(EXPECTATION, tee=tee))


@pytest.mark.parametrize(
    "package",
    [
        None,
        Package(tee="simulated"),
        Package(signer_id=b"\1" * 32, product_id=1, tee="simulated"),
        Package(product_id=1, security_version=1, tee="simulated"),
    ],
)
def test_an_expectation_without_reference_values_is_refused(package: Package | None) -> None:
    with pytest.raises(InputError, match=r"package"):
        check_expectation(replace(EXPECTATION, package=package))


def test_t07_a_simulated_root_vouches_for_no_other_tee() -> None:
    with pytest.raises(InputError, match="vouches for TEE simulated"):
        check_expectation(Expectation("sgx", replace(PACKAGE, tee="sgx"), ANCHOR))
    with pytest.raises(InputError, match="package is for TEE simulated"):
        check_expectation(Expectation("sgx", PACKAGE, INTEL))


def test_a_coordinator_without_evidence_needs_no_package() -> None:
    check_expectation(Expectation(UNATTESTED))


# ---- what was seen


def test_the_first_root_is_pinned(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 1, b"\1" * 32))
    assert store.load_expectation(HOST).root_der == root


def test_t14_another_root_is_refused_with_how_to_accept_it(store: TrustStore, root: bytes, other_root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 1, b"\1" * 32))
    with pytest.raises(PinMismatchError, match=f"tacit trust {HOST} --forget"):
        store.record_sighting(HOST, Sighting(other_root, 9, b"\1" * 32))
    assert store.load_expectation(HOST).root_der == root


def test_a_newer_state_is_remembered_and_the_same_one_accepted(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 1, b"\1" * 32))
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    with pytest.raises(RollbackError):
        store.record_sighting(HOST, Sighting(root, 4, b"\4" * 32))


def test_t31_an_older_state_is_refused(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    with pytest.raises(RollbackError, match="epoch 4, and epoch 5 was seen"):
        store.record_sighting(HOST, Sighting(root, 4, b"\4" * 32))


def test_t31_another_history_of_the_same_length_is_refused(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    with pytest.raises(RollbackError, match="another history"):
        store.record_sighting(HOST, Sighting(root, 5, b"\6" * 32))


def test_t31_a_coordinator_that_stops_naming_its_epoch_is_refused(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    with pytest.raises(RollbackError):
        store.verify_sighting(HOST, Sighting(root, 0, b""))


def test_t31_the_memory_follows_the_root_key_to_another_host_name(store: TrustStore, root: bytes) -> None:
    store.store_expectation("127.0.0.1:4433", EXPECTATION)
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    with pytest.raises(RollbackError):
        store.record_sighting("127.0.0.1:4433", Sighting(root, 4, b"\4" * 32))


def test_verifying_a_sighting_remembers_nothing(store: TrustStore, root: bytes) -> None:
    before = store.path.read_bytes()
    store.verify_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    assert store.path.read_bytes() == before


def test_to_forget_a_coordinator_drops_its_root_and_its_epochs(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    store.forget(HOST)
    with pytest.raises(NotTrustedError):
        store.load_expectation(HOST)
    store.store_expectation(HOST, EXPECTATION)
    store.record_sighting(HOST, Sighting(root, 1, b"\1" * 32))


def test_trusting_anew_keeps_what_was_seen(store: TrustStore, root: bytes) -> None:
    store.record_sighting(HOST, Sighting(root, 5, b"\5" * 32))
    store.store_expectation(HOST, EXPECTATION)
    assert store.load_expectation(HOST).root_der == root
    with pytest.raises(RollbackError):
        store.record_sighting(HOST, Sighting(root, 4, b"\4" * 32))


def test_a_manifest_is_pinned_and_unpinned(store: TrustStore) -> None:
    store.pin_manifest(HOST, b"\7" * 32)
    assert store.load_expectation(HOST).manifest_fingerprint == b"\7" * 32
    store.pin_manifest(HOST, None)
    assert store.load_expectation(HOST).manifest_fingerprint is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileInputError, match="cannot"):
        TrustStore(tmp_path / "file" / "tacit").store_expectation(HOST, EXPECTATION)


def test_the_file_reads_as_json(store: TrustStore) -> None:
    assert json.loads(store.path.read_text())["hosts"][HOST]["tee"] == "simulated"


def test_a_disk_without_room_is_told_with_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrustStore(tmp_path)
    store.store_expectation(HOST, EXPECTATION)
    before = (tmp_path / "trust.json").read_bytes()

    def full(**_: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(
        FileInputError, match=r"cannot write .*trust.json: No space left on device; give another folder by"
    ):
        store.pin_manifest(HOST, b"\1" * 32)
    assert (tmp_path / "trust.json").read_bytes() == before
