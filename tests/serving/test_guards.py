"""Sizes and indices that a model leaves to the client: what does not fit is refused, and reads nobody else's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from fakes import models
from tacit.errors import ModelFormatError, RequestError, Status
from tacit.serving.bundle import MemoryBundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino, reading
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
        (FLAT, ["n", 1, "h", "w"], (LONG, 3), (2, 1, 64, 64), (4, 1, 32, 32)),  # as many numbers as two good rows
        ([PRODUCT], ["n", "k"], (LONG, 3), (2, LONG), (LONG, 4)),
    ],
    ids=[
        "product",
        "of three",
        "weights of three",
        "vector",
        "from the left",
        "turned",
        "picture",
        "picture that divides",
        "product that divides",
    ],
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


PICKED = [helper.make_node("Compress", ["v", "m"], ["w"], axis=0), helper.make_node("MatMul", ["x", "w"], ["y"])]


@pytest.mark.parametrize("threads", [1, None])
def test_t58_after_a_run_that_broke_off_in_the_middle_good_requests_are_answered_right(threads: int | None) -> None:
    inputs = {"x": (FLOAT, ["n", "k"]), "m": (TensorProto.BOOL, ["l"]), "v": (FLOAT, ["l", "b"])}
    made = engine(PICKED, inputs, {}, threads)

    def summed(size: int, picked: int) -> Any:
        given = {
            "x": Tensor(1, ones(1, size)),
            "m": Tensor(10, np.arange(LONG) < picked),
            "v": Tensor(1, ones(LONG, 1)),
        }
        return made.infer("serving_default", given, ("y",))["y"].array.tolist()

    for _ in range(2):  # what was begun anew is begun anew again
        for size in (4, LONG, 4):
            assert summed(size, size) == [[size]]
        for size, picked in ((LONG, 4), (4, LONG)):
            with pytest.raises(RequestError, match="the model does not take these shapes"):
                summed(size, picked)
            assert summed(4, 4) == [[4.0]]
            assert summed(LONG, LONG) == [[LONG]]


def test_t58_a_refused_number_leaves_no_shape_unchecked() -> None:
    nodes = [helper.make_node("Cast", ["v"], ["w"], to=FLOAT), helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = engine(nodes, {"x": (FLOAT, ["n", "k"]), "v": (INT, ["l", "m"])}, {}, 1)
    assert ask(made, x=ones(1, 4), v=np.ones((4, 1), np.int64)).tolist() == [[4.0]]
    with pytest.raises(RequestError, match="computes integers in 32 bits"):
        ask(made, x=ones(1, LONG), v=np.full((LONG, 1), 2**40))
    with pytest.raises(RequestError, match="the model does not take these shapes"):
        ask(made, x=ones(1, LONG), v=np.ones((4, 1), np.int64))
    assert ask(made, x=ones(1, 4), v=np.ones((4, 1), np.int64)).tolist() == [[4.0]]


@pytest.mark.parametrize("sizes", [[2, 4], ["n", 4]])
def test_t57_a_shape_that_the_model_itself_rules_out_costs_no_load(
    sizes: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, sizes)}, {})

    def fail(*_: object) -> Any:
        raise AssertionError("nothing has run")

    monkeypatch.setattr(reading._Renewal, "__call__", fail)
    for _ in range(2):
        with pytest.raises(RequestError, match="the model does not take these shapes") as refused:
            ask(made, x=ones(2, 5))
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert ask(made, x=ones(2, 4)).tolist() == [[1.0] * 4] * 2


def test_a_model_that_cannot_be_begun_anew_says_so_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"x": (FLOAT, ["n", "k"]), "m": (TensorProto.BOOL, ["l"]), "v": (FLOAT, ["l", "b"])}
    made = engine(PICKED, inputs, {}, 1)
    good = {"x": Tensor(1, ones(1, 2)), "m": Tensor(10, np.arange(3) < 2), "v": Tensor(1, ones(3, 1))}
    assert made.infer("serving_default", good, ("y",))["y"].array.tolist() == [[2.0]]

    def fail(*_: object) -> Any:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(reading._Renewal, "__call__", fail)
        for given in (good | {"m": Tensor(10, np.arange(3) < 1)}, good):
            with pytest.raises(RequestError, match="the model has to be loaded again: no memory") as refused:
                made.infer("serving_default", given, ("y",))
            assert refused.value.status is Status.INTERNAL
    assert made.infer("serving_default", good, ("y",))["y"].array.tolist() == [[2.0]]


def test_t58_a_place_before_the_beginning_is_the_beginning() -> None:
    node = helper.make_node("ScatterElements", ["d", "x", "u"], ["y"], axis=0)
    made = engine([node], {"d": (FLOAT, ["a"]), "x": (INT, ["n"]), "u": (FLOAT, ["n"])}, {})
    for place, changed in ((2, 2), (-1, 3), (-4, 0), (-5, 0), (-(10**7), 0)):
        found = ask(made, d=np.zeros(4, np.float32), x=np.array([place], np.int64), u=ones(1))
        assert found.tolist() == [float(number == changed) for number in range(4)]
    with pytest.raises(RequestError):
        ask(made, d=np.zeros(4, np.float32), x=np.array([4], np.int64), u=ones(1))


def test_t44_a_loop_of_less_than_no_turns_ends() -> None:
    add = helper.make_node("Add", ["value", "w"], ["next"])
    body = helper.make_graph(
        [add, helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", INT, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", FLOAT, [1])],
    )
    start = helper.make_node("Identity", ["x"], ["start"])
    made = engine(
        [start, helper.make_node("Loop", ["t", "", "start"], ["y"], body=body)],
        {"x": (FLOAT, [1]), "t": (INT, [])},
        {"w": ones(1)},
    )
    for turns, sum_of in ((3, 4.0), (0, 1.0), (-1, 1.0)):
        assert ask(made, x=ones(1), t=np.array(turns, np.int64)).tolist() == [sum_of]


def test_t44_what_cannot_be_made_safe_is_not_loaded() -> None:
    split = helper.make_node("Split", ["x", "k"], ["y", "z"], axis=0)
    with pytest.raises(ModelFormatError, match=r"VariadicSplit \(\S+\) by numbers that a request brings is not safe"):
        engine([split], {"x": (FLOAT, ["a"]), "k": (INT, [2])}, {})
    count = [helper.make_node("Range", ["a", "a", "x"], ["r"]), helper.make_node("Cast", ["r"], ["y"], to=FLOAT)]
    with pytest.raises(ModelFormatError, match=r"Range \(\S+\) by numbers that a request brings is not safe"):
        engine(count, {"a": (INT, []), "x": (INT, [])}, {})


def test_lengths_that_come_from_a_size_alone_are_served() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Constant", [], ["two"], value_ints=[2]),
        helper.make_node("Div", ["size", "two"], ["half"]),
        helper.make_node("Concat", ["half", "half"], ["lengths"], axis=0),
        helper.make_node("Split", ["x", "lengths"], ["y", "z"], axis=0),
    ]
    made = engine(nodes, {"x": (FLOAT, ["a"])}, {})
    assert ask(made, x=np.arange(6, dtype=np.float32)).tolist() == [0.0, 1.0, 2.0]


def test_a_table_of_weights_answers_places_beyond_it_with_zeros() -> None:
    made = engine([helper.make_node("Gather", ["w", "x"], ["y"])], {"x": (INT, ["n"])}, {"w": ones(4, 3)})
    found = ask(made, x=np.array([3, 4, 10**9, -4, -5], np.int64))
    assert found.sum(axis=1).tolist() == [3.0, 0.0, 0.0, 3.0, 0.0]


def test_a_model_that_says_its_sizes_itself_is_left_as_it_is() -> None:
    made = load_openvino(MemoryBundle({"model.onnx": models.onnx_model()}), EngineOptions())
    rows = np.random.default_rng(1).random((5, 4), np.float32)
    np.testing.assert_allclose(ask(made, x=rows), rows @ models.WEIGHTS, rtol=1e-6)
