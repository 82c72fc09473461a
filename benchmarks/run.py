"""Run every benchmark and write docs/benchmarks.md, with the machine that it ran on.

Usage: make bench [ARGS='--quick'] [ARGS='--only vault']. Each part prints a table; ratios compare things of one and the same run.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PARTS = {
    "vault": "Models at rest",
    "edge": "Our own server beside grpcio's",
    "serving": "ResNet-50 served over TLS, beside the same model in process",
    "tiny": "A tiny model, by every door of the server",
    "programs": "Start, memory and attested activations",
    "coordinator": "The coordinator under load",
    "evidence": "One verification of evidence, in milliseconds of the processor",
}


def machine() -> str:
    """What this ran on, in one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def run(part: str, *, quick: bool) -> str:
    """The table that one benchmark prints; its progress goes to our standard error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / f"{part}.py"), "--json", str(Path(folder) / "result.json")]
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])], stdout=subprocess.PIPE, text=True, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"Error: benchmarks/{part}.py ended with code {done.returncode}; its message stands above")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works; writes no page")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; writes no page")
    options = parser.parse_args()
    sections = []
    for part in options.only or PARTS:
        table = run(part, quick=options.quick)
        print(f"\n## {PARTS[part]}\n\n{table}\n", flush=True)
        sections.append(f"## {PARTS[part]}\n\n{table}\n")
    if options.quick or options.only:
        return
    head = (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {machine()}. Client and servers shared the cores.\n"
        "Ratios compare things of one and the same run; absolute numbers are this machine's.\n\n"
    )
    PAGE.write_text(head + "\n".join(sections))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
