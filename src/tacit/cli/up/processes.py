"""Programs that are started together and ended together, whatever happens in between."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tacit.errors import ConnectError, InputError

_ENDING = 10.0  # seconds a program gets to end by itself before it is killed
_POLL = 0.05  # seconds between two looks at a program that is starting


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

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()`.

        Raises:
            ConnectError: the program ended first, or the time is up; with the end of its log.
        """
        limit = time.monotonic() + seconds
        while not ready():
            code = self.exit_code()
            if code is not None:
                raise ConnectError(
                    f"{self.name} ended with code {code}; its last lines, of {self.log}:\n{self.last_lines()}"
                )
            if time.monotonic() > limit:
                raise ConnectError(
                    f"{self.name} was not ready after {seconds:.0f} s; its last lines, of {self.log}:\n{self.last_lines()}"
                )
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
    """Starts programs and ends all of them when the block is left, in the opposite order; also on Ctrl-C."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Program] = []

    def __enter__(self) -> "Programs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        with log.open("wb") as output:
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
            except FileNotFoundError as exc:
                raise InputError(
                    f"the program {argv[0]} is not installed; pip install 'tacit[coordinator,premain,serve]'"
                ) from exc
        program = Program(name, process, log)
        self._started.append(program)
        return program

    @property
    def running(self) -> list[Program]:
        """Those that have not ended."""
        return [program for program in self._started if program.exit_code() is None]


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


def free_port(preferred: int) -> int:
    """`preferred`, or another port where somebody holds it."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConnectError("no free port on this machine")


def accepts(port: int) -> bool:
    """Whether something listens on this port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
