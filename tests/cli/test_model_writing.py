"""What is written is whole or not there, and stays where it belongs."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from tacit.cli.model.encrypt import _inside
from tacit.cli.model.files import file_error, new_folder, replacing, store_new
from tacit.errors import CapsuleIndexError, FileInputError


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_half(out: BinaryIO, failure: BaseException) -> None:
    with out:
        out.write(b"half")
        raise failure


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(FileInputError, match=r"x: no space left"), replacing(tmp_path / "x") as out:
        write_half(out, disk_full())
    assert (tmp_path / "x").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_no_folder_that_was_made_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileInputError), replacing(tmp_path / "there" / "new" / "1" / "x") as out:
        write_half(out, disk_full())
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_an_interruption_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as out:
        write_half(out, KeyboardInterrupt())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="no space left"), new_folder(tmp_path / "x") as part:
        write_half((part / "half").open("wb"), disk_full())
    assert not list(tmp_path.iterdir())


def test_a_new_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileInputError, match="exists already"):
        store_new(tmp_path / "link", b"key", mode=0o600)
    assert not (tmp_path / "elsewhere").exists()


def test_an_error_that_is_not_known_says_what_the_system_says(tmp_path: Path) -> None:
    assert str(file_error(tmp_path / "x", OSError(errno.EIO, "Input/output error"))).endswith("x: input/output error")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", ""])
def test_t42_a_capsules_file_stays_below_its_folder(name: str) -> None:
    with pytest.raises(CapsuleIndexError, match="would leave its folder"):
        _inside(name)
