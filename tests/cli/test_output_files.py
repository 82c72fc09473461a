"""What -o names: a file is replaced whole, a link is followed, and what is no file is written into and stays what it is."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.cli.files import check_output, write_output
from tacit.errors import FileInputError


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_device_is_written_into() -> None:
    write_output(Path("/dev/null"), b"content")
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other" / "file", tmp_path / "link"
    if there:
        target.write_text("before")
    link.symlink_to(target)
    write_output(link, b"content")
    assert link.is_symlink()
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_file_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    file, before = tmp_path / "file", tmp_path / "before"
    file.write_text("before")
    before.hardlink_to(file)
    write_output(file, b"content")
    assert (file.read_text(), before.read_text()) == ("content", "before")


@pytest.mark.parametrize("to_file", [True, False])
def test_our_own_output_gets_all_in_order(tmp_path: Path, to_file: bool) -> None:
    script = (
        "import pathlib, tacit.cli.files as files\n"
        "print('first')\n"
        "files.write_output(pathlib.Path('/dev/stdout'), b'content\\n')\n"
        "print('last')"
    )
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=out if to_file else subprocess.PIPE, check=True, text=True
        )
    assert ((tmp_path / "out").read_text() if to_file else done.stdout) == "first\ncontent\nlast\n"


def test_what_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "file"
    check_output(file)
    check_output(None)
    assert list(tmp_path.iterdir()) == []
    file.write_text("before")
    check_output(file)
    assert file.read_text() == "before"
    with pytest.raises(FileInputError, match="name another file with -r"):
        check_output(tmp_path / "missing" / "file", option="-r")


def test_what_a_killed_command_left_is_not_in_the_way_of_another_with_its_process_id(tmp_path: Path) -> None:
    # In a container each command has the same number, time and again.
    (tmp_path / f".file.{os.getpid()}.tmp").write_text("left")
    write_output(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    write_output(tmp_path / ("ä" * 127), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["ä" * 127]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    found: list[tuple[bytes, bool]] = []
    sync = os.fsync

    def recorded(number: int) -> None:
        if stat.S_ISREG(os.fstat(number).st_mode):
            found.append((Path(f"/proc/self/fd/{number}").read_bytes(), file.exists()))
        sync(number)

    monkeypatch.setattr("os.fsync", recorded)
    write_output(file, b"content")
    assert found == [(b"content", False)]
