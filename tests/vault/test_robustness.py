"""What reading and writing a capsule do when storage, folders and threads misbehave."""

import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.garbage import no_views_in_cycles
from tacit.errors import (
    CapsuleChunkError,
    CapsuleFormatError,
    CapsuleIndexError,
    FileInputError,
    InputError,
    PlaintextError,
)
from tacit.vault import files, layout
from tacit.vault.capsule import Capsule, Source, read_capsule, write_capsule
from tacit.vault.files import list_sources, open_capsule, read_capsule_header, require_tmpfs, seal_folder

KEY = bytes(range(32))
CHUNK = 1 << layout.CHUNK_POWER


def seal(contents: dict[str, bytes], *, name: str = "m", version: int = 1) -> bytes:
    out = io.BytesIO()
    sources = [
        Source(file, len(content), lambda content=content: io.BytesIO(content))  # type: ignore[misc]
        for file, content in contents.items()
    ]
    write_capsule(out, sources, KEY, name=name, version=version)
    return out.getvalue()


@pytest.fixture(scope="module")
def large() -> tuple[bytes, bytes]:
    """Contents that take several threads, and their capsule."""
    content = os.urandom(CHUNK) * 19 + b"the last chunk is short"
    return content, seal({"first": b"small", "large": content})


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time, as a pipe or a network file system may."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(memoryview(buffer)[: max(1, len(buffer) // 3)])


def place_of(file_size_before: int, chunk: int) -> int:
    return layout.HEADER.size + file_size_before + layout.TAG + chunk * (CHUNK + layout.TAG)


def test_a_large_file_comes_out_whole(large: tuple[bytes, bytes]) -> None:
    content, raw = large
    assert read_capsule(io.BytesIO(raw), KEY).read("large") == content


def test_a_file_is_read_into_memory_that_the_caller_has(large: tuple[bytes, bytes]) -> None:
    content, raw = large
    target = bytearray(len(content))
    read_capsule(io.BytesIO(raw), KEY).read_into("large", memoryview(target))
    assert target == content


@pytest.mark.parametrize("size", [4, 6])
def test_memory_of_another_size_is_refused(large: tuple[bytes, bytes], size: int) -> None:
    with pytest.raises(InputError, match="first has 5 bytes"):
        read_capsule(io.BytesIO(large[1]), KEY).read_into("first", memoryview(bytearray(size)))


def test_storage_that_gives_a_few_bytes_at_a_time_changes_nothing() -> None:
    raw = seal({"a": b"abc" * 1000, "b": b""})
    with read_capsule(Trickle(raw), KEY) as capsule:
        assert (bytes(capsule.read("a")), bytes(capsule.read("b"))) == (b"abc" * 1000, b"")


@pytest.mark.parametrize("chunk", [0, 7, 19])
def test_t45_a_flipped_bit_in_any_chunk_of_a_large_file_is_refused(large: tuple[bytes, bytes], chunk: int) -> None:
    raw = bytearray(large[1])
    raw[place_of(5, chunk) + 3] ^= 1
    capsule = read_capsule(io.BytesIO(bytes(raw)), KEY)
    with pytest.raises(CapsuleChunkError, match=f"chunk {chunk} of large was altered"):
        capsule.read("large")


def test_a_stream_that_was_refused_stays_refused(large: tuple[bytes, bytes]) -> None:
    raw = bytearray(large[1])
    raw[place_of(5, 1)] ^= 1
    with read_capsule(io.BytesIO(bytes(raw)), KEY) as capsule, capsule.open("large") as stream:
        assert len(stream.read(CHUNK)) == CHUNK
        for _ in range(2):  # the second time an end of file would look like a short, whole file
            with pytest.raises(CapsuleChunkError):
                stream.read(CHUNK)


def test_no_plaintext_of_an_altered_chunk_comes_out() -> None:
    raw = bytearray(seal({"f": b"secret" * 10}))
    raw[layout.HEADER.size + 59] ^= 1
    with pytest.raises(CapsuleChunkError):
        next(read_capsule(io.BytesIO(bytes(raw)), KEY).iter_chunks("f"))


def test_two_streams_of_one_capsule_do_not_disturb_each_other() -> None:
    contents = {"a": os.urandom(CHUNK + 5), "b": os.urandom(CHUNK + 7)}
    capsule = read_capsule(io.BytesIO(seal(contents)), KEY)
    one, other = capsule.open("a"), capsule.open("b")
    got = {"a": one.read(10), "b": other.read(20)}
    got["a"] += one.read()
    got["b"] += other.read()
    assert got == contents


def test_several_threads_read_one_capsule_at_once(large: tuple[bytes, bytes]) -> None:
    content, raw = large
    capsule = read_capsule(io.BytesIO(raw), KEY)
    equal: list[bool] = []
    threads = [threading.Thread(target=lambda: equal.append(capsule.read("large") == content)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 3


def test_one_refused_chunk_stops_the_other_thread(large: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    capsule = read_capsule(io.BytesIO(large[1]), KEY)
    refused, told, opened = threading.Event(), threading.Event(), list[int]()

    def open_chunk(_self: object, _number: int, chunk: int, _sealed: object, _target: object) -> bytes:
        if chunk == 0:
            refused.set()
            raise CapsuleChunkError("altered")
        assert refused.wait(60)
        assert told.wait(60)  # before it goes on
        opened.append(chunk)
        return bytes(16)

    monkeypatch.setattr(Capsule, "_open_chunk", open_chunk)
    monkeypatch.setattr("tacit.vault.capsule.threading", SimpleNamespace(Event=lambda: told))
    with pytest.raises(CapsuleChunkError, match="altered"):
        capsule.read("large")
    assert len(opened) <= 1


def test_a_capsule_that_becomes_shorter_while_it_is_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.capsule"
    path.write_bytes(seal({"f": b"x" * 5000}))
    with open_capsule(path, KEY) as capsule:
        os.truncate(path, 1000)
        with pytest.raises(CapsuleChunkError, match="was cut off"):
            capsule.read("f")


def test_t45_a_capsule_replaced_after_its_list_was_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.capsule"
    path.write_bytes(seal({"f": b"old" * 100}))
    newer = seal({"f": b"new" * 100})
    with open_capsule(path, KEY) as capsule:
        with path.open("r+b") as file:  # in place: another file under the same name would not reach us at all
            file.write(newer)
        with pytest.raises(CapsuleChunkError):
            capsule.read("f")


def test_bytes_put_between_chunks_and_list_are_refused() -> None:
    raw = seal({"f": b"content"})
    at = layout.HEADER.size + 7 + layout.TAG
    with pytest.raises(CapsuleFormatError, match="something was put in"):
        read_capsule(io.BytesIO(raw[:at] + bytes(16) + raw[at:]), KEY)


def test_the_last_chunk_cannot_pass_for_one_in_the_middle() -> None:
    assert layout.chunk_nonce(0, 1, last=True) not in {layout.chunk_nonce(0, at, last=False) for at in range(8)}


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 256, "\udce9"])
def test_a_model_name_that_is_no_plain_text_is_refused(name: str) -> None:
    with pytest.raises(CapsuleIndexError, match="no name for a model"):
        seal({"f": b""}, name=name)


@pytest.mark.parametrize("version", [-1, 1 << 63])
def test_a_version_that_servers_cannot_hold_is_refused(version: int) -> None:
    with pytest.raises(CapsuleIndexError, match="no version"):
        seal({"f": b""}, version=version)


@pytest.mark.parametrize("names", [("a", "a/b"), ("A/b/c", "a/B")])
def test_t42_a_name_that_is_a_file_and_a_folder_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(CapsuleIndexError, match="cannot be a file and the folder"):
        seal(dict.fromkeys(names, b""))


def test_t42_a_path_that_no_folder_could_hold_is_refused() -> None:
    with pytest.raises(CapsuleIndexError, match="longer than"):
        seal({"/".join(["x" * 200] * 6): b""})


def test_t42_a_file_swapped_for_a_link_before_it_is_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "f").write_bytes(b"12345")
    (tmp_path / "other").write_bytes(b"54321")
    [source] = list_sources(tmp_path / "model")
    (tmp_path / "model" / "f").unlink()
    (tmp_path / "model" / "f").symlink_to(tmp_path / "other")
    with pytest.raises(FileInputError, match="cannot read"):
        source.open()


def test_the_id_in_a_file_is_known_without_the_key(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"graph")
    info = seal_folder(tmp_path / "m.onnx", tmp_path / "m.capsule", KEY, name="m", version=1)
    public = read_capsule_header(tmp_path / "m.capsule")
    assert (public.id, public.name, public.files) == (info.id, "", ())


def test_memory_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    capsule = read_capsule(io.BytesIO(seal({"f": bytes(3 << 20)})), KEY)
    monkeypatch.setattr("mmap.mmap", none_left)
    with pytest.raises(MemoryError, match="3145728 bytes"):
        capsule.read("f")


def test_t46_a_line_of_the_mounts_that_cannot_be_read_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("\nno mount at all\n")
    monkeypatch.setattr(files, "_MOUNTS", table)
    with pytest.raises(PlaintextError, match="cannot be told"):
        require_tmpfs(tmp_path)


def test_a_model_named_by_a_link_is_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(b"graph")
    (tmp_path / "m.onnx").symlink_to("real.onnx")
    seal_folder(tmp_path / "m.onnx", tmp_path / "m.capsule", KEY, name="m", version=1)
    with open_capsule(tmp_path / "m.capsule", KEY) as capsule:
        assert capsule.read("m.onnx") == b"graph"


def test_folders_of_any_depth_are_walked(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(300):
        folder /= "d"
        folder.mkdir()
    (folder / "f").write_bytes(b"deep")
    assert [source.name for source in list_sources(tmp_path)] == ["d/" * 300 + "f"]


def test_a_file_that_cannot_be_read_is_named_and_not_the_target(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    [source] = list_sources(tmp_path / "f")
    (tmp_path / "f").unlink()
    with pytest.raises(FileInputError, match="f does not exist"):
        source.open()


def test_t46_a_tmpfs_below_a_later_mount_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The list says tmpfs, the path's own device says otherwise: a disk was mounted over it.
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:4095 / {tmp_path} rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr(files, "_MOUNTS", table)
    with pytest.raises(PlaintextError, match="cannot be told"):
        require_tmpfs(tmp_path)


def test_t46_a_mount_point_with_blanks_and_accents_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modèle un"
    folder.mkdir()
    device = folder.stat().st_dev
    written = str(folder).replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(f"2 1 {os.major(device)}:{os.minor(device)} / {written} rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr(files, "_MOUNTS", table)
    require_tmpfs(folder / "not made yet")


def test_t46_without_a_list_of_mounts_nothing_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")
    with pytest.raises(PlaintextError, match="cannot tell"):
        require_tmpfs(Path("/dev/shm"))


def test_in_an_enclave_that_shows_no_mounts_its_measured_manifest_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "attestation_type").write_text("dcap")
    monkeypatch.setattr(files, "_ENCLAVE", tmp_path / "attestation_type")
    with pytest.raises(PlaintextError):
        require_tmpfs(Path("/etc"))  # there are mounts to look at
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")
    require_tmpfs(tmp_path)


def test_a_capsule_shows_no_key_when_it_is_printed() -> None:
    capsule = read_capsule(io.BytesIO(seal({"f": b""})), KEY)
    assert isinstance(capsule, Capsule)
    assert KEY.hex() not in repr(capsule)
    assert repr(capsule).startswith("<Capsule 'm' version 1, 1 files")


def test_a_refused_capsule_leaves_no_view_in_a_cycle(large: tuple[bytes, bytes]) -> None:
    raw = bytearray(large[1])
    raw[-2000] ^= 1
    with no_views_in_cycles():
        capsule = read_capsule(io.BytesIO(bytes(raw)), KEY)
        for _ in range(3):
            with pytest.raises(CapsuleChunkError):
                capsule.read("large")
            with pytest.raises(CapsuleChunkError), capsule.open("large") as stream:
                stream.read()
            with capsule.open("large") as stream:
                for _again in range(2):
                    with pytest.raises(CapsuleChunkError):
                        list(stream)
        del capsule, stream
        with pytest.raises(InputError, match="shrank"):
            write_capsule(io.BytesIO(), [Source("f", 2, lambda: io.BytesIO(b"1"))], KEY, name="m", version=1)


def test_a_view_in_a_cycle_is_found() -> None:
    def leave_one() -> None:
        holder: list[object] = [memoryview(b"abc")]
        holder.append(holder)

    with pytest.raises(AssertionError, match="views of \\[3\\] bytes"), no_views_in_cycles():
        leave_one()
