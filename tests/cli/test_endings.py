"""How the program `tacit` ends: by whatever signal, without plaintext left; and without a terminal, without a fault."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.command_line import run_app
from tacit.cli.model import app

PROGRAM = Path(sys.executable).with_name("tacit")

# The program, which gets a signal once it has read the first part of the capsule's file.
INTERRUPTED = """
import os, sys
from tacit.programs.tacit import main
from tacit.vault.capsule import Capsule

def interrupted(self, name):
    for piece in chunks(self, name):
        yield piece
        os.kill(os.getpid(), number)

number = int(sys.argv.pop())
chunks, Capsule.iter_chunks = Capsule.iter_chunks, interrupted
main()
"""


@pytest.fixture
def capsule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(b"weights" * 1000)
    assert run_app(app, "encrypt", "-k", "key", "-m", "m.onnx", "-o", "m.capsule").code == 0
    return tmp_path / "m.capsule"


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tacit-test-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_t46_no_plaintext_is_left_by_an_end_in_the_middle(number: int, capsule: Path, memory: Path) -> None:
    words = ("model", "decrypt", "-k", "key", "-m", str(capsule), "-o", str(memory / "plain"), str(int(number)))
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    assert not list(memory.iterdir())


def test_a_terminal_that_is_to_be_ignored_when_it_closes_is(capsule: Path, memory: Path) -> None:
    words = ("model", "decrypt", "-k", "key", "-m", str(capsule), "-o", str(memory / "plain"), str(int(signal.SIGHUP)))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert done.returncode == 0
    assert (memory / "plain/m.onnx").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_closed_stream_gets_nothing_and_is_no_fault(closed: tuple[int, ...], capsule: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "model", "encrypt", "-k", "key", "-m", "m.onnx", "-o", "other.capsule"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: [os.close(number) for number in closed] and None,
    )
    assert (done.returncode, "fault" in done.stderr) == (0, False)
    assert run_app(app, "inspect", "other.capsule", "-k", "key").code == 0
