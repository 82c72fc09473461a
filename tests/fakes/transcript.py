"""Transcripts of a command line, replayed: each command is typed as it stands there, and its lines are compared.

    $ marblerun status 127.0.0.1:4433 -i
      out| 2: Coordinator is ready to accept a manifest.
      exit 0

Lines that begin with `@` say what happens to the coordinator before the next command. What differs from run to run (times,
fingerprints of what is made new, random values, orders that MarbleRun leaves to chance) is replaced on both sides.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fakes.command_line import Outcome, run_main
from fakes.programs import CoordinatorProcess

RECORDED_HOST = "127.0.0.1:4433"


@dataclass
class Entry:
    """One command of a transcript, what it printed, and the events that stand before it."""

    words: list[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int = -1
    events: list[str] = field(default_factory=list)

    @property
    def refusal(self) -> str:
        """What stands behind `Error: `, if anything does."""
        return next((line.removeprefix("Error: ") for line in self.err if line.startswith("Error: ")), "")


def parse_transcript(text: str) -> Iterator[Entry]:
    entry: Entry | None = None
    events: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if entry is not None:
                yield entry
            words = shlex.split(line)[2:]
            # An empty word was recorded as nothing behind a blank.
            entry = Entry([*words, ""] if line.endswith("-o ") else words, events=events)
            events = []
        elif line.startswith("@ "):
            events.append(line[2:])
        elif entry is not None and line.startswith("  out| "):
            entry.out.append(line[7:])
        elif entry is not None and line.startswith("  err| "):
            entry.err.append(line[7:])
        elif entry is not None and line.startswith("  exit "):
            entry.code = int(line[7:])
    if entry is not None:
        yield entry


class Stage:
    """A folder in which commands are typed, and the coordinator that they speak to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: CoordinatorProcess | None = None
        self._count = 0

    def happen(self, event: str) -> None:
        """`fresh`: a new coordinator. `recovery`: this one again, without its sealing key. `gone`: none answers."""
        if self.running is not None:
            self.running.end()
        if event == "recovery":
            assert self.running is not None
            place = self.running.seal_folder.parent
            (place / "seal" / "sealed_key").unlink()
            self.running = CoordinatorProcess(place)
        elif event == "fresh":
            self._count += 1
            place = self.folder / f"coordinator{self._count}"
            place.mkdir()
            self.running = CoordinatorProcess(place)
        else:
            assert event == "gone", event

    def end(self) -> None:
        if self.running is not None and self.running.process.poll() is None:
            self.running.kill()

    @property
    def host(self) -> str:
        return "127.0.0.1:1" if self.running is None else self.running.client

    def type(self, entry: Entry) -> Outcome:
        """The command with this coordinator's address; in what comes back it is the recorded one again."""
        done = run_main(*(word.replace(RECORDED_HOST, self.host) for word in entry.words))
        return Outcome(
            done.code, done.out.replace(self.host, RECORDED_HOST), done.err.replace(self.host, RECORDED_HOST)
        )


_CHANCE = (
    (re.compile(r'"time":"[0-9TZ:.+-]+"'), '"time":"TIME"'),
    (re.compile(r"\[(?:\d+ ){11,}\d+\]"), "[BYTES]"),
    (re.compile(r"\{\[BYTES\].*"), "CERTIFICATE"),
    (re.compile(r"(Certificate:  ) .*"), r"\1 CERTIFICATE"),
    (re.compile(r'("rec[0-9]+":)"[A-Za-z0-9+/=]+"'), r'\1"SECRET"'),
)
_LISTED = re.compile(r"(?:the update: \[?|yet accepted: )([^\[\]]+)\]?$")


def settled(lines: list[str], *, hashes: bool = False) -> list[str]:
    """Lines with what differs from run to run replaced, and orders of chance sorted."""
    found = []
    in_key = False
    for line in lines:
        if in_key and not line.startswith("-----END"):
            continue
        in_key = line.startswith("-----BEGIN PUBLIC KEY")
        for pattern, text in _CHANCE:
            line = pattern.sub(text, line)  # noqa: PLW2901
        if hashes:
            line = re.sub(r"\b[0-9a-f]{64}\b", "HASH", line)  # noqa: PLW2901
        listed = _LISTED.search(line)
        if listed:
            names = sorted(re.split(r"[, ]+", listed[1]))
            line = line.replace(listed[1], " ".join(names))  # noqa: PLW2901
        found.append(line.rstrip())
    return found
