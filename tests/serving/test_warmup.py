"""One run on zeros before a version answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import models
from tacit.errors import RequestError
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.batching import Statistics
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.openvino import OpenVinoEngine, load_openvino
from tacit.serving.loading.opening import Loading
from tacit.serving.loading.warmup import MAX_INPUTS, zeros_for
from tacit.serving.plane import Selector, State
from tacit.serving.repository import ModelConfig, Repository
from tacit.serving.sources import Access, Format
from tacit.wire.tensor import Tensor


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(models.onnx_model())
    return ModelConfig(tmp_path, Access("m", Format.PLAIN))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Inputs of every call of the engine, in their order."""
    calls: list[dict[str, Tensor]] = []
    infer = OpenVinoEngine.infer

    def remember(engine: OpenVinoEngine, signature: str, inputs: Any, outputs: Any) -> Any:
        calls.append(inputs)
        return infer(engine, signature, inputs, outputs)

    monkeypatch.setattr(OpenVinoEngine, "infer", remember)
    return calls


def spec(dtype: int, *shape: int) -> TensorSpec:
    return TensorSpec("x:0", dtype, shape)


def test_free_sizes_are_one() -> None:
    signature = Signature({"x": spec(1, -1, 4), "n": spec(9), "u": TensorSpec("u:0", 3, None)}, {})
    made = zeros_for(signature)
    assert {alias: tensor.shape for alias, tensor in made.items()} == {"x": (1, 4), "n": (), "u": (1,)}
    assert not any(np.any(tensor.array) for tensor in made.values())


def test_t44_a_signature_that_spells_gigabytes_takes_no_memory() -> None:
    with pytest.raises(RequestError, match="would take"):
        zeros_for(Signature({"x": spec(1, MAX_INPUTS, 1 << 20)}, {}))


def test_a_version_runs_on_zeros_before_it_is_available(
    config: ModelConfig, make_repository: Any, events: Any, ran: list[dict[str, Tensor]]
) -> None:
    repository = make_repository(config)
    repository.poll()
    assert {inputs["x"].shape for inputs in ran} == {(1, 4)}
    assert not events.named("model-cold")


def test_what_a_version_ran_before_it_answered_is_in_no_statistics(
    config: ModelConfig, make_repository: Any, ran: list[dict[str, Tensor]]
) -> None:
    repository = make_repository(config)
    repository.poll()
    served = repository.find(Selector("m"))
    assert ran
    assert served.statistics == Statistics()
    assert repository.queued("m").count == 0
    inputs = {"x": Tensor(1, np.ones((3, 4), np.float32))}
    served.submit("serving_default", inputs, ["y"]).result(60)
    done = served.statistics
    assert (done.success.count, done.inferences, done.executions, sorted(done.runs)) == (1, 3, 1, [3])


def test_a_version_that_fails_on_zeros_is_told_of_and_served(
    config: ModelConfig, make_repository: Any, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(OpenVinoEngine, "infer", fail)
    repository = make_repository(config)
    repository.poll()
    assert repository.statuses("m")[0].state is State.AVAILABLE
    (told,) = events.named("model-cold")
    assert "ZeroDivisionError" in str(told["message"])


def test_warming_up_can_be_turned_off(config: ModelConfig, events: Any, ran: list[dict[str, Tensor]]) -> None:
    repository = Repository(
        [config], load=load_openvino, options=EngineOptions(threads=1), observe=events, loading=Loading(warm=False)
    )
    repository.poll()
    assert (repository.ready, ran) == (True, [])
    repository.close()


def test_the_zero_of_a_string_is_an_empty_one() -> None:
    zeros = zeros_for(Signature({"x": TensorSpec("x", 7, (-1, 2))}, {}))
    assert zeros["x"].array.tolist() == [[b"", b""]]
