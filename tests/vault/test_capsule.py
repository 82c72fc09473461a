"""The capsule format: what it gives back, and everything it refuses."""

import io
import os
import tracemalloc
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import (
    CapsuleChunkError,
    CapsuleFormatError,
    CapsuleIndexError,
    CapsuleKeyError,
    InputError,
    VaultError,
)
from tacit.vault import layout
from tacit.vault.capsule import Source, read_capsule, read_header, write_capsule
from tacit.vault.keys import derive_capsule_keys, generate_key, parse_key

KEY = bytes(range(32))
CHUNK = 1 << layout.CHUNK_POWER


def seal(
    files: Mapping[str, bytes], key: bytes = KEY, *, salt: bytes | None = None, name: str = "m", version: int = 1
) -> bytes:
    out = io.BytesIO()
    sources = [
        Source(file, len(content), lambda content=content: io.BytesIO(content)) for file, content in files.items()
    ]  # type: ignore[misc]
    draw = os.urandom if salt is None else lambda size: salt
    write_capsule(out, sources, key, name=name, version=version, random_bytes=draw)
    return out.getvalue()


def open_all(raw: bytes, key: bytes = KEY) -> dict[str, bytes]:
    capsule = read_capsule(io.BytesIO(raw), key)
    return {file.name: bytes(capsule.read(file.name)) for file in capsule.info.files}


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text("abcdefgh123", min_size=1, max_size=8),
        st.one_of(st.binary(max_size=200), st.integers(CHUNK - 2, CHUNK + 2).map(lambda size: b"x" * size)),
        min_size=1,
        max_size=4,
    )
)
def test_what_went_in_comes_out(files: dict[str, bytes]) -> None:
    assert open_all(seal(files)) == files


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_every_size_around_a_chunk_comes_out(size: int) -> None:
    content = os.urandom(size)
    assert open_all(seal({"f": content})) == {"f": content}


def test_a_file_is_read_as_a_stream_in_pieces_of_any_size() -> None:
    content = os.urandom(CHUNK + 1000)
    with read_capsule(io.BytesIO(seal({"a/b": content})), KEY) as capsule, capsule.open("a/b") as stream:
        pieces = []
        while piece := stream.read(777_777):
            pieces.append(piece)
    assert b"".join(pieces) == content


def test_name_version_and_files_come_back_in_order() -> None:
    info = read_capsule(io.BytesIO(seal({"b": b"1", "a": b"22"}, name="digits", version=7)), KEY).info
    assert (info.name, info.version, [(file.name, file.size) for file in info.files]) == (
        "digits",
        7,
        [("b", 1), ("a", 2)],
    )


def test_the_id_is_known_without_the_key() -> None:
    raw = seal({"f": b"content"})
    assert read_header(io.BytesIO(raw)).id == read_capsule(io.BytesIO(raw), KEY).info.id


def test_t28_two_capsules_of_one_model_share_no_salt_and_no_ciphertext() -> None:
    one, other = seal({"f": b"x" * 100}), seal({"f": b"x" * 100})
    assert one[16:48] != other[16:48]
    assert one[80:180] != other[80:180]


def test_t28_no_two_places_share_a_nonce() -> None:
    nonces = {
        layout.chunk_nonce(file, chunk, last=last)
        for file in range(40)
        for chunk in range(40)
        for last in (False, True)
    }
    assert len(nonces) == 40 * 40 * 2


def test_another_key_is_refused_by_name() -> None:
    with pytest.raises(CapsuleKeyError, match="another one"):
        open_all(seal({"f": b"content"}), bytes(32))


def test_t29_a_capsule_opens_under_one_key_only() -> None:
    # Replacing the commitment by another key's is not enough: what is bound to the header no longer opens.
    raw = bytearray(seal({"f": b"content"}))
    other = bytes(32)
    raw[48:80] = derive_capsule_keys(other, bytes(raw[16:48])).commitment
    with pytest.raises(CapsuleIndexError):
        open_all(bytes(raw), other)
    with pytest.raises(CapsuleKeyError):
        open_all(bytes(raw), KEY)


def test_t45_every_flipped_bit_of_every_byte_is_refused() -> None:
    raw = seal({"a": b"abc", "b": b""}, name="n")
    for at in range(len(raw)):
        altered = bytearray(raw)
        altered[at] ^= 1 << at % 8
        with pytest.raises(VaultError):
            open_all(bytes(altered))


def test_t45_every_truncation_and_every_appended_byte_is_refused() -> None:
    raw = seal({"a": b"abc", "b": b"defg"})
    for size in range(len(raw)):
        with pytest.raises(VaultError):
            open_all(raw[:size])
    with pytest.raises(CapsuleFormatError):
        open_all(raw + b"\0")


def test_t45_chunks_swapped_within_a_file_are_refused() -> None:
    raw = bytearray(seal({"f": os.urandom(3 * CHUNK)}))
    step, first = CHUNK + layout.TAG, layout.HEADER.size
    one, two = raw[first : first + step], raw[first + step : first + 2 * step]
    raw[first : first + 2 * step] = two + one
    with pytest.raises(CapsuleChunkError, match="chunk 0 of f"):
        open_all(bytes(raw))


def test_t45_files_of_equal_size_swapped_are_refused() -> None:
    raw = bytearray(seal({"a": b"x" * 50, "b": b"y" * 50}))
    first, step = layout.HEADER.size, 50 + layout.TAG
    raw[first : first + 2 * step] = raw[first + step : first + 2 * step] + raw[first : first + step]
    with pytest.raises(CapsuleChunkError):
        open_all(bytes(raw))


def test_t45_a_chunk_of_another_version_under_the_same_key_is_refused() -> None:
    old, new = seal({"f": b"old" * 20}), bytearray(seal({"f": b"new" * 20}))
    end = layout.HEADER.size + 60 + layout.TAG
    new[layout.HEADER.size : end] = old[layout.HEADER.size : end]
    with pytest.raises(CapsuleChunkError):
        open_all(bytes(new))


def test_t45_the_index_of_another_version_is_refused() -> None:
    old, new = seal({"f": b"old"}), seal({"f": b"new"})
    at = layout.HEADER.size + 3 + layout.TAG
    with pytest.raises(CapsuleIndexError):
        open_all(new[:at] + old[at:])


def test_t45_chunks_of_another_content_under_the_same_salt_are_refused_by_the_index() -> None:
    # Only the key's owner can make this pair; the index still knows its own chunks.
    salt = bytes(32)
    one, other = seal({"f": b"one"}, salt=salt), seal({"f": b"two"}, salt=salt)
    at = layout.HEADER.size + 3 + layout.TAG
    with pytest.raises(CapsuleChunkError):
        open_all(other[:at] + one[at:])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "e\u0301",
        "x" * 256,
        "\u202ea",
    ],
)
def test_t42_a_name_that_could_leave_the_folder_is_refused(name: str) -> None:
    with pytest.raises(CapsuleIndexError):
        seal({name: b""})


def test_t42_names_that_mean_one_file_on_some_systems_are_refused() -> None:
    with pytest.raises(CapsuleIndexError, match="mean one file"):
        seal({"Model.pb": b"", "model.pb": b""})


def test_t42_a_reader_checks_names_too() -> None:
    header = layout.build_header(bytes(32), derive_capsule_keys(KEY, bytes(32)).commitment)
    index = layout.Index("m", 1, (layout.CapsuleFile("../../etc/cron", 0),), (bytes(32),))
    sealed = layout.seal_index(index, header, derive_capsule_keys(KEY, bytes(32)).index)
    raw = header + bytes(16) + sealed + layout.TRAILER.pack(len(sealed), layout.END)
    with pytest.raises(CapsuleIndexError, match="no relative path"):
        open_all(raw)


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(CapsuleIndexError, match="at least one"):
        seal({})


@pytest.mark.parametrize("length", [0, 16, 1 << 40, (1 << 64) - 1, layout.MAX_INDEX + 1])
def test_t44_a_lying_index_length_is_refused_before_memory_is_taken(length: int) -> None:
    raw = seal({"f": b"content"})
    tracemalloc.start()
    try:
        with pytest.raises(CapsuleFormatError):
            open_all(raw[:-16] + layout.TRAILER.pack(length, layout.END))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_t44_a_lying_size_is_refused_before_memory_is_taken() -> None:
    keys = derive_capsule_keys(KEY, bytes(32))
    header = layout.build_header(bytes(32), keys.commitment)
    index = layout.Index("m", 1, (layout.CapsuleFile("f", 1 << 60),), (bytes(32),))
    sealed = layout.seal_index(index, header, keys.index)
    with pytest.raises(CapsuleFormatError, match="chunks take 16 bytes"):
        open_all(header + bytes(16) + sealed + layout.TRAILER.pack(len(sealed), layout.END))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_t13_any_bytes_give_a_refusal_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(VaultError):
        open_all(raw)
    with pytest.raises(VaultError):
        open_all(layout.MAGIC + raw)


@pytest.mark.parametrize(("claimed", "message"), [(5, "grew"), (9, "shrank")])
def test_a_file_that_changes_while_it_is_read_is_refused(claimed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_capsule(io.BytesIO(), [Source("f", claimed, lambda: io.BytesIO(b"content"))], KEY, name="m", version=1)


def test_an_unknown_file_is_named_with_those_that_are_there() -> None:
    with pytest.raises(CapsuleIndexError, match="'g'; it has f"):
        read_capsule(io.BytesIO(seal({"f": b""})), KEY).read("g")


@pytest.mark.parametrize(
    "text", [KEY, b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"]
)
def test_a_key_is_read_raw_and_as_base64(text: bytes) -> None:
    assert parse_key(text) == KEY


@pytest.mark.parametrize("text", [b"", b"short", b"!" * 44, b"AAEC", bytes(33)])
def test_what_is_no_key_is_refused_and_not_quoted(text: bytes) -> None:
    with pytest.raises(InputError, match="is it the right file") as refused:
        parse_key(text)
    assert "short" not in str(refused.value)


def test_a_new_key_is_made_of_the_randomness_that_is_given() -> None:
    assert generate_key(bytes) == bytes(32)
