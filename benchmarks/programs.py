"""Start of each program until it answers, its resident memory, and activations a second.

Usage: python benchmarks/programs.py [--quick] [--json FILE]. Everything runs on this machine and ends with the script.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
from grpclib.client import Channel, UnaryUnaryMethod

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
from installed import compile_sources
from train import train

from tacit.cli.up.command import release, trust_own
from tacit.cli.up.ports import Ports
from tacit.cli.up.processes import Program, Programs
from tacit.cli.up.stage import MARBLE, Stage
from tacit.evidence import Role, report_data
from tacit.evidence.issue import init_platform, load_simulated_tee
from tacit.marble.activate import build_request, make_uuid
from tacit.marble.premain import _RawCodec
from tacit.pki import issue_self_signed
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.pki.tls import unverified_client_context
from tacit.vault.files import seal_folder


def resident(program: Program) -> float:
    """Resident memory in MiB of a program and its children."""
    process = psutil.Process(program.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


async def activations(stage: Stage, *, count: int, keep: bool) -> list[float]:
    """Seconds of each activation, one after the other, over one connection or over a new one each."""
    now = datetime.now(UTC)
    identity = issue_self_signed(["localhost"], common_name="MarbleRun Marble", now=now)
    tee = load_simulated_tee(stage.platform, program="marble", now=now)
    evidence = tee.issue_evidence(report_data(role=Role.MARBLE, key=identity.certificate_der))
    csr = create_csr(generate_key(), ["localhost"])
    tls = unverified_client_context(certificate=identity, alpn=("h2",))
    spent, channel = [], None
    for _ in range(count):
        request = build_request(evidence=evidence, csr=csr, marble_type=MARBLE, uuid=make_uuid(secrets.token_bytes(16)))
        begin = time.perf_counter()
        if channel is None:
            channel = Channel("127.0.0.1", stage.ports.mesh, ssl=tls, codec=_RawCodec())
        await UnaryUnaryMethod(channel, "/rpc.Marble/Activate", bytes, bytes)(request, timeout=30)
        if not keep:
            channel.close()
            channel = None
        spent.append(time.perf_counter() - begin)
    if channel is not None:
        channel.close()
    return spent


def row(name: str, spent: list[float]) -> str:
    """One row of the table: activations a second, median and 95th percentile in milliseconds."""
    return (
        f"| {name} | {len(spent) / sum(spent):.0f}/s | {statistics.median(spent) * 1e3:.1f} ms "
        f"| {statistics.quantiles(spent, n=20)[-1] * 1e3:.1f} ms |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count = 20 if options.quick else 300
    compile_sources()
    with (
        tempfile.TemporaryDirectory(prefix="tacit-bench-") as place,
        Ports.reserved() as ports,
        Programs(Path(place) / "logs") as programs,
    ):
        folder = Path(place)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        platform = folder / "platform"
        init_platform(platform, now=datetime.now(UTC))
        stage = Stage(folder, platform, "digits", folder / "digits.capsule", ports)
        key = secrets.token_bytes(32)
        info = seal_folder(train(folder).model, stage.capsule, key, name="digits", version=1)
        begin = time.perf_counter()
        coordinator = stage.start_coordinator(programs)
        coordinator_start = time.perf_counter() - begin
        owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
        release(stage, trust_own(stage), owner, model_id=info.id, key=key)
        begin = time.perf_counter()
        server = stage.start_server(programs)
        stage.wait_for_server(server)
        server_start = time.perf_counter() - begin
        kept = asyncio.run(activations(stage, count=count, keep=True))
        fresh = asyncio.run(activations(stage, count=count // 3 + 2, keep=False))
        memory = {"tacit-coordinator": resident(coordinator), "tacit-serve (digits)": resident(server)}
    print("| program | start until it answers | resident memory afterwards |\n|---|---|---|")
    print(f"| tacit-coordinator | {coordinator_start:.2f} s | {memory['tacit-coordinator']:.0f} MiB |")
    print(
        f"| tacit-premain, then tacit-serve with the digits | {server_start:.2f} s | {memory['tacit-serve (digits)']:.0f} MiB |"
    )
    print("\n| activations, attested, one after the other | rate | p50 | p95 |\n|---|---|---|---|")
    print(row("one connection kept", kept))
    print(row("a new TLS connection each", fresh))
    if options.json:
        result = {
            "start": {"coordinator": coordinator_start, "server": server_start},
            "memory": memory,
            "kept": kept,
            "new": fresh,
        }
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
