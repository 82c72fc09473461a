"""TensorFlow Serving's REST interface, in memory."""

import gc
import gzip
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed, example, recorded
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import RequestError
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.callers import Callers, Client
from tacit.serving.plane import Plane
from tacit.serving.tfs.rest import RestOptions, TfsRest
from tacit.serving.tfs.values import encode_value, parse_json
from tacit.wire.tensor import Tensor

BASE = "/v1/models/half_plus_two"


async def call(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    models: FakeModels | None = None,
) -> HttpResponse:
    rest = TfsRest(Plane(models or example()))
    return await rest.handle(HttpRequest(method, path, "", headers or {}, body, None))


async def predict(document: Any, models: FakeModels | None = None) -> tuple[int, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    response = await call("POST", f"{BASE}:predict", body, models=models)
    return response.status, json.loads(response.body)


async def test_the_recorded_cases_get_their_answers(shared_vectors: Path) -> None:
    cases = json.loads((shared_vectors / "serving" / "tfs_rest_cases.json").read_text())["cases"]
    assert len(cases) == 52
    wrong = {}
    for case in cases:
        body = (case["body"] or "").encode()
        headers = {name.lower(): value for name, value in case.get("request_headers", {}).items()}
        if body.startswith(b"gzip of "):
            body = gzip.compress(body.removeprefix(b"gzip of "))
        response = await call(case["method"], case["path"], body, headers=headers, models=recorded())
        answer = json.loads(response.body)
        good = response.status == case["status"] if case["status"] else response.status in (200, 400)
        good &= response.headers["content-type"] == "application/json"
        good &= "response_json" not in case or answer == case["response_json"]
        good &= case.get("error_contains", "") in answer.get("error", "")
        if not good:
            wrong[case["name"]] = (response.status, answer)
    assert not wrong


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ({"instances": [[1.0, 2.0], [3.0, 4.0]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ({"instances": [{"x": 1.0}, {"x": 2}]}, {"predictions": [2.5, 3.0]}),
        ({"inputs": [3.0, 4.0]}, {"outputs": [3.5, 4.0]}),
        ({"inputs": {"x": [3.0, 4.0], "other": 1}}, {"outputs": [3.5, 4.0]}),
        ({"inputs": 3.0}, {"outputs": 3.5}),
        (b'{"instances":[1.0]} and more', {"predictions": [2.5]}),
    ],
)
async def test_rows_and_columns_are_answered_in_their_own_form(document: Any, answer: Any) -> None:
    assert await predict(document) == (200, answer)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "The document is empty"),
        (b"instances = [1]", "JSON Parse error: "),
        (b"[" * 100_000, "JSON Parse error: "),
        (b"\xff\xfe", "JSON Parse error: "),
        ([1], "Is not object"),
        ({"signature_name": "serving_default"}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1.0], "inputs": [1.0]}, "expecting only"),
        ({"instances": 1.0}, "to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": ["x"]}, "is not of expected type: float"),
        ({"instances": [True]}, "is not of expected type: float"),
        ({"instances": [None]}, "is not of expected type: float"),
        ({"instances": [[1.0], [2.0, 3.0]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": [[[1.0, 2.0]], [[1.0], [2.0]]]}, "Expecting shape [1,2] but got: [2,1]"),
        ({"instances": [1.0, [2.0]]}, "Expecting shape [] but got: [1]"),
        ({"inputs": [[1.0], 2.0]}, "unexpected level"),
        ({"instances": [{"foo": 1.0}]}, "does not have named input: foo"),
        ({"inputs": {"foo": [1.0]}}, "Missing named input: x in 'inputs' object."),
        ({"instances": [{"x": 1.0}, 2.0]}, "Expecting object but got list at item 1"),
        ({"signature_name": 100, "instances": [1.0]}, "'signature_name' key must be a string value."),
        ({"signature_name": "no", "instances": [1.0]}, 'Serving signature name: "no" not found in signature def'),
    ],
)
async def test_a_bad_body_is_refused_with_what_is_wrong(document: Any, text: str) -> None:
    status, answer = await predict(document)
    assert status == 400
    assert text in answer["error"]


async def test_nan_and_infinity_go_both_ways_as_bare_words() -> None:
    response = await call("POST", f"{BASE}:predict", b'{"instances":[NaN, Infinity, -Infinity, 1]}')
    assert (response.status, response.body) == (200, b'{"predictions":[NaN,Infinity,-Infinity,2.5]}')


@pytest.mark.parametrize(("kind", "dtype"), [(np.float32, 1), (np.float64, 2), (np.float16, 19)])
def test_bare_words_stand_where_their_numbers_did(kind: type, dtype: int) -> None:
    array = np.array([[1.5, np.nan], [-np.inf, np.inf]], kind)
    for value, text in (
        (array, b"[[1.5,NaN],[-Infinity,Infinity]]"),
        (array.T, b"[[1.5,-Infinity],[NaN,Infinity]]"),
        (array[1, 0, None].reshape(()), b"-Infinity"),
    ):
        assert encode_value(Tensor(dtype, value), as_bytes=False) == text


def test_many_numbers_that_json_does_not_have_hold_nobody_up() -> None:
    words, numbers = np.full(500_000, np.nan, np.float32), np.full(500_000, 0.5, np.float32)
    words[::2] = 0.5
    spent = []
    for array in (numbers, words):
        begin = time.process_time()
        encode_value(Tensor(1, array), as_bytes=False)
        spent.append(time.process_time() - begin)
    assert spent[1] < 20 * spent[0], "value by value it takes forty times as long, and all wait for it"


@pytest.mark.parametrize("end", [b"[0.5]]", b"[NaN]]", b"[oh no"])
def test_many_lists_are_read_without_a_look_for_cycles_among_them(end: bytes) -> None:
    assert gc.isenabled()
    before = sum(each["collections"] for each in gc.get_stats())
    with suppress(RequestError):
        rows = parse_json(b"[" + b"[0.5]," * 200_000 + end)
        assert len(rows) == 200_001
    assert sum(each["collections"] for each in gc.get_stats()) - before < 10
    assert gc.isenabled()


@pytest.mark.parametrize("number", ["1e400", "-1e999", "1" * 400 + ".0"])
async def test_a_number_that_no_double_holds_is_refused_and_not_taken_for_infinity(number: str) -> None:
    response = await call("POST", f"{BASE}:predict", f'{{"instances":[NaN,{number}]}}'.encode())
    assert (response.status, b"too big to be stored in double" in response.body) == (400, True)


async def test_several_outputs_come_as_one_object_a_row() -> None:
    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"].array
        return {"a": Tensor(1, x), "b": Tensor(9, x.astype(np.int64))}

    models = example(outputs={"a": 1, "b": 9}, compute=compute)
    assert await predict({"instances": [1.0, 2.0]}, models) == (
        200,
        {"predictions": [{"a": 1.0, "b": 1}, {"a": 2.0, "b": 2}]},
    )
    assert await predict({"inputs": [1.0]}, models) == (200, {"outputs": {"a": [1.0], "b": [1]}})


async def test_outputs_without_a_common_batch_are_refused_by_row() -> None:
    def compute(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"a": inputs["x"], "b": Tensor(1, np.zeros(7, np.float32))}

    status, answer = await predict({"instances": [1.0]}, example(outputs={"a": 1, "b": 1}, compute=compute))
    assert (status, answer["error"]) == (400, "Tensor name: b has inconsistent batch size: 7 expecting: 1")


async def test_an_output_without_dimensions_is_refused_by_row() -> None:
    models = example(compute=lambda inputs: {"y": Tensor(1, np.float32(1).reshape(()))})
    status, answer = await predict({"instances": [1.0]}, models)
    assert (status, answer["error"]) == (400, "Tensor name: y has no shape information")


async def test_strings_travel_as_text_and_as_base64() -> None:
    models = example(inputs={"x": 7}, outputs={"y_bytes": 7}, compute=lambda inputs: {"y_bytes": inputs["x"]})
    assert await predict({"instances": ["hi", {"b64": "AP8="}]}, models) == (
        200,
        {"predictions": [{"b64": "aGk="}, {"b64": "AP8="}]},
    )
    models = example(inputs={"x": 7}, outputs={"y": 7}, compute=lambda inputs: {"y": inputs["x"]})
    assert await predict({"inputs": {"b64": "aGk="}}, models) == (200, {"outputs": "hi"})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("YQ", "a"), ("YWI", "ab"), ("YWJj", "abc"), ("YQ==", "a"), ("YQ==\n", "a"), ("YWJj\nZGVm", "abcdef"),
        (" Y W\tI\r\n=\v\f", "ab"), ("", ""), ("\n", ""),
        ("YQ=", None), ("YWJj=", None), ("Y", None), ("YWJjZ", None), ("YQ=a", None), ("=", None), ("-_8=", None),
        ("YQ\u00a0==", None), ("YWJj\u0000", None), ("Y.Q==", None),
    ],
)  # fmt: skip
async def test_base64_is_read_as_tensorflow_serving_reads_it(text: str, read: str | None) -> None:
    models = example(inputs={"x": 7}, outputs={"y": 7}, compute=lambda inputs: {"y": inputs["x"]})
    status, answer = await predict({"inputs": {"b64": text}}, models)
    assert (status, answer.get("outputs")) == ((200, read) if read is not None else (400, None))


async def test_what_follows_the_json_is_not_looked_at_even_where_it_is_no_text() -> None:
    for behind in (b"", b" ", b" \xff", b"\xff\xfe{", b" {"):
        assert await predict(b'{"instances":[1.0]}' + behind) == (200, {"predictions": [2.5]})
    words = example(inputs={"x": 7}, outputs={"y": 7}, compute=lambda inputs: {"y": inputs["x"]})
    assert await predict(b'{"inputs":"\xc3\xbc"}\xff', words) == (200, {"outputs": "ü"})
    for broken in (b'{"inputs":"\xff"}', b'{"inputs":\xff"a"}', b"\xff", b'{"inputs":"a"\xff}'):
        status, answer = await predict(broken, words)
        assert (status, "JSON Parse error" in answer["error"], "utf-8" in answer["error"]) == (400, True, True)


async def test_json_is_parsed_before_the_model_is_looked_for() -> None:
    codes = [
        (await call("POST", f"/v1/models/nope:{verb}", body)).status
        for verb in ("predict", "classify", "regress")
        for body in (b"{bad", b'{"instances":[1.0],"examples":[{"x":1.0}]}')
    ]
    assert codes == [400, 404] * 3


async def test_t56_nothing_is_parsed_for_who_may_not_call_the_model() -> None:
    callers = Callers([Client("alice", token=sha256(b"secret").digest(), models=frozenset({"half_plus_two"}))])
    rest = TfsRest(Plane(example(), callers))
    for verb in ("predict", "classify", "regress"):
        headers = {"content-encoding": "gzip"}
        request = HttpRequest("POST", f"{BASE}:{verb}", "", headers, b"neither gzip nor JSON", None)
        assert (await rest.handle(request)).status == 401


@pytest.mark.parametrize(
    ("dtype", "value", "good"),
    [
        (3, 2**31 - 1, True),
        (3, 2**31, False),
        (4, 300, False),
        (9, -(2**63), True),
        (23, 2**64 - 1, True),
        (3, 1.5, False),
    ],
)
async def test_integers_must_fit_their_type(dtype: int, value: Any, good: bool) -> None:
    models = example(inputs={"x": dtype}, outputs={"y": dtype}, compute=lambda inputs: {"y": inputs["x"]})
    status, answer = await predict({"instances": [value]}, models)
    assert (status, answer.get("predictions")) == ((200, [value]) if good else (400, None))


async def test_half_and_bfloat16_are_numbers_in_json() -> None:
    for dtype in (14, 19):
        models = example(inputs={"x": dtype}, outputs={"y": dtype}, compute=lambda inputs: {"y": inputs["x"]})
        assert await predict({"instances": [1.5, -2.0]}, models) == (200, {"predictions": [1.5, -2.0]})


async def test_numbers_read_back_to_the_same_value() -> None:
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * 1e-20
    models = example(compute=lambda inputs: {"y": Tensor(1, values)})
    _, answer = await predict({"inputs": 0}, models)
    assert np.array_equal(np.array(answer["outputs"], np.float32), values)


async def test_t44_a_gzip_bomb_is_refused_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.serving.tfs.rest.MAX_INFLATED", 1024)
    response = await call(
        "POST", f"{BASE}:predict", gzip.compress(b" " * 100_000), headers={"content-encoding": "gzip"}
    )
    assert response.status == 400
    assert b"1024 bytes" in response.body


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b'{"instances":[1.0]}', mtime=0)[:-6]])
async def test_a_broken_gzip_body_is_refused(body: bytes) -> None:
    response = await call("POST", f"{BASE}:predict", body, headers={"content-encoding": "gzip"})
    assert response.status == 400


async def test_paths_outside_the_interface_are_not_found() -> None:
    assert (await call("GET", "/")).status == 404
    assert (await call("GET", "/v1/models/half_plus_two/versions/" + "9" * 5000)).status == 400


async def test_names_in_paths_are_decoded() -> None:
    assert (await call("GET", "/v1/models/half%5Fplus_two")).status == 200


async def test_metadata_prints_every_field() -> None:
    response = await call("GET", f"{BASE}/metadata")
    tensor = {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
    }
    assert json.loads(response.body) == {
        "model_spec": {"name": "half_plus_two", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": {**tensor, "name": "x:0"}},
                        "outputs": {"y": {**tensor, "name": "y:0"}},
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    }
                }
            }
        },
    }


async def test_t13_half_a_character_in_a_name_is_a_bad_request() -> None:
    code, answer = await predict(b'{"signature_name": "\\ud800", "instances": [1.0]}')
    assert code == 400
    assert "?" in answer["error"]


ADMINISTRATION = [
    "/metrics", "/monitoring/prometheus/metrics", "/debug", "/profile", "/admin", "/shutdown", "/v1/config", "/v1/models",
    f"{BASE}:profile", f"{BASE}:reload", f"{BASE}/versions/1:unload", "/v2/repository/index",
    "/v2/repository/models/half_plus_two/load", "/v2/trace/setting", "/v2/logging", "/v2/cudasharedmemory/status",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_t47_no_route_of_administration_is_served(method: str) -> None:
    for path in ADMINISTRATION:
        response = await call(method, path, b"{}")
        assert response.status in (400, 404, 405), path
        assert len(response.body) < 300, path


@pytest.mark.parametrize("text", ["http://169.254.169.254/", "file:///etc/passwd", "gs://bucket/model"])
async def test_t49_an_address_in_a_prediction_is_never_fetched(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"something was fetched: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for document in (
        {"instances": [text]},
        {"inputs": text},
        {"inputs": {"url": text}},
        {"instances": [{"b64": text}]},
    ):
        status, answer = await predict({**document, "signature_name": text})
        assert status == 400
        assert "error" in answer


@pytest.mark.parametrize("compressed", [True, False])
async def test_the_json_of_a_prediction_is_bounded_once_it_is_inflated(compressed: bool) -> None:
    rest = TfsRest(Plane(example()), RestOptions(max_json=300))
    codes = []
    for count in (10, 200):
        raw = json.dumps({"instances": [1.0] * count}).encode()
        body, headers = (gzip.compress(raw), {"content-encoding": "gzip"}) if compressed else (raw, {})
        response = await rest.handle(HttpRequest("POST", f"{BASE}:predict", "", headers, body, None))
        codes.append((response.status, b"--max_json_bytes" in response.body))
    assert codes == [(200, False), (429, True)]


async def test_half_a_character_in_a_string_is_refused() -> None:
    signature = Signature({"x": TensorSpec("x", 7, (-1,))}, {"y": TensorSpec("y", 7, (-1,))})
    models = FakeModels(
        FakeServed("half_plus_two", 1, {"serving_default": signature}, lambda inputs: {"y": inputs["x"]})
    )
    status, answer = await predict(rb'{"instances":["\ud800"]}', models)
    assert (status, "half a character" in answer["error"]) == (400, True)
