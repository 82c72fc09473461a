"""What becomes of values on their way to a model, and of what a server answers in their place: the same values, or a refusal."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from tacit.client.inference import TensorSpec, fit_to
from tacit.client.inference.language import Language
from tacit.client.inference.open import OPEN_INFERENCE
from tacit.client.inference.rest import RestServingClient
from tacit.client.inference.tensorflow import TENSORFLOW_SERVING
from tacit.client.inference.values import tensor_of
from tacit.errors import InputError, PeerError
from tacit.wire.pb import inference_pb2, serving_pb2
from tacit.wire.tensor import DT_BFLOAT16, DT_STRING

LANGUAGES = {"tensorflow-serving": TENSORFLOW_SERVING, "open-inference": OPEN_INFERENCE}
FLOAT, INT32, UINT8, INT8, INT64, QINT8 = 1, 3, 4, 6, 9, 11


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (INT32, np.array([1 << 40])),
        (INT32, [1 << 40]),
        (INT8, np.array([300], np.int32)),
        (INT64, np.array([(1 << 63) + 5], np.uint64)),
        (UINT8, [-1]),
        (INT32, [1.5]),
        (INT32, [float("nan")]),
        (INT64, [float(1 << 63)]),
        (FLOAT, np.array([1e300])),
        (FLOAT, [1e300]),
    ],
)
def test_a_value_that_the_models_type_cannot_hold_is_refused_and_not_bent(declared: int, value: Any) -> None:
    with pytest.raises(InputError, match=r"input 'x' holds values that \w+, which the model takes, cannot hold"):
        fit_to(TensorSpec(declared, None), "x", value)


@pytest.mark.parametrize(
    ("declared", "value", "expected"),
    [
        (INT32, np.array([-5, (1 << 31) - 1]), [-5, (1 << 31) - 1]),
        (INT32, [2.0, True], [2, 1]),
        (FLOAT, np.array([np.inf, 1.5]), [np.inf, 1.5]),
        (FLOAT, np.array([1.5], ">f8"), [1.5]),
        (INT64, np.zeros((0, 3), np.int32), []),
        (INT32, [], []),
    ],
)
def test_a_value_that_the_models_type_holds_is_converted(declared: int, value: Any, expected: Sequence[float]) -> None:
    assert fit_to(TensorSpec(declared, None), "x", value).tolist() == expected


@pytest.mark.parametrize("declared", [DT_BFLOAT16, QINT8])
def test_numbers_are_never_taken_for_the_bits_of_a_type_that_numpy_does_not_have(declared: int) -> None:
    with pytest.raises(InputError, match="convert it first"):
        fit_to(TensorSpec(declared, None), "x", [1.0, 2.0])


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_bfloat16_goes_in_as_its_own_type_and_comes_out_as_float32(language: Language) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = fit_to(TensorSpec(DT_BFLOAT16, None), "x", np.array([1.5, -2], ml_dtypes.bfloat16))
    tensor = tensor_of("x", given)
    assert (tensor.dtype, tensor.array.tolist()) == (DT_BFLOAT16, [0x3FC0, 0xC000])
    assert language.predict("m", {"x": given}, None, "", ()).request.ByteSize()


def test_output_of_bfloat16_is_read_as_numbers() -> None:
    answer = inference_pb2.ModelInferResponse()
    answer.outputs.add(name="y", datatype="BF16", shape=[2])
    answer.raw_output_contents.append(np.array([0x3FC0, 0xC000], "<u2").tobytes())
    assert read(OPEN_INFERENCE, answer)["y"].tolist() == [1.5, -2]
    other = serving_pb2.PredictResponse()
    other.outputs["y"].dtype = DT_BFLOAT16  # type: ignore[assignment]  # the stubs know enum members alone
    other.outputs["y"].tensor_shape.dim.add(size=1)
    other.outputs["y"].half_val.append(0x3FC0)
    assert read(TENSORFLOW_SERVING, other)["y"].tolist() == [1.5]


@pytest.mark.parametrize("value", [b"a\0\0", [b"a\0\0", b""], [["a\0", b"b\0"]]])
def test_zeros_at_the_end_of_bytes_arrive(value: Any) -> None:
    """A picture or a record may end so, and an array of bytes drops them."""
    sent = tensor_of("x", fit_to(TensorSpec(DT_STRING, None), "x", value)).array.tolist()
    expected = [[b"a\0", b"b\0"]] if isinstance(value, list) and isinstance(value[0], list) else value
    assert sent == expected


def test_values_that_are_none_are_refused_by_name() -> None:
    spec = TensorSpec(DT_STRING, None)
    with pytest.raises(InputError, match="input 'x' holds Python objects"):
        tensor_of("x", fit_to(spec, "x", [1, None]))
    with pytest.raises(InputError, match="input 'x' holds text that UTF-8 does not have"):
        tensor_of("x", fit_to(spec, "x", ["\udc80"]))
    with pytest.raises(InputError, match="input 'x' is no array"):
        fit_to(TensorSpec(FLOAT, None), "x", [[1], [1, 2]])


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_inputs_that_no_message_can_carry_are_refused_before_memory_is_taken(language: Language) -> None:
    with pytest.raises(InputError, match="the inputs take 4096 MiB, and a message of gRPC carries 2047 at most"):
        language.predict("m", {"x": np.broadcast_to(np.float32(0), (1 << 30,))}, None, "", ())


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_names_and_versions_that_are_none_are_refused(language: Language) -> None:
    value = np.zeros(1, np.float32)
    wrong: Any
    for wrong in (5, None, "\udc80", b"m"):
        for call in (
            lambda wrong=wrong: language.predict(wrong, {"x": value}, None, "", ()),
            lambda wrong=wrong: language.predict("m", {wrong: value}, None, "", ()),
            lambda wrong=wrong: language.predict("m", {"x": value}, None, "", (wrong,)),
            lambda wrong=wrong: language.signatures(wrong, None),
            lambda wrong=wrong: language.status(wrong, None),
        ):
            with pytest.raises(InputError, match="is no name of an? "):
                call()
    for wrong in (-1, 1 << 63, "1", 1.0):
        with pytest.raises(InputError, match="is no version of a model"):
            language.predict("m", {"x": value}, wrong, "", ())
        with pytest.raises(InputError, match="is no version of a model"):
            language.status("m", wrong)


# ---- what a hostile server answers


def read(language: Language, answer: Any) -> Any:
    question = language.predict("m", {"x": np.zeros(1, np.float32)}, None, "", ())
    return question.read(answer, "server:8500").outputs


@pytest.mark.parametrize(
    ("dtype", "sizes", "values"), [(999, [1], [1.0]), (1, [-1], []), (1, [1 << 30], [1.0]), (1, [1], [1.0, 2.0])]
)
def test_an_output_that_is_no_tensor_is_the_servers_mistake(dtype: int, sizes: list[int], values: list[float]) -> None:
    answer = serving_pb2.PredictResponse()
    answer.outputs["y"].dtype = dtype  # type: ignore[assignment]  # numbers that the enum lacks too
    for size in sizes:
        answer.outputs["y"].tensor_shape.dim.add(size=size)
    answer.outputs["y"].float_val.extend(values)
    with pytest.raises(PeerError, match="server:8500 answers with an output that is none"):
        read(TENSORFLOW_SERVING, answer)


@pytest.mark.parametrize("version", ["9" * 5000, "²", "١", "-1", "v2"])
def test_a_version_that_is_no_number_is_a_name_without_one(version: str) -> None:
    question = OPEN_INFERENCE.predict("m", {"x": np.zeros(1, np.float32)}, None, "", ())
    assert question.read(inference_pb2.ModelInferResponse(model_version=version), "server:8500").version is None
    index = inference_pb2.RepositoryIndexResponse()
    index.models.add(name="m", version=version, state="READY")
    assert OPEN_INFERENCE.status("m", None).read(index, "server:8500") == ()


class Said:
    """A channel with one answer."""

    def __init__(self, value: object) -> None:
        self.body = msgspec.json.encode(value)
        self.status, self.phrase = 200, "OK"
        self.asked: list[str] = []

    def call(self, _: str, path: str, **__: Any) -> "Said":
        self.asked.append(path)
        return self

    def url(self, path: str) -> str:
        return f"https://server:8501{path}"


def rest(value: object) -> RestServingClient:
    return RestServingClient.from_channel(Said(value))  # type: ignore[arg-type]  # a fake of the one method that is called


@pytest.mark.parametrize(
    "said",
    [
        [{}],
        [{"version": "x", "state": "AVAILABLE", "status": {}}],
        [{"version": "1", "state": 5, "status": {}}],
        [{"version": "1", "state": "AVAILABLE"}],
        [5],
        7,
        None,
        [{"version": "9" * 5000, "state": "AVAILABLE", "status": {}}],
    ],
)
def test_versions_over_rest_that_are_none_are_the_servers_mistake(said: object) -> None:
    with pytest.raises(PeerError, match="https://server:8501/v1/models/m answers with versions that are none"):
        rest({"model_version_status": said}).status("m")


def test_an_output_over_rest_that_is_no_array_is_the_servers_mistake() -> None:
    with pytest.raises(PeerError, match="answers with an output that is none"):
        rest({"outputs": {"y": [[1], [1, 2]]}}).predict("m", {"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize("model", ["", "a/b", "..", "\udc80", 5])
def test_a_models_name_over_rest_leads_nowhere_else(model: Any) -> None:
    with pytest.raises(InputError, match="is no name of a model"):
        rest({}).predict(model, {"x": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="is no name of a model"):
        rest({}).status(model)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(1, np.longdouble),
        np.array([None]),
        np.array([{"b64": "x"}]),
        np.zeros(1, [("a", "i4")]),
        np.array(["2026-11-26"], "M8[D]"),
        np.array(["\udc80"]),
        np.array([np.nan], object),
    ],
)
def test_what_json_has_no_values_for_is_refused_over_rest(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="input 'x'"):
        rest({}).predict("m", {"x": array})
