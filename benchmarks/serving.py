"""ResNet-50 through tacit-serve over TLS, beside the same compiled model called in this process.

Usage: python benchmarks/serving.py [--quick] [--seconds S] [--rounds N] [--precision bf16] [--plain] [--json FILE]. A cell
calls for S seconds with `cnum` callers at once, in process and over gRPC in turns, so that both meet the same moods of the
machine; the callers share its cores with the server. Both sides compute in f32, or what --precision says, on all processors.

One caller leaves the engine idle while it reads an answer and sends the next request. A third side therefore calls in
process with a pause as long as what the way over TLS took more: an engine that rests is slower, on a virtual machine by
milliseconds, and what the server adds is the difference to that.
"""

import argparse
import asyncio
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import numpy as np
from installed import compile_sources

from tacit.graph import build_saved_model, parse_graph
from tacit.graph.resnet50 import iter_resnet50
from tacit.pki import issue_self_signed
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CELLS = [(batch, cnum) for batch in (1, 8, 32) for cnum in (1, 4, 16)]
QUICK = [(1, 1), (1, 4)]
MIB = 1 << 20


def write_model(folder: Path) -> bytes:
    graph = parse_graph(b"".join(iter_resnet50()))
    saved = build_saved_model(graph, inputs=["input"], outputs=["predict"])
    (folder / "model" / "1").mkdir(parents=True)
    (folder / "model" / "1" / "saved_model.pb").write_bytes(saved)
    return saved


class Server:
    """tacit-serve as a user starts it, with a certificate of its own."""

    def __init__(self, folder: Path, *, precision: str, tls: bool) -> None:
        pair = issue_self_signed(["localhost"], common_name="benchmark", now=datetime.now(UTC))
        key, chain = pair.key_pem.decode(), pair.certificate_pem.decode()
        config = folder / "ssl.cfg"
        config.write_text(f"server_key: {json.dumps(key)}\nserver_cert: {json.dumps(chain)}\n")
        ports = folder / "ports.json"
        self.roots = pair.certificate_pem if tls else None
        self.log = folder / "server.log"
        flags = ["--model_name=resnet50", f"--model_base_path={folder / 'model'}", "--host=127.0.0.1", "--port=-1"]
        flags += [f"--precision={precision}", *([f"--ssl_config_file={config}"] if tls else [])]
        started = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from tacit.programs.serve import main; main()",
                    *flags,
                    f"--port_file={ports}",
                ],
                stderr=log,
            )
        while b'"ready"' not in self.log.read_bytes():
            if self.process.poll() is not None or time.perf_counter() - started > 120:
                raise SystemExit(f"Error: the server did not start: {self.log.read_text()[-500:]}")
            time.sleep(0.05)
        self.start = time.perf_counter() - started
        self.port = json.loads(ports.read_text())["grpc"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


Run = tuple[float, list[float]]
"""Calls a second, and the seconds of each call."""


def in_process(engine: Engine, rows: np.ndarray, cnum: int, seconds: float, *, pause: float = 0.0) -> Run:
    """`cnum` threads that call one engine, which takes one call at a time, first come first served.

    One caller alone waits for `pause` seconds between its calls; that is no part of what they took.
    """
    calls: queue.SimpleQueue = queue.SimpleQueue()
    spent: list[float] = []

    def infer() -> None:
        engine.infer("serving_default", {"input": Tensor(1, rows)}, ("predict",))

    def work() -> None:
        while (answer := calls.get()) is not None:
            infer()
            answer.put(None)

    def ask() -> None:
        answer: queue.SimpleQueue = queue.SimpleQueue()
        while time.perf_counter() < until:
            begin = time.perf_counter()
            calls.put(answer)
            answer.get()
            spent.append(time.perf_counter() - begin)

    infer()
    start = time.perf_counter()
    until = start + seconds
    if cnum == 1:  # the engine itself, with no thread between
        while time.perf_counter() < until:
            begin = time.perf_counter()
            infer()
            spent.append(time.perf_counter() - begin)
            if pause:
                time.sleep(pause)
        return len(spent) / (time.perf_counter() - start), spent
    worker = threading.Thread(target=work)
    askers = [threading.Thread(target=ask) for _ in range(cnum)]
    for thread in (worker, *askers):
        thread.start()
    for thread in askers:
        thread.join()
    elapsed = time.perf_counter() - start
    calls.put(None)
    worker.join()
    return len(spent) / elapsed, spent


def open_channel(server: Server, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
    """A connection of its own."""
    address = f"localhost:{server.port}"
    if server.roots is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(server.roots), options)


async def over_grpc(server: Server, message: bytes, cnum: int, seconds: float) -> Run:
    """`cnum` callers, each on a connection of its own, as the demo's client has them."""
    spent: list[float] = []
    options = (("grpc.max_receive_message_length", 64 * MIB), ("grpc.use_local_subchannel_pool", 1))
    channels = [open_channel(server, options) for _ in range(cnum)]

    async def ask(channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary(PREDICT)
        while time.perf_counter() < until:
            begin = time.perf_counter()
            PredictResponse.FromString(await call(message))
            spent.append(time.perf_counter() - begin)

    # Handshakes and first calls are over before the clock starts.
    await asyncio.gather(*(channel.unary_unary(PREDICT)(message) for channel in channels))
    start = time.perf_counter()
    until = start + seconds
    await asyncio.gather(*map(ask, channels))
    elapsed = time.perf_counter() - start
    for channel in channels:
        await channel.close()
    return len(spent) / elapsed, spent


def request_of(rows: np.ndarray) -> bytes:
    request = PredictRequest()
    request.model_spec.name = "resnet50"
    tensor = request.inputs["input"]
    tensor.dtype = 1
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = rows.tobytes()
    return request.SerializeToString()


def measure(engine: Engine, server: Server, batch: int, cnum: int, *, seconds: float, rounds: int) -> dict:
    rows = np.random.default_rng(batch).random((batch, 224, 224, 3), dtype=np.float32)
    message = request_of(rows)
    rates: dict[str, list[float]] = {"raw": [], "served": []}
    spent: dict[str, list[float]] = {"raw": [], "served": []}
    for _ in range(rounds):
        for side, run in (
            ("raw", lambda: in_process(engine, rows, cnum, seconds)),
            ("served", lambda: asyncio.run(over_grpc(server, message, cnum, seconds))),
        ):
            per_second, latencies = run()
            rates[side].append(per_second * batch)
            spent[side] += latencies
        if cnum == 1:
            more = statistics.median(spent["served"]) - statistics.median(spent["raw"])
            spent.setdefault("rested", []).extend(in_process(engine, rows, 1, seconds, pause=max(more, 0.001))[1])
    p50 = {side: statistics.median(times) * 1000 for side, times in spent.items()}
    ratios = [served / raw for served, raw in zip(rates["served"], rates["raw"], strict=True)]
    return {
        "batch": batch,
        "cnum": cnum,
        "raw_images_per_second": statistics.median(rates["raw"]),
        "served_images_per_second": statistics.median(rates["served"]),
        "ratio": statistics.median(ratios),
        "raw_p50_ms": p50["raw"],
        "served_p50_ms": p50["served"],
        "over_ms": p50["served"] - p50["raw"],
        "rested_p50_ms": p50.get("rested"),
        "served_p99_to_p50": np.percentile(spent["served"], 99) * 1000 / p50["served"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cells, to see that everything works")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one side of one round of one cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("f32", "f16", "bf16", "int8"), default="f32")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cells", help="such as 1x1,8x4 (batch x cnum) in place of all")
    options = parser.parse_args()
    cells = QUICK if options.quick else CELLS
    if options.cells:
        cells = [tuple(map(int, cell.split("x"))) for cell in options.cells.split(",")]
    compile_sources()
    seconds, rounds = (1.0, 1) if options.quick else (options.seconds, options.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = MemoryBundle({"saved_model.pb": write_model(folder)})
        engine = load_openvino(model, EngineOptions(precision=options.precision))
        server = Server(folder, precision=options.precision, tls=not options.plain)
        try:
            results = []
            for batch, cnum in cells:
                # A cell of large batches and many callers needs a few calls of each caller to mean anything.
                least = 0.025 * batch * cnum * 2
                results.append(measure(engine, server, batch, cnum, seconds=max(seconds, least), rounds=rounds))
                print(results[-1], file=sys.stderr, flush=True)
        finally:
            server.stop()
    way = "over TCP" if options.plain else "over TLS"
    print(
        f"| batch | cnum | in process, images/s | {way}, images/s | ratio "
        f"| in process, p50 ms | resting between calls | {way} | its p99 / p50 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in results:
        rested = "" if row["rested_p50_ms"] is None else f"{row['rested_p50_ms']:.1f}"
        print(
            f"| {row['batch']} | {row['cnum']} | {row['raw_images_per_second']:.1f} | "
            f"{row['served_images_per_second']:.1f} | {row['ratio']:.2f} | {row['raw_p50_ms']:.1f} | "
            f"{rested} | {row['served_p50_ms']:.1f} | {row['served_p99_to_p50']:.2f} |"
        )
    print(f"\nReady {server.start:.1f} s after its start, the model plain on disk.")
    if options.json:
        options.json.write_text(json.dumps({"start_seconds": server.start, "cells": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
