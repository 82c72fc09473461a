"""The main job, as somebody new runs it: `make demo` and `tacit up`, with the programs as they are installed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "digits" / "demo.py"

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


def environment(home: Path) -> dict[str, str]:
    """A user with an empty home, and nothing of the caller's settings."""
    return {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}


def processes_of(home: Path) -> list[str]:
    """Command lines of living processes whose environment names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, str(DEMO)], env=environment(home), capture_output=True, text=True, timeout=300, check=False
    )
    assert processes_of(home) == []
    return done


@pytest.mark.slow
def test_the_demo_ends_well_and_says_simulated(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "SIMULATED TEE: the whole way is real, the protection is not." in demo.stdout
    assert "Traceback" not in demo.stdout + demo.stderr


@pytest.mark.slow
def test_the_demo_predicts_as_the_plain_model_does(demo: subprocess.CompletedProcess[str]) -> None:
    assert "equal to the plain model's" in demo.stdout
    assert "REST over TLS: the same answers" in demo.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        "a tampered capsule",
        "a changed server file",
        "a client that pins another manifest",
        "a coordinator on an older copy of its state",
    ],
)
def test_the_demo_shows_each_refusal_with_its_reason(demo: subprocess.CompletedProcess[str], attack: str) -> None:
    lines = demo.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip() == f"refused {attack}")
    assert len(lines[at + 1].strip()) > 20


@pytest.mark.slow
def test_ctrl_c_ends_everything_that_the_demo_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(DEMO)],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "coordinator at" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    assert "Traceback" not in rest
    check_nothing_runs(tmp_path)


def check_nothing_runs(folder: Path) -> None:
    """What was started has ended, or does within a while."""
    deadline = time.monotonic() + 60
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(folder) == []


@contextmanager
def up(folder: Path) -> Iterator[str]:
    """`tacit up` with the digits, until the block ends; what it printed."""
    model = folder / "my_model.onnx"
    sys.path.insert(0, str(DEMO.parent))
    from train import train

    train(folder).model.rename(model)
    process = subprocess.Popen(
        ["tacit", "up", str(model)],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C ends everything" in line:
            break
    try:
        assert process.poll() is None, "".join(said)
        yield "".join(said)
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=300)[0]
    assert process.returncode == 130
    assert "Traceback" not in rest
    check_nothing_runs(folder)


def paste(text: str, env: Mapping[str, str]) -> str:
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_up_serves_a_model_of_ones_own_and_its_examples_work(tmp_path: Path) -> None:
    with up(tmp_path) as said:
        python = said[said.index("python - <<'END'\nimport numpy as np, tacit") : said.index("# curl:")]
        curl = next(line for line in said.splitlines() if line.startswith("curl "))
        assert "[" in paste(python, environment(tmp_path))
        assert "outputs" in paste(curl, environment(tmp_path))


@pytest.mark.tensorflow
def test_the_example_for_tensorflow_servings_stubs_works(tmp_path: Path) -> None:
    with up(tmp_path) as said:
        example = said[said.index("python - <<'END'\nimport grpc") :]
        example = example[: example.index("\nEND\n") + 5]
        python = Path(tensorflow_python())
        env = {**environment(tmp_path), "PATH": f"{python.parent}:{os.environ['PATH']}"}
        assert "float_val" in paste(example, env)


def tensorflow_python() -> str:
    """The interpreter of the environment with TensorFlow."""
    found = os.environ.get("TACIT_TENSORFLOW_PYTHON")
    if not found:
        pytest.skip("TACIT_TENSORFLOW_PYTHON names no environment with TensorFlow; `make tensorflow` makes one")
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"this is no model at all", "Error:"),
    ],
)
def test_up_refuses_what_is_no_model_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    model = tmp_path / "wrong.onnx"
    if content is not None:
        model.write_bytes(content)
    done = subprocess.run(
        ["tacit", "up", "--once", str(model)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
