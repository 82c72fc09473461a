"""Other models while the server runs: all of a configuration or nothing of it."""

import asyncio
import gc
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import models
from tacit.edge import GrpcCall
from tacit.errors import ModelNotAllowedError, RequestError, Status
from tacit.programs.model_server.models import list_entries
from tacit.serving.batching import QueueClosedError
from tacit.serving.callers import Callers, Client
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.loading.opening import Loading
from tacit.serving.plane import STORAGE_THREAD, Plane, Selector, State, start_managing
from tacit.serving.repository import ModelConfig, Repository, VersionPolicy
from tacit.serving.sources import Access, Format
from tacit.serving.tfs.config import ModelEntry, parse_model_config
from tacit.serving.tfs.flags import parse_flags
from tacit.serving.tfs.manage.metrics import Metrics
from tacit.serving.tfs.manage.reload import Reloader
from tacit.serving.tfs.meter import Meter
from tacit.serving.tfs.service import TfsService
from tacit.wire.pb import serving_pb2 as wire
from tacit.wire.tensor import Tensor

METHOD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def put(base: Path, *versions: int, content: bytes | None = None) -> Path:
    for version in versions:
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "model.onnx").write_bytes(content or models.onnx_model())
    return base


def configure(entries: Sequence[ModelEntry]) -> list[ModelConfig]:
    return [ModelConfig(one.base, Access(one.name, Format.PLAIN), one.policy, one.labels) for one in entries]


def entry(name: str, base: Path, labels: Mapping[str, int] | None = None, **policy: Any) -> ModelEntry:
    return ModelEntry(name, base, VersionPolicy(**policy), labels or {}, "tensorflow")


@pytest.fixture
def first(tmp_path: Path) -> ModelEntry:
    return entry("first", put(tmp_path / "first", 1))


@pytest.fixture
def serves(first: ModelEntry, events: Any) -> Any:
    repository = Repository(
        configure([first]),
        load=load_openvino,
        options=EngineOptions(threads=1),
        observe=events,
        loading=Loading(warm=False),
    )
    repository.poll()
    yield repository
    repository.close()


@pytest.fixture
def reloader(serves: Repository, first: ModelEntry, events: Any) -> Reloader:
    return Reloader(serves, configure, entries=[first], observe=events)


def available(repository: Repository, name: str) -> list[int]:
    return [one.version for one in repository.statuses(name) if one.state is State.AVAILABLE]


def test_new_models_answer_and_those_left_out_are_gone(tmp_path: Path, serves: Repository, reloader: Reloader) -> None:
    second = entry("second", put(tmp_path / "second", 3, 4), {"stable": 3, "canary": 4}, latest=2)
    reloader.apply([second])
    assert available(serves, "second") == [4, 3]
    assert serves.find(Selector("second", label="stable")).version == 3
    assert serves.find(Selector("second", label="canary")).version == 4
    assert serves.names() == ("second",)
    with pytest.raises(RequestError, match=r"Servable not found for request: Latest\(first\)"):
        serves.find(Selector("first"))


def test_how_a_model_ended_is_told_once_it_is_no_longer_served_and_of_so_many_models(
    tmp_path: Path, serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    base = put(tmp_path / "second", 2, 3)
    (base / "2" / "model.onnx").write_bytes(b"no model")
    reloader.apply([entry("second", base, latest=2)])
    assert [(one.version, one.state, one.code) for one in serves.statuses("first")] == [(1, State.END, Status.OK)]
    reloader.apply([first])
    assert [(one.version, one.state, one.code) for one in serves.statuses("second")] == [
        (3, State.END, Status.OK), (2, State.END, Status.INVALID_ARGUMENT)
    ]  # fmt: skip
    assert available(serves, "first") == [1]
    for number in range(33):
        reloader.apply([entry(f"other{number}", first.base)])
    assert [bool(serves.statuses(name)) for name in ("first", "second", "other0", "other1")] == [
        False, False, True, True
    ]  # fmt: skip
    assert serves.names() == ("other32",)


def test_a_model_that_does_not_change_is_not_loaded_again(
    tmp_path: Path, serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    before = serves.find(Selector("first"))
    reloader.apply([first, entry("second", put(tmp_path / "second", 1))])
    assert serves.find(Selector("first")) is before


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"no model", "1 model(s) did not become available: {{{name: second version: 1} due to error")],
)
def test_a_model_that_fails_leaves_all_as_it_was(
    tmp_path: Path, serves: Repository, reloader: Reloader, content: bytes, text: str
) -> None:
    good = entry("third", put(tmp_path / "third", 1))
    bad = entry("second", put(tmp_path / "second", 1, content=content))
    with pytest.raises(RequestError) as refused:
        reloader.apply([good, bad])
    assert refused.value.status is Status.UNKNOWN
    assert text in str(refused.value)
    assert serves.names() == ("first",)
    assert available(serves, "first") == [1]
    assert not serves.statuses("second")
    assert not serves.statuses("third")
    serves.poll()
    assert serves.names() == ("first",)


def test_versions_that_a_policy_names_and_nobody_has_are_named(
    serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    with pytest.raises(RequestError) as refused:
        reloader.apply([entry("first", first.base, specific=frozenset((9, 7)))])
    assert f"{{name: first}} due to error: no version 7, 9 of it at {first.base}, and its" in str(refused.value)


def test_every_model_that_fails_is_named(tmp_path: Path, serves: Repository, reloader: Reloader) -> None:
    bad = [entry(name, put(tmp_path / name, 1, content=b"no model")) for name in ("second", "third")]
    with pytest.raises(RequestError) as refused:
        reloader.apply([bad[0], entry("fourth", put(tmp_path / "fourth", 1)), bad[1], entry("fifth", tmp_path / "no")])
    text = str(refused.value)
    assert text.startswith("3 model(s) did not become available: {{{name: second version: 1} due to error: ")
    assert "}, {{name: third version: 1} due to error: " in text
    assert text.endswith(
        f"}}, {{{{name: fifth}} due to error: no version of it at {tmp_path / 'no'}: there is no such path}}, }}"
    )
    assert serves.names() == ("first",)


def test_a_policy_that_names_no_version_is_no_policy_of_the_latest(
    serves: Repository, reloader: Reloader, first: ModelEntry, events: Any
) -> None:
    (none,) = parse_model_config(text(first).replace("}\n", " model_version_policy { specific {} } }\n"))
    with pytest.raises(RequestError, match="names no version"):
        reloader.apply([none])
    assert available(serves, "first") == [1]
    fresh = Repository(configure([none]), load=load_openvino, options=EngineOptions(threads=1), observe=events)
    for _ in range(2):
        fresh.poll()
    assert not fresh.statuses("first")
    (told,) = events.named("model-version-awaited")
    assert "names no version" in str(told["message"])


def test_a_model_that_is_not_there_leaves_all_as_it_was(tmp_path: Path, serves: Repository, reloader: Reloader) -> None:
    with pytest.raises(RequestError, match="no version of it at"):
        reloader.apply([entry("second", tmp_path / "nowhere")])
    assert serves.names() == ("first",)


def test_nothing_of_a_change_is_seen_before_all_of_it_is_loaded(
    tmp_path: Path, serves: Repository, first: ModelEntry, events: Any
) -> None:
    put(first.base, 2)
    seen: list[tuple[int, list[State]]] = []

    def load(bundle: Any, options: EngineOptions) -> Any:
        seen.append((serves.find(Selector("first")).version, [one.state for one in serves.statuses("first")]))
        with pytest.raises(RequestError):
            serves.find(Selector("second"))
        return load_openvino(bundle, options)

    serves._opener = replace(serves._opener, load=load)
    reloader = Reloader(serves, configure, entries=[first], observe=events)
    reloader.apply([entry("first", first.base, latest=2), entry("second", put(tmp_path / "second", 1))])
    assert seen == [(1, [State.LOADING, State.AVAILABLE])] * 2
    assert serves.find(Selector("first")).version == 2
    assert available(serves, "second") == [1]


def test_a_reload_tries_again_what_failed_before(tmp_path: Path, serves: Repository, reloader: Reloader) -> None:
    broken = entry("second", put(tmp_path / "second", 1, content=b"no model"))
    for _ in range(2):
        with pytest.raises(RequestError, match="did not become available"):
            reloader.apply([broken])
    (broken.base / "1" / "model.onnx").write_bytes(models.onnx_model())
    reloader.apply([broken])
    assert available(serves, "second") == [1]


def test_a_version_that_was_asked_for_and_is_not_there_is_told_once(
    serves: Repository, reloader: Reloader, first: ModelEntry, events: Any
) -> None:
    reloader.apply([entry("first", first.base, specific=frozenset((1, 9)))])
    for _ in range(3):
        serves.poll()
    (told,) = events.named("model-version-awaited")
    assert "no version 9 of first" in str(told["message"])


def test_other_versions_of_a_model_replace_those_it_had_once_they_answer(
    serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    put(first.base, 2, 3)
    reloader.apply([entry("first", first.base, specific=frozenset((2, 3)))])
    assert available(serves, "first") == [3, 2]
    (first.base / "9").mkdir()
    with pytest.raises(RequestError, match="did not become available"):
        reloader.apply([entry("first", first.base, specific=frozenset((9,)))])
    assert available(serves, "first") == [3, 2]


def test_a_label_on_a_version_that_is_not_available_is_refused_and_changes_nothing(
    serves: Repository, reloader: Reloader, first: ModelEntry, events: Any
) -> None:
    with pytest.raises(RequestError) as refused:
        reloader.apply([entry("first", first.base, {"stable": 7})])
    assert refused.value.status is Status.FAILED_PRECONDITION
    assert "Request to assign label to version 7 of model first, which is not currently available" in str(refused.value)
    ahead = Reloader(serves, configure, entries=[first], observe=events, labels_ahead=True)
    ahead.apply([entry("first", first.base, {"stable": 1, "next": 7})])
    with pytest.raises(RequestError, match="Request to assign label to version 7"):
        ahead.apply([entry("first", first.base, {"stable": 7})])
    assert serves.find(Selector("first", label="stable")).version == 1


def test_a_label_on_a_version_that_would_not_stay_is_refused_and_changes_nothing(
    serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    put(first.base, 3)
    reloader.apply([entry("first", first.base, {"canary": 3}, latest=2)])
    with pytest.raises(RequestError, match="Request to assign label to version 3 of model first") as refused:
        reloader.apply([entry("first", first.base, {"canary": 3}, specific=frozenset({1}))])
    assert refused.value.status is Status.FAILED_PRECONDITION
    assert available(serves, "first") == [3, 1]
    assert serves.find(Selector("first", label="canary")).version == 3


def test_a_models_platform_does_not_change(serves: Repository, reloader: Reloader, first: ModelEntry) -> None:
    changed = ModelEntry("first", first.base, first.policy, {}, "hashmap")
    with pytest.raises(RequestError, match="Illegal to change a model's platform") as refused:
        reloader.apply([changed])
    assert refused.value.status is Status.INVALID_ARGUMENT


def test_t45_a_model_that_the_manifest_does_not_name_is_not_loaded_by_a_reload(
    tmp_path: Path, serves: Repository, first: ModelEntry, events: Any
) -> None:
    def refuse(_: Sequence[ModelEntry]) -> list[ModelConfig]:
        raise ModelNotAllowedError("the manifest does not allow it")

    with pytest.raises(RequestError, match="the manifest does not allow it") as refused:
        Reloader(serves, refuse, entries=[first], observe=events).apply([entry("second", put(tmp_path / "second", 1))])
    assert refused.value.status is Status.PERMISSION_DENIED
    assert serves.names() == ("first",)


def test_requests_are_answered_all_through_a_reload(
    tmp_path: Path, serves: Repository, reloader: Reloader, first: ModelEntry
) -> None:
    stop, failures, found = threading.Event(), [], []
    row = Tensor(1, np.ones((1, 4), np.float32))

    def ask() -> None:
        while not stop.is_set():
            try:
                served = serves.find(Selector("first"))
                served.submit("serving_default", {"x": row}, ("y",)).result(60)
                found.append(served.version)
            except QueueClosedError:  # between the two steps: whoever serves looks again
                continue
            except Exception as exc:
                failures.append(exc)

    asker = threading.Thread(target=ask)
    asker.start()
    for version in range(2, 6):
        put(first.base, version)
        reloader.apply([entry("first", first.base, specific=frozenset((version,)))])
        while version not in found and asker.is_alive() and not failures:
            time.sleep(0.005)
    stop.set()
    asker.join()
    assert not failures
    assert {2, 3, 4, 5} <= set(found)
    assert serves.find(Selector("first")).version == 5


# ---- by a call


def request(*entries: ModelEntry) -> wire.ReloadConfigRequest:
    made = wire.ReloadConfigRequest()
    for one in entries:
        model = made.config.model_config_list.config.add(
            name=one.name, base_path=str(one.base), model_platform="tensorflow"
        )
        for label, version in one.labels.items():
            model.version_labels[label] = version
    return made


async def call(
    reloader: Reloader,
    repository: Repository,
    message: Any,
    meter: Meter | None = None,
    *,
    callers: Callers | None = None,
    **more: Any,
) -> wire.ReloadConfigResponse:
    service = TfsService(Plane(repository, callers), reload=reloader.handle, meter=meter)
    surrounds = GrpcCall(METHOD, more.get("metadata", {}), more.get("certificate"), more.get("deadline"))
    return wire.ReloadConfigResponse.FromString(
        await service.handlers()[METHOD](message.SerializeToString(), surrounds)
    )


async def test_a_call_answers_when_the_new_models_do(tmp_path: Path, serves: Repository, reloader: Reloader) -> None:
    answer = await call(reloader, serves, request(entry("second", put(tmp_path / "second", 1), {"stable": 1})))
    assert answer.SerializeToString() == bytes.fromhex("0a00")  # an OK status that is present
    assert available(serves, "second") == [1]


async def test_an_empty_list_changes_nothing_and_a_call_without_one_is_refused(
    serves: Repository, reloader: Reloader
) -> None:
    empty = wire.ReloadConfigRequest()
    with pytest.raises(RequestError, match="Only ModelConfigList is currently supported") as refused:
        await call(reloader, serves, empty)
    assert refused.value.status is Status.INVALID_ARGUMENT
    empty.config.model_config_list.SetInParent()
    await call(reloader, serves, empty)
    assert available(serves, "first") == [1]


async def test_a_call_is_told_how_much_the_counters_grew_that_it_names(tmp_path: Path, first: ModelEntry) -> None:
    metrics = Metrics(dict, names=tuple, tee="")
    loading = Loading(warm=False)
    options = EngineOptions(threads=1)
    counted = Repository(
        configure([first]), load=load_openvino, options=options, observe=metrics.observe, loading=loading
    )
    counted.poll()
    message = request(first, *(entry(name, put(tmp_path / name, 1)) for name in ("second", "third")))
    attempts, unknown = "/tensorflow/cc/saved_model/load_attempt_count", "/tensorflow/nothing"
    message.metric_names.extend([attempts, unknown, attempts])
    answer = await call(
        Reloader(counted, configure, entries=[first], observe=metrics.observe), counted, message, metrics
    )
    assert [(one.name, one.int64_value_increase) for one in answer.metric] == [(attempts, 2), (unknown, 0)]
    assert metrics.total(attempts) == 3
    counted.close()


@pytest.mark.parametrize(
    ("name", "base", "text"),
    [
        ("a", "relative", "Expected model a to have an absolute path or URI; got base_path()=relative"),
        ("", "/models", "has no name"),
    ],
)
async def test_a_call_that_makes_no_sense_is_refused_before_anything_is_loaded(
    serves: Repository, reloader: Reloader, name: str, base: str, text: str
) -> None:
    message = request(entry(name, Path(base)))
    with pytest.raises(RequestError) as refused:
        await call(reloader, serves, message)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert text in str(refused.value)


async def test_a_model_listed_twice_and_a_foreign_configuration_are_refused(
    tmp_path: Path, serves: Repository, reloader: Reloader
) -> None:
    twice = request(*[entry("a", tmp_path)] * 2)
    with pytest.raises(RequestError, match="Illegal to list model a multiple times in config list"):
        await call(reloader, serves, twice)
    foreign = wire.ReloadConfigRequest()
    foreign.config.custom_model_config.type_url = "x"
    with pytest.raises(RequestError, match="Only ModelConfigList is currently supported"):
        await call(reloader, serves, foreign)


async def test_a_call_whose_deadline_passes_is_told_so_and_its_models_come_all_the_same(
    tmp_path: Path, serves: Repository, reloader: Reloader
) -> None:
    with serves._busy, pytest.raises(RequestError) as refused:  # so that it is not done before
        await call(reloader, serves, request(entry("second", put(tmp_path / "second", 1))), deadline=0.01)
    assert refused.value.status is Status.DEADLINE_EXCEEDED
    async with asyncio.timeout(60):
        while available(serves, "second") != [1]:
            await asyncio.sleep(0.02)


async def test_t47_a_reload_is_off_under_a_manifest_but_for_a_client_that_it_names(
    tmp_path: Path, serves: Repository, reloader: Reloader
) -> None:
    import hashlib

    message = request(entry("second", put(tmp_path / "second", 1)))
    with pytest.raises(RequestError, match="management is off") as refused:
        await call(reloader, serves, message, callers=Callers(anybody_manages=False))
    assert refused.value.status is Status.PERMISSION_DENIED
    named = Client("operator", certificate=hashlib.sha256(b"DER").digest(), manages=True)
    callers = Callers([named], anybody_manages=False)
    for certificate in (None, b"another"):
        with pytest.raises(RequestError) as refused:
            await call(reloader, serves, message, callers=callers, certificate=certificate)
        assert refused.value.status is Status.UNAUTHENTICATED
    assert available(serves, "first") == [1]
    await call(reloader, serves, message, callers=callers, certificate=b"DER")
    assert available(serves, "second") == [1]


async def test_a_call_that_is_cancelled_goes_on_and_its_failure_is_told(
    tmp_path: Path, serves: Repository, reloader: Reloader, events: Any
) -> None:
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    broken = request(entry("second", put(tmp_path / "second", 1, content=b"no model")))
    with serves._busy:
        task = asyncio.ensure_future(call(reloader, serves, broken))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(60):
        while not events.named("config-failed"):
            await asyncio.sleep(0.02)
    del task
    gc.collect()
    assert "did not become available" in str(events.named("config-failed")[0]["error"])
    assert not unseen


def test_the_end_waits_neither_for_a_call_that_loads_nor_for_its_lock(serves: Repository) -> None:
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        with serves._busy:
            begun.set()
            end.wait(600)

    async def ask() -> None:
        start_managing(work)
        await asyncio.to_thread(begun.wait, 60)

    began = time.monotonic()
    asyncio.run(ask())
    serves.close(patience=0.05)
    took = time.monotonic() - began
    (thread,) = [one for one in threading.enumerate() if one.name == STORAGE_THREAD]
    end.set()
    thread.join()
    assert thread.daemon
    assert took < 60
    assert available(serves, "first") == [1]


def test_what_is_served_from_now_on_is_told_once_it_is(
    tmp_path: Path, serves: Repository, first: ModelEntry, events: Any
) -> None:
    told: list[str] = []
    reloader = Reloader(
        serves, configure, entries=[first], observe=events, applied=lambda found: told.extend(one.name for one in found)
    )
    with pytest.raises(RequestError):
        reloader.apply([entry("second", tmp_path / "nowhere")])
    assert not told
    reloader.apply([first])
    assert told == ["first"]


def test_a_model_of_the_command_line_has_the_platform_that_calls_name(
    serves: Repository, first: ModelEntry, events: Any
) -> None:
    (started,) = list_entries(parse_flags(["--model_name=first", f"--model_base_path={first.base}"]))
    reloader = Reloader(serves, configure, entries=[started], observe=events)
    reloader.apply([first])
    (silent,) = parse_model_config(f'model_config_list {{ config {{ name: "first" base_path: "{first.base}" }} }}')
    reloader.apply([silent])
    assert available(serves, "first") == [1]


# ---- by a file


def text(*entries: ModelEntry) -> str:
    return (
        "model_config_list {"
        + "".join(
            f'config {{ name: "{one.name}" base_path: "{one.base}" model_platform: "tensorflow" }}\n' for one in entries
        )
        + "}"
    )


def test_a_file_that_changes_is_put_into_force_and_a_bad_one_is_told_once(
    tmp_path: Path, serves: Repository, reloader: Reloader, first: ModelEntry, events: Any
) -> None:
    path, stop = tmp_path / "models.config", threading.Event()
    path.write_text(text(first))
    second = entry("second", put(tmp_path / "second", 1))
    follower = threading.Thread(
        target=reloader.follow, args=(path, stop), kwargs={"interval": 0.02, "known": path.read_text()}
    )
    follower.start()

    def wait_for(event: str, count: int) -> None:
        for _ in range(3000):
            if len(events.named(event)) >= count:
                return
            stop.wait(0.02)
        raise AssertionError(event)

    try:
        path.write_text("no configuration")
        wait_for("config-failed", 1)
        path.write_text("")
        stop.wait(0.1)
        assert len(events.named("config-failed")) == 1
        assert "Error parsing text-format" in str(events.named("config-failed")[0]["error"])
        assert available(serves, "first") == [1]
        path.write_text(text(first, second))
        wait_for("config-reloaded", 1)
        assert available(serves, "second") == [1]
        path.write_text(text(second))
        wait_for("config-reloaded", 2)
        assert [one.state for one in serves.statuses("first")] == [State.END]
    finally:
        stop.set()
        follower.join()


def test_a_version_that_failed_is_tried_again_a_few_times_without_a_change(tmp_path: Path, events: Any) -> None:
    base = put(tmp_path / "m", 1, content=b"no model")
    repository = Repository(
        configure([entry("m", base)]),
        load=load_openvino,
        options=EngineOptions(threads=1),
        observe=events,
        loading=Loading(retries=2, pause=0.0),
    )
    for _ in range(5):
        repository.poll()
    assert len(events.named("model-failed")) == 3
    assert repository.statuses("m")[0].state is State.END
    repository.close()
