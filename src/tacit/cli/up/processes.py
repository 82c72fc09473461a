"""Programs that are started together and ended together, whatever happens in between."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tacit.cli.up.interrupts import Interrupts
from tacit.errors import ConnectError, InputError

_ENDING = 10.0  # seconds a program gets to end by itself before it is killed
_POLL = 0.05  # seconds between two looks at a program that is starting
_INSTALL = "pip install 'tacit[coordinator,premain,serve]'"
_MARK = re.compile(r"^\[PreMain\] \S+ \S+ (Error: )?")  # how premain begins its lines


class Program:
    """One program that runs, with its log in a file."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def last_lines(self, count: int = 3) -> str:
        """The end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"  {line[:400]}" for line in lines[-count:])

    def last_word(self) -> str:
        """What it said last, on one line: the error of a line of its log, else the line itself."""
        lines = [line for line in self.last_lines(20).splitlines() if line.strip()]
        if not lines:
            return "it said nothing"
        event = _parse_event(lines[-1])
        said = event.get("error") or event.get("message") or event.get("msg") or event.get("event")
        return _MARK.sub("", str(said or lines[-1].strip()))[:400]

    def events(self) -> list[Mapping[str, Any]]:
        """Its log so far, as far as it is JSON."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [event for event in map(_parse_event, lines) if event]

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()`.

        Raises:
            ConnectError: the program ended first, or the time is up; with what it said last.
        """
        limit = time.monotonic() + seconds
        while not ready():
            code = self.exit_code()
            if code is not None:
                said = self.last_word()
                fix = f"; {_INSTALL}" if "No module named" in said else ""
                raise ConnectError(f"the {self.name} ended {ending(code)}: {said}{fix}")
            if time.monotonic() > limit:
                raise ConnectError(f"the {self.name} was not ready after {seconds:.0f} s: {self.last_word()}")
            time.sleep(_POLL)

    def wait_for_end(self, *, seconds: float) -> int:
        """Wait for the end and give the exit code. Raises: ConnectError when the time is up."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as exc:
            raise ConnectError(f"{self.name} still runs after {seconds:.0f} s; its log is {self.log}") from exc

    def says(self, text: str) -> bool:
        """Whether `text` stands in its log."""
        return self.log.exists() and text in self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Ask it to end, and end it after a while."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._process.kill()
        self._process.wait()


class Programs:
    """Starts programs and ends all of them when the block is left, in the opposite order; also on Ctrl-C.

    With `interrupts`, no signal can come between the start of a program and its being written down.
    """

    def __init__(self, logs: Path, interrupts: Interrupts | None = None) -> None:
        self._logs = logs
        self._interrupts = interrupts or Interrupts()
        self._started: list[Program] = []

    def __enter__(self) -> "Programs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._interrupts.held():
            for program in reversed(self._started):
                with contextlib.suppress(ProcessLookupError):
                    program.stop()

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> Program:
        """Start `argv` with exactly the environment `env`; its output goes to a log file.

        The programs get a session of their own, so that Ctrl-C reaches them through us, in order.
        Raises: InputError when the program is not installed.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}-{len(self._started)}.log"
        with self._interrupts.held(), log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    list(argv),
                    env=dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as exc:
                raise InputError(f"the program {argv[0]} cannot be started ({exc.strerror}); {_INSTALL}") from exc
            program = Program(name, process, log)
            self._started.append(program)
        return program

    @property
    def running(self) -> list[Program]:
        """Those that have not ended."""
        return [program for program in self._started if program.exit_code() is None]


def ending(code: int) -> str:
    """How a program ended, by its exit code: the number of a signal is negative."""
    if code >= 0:
        return f"with code {code}"
    if -code == signal.SIGKILL:
        return "by SIGKILL, as the system ends what takes too much memory"
    return f"by signal {-code}"


def find_program(name: str) -> str:
    """The path of one of our programs: beside this Python first, so that one installation stays with itself."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a program of ours needs from its surroundings, plus `extra`; nothing else is handed on."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "PYTHONPATH")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    return {**environment, **extra}


def _parse_event(line: str) -> Mapping[str, Any]:
    """A line of a log as JSON; nothing where it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
