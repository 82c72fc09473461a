"""What fuzzing found once stays found: each input of the corpus is answered in the project's own words, and quickly."""

import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
TARGETS = sorted(path.stem for path in (FUZZ / "targets").glob("*.py"))
SLOWEST = 5.0  # seconds of processor time
MAX_CORPUS = 1 << 20  # bytes


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    path = FUZZ / "targets" / f"{request.param}.py"
    spec = importlib.util.spec_from_file_location(f"fuzz_target_{request.param}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def inputs(target: ModuleType) -> list[Path]:
    return sorted((FUZZ / "corpus" / target.__name__.removeprefix("fuzz_target_")).iterdir())


def test_t13_every_input_of_the_corpus_is_answered_in_our_own_words(target: ModuleType) -> None:
    files = inputs(target)
    assert files
    taken = 0
    for file in files:
        data = file.read_bytes()
        assert len(data) <= target.LIMIT, file
        begin = time.process_time()
        try:
            target.check(data)
            taken += 1
        except target.REFUSALS as refusal:
            assert str(refusal), file  # noqa: PT017  # either outcome is right, a refusal without a word is not
        assert time.process_time() - begin < SLOWEST, file
    assert taken or target.__name__.endswith("manifest"), "one input at least is honest"


def test_a_target_allows_no_error_but_ours(target: ModuleType) -> None:
    from tacit.errors import TacitError

    assert target.__doc__
    assert all(issubclass(one, TacitError) and one is not TacitError for one in target.REFUSALS)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in (FUZZ / "corpus").rglob("*") if path.is_file()) < MAX_CORPUS
    assert sorted(path.name for path in (FUZZ / "corpus").iterdir()) == TARGETS
