"""Exports of the audit log: the coordinator's own passes, and nothing that was done to it does."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from fakes.core import encode, make_coordinator, make_order
from fakes.officers import LOGGED
from fakes.tee import NOW
from tacit.client.log import export_log, verify_descent, verify_export
from tacit.coordinator.core import Coordinator
from tacit.coordinator.store import SealedFolder
from tacit.errors import LogError, PeerError, RollbackError
from tacit.pki import issue_root
from tacit.wire.log import LOG_START, LogPosition, LogV2

ENTRIES = 12


def make() -> Coordinator:
    core = make_coordinator().core
    core.set_manifest(encode(LOGGED))
    for _ in range(ENTRIES - 1):
        core.activate(make_order())
    return core


def fetch(core: Coordinator, size: int = 5) -> Callable[[int], LogV2]:
    """Pages of `size` entries, as the route gives them."""

    def page(after: int) -> LogV2:
        found = core.audit.page("officer", after)
        lines = [line.decode() for line in found.lines[:size]]
        return LogV2(found.begins.number, found.begins.head.hex(), lines, found.mark)

    return page


CORE = make()
ROOT = CORE.holdings.identity.root.certificate
EXPORT = list(export_log(fetch(CORE)))
HEADS = [LOG_START.after_lines(EXPORT[:count]) for count in range(ENTRIES + 1)]


def refused(lines: list[bytes], match: str, error: type[Exception] = LogError, **more: Any) -> None:
    with pytest.raises(error, match=match):
        verify_export(lines, ROOT, **more)


def test_the_whole_log_passes_page_by_page() -> None:
    verified = verify_export(EXPORT, ROOT)
    assert (verified.begins.number, verified.ends) == (0, HEADS[-1])
    assert [json.loads(line)["number"] for line in EXPORT[:-1]] == list(range(1, ENTRIES + 1))
    for size in (1, 3, 100):
        assert list(export_log(fetch(CORE, size))) == EXPORT


def test_a_log_is_kept_in_parts_that_follow_each_other() -> None:
    later = list(export_log(fetch(CORE), 4))
    assert json.loads(later[0]) == {"begins": {"after": 4, "head": HEADS[4].head.hex()}}
    assert verify_export(later, ROOT, after=4).begins == HEADS[4]
    refused(later, "begins after entry 4, expected after 0")
    refused(EXPORT, "begins after entry 0, expected after 4", after=4)


@pytest.mark.parametrize("seen", HEADS, ids=lambda position: position.number)
def test_t65_what_was_seen_is_in_the_log(seen: LogPosition) -> None:
    verify_export(EXPORT, ROOT, seen=seen)
    verify_export(list(export_log(fetch(CORE), 6)), ROOT, after=6, seen=seen)


def test_t62_a_cut_tail_is_refused() -> None:
    for count in range(len(EXPORT)):
        refused(EXPORT[:count], "no mark at its end")
        if count < ENTRIES:
            refused([*EXPORT[:count], EXPORT[-1]], "cut, moved, forged or altered")


def test_t62_an_older_export_is_refused_by_whoever_saw_more() -> None:
    core = make()
    older = list(export_log(fetch(core)))
    core.activate(make_order())
    newest = core.status().log
    root = core.holdings.identity.root.certificate
    verify_export(older, root)
    with pytest.raises(RollbackError, match="ends at entry 12, and the log was seen at 13"):
        verify_export(older, root, seen=newest)


def test_t62_entries_that_were_moved_or_taken_out_are_refused() -> None:
    for at in range(ENTRIES - 1):
        swapped = [*EXPORT]
        swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
        refused(swapped, f"line {at + 1} is entry {at + 2}")
        refused([*EXPORT[:at], *EXPORT[at + 1 :]], f"line {at + 1} is entry {at + 2}, expected {at + 1}")


@given(at=st.integers(0, ENTRIES), sign=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_t62_a_changed_bit_anywhere_is_refused(at: int, sign: int, bit: int) -> None:
    line = bytearray(EXPORT[at])
    line[sign % len(line)] ^= 1 << bit
    altered = [*EXPORT[:at], bytes(line), *EXPORT[at + 1 :]]
    try:
        verified = verify_export(altered, ROOT)
    except LogError:
        return
    # JSON has several spellings of one mark: what it says is what was signed.
    assert at == ENTRIES
    assert verified.ends == HEADS[-1]


def test_t62_a_forged_entry_is_refused() -> None:
    forged = EXPORT[3].replace(b'"marble activated"', b'"marble admired"')
    assert forged != EXPORT[3]
    refused([*EXPORT[:3], forged, *EXPORT[4:]], "cut, moved, forged or altered")
    refused([*EXPORT, EXPORT[0]], "line 14 comes after the mark")


def test_t62_a_mark_of_another_root_is_refused() -> None:
    with pytest.raises(LogError, match="not signed by the coordinator's root key"):
        verify_export(EXPORT, issue_root(("localhost",), now=NOW).certificate)
    assert isinstance(ROOT, x509.Certificate)


def test_t62_a_gap_in_the_middle_is_named() -> None:
    gap = json.dumps({"begins": {"after": 6, "head": HEADS[6].head.hex()}}).encode()
    gap = gap.replace(b'{"begins": ', b'{"begins":')
    refused([*EXPORT[:4], gap, *EXPORT[6:]], "entries 5 to 6 are missing before line 5")


def test_t65_another_log_than_the_one_that_was_seen_is_refused() -> None:
    other = LogPosition(5, b"\5" * 32)
    refused(EXPORT, "another history", RollbackError, seen=other)


@pytest.mark.parametrize(
    "line", [b"", b"nonsense", b"[]", b'{"number":"1"}', b'{"mark":{}}', b'{"begins":{"after":0}}', b"\xff"]
)
def test_t13_what_is_no_line_is_refused_with_its_number(line: bytes) -> None:
    refused([line, *EXPORT], "line 1 is no line of an export")


@pytest.mark.parametrize("head", ["xy", "00", "00" * 33])
def test_t13_a_head_that_is_none_is_refused(head: str) -> None:
    refused([b'{"begins":{"after":1,"head":"%s"}}' % head.encode(), *EXPORT[1:]], "a head of the log")


def digests_of(core: Coordinator) -> Callable[[int], tuple[int, bytes]]:
    def fetch_digests(after: int) -> tuple[int, bytes]:
        page = core.audit.digests(after)
        return page.begins.number, b"".join(page.lines)

    return fetch_digests


@contextmanager
def opened(folder: Path) -> Iterator[Coordinator]:
    store = SealedFolder(folder, None)
    try:
        yield make_coordinator(store=store, contents=store.load()).core
    finally:
        store.close()


def test_t20_t31_an_old_manifest_that_comes_back_is_refused_however_far_its_state_goes_on(tmp_path: Path) -> None:
    older = encode(LOGGED)
    with opened(tmp_path / "seal") as core:
        core.set_manifest(older)
    shutil.copytree(tmp_path / "seal", tmp_path / "older")
    with opened(tmp_path / "seal") as core:
        core.updates.update("owner", encode({**LOGGED, "Marbles": {"m": {"Package": "p"}}}))
        seen = core.status().log
        core.activate(make_order())
        verify_descent("host", seen, core.status().log, digests_of(core), forget="forget it")
    with opened(tmp_path / "older") as core:
        for _ in range(10):
            core.activate(make_order())
        now = core.status().log
        assert core.manifest()[0] == older
        assert now.number > seen.number
        with pytest.raises(RollbackError, match="another history than the one that was seen"):
            verify_descent("host", seen, now, digests_of(core), forget="forget it")


def test_t34_of_two_coordinators_with_one_state_a_client_takes_the_one_that_it_saw(tmp_path: Path) -> None:
    with opened(tmp_path / "seal") as core:
        core.set_manifest(encode(LOGGED))
    shutil.copytree(tmp_path / "seal", tmp_path / "clone")
    with opened(tmp_path / "seal") as core, opened(tmp_path / "clone") as clone:
        core.activate(make_order())
        seen = core.status().log
        for _ in range(3):
            core.activate(make_order())
            clone.activate(make_order())
        verify_descent("host", seen, core.status().log, digests_of(core), forget="forget it")
        with pytest.raises(RollbackError, match="another history"):
            verify_descent("host", seen, clone.status().log, digests_of(clone), forget="forget it")


def test_a_coordinator_whose_pages_do_not_follow_each_other_is_not_believed() -> None:
    honest = fetch(CORE)

    def repeats(_: int) -> LogV2:
        return honest(0)

    with pytest.raises(PeerError, match="entries after 0, and those after 5 were asked"):
        list(export_log(repeats))
