"""Is there a test for each check? Change the checks one by one, and see whether a test notices.

Usage: python mutation/run.py [--seconds N] [--again] [MODULE...]

All modules below, or those whose path has one of the words, in the order of the words. With `--again` only what survived
or was not tried when the same text of a module ran last.

The tests run once, and which of them runs which line is written down. Then each mutant (`mutants`) gets a process of
its own, forked from this one, in which the function is exchanged (`exchange`) and the tests of its line run, the quick
ones first, until one fails. A mutant that no test notices has survived: a test is missing, or the change changes
nothing, and then `accepted.txt` says why.

Nothing but a test that fails, or a module that does not load, counts as noticed at once. First each function is put in
its own place, unchanged, and tests of its first line run for a second: if one fails, the exchange did it,
and the module counts as not run. What a test of another line would say of the exchange is not asked. A process that ends
otherwise, or does not end, is tried once more with nothing beside it, and its time is that of the processor: a busy
machine makes no mutant look stuck.

Results are kept for each module as it ends (`results.json`, `results`), and docs/mutation.md is written from all of
them. The exit code is 1 where something survived that is not accepted, or was not tried, or where accepted.txt has a
line of something that is no mutant any more.

mutmut and cosmic-ray start Python, pytest and every fixture anew for each mutant: a second or more, for thousands.
"""

import argparse
import ast
import gc
import importlib
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import coverage
import pytest
from exchange import exchange, forget_all
from mutants import Mutant, mutants_of, unchanged
from results import BROKEN, NOTICED, STUCK, SURVIVED, UNLOADABLE, UNTRIED, Results

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = ROOT / "src" / "tacit"
MODULES = (
    "evidence/intel/*.py", "evidence/verify/*.py", "evidence/sgx/*.py", "evidence/tdx/*.py", "evidence/snp/*.py",
    "evidence/anchor/*.py", "manifest/appraise.py",
)  # fmt: skip
TESTS = (
    "tests/evidence/test_boundaries.py", "tests/evidence/test_evaluator_checks.py", "tests/evidence/test_layout_bits.py",
    "tests/evidence/test_carried.py", "tests/evidence/test_certificates.py", "tests/evidence/test_ratls.py",
    "tests/evidence/test_recorded_vectors.py", "tests/evidence/test_snp.py", "tests/evidence/test_tdx.py",
    "tests/evidence/test_verification.py", "tests/manifest/test_appraise.py", "tests/evidence/test_amd_certificates.py",
    "tests/cli/test_package_info.py", "tests/evidence/test_cbor_and_binding.py",
)  # fmt: skip
STUCK_AFTER = 60  # seconds of the processor for one test; the slowest takes two
ASLEEP_AFTER = 900  # seconds by the clock, for one that waits and computes nothing
QUICKLY = 4.0  # seconds of tests for each mutant at first; those that are left then get more
_FIRST = 12  # tests of each of two kinds
_QUICK = 0.3  # seconds
_NEAR = 4  # lines: a condition, and what is done where it holds
AT_MOST = 20.0  # seconds of tests for each of those
_AT_ONCE = 2  # processes
ACCEPTED = HERE / "accepted.txt"
_PASSED, _FAILED, _NOT_LOADED, _OURS = 10, 11, 12, 13  # exit codes; Python's own are others


class Suite:
    """pytest's session, kept open: its items, how long each took, and which lines each ran."""

    def __init__(self, files: list[Path], work: Any) -> None:
        self._cover = coverage.Coverage(include=[str(one) for one in files], data_file=None, config_file=False)
        self._work = work
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.breadth: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._names: dict[str, frozenset[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        for item in items:
            code = getattr(getattr(item, "function", None), "__code__", None)
            self._names[item.nodeid] = frozenset(code.co_names) if code else frozenset()
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
        most of the module (which go all the way); then the quick ones. A constant runs when the module is loaded: there
        also those count, and first, that name anything of the module.
        """
        named: list[str] = []
        if mutant.function:
            found = self.tests.get((file, mutant.line), set())
        else:
            constants = constants_of(mutant.source)
            named = [test for test, names in self._names.items() if names & constants]
            found = {test for (one, _), tests in self.tests.items() if one == file for test in tests}
        beside = [self.tests.get((file, line), set()) for line in range(mutant.line, mutant.line + _NEAR)]

        def rank(test: str) -> tuple[bool, int, float]:
            seconds = self.seconds.get(test, 0.0)
            return seconds > _QUICK, min((len(tests) for tests in beside if test in tests), default=0), seconds

        near = sorted(found, key=rank)
        width = self.breadth[file]
        broad = sorted(found, key=lambda test: (self.seconds.get(test, 0.0) > _QUICK, -width.get(test, 0)))
        named.sort(key=lambda test: self.seconds.get(test, 0.0))
        return list(dict.fromkeys((*named[:_FIRST], *near[:_FIRST], *broad[:_FIRST], *named, *near)))


def constants_of(source: str) -> frozenset[str]:
    """The names to which a module gives values."""
    targets = [one.targets for one in ast.parse(source).body if isinstance(one, ast.Assign)]
    found = [each for group in targets for target in group for each in ast.walk(target)]
    return frozenset(one.id for one in found if isinstance(one, ast.Name))


@dataclass(frozen=True)
class Job:
    """A mutant, and the tests that run its line."""

    mutant: Mutant
    module: ModuleType
    file: str
    items: list[pytest.Item]


def attempt(session: pytest.Session, job: Job, *, seconds: float) -> str:
    """What becomes of a mutant within this time of tests, in a process of its own."""
    if not job.items:
        return SURVIVED
    child = os.fork()
    if child == 0:
        _in_child(session, job, seconds)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return STUCK if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) else BROKEN
    ends = {_PASSED: SURVIVED, _FAILED: NOTICED, _NOT_LOADED: UNLOADABLE}
    return ends.get(os.WEXITSTATUS(status), BROKEN)


def _in_child(session: pytest.Session, job: Job, seconds: float) -> NoReturn:
    code = _OURS
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        _limit()
        try:
            exchange(job.module, job.mutant, job.file)
        except Exception:
            code = _NOT_LOADED
        else:
            code = _PASSED if _passes(session, job.items, seconds=seconds) else _FAILED
    finally:
        os._exit(code)


def _limit() -> None:
    """From now: one test's time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, STUCK_AFTER)
    signal.alarm(ASLEEP_AFTER)


def _passes(session: pytest.Session, items: list[pytest.Item], *, seconds: float) -> bool:
    seen: list[pytest.TestReport] = []

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            seen.append(report)

    session.config.pluginmanager.register(Watch())
    session.config.pluginmanager.unregister(name="terminalreporter")
    session._setupstate.teardown_exact(items[0])
    began = time.process_time()
    for item, following in zip(items, [*items[1:], None], strict=True):
        _limit()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if any(report.failed for report in seen):
            return False
        if time.process_time() - began > seconds:
            break
    return True


class Work:
    """All mutants of these files, and what became of them."""

    def __init__(self, files: list[Path], seconds: float, results: Results, *, again: bool) -> None:
        self._files, self._seconds, self._results, self._again = files, seconds, results, again
        self._end = 0.0

    def __call__(self, suite: Suite, session: pytest.Session) -> None:
        self._end = time.monotonic() + self._seconds
        items = {item.nodeid: item for item in session.items}
        for path in self._files:
            if time.monotonic() > self._end:
                break
            self._module(path, suite, session, items)

    def _module(self, path: Path, suite: Suite, session: pytest.Session, items: dict[str, pytest.Item]) -> None:
        source, where = path.read_text(), str(path.relative_to(SOURCE))
        module = importlib.import_module(module_name(path))

        def jobs(mutants: Iterable[Mutant]) -> list[Job]:
            return [
                Job(one, module, str(path), [items[name] for name in suite.pick(str(path), one) if name in items])
                for one in mutants
            ]

        spoiled = [job.mutant for job in jobs(unchanged(source)) if attempt(session, job, seconds=1) != SURVIVED]
        for one in spoiled:
            say(f"{where}: {one.function or 'the module'} fails its tests when put in its own place")
        if spoiled:
            self._results.drop(where)
            return
        wanted = [one for one in mutants_of(source) if self._results.wants(where, source, one, again=self._again)]
        found = self._all(session, jobs(wanted), where)
        self._results.add(where, source, found, again=self._again)

    def _all(self, session: pytest.Session, jobs: list[Job], where: str) -> dict[str, str]:
        """What became of each mutant, by its name."""
        found = {job.mutant.name: UNTRIED for job in jobs}

        def rest(*outcomes: str) -> list[Job]:
            return [job for job in jobs if found[job.mutant.name] in outcomes]

        for limit, outcome in ((QUICKLY, UNTRIED), (AT_MOST, SURVIVED)):
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                due = rest(outcome)
                for job, became in zip(due, pool.map(lambda one: self._try(session, one, limit), due), strict=True):  # noqa: B023
                    found[job.mutant.name] = became
        for job in rest(STUCK, BROKEN):  # once more, alone
            found[job.mutant.name] = attempt(session, job, seconds=AT_MOST)
        for job in rest(SURVIVED, STUCK, BROKEN):
            mutant = job.mutant
            say(f"{found[mutant.name]}: {where}:{mutant.line} {mutant.name} ({len(job.items)} tests run it)")
        return found

    def _try(self, session: pytest.Session, job: Job, limit: float) -> str:
        return UNTRIED if time.monotonic() > self._end else attempt(session, job, seconds=limit)


def say(line: str) -> None:
    """To the person who waits, past pytest's capture."""
    print(line, file=sys.__stderr__, flush=True)


def module_name(path: Path) -> str:
    """As Python imports it."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    every = [path for pattern in MODULES for path in sorted(SOURCE.glob(pattern))]
    named = [path for word in options.words for path in every if word in str(path)]
    for word in options.words:
        if not any(word in str(path) for path in every):
            parser.error(f"no module has {word!r} in its path; they are those of docs/mutation.md")
    files = list(dict.fromkeys(named)) if options.words else every
    results = Results(HERE / "results.json", ACCEPTED, SOURCE, every)
    work = Work(files, options.seconds, results, again=options.again)
    tests = [one for one in TESTS if Path(one).exists()]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[Suite(files, work)])
    if code != 0:
        return int(code)
    (ROOT / "docs" / "mutation.md").write_text(results.page())
    wrong = results.wrong([str(path.relative_to(SOURCE)) for path in files])
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
