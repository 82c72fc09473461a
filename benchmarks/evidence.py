"""One verification with collateral that was seen before, by kind of evidence, beside the dcap-qvl library alone.

Usage: python benchmarks/evidence.py [--quick] [--json FILE]. Real evidence of the project's fixtures, at its recorded
time. The ways take turns, so that a busy moment of the machine hits each alike; times are of the CPU, in milliseconds.

Behind the table: what one process verifies in a second with two threads, whether its memory grows over many
verifications, and a whole `connect` on loopback (evidence bound to the channel, status, manifest), the coordinator in a
process of its own.
"""

import argparse
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
import psutil

import tacit
from tacit.client.connect import attest_coordinator, load_simulated_expectation
from tacit.client.trust import TrustStore
from tacit.errors import UnreachableError
from tacit.evidence import INTEL, TrustAnchor, verify_evidence
from tacit.evidence.anchor import AMD, INTEL_TDX
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.issue import init_platform
from tacit.evidence.verify import parse_collateral

FIXTURES = Path(__file__).parents[1] / "tests" / "vectors" / "evidence"
ANCHORS = {"sgx": INTEL, "tdx": INTEL_TDX, "snp": AMD}
TARGET = 2.0  # milliseconds. Source: what the project promises of one verification
RATE, CONNECT, GROWTH = 1000, 30, 8  # a second; milliseconds; MiB
CASES = {
    "SGX, by the library": "v3-phala-confighw",
    "SGX, by our evaluator": "v3-occlum-debug",
    "TDX 1.0, by the library": "v4-gce-cos113-uptodate",
    "TDX 1.5ex, by the library": "v5-phala-td15ex-uptodate",
    "TDX 1.0, by our evaluator": "v4-azure-septve-off",
    "SNP, VCEK": "snp-v5-genoa-lunal",
    "SNP, VLEK": "snp-v3-milan-vlek-aws-vmpl1",
}


def prepare(name: str) -> tuple[Callable[[], object], Callable[[], object] | None]:
    """Our verification of a fixture, and the library's where it gives one."""
    folder = FIXTURES / name
    expect = json.loads((folder / "expect.json").read_text())
    evidence = next(folder / file for file in ("quote.bin", "report.bin") if (folder / file).exists()).read_bytes()
    collateral = parse_collateral((folder / "collateral.json").read_bytes())
    anchor: TrustAnchor = ANCHORS[expect["tee"]]
    now = datetime.fromisoformat(expect["verify_at"])

    def ours() -> object:
        return verify_evidence(evidence, collateral, anchor, now=now)

    if not isinstance(collateral, IntelCollateral) or "our evaluator" in next(k for k, v in CASES.items() if v == name):
        return ours, None
    converted, seconds = dcap_qvl.QuoteCollateralV3(**asdict(collateral)), int(now.timestamp())
    verifier = dcap_qvl.QuoteVerifier(anchor.root_der)

    def library() -> object:
        return verifier.verify_with_policy(evidence, converted, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))

    return ours, library


def cpu_ms(call: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) * 1000 / times


def measure(rounds: int, times: int) -> list[dict[str, object]]:
    """Medians of all cases, which take turns."""
    ways = {name: prepare(folder) for name, folder in CASES.items()}
    for ours, _ in ways.values():
        ours()  # collateral is seen once before it counts
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(rounds):
        for name, (ours, library) in ways.items():
            found[name][0].append(cpu_ms(ours, times))
            if library is not None:
                found[name][1].append(cpu_ms(library, times))
    rows: list[dict[str, object]] = []
    for name, (own, other) in found.items():
        median = statistics.median(own)
        beside = statistics.median(other) if other else None
        rows.append({"case": name, "ms": median, "library_ms": beside, "ratio": beside and median / beside})
    return rows


def per_second(seconds: float, threads: int = 2) -> float:
    """Verifications of all cases in turn that one process finishes in a second."""
    ways = [prepare(folder)[0] for folder in CASES.values()]
    for ours in ways:
        ours()
    end = time.perf_counter() + seconds

    def work(start: int) -> int:
        done = 0
        while time.perf_counter() < end:
            ways[(start + done) % len(ways)]()
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads))) / (time.perf_counter() - began)


def growth(times: int) -> tuple[float, float]:
    """MiB resident after a tenth of so many verifications, and after all of them."""
    ways = [prepare(folder)[0] for folder in CASES.values()]
    process = psutil.Process()
    early = 0.0
    for index in range(times):
        ways[index % len(ways)]()
        if index == times // 10:
            early = process.memory_info().rss / 2**20
    return early, process.memory_info().rss / 2**20


def connect_ms(times: int) -> float:
    """Median of a whole `connect` to a coordinator on loopback, in milliseconds of the clock on the wall."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as taken:
        folder = Path(name)
        taken.bind(("127.0.0.1", 0))
        address = f"localhost:{taken.getsockname()[1]}"
        taken.close()
        init_platform(folder / "platform", now=datetime.now(UTC))
        environ = {
            **os.environ, "TACIT_PLATFORM": str(folder / "platform"), "EDG_COORDINATOR_SEAL_DIR": str(folder / "state"),
            "EDG_COORDINATOR_CLIENT_ADDR": address, "EDG_COORDINATOR_MESH_ADDR": "localhost:0",
        }  # fmt: skip
        command = [sys.executable, "-m", "tacit.programs.coordinator"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as running:
            try:
                return _connect_ms(folder, address, times)
            finally:
                running.terminate()


def _connect_ms(folder: Path, address: str, times: int) -> float:
    manifest = b'{"Packages": {"p": {"TEE": "simulated", "UniqueID": "%s"}}, "Marbles": {"m": {"Package": "p"}}}' % (
        b"ab" * 32
    )
    store = TrustStore(folder / "trust")
    expected = load_simulated_expectation(folder / "platform", manifest_fingerprint=hashlib.sha256(manifest).digest())
    store.store_expectation(address, expected)
    for _ in range(100):
        try:
            attested = attest_coordinator(
                address, store, now=datetime.now(UTC), nonce=os.urandom(32), platform=folder / "platform"
            )
            break
        except UnreachableError:
            time.sleep(0.1)
    with attested.open(clock=lambda: datetime.now(UTC)) as client:
        client.set_manifest(manifest)
    found = []
    for _ in range(times):
        began = time.perf_counter()
        tacit.connect(address, config=folder / "trust", platform=folder / "platform").close()
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found)


def main() -> int:
    """Measure and print; 1 where a verification takes longer than the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    options = parser.parse_args()
    rows = measure(*((5, 20) if options.quick else (25, 100)))
    sys.stdout.write("| evidence | ms | dcap-qvl alone | ratio | target |\n|---|---|---|---|---|\n")
    for row in rows:
        library = "" if row["library_ms"] is None else f"{row['library_ms']:.2f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        within = f"under {TARGET:.0f} ms: {'yes' if float(str(row['ms'])) < TARGET else 'no'}"
        sys.stdout.write(f"| {row['case']} | {row['ms']:.2f} | {library} | {ratio} | {within} |\n")
    rate = per_second(1 if options.quick else 10)
    early, late = growth(2_000 if options.quick else 100_000)
    whole = connect_ms(20 if options.quick else 100)
    totals = [
        ("verifications a second, one process, two threads", rate, f"{rate:.0f}", rate >= RATE, f"at least {RATE}"),
        ("MiB resident after a tenth and after all", late - early, f"{early:.0f}, {late:.0f}", late - early < GROWTH,
         f"less than {GROWTH} more"),
        ("ms for a whole connect", whole, f"{whole:.1f}", whole < CONNECT, f"under {CONNECT}"),
    ]  # fmt: skip
    sys.stdout.write("\n| what | measured | target |\n|---|---|---|\n")
    for name, _, shown, within, target in totals:
        sys.stdout.write(f"| {name} | {shown} | {target}: {'yes' if within else 'no'} |\n")
    if options.json:
        rows += [{"case": name, "value": value} for name, value, *_ in totals]
        options.json.write_text(json.dumps(rows, indent=1))
    slow = [row for row in rows if "ms" in row and float(str(row["ms"])) >= TARGET]
    return int(bool(slow) or not all(within for *_, within, _ in totals))


if __name__ == "__main__":
    sys.exit(main())
