import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.tee import FakeTee
from tacit.evidence.simulated.platform import render_platform


class Clock:
    """Time that passes where premain waits between two attempts, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Premain's time: none of it is lost to a busy machine, and each attempt may take as long as it does there."""
    made = Clock()
    monkeypatch.setattr("tacit.marble.premain.time", made)
    monkeypatch.setattr("tacit.marble.premain.SHORTEST_ATTEMPT", 60.0)
    monkeypatch.setattr("tacit.marble.premain.ATTEMPT_SECONDS", 60.0)
    return made


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
