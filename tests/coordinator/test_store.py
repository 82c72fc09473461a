"""The folder of the sealed state: what was stored comes back, and what was done to it is seen."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fakes.core import PLAIN_MANIFEST, encode, make_coordinator, make_order
from fakes.tee import FakeTee
from tacit.coordinator.core import Coordinator
from tacit.coordinator.sealed.keys import open_key, seal_key
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import DATA_NAME, KEY_NAME, SealedFolder
from tacit.coordinator.store import folder as store_folder
from tacit.coordinator.updates import ledger as ledger_module
from tacit.errors import SealedStateError, SealingKeyError, StateError
from tacit.pki import issue_self_signed

COUNTED = {**PLAIN_MANIFEST, "Marbles": {"m": {"Package": "p", "MaxActivations": 1000}}}
ORDER = make_order()


class Opened:
    """A coordinator over a folder, which a test closes and opens again."""

    def __init__(self, folder: Path, tee: FakeTee | None = None) -> None:
        self.folder = SealedFolder(folder, tee)
        try:
            contents = self.folder.load()
            self.core: Coordinator = make_coordinator(tee=tee, store=self.folder, contents=contents).core
        except BaseException:
            self.folder.close()
            raise

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()


@pytest.fixture
def seal(tmp_path: Path) -> Path:
    """A folder with a manifest and three activations."""
    folder = tmp_path / "seal"
    with Opened(folder) as opened:
        opened.core.set_manifest(encode(COUNTED))
        for _ in range(3):
            opened.core.activate(ORDER)
    return folder


def test_what_was_answered_is_there_after_a_restart(seal: Path) -> None:
    with Opened(seal) as opened:
        before = opened.core.status()
        assert before.position.epoch == 4
        assert opened.core.holdings.activations == {"m": 3}
        assert opened.core.manifest()[0] == encode(COUNTED)
    with Opened(seal) as opened:
        assert opened.core.status().position == before.position
        opened.core.activate(ORDER)
    with Opened(seal) as opened:
        assert opened.core.holdings.activations == {"m": 4}


def test_everything_held_comes_back(tmp_path: Path) -> None:
    owner = issue_self_signed(["owner"], common_name="owner", now=make_coordinator().world.clock())
    manifest = {
        **PLAIN_MANIFEST,
        "Secrets": {
            "sym": {"Type": "symmetric-key", "Size": 128, "Shared": True},
            "crt": {"Type": "cert-ecdsa", "Size": 256, "Shared": True},
            "user": {"Type": "plain", "UserDefined": True},
        },
        "Users": {"o": {"Certificate": owner.certificate_pem.decode(), "Roles": ["w"]}},
        "Roles": {"w": {"ResourceType": "Secrets", "ResourceNames": ["user"], "Actions": ["WriteSecret"]}},
    }
    with Opened(tmp_path) as opened:
        opened.core.set_manifest(encode(manifest))
        opened.core.write_secrets("o", {"user": NewValue(key=b"mine")})
        before = opened.core.holdings
    with Opened(tmp_path) as opened:
        after = opened.core.holdings
        for name in ("state", "manifest", "signature", "root_secret", "secrets", "previous_secrets", "update_log"):
            assert getattr(after, name) == getattr(before, name)
        for name in ("root", "intermediate", "marble_root"):
            ours, theirs = getattr(after.identity, name), getattr(before.identity, name)
            assert (ours.certificate, ours.key_der) == (theirs.certificate, theirs.key_der)


def test_nothing_is_written_before_a_manifest_or_with_sealing_disabled(tmp_path: Path) -> None:
    with Opened(tmp_path) as opened:
        opened.core.set_manifest(encode({**COUNTED, "Config": {"SealMode": "Disabled"}}))
        opened.core.activate(ORDER)
        assert opened.core.status().position.epoch == 2
    assert not list(tmp_path.iterdir())


def test_files_are_for_their_owner_alone(seal: Path) -> None:
    for name in (DATA_NAME, KEY_NAME):
        assert (seal / name).stat().st_mode & 0o777 == 0o600
    assert seal.stat().st_mode & 0o777 == 0o700


def test_t36_a_file_that_waits_in_the_folder_is_not_written_into(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "seal", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_bytes(b"as it was")
    (folder / f"{DATA_NAME}.tmp").symlink_to(elsewhere)
    waiting = folder / f"{KEY_NAME}.tmp"
    waiting.touch(0o666)
    with waiting.open("rb") as held, Opened(folder) as opened:
        opened.core.set_manifest(encode(COUNTED))
        assert held.read() == b""
    assert elsewhere.read_bytes() == b"as it was"
    assert (folder / KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_t34_only_one_coordinator_has_the_folder(seal: Path) -> None:
    with Opened(seal), pytest.raises(StateError, match="another coordinator uses"):
        SealedFolder(seal, None)


@pytest.mark.parametrize("at", [0.02, 0.5, 0.97, 0.995])
def test_an_altered_file_is_refused(seal: Path, at: float) -> None:
    data = bytearray((seal / DATA_NAME).read_bytes())
    data[int(at * len(data))] ^= 0x20
    (seal / DATA_NAME).write_bytes(data)
    with pytest.raises(SealedStateError):
        Opened(seal)


def test_a_half_written_record_is_left_out_and_the_file_goes_on(seal: Path) -> None:
    data = (seal / DATA_NAME).read_bytes()
    (seal / DATA_NAME).write_bytes(data[:-7])
    with Opened(seal) as opened:
        assert opened.core.holdings.activations == {"m": 2}
        opened.core.activate(ORDER)
    with Opened(seal) as opened:
        assert opened.core.holdings.activations == {"m": 3}
        assert opened.core.status().position.epoch == 4


def test_t31_an_older_copy_shows_a_lower_epoch_and_another_head(seal: Path) -> None:
    older = (seal / DATA_NAME).read_bytes()
    with Opened(seal) as opened:
        opened.core.activate(ORDER)
        newest = opened.core.status().position
    (seal / DATA_NAME).write_bytes(older)
    with Opened(seal) as opened:
        rolled_back = opened.core.status().position
        assert rolled_back.epoch < newest.epoch
        # Going on from the older copy gives the same epoch again, and never the same head.
        opened.core.activate(make_order(uuid="752ab710-8942-4a25-aa77-fc153329f013"))
        assert opened.core.status().position.epoch == newest.epoch
        assert opened.core.status().position.head != newest.head


def test_without_a_key_or_with_another_the_state_stays_closed(seal: Path) -> None:
    for content in (bytes(32), b"", b"short", None):
        (seal / KEY_NAME).unlink(missing_ok=True)
        if content is not None:
            (seal / KEY_NAME).write_bytes(content)
        with pytest.raises(SealingKeyError):
            Opened(seal)


def test_a_new_manifest_after_a_lost_key_keeps_the_old_state_beside_it(seal: Path) -> None:
    old = (seal / DATA_NAME).read_bytes()
    (seal / KEY_NAME).unlink()
    folder = SealedFolder(seal, None)
    with pytest.raises(SealingKeyError):
        folder.load()
    core = make_coordinator(store=folder, recovery=True).core
    core.set_manifest(encode(COUNTED))
    folder.close()
    assert (seal / f"{DATA_NAME}.old").read_bytes() == old
    with Opened(seal) as opened:
        assert opened.core.holdings.activations == {}


# ---- the sealing key and the TEE


def test_a_sealing_key_opens_in_the_tee_that_sealed_it_and_in_no_other() -> None:
    tee, key = FakeTee(), bytes(range(32))
    newer = FakeTee(platform=tee.platform, measurement=b"\x22" * 32)
    by_signer = seal_key(key, tee, bound_to="signer", nonce=bytes(12))
    by_measurement = seal_key(key, tee, bound_to="measurement", nonce=bytes(12))
    assert key not in by_signer
    assert open_key(by_signer, tee) == open_key(by_measurement, tee) == open_key(by_signer, newer) == key
    with pytest.raises(SealingKeyError):
        open_key(by_measurement, newer)
    for at in range(len(by_signer)):
        altered = bytearray(by_signer)
        altered[at] ^= 1
        with pytest.raises(SealingKeyError):
            open_key(bytes(altered), tee)


def test_a_tee_takes_no_key_in_clear_and_unattested_mode_no_sealed_one() -> None:
    with pytest.raises(SealingKeyError):
        open_key(bytes(32), FakeTee())
    with pytest.raises(SealingKeyError):
        open_key(seal_key(bytes(32), FakeTee(), bound_to="signer", nonce=bytes(12)), None)


def test_an_attested_state_comes_back_in_its_tee(tmp_path: Path) -> None:
    tee = FakeTee()
    with Opened(tmp_path, tee) as opened:
        opened.core.set_manifest(encode(PLAIN_MANIFEST))
        head = opened.core.status().position
    with Opened(tmp_path, tee) as opened:
        assert opened.core.status().position == head


# ---- a disk that fails


def fail_after(allowed: int, real: Any) -> Any:
    """A write that puts `allowed` bytes on the disk and then finds it full."""
    left = [allowed]

    def write(file: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        done: int = real(file, data[: left[0]])
        left[0] -= done
        return done

    return write


@pytest.mark.parametrize("allowed", [0, 1, 39, 60])
def test_a_full_disk_changes_nothing_and_is_survived(seal: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    with Opened(seal) as opened:
        before = opened.core.holdings, opened.core.status()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fail_after(allowed, os.write))
            for _ in range(2):
                with pytest.raises(StateError, match="No space left on device; nothing was changed"):
                    opened.core.activate(ORDER)
        assert (opened.core.holdings, opened.core.status()) == before
        opened.core.activate(ORDER)
        position = opened.core.status().position
    with Opened(seal) as opened:
        assert opened.core.holdings.activations == {"m": 4}
        assert opened.core.status().position == position
    assert sorted(path.name for path in seal.iterdir()) == [DATA_NAME, KEY_NAME]


def test_a_manifest_that_cannot_be_stored_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Opened(tmp_path) as opened:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fail_after(100, os.write))
            with pytest.raises(StateError):
                opened.core.set_manifest(encode(COUNTED))
        assert int(opened.core.status().state) == 2
        opened.core.set_manifest(encode(COUNTED))
    with Opened(tmp_path) as opened:
        assert int(opened.core.status().state) == 3


def test_snapshots_bound_the_file_and_the_chain_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_folder, "MIN_GROWTH", 0)
    monkeypatch.setattr(ledger_module, "TAIL", 2000)
    with Opened(tmp_path) as opened:
        opened.core.set_manifest(encode(COUNTED))
        heads, sizes = set(), []
        for _ in range(200):
            opened.core.activate(ORDER)
            heads.add(opened.core.status().position.head)
            sizes.append((tmp_path / DATA_NAME).stat().st_size)
        assert opened.core.status().position.epoch == 201
    assert len(heads) == 200
    assert max(sizes) < 4 * min(sizes) + 1000
    assert any(after < before for before, after in pairwise(sizes))
    with Opened(tmp_path) as opened:
        assert opened.core.holdings.activations == {"m": 200}
        assert opened.core.status().position.epoch == 201


def test_an_activation_costs_one_small_record(seal: Path) -> None:
    before = (seal / DATA_NAME).stat().st_size
    with Opened(seal) as opened:
        opened.core.activate(ORDER)
    assert (seal / DATA_NAME).stat().st_size - before < 500


@pytest.mark.parametrize("problem", ["file", "read-only"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, problem: str) -> None:
    folder = tmp_path / "seal"
    if problem == "file":
        folder.write_bytes(b"")
    else:
        folder = Path("/proc/self/seal")
    with pytest.raises(StateError, match="EDG_COORDINATOR_SEAL_DIR"):
        SealedFolder(folder, None)


def test_a_state_that_cannot_be_written_to_is_named(seal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_APPEND:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StateError, match="make it writable"):
        Opened(seal)
