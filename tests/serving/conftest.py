"""Fixtures of the room: a server's parts in memory, and the real server on free ports."""

import asyncio
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tacit.pki import KeyPair, issue_self_signed
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.repository import ModelConfig, Repository

PATIENCE = 300  # seconds that a busy machine may take; no test waits for them


class Events(list[tuple[str, Mapping[str, object]]]):
    """An observer that remembers."""

    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))

    def named(self, event: str) -> list[Mapping[str, object]]:
        """The fields of all events of this name."""
        return [fields for name, fields in self if name == event]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def make_repository(events: Events) -> Any:
    """Builds repositories with the real engine, and closes them in the end."""
    made: list[Repository] = []

    def make(*models: ModelConfig, staging: Path = Path("/dev/shm")) -> Repository:
        options = EngineOptions(threads=1, staging=staging)
        repository = Repository(models, load=load_openvino, options=options, observe=events)
        made.append(repository)
        return repository

    yield make
    for repository in made:
        repository.close()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory of the test's own: what others make and sweep in `/dev/shm` meanwhile is not in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="test-") as name:
        yield Path(name)


Serving = Callable[[Sequence[str], Mapping[str, str]], Any]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """`async with serving(flags, environ) as ports`: the program's own `serve`, on free ports, in this process."""
    from tacit.programs.model_server import server as program
    from tacit.serving.tfs.flags import parse_flags

    @asynccontextmanager
    async def start(flags: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[dict[str, int]]:
        port_file = tmp_path / "ports.json"
        given = [
            "--host=127.0.0.1",
            "--port=-1",
            "--rest_api_port=-1",
            "--threads=1",
            "--isolation=none",  # a process for each model that a test loads has its own tests
            f"--port_file={port_file}",
            *flags,
        ]
        task = asyncio.ensure_future(program.serve(parse_flags(given), environ))
        try:
            async with asyncio.timeout(PATIENCE):
                while not port_file.exists() and not task.done():
                    await asyncio.sleep(0.01)
            if task.done():
                task.result()
            yield json.loads(port_file.read_text())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for thread in threading.enumerate():
                if thread.name == "storage":
                    thread.join(PATIENCE)

    return start


@pytest.fixture(scope="session")
def server_identity() -> KeyPair:
    """A certificate for localhost that signs itself."""
    return issue_self_signed(["localhost"], common_name="server", now=datetime.now(UTC))
