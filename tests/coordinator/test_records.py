"""The file of sealed records: what was appended is read, and nothing else opens."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.coordinator.sealed.records import (
    STATE,
    Position,
    chain,
    read_file,
    seal_record,
    start_file,
)
from tacit.errors import SealedStateError, SealingKeyError

KEY = bytes(range(32))
HEADER = 116
START = Position()


def build(payloads: list[bytes], *, base: Position = START, file_id: bytes = b"f" * 16) -> tuple[bytes, list[int]]:
    """A file, and where each of its records ends."""
    start = start_file(KEY, state_id=b"s" * 16, file_id=file_id, base=base)
    data, position, ends = start.header, base, []
    for index, payload in enumerate(payloads):
        record, position = seal_record(payload, start=start, after=position, nonce=bytes([index]) * 12)
        data += record
        ends.append(len(data))
    return data, ends


PAYLOADS = [b"snapshot", b"one", b"two" * 100, b""]
DATA, ENDS = build(PAYLOADS)


def test_the_header_has_the_documented_size() -> None:
    assert len(start_file(KEY, state_id=b"s" * 16, file_id=b"f" * 16, base=Position()).header) == HEADER


@given(payloads=st.lists(st.binary(max_size=200), min_size=1, max_size=8), epoch=st.integers(0, 2**40))
def test_what_was_appended_is_what_is_read(payloads: list[bytes], epoch: int) -> None:
    data, _ = build(payloads, base=Position(epoch, b"h" * 32))
    contents = read_file(data, KEY)
    assert list(contents.payloads) == payloads
    assert contents.position.epoch == epoch + len(payloads)
    assert contents.torn == 0


def test_no_payload_stands_readable_in_the_file() -> None:
    assert b"snapshot" not in DATA


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_t31_a_file_cut_at_a_border_is_an_older_state_with_another_head(kept: int) -> None:
    contents = read_file(DATA[: ENDS[kept - 1]], KEY)
    assert contents.payloads == tuple(PAYLOADS[:kept])
    assert contents.position.epoch == kept
    assert contents.position != read_file(DATA, KEY).position


def test_a_record_that_was_half_written_is_told_and_left_out() -> None:
    for cut in range(ENDS[2] + 1, ENDS[3]):
        contents = read_file(DATA[:cut], KEY)
        assert contents.payloads == tuple(PAYLOADS[:3])
        assert contents.torn == cut - ENDS[2]


def test_zeros_after_the_last_record_are_a_record_that_was_never_written() -> None:
    for size in (1, 39, 40, 41, 4096):
        contents = read_file(DATA + bytes(size), KEY)
        assert contents.payloads == tuple(PAYLOADS)
        assert contents.torn == size


def test_a_record_whose_end_never_reached_the_disk_is_left_out() -> None:
    torn = DATA[: ENDS[3] - 16] + bytes(16)
    assert read_file(torn, KEY).payloads == tuple(PAYLOADS[:3])


def test_a_file_cut_within_its_first_record_is_refused() -> None:
    for cut in (0, 1, 8, HEADER - 1, HEADER, HEADER + 1, ENDS[0] - 1):
        with pytest.raises(SealedStateError):
            read_file(DATA[:cut], KEY)


def test_every_flipped_bit_is_refused() -> None:
    for at in range(len(DATA)):
        altered = bytearray(DATA)
        altered[at] ^= 1 << (at % 8)
        with pytest.raises(SealedStateError):
            read_file(bytes(altered), KEY)


def test_a_length_made_longer_does_not_make_the_rest_look_unfinished() -> None:
    altered = bytearray(DATA)
    struct.pack_into(">I", altered, ENDS[0], 1 << 30)
    with pytest.raises(SealedStateError, match="record 2"):
        read_file(bytes(altered), KEY)


def test_swapped_records_are_refused() -> None:
    first, second = DATA[ENDS[0] : ENDS[1]], DATA[ENDS[1] : ENDS[2]]
    with pytest.raises(SealedStateError):
        read_file(DATA[: ENDS[0]] + second + first + DATA[ENDS[2] :], KEY)


def test_a_record_taken_out_is_refused() -> None:
    with pytest.raises(SealedStateError):
        read_file(DATA[: ENDS[0]] + DATA[ENDS[1] :], KEY)


def test_a_record_that_stands_twice_is_refused() -> None:
    with pytest.raises(SealedStateError):
        read_file(DATA[: ENDS[1]] + DATA[ENDS[0] : ENDS[1]], KEY)


def test_a_record_of_another_file_of_the_same_state_is_refused() -> None:
    other, ends = build(PAYLOADS, file_id=b"g" * 16)
    with pytest.raises(SealedStateError):
        read_file(DATA[: ENDS[0]] + other[ends[0] : ends[1]], KEY)


def test_the_header_of_another_file_of_the_same_state_is_refused() -> None:
    other, _ = build(PAYLOADS, file_id=b"g" * 16)
    with pytest.raises(SealedStateError):
        read_file(other[:HEADER] + DATA[HEADER:], KEY)


def test_another_key_is_told_from_a_damaged_file() -> None:
    with pytest.raises(SealingKeyError):
        read_file(DATA, bytes(32))


def test_bytes_of_marblerun_are_named_as_such() -> None:
    with pytest.raises(SealedStateError, match="MarbleRun"):
        read_file(b"\x04\x00\x00\x00null" + bytes(100), KEY)


def test_a_newer_version_is_named() -> None:
    altered = bytearray(DATA)
    altered[9] = STATE.version + 1
    with pytest.raises(SealedStateError, match=r"version 3, this program reads up to 2; use a newer program"):
        read_file(bytes(altered), KEY)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_file_or_a_refusal(data: bytes) -> None:
    with pytest.raises((SealedStateError, SealingKeyError)):
        read_file(DATA[:10] + data, KEY)


def test_the_head_depends_on_every_payload() -> None:
    assert chain(Position(), b"a") != chain(Position(), b"b")
    assert chain(chain(Position(), b"a"), b"b") != chain(chain(Position(), b"b"), b"a")
