"""Metrics and events: what is counted, under which names, and that strangers add nothing to it."""

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.core import PLAIN_MANIFEST, UUID, Made, encode, make_coordinator, make_order
from fakes.programs import CoordinatorProcess, activate
from fakes.tee import NOW
from tacit.coordinator.activate import Order
from tacit.coordinator.api.mesh import MeshApi
from tacit.coordinator.api.meter import Activation
from tacit.coordinator.api.metrics import MAX_EVENTS, MAX_QUOTE, MAX_UUIDS, Metrics
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.api.routes import PATHS
from tacit.edge import GrpcCall, HttpRequest, HttpResponse
from tacit.errors import RequestError, Status
from tacit.pki import issue_self_signed
from tacit.pki.tls import unverified_client_context
from tacit.programs.coordinator import log_faults, read_config
from tacit.wire.pb.marble_pb2 import ActivationRequest

MANIFEST = encode({**PLAIN_MANIFEST, "Marbles": {"tf-server": {"Package": "p"}}})
PEER = "192.0.2.7:40000"
STRANGER = "11111111-5a7c-4a94-9c1e-0e0b7a1c2d3e"
SIZES = ("_seconds", "_bytes")  # histograms of what differs from run to run


class Counted:
    """A coordinator that is counted."""

    def __init__(self, executor: Executor) -> None:
        self.made: Made = make_coordinator()
        core, log = self.made.core, self.made.world.log
        self.metrics = Metrics(state=lambda: core.holdings.state, paths=PATHS, version="1", tee=core.status().tee)
        self.api = ClientApi(core, executor=executor, log=log, meter=self.metrics)
        self.mesh = MeshApi(core, executor=executor, log=log, meter=self.metrics)

    async def call(self, method: str, path: str, body: bytes = b"") -> HttpResponse:
        return await self.api.handle(HttpRequest(method, path, "", {"host": "h"}, body, None))

    async def activate(self, order: Order, deadline: float | None = None) -> None:
        sent = ActivationRequest(
            quote=order.evidence, csr=order.csr, marble_type=order.marble_type, uuid=order.uuid
        ).SerializeToString()
        await self.mesh.activate(sent, GrpcCall("/rpc.Marble/Activate", {}, order.certificate, deadline, None, PEER))

    async def refuse(self, order: Order) -> None:
        with pytest.raises(RequestError):
            await self.activate(order)

    async def get(self, path: str) -> str:
        return (await self.metrics.handle(HttpRequest("GET", path, "", {}, b"", None))).body.decode()

    async def series(self, name: str) -> dict[str, float]:
        return {key: value for key, value in samples(await self.get("/metrics")).items() if key.startswith(name)}


@pytest.fixture
def counted() -> Iterator[Counted]:
    with ThreadPoolExecutor(2) as executor:
        yield Counted(executor)


def samples(text: str) -> dict[str, float]:
    """Series by name and labels. Bounds are numbers: `1` and `1.0` are one."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: str(float(one)) if name == "le" else one for name, one in sample.labels.items()}
            found[f"{sample.name}{sorted(labels.items())}"] = sample.value
    return found


def families(text: str) -> dict[str, tuple[str, str]]:
    return {family.name: (family.type, family.documentation) for family in text_string_to_metric_families(text)}


async def as_recorded(counted: Counted) -> None:
    """What had been asked of the recorded coordinator before it was scraped."""
    body = json.dumps({"manifest": base64.b64encode(MANIFEST).decode()}).encode()
    assert (await counted.call("POST", "/api/v2/manifest", body)).status == 200
    await counted.call("PUT", "/api/v2/manifest")
    await counted.call("GET", "/api/v2/status")
    order = make_order("tf-server")
    await counted.activate(Order(order.marble_type, order.uuid, order.csr, b"abc", order.certificate))
    await counted.refuse(make_order("nope", uuid=STRANGER))


async def test_names_labels_and_presets_are_those_recorded(counted: Counted, shared_vectors: Path) -> None:
    await as_recorded(counted)
    theirs = (shared_vectors / "marblerun" / "metrics" / "metrics.txt").read_text()
    ours = await counted.get("/metrics")
    own = families(ours)
    assert own.pop("tacit_tee_info")[0] == "gauge"
    assert own == families(theirs)
    expected, found = samples(theirs), samples(ours)

    def comparable(series: dict[str, float]) -> dict[str, float]:
        return {
            name: 0 if any(size in name for size in SIZES) else value
            for name, value in series.items()
            if not name.startswith(("coordinator_version_info", "tacit_tee_info"))
            # The refused caller's own words are labels there.
            and "nope" not in name
            and "'uuid', ''" not in name
            # These paths are ours.
            and "/api/v2/log" not in name
        }

    assert comparable(found) == comparable(expected)
    assert len(comparable(found)) > 100


async def test_events_are_those_recorded(counted: Counted, shared_vectors: Path) -> None:
    assert await counted.get("/events") == "null\n"
    await as_recorded(counted)
    theirs = json.loads((shared_vectors / "marblerun" / "metrics" / "events.txt").read_text())
    ours = json.loads(await counted.get("/events"))
    assert [one["time"] for one in ours] == ["2026-11-24T12:00:00Z"]
    for one in (*ours, *theirs):
        del one["time"]
    assert ours == theirs
    assert [list(one["activation"]) for one in ours] == [list(one["activation"]) for one in theirs]


async def test_t61_what_a_refused_caller_wrote_is_in_no_label_and_no_event(counted: Counted) -> None:
    await counted.refuse(make_order("before-a-manifest", uuid=STRANGER))
    counted.made.core.set_manifest(MANIFEST)
    for number in range(50):
        await counted.refuse(make_order(f"evil-{number}", uuid=STRANGER))
        await counted.refuse(make_order("tf-server", uuid=f"evil-{number}"))
        await counted.call("GET", f"/evil-{number}")
        await counted.call(f"EVIL{number}", "/api/v2/status")
    text = await counted.get("/metrics") + await counted.get("/events")
    assert "evil" not in text.lower()
    assert STRANGER not in text
    assert await counted.series("coordinator_marble_activations_total") == {
        "coordinator_marble_activations_total[('type', ''), ('uuid', '')]": 51,
        "coordinator_marble_activations_total[('type', 'tf-server'), ('uuid', '')]": 50,
    }
    methods = await counted.series("server_client_api_http_request_total")
    assert [name for name in methods if "'unknown'" in name] == list(methods)


async def test_t61_series_and_events_are_bounded(counted: Counted) -> None:
    for number in range(MAX_UUIDS + 500):
        uuid = f"00000000-0000-0000-0000-{number:012}"
        counted.metrics.activated(Activation(NOW, "m", uuid, bytes(MAX_QUOTE + number % 2)))
    series = await counted.series("coordinator_marble_activations_success_total")
    assert len(series) == MAX_UUIDS + 1
    assert series["coordinator_marble_activations_success_total[('type', 'm'), ('uuid', '')]"] == 500
    events = json.loads(await counted.get("/events"))
    assert len(events) == MAX_EVENTS
    assert events[-1]["activation"]["uuid"].endswith(f"{MAX_UUIDS + 499}")
    assert {one["activation"]["quote"] is None for one in events} == {True, False}


async def test_a_uuid_is_counted_in_its_canonical_form(counted: Counted) -> None:
    counted.made.core.set_manifest(MANIFEST)
    for form in (UUID, UUID.upper(), f"{{{UUID}}}", UUID.replace("-", "")):
        await counted.activate(make_order("tf-server", uuid=form))
    series = await counted.series("coordinator_marble_activations_success_total")
    assert series == {f"coordinator_marble_activations_success_total[('type', 'tf-server'), ('uuid', '{UUID}')]": 4}


async def test_the_state_is_asked_at_each_scrape_and_the_tee_is_named(counted: Counted) -> None:
    assert await counted.series("coordinator_state") == {"coordinator_state[]": 2}
    counted.made.core.set_manifest(MANIFEST)
    assert await counted.series("coordinator_state") == {"coordinator_state[]": 3}
    assert "tacit_tee_info[('tee', 'unattested')]" in await counted.series("tacit_")


async def test_other_paths_are_not_found(counted: Counted) -> None:
    for path in ("/", "/metrics/", "/debug/pprof"):
        answer = await counted.metrics.handle(HttpRequest("GET", path, "", {}, b"", None))
        assert (answer.status, answer.body) == (404, b"404 page not found\n")


async def test_codes_are_counted_by_gos_names(counted: Counted) -> None:
    for status in Status:
        counted.metrics.call_ended(status)
    handled = await counted.series("grpc_server_handled_total")
    assert set(handled.values()) == {1}
    assert len(handled) == 17


# ---- the log's lines of a call


async def test_a_call_leaves_the_recorded_lines(counted: Counted, shared_vectors: Path) -> None:
    counted.made.core.set_manifest(MANIFEST)
    await counted.activate(make_order("tf-server"), deadline=20)
    with pytest.raises(RequestError):
        await counted.activate(make_order("nope"), deadline=20)
    recorded = [
        json.loads(line)
        for line in (shared_vectors / "marblerun" / "metrics" / "coordinator-log-prometheus.jsonl")
        .read_text()
        .splitlines()
    ]

    def calls(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        changing = ("ts", "caller", "peer.address", "grpc.start_time", "grpc.request.deadline", "grpc.time_ms")
        return [
            {name: value for name, value in line.items() if name not in changing} | {"names": order}
            for line in lines
            if line["msg"] in ("started call", "finished call")
            for order in [[name for name in line if name not in ("caller", "grpc.time_ms")]]
        ]

    ours = counted.made.lines()
    assert calls(ours) == calls(recorded)
    finished = next(line for line in ours if line["msg"] == "finished call")
    assert (finished["grpc.start_time"], finished["grpc.request.deadline"]) == (
        "2026-11-24T12:00:00Z",
        "2026-11-24T12:00:20Z",
    )
    assert finished["peer.address"] == PEER
    assert float(finished["grpc.time_ms"]) > 0


async def test_a_caller_that_goes_is_counted_as_one_that_went(counted: Counted) -> None:
    counted.made.core.set_manifest(MANIFEST)
    let_go = threading.Event()
    for _ in range(2):  # both threads are busy, so that the call waits
        counted.mesh._executor.submit(let_go.wait, 60)
    call = asyncio.create_task(counted.activate(make_order("tf-server")))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    let_go.set()
    handled = await counted.series("grpc_server_handled_total")
    assert [name for name, value in handled.items() if value] == [
        "grpc_server_handled_total[('grpc_code', 'Canceled'), ('grpc_method', 'Activate'), "
        "('grpc_service', 'rpc.Marble'), ('grpc_type', 'unary')]"
    ]
    assert counted.made.lines()[-1]["grpc.code"] == "Canceled"


async def test_t13_a_deadline_beyond_every_date_is_logged_and_harmless(counted: Counted) -> None:
    counted.made.core.set_manifest(MANIFEST)
    await counted.activate(make_order("tf-server"), deadline=99_999_999 * 3600.0)
    assert [line["level"] for line in counted.made.lines() if line["msg"] == "finished call"] == ["info"]


async def test_a_deprecated_path_is_named_with_its_successor(counted: Counted) -> None:
    await counted.call("GET", "/status")
    line = counted.made.lines()[-1]
    assert line["msg"] == "Usage of deprecated API endpoint. Consider using /api/v2/status instead"
    assert line["path"] == "/status"


@pytest.mark.parametrize(("given", "level"), [("", "error"), ("warn", "warn"), ("DEBUG", "debug")])
def test_faults_of_connections_are_logged_at_the_level_that_was_asked_for(given: str, level: str) -> None:
    made = make_coordinator()
    config = read_config([], {"OE_SIMULATION": "1", "EDG_HTTP_ERROR_LOG_LEVEL": given})
    log_faults(made.world.log, config.fault_level)
    logger = logging.getLogger("tacit.edge")
    try:
        message = "canary"
        raise ValueError(message)
    except ValueError:
        logger.exception("a handler failed")
    line = made.lines()[-1]
    assert (line["level"], line["source"], line["error"]) == (level, "tacit.edge", "ValueError")
    assert "canary" not in made.log.getvalue()
    for name in ("tacit.edge", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


# ---- the program


def scrape_address(coordinator: CoordinatorProcess) -> str:
    line = next(line for line in coordinator.log() if line["msg"] == "Starting prometheus /metrics endpoint")
    return f"http://{line['address']}"


async def test_the_program_serves_metrics_in_clear_where_asked(tmp_path: Path) -> None:
    with CoordinatorProcess(tmp_path, environ={"EDG_COORDINATOR_PROMETHEUS_ADDR": "127.0.0.1:0"}) as coordinator:
        with coordinator.http() as http:
            assert http.post("/manifest", content=MANIFEST).status_code == 200
            assert http.get("/nope").status_code == 405
        await activate(coordinator.mesh, "tf-server", uuid=UUID)
        address = scrape_address(coordinator)
        answer = await asyncio.to_thread(httpx.get, f"{address}/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        series = samples(answer.text)
        assert series[f"coordinator_marble_activations_success_total[('type', 'tf-server'), ('uuid', '{UUID}')]"] == 1
        assert (
            series["server_client_api_http_request_total[('code', '200'), ('method', 'post'), ('path', '/manifest')]"]
            == 1
        )
        events = (await asyncio.to_thread(httpx.get, f"{address}/events")).json()
        assert [one["activation"]["uuid"] for one in events] == [UUID]
        assert coordinator.end() == 0


def test_times_of_events_have_no_needless_digits(counted: Counted) -> None:
    for spare, shown in ((0, "12:00:00Z"), (500, "12:00:00.0005Z"), (120000, "12:00:00.12Z")):
        counted.metrics.activated(Activation(NOW + timedelta(microseconds=spare), "m", UUID, b""))
        assert counted.metrics._events[-1].time.endswith(shown)


async def test_t61_with_tls_the_metrics_are_for_users_of_the_manifest_alone(tmp_path: Path) -> None:
    user, stranger = (issue_self_signed([], common_name=name, now=datetime.now(UTC)) for name in ("prom", "mallory"))
    manifest = {**json.loads(MANIFEST), "Users": {"prom": {"Certificate": user.certificate_pem.decode()}}}
    environ = {"EDG_COORDINATOR_PROMETHEUS_ADDR": "127.0.0.1:0", "TACIT_METRICS_TLS": "1"}
    with CoordinatorProcess(tmp_path, environ=environ) as coordinator:
        with coordinator.http() as http:
            assert http.post("/manifest", content=json.dumps(manifest)).status_code == 200
        address = scrape_address(coordinator).replace("http:", "https:")
        codes = {}
        for name, shown in (("user", user), ("stranger", stranger), ("nobody", None)):
            with httpx.Client(base_url=address, verify=unverified_client_context(certificate=shown)) as http:
                codes[name] = [http.get(path).status_code for path in ("/metrics", "/events")]
        assert codes == {"user": [200, 200], "stranger": [401, 401], "nobody": [401, 401]}
        assert httpx.get(f"{address.replace('https:', 'http:')}/metrics").status_code == 400


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", False), ("0.0.0.0", True)])  # that is the case
def test_t61_metrics_that_anybody_may_reach_are_a_warning(tmp_path: Path, host: str, told: bool) -> None:
    with CoordinatorProcess(tmp_path, environ={"EDG_COORDINATOR_PROMETHEUS_ADDR": f"{host}:0"}) as coordinator:
        warned = [line for line in coordinator.log() if "whoever reaches the metrics port" in line["msg"]]
    assert bool(warned) is told
