"""Models at rest beside a plain copy: encrypt, open, give a new key; speed of each, ratios, and memory.

Usage: python benchmarks/vault.py [--quick] [--json FILE] [--folder FOLDER]. Works on a tmpfs (by default /dev/shm), in a
folder of its own that goes away at the end. The ways take turns, so that a busy moment of the machine hits each alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tacit.vault import open_capsule, require_tmpfs, seal_folder
from tacit.vault.files import decrypt_ctr, encrypt_ctr, rekey_capsule

MIB = 1 << 20
KEY, OTHER = bytes(range(32)), bytes(32)
NAME = "weights.bin"
INTO, FRESH = "open into memory", "open into fresh memory"
# Targets. Source: what the project promises of models at rest.
ENCRYPT_RATIO, OPEN_SPEED, MEMORY = 0.7, 4.0, 200  # of a copy; GB/s; MiB beyond what is asked for


def make_model(path: Path, size: int) -> None:
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(block)


def copy(source: Path, target: Path) -> None:
    """A plain copy with a buffer of 1 MiB: what encrypting is measured against."""
    buffer = memoryview(bytearray(MIB))
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while got := reader.readinto(buffer):
            writer.write(buffer[:got])


def open_fresh(capsule: Path) -> None:
    with open_capsule(capsule, KEY) as opened:
        opened.read(NAME)


def open_into(capsule: Path, target: memoryview) -> None:
    with open_capsule(capsule, KEY) as opened:
        opened.read_into(NAME, target)


def touch(size: int) -> None:
    """Fill fresh memory with zeros: what the machine itself takes to hand it out."""
    bytearray(size)


def open_stream(capsule: Path) -> None:
    with open_capsule(capsule, KEY) as opened:
        for _ in opened.iter_chunks(NAME):
            pass


def read_ctr(path: Path) -> None:
    with path.open("rb") as stream:
        for _ in decrypt_ctr(stream, KEY):
            pass


def ways(folder: Path, target: memoryview | None = None) -> dict[str, Callable[[], object]]:
    """What is measured, in an order in which each finds what it reads."""
    model, capsule = folder / NAME, folder / "m.capsule"
    # Memory that the process has already. In some virtual machines fresh memory costs more than decrypting into it.
    size = model.stat().st_size
    ready = target or memoryview(b"")
    return {
        "copy": lambda: copy(model, folder / "out"),
        "encrypt": lambda: seal_folder(model, capsule, KEY, name="m", version=1),
        INTO: lambda: open_into(capsule, ready),
        FRESH: lambda: open_fresh(capsule),
        "(fresh memory alone)": lambda: touch(size),
        "open as a stream": lambda: open_stream(capsule),
        "new key": lambda: rekey_capsule(capsule, folder / "out", KEY, OTHER),
        "encrypt, demo's CTR": lambda: encrypt_ctr(model, folder / "out", KEY, iv=bytes(16)),
        "read, demo's CTR": lambda: read_ctr(folder / "out"),
    }


def measure(folder: Path, *, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round."""
    make_model(folder / NAME, size)
    target = memoryview(bytearray(size))
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way, run in ways(folder, target).items():
            # A target that exists already would be freed within the measured time.
            if way in {"copy", "new key", "encrypt, demo's CTR"}:
                (folder / "out").unlink(missing_ok=True)
            if way == "encrypt":
                (folder / "m.capsule").unlink(missing_ok=True)
            begin = time.perf_counter()
            run()
            spent.setdefault(way, []).append(time.perf_counter() - begin)
    return spent


def memory(folder: Path) -> dict[str, float]:
    """MiB by which each way raises the peak of a fresh process, beyond the memory that the model itself takes."""
    grown = {}
    for way in ("encrypt", INTO, FRESH, "open as a stream", "new key"):
        command = [sys.executable, __file__, "--peak", way, "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        grown[way] = float(done.stdout)
    return grown


def peak_of(way: str, folder: Path) -> None:
    size = (folder / NAME).stat().st_size
    target = memoryview(bytearray(size)) if way == INTO else None
    before = highest()
    ways(folder, target)[way]()
    print(highest() - before - (size / MIB if way == FRESH else 0))


def highest() -> float:
    """MiB at the peak of this process. Not `getrusage`: that one remembers the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def report(spent: dict[str, list[float]], grown: dict[str, float], *, size: int) -> dict[str, object]:
    """Print the table, and give what it says."""
    best = {way: size / min(times) / 1e9 for way, times in spent.items()}
    middle = {way: size / statistics.median(times) / 1e9 for way, times in spent.items()}
    print(f"A model of {size // MIB} MiB on tmpfs, {len(spent['copy'])} rounds taking turns. Memory is what a fresh")
    print("process grew by at its peak, beyond the memory for the model itself.\n")
    print("| | GB/s, best | GB/s, median | of the copy | memory, MiB |")
    print("|---|---:|---:|---:|---:|")
    for way, speed in best.items():
        peak = f"{grown[way]:.0f}" if way in grown else ""
        print(f"| {way} | {speed:.2f} | {middle[way]:.2f} | {middle[way] / middle['copy']:.2f} | {peak} |")
    held = {
        f"encrypting at least {ENCRYPT_RATIO} of a copy": middle["encrypt"] / middle["copy"] >= ENCRYPT_RATIO,
        f"opening into memory at least {OPEN_SPEED:.0f} GB/s": best[INTO] >= OPEN_SPEED,
        f"memory under {MEMORY} MiB beyond the model itself": max(grown.values()) < MEMORY,
    }
    print("\nTargets: " + "; ".join(f"{what}: {'held' if kept else 'MISSED'}" for what, kept in held.items()) + ".")
    return {
        "size": size,
        "seconds": spent,
        "best_gb_per_s": best,
        "median_gb_per_s": middle,
        "peak_mib": grown,
        "held": held,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="128 MiB instead of 1 GiB, two rounds")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="a tmpfs with three times the model's size"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak_of(options.peak, options.folder)
        return
    size, rounds = (128 * MIB, 2) if options.quick else (1024 * MIB, 5)
    require_tmpfs(options.folder)
    if shutil.disk_usage(options.folder).free < 4 * size:
        raise SystemExit(f"Error: {options.folder} needs {4 * size // MIB} MiB free; use --quick or another --folder")
    with tempfile.TemporaryDirectory(prefix="tacit-bench-", dir=options.folder) as name:
        folder = Path(name)
        spent = measure(folder, size=size, rounds=rounds)
        result = report(spent, memory(folder), size=size)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
