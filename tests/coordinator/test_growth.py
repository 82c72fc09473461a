"""What a change costs, whatever the size of the manifest and the age of the state; and older files, brought up to date."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fakes.core import encode, make_coordinator, make_order
from fakes.officers import LOGGED
from tacit.coordinator.core import Coordinator
from tacit.coordinator.sealed import records as records_module
from tacit.coordinator.sealed.changes import encode_snapshot
from tacit.coordinator.sealed.records import STATE, Format, Position, seal_record, start_file
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import DATA_NAME, KEY_NAME, SealedFolder
from tacit.coordinator.store import folder as folder_module
from tacit.errors import SealedStateError, StateError

pytestmark = pytest.mark.slow

VECTORS = Path(__file__).parents[1] / "vectors" / "state"
V1 = Format(STATE.magic, 1, 1, STATE.name)


def sized(types: int) -> dict[str, Any]:
    """A manifest with so many types of marbles."""
    more = {f"type-{number}": {"Package": "p", "Parameters": {"Argv": ["a" * 100]}} for number in range(types)}
    return {**LOGGED, "Marbles": {**LOGGED["Marbles"], **more}}


class Counting:
    """Bytes that are written to files."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.written = 0
        real = os.write

        def write(file: int, data: bytes) -> int:
            done = real(file, data)
            self.written += done
            return done

        patch.setattr(os, "write", write)

    def during(self, act: Any) -> int:
        before = self.written
        act()
        return self.written - before


def test_what_a_change_writes_does_not_grow_with_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    cost: dict[int, list[int]] = {}
    for types in (1, 1000):
        store = SealedFolder(tmp_path / str(types), None)
        core = make_coordinator(store=store).core
        core.set_manifest(encode(sized(types)))
        assert (tmp_path / str(types) / DATA_NAME).stat().st_size > 100 * types
        cost[types] = [
            counting.during(lambda core=core: core.write_secrets("owner", {"key": NewValue(key=bytes(32))})),
            counting.during(lambda core=core: core.read_secrets("owner", ["key"])),
            counting.during(lambda core=core: core.activate(make_order())),
            counting.during(lambda core=core: core.activate(make_order("counted"))),
        ]
        store.close()
    assert cost[1] == cost[1000]
    assert max(cost[1000]) < 1000


@pytest.mark.slow
def test_over_time_snapshots_cost_no_more_than_the_changes_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    monkeypatch.setattr(folder_module, "MIN_GROWTH", 64 << 10)
    counting = Counting(monkeypatch)
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store).core
    core.set_manifest(encode(sized(100)))
    one = counting.during(lambda: core.activate(make_order()))
    order = make_order("counted")
    whole = counting.during(lambda: [core.activate(order) for _ in range(2000)])
    assert whole < 4 * 2000 * one
    store.close()


def test_a_start_takes_no_longer_after_20000_counted_activations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(folder: Path) -> tuple[float, Coordinator]:
        began = time.process_time()
        store = SealedFolder(folder, None)
        core = make_coordinator(store=store, contents=store.load()).core
        took = time.process_time() - began
        store.close()
        return took, core

    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store).core
    core.set_manifest(encode(LOGGED))
    entry = core._ledger
    # The release is made once and counted 20,000 times: what is measured is the state, not the certificates.
    released = core._activations._activate(make_order("counted"))
    monkeypatch.setattr("tacit.coordinator.core.activations.release", lambda *_, **__: released[0])
    monkeypatch.setattr("tacit.coordinator.core.activations.permit", lambda *_, **__: None)
    monkeypatch.setattr("tacit.coordinator.core.activations._activation", lambda *_: released[1])
    order = make_order("counted")
    for _ in range(20_000):
        core._activations._activate(order)
    assert entry.holdings.activations == {"counted": 20_001}
    store.close()
    took, core = start(tmp_path)
    assert core.holdings.activations == {"counted": 20_001}
    assert core.status().log.number == 20_002
    assert (tmp_path / DATA_NAME).stat().st_size < 3 << 20
    assert took < 5


# ---- versions of the file


def copy_of_v1(tmp_path: Path) -> Path:
    folder = tmp_path / "seal"
    shutil.copytree(VECTORS / "v1", folder)
    return folder


def open_folder(folder: Path) -> tuple[SealedFolder, Coordinator]:
    store = SealedFolder(folder, None)
    try:
        return store, make_coordinator(store=store, contents=store.load()).core
    except BaseException:
        store.close()
        raise


def test_a_state_of_version_1_opens_goes_on_and_is_kept_beside(tmp_path: Path) -> None:
    folder = copy_of_v1(tmp_path)
    old = (folder / DATA_NAME).read_bytes()
    expected = json.loads((folder / "expected.json").read_text())
    for restart in range(2):
        store, core = open_folder(folder)
        position = core.status().position
        assert core.holdings.activations == {"m": 2 + restart}
        assert core.holdings.secrets["key"].private.hex() == expected["secret"]
        # The chain goes on from where the older program left it.
        assert position.epoch == expected["epoch"] + 1 + restart
        assert (folder / f"{DATA_NAME}.old").read_bytes() == old
        assert (folder / DATA_NAME).read_bytes()[8:10] == b"\0\2"
        assert core.status().log.number == 1 + restart
        core.activate(make_order())
        store.close()


def test_where_there_is_no_room_to_upgrade_the_old_file_stays_and_is_upgraded_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    folder = copy_of_v1(tmp_path)
    old = (folder / DATA_NAME).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        store, core = open_folder(folder)
        assert (folder / DATA_NAME).read_bytes() == old
        with pytest.raises(StateError, match="No space left"):
            core.activate(make_order())
    core.activate(make_order())
    assert core.status().log.number == 2
    store.close()
    store, core = open_folder(folder)
    assert core.holdings.activations == {"m": 3}
    assert (folder / f"{DATA_NAME}.old").read_bytes() == old
    store.close()


def test_a_state_of_version_1_is_recovered_and_upgraded(tmp_path: Path) -> None:
    folder = copy_of_v1(tmp_path)
    key = (folder / KEY_NAME).read_bytes()
    store = SealedFolder(folder, None)
    contents = store.open_with(key)
    store.adopt(key, bound_to="signer")
    core = make_coordinator(store=store, contents=contents).core
    core.activate(make_order())
    store.close()
    store, core = open_folder(folder)
    assert core.status().log.number == 2
    store.close()


def test_a_newer_state_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "seal"
    store = SealedFolder(folder, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(encode(LOGGED))
    store.close()
    key = (folder / KEY_NAME).read_bytes()
    newer = Format(STATE.magic, STATE.version + 1, 1, STATE.name)
    start = start_file(key, state_id=b"i" * 16, file_id=b"f" * 16, base=Position(), format_=newer)
    record, _ = seal_record(b"S", start=start, after=Position(), nonce=bytes(12))
    (folder / DATA_NAME).write_bytes(start.header + record)
    with pytest.raises(SealedStateError, match="version 3, this program reads up to 2; use a newer program"):
        open_folder(folder)
    assert (folder / DATA_NAME).read_bytes() == start.header + record


def test_an_older_program_refuses_a_state_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "seal"
    store = SealedFolder(folder, None)
    made = make_coordinator(store=store)
    made.core.set_manifest(encode(LOGGED))
    assert encode_snapshot(made.core.holdings)
    store.close()
    with pytest.raises(SealedStateError, match="version 2, this program reads up to 1; use a newer program"):
        records_module.read_file((folder / DATA_NAME).read_bytes(), (folder / KEY_NAME).read_bytes(), V1)
