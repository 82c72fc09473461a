import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tacit.errors import FileInputError, InputError, PlaintextError
from tacit.marble.place import (
    decrypt_model,
    load_or_store_uuid,
    make_memory_folder,
    require_memory_for_model,
    store_files,
    wait_for_file,
)
from tacit.vault import require_tmpfs, seal_folder
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


def test_a_folder_that_cannot_be_renamed_is_used_under_its_first_name(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(Path, "rename", refuse)
    made = make_memory_folder(memory, "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e")
    assert sorted(one.name for one in made.iterdir()) == ["home", "keys"]
    assert made.stat().st_mode & 0o777 == 0o700


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


def test_a_pipe_is_told_as_one_and_not_as_a_file_on_a_disk(tmp_path: Path) -> None:
    lines: list[str] = []
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        store_files({str(tmp_path / "pipe"): b"CANARY"}, lines.append)
        assert read.result() == b"CANARY"
    assert lines == [f"{tmp_path / 'pipe'} is a pipe; what it gets waits for its reader"]


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


def test_no_folder_that_is_there_leads_a_model_out_of_memory(tmp_path: Path, memory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".test-") as disk:
        try:
            require_tmpfs(Path(disk))
            pytest.skip("this checkout lies on a tmpfs")
        except PlaintextError:
            pass
        (memory / "m").mkdir()
        (memory / "m" / "1").symlink_to(disk)
        with pytest.raises(PlaintextError):
            require_memory_for_model(memory / "m")
        (tmp_path / "model" / "variables").mkdir(parents=True)
        (tmp_path / "model" / "saved_model.pb").write_bytes(b"graph")
        (tmp_path / "model" / "variables" / "v").write_bytes(b"weights")
        seal_folder(tmp_path / "model", tmp_path / "m.capsule", KEY, name="m", version=1)
        (tmp_path / "model_key").write_bytes(KEY)
        (memory / "variables").symlink_to(disk)
        with pytest.raises(PlaintextError):
            decrypt_model(tmp_path / "m.capsule", tmp_path / "model_key", memory)
        assert list(Path(disk).iterdir()) == []
