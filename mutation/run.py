"""Is there a test for each check? Change the checks one by one, and see whether a test notices.

Usage: python mutation/run.py [--seconds N] [MODULE...]     all modules below, or those whose path has one of the words

The tests run once, and which of them runs which line is written down. Then each mutant (`mutants`) gets a process of
its own, forked from this one, in which the function is exchanged and the tests of its line run, the quick ones first,
until one fails. A mutant that no test notices has survived: a test is missing, or the change changes nothing, and then
`accepted.txt` says why. The result is written to docs/mutation.md; the exit code is 1 where something survived that is
not accepted, or where accepted.txt has a line of something that did not survive.

mutmut and cosmic-ray start Python, pytest and every fixture anew for each mutant: a second or more, for thousands.
"""

import argparse
import gc
import importlib
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import pytest
from mutants import Mutant, mutants_of

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = ROOT / "src" / "tacit"
MODULES = (
    "evidence/verify/*.py", "evidence/intel/*.py", "evidence/sgx/*.py", "evidence/tdx/*.py", "evidence/snp/*.py",
    "evidence/anchor/*.py", "manifest/appraise.py",
)  # fmt: skip
TESTS = (
    "tests/evidence/test_boundaries.py", "tests/evidence/test_evaluator_checks.py", "tests/evidence/test_layout_bits.py",
    "tests/evidence/test_carried.py", "tests/evidence/test_certificates.py", "tests/evidence/test_ratls.py",
    "tests/evidence/test_recorded_vectors.py", "tests/evidence/test_snp.py", "tests/evidence/test_tdx.py",
    "tests/evidence/test_verification.py", "tests/manifest/test_appraise.py", "tests/evidence/test_amd_certificates.py",
    "tests/cli/test_package_info.py", "tests/evidence/test_cbor_and_binding.py",
)  # fmt: skip
STUCK = 60  # seconds without a test that ends: a mutant that never ends is noticed by whoever waits for it
QUICKLY = 4.0  # seconds of tests for each mutant at first; those that are left then get more
_FIRST = 12  # tests of each of two kinds
_QUICK = 0.3  # seconds
_NEAR = 4  # lines: a condition, and what is done where it holds
AT_MOST = 20.0  # seconds of tests for each of those
ACCEPTED = HERE / "accepted.txt"
REPORT = ROOT / "docs" / "mutation.md"


class Suite:
    """pytest's session, kept open: its items, how long each took, and which lines each ran."""

    def __init__(self, files: list[Path], work: Any) -> None:
        self._cover = coverage.Coverage(include=[str(one) for one in files], data_file=None, config_file=False)
        self._work = work
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.breadth: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        self._cover.start()
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            forget_all()
            self._cover.switch_context(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        self._cover.stop()
        data = self._cover.get_data()
        for file in data.measured_files():
            for line, contexts in data.contexts_by_lineno(file).items():
                self.tests[file, line].update(contexts)
                for test in contexts:
                    self.breadth[file][test] += 1
        if self.failed:
            raise pytest.UsageError(f"the tests have to pass first: {self.failed[:3]}")
        gc.freeze()
        self._work(self, session)
        return True

    def pick(self, file: str, mutant: Mutant) -> list[str]:
        """The tests that run a mutant's line, those that may tell most first.

        That is those that run a line beside it which few run (what is done where a condition holds), and those that run
        most of the module (which go all the way); then the quick ones.
        """
        if mutant.function:
            found = self.tests.get((file, mutant.line), set())
        else:
            found = {test for (one, _), tests in self.tests.items() if one == file for test in tests}
        beside = [self.tests.get((file, line), set()) for line in range(mutant.line, mutant.line + _NEAR)]

        def rank(test: str) -> tuple[bool, int, float]:
            seconds = self.seconds.get(test, 0.0)
            return seconds > _QUICK, min((len(tests) for tests in beside if test in tests), default=0), seconds

        near = sorted(found, key=rank)
        width = self.breadth[file]
        broad = sorted(found, key=lambda test: (self.seconds.get(test, 0.0) > _QUICK, -width.get(test, 0)))
        return list(dict.fromkeys((*near[:_FIRST], *broad[:_FIRST], *near)))


def forget_all() -> None:
    """What functions remember of calls before would hide what became of them."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tacit."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def code_of(source: str, file: str, function: str) -> CodeType | None:
    """The code of a function by its dotted name."""
    found = compile(source, file, "exec")
    for name in function.split("."):
        inner = [one for one in found.co_consts if isinstance(one, CodeType) and one.co_name == name]
        if len(inner) != 1:
            return None
        found = inner[0]
    return found


def plain(value: Any) -> FunctionType | None:
    """The function under what decorators made of it."""
    while not isinstance(value, FunctionType):
        value = getattr(value, "fget", None) or getattr(value, "__func__", None) or getattr(value, "__wrapped__", None)
        if value is None:
            return None
    return plain(value.__wrapped__) if hasattr(value, "__wrapped__") else value


def exchange(module: ModuleType, mutant: Mutant, file: str) -> None:
    """Put the mutant in place of what it was made of, in this process."""
    forget_all()
    names = mutant.function.split(".") if mutant.function else []
    owner: Any = module
    for at, name in enumerate(names):
        owner = vars(owner).get(name)
        function = plain(owner)
        if function is not None:
            code = code_of(mutant.source, file, ".".join(names[: at + 1]))
            if code is not None and code.co_freevars == function.__code__.co_freevars:
                function.__code__ = code
                return
            break
    fresh = anew(module, mutant, file)
    for name, value in list(fresh.items()):
        old = vars(module).get(name)
        if name.startswith("__") or old is None or isinstance(value, FunctionType | type) or plain(value):
            continue
        if old != value:
            for other in [m for n, m in sys.modules.items() if n.startswith(("tacit.", "fakes")) or "test_" in n]:
                if vars(other).get(name) is old or (name in vars(other) and vars(other)[name] == old):
                    setattr(other, name, value)


def anew(module: ModuleType, mutant: Mutant, file: str) -> dict[str, Any]:
    """What the mutated module would define."""
    fresh: dict[str, Any] = {"__name__": module.__name__, "__file__": file, "__package__": module.__package__}
    exec(compile(mutant.source, file, "exec"), fresh)
    return fresh


def survives(
    session: pytest.Session, items: list[pytest.Item], module: ModuleType, mutant: Mutant, file: str, *, seconds: float
) -> bool:
    """Whether no test notices within this time of tests: in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            code = 0 if _passes(session, items, module, mutant, file, seconds=seconds) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _passes(
    session: pytest.Session, items: list[pytest.Item], module: ModuleType, mutant: Mutant, file: str, *, seconds: float
) -> bool:
    seen: list[pytest.TestReport] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            seen.append(report)

    session.config.pluginmanager.register(Watch())
    exchange(module, mutant, file)
    session._setupstate.teardown_exact(items[0])
    for item, following in zip(items, [*items[1:], None], strict=True):
        signal.alarm(STUCK)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if any(report.failed for report in seen):
            return False
        if sum(report.duration for report in seen) > seconds:
            break
    return True


def module_name(path: Path) -> str:
    """As Python imports it."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_accepted() -> dict[tuple[str, str], str]:
    """(module, name of the mutant) -> why it changes nothing."""
    found = {}
    for line in ACCEPTED.read_text().splitlines() if ACCEPTED.exists() else ():
        if line.strip() and not line.startswith("#"):
            where, name, why = line.split(" | ")
            found[where.strip(), name.strip()] = why.strip()
    return found


Job = tuple[str, ModuleType, Mutant, str, list[pytest.Item]]


class Work:
    """All mutants of these files, and what became of them."""

    def __init__(self, files: list[Path], seconds: float, accepted: dict[tuple[str, str], str]) -> None:
        self._files, self._seconds, self._accepted = files, seconds, accepted
        self.made: dict[str, int] = {}
        self.excused: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.survivors: list[tuple[str, Mutant, int]] = []
        self.met: set[tuple[str, str]] = set()

    def __call__(self, suite: Suite, session: pytest.Session) -> None:
        end = time.monotonic() + self._seconds
        jobs = list(self._jobs(suite, session))
        for limit in (QUICKLY, AT_MOST):
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda job: self._try(session, job, end, limit), jobs))  # noqa: B023
            jobs = [job for job, survived in zip(jobs, found, strict=True) if survived]
            print(f"{len(jobs)} are left after {limit:.0f} s of tests each", file=sys.__stderr__, flush=True)
        self.survivors = [(where, mutant, len(items)) for where, _, mutant, _, items in jobs]

    def _jobs(self, suite: Suite, session: pytest.Session) -> Iterator[Job]:
        by_id = {item.nodeid: item for item in session.items}
        for path in self._files:
            where = str(path.relative_to(SOURCE))
            module = importlib.import_module(module_name(path))
            for mutant in mutants_of(path.read_text()):
                self.made[where] = self.made.get(where, 0) + 1
                if (where, mutant.name) in self._accepted:
                    self.met.add((where, mutant.name))
                    self.excused[where] = self.excused.get(where, 0) + 1
                    continue
                names = suite.pick(str(path), mutant)
                yield where, module, mutant, str(path), [by_id[name] for name in names if name in by_id]

    def _try(self, session: pytest.Session, job: Job, end: float, limit: float) -> bool:
        where, module, mutant, file, items = job
        if time.monotonic() > end:
            self.left[where] = self.left.get(where, 0) + 1
            return False
        survived = not items or survives(session, items, module, mutant, file, seconds=limit)
        if survived:
            print(f"passes {where}:{mutant.line} {mutant.name} ({len(items)})", file=sys.__stderr__, flush=True)
        return survived


def write_report(work: Work) -> None:
    """docs/mutation.md, from a run of everything."""
    survived: dict[str, int] = defaultdict(int)
    for where, _, _ in work.survivors:
        survived[where] += 1
    lines = [INTRODUCTION, "| module | mutants | noticed | change nothing | survived |", "|---|---|---|---|---|"]
    for where, count in sorted(work.made.items()):
        excused = work.excused.get(where, 0)
        lines.append(f"| `{where}` | {count} | {count - excused - survived[where]} | {excused} | {survived[where]} |")
    total, excused, lost = sum(work.made.values()), sum(work.excused.values()), len(work.survivors)
    lines.append(f"| all | {total} | {total - excused - lost} | {excused} | {lost} |")
    REPORT.write_text("\n".join(lines) + "\n")


INTRODUCTION = """# Mutation testing

`make mutate` changes the checks of evidence and appraisal one at a time, and runs the tests of each change until one
fails: a comparison turned round, a condition that never or always holds, a `raise` left out, a number one higher, a word
with a letter more. What no test notices is a check without a test, or a change that changes nothing; the latter stand
in `mutation/accepted.txt`, each with its reason. The last run, written by `mutation/run.py`:
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    every = sorted(path for pattern in MODULES for path in SOURCE.glob(pattern))
    files = [path for path in every if not options.words or any(word in str(path) for word in options.words)]
    accepted = read_accepted()
    work = Work(files, options.seconds, accepted)
    tests = [one for one in TESTS if Path(one).exists()]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[Suite(files, work)])
    if code != 0:
        return int(code)
    stale = [one for one in accepted if one not in work.met and one[0] in work.made]
    for where, mutant, count in work.survivors:
        print(f"SURVIVED {where}:{mutant.line}: {mutant.name} ({count} tests run it)")
    for where, name in stale:
        print(f"NO SUCH MUTANT any more, and accepted.txt has it: {where} | {name}")
    left = sum(work.left.values())
    print(
        f"{sum(work.made.values())} mutants, {len(work.survivors)} survived, {len(work.met)} accepted, {left} not tried"
    )
    good = not work.survivors and not stale and not left
    if not options.words and not left:
        write_report(work)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
