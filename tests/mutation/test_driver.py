"""What counts as a mutant that a test noticed, and what the page says of a run."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# Python 3.12 and newer warn of forks where there are threads; the driver's own process has none.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FOLDER = Path(__file__).parents[2] / "mutation"
MODULES = ("mutants", "exchange", "results", "run")
SOURCE = """
def check(value):
    if value > 3 or value == 3:
        raise ValueError(value)
    return 3
"""


@pytest.fixture(scope="module")
def driver() -> dict[str, ModuleType]:
    """Its modules, under their own names only while they load each other."""
    others = {name: sys.modules.pop(name, None) for name in MODULES}
    loaded: dict[str, ModuleType] = {}
    for name in MODULES:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    for name, other in others.items():
        del sys.modules[name]
        if other is not None:
            sys.modules[name] = other
    return loaded


def outcome(driver: dict[str, ModuleType], test: Callable[[], bool], exchange: Callable[..., None] = print) -> str:
    """What becomes of a mutant whose only test does this; True passes."""
    watching: list[Any] = []

    def run_one(item: Any, nextitem: Any) -> None:
        for watch in watching:
            watch.pytest_runtest_logreport(SimpleNamespace(failed=not test(), duration=0.0))

    manager = SimpleNamespace(register=watching.append, unregister=lambda name: None)
    config = SimpleNamespace(pluginmanager=manager, hook=SimpleNamespace(pytest_runtest_protocol=run_one))
    session = SimpleNamespace(config=config, _setupstate=SimpleNamespace(teardown_exact=lambda _: None))
    run = driver["run"]
    run.exchange = exchange
    job = run.Job(None, None, "", [SimpleNamespace(config=config)])
    return str(run.attempt(session, job, seconds=1))


def endless() -> bool:
    while True:
        pass


def test_only_a_test_that_fails_is_a_mutant_that_was_noticed(
    driver: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ImportError

    def killed() -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    monkeypatch.setattr(driver["run"], "exchange", None)
    monkeypatch.setattr(driver["run"], "STUCK_AFTER", 1.0)
    assert outcome(driver, lambda: True) == "survived"
    assert outcome(driver, lambda: False) == "noticed"
    assert outcome(driver, endless) == "stuck"
    assert outcome(driver, killed) == "broken"
    assert outcome(driver, lambda: os._exit(0)) == "broken"
    assert outcome(driver, lambda: True, fail) == "unloadable"


def test_a_slow_machine_makes_no_mutant_stuck(driver: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    def waits() -> bool:
        time.sleep(1.5)  # as a process does that others keep from the processor
        return True

    monkeypatch.setattr(driver["run"], "exchange", None)
    monkeypatch.setattr(driver["run"], "STUCK_AFTER", 1.0)
    assert outcome(driver, waits) == "survived"


def test_the_same_change_twice_in_one_function_has_two_names(driver: dict[str, ModuleType]) -> None:
    names = [one.name for one in driver["mutants"].mutants_of(SOURCE)]
    assert len(set(names)) == len(names)
    assert {"check: 3 -> 4", "check: 3 -> 4 (no. 2)", "check: 3 -> 4 (no. 3)"} <= set(names)


def test_the_page_says_what_ran_and_what_did_not(driver: dict[str, ModuleType], tmp_path: Path) -> None:
    one, other, accepted = tmp_path / "one.py", tmp_path / "other.py", tmp_path / "accepted.txt"
    one.write_text(SOURCE)
    other.write_text(SOURCE)
    accepted.write_text("one.py | check: 3 -> 4 | why not\n")
    results = driver["results"].Results(tmp_path / "results.json", accepted, tmp_path, [one, other])
    mutants = [each for each in driver["mutants"].mutants_of(SOURCE)]
    wanted = [each for each in mutants if results.wants("one.py", SOURCE, each, again=False)]
    assert len(wanted) == len(mutants) - 1
    found = {each.name: "noticed" for each in wanted} | {wanted[0].name: "survived", wanted[1].name: "untried"}
    results.add("one.py", SOURCE, found, again=False)
    rows = [line for line in results.page().splitlines() if line.startswith("| `")]
    count = len(mutants)
    assert rows == [
        f"| `one.py` | {count} | {count - 3} | 0 | 0 | 1 | 1 | 0 | 1 | ran |",
        f"| `other.py` | {count} | 0 | 0 | 0 | 0 | 0 | 0 | {count} | not run |",
    ]
    assert f"- `one.py`, survived: `{wanted[0].name}`" in results.page()
    assert [line.split()[0] for line in results.wrong(["one.py", "other.py"])] == ["SURVIVED", "UNTRIED", "other.py:"]
    again = [each for each in mutants if results.wants("one.py", SOURCE, each, again=True)]
    assert [each.name for each in again] == [wanted[0].name, wanted[1].name]
    results.add("one.py", SOURCE, {each.name: "noticed" for each in again}, again=True)
    assert results.wrong(["one.py"]) == []
    one.write_text(SOURCE + "\n")
    assert "changed since it ran" in results.page()


def test_a_module_that_fails_its_tests_unchanged_has_no_results(driver: dict[str, ModuleType], tmp_path: Path) -> None:
    one, kept = tmp_path / "one.py", tmp_path / "results.json"
    one.write_text(SOURCE)
    results = driver["results"].Results(kept, tmp_path / "accepted.txt", tmp_path, [one])
    found = {each.name: "noticed" for each in driver["mutants"].mutants_of(SOURCE)}
    results.add("one.py", SOURCE, found, again=False)
    assert results.wrong(["one.py"]) == []
    results.drop("one.py")
    assert results.wrong(["one.py"]) == ["one.py: did not run"]
    assert driver["results"].Results(kept, tmp_path / "accepted.txt", tmp_path, [one]).wrong(["one.py"]) != []
