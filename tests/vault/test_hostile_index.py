"""Lists of files that only somebody with the key could have made, and inputs that are wrong in size."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import (
    CapsuleChunkError,
    CapsuleFormatError,
    CapsuleIndexError,
    FileInputError,
    InputError,
    VaultError,
)
from tacit.vault import capsule, files, layout
from tacit.vault.capsule import Source, read_capsule, write_capsule
from tacit.vault.files import encrypt_ctr, list_sources, seal_folder
from tacit.vault.keys import derive_capsule_keys
from tacit.vault.legacy import iter_decrypted_ctr, iter_encrypted_ctr

KEY, SALT = bytes(range(32)), bytes(32)
HEADER = layout.build_header(SALT, derive_capsule_keys(KEY, SALT).commitment)
GOOD = {"model": "m", "version": 1, "files": [{"name": "f", "size": 0, "tags": "00" * 32}]}


def with_index(index: object) -> bytes:
    """A capsule with one empty chunk and this index, well sealed."""
    raw = index if isinstance(index, bytes) else msgspec.json.encode(index)
    keys = derive_capsule_keys(KEY, SALT)
    sealed = AESGCM(keys.index).encrypt(bytes(12), raw, layout.hashlib.sha256(HEADER).digest())
    return HEADER + bytes(16) + sealed + layout.TRAILER.pack(len(sealed), layout.END)


@pytest.mark.parametrize(
    "index",
    [
        b'{"model": "\xff", "version": 1, "files": []}',
        b"not JSON",
        b"[" * 5000,
        {},
        GOOD | {"more": 1},
        GOOD | {"model": ""},
        GOOD | {"model": "\x1b[2J"},
        GOOD | {"version": -1},
        GOOD | {"version": 1 << 63},
        GOOD | {"version": "1"},
        GOOD | {"files": []},
        GOOD | {"files": [{"name": "f", "size": -1, "tags": "00"}]},
        GOOD | {"files": [{"name": "f", "size": 0, "tags": "zz"}]},
        GOOD | {"files": [{"name": "f", "size": 0}]},
        GOOD | {"files": [GOOD["files"][0], GOOD["files"][0]]},
        GOOD | {"files": [{"name": f"f{number}", "size": 0, "tags": ""} for number in range(layout.MAX_FILES + 1)]},
    ],
    ids=range(16),
)
def test_t44_a_list_of_files_without_sense_is_refused_even_when_it_is_authentic(index: object) -> None:
    with pytest.raises(CapsuleIndexError):
        read_capsule(io.BytesIO(with_index(index)), KEY)


def test_a_digest_of_another_length_is_refused() -> None:
    raw = with_index(GOOD)
    with pytest.raises(VaultError):
        read_capsule(io.BytesIO(raw), KEY).read("f")


def test_the_list_of_files_has_a_limit_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_INDEX", 50)
    with pytest.raises(CapsuleIndexError, match="at most 50 are allowed"):
        write_capsule(io.BytesIO(), [Source("f", 0, io.BytesIO)], KEY, name="m", version=1)


def test_the_tags_of_a_file_are_those_of_the_list() -> None:
    salted = [io.BytesIO(), io.BytesIO()]
    for out, content in zip(salted, (b"one", b"two"), strict=True):
        source = Source("f", 3, lambda content=content: io.BytesIO(content))  # type: ignore[misc]
        write_capsule(out, [source], KEY, name="m", version=1, random_bytes=bytes)
    one, other = (out.getvalue() for out in salted)
    at = layout.HEADER.size + 3 + layout.TAG
    with pytest.raises(CapsuleChunkError, match="not those that the capsule was closed with"):
        next(read_capsule(io.BytesIO(other[:at] + one[at:]), KEY).iter_chunks("f"))


class Shrinking(io.BytesIO):
    """A file that loses its end right after its size was asked for."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = super().seek(offset, whence)
        if whence == io.SEEK_END:
            self.truncate(at - 5)
        return at


def test_a_file_that_shrinks_while_its_end_is_read_is_refused() -> None:
    with pytest.raises(CapsuleFormatError, match="became shorter"):
        capsule.read_header(Shrinking(with_index(GOOD)))


def cut_after_each(pieces: Iterator[bytes], path: Path, size: int) -> None:
    for _ in pieces:
        os.truncate(path, size)


@pytest.mark.parametrize("lost", [5, 50])
def test_a_demo_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, lost: int) -> None:
    (tmp_path / "e").write_bytes(bytes((1 << 20) + 116))
    with (tmp_path / "e").open("rb", buffering=0) as stream, pytest.raises(VaultError, match="became shorter"):
        cut_after_each(iter_decrypted_ctr(stream, KEY), tmp_path / "e", (1 << 20) + 100 - lost)


def test_a_demo_file_that_loses_its_iv_while_it_is_read_is_refused() -> None:
    with pytest.raises(VaultError, match="became shorter"):
        next(iter_decrypted_ctr(Shrinking(bytes(100)), KEY))


@pytest.mark.parametrize(("key", "iv"), [(bytes(16), bytes(16)), (KEY, bytes(12))])
def test_the_demos_format_wants_a_key_and_an_iv_of_their_sizes(key: bytes, iv: bytes) -> None:
    with pytest.raises(InputError, match="expected"):
        next(iter_encrypted_ctr(io.BytesIO(b"x"), key, iv))


def test_a_key_of_another_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    with pytest.raises(InputError, match="16 bytes, expected 32"):
        seal_folder(tmp_path / "f", tmp_path / "m.capsule", bytes(16), name="m", version=1)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_more_files_than_a_capsule_holds_are_refused_while_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CapsuleIndexError, match="more than 2 files"):
        list_sources(tmp_path)


def test_progress_of_the_demos_format_ends_at_the_whole(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    seen: list[tuple[int, int]] = []
    encrypt_ctr(tmp_path / "f", tmp_path / "e", KEY, iv=os.urandom(16), progress=lambda *at: seen.append(at))
    assert seen[-1] == (7, 7)


def test_a_pipe_in_place_of_a_capsule_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.capsule")
    with pytest.raises(FileInputError, match="no regular file"):
        files.open_capsule(tmp_path / "m.capsule", KEY)
