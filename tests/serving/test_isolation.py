"""Engines in processes of their own: what dies there, and what goes on here."""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from fakes import dying_worker, models
from tacit.errors import EngineCrashedError, ModelFormatError, RequestError, Status, UsageError, WorkerError
from tacit.graph.signature import Signature, TensorSpec
from tacit.programs import serve
from tacit.programs.model_server.isolation import choose_isolation, open_workers, worker_environment
from tacit.programs.model_server.telling import open_log
from tacit.serving.batching.loaded import Queueing
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.engines.staging import sweep
from tacit.serving.loading import messages, warmup
from tacit.serving.loading.isolation import Workers
from tacit.serving.loading.line import Line
from tacit.serving.loading.memory import SharedMemory
from tacit.serving.loading.opening import Loading, Opener
from tacit.serving.loading.process import Worker
from tacit.serving.loading.starting import Command, Isolation, start
from tacit.serving.loading.supervised import SupervisedEngine, pause_before
from tacit.serving.plane import Selector, State
from tacit.serving.repository import ModelConfig, Repository, VersionPolicy
from tacit.serving.sources import Access, Format, list_sources
from tacit.serving.tfs.flags import parse_flags
from tacit.vault import seal_folder
from tacit.wire.tensor import DT_STRING, Tensor

pytestmark = pytest.mark.slow

KEY = bytes(range(32))
TESTS = Path(__file__).parents[1]
REAL = "tacit.programs.model_server.worker"
DYING = dying_worker.__name__
ONE = EngineOptions(threads=1)


def command(module: str = REAL) -> Command:
    return Command(module, {**worker_environment(os.environ), "PYTHONPATH": str(TESTS)})


def put(base: Path, version: int, *more: str, content: bytes | None = None) -> None:
    folder = base / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content or models.onnx_model())
    for name in more:
        (folder / name).touch()


Make = Callable[..., Repository]


@pytest.fixture
def make(events: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Repositories whose models are tried out, or kept, in processes of their own."""
    made: list[Repository] = []
    monkeypatch.setattr("tacit.serving.loading.process._PATIENCE", 60.0)  # what it died of is told, however late

    def start(
        base: Path,
        isolation: Isolation,
        *,
        module: str = DYING,
        access: Access | None = None,
        latest: int = 1,
        patience: float = 30.0,
    ) -> Repository:
        workers = Workers(isolation, command(module))
        config = ModelConfig(base, access or Access("m", Format.PLAIN), VersionPolicy(latest))
        loading = Loading(workers=workers, queueing=Queueing(patience=patience))
        found = Repository([config], load=load_openvino, options=ONE, observe=events, loading=loading)
        made.append(found)
        return found

    yield start
    for repository in made:
        repository.close()


def ask(repository: Repository, value: float = 1.0, rows: int = 1, version: int | None = None) -> Any:
    served = repository.find(Selector("m", version))
    inputs = {"x": Tensor(1, np.full((rows, 4), value, np.float32))}
    return served.submit("serving_default", inputs, ("y",))


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def children() -> set[int]:
    """The processes that this one has."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found |= {int(number) for number in (task / "children").read_text().split()}
    return found


# ---- probe


@pytest.mark.parametrize("isolation", [Isolation.PROBE, Isolation.PROCESS])
@pytest.mark.parametrize(("file", "death"), [("dies.txt", "SIGABRT"), ("dies-of-zero.txt", "SIGSEGV")])
def test_t43_a_version_that_kills_its_engine_takes_no_server_down(
    tmp_path: Path, make: Make, events: Any, file: str, death: str, isolation: Isolation
) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, isolation)
    repository.poll()
    put(tmp_path, 2, file)
    repository.poll()
    bad, good = repository.statuses("m")
    assert (bad.state, bad.code, good.state) == (State.END, Status.INTERNAL, State.AVAILABLE)
    assert death in bad.message
    assert events.named("model-failed")[0]["reason"] == EngineCrashedError.reason
    np.testing.assert_allclose(ask(repository).result(60)["y"].array, [models.WEIGHTS.sum(0)], rtol=1e-6)
    assert repository.ready


def test_t43_a_version_that_never_answers_its_trial_holds_up_no_other(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "PATIENCE", 0.5)
    before = children()
    put(tmp_path, 1, "hangs.txt")
    repository = make(tmp_path, Isolation.PROBE)
    begin = time.monotonic()
    repository.poll()
    assert time.monotonic() - begin < 300
    until(lambda: children() <= before, "the trial's process is still there")


def test_what_was_tried_out_runs_here_and_its_process_is_gone(tmp_path: Path, make: Make) -> None:
    before = children()
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROBE)
    repository.poll()
    np.testing.assert_allclose(ask(repository).result(60)["y"].array, [models.WEIGHTS.sum(0)], rtol=1e-6)
    assert children() == before


@pytest.mark.parametrize("isolation", [Isolation.PROBE, Isolation.PROCESS])
def test_a_file_that_is_no_model_is_refused_in_the_engines_words(
    tmp_path: Path, make: Make, isolation: Isolation
) -> None:
    before = children()
    put(tmp_path, 1, content=b"no model")
    repository = make(tmp_path, isolation, module=REAL)
    repository.poll()
    (status,) = repository.statuses("m")
    assert (status.state, status.code) == (State.END, Status.INVALID_ARGUMENT)
    assert "not an ONNX model" in status.message
    assert children() == before


@pytest.mark.parametrize("isolation", [Isolation.PROBE, Isolation.PROCESS])
@pytest.mark.parametrize("name", ["model.onnx", "saved_model.pb"])
def test_t46_a_sealed_model_gets_there_without_its_key_or_a_disk(
    tmp_path: Path, make: Make, isolation: Isolation, name: str
) -> None:
    ours = f"tacit-worker-{os.getpid()}-"
    source = tmp_path / "source"
    source.mkdir()
    (source / name).write_bytes(models.onnx_model() if name.endswith("onnx") else models.saved_model())
    seal_folder(source, tmp_path / "1.capsule", KEY, name="m", version=1)
    repository = make(tmp_path, isolation, module=REAL, access=Access("m", Format.CAPSULE, None, KEY))
    repository.poll()
    assert repository.ready, repository.statuses("m")
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(ours)]


def test_the_first_process_is_started_ahead_and_used(tmp_path: Path) -> None:
    workers = Workers(Isolation.PROBE, command(), ahead=start(command()))
    (ahead,) = children()
    bundle = MemoryBundle({"model.onnx": models.onnx_model()})
    engine = workers.try_out(bundle, ONE)
    assert children() == {ahead}
    engine.close()
    unused = Workers(Isolation.PROBE, command(), ahead=start(command()))
    assert children()
    unused.close()
    assert not children()


# ---- process


def test_a_model_in_its_own_process_answers_as_it_would_here(tmp_path: Path, make: Make) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS, module=REAL)
    repository.poll()
    for rows in (1, 70_000, 2, 3_000_000, 1):  # from one row to more than is kept, and back
        found = ask(repository, rows=rows).result(60)["y"].array
        np.testing.assert_allclose(found, np.ones((rows, 4), np.float32) @ models.WEIGHTS, rtol=1e-6)
    with pytest.raises(RequestError) as refused:
        repository.find(Selector("m")).submit(
            "serving_default", {"x": Tensor(1, np.ones((1, 5), np.float32))}, ("y",)
        ).result(60)
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_t43_a_death_fails_what_was_asked_and_another_takes_its_place(tmp_path: Path, make: Make, events: Any) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    with repository.find(Selector("m"))._queue._running:  # all are there before the first is run
        pending = [ask(repository, dying_worker.FATAL), ask(repository), ask(repository)]
    for one in pending:
        with pytest.raises(RequestError) as failed:
            one.result(60)
        assert failed.value.status is Status.UNAVAILABLE
    until(lambda: bool(events.named("worker-started")), "another process")
    assert "SIGSEGV" in str(events.named("worker-failed")[0]["message"])
    assert events.named("worker-failed")[0]["model"] == "m"
    until(lambda: repository.ready, "it answers again")
    np.testing.assert_allclose(ask(repository).result(60)["y"].array, [models.WEIGHTS.sum(0)], rtol=1e-6)


def test_a_process_that_is_killed_while_nobody_asks_is_replaced(tmp_path: Path, make: Make, events: Any) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    (number,) = children()
    os.kill(number, signal.SIGKILL)
    until(lambda: bool(events.named("worker-started")), "another process")
    assert "where memory runs out" in str(events.named("worker-failed")[0]["message"])
    assert children() == {events.named("worker-started")[0]["process"]}
    assert ask(repository).result(60)


def test_while_there_is_no_process_the_server_is_not_ready(tmp_path: Path, make: Make, events: Any) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    assert repository.ready
    (number,) = children()
    (tmp_path / "1" / "model.onnx").rename(tmp_path / "away")
    os.kill(number, signal.SIGKILL)
    until(lambda: len(events.named("worker-failed")) > 1, "a start that failed")
    assert not repository.ready
    with pytest.raises(RequestError, match="is started again") as refused:
        ask(repository).result(60)
    assert refused.value.status is Status.UNAVAILABLE
    (tmp_path / "away").rename(tmp_path / "1" / "model.onnx")
    until(lambda: repository.ready, "the next start")


def test_t45_another_model_does_not_take_the_place_of_one_that_died(tmp_path: Path, make: Make, events: Any) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    (number,) = children()
    (tmp_path / "1" / "model.onnx").write_bytes(models.difference())
    os.kill(number, signal.SIGKILL)
    until(lambda: any("has changed since" in str(one["message"]) for one in events.named("worker-failed")), "a refusal")
    assert not repository.ready


def test_an_unloaded_version_takes_its_process_along(tmp_path: Path, make: Make) -> None:
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    (first,) = children()
    put(tmp_path, 2)
    repository.poll()
    assert len(children()) == 1
    assert first not in children()
    repository.close()
    assert not children()


# ---- a model that hangs


@pytest.fixture
def hanging(tmp_path: Path, make: Make) -> tuple[Repository, list[Any]]:
    """A model that never answers the first of the requests that wait for it."""
    put(tmp_path, 1)
    repository = make(tmp_path, Isolation.PROCESS, patience=0.5)
    repository.poll()
    return repository, [ask(repository, dying_worker.ENDLESS), *(ask(repository) for _ in range(3))]


def check_unavailable(pending: list[Any]) -> None:
    """Each has been answered, or is within a moment."""
    for one in pending:
        with pytest.raises(RequestError, match="unloaded") as failed:
            one.result(60)
        assert failed.value.status is Status.UNAVAILABLE


def test_t43_a_model_that_hangs_is_unloaded_all_the_same(
    tmp_path: Path, hanging: tuple[Repository, list[Any]], events: Any
) -> None:
    repository, pending = hanging
    begin = time.monotonic()
    repository.unload_model("m")
    assert time.monotonic() - begin < 300
    check_unavailable(pending)
    assert not children()
    assert "did not answer" in str(events.named("model-unloaded")[0]["message"])
    assert not events.named("worker-failed"), "it was ended, and nobody takes its place"


def test_t43_a_model_that_hangs_gives_way_to_its_next_version(
    tmp_path: Path, hanging: tuple[Repository, list[Any]]
) -> None:
    repository, pending = hanging
    put(tmp_path, 2)
    begin = time.monotonic()
    repository.poll()
    assert time.monotonic() - begin < 300
    check_unavailable(pending)
    assert [status.state for status in repository.statuses("m")] == [State.AVAILABLE, State.END]
    np.testing.assert_allclose(ask(repository).result(60)["y"].array, [models.WEIGHTS.sum(0)], rtol=1e-6)


def test_t43_a_model_that_hangs_gives_way_to_another_configuration(
    tmp_path: Path, hanging: tuple[Repository, list[Any]]
) -> None:
    repository, pending = hanging
    put(tmp_path / "other", 1)
    begin = time.monotonic()
    repository.reload([ModelConfig(tmp_path / "other", Access("other", Format.PLAIN))])
    assert time.monotonic() - begin < 300
    check_unavailable(pending)
    assert repository.names() == ("other",)
    assert len(children()) == 1


def test_t43_a_model_that_hangs_does_not_keep_the_server_from_its_end(hanging: tuple[Repository, list[Any]]) -> None:
    repository, pending = hanging
    begin = time.monotonic()
    repository.close()
    assert time.monotonic() - begin < 300
    check_unavailable(pending)
    assert not children()


_SERVER = f"""
from fakes import dying_worker
from tacit.programs import serve
from tacit.programs.model_server import isolation, server
server._DRAIN, server.load_engine, isolation._MODULE = 1.0, dying_worker.load, {DYING!r}
serve.main()
"""


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_t43_the_program_ends_in_time_though_a_model_hangs(tmp_path: Path, isolation: str) -> None:
    put(tmp_path / "models", 1)
    ports = tmp_path / "ports.json"
    flags = ["--host=127.0.0.1", "--port=0", "--rest_api_port=-1", f"--isolation={isolation}", f"--port_file={ports}"]
    # Without a warmup the model counts as slow, and has a thread of its own in every process.
    flags += ["--model_name=m", f"--model_base_path={tmp_path / 'models'}", "--enable_model_warmup=false"]
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen([sys.executable, "-c", _SERVER, *flags], env=environ)
    try:
        until(ports.exists, "it listens")
        address = f"http://127.0.0.1:{json.loads(ports.read_text())['rest']}"
        with httpx.Client(trust_env=False, base_url=address, timeout=10) as client:
            until(lambda: client.get("/v2/health/ready").status_code == 200, "it is ready")
            body = {"instances": [[dying_worker.ENDLESS] * 4]}
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/models/m:predict", json=body, timeout=1)
            process.terminate()
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_version_that_dies_in_its_warmup_is_not_served(tmp_path: Path, make: Make) -> None:
    put(tmp_path, 1, "dies-of-zero.txt")
    repository = make(tmp_path, Isolation.PROCESS)
    repository.poll()
    (status,) = repository.statuses("m")
    assert (status.state, status.code) == (State.END, Status.INTERNAL)
    assert not children()


@pytest.mark.parametrize("dies", [True, False])
def test_what_a_process_died_of_is_told_though_it_was_closed_meanwhile(dies: bool) -> None:
    worker = Worker(start(command()))
    if dies:
        os.kill(worker.number, signal.SIGSEGV)
        assert worker.wait() == "died of SIGSEGV"
    worker.close()
    worker.close()
    told = "died of SIGSEGV" if dies else "was ended, because the model is unloaded"
    with pytest.raises(EngineCrashedError, match=told):
        worker.infer("s", {}, ())
    assert told in worker._death()


class Ending:
    """A worker that dies when it is told to."""

    number, platform = 7, "ending"
    signatures: Mapping[str, Signature] = {}

    def __init__(self) -> None:
        self.dead = threading.Event()

    def load(self, *_: object, **more: object) -> None:
        """Nothing to load."""

    def wait(self) -> str:
        self.dead.wait(60)
        return "died"

    def close(self) -> None:
        self.dead.set()


def test_an_unloading_while_another_process_starts_is_no_failure(events: Any) -> None:
    worker, starting = Ending(), threading.Event()

    def reopen() -> MemoryBundle:
        starting.set()
        assert engine._end.wait(60)
        raise OSError

    engine = SupervisedEngine(lambda: cast("Worker", worker), MemoryBundle({}), reopen, ONE, events)
    worker.dead.set()
    assert starting.wait(60)
    engine.close()
    assert [fields["message"] for fields in events.named("worker-failed")] == ["it died; another is started"]


def test_a_process_that_finds_no_room_for_its_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made, create = [], SharedMemory.create

    def once() -> SharedMemory:
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(create())
        return made[0]

    monkeypatch.setattr(SharedMemory, "create", once)
    before = children()
    with pytest.raises(OSError, match="Too many"):
        Workers(Isolation.PROCESS, command())._take()
    assert made[0].descriptor == -1
    assert children() == before


def test_a_process_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket, "socketpair", lambda: (ours, theirs))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        start(command())
    assert (ours.fileno(), theirs.fileno()) == (-1, -1)


def test_a_server_says_why_the_first_process_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert serve.run(["--model_name=m", f"--model_base_path={tmp_path}", "--isolation=probe"], {}) == 1
    told = capsys.readouterr().err
    assert told.startswith("Failed to start server. Error: ")
    assert "No such file" in told
    assert "--isolation=none" in told


class Slow:
    """An engine that runs until it is let go, and says whether it was closed meanwhile."""

    platform = "slow"
    signatures: Mapping[str, Signature] = {}

    def __init__(self) -> None:
        self.gate, self.closed = threading.Event(), threading.Event()
        self.runs, self.closed_in_a_run = False, False

    def infer(self, *_: object) -> dict[str, Tensor]:
        self.runs = True
        self.gate.wait(60)
        self.runs = False
        return {}

    def close(self) -> None:
        self.closed_in_a_run = self.closed_in_a_run or self.runs
        self.closed.set()


def test_t43_an_engine_is_not_closed_while_its_warmup_still_runs(
    tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmup, "PATIENCE", 0.05)
    put(tmp_path, 1)
    engine = Slow()
    loading = Loading(recorded=lambda *_: [warmup.Call("s", {}, ())], queueing=Queueing(patience=0.05))
    access = Access("m", Format.PLAIN)
    (source,) = list_sources(tmp_path, access)
    with pytest.raises(RequestError, match="takes more than"):
        Opener(lambda *_: engine, ONE, loading, events).open(source, access)
    assert not engine.closed.is_set()
    engine.gate.set()
    assert engine.closed.wait(60)
    assert not engine.closed_in_a_run


def test_pauses_grow_with_deaths_and_have_an_end() -> None:
    assert [pause_before(deaths) for deaths in (1, 2, 3, 4, 50)] == [0, 1, 2, 4, 60]


# ---- what such a process knows, and when it ends


def test_t46_a_process_for_a_model_knows_no_secret_of_the_server() -> None:
    told = worker_environment(
        {
            "PATH": "/bin",
            "OMP_NUM_THREADS": "2",
            "MARBLE_PREDEFINED_PRIVATE_KEY": "k",
            "TACIT_KEY_DIR": "d",
            "MINE": "s",
        }
    )
    assert told == {"PATH": "/bin", "OMP_NUM_THREADS": "2"}


def test_t50_nobody_else_can_be_the_process_of_a_model() -> None:
    worker = Worker(start(command()))
    try:
        worker.load(MemoryBundle({"model.onnx": models.onnx_model()}), ONE, fit=False)
        kinds = set()
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # another thread's, closed meanwhile
                kinds.add(os.readlink(link))
        assert not worker._line._end.getsockname(), "the socket has a name"
        assert not any("tacit" in kind and "memfd" not in kind for kind in kinds)
    finally:
        worker.close()


def test_a_process_for_a_model_ends_with_the_server_even_while_it_runs(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        slow = (
            "import socket, sys, time\n"
            "from tacit.serving.loading.line import Line\nfrom tacit.serving.loading.worker import work\n"
            "work(Line(socket.socket(fileno=int(sys.argv[1]))), lambda *_: time.sleep(600))"
        )
        process = subprocess.Popen([sys.executable, "-c", slow, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    shared = [SharedMemory.create() for _ in range(3)]
    request = messages.Load([], str(tmp_path), [], 0, "f32", 1, "auto", "/dev/shm", False)
    Line(ours).send(messages.encode(request), [memory.descriptor for memory in shared])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        until(lambda number=number: bool(_ignored(process.pid) & 1 << number - 1), f"it ignores {number.name}")
        process.send_signal(number)
    assert process.poll() is None
    ours.close()
    assert process.wait(60) == 0


def _ignored(number: int) -> int:
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigIgn")), 16)


# ---- what is said between them


def test_tensors_of_all_kinds_come_back_as_they_were() -> None:
    words = np.empty((2, 2), object)
    words[:] = [[b"", b"a"], [b"\0\xff", b"longer"]]
    sent = {
        "words": Tensor(DT_STRING, words),
        "none": Tensor(1, np.zeros((0, 3), np.float32)),
        "scalar": Tensor(9, np.array(7, np.int64)),
        "flags": Tensor(10, np.array([True, False])),
        "turned": Tensor(2, np.arange(6.0).reshape(2, 3).T),
    }
    places, contents, size = messages.place_tensors(sent)
    memory = memoryview(bytearray(size))
    messages.put_tensors(memory, places, contents)
    for copy in (True, False):
        found = messages.take_tensors(memory, places, copy=copy)
        for name, tensor in sent.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_array_equal(found[name].array, tensor.array)


@pytest.mark.parametrize(
    "place",
    [
        messages.Place("x", 0, 4097, 1, (1024,)),
        messages.Place("x", 4096, 4, 1, (1,)),
        messages.Place("x", -4, 4, 1, (1,)),
        messages.Place("x", 0, 4, 1, (2,)),
        messages.Place("x", 0, 4, 1, (-1, -1)),
        messages.Place("x", 0, 4, 99, (1,)),
        messages.Place("x", 0, 4, 1, (1,) * 100),
        messages.Place("x", 0, 4, DT_STRING, (1,)),
        messages.Place("x", 0, 16, DT_STRING, (2,)),
        messages.Place("x", 0, 4096, DT_STRING, (1 << 40,)),
        messages.Place("x", 0, 0, 1, (0, 1 << 63)),
    ],
)
def test_t44_a_process_that_lies_about_its_tensors_is_not_believed(place: messages.Place) -> None:
    memory = memoryview(bytearray(b"\xff" * 4096))
    with pytest.raises(WorkerError):
        messages.take_tensors(memory, [place], copy=True)


def test_t44_shared_memory_cannot_be_taken_from_who_reads_it() -> None:
    memory = SharedMemory.create()
    try:
        memory.room(5000)[:4] = b"kept"
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptor, 0)
        with pytest.raises(WorkerError, match="were promised"):
            memory.view(1 << 30)
        assert bytes(memory.view(4)) == b"kept"
    finally:
        memory.close()


@pytest.mark.parametrize(
    "answer",
    [
        messages.Answer([messages.Place("y", 0, 8, 1, (2,))] * 2, 16),
        messages.Answer([messages.Place("z", 0, 8, 1, (2,))], 8),
        messages.Answer([], 0),
        messages.Answer([messages.Place("y", 0, 8, 1, (2,))], 7),
        messages.Answer([messages.Place("y", 0, 1 << 32, 3, (1 << 30,))], 1 << 32),
    ],
    ids=["twice", "another", "none", "more-than-there-is", "too-large"],
)
def test_t44_an_answer_is_what_was_asked_for_once_and_fits(answer: messages.Answer) -> None:
    with pytest.raises(WorkerError):
        messages.check_answer(answer, ["y"])


def test_t44_a_process_cannot_seal_the_memory_it_shares() -> None:
    import fcntl

    memory = SharedMemory.create()
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    assert len(memory.room(4 << 20)) == 4 << 20
    memory.close()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80", messages.encode({"type": "Quit"}), messages.encode([1])])
def test_nonsense_between_processes_is_refused(raw: bytes) -> None:
    with pytest.raises(WorkerError):
        messages.parse_request(raw)
    with pytest.raises(WorkerError):
        messages.parse_reply(raw)


def test_signatures_come_over_whole() -> None:
    defaults = {"d": Tensor(1, np.array([1.5], np.float32))}
    sent = {"k": Signature({"d": TensorSpec("d:0", 1, (-1,)), "u": TensorSpec("u:0", 3, None)}, {}, "m", defaults)}
    (found,) = messages.signatures_of(messages.describe(sent)).values()
    assert (found.inputs, found.outputs, found.method) == (sent["k"].inputs, {}, "m")
    np.testing.assert_array_equal(found.defaults["d"].array, defaults["d"].array)
    with pytest.raises(WorkerError):
        messages.signatures_of({"k": messages.Described({"x": ("x:0", 99, ())}, {}, "", {})})


# ---- the flag


def test_in_sgx_there_is_one_process_and_the_log_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_isolation("auto", in_sgx=False)[0] is Isolation.PROBE
    assert choose_isolation("process", in_sgx=False)[0] is Isolation.PROCESS
    with pytest.raises(UsageError, match="second enclave"):
        choose_isolation("process", in_sgx=True)
    with pytest.raises(UsageError, match="expected auto, none, probe, process"):
        choose_isolation("vm", in_sgx=False)
    for environ, enclave in (({"TACIT_TEE": "sgx"}, tmp_path / "none"), ({}, tmp_path)):
        assert open_workers(parse_flags([]), environ, open_log(), enclave=enclave).isolation is Isolation.NONE
        told = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert (told["event"], told["isolation"]) == ("isolation", "none")
        assert "second enclave" in told["message"]


@pytest.mark.parametrize("isolation", ["none", "probe", "process"])
async def test_the_program_serves_with_each(serving: Any, tmp_path: Path, isolation: str) -> None:
    put(tmp_path / "models", 1)
    flags = ["--model_name=m", f"--model_base_path={tmp_path / 'models'}", f"--isolation={isolation}"]
    async with serving(flags, dict(os.environ)) as ports, httpx.AsyncClient(trust_env=False) as client:
        address = f"http://127.0.0.1:{ports['rest']}"
        async with asyncio.timeout(300):
            while (await client.get(f"{address}/v2/health/ready")).status_code != 200:
                await asyncio.sleep(0.1)
        answer = await client.post(f"{address}/v1/models/m:predict", json={"instances": [[1, 1, 1, 1]]})
    np.testing.assert_allclose(answer.json()["predictions"], [models.WEIGHTS.sum(0)], rtol=1e-5)


def test_what_an_engine_refuses_comes_over_as_what_it_was(tmp_path: Path) -> None:
    before, workers = children(), Workers(Isolation.PROBE, command())
    files: Mapping[str, bytes] = {"saved_model.pb": b"no"}
    with pytest.raises(ModelFormatError, match="SavedModel"):
        workers.try_out(MemoryBundle(files), ONE)
    assert children() == before


def test_t46_what_a_killed_server_left_in_memory_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = tmp_path / f"tacit-worker-{gone.pid}-x", tmp_path / f"tacit-worker-{os.getpid()}-x"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"plain")
    (tmp_path / "tacit-worker-1x-y").mkdir()
    sweep(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([alive.name, "tacit-worker-1x-y"])
