"""Versions in a storage: how they come, fail, wait and go."""

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import models
from tacit.errors import (
    CapsuleKeyError,
    FileInputError,
    InputError,
    ModelNotAllowedError,
    RequestError,
    Status,
    UsageError,
)
from tacit.serving import sources
from tacit.serving.bundle import Bundle, MemoryBundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.loading.opening import Loading
from tacit.serving.plane import Selector, State
from tacit.serving.repository import ModelConfig, Repository, VersionPolicy
from tacit.serving.sources import (
    Access,
    CapsuleBundle,
    FolderBundle,
    Format,
    ModelRule,
    list_sources,
    load_key,
    open_source,
    parse_rules,
)
from tacit.vault import files, open_capsule, seal_folder
from tacit.vault.files import encrypt_ctr
from tacit.wire.tensor import Tensor

KEY = bytes(range(32))


def plain(base: Path, **more: Any) -> ModelConfig:
    return ModelConfig(base, Access("m", Format.PLAIN, more.pop("rule", None)), **more)


def sealed(
    base: Path, rule: ModelRule | None = None, key: bytes = KEY, storage: Format = Format.CAPSULE
) -> ModelConfig:
    return ModelConfig(base, Access("m", storage, rule, key))


def put(base: Path, version: int | str, weights: np.ndarray = models.WEIGHTS) -> None:
    folder = base / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.onnx_model(weights))


def seal(tmp_path: Path, target: Path, *, version: int = 1, name: str = "m", content: bytes | None = None) -> bytes:
    source = tmp_path / f"source-{target.stem}-{version}"
    source.mkdir()
    (source / "model.onnx").write_bytes(content or models.onnx_model())
    target.parent.mkdir(parents=True, exist_ok=True)
    return seal_folder(source, target, KEY, name=name, version=version).id


def states(repository: Repository) -> dict[int, State]:
    return {status.version: status.state for status in repository.statuses("m")}


def answer(repository: Repository, version: int | None = None) -> np.ndarray:
    served = repository.find(Selector("m", version))
    future = served.submit("serving_default", {"x": Tensor(1, np.ones((1, 4), np.float32))}, ("y",))
    return future.result(60)["y"].array


def test_the_latest_version_is_served_and_other_names_are_ignored(tmp_path: Path, make_repository: Any) -> None:
    put(tmp_path, "00000002")
    put(tmp_path, 1)
    put(tmp_path, "three")
    repository = make_repository(plain(tmp_path))
    repository.poll()
    assert states(repository) == {2: State.AVAILABLE}
    assert repository.ready


def test_two_names_of_one_version_are_told_of_once_and_one_is_served(
    tmp_path: Path, make_repository: Any, events: Any
) -> None:
    for name in ("5", "0005", "005"):
        put(tmp_path, name)
    repository = make_repository(plain(tmp_path))
    for _ in range(3):
        repository.poll()
    assert states(repository) == {5: State.AVAILABLE}
    assert [event["path"] for event in events.named("model-available")] == [str(tmp_path / "5")]
    (told,) = events.named("model-version-twice")
    assert told["message"] == f"0005, 005 of m at {tmp_path} is passed over: 5 is version 5 already"


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        (VersionPolicy(latest=2), {3, 2}),
        (VersionPolicy(latest=0), {1, 2, 3}),
        (VersionPolicy(specific=frozenset({1})), {1}),
    ],
)
def test_a_policy_chooses_versions(
    tmp_path: Path, make_repository: Any, policy: VersionPolicy, versions: set[int]
) -> None:
    for version in (1, 2, 3):
        put(tmp_path, version)
    repository = make_repository(plain(tmp_path, policy=policy, labels={"stable": 1}))
    repository.poll()
    assert set(states(repository)) == versions
    if 1 in versions:
        assert repository.find(Selector("m", label="stable")).version == 1


def test_a_newer_version_takes_over_and_the_older_one_is_unloaded(tmp_path: Path, make_repository: Any) -> None:
    put(tmp_path, 1)
    repository = make_repository(plain(tmp_path))
    repository.poll()
    held = repository.find(Selector("m"))
    put(tmp_path, 2, models.WEIGHTS * 2)
    repository.poll()
    assert states(repository) == {2: State.AVAILABLE, 1: State.END}
    np.testing.assert_allclose(answer(repository), models.WEIGHTS.sum(axis=0)[None] * 2, rtol=1e-6)
    assert held.version == 1
    with pytest.raises(RequestError) as refused:
        repository.find(Selector("m", 1))
    assert (refused.value.status, str(refused.value)) == (
        Status.NOT_FOUND,
        "Servable not found for request: Specific(m, 1)",
    )


def test_a_version_that_fails_never_takes_a_good_one_down(tmp_path: Path, make_repository: Any, events: Any) -> None:
    put(tmp_path, 1)
    repository = make_repository(plain(tmp_path))
    repository.poll()
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "model.onnx").write_bytes(b"half an upload")
    shutil.rmtree(tmp_path / "1")
    repository.poll()
    repository.poll()
    assert states(repository) == {2: State.END, 1: State.AVAILABLE}
    assert answer(repository).shape == (1, 3)
    assert len(events.named("model-failed")) == 1  # not tried again while its files are the same
    failed = repository.statuses("m")[0]
    assert (failed.code, bool(failed.message)) == (Status.INVALID_ARGUMENT, True)
    (tmp_path / "2" / "model.onnx").write_bytes(models.onnx_model())
    repository.poll()
    assert states(repository) == {2: State.AVAILABLE, 1: State.END}


@pytest.mark.parametrize("latest", [0, 1])
def test_a_version_that_cannot_be_looked_through_keeps_no_other_from_being_served(
    tmp_path: Path, make_repository: Any, monkeypatch: pytest.MonkeyPatch, latest: int
) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 1)
    for version in (1, 2):
        put(tmp_path, version)
    (tmp_path / "1" / "more").touch()
    repository = make_repository(plain(tmp_path, policy=VersionPolicy(latest=latest)))
    repository.poll()
    assert states(repository) == {2: State.AVAILABLE} | ({} if latest else {1: State.END})
    if not latest:
        assert "holds more than 1 files" in repository.statuses("m")[1].message


def test_nothing_is_called_unknown_before_everything_was_looked_for(tmp_path: Path, make_repository: Any) -> None:
    put(tmp_path, 1)
    repository = make_repository(plain(tmp_path))
    for asked in (Selector("m"), Selector("m", 2), Selector("other")):
        with pytest.raises(RequestError, match="being loaded for the first time; ask again soon") as early:
            repository.find(asked)
        assert early.value.status is Status.UNAVAILABLE
    repository.poll()
    assert repository.find(Selector("m")).version == 1
    for asked in (Selector("m", 2), Selector("other")):
        with pytest.raises(RequestError, match="Servable not found") as late:
            repository.find(asked)
        assert late.value.status is Status.NOT_FOUND


def test_what_is_loaded_is_looked_into_no_more(
    tmp_path: Path, make_repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 2)
    repository = make_repository(plain(tmp_path))
    repository.poll()
    seen: list[Path] = []

    def stamp(path: Path) -> tuple[()]:
        seen.append(path)
        return ()

    monkeypatch.setattr(sources, "_stamp", stamp)
    put(tmp_path, 1)
    repository.poll()
    assert seen == []
    put(tmp_path, 3)
    repository.poll()
    assert seen == [tmp_path / "3"]


def test_a_model_that_has_not_arrived_is_waited_for_and_that_is_said_once(
    tmp_path: Path, make_repository: Any, events: Any
) -> None:
    capsule = tmp_path / "later" / "m.capsule"
    repository = make_repository(sealed(capsule))
    repository.poll()
    repository.poll()
    assert not repository.ready
    assert len(events.named("model-awaited")) == 1
    with pytest.raises(RequestError) as refused:
        repository.find(Selector("m"))
    assert str(refused.value) == "Servable not found for request: Latest(m)"
    seal(tmp_path, capsule, version=4)
    repository.poll()
    assert states(repository) == {4: State.AVAILABLE}


@pytest.mark.parametrize("name", ["model.onnx", "saved_model.pb"])
def test_a_version_that_kubernetes_mounts_is_one_model(tmp_path: Path, make_repository: Any, name: str) -> None:
    held = tmp_path / "1" / "..2026_11_26"
    held.mkdir(parents=True)
    (held / name).write_bytes(models.onnx_model() if name == "model.onnx" else models.saved_model())
    (tmp_path / "1" / "..data").symlink_to(held.name)
    (tmp_path / "1" / name).symlink_to(f"..data/{name}")
    repository = make_repository(plain(tmp_path))
    repository.poll()
    assert states(repository) == {1: State.AVAILABLE}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "saved_model.pb",
            "saved_model.pb lies in it directly; put it into a folder whose name is its version's number",
        ),
        ("m/1/model.onnx", "expected a folder whose name is a version's number, as {base}/1/, with the model in it"),
        ("", "there is no such path"),
    ],
)
def test_where_no_version_is_the_log_says_what_to_do(
    tmp_path: Path, make_repository: Any, events: Any, name: str, told: str
) -> None:
    base = tmp_path / "base"
    if name:
        (base / name).parent.mkdir(parents=True)
        (base / name).write_bytes(b"")
    make_repository(plain(base)).poll()
    (awaited,) = events.named("model-awaited")
    assert str(awaited["message"]).endswith("; waiting for it")
    begin = f"no version of m (plain) at {base} yet: "
    assert str(awaited["message"]).startswith(begin + told.format(base=base))


def test_removing_all_versions_unloads_the_model_but_a_lost_storage_does_not_and_is_told_each_time_it_is_lost(
    tmp_path: Path, make_repository: Any, events: Any
) -> None:
    base = tmp_path / "base"
    put(base, 1)
    repository = make_repository(plain(base))
    repository.poll()
    for times in (1, 2):
        base.rename(tmp_path / "away")
        repository.poll()
        repository.poll()
        assert states(repository) == {1: State.AVAILABLE}
        assert len(events.named("model-storage-failed")) == times
        (tmp_path / "away").rename(base)
        repository.poll()
    shutil.rmtree(base)
    base.mkdir()
    repository.poll()
    assert states(repository) == {1: State.END}


@pytest.mark.parametrize("place", ["m.capsule", "7.capsule", "7/any.capsule"])
def test_a_capsule_is_found_as_file_as_number_and_in_a_folder(tmp_path: Path, make_repository: Any, place: str) -> None:
    base = tmp_path / "base"
    seal(tmp_path, base / place, version=7)
    (base / place).with_name("._m.capsule").write_bytes(b"what an archive left beside it")
    repository = make_repository(sealed(base / place if place == "m.capsule" else base))
    repository.poll()
    assert states(repository) == {7: State.AVAILABLE}


@pytest.mark.parametrize("place", ["model.onnx.encrypted", "1.encrypted", "1/model.onnx.encrypted"])
def test_the_demos_encrypted_file_is_opened_in_memory(tmp_path: Path, make_repository: Any, place: str) -> None:
    (tmp_path / "model.onnx").write_bytes(models.onnx_model())
    base = tmp_path / "encrypted"
    target = base / place
    target.parent.mkdir(parents=True)
    encrypt_ctr(tmp_path / "model.onnx", target, KEY, iv=bytes(16))
    repository = make_repository(sealed(target if place.startswith("model") else base, storage=Format.CTR))
    repository.poll()
    expected = State.END if place == "1.encrypted" else State.AVAILABLE  # that name does not say which kind of model
    assert states(repository) == {1: expected}


def test_another_capsule_than_the_manifest_names_is_not_loaded(tmp_path: Path, make_repository: Any) -> None:
    base = tmp_path / "m.capsule"
    identity = seal(tmp_path, base, version=3)
    good = ModelRule(Format.CAPSULE, identity, 3)
    repository = make_repository(sealed(base, good))
    repository.poll()
    assert repository.ready
    for rule in (ModelRule(Format.CAPSULE, bytes(32)), ModelRule(Format.CAPSULE, identity, 4)):
        other = make_repository(sealed(base, rule))
        other.poll()
        (status,) = other.statuses("m")
        assert (status.state, status.code) == (State.END, Status.PERMISSION_DENIED)


def test_t45_a_capsule_under_another_number_or_name_is_not_loaded(tmp_path: Path) -> None:
    base = tmp_path / "base"
    seal(tmp_path, base / "9.capsule", version=5)
    config = sealed(base)
    (source,) = list_sources(base, config.access)
    with pytest.raises(ModelNotAllowedError, match="sealed as version 5"):
        open_source(source, config.access)
    seal(tmp_path, base / "5.capsule", version=5, name="another")
    config = sealed(base, ModelRule(Format.CAPSULE))
    source = next(s for s in list_sources(base, config.access) if s.version == 5)
    with pytest.raises(ModelNotAllowedError, match="sealed as model 'another'"):
        open_source(source, config.access)


def test_t45_plain_and_ctr_files_are_held_to_their_digests(tmp_path: Path) -> None:
    put(tmp_path, 1)
    content = (tmp_path / "1" / "model.onnx").read_bytes()
    name = b"model.onnx"
    digest = hashlib.sha256(len(name).to_bytes(8, "big") + name + hashlib.sha256(content).digest()).digest()
    allowed = plain(tmp_path, rule=ModelRule(Format.PLAIN, digest))
    (source,) = list_sources(tmp_path, allowed.access)
    assert open_source(source, allowed.access).place is None  # what was hashed is what is loaded
    (tmp_path / "1" / "model.onnx").write_bytes(models.onnx_model(models.WEIGHTS + 1))
    with pytest.raises(ModelNotAllowedError):
        open_source(source, allowed.access)
    encrypted = tmp_path / "a.onnx.encrypted"
    encrypt_ctr(tmp_path / "1" / "model.onnx", encrypted, KEY, iv=bytes(16))
    good = sealed(encrypted, ModelRule(Format.CTR, hashlib.sha256(encrypted.read_bytes()).digest()), storage=Format.CTR)
    (source,) = list_sources(encrypted, good.access)
    assert open_source(source, good.access).names == ("a.onnx",)
    altered = bytearray(encrypted.read_bytes())
    altered[100] ^= 1
    encrypted.write_bytes(altered)
    with pytest.raises(ModelNotAllowedError):
        open_source(source, good.access)


def test_a_wrong_key_ends_the_version_with_the_reason(tmp_path: Path, make_repository: Any, events: Any) -> None:
    seal(tmp_path, tmp_path / "m.capsule")
    repository = make_repository(sealed(tmp_path / "m.capsule", key=bytes(32)))
    repository.poll()
    (failed,) = events.named("model-failed")
    assert failed["reason"] == CapsuleKeyError.reason
    assert KEY.hex() not in str(events)


def test_the_format_is_never_tried_out(tmp_path: Path, make_repository: Any) -> None:
    put(tmp_path, 2)
    seal(tmp_path, tmp_path / "1.capsule", version=1)
    repository = make_repository(sealed(tmp_path))
    repository.poll()
    assert states(repository) == {1: State.AVAILABLE}


CANARY = np.full((64, 64), np.frombuffer(b"\xca\x11\xa5\x7e", np.float32)[0])
CANARY_BYTES = CANARY.tobytes()[:1024]


def files_below(folders: Iterable[Path]) -> Iterable[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize(
    "contents",
    [{"model.onnx": models.onnx_model(CANARY)}, {"saved_model.pb": models.saved_model(CANARY)}],
    ids=["onnx", "saved_model"],
)
def test_t46_the_plaintext_of_a_sealed_model_is_on_no_disk(
    tmp_path: Path, memory: Path, make_repository: Any, contents: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, shelf = tmp_path / "source", tmp_path / "shelf"
    source.mkdir()
    for name, content in contents.items():
        assert CANARY_BYTES in content
        (source / name).write_bytes(content)
    shelf.mkdir()
    seal_folder(source, shelf / "m.capsule", KEY, name="m", version=1)
    shutil.rmtree(source)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(home)
    written: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(arguments[0])

    sys.addaudithook(watch)
    repository = make_repository(sealed(shelf / "m.capsule"), staging=memory)
    repository.poll()
    served = repository.find(Selector("m"))
    alias = next(iter(served.signatures["serving_default"].inputs))
    output = next(iter(served.signatures["serving_default"].outputs))
    inputs = {alias: Tensor(1, np.ones((1, 64), np.float32))}
    served.submit("serving_default", inputs, (output,)).result(60)
    watching = False
    assert all(path.startswith(f"{memory}/") for path in written)
    assert not list(home.iterdir())
    for path in files_below([tmp_path, memory]):
        assert CANARY_BYTES not in path.read_bytes()


def test_rules_are_read_as_a_coordinator_writes_them() -> None:
    text = '{"m":{"format":"capsule","id":"' + "ab" * 32 + '","minVersion":3,"key":"k"}}'
    assert parse_rules(text) == {"m": ModelRule(Format.CAPSULE, bytes.fromhex("ab" * 32), 3)}
    for bad in (
        "",
        "[]",
        '{"m":{"format":"other"}}',
        '{"m":{"format":"capsule","id":"zz"}}',
        '{"m":{"format":"ctr","x":1}}',
    ):
        with pytest.raises(UsageError):
            parse_rules(bad)


def test_a_key_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(KEY)
    assert load_key(path) == KEY
    assert "key" not in repr(Access("m", Format.CAPSULE, None, KEY))
    path.write_bytes(bytes(5000))
    with pytest.raises(FileInputError):
        load_key(path)
    with pytest.raises(FileInputError):
        load_key(tmp_path / "none")
    path.write_bytes(b"short")
    with pytest.raises(InputError, match=f"^{path}: the key is neither 32 raw bytes nor base64"):
        load_key(path)


def test_a_file_that_still_grows_is_loaded_once_it_is_whole(tmp_path: Path, make_repository: Any) -> None:
    target = tmp_path / "shelf" / "m.capsule"
    seal(tmp_path, target)
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    repository = make_repository(sealed(target))
    repository.poll()
    assert not repository.ready
    target.write_bytes(whole)
    repository.poll()
    assert repository.ready
    with open_capsule(target, KEY) as capsule:
        assert capsule.info.version == 1


@pytest.mark.parametrize("failure", [ValueError("x"), MemoryError(), OSError(5, "Input/output error")])
def test_no_failure_of_one_model_stops_the_others(tmp_path: Path, events: Any, failure: Exception) -> None:
    put(tmp_path / "good", 1)
    put(tmp_path / "bad", 1)

    def load(bundle: Bundle, options: EngineOptions) -> Engine:
        if isinstance(bundle.place, Path) and "bad" in str(bundle.place):
            raise failure
        return load_openvino(bundle, options)

    configs = [ModelConfig(tmp_path / name, Access(name, Format.PLAIN)) for name in ("bad", "good")]
    repository = Repository(configs, load=load, options=EngineOptions(threads=1), observe=events)
    repository.poll()
    assert repository.statuses("bad")[0].state is State.END
    assert repository.statuses("good")[0].state is State.AVAILABLE
    assert not repository.ready
    repository.close()


@pytest.mark.parametrize("storage", ["folder", "memory", "capsule"])
def test_a_bundle_reads_into_memory_that_it_is_given(tmp_path: Path, storage: str) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "a").write_bytes(b"content")
    if storage == "memory":
        bundle: Bundle = MemoryBundle({"a": b"content"})
    elif storage == "folder":
        bundle = FolderBundle(folder, ("a",))
    else:
        seal_folder(folder, tmp_path / "m.capsule", KEY, name="m", version=1)
        bundle = CapsuleBundle(open_capsule(tmp_path / "m.capsule", KEY))
    target = bytearray(bundle.size("a"))
    bundle.read_into("a", memoryview(target))
    bundle.close()
    assert target == b"content" == bytes(bundle.read("a") if storage != "capsule" else target)


def test_a_plain_file_that_grew_meanwhile_is_not_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(FileInputError, match="changed while it was read"):
        FolderBundle(tmp_path, ("a",)).read_into("a", memoryview(bytearray(3)))


def test_a_file_that_is_no_model_is_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"something")
    with pytest.raises(FileInputError, match=r"weights\.bin is a file and no plain model; expected \.onnx or"):
        list_sources(tmp_path / "weights.bin", Access("m", Format.PLAIN))


# ---- a storage that is looked at once, or never


@contextmanager
def running(repository: Repository, interval: int) -> Iterator[threading.Event]:
    """Yields what is set once the repository has announced that it is ready."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=repository.run, args=(stop,), kwargs={"interval": interval, "announce": ready.set})
    thread.start()
    try:
        yield ready
    finally:
        stop.set()
        thread.join(60)
        repository.close()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_failed_is_tried_again_and_what_is_new_stays_unseen_where_the_storage_is_looked_at_once(
    tmp_path: Path, events: Any
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"half an upload")
    repository = Repository(
        [plain(tmp_path)],
        load=load_openvino,
        options=EngineOptions(threads=1),
        observe=events,
        loading=Loading(retries=1000, pause=0.05),
    )
    with running(repository, 0) as ready:
        wait_until(lambda: len(events.named("model-failed")) > 1)
        assert not ready.is_set()
        put(tmp_path, 2)
        (tmp_path / "1" / "model.onnx").write_bytes(models.onnx_model())
        assert ready.wait(60)
        assert states(repository) == {1: State.AVAILABLE}


def test_a_model_that_a_call_brings_makes_ready_where_the_storage_is_looked_at_once(
    tmp_path: Path, make_repository: Any, events: Any
) -> None:
    repository = make_repository(plain(tmp_path / "nowhere"))
    put(tmp_path, 1)
    with running(repository, 0) as ready:
        wait_until(lambda: events.named("model-awaited"))
        repository.reload([plain(tmp_path)])
        assert ready.wait(60)
    (awaited,) = events.named("model-awaited")
    assert str(awaited["message"]).endswith("no such path; the storage is looked at once, so ask for it by a call")


def test_a_call_for_a_model_that_is_not_there_says_what_is_missing(tmp_path: Path, make_repository: Any) -> None:
    repository = make_repository(plain(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match="failed to load m: it has no version yet: there is no such path"):
        repository.load_model("m")


def test_a_storage_that_is_never_looked_at_gives_its_models_when_a_call_asks_for_them(
    tmp_path: Path, make_repository: Any
) -> None:
    put(tmp_path, 1)
    repository = make_repository(plain(tmp_path))
    with running(repository, -1) as ready:
        assert not ready.wait(0.2)
        assert states(repository) == {}
        repository.load_model("m")
        assert ready.wait(60)
        assert states(repository) == {1: State.AVAILABLE}


def test_a_model_that_was_unloaded_on_request_is_not_asked_for_beside_another(tmp_path: Path, events: Any) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, 1)
    configs = [ModelConfig(tmp_path / name, Access(name, Format.PLAIN)) for name in ("a", "b")]
    repository = Repository(configs, load=load_openvino, options=EngineOptions(threads=1), observe=events)
    assert not repository.ready
    repository.poll()
    for name, ready in (("a", True), ("b", False)):
        repository.unload_model(name)
        assert repository.ready is ready
    repository.load_model("a")
    assert repository.ready
    repository.close()
