"""Whose process an engine runs in, and how such a process is started.

    none      the server's own
    probe     another one loads and warms each version first, and may die of it; then the server's own
    process   another one for as long as the version is served; when it dies, the next takes its place

It keeps a crash from the server, and is no sandbox: such a process may do what the user may that it runs as.

It takes a while to read its libraries, so a program starts the first one before it reads its own: this module needs
nothing but the standard library.
"""

import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Isolation(StrEnum):
    """How far a model is kept from the server."""

    NONE = "none"
    PROBE = "probe"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Command:
    """How a worker is started: its module, and its whole environment."""

    module: str
    environ: Mapping[str, str]

    def argv(self, descriptor: int) -> list[str]:
        """The command line. The folder that this process was started in is no place for modules."""
        isolated = ["-I"] if sys.flags.isolated else []
        return [sys.executable, "-P", *isolated, "-m", self.module, str(descriptor)]


@dataclass(frozen=True, slots=True)
class Started:
    """A process that waits for its model, and this end of the socket to it."""

    process: "subprocess.Popen[bytes]"
    end: socket.socket

    def close(self) -> None:
        """End it, if it runs."""
        self.end.close()
        self.process.kill()
        self.process.wait()


def start(command: Command) -> Started:
    """A new process. Raises: OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        # What it prints when it dies is the engine's, and goes past our log: the log says what it died of.
        process = subprocess.Popen(
            command.argv(theirs.fileno()),
            env=dict(command.environ),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return Started(process, ours)
