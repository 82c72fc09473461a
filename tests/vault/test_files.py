"""Capsules and the demo's files on a disk: whole or not at all, and plaintext in memory alone."""

import io
import os
import tempfile
from pathlib import Path

import pytest

from tacit.errors import (
    CapsuleChunkError,
    CapsuleIndexError,
    CapsuleKeyError,
    FileInputError,
    PlaintextError,
    VaultError,
)
from tacit.vault.files import (
    decrypt_ctr,
    encrypt_ctr,
    open_capsule,
    read_capsule_header,
    rekey_capsule,
    require_tmpfs,
    seal_folder,
)

KEY, OTHER = bytes(range(32)), bytes(32)
CANARY = b"canary-weights-7c1f0e"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(CANARY * 100)
    (folder / "variables" / "variables.index").write_bytes(b"")
    return folder


def traces(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_goes_in_and_comes_out(model: Path, tmp_path: Path) -> None:
    info = seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=3)
    with open_capsule(tmp_path / "m.capsule", KEY) as capsule:
        assert capsule.info == info
        assert bytes(capsule.read("saved_model.pb")) == CANARY * 100
        assert bytes(capsule.read("variables/variables.index")) == b""


def test_a_file_alone_goes_in_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"graph")
    info = seal_folder(tmp_path / "m.onnx", tmp_path / "m.capsule", KEY, name="m", version=1)
    assert [file.name for file in info.files] == ["m.onnx"]


def test_the_capsule_does_not_hold_the_plaintext_and_is_its_owners_alone(model: Path, tmp_path: Path) -> None:
    seal_folder(model, tmp_path / "m.capsule", KEY, name="secret-name", version=1)
    raw = (tmp_path / "m.capsule").read_bytes()
    assert CANARY not in raw
    assert b"saved_model" not in raw
    assert b"secret-name" not in raw
    assert (tmp_path / "m.capsule").stat().st_mode & 0o077 == 0


def test_progress_ends_at_the_whole(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    seal_folder(
        model, tmp_path / "m.capsule", KEY, name="m", version=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (len(CANARY) * 100, len(CANARY) * 100)


def test_t42_a_link_in_the_model_is_refused_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    (model / "link").symlink_to("/etc/passwd")
    before = traces(tmp_path)
    with pytest.raises(CapsuleIndexError, match="is a link"):
        seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=1)
    assert traces(tmp_path) == before


def test_t42_a_device_in_the_model_is_refused(model: Path, tmp_path: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(CapsuleIndexError, match="no regular file"):
        seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=1)


@pytest.mark.parametrize("kind", ["missing", "empty", "device"])
def test_what_is_no_model_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    source = {"missing": tmp_path / "none", "empty": tmp_path / "empty", "device": Path("/dev/null")}[kind]
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileInputError, CapsuleIndexError)):
        seal_folder(source, tmp_path / "m.capsule", KEY, name="m", version=1)
    assert traces(tmp_path) == {"empty"}


def test_an_interrupted_write_leaves_the_old_capsule_and_no_trace(model: Path, tmp_path: Path) -> None:
    seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=1)
    before, names = (tmp_path / "m.capsule").read_bytes(), traces(tmp_path)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_folder(model, tmp_path / "m.capsule", KEY, name="m", version=2, progress=interrupt)
    assert (tmp_path / "m.capsule").read_bytes() == before
    assert traces(tmp_path) == names


def test_a_full_or_read_only_place_is_named(model: Path) -> None:
    with pytest.raises(FileInputError, match="/proc has 0 free"):
        seal_folder(model, Path("/proc/m.capsule"), KEY, name="m", version=1)


def test_a_model_larger_than_what_is_free_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(1 << 42)  # 4 TiB, all of it a hole
    with pytest.raises(FileInputError, match="bytes free|free; make room"):
        seal_folder(huge, tmp_path / "m.capsule", KEY, name="m", version=1)
    assert traces(tmp_path) == {"huge.onnx"}


def test_a_list_of_mounts_that_changed_while_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing:
        looks = 0

        def exists(self) -> bool:
            return True

        def read_bytes(self) -> bytes:
            self.looks += 1
            return b"" if self.looks == 1 else Path("/proc/self/mountinfo").read_bytes()

    monkeypatch.setattr("tacit.vault.files._MOUNTS", Changing())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        require_tmpfs(Path(folder))


def test_a_new_key_opens_and_the_old_one_does_not(model: Path, tmp_path: Path) -> None:
    old = seal_folder(model, tmp_path / "old.capsule", KEY, name="m", version=3)
    new = rekey_capsule(tmp_path / "old.capsule", tmp_path / "new.capsule", KEY, OTHER)
    assert new.id != old.id
    assert (new.name, new.version, new.files) == (old.name, old.version, old.files)
    with open_capsule(tmp_path / "new.capsule", OTHER) as capsule:
        assert bytes(capsule.read("saved_model.pb")) == CANARY * 100
    with pytest.raises(CapsuleKeyError):
        open_capsule(tmp_path / "new.capsule", KEY)


def test_rekeying_an_altered_capsule_writes_nothing(model: Path, tmp_path: Path) -> None:
    seal_folder(model, tmp_path / "old.capsule", KEY, name="m", version=1)
    raw = bytearray((tmp_path / "old.capsule").read_bytes())
    raw[100] ^= 1
    (tmp_path / "old.capsule").write_bytes(raw)
    before = traces(tmp_path)
    with pytest.raises(CapsuleChunkError):
        rekey_capsule(tmp_path / "old.capsule", tmp_path / "new.capsule", KEY, OTHER)
    assert traces(tmp_path) == before


def test_t46_rekeying_writes_no_plaintext_anywhere(model: Path, tmp_path: Path) -> None:
    seal_folder(model, tmp_path / "old.capsule", KEY, name="m", version=1)
    for path in sorted(model.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    rekey_capsule(tmp_path / "old.capsule", tmp_path / "new.capsule", KEY, OTHER)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY not in path.read_bytes()


def peak() -> int:
    """The peak of this process's resident memory, in KiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def test_memory_stays_constant_whatever_the_size(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(256 << 20)
    # From here on, whatever the tests before took at their peak. Source: proc(5), clear_refs.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    seal_folder(big, tmp_path / "big.capsule", KEY, name="m", version=1)
    with open_capsule(tmp_path / "big.capsule", KEY) as capsule:
        assert sum(len(piece) for piece in capsule.iter_chunks("big.bin")) == 256 << 20
    assert peak() - before < 32 << 10  # KiB


@pytest.mark.parametrize("path", ["missing.capsule", "."])
def test_what_cannot_be_opened_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileInputError):
        open_capsule(tmp_path / path, KEY)
    with pytest.raises(FileInputError):
        read_capsule_header(tmp_path / path)


def test_the_demos_format_is_what_its_own_tool_writes(tmp_path: Path) -> None:
    # AES-256-CTR, NIST SP 800-38A section F.5.5: key, counter block, first two blocks.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    iv = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    sealed = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
    (tmp_path / "m.pb").write_bytes(plain)
    encrypt_ctr(tmp_path / "m.pb", tmp_path / "m.pb.encrypted", key, iv=iv)
    assert (tmp_path / "m.pb.encrypted").read_bytes() == sealed + iv
    assert b"".join(decrypt_ctr(sealed + iv, key)) == plain


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, (1 << 20) + 5])
def test_the_demos_format_gives_back_every_size(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "m").write_bytes(content)
    encrypt_ctr(tmp_path / "m", tmp_path / "e", KEY, iv=os.urandom(16))
    with (tmp_path / "e").open("rb") as stream:
        assert b"".join(decrypt_ctr(stream, KEY)) == content


def test_a_file_too_short_for_the_demos_format_is_refused() -> None:
    with pytest.raises(VaultError, match="ends with an IV"):
        list(decrypt_ctr(io.BytesIO(b"short"), KEY))


def test_t46_a_tmpfs_is_known_from_a_disk(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        require_tmpfs(Path(folder))
        (Path(folder) / "link").symlink_to("/etc")
        with pytest.raises(PlaintextError):
            require_tmpfs(Path(folder) / "link")
    with pytest.raises(PlaintextError, match="must not reach a disk"):
        require_tmpfs(Path("/etc"))
    with pytest.raises(PlaintextError):
        require_tmpfs(Path("/proc"))
