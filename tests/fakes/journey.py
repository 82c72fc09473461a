"""A person at a host: a home of their own, a shell, and the programs that they start.

person = Person(host, folder)
person.types("tacit platform init")
coordinator = person.start("tacit-coordinator")
coordinator.wait_for("client API listening")
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fakes.graphs import constant, graph_bytes, node, placeholder
from fakes.hosts import Host
from tacit.wire.pb import tensorflow_pb2 as tf

PROGRAMS = Path(sys.executable).parent
RESNET50 = Path(__file__).parents[2] / "examples" / "resnet50"
PATIENCE = 180.0  # seconds that a program may take to say something; the machine may be busy


class Program:
    """A program that was started; its output is in `log`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, *, seconds: float = PATIENCE) -> str:
        """Wait until the log has `text`; the log."""
        self._wait(lambda: text in self.said, f"said {text!r}", seconds)
        return self.said

    def wait_for_end(self, *, seconds: float = PATIENCE) -> int:
        """Wait for the end; the exit code."""
        self._wait(lambda: self.process.poll() is not None, "ended", seconds)
        return self.process.wait()

    def _wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not done():
            ended = self.process.poll() is not None
            if done():
                return
            if ended or time.monotonic() > limit:
                raise AssertionError(f"{self.log.name} never {what}; its log:\n{self.said}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as a supervisor does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Person:
    """Somebody at `host`, whose home and files lie in `folder`; what they started ends with the block."""

    def __init__(self, host: Host, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.host = host
        self.folder = folder
        self.env = {
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{PROGRAMS}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
        }
        self.programs: list[Program] = []
        (folder / "home").mkdir()
        (folder / "bin").mkdir()
        # Namespaces give root already; where sudo is not installed, what is typed stays the same.
        self.install("sudo", 'exec "$@"')

    def install(self, name: str, script: str) -> Path:
        """A program of this person's own, as a shell script."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def try_to(self, line: str, *, seconds: float = 300, **env: str) -> "subprocess.CompletedProcess[str]":
        """Type a line, or several; whatever comes of it."""
        return self.host.run(
            ["bash", "-c", f"set -e\n{line}"], env={**self.env, **env}, cwd=self.folder, seconds=seconds
        )

    def types(self, line: str, *, seconds: float = 300, **env: str) -> str:
        """Type a line, or several, that must work; what they print on standard output."""
        done = self.try_to(line, seconds=seconds, **env)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def fail(self, line: str, *, code: int = 1, **env: str) -> str:
        """Type a line that must be refused in one clear line; that line."""
        done = self.try_to(line, **env)
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        lines = [one for one in done.stderr.splitlines() if not one.startswith(("Note:", "Warning:"))]
        assert len(lines) == 1, lines
        return lines[0]

    def start(self, line: str, **env: str) -> Program:
        """Type a line with a `&` at its end."""
        log = self.folder / f"{len(self.programs)}-{(re.search('tacit-[a-z]+', line) or ['program'])[0]}.log"
        with log.open("wb") as out:
            # A shell with one command becomes that command: the process is the program.
            process = self.host.start(["bash", "-c", line], env={**self.env, **env}, cwd=self.folder, log=out)
        self.programs.append(Program(process, log))
        return self.programs[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in reversed(self.programs):
            if program.process.poll() is None:
                program.kill()


def steps(section: str, page: Path = RESNET50 / "README.md") -> Iterator[tuple[str, bool]]:
    """What a section of a page tells to type, and whether it stays running: each `&` on its own."""
    text = page.read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    found = next(part for part in parts if part.startswith(section))
    for block in re.findall(r"^```bash\n(.*?)^```", found, flags=re.MULTILINE | re.DOTALL):
        together: list[str] = []
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if not line.endswith("&"):
                together.append(line)
                continue
            if together:
                yield "\n".join(together), False
            together = []
            yield line.removesuffix("&").strip(), True
        if together:
            yield "\n".join(together), False


def follow(
    person: Person,
    section: str,
    *,
    instead: Sequence[tuple[str, str]] = (),
    page: Path = RESNET50 / "README.md",
    seconds: float = 300,
) -> str:
    """Type a section of a page word by word, but for the exchanges in `instead`; what was printed."""
    printed = ""
    for written, stays in steps(section, page):
        line = written
        for old, new in instead:
            line = line.replace(old, new)
        if stays:
            person.start(line)
            continue
        for export in re.findall(r"^export (\w+)=(\S+)$", line, flags=re.MULTILINE):
            person.env.update([export])
        printed += person.types(line, seconds=seconds)
    return printed


DOWNLOAD = "tacit model download resnet50-v15-fp32"
FETCHED = "mkdir -p models/resnet50-v15-fp32 && cp published.pb models/resnet50-v15-fp32/resnet50-v15-fp32.pb"


def unpack(person: Person) -> None:
    """A copy of the example's folder, and a graph that takes the download's place."""
    for file in RESNET50.glob("*.json"):
        shutil.copy(file, person.folder)
    (person.folder / "published.pb").write_bytes(small_resnet())


def make_model(person: Person) -> str:
    """Type the section about the model, with a small graph in place of the download."""
    return follow(person, "2.", instead=[(DOWNLOAD, FETCHED)])


def small_resnet() -> bytes:
    """A frozen graph with ResNet-50's input and output and no depth: `predict` = softmax(mean of `input` · weights)."""
    weights = np.linspace(-1, 1, 3000, dtype=np.float32).reshape(3, 1000) / 100
    mean = node("mean", "Mean", "input", "axes", T=tf.DT_FLOAT, Tidx=tf.DT_INT32)
    mean.attr["keep_dims"].b = False
    multiply = node("dense", "MatMul", "mean", "weights", T=tf.DT_FLOAT)
    multiply.attr["transpose_a"].b = False
    multiply.attr["transpose_b"].b = False
    return graph_bytes(
        placeholder("input", (-1, 224, 224, 3)),
        constant("axes", np.array([1, 2], dtype=np.int32)),
        mean,
        constant("weights", weights),
        multiply,
        node("predict", "Softmax", "dense", T=tf.DT_FLOAT),
    )
