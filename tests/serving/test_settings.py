"""What the command line and its files change about a running server."""

import asyncio
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest

from fakes import models
from fakes.one_line_pem import one_line
from tacit.client.inference import Credential, ServingClient
from tacit.errors import PkiError, RequestError, UsageError
from tacit.pki import CertificateRequest, KeyPair, issue_root, issue_secret_certificate, issue_self_signed
from tacit.pki.tls import client_context
from tacit.programs.model_server.telling import faults_in, open_log
from tacit.serving.tfs.config import SslFile, check_platform_config
from tacit.serving.tfs.flags import FLAGS, parse_flags
from tacit.wire.pb import health_pb2, serving_pb2
from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
NOTHING_NEW = bytes.fromhex("0a020a00")  # a list of no models
ROWS = np.ones((2, 4), np.float32)
EXPECTED = ROWS @ models.WEIGHTS


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(models.onnx_model())
    return folder.parent


def message() -> bytes:
    request = PredictRequest()
    request.model_spec.name = "m"
    encode_tensor(Tensor(1, ROWS), request.inputs["x"], as_content=True)
    return request.SerializeToString()


async def predict(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    async with asyncio.timeout(300):
        while True:
            try:
                response = PredictResponse.FromString(await call(message()))
                break
            except grpc.aio.AioRpcError as exc:
                if exc.code() is not grpc.StatusCode.NOT_FOUND and "for the first time" not in (exc.details() or ""):
                    raise
                await asyncio.sleep(0.05)  # still loading
    np.testing.assert_allclose(parse_tensor(response.outputs["y"]).array, EXPECTED, rtol=1e-6)


def ssl_text(identity: KeyPair, *, client_roots: bytes | None = None) -> str:
    text = f"server_key: '{one_line(identity.key_pem)}' server_cert: '{one_line(identity.certificate_pem)}'\n"
    return text + (f"custom_ca: '{one_line(client_roots)}' client_verify: true\n" if client_roots else "")


def exchange(path: Path, text: str) -> None:
    """A new file in place of the old one, as whoever renews certificates should put it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def logged(capfd: pytest.CaptureFixture[str]) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def identity(*names: str) -> KeyPair:
    return issue_self_signed(list(names) or ["localhost"], common_name="server", now=datetime.now(UTC))


# ---- certificates


async def shown_by(port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return bytes(shown)


async def test_a_certificate_is_exchanged_on_both_ports_while_old_connections_live_on(
    serving: Any, tmp_path: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second, config = identity(), identity(), tmp_path / "ssl.cfg"
    config.write_text(ssl_text(first))
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--ssl_config_file={config}"]
    async with serving(flags, {}) as ports:
        credentials = grpc.ssl_channel_credentials(first.certificate_pem)
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            await predict(channel)
            exchange(config, "nonsense")
            for port in (ports["grpc"], ports["rest"]):
                assert await shown_by(port) == first.certificate_der
            exchange(config, ssl_text(second))
            for port in (ports["grpc"], ports["rest"]):
                assert await shown_by(port) == second.certificate_der
            await predict(channel)
    warned = [line for line in logged(capfd) if line["event"] == "ssl-config-failed"]
    assert len(warned) == 1
    assert "the previous certificate stays in use" in warned[0]["error"]
    assert "nonsense" not in warned[0]["error"]


async def test_the_roots_of_clients_are_exchanged_too(serving: Any, tmp_path: Path, plain: Path) -> None:
    server, now, config = identity(), datetime.now(UTC), tmp_path / "ssl.cfg"
    roots = [issue_root([], now=now) for _ in range(2)]
    request = CertificateRequest("client", "cert-ecdsa", size=256, valid_for=1)
    clients = [issue_secret_certificate(request, issuer=root, now=now) for root in roots]
    config.write_text(ssl_text(server, client_roots=roots[0].certificate_pem))

    async def allowed(port: int, client: KeyPair) -> bool:
        context = client_context(roots_pem=server.certificate_pem, certificate=client)
        async with httpx.AsyncClient(verify=context, trust_env=False) as http:
            try:
                return (await http.get(f"https://localhost:{port}/v1/models/m")).status_code in (200, 404)
            except (httpx.TransportError, ssl.SSLError):
                return False

    async with serving(["--model_name=m", f"--model_base_path={plain}", f"--ssl_config_file={config}"], {}) as ports:
        assert [await allowed(ports["rest"], client) for client in clients] == [True, False]
        exchange(config, ssl_text(server, client_roots=roots[1].certificate_pem))
        assert [await allowed(ports["rest"], client) for client in clients] == [False, True]


def test_what_clients_need_does_not_change_while_the_server_runs(tmp_path: Path) -> None:
    config, told = tmp_path / "ssl.cfg", []
    config.write_text(ssl_text(identity(), client_roots=identity().certificate_pem))
    file = SslFile(config, told.append)
    before = file.client_roots()
    exchange(config, ssl_text(identity()))
    assert file.client_roots() == before
    assert file.client_roots() == before
    (warning,) = told
    assert "client_verify cannot change while the server runs" in warning


def test_a_file_that_is_gone_for_a_while_changes_nothing(tmp_path: Path) -> None:
    config, told = tmp_path / "ssl.cfg", []
    config.write_text(ssl_text(identity()))
    file = SslFile(config, told.append)
    before = file.pair()
    config.unlink()
    assert file.pair() == before
    assert "cannot read" in told[0]


def test_a_key_of_another_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "ssl.cfg"
    one, other = identity(), identity()
    config.write_text(f"server_key: '{one_line(one.key_pem)}' server_cert: '{one_line(other.certificate_pem)}'")
    with pytest.raises((PkiError, UsageError), match="--ssl_config_file="):
        SslFile(config, print)


# ---- other settings


async def test_grpc_is_answered_on_a_unix_socket_too(serving: Any, tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:  # what it leaves behind keeps no other from starting
        killed.bind(str(path))
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--grpc_socket_path={path}"]
    async with serving(flags, {}), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await predict(channel)
    assert not path.exists()


async def test_health_is_truthful_and_can_be_turned_off(serving: Any, tmp_path: Path, plain: Path) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}"]
    check = "/grpc.health.v1.Health/Check"
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await predict(channel)
        answer = await channel.unary_unary(check)(b"")
        assert health_pb2.HealthCheckResponse.FromString(answer).status == 1
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert health_pb2.HealthCheckResponse.FromString(await watch.read()).status == 1
        watch.cancel()
    (tmp_path / "ports.json").unlink()
    awaited = ["--model_name=m", f"--model_base_path={tmp_path / 'nowhere'}"]
    async with serving(awaited, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        answer = await channel.unary_unary(check)(b"")
        assert health_pb2.HealthCheckResponse.FromString(answer).status == 2
    (tmp_path / "ports.json").unlink()
    off = [*flags, "--enable_grpc_healthcheck_service=false"]
    async with serving(off, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(check)(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_are_on_the_rest_port_where_the_monitoring_file_puts_them(
    serving: Any, tmp_path: Path, plain: Path
) -> None:
    config = tmp_path / "monitoring.config"
    config.write_text('prometheus_config { enable: true, path: "/metrics" }')
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--monitoring_config_file={config}"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await predict(channel)
        async with httpx.AsyncClient(trust_env=False) as http:
            asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}]}
            await http.post(f"http://127.0.0.1:{ports['rest']}/v2/models/m/infer", json=asked)
            text = (await http.get(f"http://127.0.0.1:{ports['rest']}/metrics")).text
            head = await http.head(f"http://127.0.0.1:{ports['rest']}/metrics")
            elsewhere = await http.get(f"http://127.0.0.1:{ports['rest']}/monitoring/prometheus/metrics")
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1.0' in text
    assert 'tacit_inference_requests_total{model_name="m",outcome="answered",version="1"} 2.0' in text
    assert 'tacit_model_version_state{model_name="m",state="AVAILABLE",version="1"} 1.0' in text
    assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert elsewhere.status_code == 404


async def test_metrics_that_no_port_would_serve_are_told_of(
    serving: Any, tmp_path: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "monitoring.config"
    config.write_text("prometheus_config { enable: true }")
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--monitoring_config_file={config}"]
    async with serving([*flags, "--rest_api_port=0"], {}):
        pass
    (told,) = [line for line in logged(capfd) if line["event"] == "flags-without-effect"]
    assert (told["flags"], "--rest_api_port" in told["message"]) == (["monitoring_config_file"], True)


async def test_models_are_changed_by_a_call_while_the_server_runs(serving: Any, tmp_path: Path, plain: Path) -> None:
    request = serving_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path=str(plain), model_platform="tensorflow")
    flags = ["--model_name=other", f"--model_base_path={plain}", "--file_system_poll_wait_seconds=0"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        reload = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")
        await reload(request.SerializeToString())
        await predict(channel)


async def test_a_server_may_start_without_models_and_be_told_of_them(
    serving: Any, tmp_path: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {}")
    request = serving_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path=str(plain), model_platform="tensorflow")
    flags = [f"--model_config_file={config}"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert health_pb2.HealthCheckResponse.FromString(await check(b"")).status == 2
        await channel.unary_unary(RELOAD)(request.SerializeToString())
        await predict(channel)
        assert health_pb2.HealthCheckResponse.FromString(await check(b"")).status == 1
    assert [line["file"] for line in logged(capfd) if line["event"] == "no-models"] == [str(config)]


@pytest.mark.slow
async def test_no_request_is_lost_while_models_are_exchanged(serving: Any, plain: Path) -> None:
    for version in range(2, 7):
        (plain / str(version)).mkdir()
        (plain / str(version) / "model.onnx").write_bytes(models.onnx_model())
    flags = ["--model_name=m", f"--model_base_path={plain}", "--file_system_poll_wait_seconds=0"]
    answered = 0

    async def ask(channel: grpc.aio.Channel, stop: asyncio.Event) -> None:
        nonlocal answered
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        while not stop.is_set():
            response = PredictResponse.FromString(await call(message()))
            np.testing.assert_allclose(parse_tensor(response.outputs["y"]).array, EXPECTED, rtol=1e-6)
            answered += 1

    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await predict(channel)
        stop = asyncio.Event()
        askers = [asyncio.ensure_future(ask(channel, stop)) for _ in range(4)]
        for version in (1, 2, 3, 4, 5, 6):
            request = serving_pb2.ReloadConfigRequest()
            model = request.config.model_config_list.config.add(name="m", base_path=str(plain))
            model.model_version_policy.specific.versions.append(version)
            await channel.unary_unary(RELOAD)(request.SerializeToString())
        stop.set()
        await asyncio.gather(*askers)
    assert answered > 20


async def test_models_are_changed_by_their_file_while_the_server_runs(
    serving: Any, tmp_path: Path, plain: Path
) -> None:
    def text(name: str) -> str:
        return f'model_config_list {{ config {{ name: "{name}" base_path: "{plain}" model_platform: "tensorflow" }} }}'

    config = tmp_path / "models.config"
    config.write_text(text("other"))
    flags = [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        exchange(config, text("m"))
        await predict(channel)


def environ_of(server: KeyPair, clients: Mapping[str, Any] | None = None) -> dict[str, str]:
    more = {} if clients is None else {"TACIT_CLIENTS": json.dumps(clients)}
    return {
        "TACIT_TEE": "unattested",
        "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": server.certificate_pem.decode(),
        "MARBLE_PREDEFINED_PRIVATE_KEY": server.key_pem.decode(),
        **more,
    }


@pytest.mark.parametrize("edge", ["tacit", "grpcio"])
async def test_t47_a_server_with_an_identity_of_a_coordinator_is_not_managed_by_strangers(
    serving: Any, plain: Path, server_identity: KeyPair, edge: str
) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--edge={edge}"]
    async with serving(flags, environ_of(server_identity)) as ports:
        credentials = grpc.ssl_channel_credentials(server_identity.certificate_pem)
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(RELOAD)(NOTHING_NEW)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            await predict(channel)


async def test_the_manifests_clients_are_known_by_certificate_and_token_on_both_ports(
    serving: Any, plain: Path, server_identity: KeyPair
) -> None:
    import hashlib

    named, stranger = identity("client"), identity("client")
    clients = {
        "one": {"certificate": hashlib.sha256(named.certificate_der).hexdigest(), "models": ["m"], "management": True},
        "two": {"token": hashlib.sha256(b"the token").hexdigest(), "models": ["m"]},
    }

    async def rest(port: int, client: KeyPair | None, **headers: str) -> int:
        context = client_context(roots_pem=server_identity.certificate_pem, certificate=client)
        async with httpx.AsyncClient(verify=context, trust_env=False, headers=headers) as http:
            return (await http.get(f"https://localhost:{port}/v1/models/m")).status_code

    def ask(address: str, credential: Credential | None) -> np.ndarray:
        roots = server_identity.certificate_pem
        with ServingClient(address, roots_pem=roots, credential=credential) as client:
            return client.predict("m", {"x": ROWS}).outputs["y"]

    async with serving(["--model_name=m", f"--model_base_path={plain}"], environ_of(server_identity, clients)) as ports:
        credentials = grpc.ssl_channel_credentials(
            server_identity.certificate_pem, private_key=named.key_pem, certificate_chain=named.certificate_pem
        )
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", credentials) as channel:
            await predict(channel)
            await channel.unary_unary(RELOAD)(NOTHING_NEW)
        anonymous = grpc.ssl_channel_credentials(server_identity.certificate_pem)
        async with grpc.aio.secure_channel(f"localhost:{ports['grpc']}", anonymous) as channel:
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            await call(message(), metadata=(("authorization", "Bearer the token"),))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(message())
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for credential in (Credential(named), Credential(token="the token")):
            found = await asyncio.to_thread(ask, f"localhost:{ports['grpc']}", credential)
            np.testing.assert_allclose(found, EXPECTED, rtol=1e-6)
        with pytest.raises(RequestError, match="authorization: Bearer TOKEN"):
            await asyncio.to_thread(ask, f"localhost:{ports['grpc']}", None)
        assert await rest(ports["rest"], named) == 200
        assert await rest(ports["rest"], None, authorization="Bearer the token") == 200
        assert await rest(ports["rest"], stranger) == 401
        assert await rest(ports["rest"], None) == 401


@pytest.mark.parametrize(
    "method",
    [
        "tensorflow.serving.SessionService/SessionRun",
        "tensorflow.ProfilerService/Profile",
        "tensorflow.ProfilerService/Monitor",
        "tensorflow.ProfileAnalysis/NewSession",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.channelz.v1.Channelz/GetServers",
    ],
)
async def test_t47_no_other_service_answers(serving: Any, plain: Path, method: str) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", "--enable_profiler=true"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{method}")(b"")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ---- flags


async def test_a_flag_without_effect_is_named_once(
    serving: Any, tmp_path: Path, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    platforms = tmp_path / "platforms"
    platforms.write_text('platform_configs { key: "tensorflow" value { source_adapter_config { type_url: "x" } } }')
    flags = ["--model_name=m", f"--model_base_path={plain}", "--grpc_max_threads=4", "--xla_cpu_compilation_enabled"]
    async with serving([*flags, f"--platform_config_file={platforms}"], {}):
        pass
    found = [line["flags"] for line in logged(capfd) if line["event"] == "flags-without-effect"]
    assert found == [["platform_config_file"], ["grpc_max_threads", "xla_cpu_compilation_enabled"]]


async def test_unknown_flags_are_told_and_left_where_that_was_asked_for(
    serving: Any, plain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name=m", f"--model_base_path={plain}", "--strict_flags=false", "--model_nam=x", "word"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await predict(channel)
    (told,) = [line for line in logged(capfd) if line["event"] == "flags-unknown"]
    assert told["flags"] == ["unknown flag --model_nam; did you mean --model_name?", "unexpected argument 'word'"]


PLATFORMS = """
platform_configs {
  key: "tensorflow"
  value {
    source_adapter_config {
      [type.googleapis.com/tensorflow.serving.%s] {
        legacy_config {
          session_config { gpu_options { per_process_gpu_memory_fraction: 0.4 allow_growth: true } }
          batching_parameters { max_batch_size { value: 4 } allowed_batch_sizes: [2, 4] }
        }
      }
    }
  }
}
"""


@pytest.mark.parametrize("adapter", ["SavedModelBundleSourceAdapterConfig", "SessionBundleSourceAdapterConfig"])
async def test_a_platform_file_as_people_have_them_is_read(
    serving: Any, tmp_path: Path, plain: Path, adapter: str
) -> None:
    (tmp_path / "platforms").write_text(PLATFORMS % adapter)
    flags = ["--model_name=m", f"--model_base_path={plain}", f"--platform_config_file={tmp_path / 'platforms'}"]
    async with serving(flags, {}) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        await predict(channel)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "Error parsing text-format tensorflow.serving.PlatformConfigMap"),
        (PLATFORMS % "Another", "Error parsing text-format tensorflow.serving.PlatformConfigMap"),
        ("model_config_list {}", "names no platform"),
        ("", "names no platform"),
        ("a{" * 2000, "nested too deeply"),
    ],
)
def test_a_platform_file_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        check_platform_config(text)


ORIGINAL = (
    "port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms "
    "rest_api_enable_cors_support model_name model_base_path model_config_file "
    "model_config_file_poll_wait_seconds file_system_poll_wait_seconds enable_batching "
    "batching_parameters_file enable_per_model_batching_parameters allow_version_labels_for_unavailable_models "
    "num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros "
    "flush_filesystem_caches tensorflow_session_parallelism tensorflow_intra_op_parallelism "
    "tensorflow_inter_op_parallelism tensorflow_session_config_file platform_config_file ssl_config_file "
    "use_alts_credentials saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup "
    "num_request_iterations_for_warmup monitoring_config_file enable_signature_method_name_check "
    "enable_profiler enable_grpc_healthcheck_service enable_serialization_as_tensor_content "
    "per_process_gpu_memory_fraction prefer_tflite_model use_tflite_model num_tflite_pools num_tflite_interpreters_per_pool "
    "remove_unused_fields_from_bundle_metagraph xla_cpu_compilation_enabled xla_gpu_compilation_enabled "
    "mixed_precision thread_pool_factory_config_file skip_initialize_tpu version "
)


def test_every_flag_of_the_original_is_known() -> None:
    assert not set(ORIGINAL.split()) - set(FLAGS)


@pytest.mark.parametrize(("milliseconds", "status"), [(50, 504), (0, 200), (-1, 200)])
async def test_a_rest_request_waits_for_its_model_no_longer_than_it_was_given(
    serving: Any, plain: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: int, status: int
) -> None:
    from tacit.serving.engines.openvino import OpenVinoEngine

    flags = ["--model_name=m", f"--model_base_path={plain}", f"--rest_api_timeout_in_ms={milliseconds}"]
    flags.append("--enable_model_warmup=false")  # so that nobody finds out that it is quick, and it is waited for
    async with serving(flags, {}) as ports, httpx.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{ports['rest']}/v1/models/m:predict"
        while (await http.post(url, json={"instances": ROWS.tolist()})).status_code == 503:
            await asyncio.sleep(0.05)
        infer, let_go = OpenVinoEngine.infer, threading.Event()

        def slow(engine: OpenVinoEngine, signature: str, inputs: Any, outputs: Sequence[str]) -> Any:
            let_go.wait(60 if status == 504 else 0.3)
            return infer(engine, signature, inputs, outputs)

        monkeypatch.setattr(OpenVinoEngine, "infer", slow)
        answers = await asyncio.gather(*(http.post(url, json={"instances": ROWS.tolist()}) for _ in range(2)))
        found = [answer.status_code for answer in answers]
        document = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ROWS.ravel().tolist()}]}
        oip = await http.post(url.replace("/v1/", "/v2/").replace(":predict", "/infer"), json=document)
        let_go.set()
    assert (found, oip.status_code) == ([status] * 2, status)


def test_a_certificates_file_that_is_gone_is_told_once_until_it_is_back(tmp_path: Path) -> None:
    config, told = tmp_path / "ssl.cfg", []
    config.write_text(ssl_text(identity()))
    file = SslFile(config, told.append)
    for _ in range(2):
        away = config.rename(config.with_name("away"))
        for _ in range(3):
            assert file.pair()
        away.rename(config)
        assert file.pair()
    assert len(told) == 2


@pytest.mark.parametrize(
    "given", [["--strict_flags", "false"], ["--strict_flags=false"], ["--strict_flags", "-strict_flags", "FALSE"]]
)
def test_strict_flags_are_off_in_one_word_or_two(given: list[str]) -> None:
    flags = parse_flags([*given, "--model_nam=x"])
    assert flags.unknown
    assert not flags.switch("strict_flags")


def test_strict_flags_are_on_where_nothing_says_otherwise() -> None:
    for given in ([], ["--strict_flags"], ["--strict_flags", "true"]):
        with pytest.raises(UsageError, match="--model_nam"):
            parse_flags([*given, "--model_nam=x"])


# ---- the log


@pytest.fixture
def _fresh_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loggers as a process begins with: programs that other tests ran in this one leave theirs."""
    loggers = [logging.getLogger(name) for name in ("tacit", "tacit.edge", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "disabled", False)
        logger.setLevel(logging.NOTSET)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("_fresh_loggers")
def test_a_fault_is_one_line_of_the_log_and_quotes_nobodys_input(capfd: pytest.CaptureFixture[str]) -> None:
    edge, loop = logging.getLogger("tacit.edge"), logging.getLogger("asyncio")
    with faults_in(open_log()):
        try:
            raise ValueError("the input was 42")
        except ValueError:
            edge.exception("a handler failed")
        for _ in range(100):
            loop.error("socket.accept() out of system resource\nsocket: %s", "<it>")
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["event"], first["source"], first["message"]) == ("fault", "tacit.edge", "a handler failed")
    assert (first["error"], first["where"].partition(":")[0]) == ("ValueError", "test_settings.py")
    assert (second["source"], second["message"]) == ("asyncio", "socket.accept() out of system resource")
