"""`tacit model push`: a file reaches the pod's volume whole, or not at all."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from fakes.cluster import FakeCluster
from fakes.command_line import run_main
from fakes.pods import NAME, NAMESPACE, FakePods, pod_of, volume
from tacit.cli.model import push as pushing
from tacit.cli.model.push import ATTEMPTS, PIECE, Pushed, find_storage, push
from tacit.errors import ClusterAccessError, ClusterError, FileInputError, InputError
from tacit.vault import seal_folder

MODEL = os.urandom(3 * PIECE + 1234)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "it's a model.capsule"  # a name that a shell would trip over
    path.write_bytes(MODEL)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pushing, "PAUSE", 0.0)
    return volume(tmp_path / "volume")


async def pushed(cluster: FakePods, model: Path, folder: Path, steps: list[tuple[int, int]] | None = None) -> Pushed:
    def note(done: int, total: int) -> None:
        if steps is not None:
            steps.append((done, total))

    return await push(cluster, model, pod_of(cluster), PurePosixPath(folder), progress=note)


async def test_a_file_arrives_whole_and_its_hash_is_compared_in_the_pod(model: Path, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    done = await pushed(FakePods(), model, folder, steps)
    assert (folder / model.name).read_bytes() == MODEL
    assert [path.name for path in folder.iterdir()] == [model.name]
    assert (done.size, done.sha256, done.resumed) == (len(MODEL), hashlib.sha256(MODEL).hexdigest(), 0)
    assert steps[0] == (0, len(MODEL))
    assert steps[-1] == (len(MODEL), len(MODEL))
    assert steps == sorted(steps)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
async def test_every_size_arrives(tmp_path: Path, folder: Path, size: int) -> None:
    path = tmp_path / "model.encrypted"
    path.write_bytes(MODEL[:size])
    await pushed(FakePods(), path, folder)
    assert (folder / path.name).read_bytes() == MODEL[:size]


async def test_what_is_there_is_not_sent_again(model: Path, folder: Path) -> None:
    await pushed(FakePods(), model, folder)
    again = FakePods()
    done = await pushed(again, model, folder)
    assert (again.sent, done.resumed) == (0, len(MODEL))


async def test_a_connection_that_breaks_off_is_taken_up_again(model: Path, folder: Path) -> None:
    cluster = FakePods()
    cluster.breaks = [2, 1]
    await pushed(cluster, model, folder)
    assert (folder / model.name).read_bytes() == MODEL
    assert cluster.sent == len(MODEL)


async def test_after_too_many_breaks_it_ends_and_the_next_command_goes_on(model: Path, folder: Path) -> None:
    cluster = FakePods()
    cluster.breaks = [1] + [0] * (ATTEMPTS - 1)
    with pytest.raises(ClusterAccessError, match="broke off"):
        await pushed(cluster, model, folder)
    assert not (folder / model.name).exists()
    done = await pushed(cluster, model, folder)
    assert (done.resumed, cluster.sent) == (PIECE, len(MODEL))


async def test_a_part_that_somebody_altered_is_removed_and_never_gets_the_name(model: Path, folder: Path) -> None:
    cluster = FakePods()
    cluster.breaks = [1] + [0] * (ATTEMPTS - 1)
    with pytest.raises(ClusterAccessError):
        await pushed(cluster, model, folder)
    (part,) = folder.iterdir()
    part.write_bytes(b"\0" + part.read_bytes()[1:])
    with pytest.raises(ClusterError, match="what arrived in the pod has SHA-256"):
        await pushed(FakePods(), model, folder)
    assert not list(folder.iterdir())
    await pushed(FakePods(), model, folder)
    assert (folder / model.name).read_bytes() == MODEL


async def test_another_file_does_not_go_on_where_this_one_stopped(model: Path, folder: Path) -> None:
    cluster = FakePods()
    cluster.breaks = [1] + [0] * (ATTEMPTS - 1)
    with pytest.raises(ClusterAccessError):
        await pushed(cluster, model, folder)
    model.write_bytes(MODEL[::-1])
    await pushed(FakePods(), model, folder)
    assert (folder / model.name).read_bytes() == MODEL[::-1]


async def test_an_older_model_of_the_name_is_replaced_at_once(model: Path, folder: Path) -> None:
    (folder / model.name).write_bytes(b"older")
    await pushed(FakePods(), model, folder)
    assert (folder / model.name).read_bytes() == MODEL


async def test_a_volume_that_cannot_be_written_is_named_with_the_pods_own_words(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="the pod cannot take the file: .*(cannot create|No such|nonexistent)"):
        await pushed(FakePods(), model, tmp_path / "nowhere")


async def test_a_file_that_is_not_there_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileInputError, match="gone.capsule cannot be read"):
        await pushed(FakePods(), tmp_path / "gone.capsule", folder)


async def test_a_namespace_without_the_pod_says_what_makes_it() -> None:
    with pytest.raises(InputError, match="no pod tf-server in the namespace elsewhere; the chart tacit-serve makes it"):
        await find_storage(FakeCluster(), NAME, "elsewhere")


async def test_a_pod_that_does_not_run_yet_is_named_with_its_phase() -> None:
    with pytest.raises(ClusterError, match="tensorflow/tf-server is Pending and not Running"):
        await find_storage(FakePods("Pending"), NAME, NAMESPACE)


def test_a_plain_model_is_not_pushed_by_accident() -> None:
    done = run_main("model", "push", "model.onnx", "--kube")
    assert done.code == 2
    assert "tacit model encrypt" in done.err


def test_a_plain_model_by_the_name_of_a_capsule_is_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "m.capsule").write_bytes(b"weights that nobody may read " * 10)
    done = run_main("model", "push", tmp_path / "m.capsule")
    assert (done.code, "m.capsule: this is no capsule" in done.err) == (1, True)


def test_a_capsule_that_was_cut_is_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(MODEL)
    seal_folder(tmp_path / "m.onnx", tmp_path / "m.capsule", bytes(32), name="m", version=1)
    os.truncate(tmp_path / "m.capsule", PIECE)
    assert "m.capsule: the capsule's end is damaged" in run_main("model", "push", tmp_path / "m.capsule").err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: Path(path).touch()])
def test_what_is_no_file_is_told_before_a_cluster_is_asked(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "m.encrypted")
    assert "an encrypted model was expected" in run_main("model", "push", tmp_path / "m.encrypted").err


async def test_a_name_of_the_longest_kind_arrives(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / ("ä" * 123 + ".capsule")
    path.write_bytes(MODEL)
    await pushed(FakePods(), path, folder)
    assert (folder / path.name).read_bytes() == MODEL
