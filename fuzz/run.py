"""Feed each reader what nobody would send in good faith, and watch what comes of it.

Usage: python fuzz/run.py [--seconds N] [--seed N] [TARGET...]    every target for N seconds (10); one line each
       python fuzz/run.py --replay FILE TARGET                    what one input does, with the traceback
       python fuzz/run.py --minimise                              take into fuzz/corpus what was found and reaches new code

A target is a module in fuzz/targets with `check(data)`, `REFUSALS` (the project's own errors that it may raise) and
`LIMIT` (bytes). Anything else that comes out is a crash, and so are five seconds for one input, or a gigabyte of memory.
Each run tries other inputs, unless it is given a seed: then what fails is the work of a change, and not of luck.
What was found lies in .cache/fuzz/TARGET, a crash beside it; the exit code is 1 where there was one.
Needs atheris (Linux on x86-64), which `make fuzz` installs.
"""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType, ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parent
CORPUS = HERE / "corpus"
CACHE = ROOT / ".cache" / "fuzz"
SLOWEST = 5  # seconds of processor time for one input
STUCK = 300  # seconds by the clock, for what no signal of Python's can end
LARGEST = 1024  # MiB resident, instrumentation and libraries included
MAX_CORPUS = 1 << 20  # bytes of all targets together

TARGETS = sorted(path.stem for path in (HERE / "targets").glob("*.py"))


class TooSlow(BaseException):
    """No Exception, so that no reader takes it for its own."""


def fuzz_here(name: str, arguments: list[str]) -> None:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["tacit", "targets", "yaml", "google.protobuf.text_format"]):
        target = importlib.import_module(f"targets.{name}")
    refusals: tuple[type[Exception], ...] = target.REFUSALS

    def end(signum: int, frame: object) -> None:
        raise TooSlow(f"more than {SLOWEST} s")

    signal.signal(signal.SIGPROF, end)

    def one(data: bytes) -> None:
        try:
            # Processor time: a machine that is busy with something else makes no reader slow.
            signal.setitimer(signal.ITIMER_PROF, SLOWEST)
            target.check(data)
        except refusals as error:
            if not str(error):
                raise AssertionError(f"{type(error).__name__} without a word") from error

    atheris.Setup([sys.argv[0], *arguments, f"-max_len={target.LIMIT}"], one)
    atheris.Fuzz()


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One target in a process of its own."""
    command = [sys.executable, str(HERE / "run.py"), "--child", name, *arguments]
    # Without the variables that make a Python different from the one that users start.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TACIT"))}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False)


def fuzz(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target and say how it went; whether it held."""
    found, crashes = CACHE / name, CACHE / "crashes" / name
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    done = run(
        name,
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={STUCK}",
        f"-rss_limit_mb={LARGEST}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / name),
    )
    said = done.stderr + done.stdout

    def last(pattern: str) -> int:
        return int((re.findall(pattern + r":\s+(\d+)", said) or ["0"])[-1])

    held = done.returncode == 0
    executions, branches, seeds = last("number_of_executed_units"), last("cov"), last("corp")
    print(
        f"{name:18} {executions:>9} executions {branches:>6} branches {seeds:>5} seeds {last('peak_rss_mb'):>5} MiB  "
        f"{'held' if held else 'CRASHED'}",
        flush=True,
    )
    if not held:
        print("\n".join(said.splitlines()[-40:]), flush=True)
        print(f"the input lies in {crashes}; see it again: python fuzz/run.py --replay FILE {name}", flush=True)
    return held


def minimise(name: str) -> None:
    """Take into the corpus what was found and reaches a step that nothing in it reaches; the smallest first."""
    target = importlib.import_module(f"targets.{name}")
    reached: set[tuple[object, ...]] = set()
    for path in sorted((CORPUS / name).iterdir()):
        reached |= steps_of(target, path.read_bytes())
    taken = 0
    for path in sorted((CACHE / name).glob("*"), key=lambda one: one.stat().st_size):
        data = path.read_bytes()
        steps = steps_of(target, data)
        if len(data) <= target.LIMIT and not steps <= reached and _size() + len(data) < MAX_CORPUS // 2:
            reached |= steps
            (CORPUS / name / path.name[:12]).write_bytes(data)
            taken += 1
    print(f"{name:18} {taken} taken, {len(reached)} steps", flush=True)


def steps_of(target: ModuleType, data: bytes) -> set[tuple[object, ...]]:
    """From which line to which one input leads, in our own modules."""
    steps: set[tuple[object, ...]] = set()
    ours = str(ROOT / "src")

    def enter(frame: FrameType, event: str, argument: object) -> object:
        if not frame.f_code.co_filename.startswith(ours):
            return None
        last = 0

        def step(frame: FrameType, event: str, argument: object) -> object:
            nonlocal last
            if event == "line":
                steps.add((frame.f_code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        target.check(data)
    except target.REFUSALS:
        pass
    finally:
        sys.settrace(None)
    return steps


def _size() -> int:
    return sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["--child"]:
        sys.path[:0] = [str(HERE)]
        fuzz_here(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=10, help="for each target (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0: other ones each time)")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("--minimise", action="store_true")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.targets) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    targets = chosen.targets or TARGETS
    if chosen.replay:
        sys.path[:0] = [str(HERE)]
        importlib.import_module(f"targets.{targets[0]}").check(chosen.replay.read_bytes())
    elif chosen.minimise:
        sys.path[:0] = [str(HERE)]
        for name in targets:
            minimise(name)
    elif not all([fuzz(name, chosen.seconds, chosen.seed) for name in targets]):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
