"""Health and metrics: what a server says of itself."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.served import recorded
from tacit.edge import GrpcCall, HttpRequest
from tacit.errors import RequestError, Status
from tacit.serving.batching import Duration, Statistics
from tacit.serving.plane import Plane, State, VersionStatus
from tacit.serving.tfs.config import parse_monitoring_config
from tacit.serving.tfs.inference import CLASSIFY, REGRESS
from tacit.serving.tfs.manage.health import SERVICES, Health
from tacit.serving.tfs.manage.metrics import Metrics
from tacit.serving.tfs.rest import RestOptions, TfsRest
from tacit.serving.tfs.service import TfsService
from tacit.wire.pb import health_pb2, serving_pb2
from tacit.wire.pb import tensorflow_pb2 as tf

CALL = GrpcCall("/grpc.health.v1.Health/Check", {}, None, None)
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


def asks(service: str) -> bytes:
    return health_pb2.HealthCheckRequest(service=service).SerializeToString()


def status(answer: bytes) -> int:
    return int(health_pb2.HealthCheckResponse.FromString(answer).status)


@pytest.mark.parametrize("service", sorted(SERVICES))
async def test_a_server_serves_once_its_models_do_and_until_it_drains(service: str) -> None:
    ready = False
    health = Health(lambda: ready)
    assert status(await health.check(asks(service), CALL)) == NOT_SERVING
    ready = True
    assert status(await health.check(asks(service), CALL)) == SERVING
    health.draining = True
    assert status(await health.check(asks(service), CALL)) == NOT_SERVING


async def test_a_service_that_there_is_not_is_not_found() -> None:
    with pytest.raises(RequestError) as refused:
        await Health(lambda: True).check(asks("nope"), CALL)
    assert refused.value.status is Status.NOT_FOUND


async def watched(service: str, ready: Sequence[bool], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr("tacit.serving.tfs.manage.health._LOOK", 0.0)
    states = iter(ready)
    health = Health(lambda: True)

    def look() -> bool:
        found = next(states, None)
        health.draining = found is None
        return bool(found)

    health._ready = look

    async def messages() -> AsyncIterator[bytes]:
        yield asks(service)

    return [status(answer) async for answer in health.watch(messages(), CALL)]


async def test_whoever_watches_is_told_of_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await watched("", [False, False, True, True, False], monkeypatch)
    assert found == [NOT_SERVING, SERVING, NOT_SERVING]


# ---- metrics


STATUSES: Mapping[str, Sequence[VersionStatus]] = {
    "half_plus_two": [VersionStatus(124, State.LOADING), VersionStatus(123, State.AVAILABLE)],
    "cold": [VersionStatus(1, State.END)],
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: STATUSES, names=lambda: tuple(STATUSES), tee="simulated")


def lines(metrics: Metrics) -> list[str]:
    return metrics.answer().body.decode().splitlines()


async def test_requests_are_counted_under_the_originals_names(metrics: Metrics) -> None:
    service = TfsService(Plane(recorded()), meter=metrics)
    rest = TfsRest(Plane(recorded()), RestOptions(metrics_path="/m", metrics=metrics.answer), meter=metrics)
    example = tf.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    request = serving_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", "regress_x_to_y"
    request.input.example_list.examples.append(example.SerializeToString())
    path = "/tensorflow.serving.PredictionService/Regress"
    await service.handlers()[path](request.SerializeToString(), CALL)
    base = "/v1/models/half_plus_two"
    await rest.handle(HttpRequest("POST", f"{base}:predict", "", {}, b'{"instances":[1.0]}', None))
    await rest.handle(HttpRequest("POST", f"{base}:predict", "", {}, b"[]", None))
    answer = await rest.handle(HttpRequest("GET", "/m", "", {}, b"", None))
    assert answer.status == 200
    text = answer.body.decode()
    assert "# TYPE :tensorflow:serving:request_count counter" in text.splitlines()
    for line in (
        ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"} 2.0',
        ':tensorflow:serving:request_count{model_name="half_plus_two",status="INVALID_ARGUMENT"} 1.0',
        ':tensorflow:serving:request_example_count_total{model="half_plus_two"} 1.0',
        ':tensorflow:serving:request_example_counts_bucket{le="1.0",model="half_plus_two"} 1.0',
    ):
        assert line in text.splitlines(), line
    labels = 'API="{}",entrypoint="{}",model_name="half_plus_two"'
    for api, entry in (("Regress", "GRPC"), ("predict", "REST")):
        assert f":tensorflow:serving:request_latency_count{{{labels.format(api, entry)}}} 1.0" in text
    buckets = re.findall(r'request_latency_bucket\{API="Regress",entrypoint="GRPC",le="([^"]+)"', text)
    assert (buckets[0], buckets[1], len(buckets)) == ("10.0", "18.0", 34)


async def test_the_examples_of_several_tasks_are_counted_once(metrics: Metrics) -> None:
    request = serving_pb2.MultiInferenceRequest()
    for signature, method in (("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
    example = tf.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    request.input.example_list.examples.extend([example.SerializeToString()] * 3)
    path = "/tensorflow.serving.PredictionService/MultiInference"
    await TfsService(Plane(recorded()), meter=metrics).handlers()[path](request.SerializeToString(), CALL)
    for line in (
        ':tensorflow:serving:request_example_count_total{model="half_plus_two"} 3.0',
        ':tensorflow:serving:request_example_counts_count{model="half_plus_two"} 1.0',
    ):
        assert line in lines(metrics), line
    assert metrics.total("/tensorflow/serving/request_example_count_total") == 3


def test_t44_names_that_strangers_make_up_make_no_series(metrics: Metrics) -> None:
    for number in range(100):
        metrics.request(f"made up {number}", "Predict", "GRPC", Status.NOT_FOUND, 0.1)
    found = [line for line in lines(metrics) if line.startswith(":tensorflow:serving:request_count{")]
    assert found == [':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 100.0']


def test_the_time_in_the_queue_is_a_count_and_a_sum_by_model() -> None:
    waits = {"half_plus_two": Duration(4, 2_500_000_000), "cold": Duration()}
    metrics = Metrics(lambda: STATUSES, names=lambda: tuple(STATUSES), tee="", queued=waits.__getitem__)
    found = [line for line in lines(metrics) if "tacit_queue_seconds" in line and not line.startswith("#")]
    assert found == [
        'tacit_queue_seconds_count{model_name="half_plus_two"} 4.0',
        'tacit_queue_seconds_sum{model_name="half_plus_two"} 2.5',
        'tacit_queue_seconds_count{model_name="cold"} 0.0',
        'tacit_queue_seconds_sum{model_name="cold"} 0.0',
    ]


def test_what_versions_did_is_counted_whoever_asked() -> None:
    done = Statistics(success=Duration(3, 1_500_000_000), fail=Duration(1, 5))
    done.ran(4, 1000)
    metrics = Metrics(
        lambda: STATUSES, names=lambda: tuple(STATUSES), tee="", done=lambda: [("half_plus_two", 2, done)]
    )
    found = [line for line in lines(metrics) if line.startswith("tacit_inference")]
    by = 'model_name="half_plus_two"'
    assert found == [
        f'tacit_inference_requests_total{{{by},outcome="answered",version="2"}} 3.0',
        f'tacit_inference_requests_total{{{by},outcome="refused",version="2"}} 1.0',
        f'tacit_inference_rows_total{{{by},version="2"}} 4.0',
        f'tacit_inference_runs_total{{{by},version="2"}} 1.0',
        f'tacit_inference_seconds_count{{{by},version="2"}} 3.0',
        f'tacit_inference_seconds_sum{{{by},version="2"}} 1.5',
    ]


def test_loading_and_warming_up_are_counted(metrics: Metrics) -> None:
    metrics.observe("model-available", path="/m/1", seconds=2.0, recorded=3, warmup_seconds=0.5)
    metrics.observe("model-failed", path="/m/2", seconds=1.0)
    metrics.observe("model-awaited", model="m")
    found = lines(metrics)
    for line in (
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/m/1",status="success"} 1.0',
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="/m/2",status="fail"} 1.0',
        ':tensorflow:cc:saved_model:load_latency{model_path="/m/1"} 2e+06',
        ':tensorflow:serving:model_warmup_records_read{model_path="/m/1",status="OK"} 3.0',
        ':tensorflow:serving:model_warmup_latency_sum{model_path="/m/1",status="OK"} 500000.0',
    ):
        assert line in found, (line, found)


def test_versions_and_their_states_are_told(metrics: Metrics) -> None:
    found = lines(metrics)
    assert 'tacit_model_version_state{model_name="half_plus_two",state="AVAILABLE",version="123"} 1.0' in found
    assert 'tacit_model_ready{model_name="half_plus_two"} 1.0' in found
    assert 'tacit_model_ready{model_name="cold"} 0.0' in found
    assert 'tacit_tee_info{tee="simulated"} 1.0' in found


def test_the_text_is_one_that_prometheus_reads(metrics: Metrics) -> None:
    metrics.request("half_plus_two", "Predict", "GRPC", Status.OK, 0.001)
    families: dict[str, Any] = {
        family.name: family for family in text_string_to_metric_families(metrics.answer().body.decode())
    }
    assert families[":tensorflow:serving:request_latency"].type == "histogram"


@pytest.mark.parametrize(
    ("text", "enabled", "path"),
    [
        ("", False, "/monitoring/prometheus/metrics"),
        ("prometheus_config { enable: true }", True, "/monitoring/prometheus/metrics"),
        ('prometheus_config: { enable: true, path: "/metrics" }', True, "/metrics"),
    ],
)
def test_monitoring_is_read_from_its_text(text: str, enabled: bool, path: str) -> None:
    found = parse_monitoring_config(text)
    assert (found.enabled, found.path) == (enabled, path)
