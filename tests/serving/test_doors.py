"""Both protocols on both ports, and what stands before them: the real server, with its command line."""

import asyncio
import json
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest

from fakes import models
from tacit.errors import UsageError
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.tls import client_context
from tacit.programs.model_server import server
from tacit.programs.model_server.models import load_batching
from tacit.serving.batching import BatchRules
from tacit.serving.oip.service import PATH
from tacit.serving.tfs.config import parse_batching
from tacit.serving.tfs.flags import parse_flags
from tacit.wire.pb import inference_pb2 as oip

ROWS = np.ones((2, 4), np.float32)
EXPECTED = ROWS @ models.WEIGHTS


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.onnx_model())
    return folder.parent


def flags_for(plain: Path, *more: str) -> list[str]:
    return ["--model_name=m", f"--model_base_path={plain}", *more]


async def until_ready(channel: grpc.aio.Channel) -> None:
    async with asyncio.timeout(300):
        while not oip.ServerReadyResponse.FromString(await channel.unary_unary(PATH + "ServerReady")(b"")).ready:
            await asyncio.sleep(0.05)


def infer_message(rows: np.ndarray = ROWS) -> bytes:
    message = oip.ModelInferRequest(model_name="m", raw_input_contents=[rows.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    return message.SerializeToString()


def infer_json(rows: np.ndarray = ROWS) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}


@pytest.mark.parametrize("edge", ["tacit", "grpcio"])
async def test_both_protocols_answer_on_both_ports(serving: Any, plain: Path, edge: str) -> None:
    async with serving(flags_for(plain, f"--edge={edge}"), {}) as ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            await until_ready(channel)
            answer = oip.ModelInferResponse.FromString(await channel.unary_unary(PATH + "ModelInfer")(infer_message()))
            found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
            np.testing.assert_allclose(found, EXPECTED, rtol=1e-6)
            stream = channel.stream_stream(PATH + "ModelStreamInfer")(iter([infer_message()] * 3))
            streamed = [oip.ModelStreamInferResponse.FromString(raw) async for raw in stream]
            assert [each.infer_response.raw_output_contents[0] for each in streamed] == [
                answer.raw_output_contents[0]
            ] * 3
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", trust_env=False) as client:
            v2 = (await client.post("/v2/models/m/infer", json=infer_json())).json()
            np.testing.assert_allclose(v2["outputs"][0]["data"], EXPECTED.ravel(), rtol=1e-6)
            v1 = (await client.post("/v1/models/m:predict", json={"instances": ROWS.tolist()})).json()
            np.testing.assert_allclose(v1["predictions"], EXPECTED, rtol=1e-6)
            stats = (await client.get("/v2/models/m/stats")).json()["model_stats"][0]
            assert stats["inference_stats"]["success"]["count"] >= 6
            assert (await client.get("/no")).status_code == 404


async def test_a_silent_stream_of_inferences_does_not_hold_up_the_end(
    serving: Any, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_DRAIN", 600.0)
    async with serving(flags_for(plain), {}) as ports:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}")
        await until_ready(channel)
        stream = channel.stream_stream(PATH + "ModelStreamInfer")()
        await stream.write(infer_message())
        assert oip.ModelStreamInferResponse.FromString(await stream.read()).infer_response.model_name == "m"
        begun = time.monotonic()
    assert time.monotonic() - begun < 60  # of the 600 seconds that there are for what is under way
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def test_a_server_without_models_that_answer_is_not_ready(serving: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    async with (
        serving(flags_for(tmp_path / "empty"), {}) as ports,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", trust_env=False) as client,
    ):
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 503
        assert (await client.get("/v2/models/m/ready")).status_code == 503
        async with asyncio.timeout(60):
            while (answer := await client.post("/v2/models/m/infer", json=infer_json())).status_code == 503:
                await asyncio.sleep(0.05)  # as long as the first look lasts
        assert answer.status_code == 404


async def test_a_model_is_unloaded_and_loaded_again(serving: Any, plain: Path) -> None:
    async with serving(flags_for(plain, "--file_system_poll_wait_seconds=1"), {}) as ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            await until_ready(channel)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", trust_env=False) as client:
            assert (await client.post("/v2/repository/models/m/unload")).status_code == 200
            await asyncio.sleep(1.2)  # a look at the storage brings back nothing that a client took away
            assert (await client.post("/v2/models/m/infer", json=infer_json())).status_code == 404
            assert (await client.get("/v2/health/ready")).status_code == 503
            assert (await client.post("/v2/repository/index")).json()[0]["state"] == "UNAVAILABLE"
            assert (await client.post("/v2/repository/models/m/load")).status_code == 200
            assert (await client.post("/v2/models/m/infer", json=infer_json())).status_code == 200
            (plain / "1" / "model.onnx").write_bytes(b"no model")
            assert (await client.post("/v2/repository/models/m/unload")).status_code == 200
            failed = await client.post("/v2/repository/models/m/load")
            assert (failed.status_code, "failed to load" in failed.json()["error"]) == (400, True)


@pytest.mark.parametrize("port", ["grpc", "grpc_socket"])
@pytest.mark.parametrize("way", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_answered_on_every_port_that_speaks_grpc(
    serving: Any, plain: Path, tmp_path: Path, port: str, way: grpc.Compression
) -> None:
    rows = np.ones((1000, 4), np.float32)
    async with serving(flags_for(plain, f"--grpc_socket_path={tmp_path / 'grpc'}"), {}) as ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            await until_ready(channel)
        where = f"unix:{tmp_path / 'grpc'}" if port == "grpc_socket" else f"127.0.0.1:{ports['grpc']}"
        async with grpc.aio.insecure_channel(where, compression=way) as channel:
            raw = await channel.unary_unary(PATH + "ModelInfer")(infer_message(rows))
            assert list(oip.ModelInferResponse.FromString(raw).outputs[0].shape) == [1000, 3]
            stream = channel.stream_stream(PATH + "ModelStreamInfer")(iter([infer_message(rows)] * 2))
            streamed = [oip.ModelStreamInferResponse.FromString(raw) async for raw in stream]
            assert [list(each.infer_response.outputs[0].shape) for each in streamed] == [[1000, 3]] * 2


@pytest.mark.parametrize("named", [["m"], []])
async def test_t44_nothing_is_inflated_where_not_everybody_may_call(
    serving: Any, plain: Path, server_identity: KeyPair, named: list[str]
) -> None:
    clients = {"c": {"certificate": "", "token": sha256(b"secret").hexdigest(), "models": named}}
    environ = {**attested(server_identity), "TACIT_CLIENTS": json.dumps(clients)}
    credentials = grpc.ssl_channel_credentials(server_identity.certificate_pem)
    message, shown = infer_message(np.ones((1000, 4), np.float32)), (("authorization", "Bearer secret"),)
    async with (
        serving(flags_for(plain), environ) as ports,
        grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel,
    ):
        await until_ready(channel)
        call = channel.unary_unary(PATH + "ModelInfer")
        assert await call(message, metadata=shown)
        if not named:
            assert await call(message, compression=grpc.Compression.Gzip)
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(message, metadata=shown, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("flag", ["--max_client_requests=5", "--max_client_rate=1000"])
async def test_t44_nothing_is_inflated_before_a_client_was_counted(serving: Any, plain: Path, flag: str) -> None:
    async with (
        serving([*flags_for(plain), flag], {}) as ports,
        grpc.aio.insecure_channel(f"localhost:{ports['grpc']}") as channel,
    ):
        await until_ready(channel)
        call, message = channel.unary_unary(PATH + "ModelInfer"), infer_message(np.ones((1000, 4), np.float32))
        assert await call(message)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(message, compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def attested(identity: KeyPair, manager: KeyPair | None = None) -> dict[str, str]:
    clients = (
        {"manager": {"certificate": sha256(manager.certificate_der).hexdigest(), "management": True}} if manager else {}
    )
    return {
        "TACIT_TEE": "unattested",
        "TACIT_CLIENTS": json.dumps(clients),
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": identity.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": identity.key_pem.decode(),
    }


REFUSED = (401, 403, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
ROUTES = [
    "POST /v2/repository/models/m/load",
    "POST /v2/repository/models/m/unload",
    "POST /v2/repository/other/models/m/load",
    PATH + "RepositoryModelLoad",
    PATH + "RepositoryModelUnload",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("who", ["named", "other", "nobody"])
async def test_t47_an_attested_server_is_managed_only_by_whom_its_manifest_names(
    serving: Any, plain: Path, server_identity: KeyPair, route: str, who: str
) -> None:
    now = datetime.now(UTC)
    named = issue_self_signed([], common_name="manager", now=now)
    shown = {"named": named, "other": issue_self_signed([], common_name="manager", now=now), "nobody": None}[who]
    async with serving(flags_for(plain), attested(server_identity, named)) as ports:
        status = await manage(route, ports, server_identity, shown)
    if who == "named":
        assert status not in REFUSED
    else:
        assert status in REFUSED


@pytest.mark.parametrize("route", ROUTES)
async def test_t47_an_attested_server_is_managed_by_nobody_unless_somebody_is_named(
    serving: Any, plain: Path, server_identity: KeyPair, route: str
) -> None:
    async with serving(flags_for(plain), attested(server_identity)) as ports:
        assert await manage(route, ports, server_identity, None) in REFUSED


async def manage(route: str, ports: dict[str, int], server: KeyPair, shown: KeyPair | None) -> Any:
    if not route.startswith("POST "):
        credentials = grpc.ssl_channel_credentials(
            server.certificate_pem, shown.key_pem if shown else None, shown.certificate_pem if shown else None
        )
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            await until_ready(channel)
            try:
                await channel.unary_unary(route)(oip.RepositoryModelRequest(model_name="m").SerializeToString())
            except grpc.aio.AioRpcError as exc:
                return exc.code()
            return grpc.StatusCode.OK
    trusted = client_context(roots_pem=server.certificate_pem, certificate=shown)
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
        return (await client.post(f"https://localhost:{ports['rest']}{route.removeprefix('POST ')}")).status_code


async def test_refusals_of_size_name_their_flags(serving: Any, plain: Path) -> None:
    flags = flags_for(plain, "--max_json_bytes=300", "--max_message_bytes=1000")
    async with serving(flags, {}) as ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", trust_env=False) as client:
            for path, body in (
                ("/v2/models/m/infer", infer_json),
                ("/v1/models/m:predict", lambda r: {"inputs": r.tolist()}),
            ):
                refused = await client.post(path, json=body(np.ones((20, 4), np.float32)))
                assert (refused.status_code, "--max_json_bytes" in json.loads(refused.text)["error"]) == (429, True)
                refused = await client.post(path, json=body(np.ones((100, 4), np.float32)))
                assert (refused.status_code, "--max_message_bytes" in json.loads(refused.text)["error"]) == (413, True)
            # Only the Open Inference Protocol has bytes behind its JSON.
            lying = {"Inference-Header-Content-Length": "1"}
            refused = await client.post("/v1/models/m:predict", json={"inputs": [[1.0] * 4] * 20}, headers=lying)
            assert (refused.status_code, "--max_json_bytes" in json.loads(refused.text)["error"]) == (429, True)
            head = json.dumps(
                {
                    "inputs": [
                        {"name": "x", "datatype": "FP32", "shape": [40, 4], "parameters": {"binary_data_size": 640}}
                    ]
                }
            )
            length = {"Inference-Header-Content-Length": str(len(head))}
            raw = head.encode() + np.ones((40, 4), np.float32).tobytes()
            answered = await client.post("/v2/models/m/infer", content=raw, headers=length)
            assert answered.status_code in (200, 404, 503)  # not too much JSON, whether or not the model is there yet
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="--max_message_bytes") as refusal:
                await channel.unary_unary(PATH + "ModelInfer")(infer_message(np.ones((100, 4), np.float32)))
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_t57_a_client_beyond_its_rate_is_refused_on_both_ports_and_probes_never_are(
    serving: Any, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true path: "/counts" }')
    flags = flags_for(plain, "--max_client_rate=1", f"--monitoring_config_file={tmp_path / 'monitoring'}")
    async with serving(flags, {}) as ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['rest']}", trust_env=False) as client:
            async with asyncio.timeout(300):
                while (await client.get("/v2")).status_code != 429:  # a busy machine may ask less often than it may
                    pass
            probes = ["/v2/health/live", "/counts"] * 3 + ["/v2/health/ready"] * 3
            assert 429 not in [(await client.get(probe)).status_code for probe in probes]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            told = channel.unary_unary(PATH + "ServerMetadata")
            refused = list[grpc.aio.AioRpcError]()
            async with asyncio.timeout(300):
                while not refused:
                    answers = await asyncio.gather(*(told(b"") for _ in range(3)), return_exceptions=True)
                    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
            for probe in ("/grpc.health.v1.Health/Check", PATH + "ServerLive", PATH + "ServerReady"):
                await asyncio.gather(*(channel.unary_unary(probe)(b"") for _ in range(3)))
    assert all("--max_client_rate" in str(refusal.details()) for refusal in refused)


async def test_what_queues_while_a_model_is_busy_is_one_batch(serving: Any, plain: Path, tmp_path: Path) -> None:
    (plain / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]")
    flags = flags_for(plain, "--enable_batching", "--enable_per_model_batching_parameters")
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await until_ready(channel)
        infer = channel.unary_unary(PATH + "ModelInfer")
        rows = np.ones((20_000, 4), np.float32)  # beyond a batch, and beyond what is run by who asks
        answers = [oip.ModelInferResponse.FromString(await infer(infer_message(rows[:count]))) for count in (3, 20_000)]
        assert [list(answer.outputs[0].shape) for answer in answers] == [[3, 3], [20_000, 3]]
        config = oip.ModelConfigResponse.FromString(
            await channel.unary_unary(PATH + "ModelConfig")(oip.ModelRequest(name="m").SerializeToString())
        ).config
        assert config.max_batch_size == 8
        stats = oip.ModelStatisticsResponse.FromString(
            await channel.unary_unary(PATH + "ModelStatistics")(b"")
        ).model_stats[0]
    assert stats.execution_count >= 2500  # the large one was split


def test_batching_parameters_are_read_and_checked() -> None:
    rules = parse_batching(
        "max_batch_size { value: 32 } batch_timeout_micros { value: 1500 } max_enqueued_batches { value: 7 }"
        " num_batch_threads { value: 4 } thread_pool_name { value: 'p' } allowed_batch_sizes: 8 allowed_batch_sizes: 16"
        " pad_variable_length_inputs: true enable_large_batch_splitting { value: false }"
        " max_execution_batch_size { value: 16 }"
    )
    assert rules == BatchRules(32, 0.0015, 7, (8, 16), pad=True, split=False, max_execution=16)
    assert parse_batching("") == BatchRules()
    with pytest.raises(UsageError, match="BatchingParameters"):
        parse_batching("max_batch_size: 1")
    with pytest.raises(UsageError, match="increase"):
        parse_batching("allowed_batch_sizes: [4, 2]")


def test_parameters_of_batching_without_batching_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--enable_batching"):
        load_batching(parse_flags([f"--batching_parameters_file={tmp_path / 'b'}"]))
