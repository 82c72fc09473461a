"""What records say: a program refuses what it does not know, whoever sealed it."""

import msgspec
import pytest

from fakes.core import PLAIN_MANIFEST, encode, make_coordinator
from tacit.coordinator.sealed.changes import encode_change, encode_snapshot, replay
from tacit.coordinator.state import Activated
from tacit.errors import SealedStateError


def snapshot() -> bytes:
    core = make_coordinator().core
    core.set_manifest(encode(PLAIN_MANIFEST))
    return encode_snapshot(core.holdings)


def test_a_change_counts_on_what_the_snapshot_said() -> None:
    once = encode_change(Activated("m", "u"))
    assert replay([snapshot(), once, once]).holdings.activations == {"m": 2}


def test_nothing_is_sealed_before_a_manifest_is_set() -> None:
    with pytest.raises(SealedStateError, match="before a manifest"):
        encode_snapshot(make_coordinator().core.holdings)


@pytest.mark.parametrize(
    "later",
    [b"?" + msgspec.msgpack.encode({}), b"a\xc1", b"a" + msgspec.msgpack.encode({"marble_type": "m"}), b""],
    ids=["kind", "no MessagePack", "field", "nothing"],
)
def test_a_record_of_a_newer_program_is_named(later: bytes) -> None:
    with pytest.raises(SealedStateError, match="newer program"):
        replay([snapshot(), later])


@pytest.mark.parametrize("part", ["manifest", "certificate", "key"])
def test_a_snapshot_with_a_part_that_cannot_be_read_is_refused_and_no_fault(part: str) -> None:
    raw = snapshot()
    said = msgspec.msgpack.decode(raw[1:])
    (said if part == "manifest" else said["root"])[part] = b"nonsense"
    with pytest.raises(SealedStateError, match="newer program"):
        replay([raw[:1] + msgspec.msgpack.encode(said)])


def test_a_file_begins_with_a_snapshot() -> None:
    with pytest.raises(SealedStateError, match="newer program"):
        replay([encode_change(Activated("m", "u"))])
    with pytest.raises(SealedStateError, match="holds nothing"):
        replay([])
