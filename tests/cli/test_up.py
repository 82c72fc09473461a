"""`tacit up` with real programs: what it prints works when pasted, what it started ends, and what it knows stays inside."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fakes.command_line import Outcome, run_main
from fakes.models import onnx_identity, onnx_model, saved_model
from fakes.programs import make_platform_folder
from tacit.cli.up import command, examples
from tacit.client.trust import TrustStore

pytestmark = pytest.mark.slow

KEY = bytes(range(7, 39))


def two_inputs() -> bytes:
    """`sum = a + float(b)` and `square = a * a`, all sizes but the last free, b of 64-bit integers."""
    shape = ["N", "M", 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "c"], ["sum"]),
            helper.make_node("Mul", ["a", "a"], ["square"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("b", TensorProto.INT64, shape),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("sum", "square")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Running:
    """A `tacit up` that serves, and all that it printed."""

    process: "subprocess.Popen[str]"
    said: str
    env: dict[str, str]
    folder: Path

    @property
    def host(self) -> str:
        found = re.search(r"coordinator at (\S+):", self.said)
        assert found
        return found[1]

    @property
    def server(self) -> str:
        found = re.search(r"gRPC at (\S+),", self.said)
        assert found
        return found[1]

    def example(self, title: str) -> str:
        """The pasteable block below the comment that begins with `title`."""
        return self.said.split(f"# {title}", 1)[1].split("\n", 1)[1].split("\n\n", 1)[0]

    def paste(self, title: str, **extra: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self.example(title)],
            env={**self.env, **extra},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: object) -> Outcome:
        """A command of the same user, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("XDG_CONFIG_HOME", raising=False)
            patch.delenv("XDG_DATA_HOME", raising=False)
            patch.delenv("TACIT_PLATFORM", raising=False)
            patch.setenv("HOME", str(self.folder))
            return run_main(*words)


def processes_of(folder: Path) -> dict[int, str]:
    """Command lines, by process id, of what runs with `folder` as its home or with arguments below it.

    By the arguments, too: the attested server's environment is the manifest's, and has no home.
    """
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"HOME={folder}".encode() in variables or any(f"{folder}/".encode() in word for word in words):
            found[int(place.name)] = b" ".join(words).decode()
    return {pid: words for pid, words in found.items() if pid != os.getpid()}


def start(folder: Path, model: Path, *, until: str = "Ctrl-C ends everything") -> Running:
    (folder / "tmp").mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"HOME": str(folder), "PATH": path, "TMPDIR": str(folder / "tmp"), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        ["tacit", "up", str(model)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(until):
            break
    assert process.poll() is None, "".join(said)
    return Running(process, "".join(said), env, folder)


def nothing_is_left(folder: Path) -> None:
    limit = time.monotonic() + 60  # what a killed server had started ends by itself, a moment after it
    while processes_of(folder) and time.monotonic() < limit:
        time.sleep(0.05)
    assert processes_of(folder) == {}
    assert list((folder / "tmp").iterdir()) == []
    assert TrustStore(folder / ".config" / "tacit").load_hosts() == {}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "two parts.onnx").write_bytes(two_inputs())
    found = start(folder, folder / "two parts.onnx")
    yield found
    if found.process.poll() is None:
        found.process.send_signal(signal.SIGTERM)
    found.process.communicate(timeout=300)


def test_the_python_example_works_when_pasted(running: Running) -> None:
    assert "np.int64" in running.example("Python, with tacit")
    assert "square" in running.paste("Python, with tacit")


def test_the_curl_example_works_when_pasted(running: Running) -> None:
    found = json.loads(running.paste("curl"))
    assert found["outputs"]["sum"] == [[[0.0, 0.0, 0.0]]]


STUBS = {
    "tensorflow.py": """
import numpy as np
from tacit.wire.pb.tensorflow_pb2 import TensorProto
from tacit.wire.tensor import Tensor, encode_tensor
def make_tensor_proto(array):
    proto = TensorProto()
    encode_tensor(Tensor({"float32": 1, "int64": 9}[str(array.dtype)], array), proto, as_content=True)
    return proto
""",
    "tensorflow_serving/apis/predict_pb2.py": "from tacit.wire.pb.serving_pb2 import PredictRequest",
    "tensorflow_serving/apis/prediction_service_pb2_grpc.py": """
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
class PredictionServiceStub:
    def __init__(self, channel):
        self.Predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
""",
}


def test_the_tensorflow_serving_example_works_when_pasted(running: Running, tmp_path: Path) -> None:
    for name, text in STUBS.items():  # what the example needs of the two packages, which weigh a gigabyte
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "square" in running.paste("TensorFlow Serving", PYTHONPATH=str(tmp_path))


def test_the_log_example_works_when_pasted(running: Running) -> None:
    told = running.paste("What was set and read")
    assert "manifest set" in told
    assert "marble activated" in told


def test_predict_prints_json_or_writes_arrays(running: Running, tmp_path: Path) -> None:
    inputs = {"a": [[[1.0, 2.0, 3.0]]], "b": [[[1, 1, 1]]]}
    (tmp_path / "x.json").write_text(json.dumps(inputs))
    np.savez(tmp_path / "x.npz", a=np.array(inputs["a"], np.float32), b=np.array(inputs["b"]))
    words = "predict", running.host, "two-parts"
    done = running.run(*words, tmp_path / "x.json", "--server", running.server)
    assert json.loads(done.out)["sum"] == [[[2.0, 3.0, 4.0]]]
    done = running.run(*words, tmp_path / "x.npz", "--server", running.server, "-o", tmp_path / "y.npz")
    assert done.out == f"Prediction written to {tmp_path / 'y.npz'}\n"
    assert np.load(tmp_path / "y.npz")["square"].tolist() == [[[1.0, 4.0, 9.0]]]


@pytest.mark.parametrize(
    ("model", "content", "reason"),
    [
        ("two-parts", {"a": [[[1.0, 2.0, 3.0]]]}, "b"),
        ("two-parts", [1.0], "a"),
        ("two-parts", {"a": [[[1.0]]], "b": [[["text"]]]}, "b"),
        ("nobody", {"a": [1.0]}, "nobody"),
    ],
)
def test_predict_refuses_what_does_not_fit_in_one_line(
    running: Running, tmp_path: Path, model: str, content: object, reason: str
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    done = running.run("predict", running.host, model, tmp_path / "x.json", "--server", running.server)
    assert (done.code, done.out) == (1, "")
    assert reason in done.err.splitlines()[-1]


def test_predict_names_a_server_that_does_not_answer(running: Running, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1.0]")
    done = running.run("predict", running.host, "two-parts", tmp_path / "x.json", "--server", "localhost:1")
    assert done.code == 1
    assert "localhost:1" in done.err


def test_a_second_one_beside_it_takes_other_ports_and_gives_the_engines_reason(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacit.cli.up.stage._START", 3600.0)  # what cannot be served is not waited for
    (tmp_path / "odd.onnx").write_bytes(onnx_identity(TensorProto.COMPLEX64))
    done = running.run("up", "--once", tmp_path / "odd.onnx")
    assert f"coordinator at {running.host}" not in done.out
    assert "in place of 4433" in done.out
    assert done.code == 1
    assert done.err.startswith("Error: the server cannot serve odd: ")
    assert running.process.poll() is None
    assert running.host in TrustStore(running.folder / ".config" / "tacit").load_hosts()


def test_a_server_that_dies_is_reported_and_everything_ends(running: Running) -> None:
    (server,) = [pid for pid, words in processes_of(running.folder).items() if "--model_name" in words]
    os.kill(server, signal.SIGKILL)
    rest = running.process.communicate(timeout=300)[0]
    assert running.process.returncode == 1
    assert rest.splitlines()[-1].startswith("Error: the server ended by itself with code -9: ")
    nothing_is_left(running.folder)


# ---- in this process


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("TACIT_PLATFORM", str(make_platform_folder(tmp_path / "platform")))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def shapes_of(key: bytes) -> Sequence[bytes]:
    return key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)


def test_t22_the_models_key_is_in_no_argument_variable_or_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = home / "models" / "digits" / "1"  # a version's folder, as TensorFlow Serving has them
    model.mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(saved_model())
    looked: list[str] = []

    def look(stage: command.Stage, _roots: Path) -> str:
        """While everything runs: all that other processes and a copy of the folder could see."""
        running = [pid for pid, words in processes_of(home).items() if "tacit-" in words]
        places = [Path(f"/proc/{pid}/{name}") for pid in running for name in ("cmdline", "environ")]
        places += [path for path in stage.folder.rglob("*") if path.is_file()]
        for path in places:
            try:
                content = path.read_bytes()
            except OSError:  # gone meanwhile: a process that tried the model out, a file that was exchanged
                continue
            looked.append(str(path))
            assert not any(shape in content for shape in shapes_of(KEY)), path
        return "looked"

    monkeypatch.setattr(command.secrets, "token_bytes", lambda size: KEY[:size])
    monkeypatch.setattr(examples, "describe", look)
    done = run_main("up", "--once", model)
    assert done.code == 0
    assert sum(name.endswith("environ") for name in looked) >= 2
    assert any(name.endswith(".log") for name in looked)
    assert any(name.endswith("/digits.capsule") for name in looked)
    assert not any(shape.decode("latin-1") in done.out + done.err for shape in shapes_of(KEY))
    nothing_is_left(home)


def test_a_coordinator_that_is_known_at_the_usual_port_is_left_alone(home: Path) -> None:
    run_main("trust", "localhost:4433", "--tee", "unattested")
    with command._reserved_ports() as ports:
        assert ports.client != 4433


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "number"),
    [("[1/5]", signal.SIGHUP), ("[3/5]", signal.SIGINT), ("Ctrl-C", signal.SIGTERM)],
)
def test_a_signal_at_any_moment_ends_everything(tmp_path: Path, line: str, number: signal.Signals) -> None:
    (tmp_path / "tiny.onnx").write_bytes(onnx_model())
    found = start(tmp_path, tmp_path / "tiny.onnx", until=line)
    found.process.send_signal(number)
    rest = found.process.communicate(timeout=300)[0]
    assert found.process.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted."
    nothing_is_left(tmp_path)
