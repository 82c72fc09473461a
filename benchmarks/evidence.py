"""One verification with collateral that was seen before, by kind of evidence, beside the dcap-qvl library alone.

Usage: python benchmarks/evidence.py [--quick] [--json FILE]. Real evidence of the project's fixtures, at its recorded
time. The ways take turns, so that a busy moment of the machine hits each alike; times are of the CPU, in milliseconds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import dcap_qvl

from tacit.evidence import INTEL, TrustAnchor, verify_evidence
from tacit.evidence.anchor import AMD, INTEL_TDX
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.verify import parse_collateral

FIXTURES = Path(__file__).parents[1] / "tests" / "vectors" / "evidence"
ANCHORS = {"sgx": INTEL, "tdx": INTEL_TDX, "snp": AMD}
TARGET = 2.0  # milliseconds. Source: what the project promises of one verification
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
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(float(str(row["ms"])) >= TARGET for row in rows))


if __name__ == "__main__":
    sys.exit(main())
