"""Backups: sealed bytes alone, of one moment, and brought back whole or not at all."""

import errno
import os
import random
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from fakes.core import Made, encode, make_coordinator, make_order
from fakes.disk import FailingDisk
from fakes.officers import LOGGED, read_log
from fakes.tee import FakeTee
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import DATA_NAME, KEY_NAME, SealedFolder
from tacit.coordinator.store import backup as backup_module
from tacit.coordinator.store import folder as folder_module
from tacit.coordinator.store import logfiles as logfiles_module
from tacit.coordinator.store.backup import Backup, copy_folder, read_backup, restore_folder, write_backup
from tacit.coordinator.updates import ledger as ledger_module
from tacit.errors import BackupError, StateError

ORDER = make_order("counted")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and log files come often."""
    monkeypatch.setattr(folder_module, "MIN_GROWTH", 3000)
    monkeypatch.setattr(logfiles_module, "FILE_SIZE", 500)
    monkeypatch.setattr(ledger_module, "TAIL", 600)


class Opened:
    """A coordinator over a folder while the block lasts."""

    def __init__(self, folder: Path, tee: FakeTee | None = None) -> None:
        self.store = SealedFolder(folder, tee)
        try:
            self.made: Made = make_coordinator(tee=tee, store=self.store, contents=self.store.load())
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> Any:
        return self.made.core

    def __exit__(self, *_: object) -> None:
        self.store.close()


def fill(folder: Path, times: int = 12) -> None:
    with Opened(folder) as core:
        if core.holdings.manifest is None:
            core.set_manifest(encode(LOGGED))
        for _ in range(times):
            core.activate(ORDER)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counted(folder: Path) -> int:
    with Opened(folder) as core:
        number: int = core.holdings.activations["counted"]
        assert len(read_log(core)) == core.status().log.number
        return number


@pytest.fixture
def seal(tmp_path: Path) -> Path:
    folder = tmp_path / "seal"
    fill(folder)
    assert len(list(folder.glob("sealed_log.*"))) > 1
    return folder


@pytest.fixture
def kept(seal: Path, tmp_path: Path) -> Path:
    path = tmp_path / "kept.backup"
    write_backup(copy_folder(seal), path)
    return path


def test_what_was_backed_up_comes_back_with_its_log(seal: Path, kept: Path) -> None:
    before = files(seal)
    shutil.rmtree(seal)
    restore_folder(read_backup(kept), seal, replace=False)
    assert files(seal) == before
    assert {path.stat().st_mode & 0o777 for path in seal.iterdir()} == {0o600}
    assert counted(seal) == 12


def test_a_backup_is_private_and_takes_no_files_place(kept: Path, seal: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BackupError, match="is there already"):
        write_backup(copy_folder(seal), kept)


def test_t36_a_backup_holds_nothing_but_what_was_sealed(tmp_path: Path) -> None:
    tee, canary = FakeTee(), b"canary-7f3a91".ljust(32, b"#")
    with Opened(tmp_path / "seal", tee) as core:
        package = {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}
        core.set_manifest(encode({**LOGGED, "Packages": {"p": package}}))
        core.write_secrets("owner", {"key": NewValue(key=canary)})
        held = core.holdings
        secrets = [canary, held.root_secret, held.identity.root.key_der, held.secrets["shared"].private]
        sealing_key = core._ledger.store._key
    write_backup(copy_folder(tmp_path / "seal"), tmp_path / "kept")
    raw = (tmp_path / "kept").read_bytes()
    for value in (*secrets, sealing_key):
        assert value not in raw
    assert b"owner" not in raw
    # And it opens in its TEE alone.
    restore_folder(read_backup(tmp_path / "kept"), tmp_path / "other", replace=False)
    with Opened(tmp_path / "other", tee) as core:
        assert core.holdings.secrets["key"].private == canary


def test_a_copy_that_is_taken_while_the_coordinator_writes_is_of_one_moment(tmp_path: Path, seal: Path) -> None:
    answered, copies = [], []
    with Opened(seal) as core:
        ends = threading.Event()

        def keep_busy() -> None:
            while not ends.is_set():
                core.activate(ORDER)
                answered.append(core.holdings.activations["counted"])

        busy = threading.Thread(target=keep_busy)
        busy.start()
        try:
            for _ in range(12):
                low = core.holdings.activations["counted"]
                copies.append((low, copy_folder(seal), core.holdings.activations["counted"]))
        finally:
            ends.set()
            busy.join()
    for number, (low, copy, high) in enumerate(copies):
        write_backup(copy, tmp_path / f"{number}.backup")
        target = tmp_path / f"restored-{number}"
        restore_folder(read_backup(tmp_path / f"{number}.backup"), target, replace=False)
        # A change is stored before it is held, so the copy may know of one more.
        assert low <= counted(target) <= high + 1


def test_a_folder_without_a_state_or_key_is_named(tmp_path: Path, seal: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BackupError, match="no sealed state in .*EDG_COORDINATOR_SEAL_DIR"):
            copy_folder(folder)
    (seal / KEY_NAME).unlink()
    with pytest.raises(BackupError, match="recover the state first"):
        copy_folder(seal)


def test_t31_a_newer_state_is_not_overwritten_unasked(seal: Path, kept: Path) -> None:
    fill(seal, 5)
    newest = files(seal)
    with pytest.raises(BackupError, match=r"newer state \(\d+\) than the backup .* every client that saw the newer"):
        restore_folder(read_backup(kept), seal, replace=False)
    assert files(seal) == newest
    restore_folder(read_backup(kept), seal, replace=True)
    assert counted(seal) == 12
    # What was there is beside it, and can be taken back by hand.
    for path in [*seal.iterdir()]:
        if path.name.endswith(".before"):
            path.replace(path.with_name(path.name.removesuffix(".before")))
    assert counted(seal) == 17


def test_what_one_restore_put_aside_another_does_not_overwrite(seal: Path, kept: Path, tmp_path: Path) -> None:
    fill(seal, 5)
    newest = (seal / DATA_NAME).read_bytes()
    write_backup(copy_folder(seal), tmp_path / "newer")
    assert restore_folder(read_backup(kept), seal, replace=True) == ".before"
    older = (seal / DATA_NAME).read_bytes()
    assert restore_folder(read_backup(tmp_path / "newer"), seal, replace=True) == ".before.2"
    assert restore_folder(read_backup(kept), seal, replace=True) == ".before.3"
    asides = [(seal / f"{DATA_NAME}.before{number}").read_bytes() for number in ("", ".2", ".3")]
    assert asides == [newest, older, newest]
    # One that was broken off goes on with the names that it began with.
    (seal / folder_module.RESTORE_NAME).write_bytes(b".before.3")
    assert restore_folder(read_backup(kept), seal, replace=False) == ".before.3"
    assert restore_folder(read_backup(kept), tmp_path / "empty", replace=False) == ""


def test_another_state_is_not_overwritten_unasked(tmp_path: Path, kept: Path) -> None:
    other = tmp_path / "other"
    fill(other, 1)
    with pytest.raises(BackupError, match="another state"):
        restore_folder(read_backup(kept), other, replace=False)
    restore_folder(read_backup(kept), other, replace=True)
    assert counted(other) == 12
    (other / DATA_NAME).write_bytes(b"something else")
    with pytest.raises(BackupError, match="no state"):
        restore_folder(read_backup(kept), other, replace=False)


def test_an_older_state_gives_way_to_its_newer_backup(seal: Path, kept: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(seal, older)
    fill(seal, 5)
    write_backup(copy_folder(seal), tmp_path / "newer")
    restore_folder(read_backup(tmp_path / "newer"), older, replace=False)
    assert counted(older) == 17


def test_a_folder_in_use_is_not_restored_into(seal: Path, kept: Path) -> None:
    with Opened(seal), pytest.raises(StateError, match="another coordinator uses"):
        restore_folder(read_backup(kept), seal, replace=True)


def test_a_damaged_backup_is_refused_wherever_it_is_damaged(kept: Path, tmp_path: Path) -> None:
    whole, raw = read_backup(kept), kept.read_bytes()
    chance, refused = random.Random(5), 0
    bad = tmp_path / "bad"
    for _ in range(400):
        data = bytearray(raw)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        bad.write_bytes(data)
        try:
            # Unless it was in what fills a block up, or in what nobody reads.
            assert read_backup(bad) == whole
        except BackupError:
            refused += 1
    assert refused > 200
    content = 512 + len(raw.rstrip(b"\0"))  # zeros fill the end up
    for length in range(0, len(raw), 701):
        bad.write_bytes(raw[:length])
        if length < content - 1024:
            with pytest.raises(BackupError):
                read_backup(bad)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "sealed_data", "evil", "backup.json", "sealed_log.x.1"])
def test_t42_a_backup_with_other_files_is_refused(kept: Path, name: str) -> None:
    with tarfile.open(kept, "a") as archive:
        entry = tarfile.TarInfo(name)
        archive.addfile(entry)
    with pytest.raises(BackupError, match="does not belong there"):
        read_backup(kept)


def test_t42_a_link_in_a_backup_is_refused(kept: Path) -> None:
    with tarfile.open(kept, "a") as archive:
        entry = tarfile.TarInfo("sealed_key.old")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(BackupError, match="does not belong there"):
        read_backup(kept)


def test_a_newer_backup_is_named(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_module, "VERSION", 0)
    with pytest.raises(BackupError, match="version 1, this program reads 0; use a newer program"):
        read_backup(kept)


def test_a_file_that_is_no_backup_is_named(tmp_path: Path, seal: Path) -> None:
    for path in (seal / DATA_NAME, tmp_path / "nothing", tmp_path):
        with pytest.raises(BackupError, match=str(path)):
            read_backup(path)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_restore_is_whole_or_not_at_all_wherever_it_fails(seal: Path, kept: Path, tmp_path: Path, error: int) -> None:
    fill(seal, 5)
    backup: Backup = read_backup(kept)
    at, untouched, halfway = 0, 0, 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(seal, folder)
        failed = True
        with FailingDisk(at, error):
            try:
                restore_folder(backup, folder, replace=True)
                failed = False
            except StateError as exc:
                message = str(exc)
        if not failed:
            break
        if "run the same command again" in message:
            halfway += 1
            with pytest.raises(StateError, match="brought back into .* in part"):
                counted(folder)
        else:
            untouched += 1
            assert {name: data for name, data in files(folder).items() if ".new" not in name} == files(seal)
            assert counted(folder) == 17
        restore_folder(backup, folder, replace=True)
        assert counted(folder) == 12
        assert not [path for path in folder.iterdir() if path.name.endswith(".new")]
    assert untouched > 5
    assert halfway > 5


def test_a_backup_that_cannot_be_written_leaves_nothing(seal: Path, tmp_path: Path) -> None:
    copy = copy_folder(seal)
    for at in range(1, 4):
        with FailingDisk(at, errno.ENOSPC), pytest.raises(BackupError, match="nothing was written"):
            write_backup(copy, tmp_path / "kept")
        assert sorted(os.listdir(tmp_path)) == ["seal"]
