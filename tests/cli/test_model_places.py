"""What `tacit model` reads and writes beside each other: nothing is lost by a name, a link, or an end at a bad moment."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.command_line import Outcome, run_app
from tacit.cli.model import app
from tacit.cli.model.encrypt import key_for
from tacit.errors import FileInputError
from tacit.vault import open_capsule, parse_key

CONTENT = b"weights that nobody may read " * 100
CAPSULE = Path("encrypted/tiny.capsule")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, with a model in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.onnx").write_bytes(CONTENT)
    return tmp_path


def encrypt(*more: object, model: str = "tiny.onnx", key: str = "key") -> Outcome:
    return run_app(app, "encrypt", "-k", key, "-m", model, *more)


def rekey(*more: object) -> Outcome:
    return run_app(app, "rekey", "-k", "key", "--new-key", "next", "-m", CAPSULE, *more)


def files_in(capsule: Path, key: Path) -> dict[str, bytes]:
    with open_capsule(capsule, parse_key(key.read_bytes())) as opened:
        return {file.name: bytes(opened.read(file.name)) for file in opened.info.files}


# ---- the key and what it opens


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_end_just_after_a_capsule_was_replaced_leaves_the_key_that_opens_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encrypt()
    monkeypatch.setattr("tacit.vault.files.sync_folder", interrupt)
    assert rekey().code == 130
    assert files_in(CAPSULE, Path("next")) == {"tiny.onnx": CONTENT}


def test_an_end_before_a_capsule_is_replaced_leaves_the_old_one_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt()
    monkeypatch.setattr("os.fchmod", interrupt)
    assert rekey().code == 130
    assert files_in(CAPSULE, Path("key")) == {"tiny.onnx": CONTENT}
    assert not Path("next").exists()
    assert [path.name for path in Path("encrypted").iterdir()] == ["tiny.capsule"]


def test_a_new_key_and_its_name_are_on_the_disk_before_anything_that_it_opens(
    at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypt()
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def recorded_sync(file: int) -> None:
        done.append(f"sync {os.readlink(f'/proc/self/fd/{file}').removeprefix(str(at_home))}")
        sync(file)

    def recorded_replace(old: Path, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr("os.fsync", recorded_sync)
    monkeypatch.setattr("os.replace", recorded_replace)
    assert rekey().code == 0
    assert done[1:] == ["sync /next", "sync ", "replace", "sync /encrypted"]


def test_a_key_that_another_command_made_meanwhile_stays() -> None:
    key = key_for(Path("key"))
    Path("key").write_text("of another command")
    with pytest.raises(FileInputError, match="made by another command meanwhile; run this one again"):
        key.store()
    assert Path("key").read_text() == "of another command"


def test_a_capsule_that_another_command_wrote_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("encrypted").mkdir()
    chmod = os.fchmod

    def meanwhile(file: int, mode: int) -> None:
        CAPSULE.write_text("of another command")
        chmod(file, mode)

    monkeypatch.setattr("os.fchmod", meanwhile)
    done = encrypt()
    assert (done.code, "exists already; --force replaces it" in done.err) == (1, True)
    assert CAPSULE.read_text() == "of another command"
    assert not Path("key").exists()


def test_where_no_key_can_be_made_nothing_is_encrypted() -> None:
    done = encrypt(key="/proc/none/key")
    assert (done.code, "no such file" in done.err) == (1, True)
    assert not CAPSULE.exists()


# ---- an output that is something else


@pytest.mark.parametrize("name", ["key", "tiny.onnx", "link", "second"])
@pytest.mark.parametrize("form", [(), ("--format", "ctr", "--unauthenticated")])
def test_no_output_replaces_the_key_or_the_model(name: str, form: tuple[str, ...]) -> None:
    encrypt()
    Path("link").symlink_to("key")
    Path("second").hardlink_to("key")
    before = {file: Path(file).read_bytes() for file in ("key", "tiny.onnx")}
    done = encrypt("--out", name, "--force", *form)
    assert (done.code, "itself, which would be lost; name another file with --out" in done.err) == (1, True)
    assert {file: Path(file).read_bytes() for file in before} == before


def test_a_key_that_is_to_be_made_is_not_replaced_by_its_capsule() -> None:
    assert "new is the key itself" in encrypt("--out", "new", key="new").err
    assert not Path("new").exists()


@pytest.mark.parametrize("name", ["key", "next"])
def test_no_rekeyed_capsule_replaces_a_key(name: str) -> None:
    encrypt()
    key = Path("key").read_bytes()
    assert "key itself, which would be lost" in rekey("--out", name, "--force").err
    assert (Path("key").read_bytes(), Path("next").exists()) == (key, False)


@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "is no regular file"), (os.mkdir, "is a folder")])
def test_what_is_no_file_is_never_replaced(make: Callable[[str], None], said: str) -> None:
    make("out")
    before = Path("out").stat()
    done = encrypt("--out", "out", "--force")
    assert (done.code, f"out {said}, which is never replaced" in done.err) == (1, True)
    assert stat.S_IFMT(Path("out").stat().st_mode) == stat.S_IFMT(before.st_mode)
    assert not Path("key").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_capsule_is_followed_and_stays(there: bool) -> None:
    Path("link").symlink_to("real.capsule")
    if there:
        Path("real.capsule").write_text("old")
    assert encrypt("--out", "link", "--force").code == 0
    assert Path("link").is_symlink()
    assert files_in(Path("real.capsule"), Path("key")) == {"tiny.onnx": CONTENT}


def test_a_link_to_a_made_model_is_followed_and_stays() -> None:
    Path("link.pb").symlink_to("real.pb")
    assert run_app(app, "make", "resnet50", "--out", "link.pb", "--force").code == 0
    assert (Path("link.pb").is_symlink(), Path("real.pb").is_file()) == (True, True)


@pytest.mark.parametrize(
    ("words", "what"), [(("--out", "m/x.capsule"), "the output"), (("-k", "m/key", "--out", "x"), "the key")]
)
def test_neither_key_nor_output_become_part_of_the_model(words: tuple[str, ...], what: str) -> None:
    Path("m").mkdir()
    Path("m/tiny.onnx").write_bytes(CONTENT)
    done = run_app(app, "encrypt", "-m", "m", *(() if "-k" in words else ("-k", "key")), *words)
    assert (done.code, f"{what} m/" in done.err, "keep it elsewhere" in done.err) == (1, True, True)
    assert [path.name for path in Path("m").iterdir()] == ["tiny.onnx"]


def test_a_name_of_the_longest_kind_is_written() -> None:
    name = "ä" * 119 + "x"  # with its ending 247 bytes; a file system takes 255
    assert encrypt("--name", name).code == 0
    assert Path(f"encrypted/{name}.capsule").exists()


def test_a_name_that_is_a_path_chooses_no_place() -> None:
    done = encrypt("--name", "../up")
    assert (done.code, "names no file in encrypted; name one with --out" in done.err) == (1, True)
    assert encrypt("--name", "").code == 1
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.onnx"]


# ---- what belongs to a model


@pytest.mark.parametrize("named", ["model.xml", "model.bin"])
def test_an_ir_brings_both_its_files(named: str) -> None:
    Path("model.xml").write_bytes(b"graph")
    Path("model.bin").write_bytes(b"weights")
    assert encrypt("--out", "x", model=named).code == 0
    assert files_in(Path("x"), Path("key")) == {"model.bin": b"weights", "model.xml": b"graph"}


def test_an_ir_without_its_weights_is_refused() -> None:
    Path("model.xml").write_bytes(b"graph")
    done = encrypt("--out", "x", model="model.xml")
    assert (done.code, "model.xml has no weights beside it; an OpenVINO IR needs model.bin" in done.err) == (1, True)
    assert not Path("key").exists()


def test_a_saved_model_brings_its_variables_and_an_onnx_file_its_data() -> None:
    (Path("m") / "variables").mkdir(parents=True)
    (Path("m") / "assets").mkdir()
    Path("m/saved_model.pb").write_bytes(b"graph")
    Path("m/variables/variables.index").write_bytes(b"index")
    Path("m/unrelated").write_bytes(b"x")
    assert encrypt("--out", "x", model="m/saved_model.pb").code == 0
    found = files_in(Path("x"), Path("key"))
    assert found == {"saved_model.pb": b"graph", "variables/variables.index": b"index"}
    Path("tiny.onnx.data").write_bytes(b"data")
    assert encrypt("--out", "y").code == 0
    assert files_in(Path("y"), Path("key")) == {"tiny.onnx": CONTENT, "tiny.onnx.data": b"data"}
