import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.errors import FileInputError, InputError, PlaintextError
from tacit.marble import place
from tacit.marble.place import (
    check_links,
    decrypt_model,
    load_or_store_uuid,
    make_memory_folder,
    require_memory_for_model,
    store_file,
    store_files,
    wait_for_file,
)
from tacit.vault import seal_folder
from tacit.vault.files import encrypt_ctr

UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
OTHER = "11111111-2222-4333-8444-555555555555"
KEY = bytes(range(32))


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="test-") as name:
        yield Path(name)


def say_nothing(line: str) -> None:
    raise AssertionError(line)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- the id


def test_a_new_id_is_kept_without_a_line_end_for_its_owner_alone(tmp_path: Path) -> None:
    assert load_or_store_uuid(tmp_path / "u", UUID, say_nothing) == (UUID, False)
    assert (tmp_path / "u").read_bytes() == UUID.encode()
    assert mode(tmp_path / "u") == 0o600
    assert load_or_store_uuid(tmp_path / "u", OTHER, say_nothing) == (UUID, True)


def test_an_id_with_a_line_end_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "u").write_text(UUID + "\n")
    assert load_or_store_uuid(tmp_path / "u", OTHER, say_nothing) == (UUID, True)
    assert (tmp_path / "u").read_text() == UUID + "\n"


@pytest.mark.parametrize("left", ["", UUID[:1], UUID[:35], "\0" * 36], ids=["empty", "one", "all but one", "zeros"])
def test_a_half_written_id_is_replaced_and_that_is_said(tmp_path: Path, left: str) -> None:
    said: list[str] = []
    (tmp_path / "u").write_text(left)
    assert load_or_store_uuid(tmp_path / "u", OTHER, said.append) == (OTHER, False)
    assert (tmp_path / "u").read_text() == OTHER
    assert len(said) == 1
    assert "of an id's 36 characters; a new id takes its place" in said[0]


def test_an_id_file_that_holds_something_else_is_kept_and_refused(tmp_path: Path) -> None:
    (tmp_path / "u").write_text("no uuid")
    with pytest.raises(InputError, match=r"invalid UUID length: 7; .*EDG_MARBLE_UUID_FILE"):
        load_or_store_uuid(tmp_path / "u", OTHER, say_nothing)
    assert (tmp_path / "u").read_text() == "no uuid"


def test_an_id_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="EDG_MARBLE_UUID_FILE"):
        load_or_store_uuid(tmp_path, OTHER, say_nothing)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileInputError, match=r"cannot read the marble's id from .*loop"):
        load_or_store_uuid(tmp_path / "loop", OTHER, say_nothing)


# ---- files


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
    store_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert mode(target) == 0o600
    assert list(tmp_path.iterdir()) == [target]


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


def test_a_link_at_the_place_itself_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    store_file(tmp_path / "f", b"secret")
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert not (tmp_path / "f").is_symlink()


def test_a_folder_at_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(FileInputError, match="cannot write"):
        store_file(tmp_path / "f", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_device_of_gramine_s_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "DEVICE_PATH", f"{tmp_path}/attestation/")
    device = tmp_path / "attestation" / "keys" / "default"
    device.parent.mkdir(parents=True)
    device.write_bytes(b"the key before")
    before = device.stat().st_ino
    place.store_file(device, b"key")
    assert device.read_bytes() == b"key"
    assert device.stat().st_ino == before


def test_a_device_takes_its_key_in_one_write_or_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "DEVICE_PATH", f"{tmp_path}/attestation/")
    device = tmp_path / "attestation" / "key"
    writes: list[bytes] = []

    def take(descriptor: int, content: bytes) -> int:
        writes.append(content)
        return min(len(content), 16)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", take)
        place.store_file(device, bytes(16))
        with pytest.raises(FileInputError, match="took 16 of 17 bytes"):
            place.store_file(device, bytes(17))
    assert writes == [bytes(16), bytes(17)]


def test_a_folder_that_cannot_be_renamed_is_used_under_its_first_name(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(Path, "rename", refuse)
    made = make_memory_folder(memory, "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e")
    assert sorted(one.name for one in made.iterdir()) == ["home", "keys"]
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_place_that_cannot_be_taken_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FileInputError, match="No space left"):
        place.store_file(path, b"after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_a_path_through_another_user_s_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    check_links(tmp_path / "link" / "f")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    with pytest.raises(FileInputError, match="belongs to user 12345"):
        store_file(tmp_path / "link" / "f", b"secret")
    assert list((tmp_path / "target").iterdir()) == []


def test_files_on_a_disk_are_named_in_one_warning(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".test-") as disk:
        monkeypatch.chdir(disk)
        store_files({"ssl.cfg": b"CANARY", str(memory / "key"): b"CANARY"}, lines.append)
        assert Path("ssl.cfg").read_bytes() == b"CANARY"
    assert (memory / "key").read_bytes() == b"CANARY"
    if lines:  # a checkout may itself lie on a tmpfs
        assert len(lines) == 1
        assert "ssl.cfg" in lines[0]
        assert str(memory) not in lines[0]
        assert "CANARY" not in lines[0]


# ---- memory


def test_keys_get_a_folder_in_memory_for_their_owner_alone(memory: Path) -> None:
    folder = make_memory_folder(memory, UUID)
    assert folder.name.startswith(f"tacit-{UUID}-{os.getpid()}-")
    assert mode(folder) == mode(folder / "keys") == mode(folder / "home") == 0o700


def test_a_folder_on_a_disk_is_no_memory() -> None:
    with pytest.raises(PlaintextError):
        make_memory_folder(Path("/"), UUID)


def test_a_folder_that_is_not_there_is_refused(memory: Path) -> None:
    with pytest.raises(FileInputError, match="TACIT_MEMORY_DIR"):
        make_memory_folder(memory / "none", UUID)


def test_what_a_dead_process_left_is_removed_and_a_living_one_s_stays(memory: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from tacit.marble.place import make_memory_folder\n"
        f"print(make_memory_folder(Path({str(memory)!r}), {OTHER!r}), flush=True)\n"
        # As premain does: the lock is to outlive this program.
        "os.execv('/bin/cat', ['cat'])"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    (left / "keys" / "model").write_bytes(b"secret")
    (memory / "tacit-staging-1").mkdir()
    make_memory_folder(memory, UUID)
    assert left.is_dir()
    child.communicate()
    make_memory_folder(memory, "22222222-2222-4333-8444-555555555555")
    assert not left.exists()
    assert (memory / "tacit-staging-1").is_dir(), "what is not premain's is nobody's to remove"


# ---- the demo's encrypted model


def test_a_model_is_waited_for_and_said_so(tmp_path: Path) -> None:
    lines: list[str] = []
    pauses: list[float] = []
    model = tmp_path / "saved_model.pb.encrypted"

    def arrive(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            model.write_bytes(b"x")

    wait_for_file(model, lines.append, sleep=arrive)
    assert pauses == [10.0, 10.0]
    assert len(lines) == 2
    assert "10 seconds" in lines[0]


def test_a_plaintext_model_on_a_disk_is_refused_with_the_fix() -> None:
    with pytest.raises(PlaintextError, match="mount -t tmpfs"):
        require_memory_for_model(Path("/models-that-are-not-there/resnet50"))
    assert not Path("/models-that-are-not-there").exists()


def test_the_demo_s_model_is_decrypted_as_version_1(tmp_path: Path, memory: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph" * 1000)
    encrypt_ctr(tmp_path / "saved_model.pb", tmp_path / "m.encrypted", KEY, iv=b"i" * 16)
    (tmp_path / "model_key").write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    folder = require_memory_for_model(memory / "resnet50")
    decrypt_model(tmp_path / "m.encrypted", tmp_path / "model_key", folder)
    assert (memory / "resnet50" / "1" / "saved_model.pb").read_bytes() == b"graph" * 1000
    assert [path.name for path in folder.iterdir()] == ["saved_model.pb"]


def test_a_capsule_is_decrypted_with_all_its_files(tmp_path: Path, memory: Path) -> None:
    model = tmp_path / "model"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "v").write_bytes(b"weights")
    seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=1)
    (tmp_path / "model_key").write_bytes(KEY)
    decrypt_model(tmp_path / "m.capsule", tmp_path / "model_key", memory)
    assert (memory / "saved_model.pb").read_bytes() == b"graph"
    assert (memory / "variables" / "v").read_bytes() == b"weights"


def test_a_model_without_its_key_is_refused(tmp_path: Path, memory: Path) -> None:
    with pytest.raises(FileInputError, match="model_key"):
        decrypt_model(tmp_path / "m", tmp_path / "model_key", memory)
