"""Cut at any moment: after every change of the disk, and within every write, what was answered is there.

One life of a state, with everything that is ever written: a manifest, secrets, activations, reads, updates, snapshots,
log files, a new sealing key, recovery. Its changes of the disk are recorded, and the folder is had again as a
`kill -9`, or a power cut that loses what was not synced, would have left it at each of them.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.core import Made, encode, make_coordinator, make_order
from fakes.disk import FailingDisk, Moment, RecordedDisk
from fakes.officers import LOGGED, read_log
from tacit.coordinator.core import Coordinator
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import KEY_NAME, SealedFolder
from tacit.coordinator.store import folder as folder_module
from tacit.coordinator.store import logfiles as logfiles_module
from tacit.coordinator.updates import ledger as ledger_module
from tacit.errors import SealingKeyError, StateError

HOLDERS = [rsa.generate_private_key(65537, 2048) for _ in range(2)]
OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
ORDER, COUNTED = make_order(), make_order("counted")
SMALL = {"MIN_GROWTH": 3000, "FILE_SIZE": 2500, "TAIL": 1500}


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def manifest(holders: int, **more: Any) -> bytes:
    keys = {f"rec{number}": pem(key) for number, key in enumerate(HOLDERS[:holders])}
    return encode({**LOGGED, "RecoveryKeys": keys, **more})


def summary(core: Coordinator) -> tuple[Any, ...]:
    """Everything that a change can touch; the log's head is of this one history alone."""
    held = core.holdings
    raw = held.manifest.raw if held.manifest else b""
    counts = tuple(sorted(held.activations.items()))
    return raw, held.secrets.get("key"), counts, held.update_log, held.pending, core.status().log


class Life:
    """The steps, one after the other, over a folder that is opened again in between."""

    def __init__(self, folder: Path, *, rounds: int = 28) -> None:
        self.folder = folder
        self.rounds = rounds
        self.key = b""
        self.shares: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.store = SealedFolder(self.folder, None)
        try:
            self.made: Made = make_coordinator(store=self.store, contents=self.store.load())
        except SealingKeyError:
            self.made = make_coordinator(store=self.store, recovery=True)

    @property
    def core(self) -> Coordinator:
        return self.made.core

    def steps(self) -> Iterator[Callable[[], object]]:
        """Each is answered for as one."""
        secret = {"key": NewValue(key=bytes(32))}
        yield lambda: self.core.set_manifest(manifest(1))
        yield lambda: self.core.write_secrets("owner", secret)
        for _ in range(3):
            yield lambda: self.core.activate(COUNTED)
            yield lambda: self.core.activate(ORDER)
            yield lambda: self.core.read_secrets("owner", ["key"])
        yield lambda: self.core.updates.update("owner", b'{"Packages":{"p":{"SecurityVersion":2}}}')
        yield lambda: self.core.activate(COUNTED)
        self.store.close()
        self.open()
        yield lambda: self.core.activate(COUNTED)
        yield lambda: self.core.updates.update("owner", manifest(1, Config={"SealMode": "UniqueKey"}))
        for _ in range(2):
            yield lambda: self.core.activate(ORDER)
            yield lambda: self.core.activate(COUNTED)
        yield self.change_recovery_keys
        yield lambda: self.core.activate(COUNTED)
        yield lambda: self.core.write_secrets("owner", {"key": NewValue(key=b"2" * 32)})
        self.store.close()
        os.unlink(self.folder / KEY_NAME)
        self.open()
        yield self.recover
        for _ in range(self.rounds):
            yield lambda: self.core.activate(COUNTED)
            yield lambda: self.core.activate(ORDER)

    def change_recovery_keys(self) -> None:
        shares = self.core.updates.update("owner", manifest(2)).recovery_secrets
        self.shares = [holder.decrypt(shares[f"rec{number}"], OAEP) for number, holder in enumerate(HOLDERS)]
        self.key = (self.folder / KEY_NAME).read_bytes()

    def recover(self) -> None:
        given = zip(HOLDERS, self.shares, strict=True)
        left = [self.core.recover(share, holder.sign(share, padding.PKCS1v15(), SHA256())) for holder, share in given]
        assert left == [1, 0]


@dataclass
class Recorded:
    disk: RecordedDisk
    summaries: list[tuple[Any, ...]]
    key: bytes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and log files come often."""
    monkeypatch.setattr(folder_module, "MIN_GROWTH", SMALL["MIN_GROWTH"])
    monkeypatch.setattr(logfiles_module, "FILE_SIZE", SMALL["FILE_SIZE"])
    monkeypatch.setattr(ledger_module, "TAIL", SMALL["TAIL"])


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    folder = tmp_path / "life"
    folder.mkdir()
    with RecordedDisk(folder) as disk:
        life = Life(folder)
        summaries = [summary(life.core)]
        for step in life.steps():
            step()
            disk.answer()
            summaries.append(summary(life.core))
        life.store.close()
    kinds = {change[:2] for change in disk.changes}
    # It did all that can be done to a disk: keys, plans, snapshots, log files, each in its turn.
    assert {"sealed_data.tmp", "sealed_key.tmp", "sealed_recovery.tmp"} <= {
        name for kind, name in kinds if kind == "create"
    }
    assert sum(name.startswith("sealed_log.") for kind, name in kinds if kind == "create") > 2
    assert sum(change[0] == "rename" and change[2] == "sealed_data" for change in disk.changes) > 3
    return Recorded(disk, summaries, life.key)


def open_as_found(folder: Path, key: bytes) -> tuple[SealedFolder, Coordinator]:
    """As the program opens it; where the key is gone, as its holder recovers it."""
    store = SealedFolder(folder, None)
    try:
        contents = store.load()
    except SealingKeyError:
        contents = store.open_with(key)
        store.adopt(key, bound_to="signer")
    return store, make_coordinator(store=store, contents=contents).core


def check(recorded: Recorded, moment: Moment, folder: Path) -> None:
    folder.mkdir()
    recorded.disk.rebuild(moment, folder)
    store, core = open_as_found(folder, recorded.key)
    answered = recorded.disk.answered(moment)
    found, possible = summary(core), recorded.summaries[answered : answered + 2]
    if answered == 0 and core.holdings.manifest is None:
        store.close()
        return
    assert found in possible, f"after {answered} answers, at {moment}"
    entries = read_log(core)
    assert len(entries) == found[-1].number
    # And it goes on from there.
    core.activate(COUNTED)
    store.close()
    store, core = open_as_found(folder, recorded.key)
    assert core.holdings.activations["counted"] == dict(found[2]).get("counted", 0) + 1
    assert len(read_log(core)) >= found[-1].number + 1
    store.close()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_nothing_that_was_answered_is_lost_wherever_it_is_cut(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    moments = list(recorded.disk.moments())
    assert len(moments) > 500
    for number, moment in enumerate(moments):
        check(recorded, moment, tmp_path / str(number))


# ---- a disk that refuses, and a process that goes on


def live(folder: Path) -> tuple[Life, bool]:
    """A life in which what was refused is asked for again."""
    life = Life(folder, rounds=2)
    refused = False
    for step in life.steps():
        before = summary(life.core)
        try:
            step()
        except StateError:
            assert not refused
            refused = True
            # Of a second attempt at recovery all but the last share may have been taken.
            assert life.core.holdings.manifest is None or summary(life.core) == before
            step()
    return life, refused


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 11])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_disk_that_refuses_any_one_change_costs_nothing_that_was_answered(
    tmp_path: Path, error: int, every: int
) -> None:
    at, tried, refusals = 1 - every, 0, 0
    while True:
        at += every
        tried += 1
        folder = tmp_path / str(at)
        with FailingDisk(at, error) as disk:
            life, refused = live(folder)
            refusals += refused
            after = summary(life.core)
            life.store.close()
        store, core = open_as_found(folder, life.key)
        assert summary(core) == after, f"the disk refused change {at}"
        assert len(read_log(core)) == after[-1].number
        store.close()
        if not disk.failed:
            break
    assert at > 90
    assert refusals > tried // 2
