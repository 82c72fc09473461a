import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.tee import FakeTee
from tacit.evidence.simulated.platform import render_platform


@pytest.fixture(scope="module")
def tee() -> FakeTee:
    return FakeTee(product_id=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="test-") as name:
        yield Path(name)


@pytest.fixture
def platform(tee: FakeTee, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the fake's platform, its public part, where this process looks for it."""
    made = folder / "platform"
    made.mkdir()
    (made / "platform.json").write_bytes(render_platform(tee.platform.public()))
    monkeypatch.setenv("TACIT_PLATFORM", str(made))
    return made
