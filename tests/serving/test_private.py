"""The folder in memory that activation made: removed by the process that it was made for, and nothing else ever."""

import os
import uuid
from pathlib import Path

import pytest

from tacit.errors import FileInputError
from tacit.programs.model_server.private import remove_private_folder


def make(parent: Path, *, process: int | None = None, mode: int = 0o700) -> Path:
    made = parent / f"tacit-{uuid.uuid4()}-{process or os.getpid()}-x1"
    for name in ("keys", "home"):
        (made / name).mkdir(parents=True)
    (made / "keys" / "m").write_bytes(bytes(32))
    made.chmod(mode)
    return made


@pytest.fixture
def folder(memory: Path) -> Path:
    return make(memory)


@pytest.mark.parametrize(("variable", "place"), [("TACIT_KEY_DIR", "keys"), ("HOME", "home")])
def test_the_processs_own_folder_goes_with_it(folder: Path, variable: str, place: str) -> None:
    assert remove_private_folder({variable: str(folder / place)})
    assert not folder.exists()


@pytest.mark.parametrize(
    "named", ["/etc", "/etc/keys", "/", "", "keys", "{memory}", "{memory}/keys", "{memory}/../../../etc/keys"]
)
def test_t46_a_hostile_environment_removes_nothing(memory: Path, folder: Path, named: str) -> None:
    named = named.format(memory=memory)
    before = sorted(Path("/etc").iterdir()), sorted(memory.rglob("*"))
    assert not remove_private_folder({"TACIT_KEY_DIR": named, "HOME": named})
    assert (sorted(Path("/etc").iterdir()), sorted(memory.rglob("*"))) == before


def test_another_processs_folder_stays(folder: Path) -> None:
    assert not remove_private_folder({"TACIT_KEY_DIR": str(folder / "keys")}, process=os.getpid() + 1)
    assert folder.exists()


def test_a_folder_that_others_may_enter_is_not_the_one_that_was_made(folder: Path) -> None:
    folder.chmod(0o755)
    assert not remove_private_folder({"TACIT_KEY_DIR": str(folder / "keys")})
    assert folder.exists()


def test_a_link_is_not_followed(memory: Path, folder: Path) -> None:
    link = memory / f"tacit-{uuid.uuid4()}-{os.getpid()}-x2"
    link.symlink_to(folder)
    assert not remove_private_folder({"TACIT_KEY_DIR": str(link / "keys")})
    assert (folder / "keys" / "m").exists()


def test_a_folder_on_a_disk_is_not_the_one_that_was_made(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(path: Path) -> None:
        raise FileInputError(f"{path} is on a disk")

    monkeypatch.setattr("tacit.programs.model_server.private.require_tmpfs", refuse)
    assert not remove_private_folder({"TACIT_KEY_DIR": str(folder / "keys")})
    assert folder.exists()
