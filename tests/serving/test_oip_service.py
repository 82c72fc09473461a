"""The Open Inference Protocol's gRPC methods, in memory."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.served import FakeModels, example
from tacit.edge import GrpcCall, GrpcStreaming
from tacit.errors import RequestError, Status
from tacit.serving.oip.service import PATH, OipService, read_question
from tacit.serving.plane import Plane, Selector, State, VersionStatus
from tacit.wire.pb import inference_pb2 as wire
from tacit.wire.raw_tensor import DATATYPES, dtype_of, encode_raw, parse_raw
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

CALL = GrpcCall("", {}, None, None)


def echo(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"y": inputs["x"]}


async def call(method: str, message: Any = None, models: FakeModels | None = None) -> bytes:
    handler = OipService(Plane(models or example())).handlers()[PATH + method]
    assert not isinstance(handler, GrpcStreaming)
    return await handler(
        message.SerializeToString() if message is not None else b"", GrpcCall(PATH + method, {}, None, None)
    )


async def refused(method: str, message: Any, models: FakeModels | None = None) -> tuple[Status, str]:
    with pytest.raises(RequestError) as refusal:
        await call(method, message, models)
    return refusal.value.status, str(refusal.value)


def request(values: np.ndarray, datatype: str = "FP32", *, raw: bool = True, **more: Any) -> wire.ModelInferRequest:
    message = wire.ModelInferRequest(model_name="half_plus_two", id="42", **more)
    entry = message.inputs.add(name="x", datatype=datatype, shape=values.shape)
    if raw:
        message.raw_input_contents.append(encode_raw(Tensor(dtype_of(datatype, name="x"), values)))
    else:
        entry.contents.fp32_contents.extend(values.ravel().tolist())
    return message


async def infer(message: wire.ModelInferRequest, models: FakeModels | None = None) -> wire.ModelInferResponse:
    return wire.ModelInferResponse.FromString(await call("ModelInfer", message, models))


FLOATS = np.array([[1], [2]], np.float32)


async def test_raw_is_answered_raw() -> None:
    response = await infer(request(FLOATS))
    assert (response.model_name, response.model_version, response.id) == ("half_plus_two", "123", "42")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2, 1])
    assert list(response.raw_output_contents) == [np.array([2.5, 3], np.float32).tobytes()]
    assert not output.HasField("contents")


async def test_typed_is_answered_typed() -> None:
    response = await infer(request(FLOATS, raw=False))
    assert list(response.outputs[0].contents.fp32_contents) == [2.5, 3.0]
    assert not response.raw_output_contents


@pytest.mark.parametrize("dtype", [number for number in DATATYPES if number != 7])
async def test_every_datatype_travels_raw(dtype: int) -> None:
    values = np.array([[0, 1, 1]]).astype(ELEMENT_TYPES[dtype].memory)
    models = example({"x": dtype}, {"y": dtype}, echo)
    response = await infer(request(values, DATATYPES[dtype]), models)
    assert response.outputs[0].datatype == DATATYPES[dtype]
    assert response.raw_output_contents[0] == values.tobytes()


FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@pytest.mark.parametrize("datatype", FIELDS)
async def test_every_datatype_with_a_field_travels_typed(datatype: str) -> None:
    dtype = dtype_of(datatype, name="x")
    values = [b"a", b""] if datatype == "BYTES" else [True, False] if datatype == "BOOL" else [1, 0]
    message = wire.ModelInferRequest(model_name="half_plus_two")
    entry = message.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(entry.contents, FIELDS[datatype]).extend(values)
    response = await infer(message, example({"x": dtype}, {"y": dtype}, echo))
    assert list(getattr(response.outputs[0].contents, FIELDS[datatype])) == values


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
async def test_a_datatype_without_a_field_is_refused_typed_and_answered_raw(datatype: str) -> None:
    dtype = dtype_of(datatype, name="x")
    message = wire.ModelInferRequest(model_name="half_plus_two")
    message.inputs.add(name="x", datatype=datatype, shape=[1]).contents.fp32_contents.append(1)
    status, text = await refused("ModelInfer", message, example({"x": dtype}))
    assert (status, "raw_input_contents" in text) == (Status.INVALID_ARGUMENT, True)


async def test_bytes_are_lengths_and_bytes() -> None:
    words = np.array([b"hello", b"", b"\x00\xff"], object)
    raw = encode_raw(Tensor(7, words))
    assert raw == b"\x05\x00\x00\x00hello\x00\x00\x00\x00\x02\x00\x00\x00\x00\xff"
    assert parse_raw(raw, 7, (3,), name="x").array.tolist() == words.tolist()


@pytest.mark.parametrize(
    ("raw", "shape"),
    [
        (b"\x05\x00\x00\x00hell", (1,)),
        (b"\x05\x00\x00", (1,)),
        (b"\x01\x00\x00\x00a\x01", (1,)),
        (b"\x01\x00\x00\x00a\x01\x00", (2,)),
        (b"", (2**61,)),
        (b"\xff\xff\xff\xff", (1,)),
    ],
)
def test_t44_bytes_that_do_not_fit_their_shape_are_refused(raw: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="input 'x'") as refusal:
        parse_raw(raw, 7, shape, name="x")
    assert refusal.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", [[2**40], [2**31, 2**31, 2**31], [-1], [1] * 65, [0, 2**62]])
async def test_t44_a_shape_that_its_bytes_do_not_fill_is_refused_before_memory_is_taken(shape: list[int]) -> None:
    message = wire.ModelInferRequest(model_name="half_plus_two", raw_input_contents=[b"1234"])
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    assert (await refused("ModelInfer", message))[0] is Status.INVALID_ARGUMENT
    del message.raw_input_contents[:]
    assert (await refused("ModelInfer", message))[0] is Status.INVALID_ARGUMENT


async def test_refusals_name_what_is_wrong() -> None:
    async def text_of(change: Any, status: Status = Status.INVALID_ARGUMENT) -> str:
        message = request(FLOATS)
        change(message)
        found, text = await refused("ModelInfer", message)
        assert found is status, text
        return text

    def both(message: wire.ModelInferRequest) -> None:
        message.inputs[0].contents.fp32_contents.append(1)

    def shared(message: wire.ModelInferRequest) -> None:
        message.inputs[0].parameters["shared_memory_region"].string_param = "r"

    def shared_output(message: wire.ModelInferRequest) -> None:
        message.outputs.add(name="y").parameters["shared_memory_region"].string_param = "r"

    def twice(message: wire.ModelInferRequest) -> None:
        message.inputs.append(message.inputs[0])
        message.raw_input_contents.append(message.raw_input_contents[0])

    assert "must not be specified" in await text_of(both)
    assert "shared memory" in await text_of(shared, Status.UNIMPLEMENTED)
    assert "shared memory" in await text_of(shared_output, Status.UNIMPLEMENTED)
    assert "given twice" in await text_of(twice)
    assert "1 per" not in await text_of(lambda m: m.raw_input_contents.append(b""))
    assert "datatype" in await text_of(lambda m: setattr(m.inputs[0], "datatype", "FP31"))
    assert "expecting 8" in await text_of(lambda m: m.raw_input_contents.__setitem__(0, b"1234"))
    assert "int32" in await text_of(lambda m: setattr(m.inputs[0], "datatype", "INT32"))
    assert "unknown model: 'no'" in await text_of(lambda m: setattr(m, "model_name", "no"), Status.NOT_FOUND)
    assert "version 7" in await text_of(lambda m: setattr(m, "model_version", "7"), Status.NOT_FOUND)
    assert "'one'" in await text_of(lambda m: setattr(m, "model_version", "one"))
    assert "names no model" in await text_of(lambda m: setattr(m, "model_name", ""))
    assert "Missing but required: {x}" in await text_of(
        lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents"))
    )
    assert "no" in await text_of(lambda m: m.outputs.add(name="no"))


async def test_a_message_that_is_none_is_refused() -> None:
    handler: Any = OipService(Plane(example())).handlers()[PATH + "ModelInfer"]
    with pytest.raises(RequestError) as refusal:
        await handler(b"\xff\xff", CALL)
    assert refusal.value.status is Status.INTERNAL


async def test_a_model_that_is_being_loaded_is_unavailable_and_not_unknown() -> None:
    class Loading(FakeModels):
        def find(self, selector: Selector) -> Any:
            raise RequestError(Status.NOT_FOUND, "no")

        def statuses(self, model: str) -> Any:
            return (VersionStatus(1, State.LOADING),) if model == "half_plus_two" else ()

    models = Loading(example()._served)
    assert (await refused("ModelInfer", request(FLOATS), models))[0] is Status.UNAVAILABLE
    for name in ("half_plus_two", "no"):
        ready = await call("ModelReady", wire.ModelRequest(name=name), models)
        assert not wire.ModelReadyResponse.FromString(ready).ready


async def test_outputs_are_chosen_and_classified() -> None:
    def scores(_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": Tensor(1, np.array([[0.25, 0.5, 0.125], [3, 1, 2]], np.float32))}

    message = request(FLOATS)
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    response = await infer(message, example(compute=scores))
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    found = parse_raw(response.raw_output_contents[0], 7, (2, 2), name="y").array.tolist()
    assert found == [[b"0.500000:1", b"0.250000:0"], [b"3.000000:0", b"2.000000:2"]]


async def test_parameters_of_measuring_clients_are_ignored() -> None:
    message = request(FLOATS)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    message.parameters["sequence_id"].int64_param = 7
    message.parameters["priority"].uint64_param = 1
    assert (await infer(message)).outputs[0].name == "y"


async def test_a_timeout_becomes_a_deadline() -> None:
    message = request(FLOATS)
    message.parameters["timeout"].int64_param = 5000
    assert read_question(message).timeout == 5000
    message.parameters["timeout"].string_param = "6000"
    assert read_question(message).timeout == 6000
    message.parameters["timeout"].int64_param = -1
    with pytest.raises(RequestError, match="timeout"):
        read_question(message)


async def test_the_server_and_its_models_are_told_of() -> None:
    assert wire.ServerLiveResponse.FromString(await call("ServerLive")).live
    assert wire.ServerReadyResponse.FromString(await call("ServerReady")).ready
    server = wire.ServerMetadataResponse.FromString(await call("ServerMetadata"))
    assert (server.name, "binary_tensor_data" in server.extensions) == ("tacit", True)
    asked = wire.ModelRequest(name="half_plus_two")
    assert wire.ModelReadyResponse.FromString(await call("ModelReady", asked)).ready
    metadata = wire.ModelMetadataResponse.FromString(await call("ModelMetadata", asked))
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("half_plus_two", ["123"], "fake")
    assert (metadata.inputs[0].name, metadata.inputs[0].datatype) == ("x", "FP32")
    assert list(metadata.inputs[0].shape) == [-1, 1]
    config = wire.ModelConfigResponse.FromString(await call("ModelConfig", asked)).config
    assert config.max_batch_size > 0
    assert (config.input[0].data_type, list(config.input[0].dims)) == (wire.ModelConfig.TYPE_FP32, [1])
    assert not config.model_transaction_policy.decoupled


async def test_statistics_count_what_was_done() -> None:
    models = example()
    models._served.statistics.ran(4, 1000)
    models._served.statistics.success.add(2000)
    for asked in (
        wire.ModelRequest(name="half_plus_two"),
        wire.ModelRequest(name="half_plus_two", version="123"),
        None,
    ):
        (row,) = wire.ModelStatisticsResponse.FromString(await call("ModelStatistics", asked, models)).model_stats
        assert (row.name, row.version, row.inference_count, row.execution_count) == ("half_plus_two", "123", 4, 1)
        assert (row.inference_stats.success.count, row.inference_stats.success.ns) == (1, 2000)
        parts = row.inference_stats
        for part in (parts.queue, parts.compute_input, parts.compute_infer, parts.compute_output):
            assert part.count == 1, "a request has each part once: who measures checks that"
        assert (row.batch_stats[0].batch_size, row.batch_stats[0].compute_infer.ns) == (4, 1000)
    status, _ = await refused("ModelStatistics", wire.ModelRequest(name="no"), models)
    assert status is Status.NOT_FOUND


async def test_the_repository_is_listed_loaded_and_unloaded() -> None:
    models = example()
    listed = wire.RepositoryIndexResponse.FromString(
        await call("RepositoryIndex", wire.RepositoryIndexRequest(), models)
    )
    assert [(m.name, m.version, m.state) for m in listed.models] == [("half_plus_two", "123", "READY")]
    asked = wire.RepositoryModelRequest(model_name="half_plus_two")
    assert await call("RepositoryModelLoad", asked, models) == b""
    assert await call("RepositoryModelUnload", asked, models) == b""
    assert models.loads == ["load half_plus_two", "unload half_plus_two"]
    unknown = wire.RepositoryModelRequest(model_name="no")
    assert (await refused("RepositoryModelLoad", unknown, models))[0] is Status.NOT_FOUND
    asked.parameters["file:1/model.onnx"].bytes_param = b"x"
    assert (await refused("RepositoryModelLoad", asked, models))[0] is Status.UNIMPLEMENTED
    assert len(models.loads) == 2


async def test_a_version_that_was_taken_away_says_so_and_one_that_failed_says_why() -> None:
    class Ended(FakeModels):
        def statuses(self, model: str) -> Any:
            failed = VersionStatus(2, State.END, Status.INVALID_ARGUMENT, "no model")
            return (failed, VersionStatus(1, State.END), VersionStatus(0, State.AVAILABLE))

    listed = await call("RepositoryIndex", wire.RepositoryIndexRequest(), Ended(example()._served))
    assert [(m.version, m.state, m.reason) for m in wire.RepositoryIndexResponse.FromString(listed).models] == [
        ("2", "UNAVAILABLE", "no model"), ("1", "UNAVAILABLE", "unloaded"), ("0", "READY", "")
    ]  # fmt: skip


async def test_nobody_traces_a_model_that_does_not_answer() -> None:
    assert await call("TraceSetting", wire.TraceSetting(model_name="half_plus_two"))
    asked = wire.TraceSetting(model_name="no")
    refusal = Status.INVALID_ARGUMENT, "Request for unknown model : no"
    assert await refused("TraceSetting", asked) == refusal
    asked.settings["trace_level"].value[:] = ["TENSORS"]
    assert await refused("TraceSetting", asked) == refusal


async def test_settings_are_told_and_not_changed() -> None:
    trace = wire.TraceSetting.FromString(await call("TraceSetting", wire.TraceSetting()))
    assert list(trace.settings["trace_level"].value) == ["OFF"]
    trace.settings["trace_level"].value[:] = ["TENSORS"]
    assert (await refused("TraceSetting", trace))[0] is Status.UNIMPLEMENTED
    log = wire.LogSettings.FromString(await call("LogSettings", wire.LogSettings()))
    assert log.settings["log_info"].bool_param
    await call("LogSettings", log)
    log.settings["log_verbose_level"].uint32_param = 5
    assert (await refused("LogSettings", log))[0] is Status.UNIMPLEMENTED
    log.settings["no"].bool_param = True
    assert (await refused("LogSettings", log))[0] in (Status.UNIMPLEMENTED, Status.INVALID_ARGUMENT)


@pytest.mark.parametrize("kind", ["SystemSharedMemory", "CudaSharedMemory"])
async def test_shared_memory_is_refused_by_name(kind: str) -> None:
    for name in ("Status", "Register", "Unregister"):
        status, text = await refused(kind + name, None)
        assert (status, kind + name in text) == (Status.UNIMPLEMENTED, True)


async def test_a_stream_answers_in_order_and_outlives_a_refusal() -> None:
    async def messages() -> AsyncIterator[bytes]:
        bad = request(FLOATS)
        bad.model_name, bad.id = "no", "bad"
        for message in (request(FLOATS), bad, request(FLOATS)):
            yield message.SerializeToString()

    method = OipService(Plane(example())).handlers()[PATH + "ModelStreamInfer"]
    assert isinstance(method, GrpcStreaming)
    answers = [wire.ModelStreamInferResponse.FromString(raw) async for raw in method.handler(messages(), CALL)]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert [answer.infer_response.id for answer in answers] == ["42", "bad", "42"]
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param


# ---- recorded messages


def recorded(folder: Path) -> list[dict[str, Any]]:
    index = json.loads((folder / "index.json").read_text())
    return [entry for entry in index["vectors"] if entry["message"].startswith("inference.ModelInferRequest")]


async def test_recorded_requests_are_read_alike(shared_vectors: Path) -> None:
    folder = shared_vectors / "serving"
    seen = 0
    for entry in recorded(folder):
        message = wire.ModelInferRequest.FromString((folder / entry["file"]).read_bytes())
        message.model_name = "half_plus_two"
        message.model_version = ""
        del message.outputs[:]
        inputs = {tensor.name: dtype_of(tensor.datatype, name=tensor.name) for tensor in message.inputs}
        models = example(inputs, {"y": 1}, lambda given: {"y": Tensor(1, np.zeros(1, np.float32))})
        if entry.get("expect_error"):
            status, _ = await refused("ModelInfer", message, models)
            assert status.name == entry["expect_error"], entry["name"]
        else:
            await infer(message, models)
            for name, wanted in entry.get("expect", {}).items():
                tensor = _decoded(message, name)
                assert list(tensor.shape) == wanted["shape"]
                if "values" in wanted:
                    assert tensor.array.ravel().tolist() == wanted["values"]
                if "values_hex" in wanted:
                    assert [value.hex() for value in tensor.array] == wanted["values_hex"]
        seen += 1
    assert seen >= 14


def _decoded(message: wire.ModelInferRequest, name: str) -> Tensor:
    from tacit.serving.oip.service import _decode

    return _decode(name, read_question(message).inputs[name])


async def test_recorded_answers_have_our_fields(shared_vectors: Path) -> None:
    folder = shared_vectors / "serving"
    raw = (folder / "oip_infer_resp_raw.bin").read_bytes()
    response = wire.ModelInferResponse.FromString(raw)
    assert response.SerializeToString(deterministic=True) == raw
    for name, kind in {
        "oip_infer_resp_typed": wire.ModelInferResponse,
        "oip_server_metadata_resp": wire.ServerMetadataResponse,
        "oip_model_metadata_resp": wire.ModelMetadataResponse,
        "oip_model_ready_req": wire.ModelRequest,
        "oip_statistics_resp": wire.ModelStatisticsResponse,
        "oip_repository_index_resp": wire.RepositoryIndexResponse,
        "oip_repository_load_req": wire.RepositoryModelRequest,
    }.items():
        raw = (folder / f"{name}.bin").read_bytes()
        assert kind.FromString(raw).SerializeToString(deterministic=True) == raw, name
