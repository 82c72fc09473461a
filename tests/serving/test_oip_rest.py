"""The Open Inference Protocol's REST routes, in memory."""

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, FakeServed, example
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import RequestError, Status
from tacit.serving.callers import Callers, Client
from tacit.serving.oip.question import microseconds
from tacit.serving.oip.rest import OipRest
from tacit.serving.plane import Plane, Selector
from tacit.wire.raw_tensor import DATATYPES
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

LENGTH = "inference-header-content-length"
MODEL = "/v2/models/half_plus_two"


async def call(
    method: str,
    path: str,
    body: bytes | Mapping[str, Any] = b"",
    models: FakeModels | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = HttpRequest(method, path, "", headers or {}, raw, None)
    return await OipRest(Plane(models or example()), max_inflated=1 << 20).handle(request)


async def answer(method: str, path: str, body: Any = b"", models: FakeModels | None = None) -> tuple[int, Any]:
    response = await call(method, path, body, models)
    assert response.headers["content-type"] == "application/json"
    return response.status, json.loads(response.body) if response.body else None


def question(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"id": "42", "inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **more}


def echo(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"y": inputs["x"]}


async def test_health_is_told_in_json_and_by_the_status() -> None:
    assert await answer("GET", "/v2/health/live") == (200, {"live": True})
    assert await answer("GET", "/v2/health/ready") == (200, {"ready": True})
    assert await answer("GET", f"{MODEL}/ready") == (200, {"name": "half_plus_two", "ready": True})
    models = example()
    models.ready = False
    assert await answer("GET", "/v2/health/ready", models=models) == (503, {"ready": False})
    assert (await answer("GET", "/v2/models/no/ready"))[0] == 404
    assert (await answer("GET", f"{MODEL}/versions/7/ready"))[0] == 404


async def test_the_server_and_its_models_are_told_of() -> None:
    status, server = await answer("GET", "/v2")
    assert (status, server["name"], "binary_tensor_data" in server["extensions"]) == (200, "tacit", True)
    assert (await answer("GET", "/v2/"))[1] == server
    assert await answer("GET", "/v2/models") == (200, {"models": ["half_plus_two"]})
    for path in (MODEL, MODEL + "/", MODEL + "/versions/123"):
        status, metadata = await answer("GET", path)
        assert (status, metadata["name"], metadata["versions"]) == (200, "half_plus_two", ["123"])
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    status, config = await answer("GET", f"{MODEL}/config")
    assert (status, config["input"]) == (200, [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}])
    for path in (f"{MODEL}/stats", f"{MODEL}/versions/123/stats", "/v2/models/stats"):
        status, statistics = await answer("GET", path)
        assert (status, statistics["model_stats"][0]["version"]) == (200, "123")


@pytest.mark.parametrize("data", [[1, 2], [[1], [2]], [1.0, 2.0]])
async def test_values_may_be_flat_or_nested(data: Any) -> None:
    status, found = await answer("POST", f"{MODEL}/infer", question(data, [2, 1]))
    assert status == 200
    assert found == {
        "model_name": "half_plus_two",
        "model_version": "123",
        "id": "42",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [2.5, 3.0]}],
    }


async def test_a_version_in_the_path_is_the_one_that_answers() -> None:
    status, found = await answer("POST", f"{MODEL}/versions/123/infer", question([1], [1]))
    assert (status, found["model_version"]) == (200, "123")
    assert (await answer("POST", f"{MODEL}/versions/7/infer", question([1], [1])))[0] == 404
    assert (await answer("POST", f"{MODEL}/versions/x/infer", question([1], [1])))[0] == 400


def binary(head: Mapping[str, Any], *raws: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join((text, *raws)), {LENGTH: str(len(text))}


def parted(response: HttpResponse) -> tuple[Any, bytes]:
    assert response.headers["content-type"] == "application/octet-stream"
    length = int({name.lower(): value for name, value in response.headers.items()}[LENGTH])
    return json.loads(response.body[:length]), response.body[length:]


@pytest.mark.parametrize("dtype", [number for number in DATATYPES if number != 7])
async def test_every_datatype_travels_as_binary_data(dtype: int) -> None:
    raw = np.array([[0, 1, 1]]).astype(ELEMENT_TYPES[dtype].memory).tobytes()
    entry = {"name": "x", "shape": [1, 3], "datatype": DATATYPES[dtype], "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary({"inputs": [entry], "parameters": {"binary_data_output": True}}, raw)
    models = example({"x": dtype}, {"y": dtype}, echo)
    head, behind = parted(await call("POST", f"{MODEL}/infer", body, models, headers))
    assert behind == raw
    assert head["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
    assert (head["outputs"][0]["datatype"], head["outputs"][0]["shape"]) == (DATATYPES[dtype], [1, 3])


async def test_what_an_output_says_of_itself_wins_over_the_request() -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    asked = question([1], [1], outputs=outputs, parameters={"binary_data_output": True})
    status, found = await answer("POST", f"{MODEL}/infer", asked)
    assert (status, found["outputs"][0]["data"]) == (200, [2.5])
    outputs[0]["parameters"] = {"binary_data": True}
    head, behind = parted(await call("POST", f"{MODEL}/infer", question([1], [1], outputs=outputs)))
    assert (behind, "data" in head["outputs"][0]) == (struct.pack("<f", 2.5), False)


async def test_json_and_binary_inputs_stand_side_by_side() -> None:
    def both(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": Tensor(1, inputs["a"].array + inputs["b"].array)}

    entries = [
        {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
    ]
    body, headers = binary({"inputs": entries}, struct.pack("<2f", 10, 20))
    response = await call("POST", f"{MODEL}/infer", body, example({"a": 1, "b": 1}, compute=both), headers)
    assert json.loads(response.body)["outputs"][0]["data"] == [11, 22]


@pytest.mark.parametrize("timeout", [None, 1.5e6, 10_000_000, "10000000", 0.0])
async def test_a_timeout_is_any_number_of_microseconds_or_none(timeout: object) -> None:
    assert (await answer("POST", f"{MODEL}/infer", question([1], [1], parameters={"timeout": timeout})))[0] == 200


@pytest.mark.parametrize("timeout", [-0.5, 1e300, True, [], "1.5", float("nan"), float("inf")])
async def test_a_timeout_that_is_no_time_is_refused(timeout: object) -> None:
    status, found = await answer("POST", f"{MODEL}/infer", question([1], [1], parameters={"timeout": timeout}))
    assert (status, "'timeout'" in found["error"]) == (400, True)


def test_a_part_of_a_microsecond_is_some_time_and_not_none() -> None:
    assert [microseconds(value) for value in (None, 0, 0.0, 0.25, 1.5)] == [0, 0, 0, 1, 2]


async def test_a_header_length_of_zero_is_one_raw_input() -> None:
    response = await call("POST", f"{MODEL}/infer", struct.pack("<3f", 1, 2, 5), headers={LENGTH: "0"})
    head, behind = parted(response)
    assert (head["outputs"][0]["shape"], behind) == ([3, 1], struct.pack("<3f", 2.5, 3, 4.5))
    words = example({"x": 7}, {"y": 7}, echo)
    head, behind = parted(await call("POST", f"{MODEL}/infer", b"hello", words, {LENGTH: "0"}))
    assert behind == b"\x05\x00\x00\x00hello"
    two = await call("POST", f"{MODEL}/infer", b"1234", example({"a": 1, "b": 1}), {LENGTH: "0"})
    assert (two.status, "one input" in two.body.decode()) == (400, True)
    odd = await call("POST", f"{MODEL}/infer", b"12345", headers={LENGTH: "0"})
    assert (odd.status, "5 bytes" in odd.body.decode(), "4 at a time" in odd.body.decode()) == (400, True, True)


async def test_text_is_bytes_and_bytes_that_are_no_text_are_refused_as_json() -> None:
    words = example({"x": 7}, {"y": 7}, echo)
    status, found = await answer("POST", f"{MODEL}/infer", question(["a", "ü"], [2], "BYTES"), words)
    assert (status, found["outputs"][0]["data"]) == (200, ["a", "ü"])
    raw = b"\x01\x00\x00\x00\xff"
    entry = {"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary({"inputs": [entry]}, raw)
    response = await call("POST", f"{MODEL}/infer", body, words, headers)
    assert (response.status, "binary_data" in response.body.decode()) == (400, True)


async def test_numbers_that_json_does_not_have_are_bare_words() -> None:
    body = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [NaN, -Infinity]}]}'
    response = await call("POST", f"{MODEL}/infer", body)
    assert b'"data":[NaN,-Infinity]' in response.body


async def test_what_a_client_leaves_empty_is_not_there() -> None:
    bare = question([1.0], [1]) | {"outputs": None, "parameters": None, "id": None}
    assert (await answer("POST", f"{MODEL}/infer", bare))[0] == 200
    entry = {"name": "x", "shape": [0], "datatype": "FP32", "data": [], "parameters": {"binary_data_size": 0}}
    body, headers = binary({"inputs": [entry]}, b"")
    assert (await call("POST", f"{MODEL}/infer", body, headers=headers)).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_may_be_compressed(encoding: str) -> None:
    raw = json.dumps(question([1], [1])).encode()
    packed = gzip.compress(raw) if encoding == "gzip" else zlib.compress(raw)
    headers = {"content-encoding": encoding}
    assert (await call("POST", f"{MODEL}/infer", packed, headers=headers)).status == 200
    assert (await call("POST", f"{MODEL}/infer", packed[:-4], headers=headers)).status == 400
    assert (await call("POST", f"{MODEL}/infer", raw, headers=headers)).status == 400
    assert (await call("POST", f"{MODEL}/infer", raw, headers={"content-encoding": "br"})).status == 501


async def test_t44_a_compressed_body_is_bounded_and_the_refusal_names_the_flag() -> None:
    bomb = gzip.compress(bytes(8 << 20))
    response = await call("POST", f"{MODEL}/infer", bomb, headers={"content-encoding": "gzip"})
    assert (response.status, "--max_message_bytes" in response.body.decode()) == (429, True)


BAD = {
    "no object": b"[]",
    "no JSON": b"{",
    "empty": b"",
    "no inputs": {"id": "1"},
    "inputs are no list": {"inputs": {}},
    "an input is no object": {"inputs": [1]},
    "no name": {"inputs": [{"shape": [1], "datatype": "FP32", "data": [1]}]},
    "no shape": {"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]},
    "a shape of text": {"inputs": [{"name": "x", "shape": ["1"], "datatype": "FP32", "data": [1]}]},
    "a free size": {"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32", "data": [1]}]},
    "no datatype": {"inputs": [{"name": "x", "shape": [1], "data": [1]}]},
    "an unknown datatype": question([1], [1], "FP31"),
    "another datatype": question([1], [1], "INT32"),
    "too few values": question([1], [2]),
    "too many values": question([1, 2, 3], [2]),
    "ragged": question([[1], [1, 2]], [3]),
    "no data": {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]},
    "data is no list": question(1, [1]),
    "text for a number": question(["1"], [1]),
    "a bool for a number": question([True], [1]),
    "twice": {"inputs": question([1], [1])["inputs"] * 2},
    "an unknown input": {"inputs": [{"name": "z", "shape": [1], "datatype": "FP32", "data": [1]}]},
    "an unknown output": question([1], [1], outputs=[{"name": "z"}]),
    "outputs are no list": question([1], [1], outputs={}),
    "an id of a number": {**question([1], [1]), "id": 7},
    "parameters are no object": question([1], [1], parameters=[]),
    "a flag of text": question([1], [1], parameters={"binary_data_output": "yes"}),
    "a negative timeout": question([1], [1], parameters={"timeout": -1}),
    "gigabytes claimed": question([1], [2**31, 2**31]),
    "beyond the memory": question([1], [2**62, 2**62, 0]),
    "binary data that is not there": {
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]
    },
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
async def test_t13_a_bad_question_is_a_bad_request(body: Any) -> None:
    status, found = await answer("POST", f"{MODEL}/infer", body)
    assert (status, list(found)) == (400, ["error"])
    assert found["error"]


@pytest.mark.parametrize("header", ["-1", "x", "9" * 30, "1e3", "10000"])
async def test_a_header_length_that_cannot_be_is_a_bad_request(header: str) -> None:
    response = await call("POST", f"{MODEL}/infer", question([1], [1]), headers={LENGTH: header})
    assert response.status == 400


async def test_bytes_beyond_the_inputs_are_refused() -> None:
    body, headers = binary(question([1], [1]), b"1234")
    assert (await call("POST", f"{MODEL}/infer", body, headers=headers)).status == 400


async def test_shared_memory_is_refused_by_name() -> None:
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}
    for method, path, body in (
        ("POST", f"{MODEL}/infer", {"inputs": [entry]}),
        ("GET", "/v2/systemsharedmemory/status", {}),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/etc", "byte_size": 1}),
        ("POST", "/v2/cudasharedmemory/region/r/register", {}),
        ("POST", "/v2/cudasharedmemory/unregister", {}),
    ):
        status, found = await answer(method, path, body)
        assert (status, "shared memory" in found["error"]) == (501, True)


async def test_the_repository_is_listed_loaded_and_unloaded() -> None:
    models = example()
    listed = [{"name": "half_plus_two", "version": "123", "state": "READY", "reason": ""}]
    assert await answer("POST", "/v2/repository/index", {}, models) == (200, listed)
    assert await answer("POST", "/v2/repository/index", {"ready": True}, models) == (200, listed)
    for verb in ("load", "unload"):
        assert (await answer("POST", f"/v2/repository/models/half_plus_two/{verb}", b"", models))[0] == 200
        assert (await answer("POST", f"/v2/repository/models/no/{verb}", b"", models))[0] == 404
        assert (await answer("GET", f"/v2/repository/models/half_plus_two/{verb}", b"", models))[0] == 400
    assert models.loads == ["load half_plus_two", "unload half_plus_two"]
    sent = {"parameters": {"config": "{}"}}
    assert (await answer("POST", "/v2/repository/models/half_plus_two/load", sent, models))[0] == 501


async def test_t47_who_may_not_manage_neither_loads_nor_unloads() -> None:
    models = example()
    rest = OipRest(Plane(models, Callers(anybody_manages=False)), max_inflated=1 << 20)
    for path in ("/v2/repository/models/half_plus_two/load", "/v2/repository/models/half_plus_two/unload"):
        response = await rest.handle(HttpRequest("POST", path, "", {}, b"", None))
        assert response.status == 403
    assert models.loads == []


async def test_t56_a_caller_learns_nothing_of_models_that_are_not_theirs() -> None:
    callers = Callers([Client("c", token=sha256(b"secret").digest(), models=frozenset(("other",)))])
    rest = OipRest(Plane(example(), callers), max_inflated=1 << 20)
    for name in ("half_plus_two", "none"):
        for method, path in (("GET", ""), ("GET", "/ready"), ("GET", "/stats"), ("GET", "/config"), ("POST", "/infer")):
            body = json.dumps(question([1], [1])).encode()
            response = await rest.handle(HttpRequest(method, f"/v2/models/{name}{path}", "", {}, body, None))
            assert response.status == 401, path
    for method, path in (("GET", "/v2/models"), ("GET", "/v2/models/stats"), ("POST", "/v2/repository/index")):
        assert b"half_plus_two" not in (await rest.handle(HttpRequest(method, path, "", {}, b"", None))).body


@pytest.mark.parametrize(
    ("sent", "told"),
    [(b"no gzip", 400), (gzip.compress(bytes(8 << 20), mtime=0), 429), (gzip.compress(b"no JSON", mtime=0), 400)],
    ids=["no gzip", "too much", "no JSON"],
)
async def test_t56_nothing_that_a_stranger_sends_is_inflated_or_read(sent: bytes, told: int) -> None:
    callers = Callers([Client("c", token=sha256(b"secret").digest(), models=frozenset(("half_plus_two",)))])
    rest = OipRest(Plane(example(), callers), max_inflated=1 << 20)
    for token, status in (("wrong", 401), ("secret", told)):
        headers = {"content-encoding": "gzip", "authorization": f"Bearer {token}"}
        response = await rest.handle(HttpRequest("POST", f"{MODEL}/infer", "", headers, sent, None))
        assert response.status == status, response.body


async def test_settings_are_told_and_not_changed() -> None:
    for path in ("/v2/trace/setting", f"{MODEL}/trace/setting"):
        status, settings = await answer("GET", path)
        assert (status, settings["trace_level"]) == (200, ["OFF"])
        assert (await answer("POST", path, {"trace_level": ["TENSORS"]}))[0] == 501
    assert (await answer("GET", "/v2/logging"))[1]["log_verbose_level"] == 0
    assert (await answer("POST", "/v2/logging", {"log_verbose_level": 1}))[0] == 501
    assert (await answer("POST", "/v2/logging", {"no": 1}))[0] == 400


async def test_nobody_traces_a_model_that_does_not_answer() -> None:
    for method, body in (("GET", b""), ("POST", {}), ("POST", {"trace_level": ["TENSORS"]})):
        refusal = (400, {"error": "Request for unknown model : nö"})
        assert await answer(method, "/v2/models/n%C3%B6/trace/setting", body) == refusal


@pytest.mark.parametrize("path", ["/v2/trace/setting", f"{MODEL}/trace/setting", "/v2/logging"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_settings_are_asked_and_changed_by_their_own_methods(method: str, path: str) -> None:
    status, refusal = await answer(method, path)
    assert (status, refusal["error"]) == (400, f"{path} is asked with GET or POST, not {method}")


@pytest.mark.parametrize("path", ["/v2/no", "/v2/models/a/b/c", "/v2/models//infer", "/v2/repository", "/v2/health"])
async def test_an_unknown_route_is_not_found(path: str) -> None:
    assert (await answer("GET", path))[0] == 404


async def test_generating_is_not_served() -> None:
    assert (await answer("POST", f"{MODEL}/generate", {}))[0] == 501


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.INVALID_ARGUMENT, 400),
        (Status.NOT_FOUND, 404),
        (Status.UNAVAILABLE, 503),
        (Status.UNIMPLEMENTED, 501),
        (Status.INTERNAL, 500),
        (Status.RESOURCE_EXHAUSTED, 429),
        (Status.DEADLINE_EXCEEDED, 504),
    ],
)
async def test_a_status_becomes_its_code(status: Status, code: int) -> None:
    def refuse(_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise RequestError(status, "no\ud800")

    assert (await answer("POST", f"{MODEL}/infer", question([1], [1]), example(compute=refuse))) == (
        code,
        {"error": "no?"},
    )


async def test_the_recorded_binary_request_is_read(shared_vectors: Path) -> None:
    body = (shared_vectors / "serving" / "oip_http_binary_request.body").read_bytes()

    def two(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert inputs["input"].array.tolist() == [[0.0, 0.25, 0.5], [0.75, 1.0, 1.25]]
        return {"predict": Tensor(1, np.array([[0.25, 0.75]], np.float32))}

    models = example({"input": 1}, {"predict": 1}, two)
    head, behind = parted(await call("POST", f"{MODEL}/infer", body, models, {LENGTH: "173"}))
    recorded = (shared_vectors / "serving" / "oip_http_binary_response.body").read_bytes()
    wanted = {**json.loads(recorded[:170]), "model_name": "half_plus_two", "model_version": "123"}
    assert (head, behind) == (wanted, recorded[170:])


async def test_half_a_character_is_refused_where_no_answer_can_repeat_it() -> None:
    for body in (
        rb'{"id":"\ud800","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1.0]}]}',
        rb'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["\ud800"]}]}',
    ):
        status, answered = await answer("POST", f"{MODEL}/infer", body)
        assert (status, "half a character" in answered["error"]) == (400, True)


@pytest.mark.parametrize("compressed", [True, False])
async def test_the_json_of_an_inference_is_bounded_once_it_is_inflated(compressed: bool) -> None:
    rest = OipRest(Plane(example()), max_inflated=1 << 20, max_json=300)
    codes = []
    for count in (10, 200):
        raw = json.dumps(question([1.0] * count, [count])).encode()
        body, headers = (gzip.compress(raw), {"content-encoding": "gzip"}) if compressed else (raw, {})
        response = await rest.handle(HttpRequest("POST", f"{MODEL}/infer", "", headers, body, None))
        codes.append((response.status, b"--max_json_bytes" in response.body))
    assert codes == [(200, False), (429, True)]


async def test_an_inference_is_not_waited_for_beyond_the_time_of_a_request() -> None:
    class Stuck(FakeServed):
        def submit(self, *_: Any, **__: Any) -> Future[dict[str, Tensor]]:
            return Future()

    served = example().find(Selector("half_plus_two"))
    models = FakeModels(Stuck(served.name, served.version, served.signatures, echo))
    rest = OipRest(Plane(models), max_inflated=1 << 20, timeout=0.05)
    body = json.dumps(question([1.0], [1])).encode()
    async with asyncio.timeout(60):
        response = await rest.handle(HttpRequest("POST", f"{MODEL}/infer", "", {}, body, None))
    assert response.status == 504
