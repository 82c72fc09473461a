"""Sizes and indices that a model leaves to the client: what does not fit is refused, and reads nobody else's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from fakes import models
from tacit.errors import RequestError, Status
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.wire.tensor import Tensor

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
LONG = 4096  # numbers that a product sums up: far beyond what any request brings


def engine(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    weights: Mapping[str, Any],
    threads: Any = None,
) -> Engine:
    graph = helper.make_graph(
        nodes,
        "guarded",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [helper.make_tensor(name, FLOAT, array.shape, array.tobytes(), raw=True) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return load_openvino(MemoryBundle({"model.onnx": model.SerializeToString()}), EngineOptions(threads=threads))


def ask(engine: Engine, **inputs: np.ndarray) -> np.ndarray:
    given = {name: Tensor(9 if array.dtype == np.int64 else 1, array) for name, array in inputs.items()}
    return engine.infer("serving_default", given, ("y",))["y"].array


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])
FLAT = [helper.make_node("Flatten", ["x"], ["z"]), helper.make_node("MatMul", ["z", "w"], ["y"])]
TURNED = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1)


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize(
    ("nodes", "free", "weights", "good", "bad"),
    [
        ([PRODUCT], ["n", "k"], (LONG, 3), (2, LONG), (2, 4)),
        ([PRODUCT], ["b", "n", "k"], (LONG, 3), (1, 2, LONG), (1, 2, 4)),
        ([PRODUCT], ["b", "n", "k"], (2, LONG, 3), (2, 2, LONG), (2, 2, 4)),
        ([PRODUCT], ["k"], (LONG, 3), (LONG,), (4,)),
        ([helper.make_node("MatMul", ["w", "x"], ["y"])], ["k", "n"], (3, LONG), (LONG, 2), (4, 2)),
        ([TURNED], ["k", "n"], (3, LONG), (LONG, 2), (4, 2)),
        (FLAT, ["n", 1, "h", "w"], (LONG, 3), (2, 1, 64, 64), (2, 1, 2, 2)),
    ],
    ids=["product", "of three", "weights of three", "vector", "from the left", "turned", "picture"],
)
def test_t58_a_product_of_sizes_that_do_not_fit_is_refused(
    nodes: Sequence[Any], free: Sequence[Any], weights: Any, good: Any, bad: Any, threads: int | None
) -> None:
    made = engine(nodes, {"x": (FLOAT, free)}, {"w": ones(*weights)}, threads)
    assert set(ask(made, x=ones(*good)).ravel()) == {LONG}
    with pytest.raises(RequestError, match="the model does not take these shapes") as refused:
        ask(made, x=ones(*bad))
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert set(ask(made, x=ones(*good)).ravel()) == {LONG}


def test_sizes_that_two_inputs_agree_on_are_the_models_to_choose() -> None:
    made = engine(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, ["n", "k"]), "w": (FLOAT, ["l", "m"])}, {}
    )
    for size in (3, 5):
        assert ask(made, x=ones(2, size), w=ones(size, 4)).tolist() == [[size] * 4] * 2
    with pytest.raises(RequestError, match="the model does not take these shapes"):
        ask(made, x=ones(2, 3), w=ones(LONG, 4))


@pytest.mark.parametrize("threads", [1, 2, None])
def test_t58_a_request_that_fails_is_not_answered_with_the_one_before(threads: int | None) -> None:
    made = engine([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, ["n", "k"])}, {"w": ones(4)}, threads)
    for _ in range(2):
        assert ask(made, x=ones(2, 4)).tolist() == [[2.0] * 4] * 2
        with pytest.raises(RequestError, match="the model does not take these shapes"):
            ask(made, x=ones(2, 3))


def test_t58_a_place_beyond_the_end_is_the_end() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = engine([helper.make_node("GatherND", ["w", "x"], ["y"])], {"x": (INT, ["n", 2])}, {"w": table})
    places = np.array([[0, 2], [-1, 1], [3, -3], [1000, 2], [2**40, -(2**40)], [-9, 0]], np.int64)
    with pytest.raises(RequestError, match="computes integers in 32 bits"):
        ask(made, x=places)
    assert ask(made, x=np.clip(places, -(2**30), 2**30)).tolist() == [2.0, 10.0, 9.0, 11.0, 9.0, 0.0]
    rows = engine(
        [helper.make_node("GatherND", ["d", "x"], ["y"])], {"d": (FLOAT, ["a", "b"]), "x": (INT, ["n", 1])}, {}
    )
    assert ask(rows, d=table, x=np.array([[3], [4], [-5]], np.int64)).tolist() == table[[3, 3, 0]].tolist()


def test_t58_a_place_beyond_the_end_is_the_end_within_a_branch_and_a_loop_too() -> None:
    def inner(name: str) -> Any:
        taken = helper.make_node("GatherND", ["w", "x"], [name])
        return helper.make_graph([taken], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    branch = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["which"], to=TensorProto.BOOL),
        helper.make_node("If", ["which"], ["y"], then_branch=inner("yes"), else_branch=inner("no")),
    ]
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    for places in ([[1, 2], [10**6, 2]], [[-(10**6), 10**6], [0, 0]]):
        made = engine(branch, {"x": (INT, ["n", 2])}, {"w": table})
        found = np.clip(np.array(places), [-4, -3], [3, 2])
        assert ask(made, x=np.array(places, np.int64)).tolist() == [table[tuple(place)] for place in found]


def test_t58_a_product_within_a_loop_is_of_sizes_that_fit() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["one"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info("turn", INT, []), helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("one", FLOAT, None)],
    )
    times = helper.make_node("Constant", [], ["times"], value_int=2)
    made = engine(
        [times, helper.make_node("Loop", ["times", ""], ["y"], body=body)],
        {"x": (FLOAT, ["n", "k"])},
        {"w": ones(LONG, 3)},
    )
    assert ask(made, x=ones(2, LONG)).shape == (2, 2, 3)
    with pytest.raises(RequestError, match="the model does not take these shapes"):
        ask(made, x=ones(2, 4))


def test_a_table_of_weights_answers_places_beyond_it_with_zeros() -> None:
    made = engine([helper.make_node("Gather", ["w", "x"], ["y"])], {"x": (INT, ["n"])}, {"w": ones(4, 3)})
    found = ask(made, x=np.array([3, 4, 10**9, -4, -5], np.int64))
    assert found.sum(axis=1).tolist() == [3.0, 0.0, 0.0, 3.0, 0.0]


def test_a_model_that_says_its_sizes_itself_is_left_as_it_is() -> None:
    made = load_openvino(MemoryBundle({"model.onnx": models.onnx_model()}), EngineOptions())
    rows = np.random.default_rng(1).random((5, 4), np.float32)
    np.testing.assert_allclose(ask(made, x=rows), rows @ models.WEIGHTS, rtol=1e-6)
