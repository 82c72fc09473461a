"""Does the server last? Mixed load with reloads, bad requests, cancelled calls and clients that leave; then many reloads.

Usage: python benchmarks/soak.py [--seconds S] [--reloads N] [--model resnet50|mlp] [--json FILE] [-- FLAGS of tacit-serve]

Three parts, each against a server of its own, started as a user starts it:
(1) For S seconds good requests, by gRPC and REST, each checked against the model's own answer, while others send what is
    refused, cancel, and break off in the middle, and while the model is exchanged every second. None that is good may be
    lost, and none that is bad answered.
(2) A steady load on one model before and while another is loaded: the slowest hundredth of both.
(3) N reloads of one model: resident memory after the third, and after the last.
Ends with code 1 where a good request was lost, a bad one answered, or memory grew by more than 5 %.
"""

import argparse
import http.client
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil
from tiny import ROW, TFS, perceptron

from edge import PREFACE, frame, headers
from serving import write_model
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

MIB = 1 << 20
GROWTH = 1.05  # of resident memory from the third reload to the last
SLOWER = 1.5  # p99 while another model loads


class Server:
    """tacit-serve with models in a folder."""

    def __init__(self, folder: Path, models: Sequence[str], flags: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log = folder, folder / "log"
        config, ports = folder / "models.pbtxt", folder / "ports.json"
        entries = [
            f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}' for name in models
        ]
        config.write_text("model_config_list { " + " ".join(entries) + " }\n")
        given = [
            f"--model_config_file={config}",
            "--host=127.0.0.1",
            "--port=-1",
            "--rest_api_port=-1",
            f"--port_file={ports}",
            *flags,
        ]
        program = [sys.executable, "-c", "from tacit.programs.serve import main; main()"]
        with self.log.open("wb") as target:
            self.process = subprocess.Popen([*program, *given], stderr=target)
        self.wait_for("listening")
        self.ports = json.loads(ports.read_text())

    def events(self, name: str) -> list[dict[str, object]]:
        """What the log has of this name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, event: str, count: int = 1, seconds: float = 300) -> None:
        """Until the log has it so many times."""
        end = time.perf_counter() + seconds
        while len(self.events(event)) < count:
            if self.process.poll() is not None or time.perf_counter() > end:
                raise SystemExit(f"Error: no {event} ({count}) from the server: {self.log.read_text()[-800:]}")
            time.sleep(0.05)

    def memory(self) -> float:
        """Resident MiB of the server and of its processes for models."""
        process = psutil.Process(self.process.pid)
        return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / MIB)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


def publish(base: Path, version: int, source: Path) -> None:
    """A further version that is whole from the first look on."""
    base.mkdir(parents=True, exist_ok=True)
    partial = base / f".{version}"
    shutil.copytree(source, partial, copy_function=os.link)
    partial.rename(base / str(version))


# ---- who asks


def predict_body(**change: object) -> bytes:
    request = PredictRequest()
    request.model_spec.name = str(change.get("name", "mlp"))
    request.model_spec.signature_name = str(change.get("signature", ""))
    if "version" in change:
        request.model_spec.version.value = int(str(change["version"]))
    array = change.get("array", ROW)
    assert isinstance(array, np.ndarray)
    encode_tensor(Tensor(int(str(change.get("dtype", 1))), array), request.inputs[str(change.get("input", "input"))])
    return request.SerializeToString()


CODE = grpc.StatusCode
BAD = {
    "unknown model": (CODE.NOT_FOUND, predict_body(name="nobody")),
    "unknown version": (CODE.NOT_FOUND, predict_body(version=10**9)),
    "unknown signature": (CODE.FAILED_PRECONDITION, predict_body(signature="none")),
    "unknown input": (CODE.INVALID_ARGUMENT, predict_body(input="other")),
    "wrong type": (CODE.INVALID_ARGUMENT, predict_body(dtype=2, array=ROW.astype(np.float64))),
    "wrong shape": (CODE.INVALID_ARGUMENT, predict_body(array=ROW[:, :5])),
    "no message": (CODE.INTERNAL, b"\xff\xff\xff"),
}


@dataclass
class Seen:
    """What the clients saw."""

    times: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str) -> None:
        self.done[kind] += 1


class Clients:
    """Threads that ask until they are told to stop."""

    def __init__(self, server: Server, expected: np.ndarray) -> None:
        self.seen, self._expected, self._ports = Seen(), expected, server.ports
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *works: Callable[[], None]) -> None:
        for work in works:
            thread = threading.Thread(target=self._until_stopped, args=(work,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _until_stopped(self, work: Callable[[], None]) -> None:
        while not self._stop.is_set():
            work()

    def _check(self, kind: str, found: np.ndarray, began: float) -> None:
        if np.allclose(found, self._expected, atol=1e-4):
            self.seen.times.append(time.perf_counter() - began)
            self.seen.count(kind)
        else:
            self.seen.lost[f"{kind}: a wrong answer"] += 1

    def good_grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports['grpc']}") as channel:
            predict, body = channel.unary_unary(TFS), predict_body()
            for _ in range(1000):
                began = time.perf_counter()
                try:
                    answer = PredictResponse.FromString(predict(body, timeout=60))
                except grpc.RpcError as exc:
                    self.seen.lost[f"gRPC: {exc.code().name} {exc.details()}"] += 1
                else:
                    self._check("good, gRPC", parse_tensor(answer.outputs["predict"]).array, began)
                if self._stop.is_set():
                    return

    def good_rest(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["rest"], timeout=60)
        body = json.dumps({"instances": ROW.tolist()})
        for _ in range(1000):
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/models/mlp:predict", body)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as exc:
                self.seen.lost[f"REST: {type(exc).__name__}"] += 1
                return
            if response.status == 200:
                self._check("good, REST", np.array(json.loads(content)["predictions"]), began)
            else:
                self.seen.lost[f"REST: {response.status} {content[:200]!r}"] += 1
            if self._stop.is_set():
                break
        connection.close()

    def bad(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports['grpc']}") as channel:
            predict = channel.unary_unary(TFS)
            for what, (code, body) in BAD.items():
                try:
                    predict(body, timeout=60)
                    self.seen.answered[what] += 1
                except grpc.RpcError as exc:
                    if exc.code() is code:
                        self.seen.count("refused")
                    else:
                        self.seen.answered[f"{what}: {exc.code().name}"] += 1
        time.sleep(0.02)

    def cancels(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports['grpc']}") as channel:
            predict, body = channel.unary_unary(TFS), predict_body(array=np.repeat(ROW, 2000, 0))
            for _ in range(20):
                call = predict.future(body, timeout=60)
                time.sleep(random.random() / 200)
                self.seen.count("cancelled" if call.cancel() else "too late to cancel")

    def leaves(self) -> None:
        """Open a connection, say a part of something, and go."""
        message = predict_body()
        whole = (
            PREFACE
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, headers(TFS))
            + frame(0, 1, 1, b"\0" + len(message).to_bytes(4, "big") + message)
        )
        cut = random.randrange(len(whole) + 1)
        with socket.create_connection(("127.0.0.1", self._ports["grpc"])) as connection:
            connection.sendall(whole[:cut])
        with socket.create_connection(("127.0.0.1", self._ports["rest"])) as connection:
            connection.sendall(b"POST /v1/models/mlp:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n{"[:cut])
        self.seen.count("left")
        time.sleep(0.01)


# ---- the parts


def mixed(folder: Path, source: Path, seconds: float, flags: Sequence[str]) -> dict[str, object]:
    """Part (1): rows of time, memory and latency; and what was lost."""
    publish(folder / "mlp", 1, source)
    server = Server(folder, ["mlp"], flags)
    server.wait_for("ready")
    clients = Clients(server, expected())
    clients.start(clients.good_grpc, clients.good_grpc, clients.good_rest, clients.bad, clients.cancels, clients.leaves)
    rows, began, version = [], time.perf_counter(), 1
    shown = 0
    for look in itertools.count(1):
        version += 1
        publish(folder / "mlp", version, source)
        server.wait_for("model-available", version)
        if version > 2:
            shutil.rmtree(folder / "mlp" / str(version - 2))
        now = time.perf_counter() - began
        if now >= seconds * len(rows) / 10:
            times, shown = clients.seen.times[shown:], len(clients.seen.times)
            p50, p99 = percentiles(times)
            lost = sum(clients.seen.lost.values())
            rows.append([round(now), round(server.memory()), version - 1, len(times), p50, p99, lost])
        if now > seconds:
            break
        time.sleep(max(0.0, look - now))
    clients.stop()
    return {
        "rows": rows,
        "done": clients.seen.done,
        "lost": clients.seen.lost,
        "answered": clients.seen.answered,
        "exit": server.stop(),
    }


def beside(folder: Path, source: Path, large: Path, seconds: float, flags: Sequence[str]) -> dict[str, float]:
    """Part (2): p99 in ms of a steady load before, and while another model loads."""
    publish(folder / "mlp", 1, source)
    server = Server(folder, ["mlp", "other"], flags)
    server.wait_for("model-available")
    clients = Clients(server, expected())
    clients.start(clients.good_grpc)
    time.sleep(1.0)
    begin = len(clients.seen.times)
    time.sleep(seconds)
    middle = len(clients.seen.times)
    publish(folder / "other", 1, large)
    server.wait_for("model-available", 2)
    end = len(clients.seen.times)
    clients.stop()
    server.stop()
    before, during = clients.seen.times[begin:middle], clients.seen.times[middle:end]
    return {"before": percentiles(before)[1], "during": percentiles(during)[1], "lost": sum(clients.seen.lost.values())}


def reloads(folder: Path, large: Path, count: int, flags: Sequence[str]) -> list[float]:
    """Part (3): resident MiB after each reload."""
    publish(folder / "other", 1, large)
    server = Server(folder, ["other"], flags)
    server.wait_for("ready")
    found = []
    for version in range(2, count + 2):
        publish(folder / "other", version, large)
        server.wait_for("model-unloaded", version - 1)
        shutil.rmtree(folder / "other" / str(version - 1))
        time.sleep(0.2)
        found.append(server.memory())
    server.stop()
    return found


def expected() -> np.ndarray:
    """What the perceptron answers."""
    engine = load_openvino(MemoryBundle({"model.onnx": perceptron()}), EngineOptions(threads=1))
    return engine.infer("serving_default", {"input": Tensor(1, ROW)}, ("predict",))["predict"].array


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 99th, in ms."""
    return (
        (round(float(np.percentile(times, 50)) * 1e3, 2), round(float(np.percentile(times, 99)) * 1e3, 2))
        if times
        else (0.0, 0.0)
    )


def report(load: dict[str, object], beside: dict[str, float], memory: Sequence[float]) -> bool:
    """Print the tables; whether all was held that is no matter of the machine's mood."""
    print("| s | memory, MiB | reloads | good requests | p50 ms | p99 ms | lost so far |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rows = load["rows"]
    assert isinstance(rows, list)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    done, lost, answered = load["done"], load["lost"], load["answered"]
    assert isinstance(done, Counter)
    assert isinstance(lost, Counter)
    assert isinstance(answered, Counter)
    print("\n" + ", ".join(f"{kind}: {number}" for kind, number in sorted(done.items())))
    print(f"Good requests lost: {dict(lost) or 0}. Bad requests answered, or failed otherwise: {dict(answered) or 0}.")
    ratio = beside["during"] / beside["before"] if beside["before"] else 0.0
    held = "held" if ratio <= SLOWER else "missed"
    print(
        f"p99 of a steady load: {beside['before']} ms, while another model loads {beside['during']} ms: "
        f"{ratio:.2f} times, {SLOWER} is the most: {held}. Lost: {beside['lost']:.0f}."
    )
    third = memory[min(2, len(memory) - 1)]
    growth = memory[-1] / third
    print(
        f"Resident after reload 3: {third:.0f} MiB, after reload {len(memory)}: {memory[-1]:.0f} MiB, "
        f"{growth:.3f} times, {GROWTH} is the most: {'held' if growth <= GROWTH else 'missed'}."
    )
    return not lost and not answered and not beside["lost"] and load["exit"] == 0 and growth <= GROWTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of mixed load; 600 is the long form")
    parser.add_argument("--reloads", type=int, default=10, help="of one model; 200 is the long form")
    parser.add_argument("--model", choices=("resnet50", "mlp"), default="resnet50", help="that is reloaded")
    parser.add_argument("--json", type=Path)
    parser.add_argument("flags", nargs="*", help="further flags of tacit-serve, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        small = folder / "perceptron"
        small.mkdir()
        (small / "model.onnx").write_bytes(perceptron())
        large = small
        if options.model == "resnet50":
            write_model(folder)
            large = folder / "model" / "1"
        load = mixed(folder / "mixed", small, options.seconds, options.flags)
        steady = beside(folder / "beside", small, large, min(10.0, options.seconds / 4), options.flags)
        memory = reloads(folder / "reloads", large, max(1, options.reloads), options.flags)
    held = report(load, steady, memory)
    if options.json:
        options.json.write_text(json.dumps({"mixed": load, "beside": steady, "memory": memory}) + "\n")
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
