"""How files are written: whole where another can take the place, in place where none can, and never astray."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tacit.errors import FileInputError
from tacit.marble import write
from tacit.marble.place import make_memory_folder
from tacit.marble.write import check_links, store_file, store_key

UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_placed_for_its_owner_alone_with_its_folders(tmp_path: Path) -> None:
    store_file(tmp_path / "a" / "b" / "ssl.cfg", b"x")
    assert (tmp_path / "a" / "b" / "ssl.cfg").read_bytes() == b"x"
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b"), mode(tmp_path / "a" / "b" / "ssl.cfg")] == [
        0o700,
        0o700,
        0o600,
    ]


def test_a_file_that_is_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("long before")
    target.chmod(0o644)
    before = target.stat().st_ino
    store_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kept", [0o644, 0o660, 0o400])
def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path, kept: int) -> None:
    (tmp_path / "f").write_text("before")
    (tmp_path / "f").chmod(kept)
    store_file(tmp_path / "f", b"new")
    assert mode(tmp_path / "f") == kept


def test_a_key_is_for_its_owner_alone_and_no_link_leads_it_away(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("before")
    (tmp_path / "f").chmod(0o644)
    (tmp_path / "link").symlink_to("f")
    store_key(tmp_path / "link", b"key")
    assert (tmp_path / "f").read_text() == "before"
    assert not (tmp_path / "link").is_symlink()
    store_key(tmp_path / "f", b"key")
    assert mode(tmp_path / "f") == mode(tmp_path / "link") == 0o600


@only_root
def test_a_file_that_another_user_put_there_does_not_say_who_reads_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("before")
    (tmp_path / "f").chmod(0o666)
    os.chown(tmp_path / "f", 12345, 12345)
    store_file(tmp_path / "f", b"secret")
    assert mode(tmp_path / "f") == 0o600
    assert (tmp_path / "f").stat().st_uid == os.geteuid()


@only_root
def test_a_file_keeps_its_group_with_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("before")
    (tmp_path / "f").chmod(0o640)
    os.chown(tmp_path / "f", -1, 12345)
    store_file(tmp_path / "f", b"new")
    assert ((tmp_path / "f").stat().st_gid, mode(tmp_path / "f")) == (12345, 0o640)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refuse)
    store_file(tmp_path / "f", b"new")
    assert ((tmp_path / "f").stat().st_gid, mode(tmp_path / "f")) == (os.getegid(), 0o600)


def test_what_a_killed_process_left_beside_the_place_is_removed_and_a_living_one_s_stays(tmp_path: Path) -> None:
    left, living, other = (
        tmp_path / name for name in (".ssl.cfg.abcd1234.part", ".ssl.cfg.efgh5678.part", ".ssl.cfg.mine")
    )
    for file in (left, living, other):
        file.write_bytes(b"private")
    with living.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store_file(tmp_path / "ssl.cfg", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, other.name, "ssl.cfg"]
    assert (tmp_path / "ssl.cfg").read_bytes() == b"new"


# ---- links


def test_a_link_stays_and_the_file_behind_it_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "f").write_text("before")
    (tmp_path / "there" / "f").chmod(0o644)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "there" / "f")
    before = (tmp_path / "one").stat().st_ino
    store_file(tmp_path / "one", b"new")
    assert (tmp_path / "one").readlink() == Path("two")
    assert (tmp_path / "there" / "f").read_bytes() == b"new"
    assert mode(tmp_path / "one") == 0o644
    assert (tmp_path / "one").stat().st_ino != before
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["f"]


def test_a_link_to_what_is_not_there_yet_names_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    store_file(tmp_path / "link", b"x")
    assert (tmp_path / "new").read_bytes() == b"x"
    assert mode(tmp_path / "new") == 0o600
    (tmp_path / "astray").symlink_to("none/new")
    with pytest.raises(FileInputError, match="No such file"):
        store_file(tmp_path / "astray", b"x")
    assert not (tmp_path / "none").exists()


def test_links_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileInputError, match="Too many levels of symbolic links"):
        store_file(tmp_path / "a", b"x")


def test_no_path_and_no_link_leads_into_a_folder_of_keys(memory: Path) -> None:
    keys = make_memory_folder(memory, UUID) / "keys"
    store_key(keys / "model", b"key")
    (memory / "file").symlink_to(keys / "model")
    (memory / "folder").symlink_to(keys)
    for path in (memory / "file", memory / "folder" / "model", memory / "folder" / "new", keys / "model"):
        with pytest.raises(FileInputError, match="where a marble's keys lie"):
            store_file(path, b"other")
    assert [(one.name, one.read_bytes()) for one in keys.iterdir()] == [("model", b"key")]


def test_a_link_out_of_memory_onto_a_disk_is_refused(memory: Path) -> None:
    (memory / "inside").symlink_to(memory / "f")
    store_file(memory / "inside", b"x")
    (memory / "outside").symlink_to("/root-of-a-disk")
    with pytest.raises(FileInputError, match="would reach a disk"):
        store_file(memory / "outside", b"secret")
    assert not Path("/root-of-a-disk").exists()
    (memory / "folder").symlink_to("/")
    with pytest.raises(FileInputError, match="would reach a disk"):
        store_file(memory / "folder" / "root-of-a-disk", b"secret")
    assert not Path("/root-of-a-disk").exists()


# ---- what is no file


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for path in (pipe, tmp_path / "link"):
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(pipe.read_bytes)
            store_file(path, b"through" * 20_000)
            assert read.result() == b"through" * 20_000
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into() -> None:
    ours, theirs = os.openpty()  # no file can be made beside it: a mistake here would harm no device of this machine
    try:
        store_file(Path(os.ttyname(theirs)), b"shown")
        assert os.read(ours, 100) == b"shown"
    finally:
        os.close(ours)
        os.close(theirs)


@only_root
def test_a_pipe_of_another_user_s_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.chown(tmp_path / "pipe", 12345, 12345)
    with pytest.raises(FileInputError, match="belongs to user 12345"):
        store_file(tmp_path / "pipe", b"secret")


def test_our_own_output_goes_on_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is one, which a mistake here must not replace
    script = (
        "import os; from pathlib import Path; from tacit.marble.write import store_file\n"
        f"os.write(1, b'one '); store_file(Path('{tmp_path}/stdout'), b'two '); os.write(1, b'three')"
    )
    for _ in range(2):
        with (tmp_path / "log").open("wb") as log:
            subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
        assert (tmp_path / "log").read_bytes() == b"one two three"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"one two three"


# ---- files that are mounted by themselves


def test_a_file_that_no_other_can_replace_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"long before")
    before = path.stat().st_ino

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", refuse)
    store_file(path, b"after")
    assert path.read_bytes() == b"after"
    assert path.stat().st_ino == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@only_root
def test_a_file_of_another_user_s_that_no_other_can_replace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"theirs")
    os.chown(path, 12345, 12345)

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FileInputError, match="belongs to user 12345"):
        store_file(path, b"secret")
    assert path.read_bytes() == b"theirs"


def test_what_was_exchanged_while_it_was_opened_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"before")
    other.write_bytes(b"theirs")
    real = Path.replace

    def exchange(_self: Path, _target: Path) -> None:
        real(other, path)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", exchange)
    with pytest.raises(FileInputError, match="exchanged"):
        store_file(path, b"secret")
    assert path.read_bytes() == b"theirs"


@pytest.mark.parametrize("read_only", ["", "mount -o remount,bind,ro {0}/folder;"], ids=["writable", "read only"])
def test_a_mounted_file_is_written_whatever_its_folder_is(tmp_path: Path, read_only: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").write_bytes(b"below")
    (tmp_path / "source").write_bytes(b"long before")
    mounts = "set -e; mount --bind {0}/folder {0}/folder; mount --bind {0}/source {0}/folder/f;" + read_only
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*unshared, mounts.format(tmp_path)], check=False, stderr=subprocess.DEVNULL).returncode:
        assert os.environ.get("TACIT_CI") != "1", "this system gives no mounts of one's own"
        pytest.skip("this system gives no mounts of one's own")
    script = f"from pathlib import Path; from tacit.marble.write import store_file; store_file(Path('{tmp_path}/folder/f'), b'new')"
    subprocess.run([*unshared, mounts.format(tmp_path) + ' exec "$@"', "sh", sys.executable, "-c", script], check=True)
    assert (tmp_path / "source").read_bytes() == b"new"
    assert [(one.name, one.read_bytes()) for one in (tmp_path / "folder").iterdir()] == [("f", b"below")]


def test_a_folder_at_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(FileInputError, match="cannot write"):
        store_file(tmp_path / "f", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_a_device_of_gramine_s_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "DEVICE_PATH", f"{tmp_path}/attestation/")
    device = tmp_path / "attestation" / "keys" / "default"
    device.parent.mkdir(parents=True)
    device.write_bytes(b"the key before")
    before = device.stat().st_ino
    store_file(device, b"key")
    assert device.read_bytes() == b"key"
    assert device.stat().st_ino == before


def test_a_device_takes_its_key_in_one_write_or_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "DEVICE_PATH", f"{tmp_path}/attestation/")
    device = tmp_path / "attestation" / "key"
    writes: list[bytes] = []

    def take(descriptor: int, content: bytes) -> int:
        writes.append(content)
        return min(len(content), 16)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", take)
        store_file(device, bytes(16))
        with pytest.raises(FileInputError, match="took 16 of 17 bytes"):
            store_file(device, bytes(17))
    assert writes == [bytes(16), bytes(17)]


def test_a_place_that_cannot_be_taken_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FileInputError, match="No space left"):
        store_file(path, b"after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


@only_root
def test_a_path_through_another_user_s_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    check_links(tmp_path / "link" / "f")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    with pytest.raises(FileInputError, match="belongs to user 12345"):
        store_file(tmp_path / "link" / "f", b"secret")
    (tmp_path / "ours").symlink_to("link/f")
    with pytest.raises(FileInputError, match="belongs to user 12345"):
        store_file(tmp_path / "ours", b"secret")
    assert list((tmp_path / "target").iterdir()) == []
