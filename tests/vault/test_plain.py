"""Models that are not encrypted: which files they are, and the id under which a manifest may name them."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tacit.errors import ModelFormatError
from tacit.vault import files
from tacit.vault.files import list_plain_files
from tacit.vault.plain import plain_id, sha256_of


def test_the_id_is_as_it_is_written_down() -> None:
    one, two = hashlib.sha256(b"1").digest(), hashlib.sha256(b"22").digest()
    expected = hashlib.sha256(
        (3).to_bytes(8, "big") + b"a/b" + two + (2).to_bytes(8, "big") + "ü".encode() + one
    ).digest()
    assert plain_id({"ü": one, "a/b": two}) == expected


def test_no_byte_can_move_from_a_name_to_its_neighbour() -> None:
    digest = bytes(32)
    assert plain_id({"a": digest, "bc": digest}) != plain_id({"ab": digest, "c": digest})


def test_a_stream_is_hashed_whole(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    with (tmp_path / "large").open("rb") as stream:
        assert sha256_of(stream) == hashlib.sha256(bytes(3 << 20)).digest()


def test_a_folder_is_all_that_lies_below_it(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/0"):
        (tmp_path / name).write_bytes(b"x")
    assert list_plain_files(tmp_path) == (tmp_path, ("saved_model.pb", "variables/0"))


def test_a_single_file_stands_alone_but_for_the_weights_of_an_ir(tmp_path: Path) -> None:
    for name in ("m.xml", "m.bin", "m.onnx"):
        (tmp_path / name).write_bytes(b"x")
    assert list_plain_files(tmp_path / "m.onnx") == (tmp_path, ("m.onnx",))
    assert list_plain_files(tmp_path / "m.xml") == (tmp_path, ("m.xml", "m.bin"))
    (tmp_path / "m.bin").unlink()
    assert list_plain_files(tmp_path / "m.xml") == (tmp_path, ("m.xml",))


def test_t13_a_folder_with_too_many_files_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelFormatError, match="more than 2 files"):
        list_plain_files(tmp_path)


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "m.onnx").write_bytes(b"m")
    scan = os.scandir

    def refusing(path: Path) -> object:  # as for another user; root may read everything
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError):
        list_plain_files(tmp_path)


def test_a_name_that_is_not_utf8_has_no_id() -> None:
    with pytest.raises(ModelFormatError, match=r"'a\\udcff' is not UTF-8"):
        plain_id({"a\udcff": bytes(32)})
