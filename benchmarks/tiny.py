"""A model so small that only the server is measured: a perceptron of 64-128-10, by every door of tacit-serve.

Usage: python benchmarks/tiny.py [--quick] [--rounds N] [--json FILE]. The clients are a few lines over sockets, each with
one connection and one call under way, and share the server's cores. Every round meets every door in turns, and the engine
alone, without batching and with it. The server's own processor time for a request says more than the rate where other
jobs share the machine.
"""

import argparse
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import psutil
from installed import compile_sources
from onnx import TensorProto, helper, numpy_helper

from edge import RawClient
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.wire.pb.inference_pb2 import ModelInferRequest
from tacit.wire.pb.serving_pb2 import PredictRequest
from tacit.wire.tensor import Tensor, encode_tensor

TFS, OIP = "/tensorflow.serving.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"
ROW = np.random.default_rng(7).standard_normal((1, 64)).astype(np.float32)
CLIENTS = (1, 16)


def perceptron() -> bytes:
    random = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) / 8).astype(np.float32), name)
        for name, shape in (("a", (64, 128)), ("b", (128, 10)))
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["s"]),
        helper.make_node("Softmax", ["s"], ["predict"], axis=1),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("input", 64), ("predict", 10))
    ]
    graph = helper.make_graph(nodes, "mlp", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Grpc:
    """One HTTP/2 connection that asks the same again and again."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self._client, self._body = RawClient(port, path), body
        self.sock = self._client.sock

    def ask(self) -> None:
        self._client.ask(self._body)

    def heard(self) -> bool:
        """Read what there is; whether the answer is whole."""
        return self._client.heard()


class Rest:
    """One HTTP/1.1 connection."""

    def __init__(self, port: int, head: str, body: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"{head}Host: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self.buffer = b""

    def ask(self) -> None:
        self.sock.sendall(self.request)

    def heard(self) -> bool:
        """Read what there is; whether the answer is whole."""
        self.buffer += self.sock.recv(65536)
        head, gap, body = self.buffer.partition(b"\r\n\r\n")
        if not gap:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"Error: the server refused: {self.buffer!r}")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return False
        self.buffer = b""
        return True


def rate(make: Callable[[], Grpc | Rest], clients: int, seconds: float) -> tuple[float, float]:
    """Calls a second, and the median of one in milliseconds, with so many connections at once."""
    selector = selectors.DefaultSelector()
    begun: dict[Grpc | Rest, float] = {}
    times: list[float] = []
    for _ in range(clients):
        client = make()
        selector.register(client.sock, selectors.EVENT_READ, client)
        begun[client] = time.perf_counter()
        client.ask()
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        for key, _ in selector.select(1.0):
            client = key.data
            if client.heard():
                now = time.perf_counter()
                times.append(now - begun[client])
                begun[client] = now
                client.ask()
    for client in begun:
        client.sock.close()
    return len(times) / (now - started), statistics.median(times) * 1000


def doors(ports: dict[str, int]) -> dict[str, Callable[[], Grpc | Rest]]:
    """A client for each way in."""
    predict = PredictRequest()
    predict.model_spec.name = "mlp"
    encode_tensor(Tensor(1, ROW), predict.inputs["input"], as_content=True)
    infer = ModelInferRequest(model_name="mlp", raw_input_contents=[ROW.tobytes()])
    infer.inputs.add(name="input", datatype="FP32", shape=[1, 64])
    entry = {"name": "input", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": ROW.nbytes}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    v2 = f"POST /v2/models/mlp/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(head)}\r\n"
    rows = json.dumps({"instances": ROW.tolist()}).encode()
    return {
        "gRPC, TensorFlow Serving": lambda: Grpc(ports["grpc"], TFS, predict.SerializeToString()),
        "gRPC, Open Inference": lambda: Grpc(ports["grpc"], OIP, infer.SerializeToString()),
        "REST, Open Inference, binary": lambda: Rest(ports["rest"], v2, head + ROW.tobytes()),
        "REST, TensorFlow Serving, JSON": lambda: Rest(ports["rest"], "POST /v1/models/mlp:predict HTTP/1.1\r\n", rows),
    }


class Server:
    """tacit-serve as a user starts it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        (folder / "mlp" / "1").mkdir(parents=True)
        (folder / "mlp" / "1" / "model.onnx").write_bytes(perceptron())
        ports, log = folder / "ports.json", folder / "log"
        given = [
            "--model_name=mlp",
            f"--model_base_path={folder / 'mlp'}",
            "--host=127.0.0.1",
            "--port=-1",
            "--rest_api_port=-1",
        ]
        started = time.perf_counter()
        with log.open("wb") as target:
            program = [sys.executable, "-c", "from tacit.programs.serve import main; main()"]
            self.process = subprocess.Popen([*program, *given, f"--port_file={ports}", *flags], stderr=target)
        while b'"ready"' not in log.read_bytes():
            if self.process.poll() is not None or time.perf_counter() - started > 60:
                raise SystemExit(f"Error: the server did not start: {log.read_text()[-500:]}")
            time.sleep(0.01)
        self.start = time.perf_counter() - started
        self.ports = json.loads(ports.read_text())

    def busy(self) -> float:
        """Seconds of the processor so far."""
        spent = psutil.Process(self.process.pid).cpu_times()
        return spent.user + spent.system

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def started() -> float:
    """Seconds until a server is ready, with its model tried out in another process first, as it is by default."""
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name))
        server.stop()
        return server.start


def alone(seconds: float) -> float:
    """Microseconds of the engine's fastest run, with one thread."""
    engine = load_openvino(MemoryBundle({"model.onnx": perceptron()}), EngineOptions(threads=1))
    best, until = 1.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.perf_counter()
        engine.infer("serving_default", {"input": Tensor(1, ROW)}, ("predict",))
        best = min(best, time.perf_counter() - begin)
    return best * 1e6


Cell = tuple[float, float, float]
"""Calls a second, the median of one in milliseconds, and the server's processor time for one in microseconds."""


def measure(server: Server, make: Callable[[], Grpc | Rest], clients: int, seconds: float) -> Cell:
    before = server.busy()
    found, median = rate(make, clients, seconds)
    return found, median, (server.busy() - before) / (found * seconds) * 1e6


def better(one: Cell, other: Cell) -> Cell:
    return max(one[0], other[0]), min(one[1], other[1]), min(one[2], other[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds, rounds = (0.3, 1) if options.quick else (options.seconds, options.rounds)
    best: dict[str, dict[int, Cell]] = {}
    compile_sources()
    start = statistics.median(started() for _ in range(max(rounds, 5)))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        servers = {"": Server(Path(one)), ", batched": Server(Path(two), "--enable_batching")}
        try:
            engine = min(alone(seconds / 4) for _ in range(rounds))
            for _ in range(rounds):
                for kind, server in servers.items():
                    for way, make in doors(server.ports).items():
                        kept = best.setdefault(way + kind, dict.fromkeys(CLIENTS, (0.0, 1e9, 1e9)))
                        for clients in CLIENTS:
                            kept[clients] = better(kept[clients], measure(server, make, clients, seconds))
        finally:
            for server in servers.values():
                server.stop()
    print("| | 1 client, calls/s | p50 ms | 16 clients, calls/s | p50 ms | server's processor, µs a call |")
    print("|---|---:|---:|---:|---:|---:|")
    for way, cells in best.items():
        one, many = cells[1], cells[16]
        print(f"| {way} | {one[0]:.0f} | {one[1]:.2f} | {many[0]:.0f} | {many[1]:.2f} | {many[2]:.0f} |")
    print(f"\nThe engine alone needs {engine:.0f} µs. Ready {start:.2f} s after its start. Best of {rounds} rounds.")
    if options.json:
        options.json.write_text(json.dumps({"engine_us": engine, "start_seconds": start, "best": best}) + "\n")


if __name__ == "__main__":
    main()
