"""What a cluster does to its servers under load: a node loses power, versions change, servers come and go."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.conftest import Cluster
from cluster.load import Record, load, render_report
from cluster.stage import NAME, SERVERS, Stage, enter_by, is_ready, node_tool, staged

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CALLERS = 4
REPORTS = Path(__file__).parents[2] / ".cache" / "cluster"


@pytest.fixture(scope="module")
def stage(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A coordinator, and a server on each of two nodes."""
    with staged(cluster, tmp_path_factory.mktemp("faults"), replicas=2) as stage:
        yield stage


async def until(holds: Callable[[], bool], what: str, *, seconds: float = 150) -> float:
    """Wait for something on the cluster; the time when it was so."""
    limit = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < limit, f"never: {what}"
        await asyncio.sleep(0.3)
    return time.monotonic()


def save(record: Record, name: str, title: str) -> None:
    """The requests as a picture, and what happened in words."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / f"{name}.svg").write_text(render_report(record, title=title))
    begin = min(one.began for one in record.asked)
    happened = {what: round(moment - begin, 1) for what, moment in record.happened}
    summary = {
        "requests": len(record.asked),
        "lost": [(one.caller, round(one.began - begin, 1), one.error) for one in record.lost],
        "longest_gap_s": round(record.longest_gap(), 2),
        "happened_s": happened,
    }
    (REPORTS / f"{name}.json").write_text(json.dumps(summary, indent=1))
    print(f"\n{title}: {json.dumps(summary)}")


def run_load(stage: Stage, record: Record, during: "Callable[[], object]") -> None:
    """Run something that is awaited while callers ask."""

    async def both() -> None:
        async with load(stage.address(), roots=stage.roots, name=NAME, callers=CALLERS, record=record):
            await asyncio.sleep(2)
            await during()  # type: ignore[misc]
            await asyncio.sleep(2)

    asyncio.run(both())


def test_a_new_version_of_the_servers_loses_no_request(stage: Stage) -> None:
    record = Record()
    before = {pod["metadata"]["uid"] for pod in stage.pods()}

    async def update() -> None:
        record.note("a new version is asked for")
        stage.cluster.kubectl("-n", SERVERS, "rollout", "restart", "deployment/tf-server")
        await until(lambda: all(map(is_ready, stage.pods())) and _new(stage, before) == 2, "both servers are new")
        record.note("both servers are new")

    run_load(stage, record, update)
    save(record, "update", "Rolling update")
    assert record.lost == []
    assert len(record.asked) > 50


def _new(stage: Stage, before: set[str]) -> int:
    return len({pod["metadata"]["uid"] for pod in stage.pods()} - before)


def test_more_servers_and_fewer_again_lose_no_request(stage: Stage) -> None:
    record = Record()

    async def scale() -> None:
        for count in (1, 4, 1, 2):
            record.note(f"{count} servers are asked for")
            stage.cluster.kubectl("-n", SERVERS, "scale", "deployment/tf-server", f"--replicas={count}")
            await until(
                lambda count=count: sum(map(is_ready, stage.pods())) == count == len(stage.pods()),  # type: ignore[misc]
                f"{count} servers are ready",
            )
        record.note("2 servers are ready")

    run_load(stage, record, scale)
    save(record, "scale", "From 1 server to 4 and back")
    assert record.lost == []


def test_a_node_that_loses_power_costs_the_requests_in_flight_and_the_coordinator_is_recovered(stage: Stage) -> None:
    if "KUBE_TESTBED_DIR" not in os.environ:
        pytest.fail("cutting a node's power needs the cluster of scripts/cluster.sh (KUBE_TESTBED_DIR)")
    record = Record()
    coordinator = stage.coordinator()
    assert coordinator is not None
    lost_node, old = coordinator["spec"]["nodeName"], coordinator["metadata"]["uid"]
    servers = {pod["spec"]["nodeName"] for pod in stage.pods()}
    assert len(servers) == 2, "the servers are on two nodes"
    enter_by(stage, next(node for node in servers if node != lost_node))

    def moved() -> bool:
        pods = stage.pods(namespace="marblerun", labels="app.kubernetes.io/name=coordinator")
        return any(pod["metadata"]["uid"] != old and is_ready(pod) for pod in pods)

    async def cut() -> None:
        record.note(f"{lost_node} loses power")
        await asyncio.to_thread(node_tool, "node-kill", lost_node)
        record.note(f"{lost_node} is without power")
        await until(moved, "the coordinator runs on the other node")
        record.note("the coordinator runs on the other node, in recovery mode")
        await asyncio.to_thread(stage.person.types, "tacit --kube recover recovery.json --key recovery.key")
        record.note("its state was recovered")
        await until(lambda: sum(map(is_ready, stage.pods())) == 2, "there are two servers again")
        record.note("a second server was attested and is ready")

    status = ""
    try:
        run_load(stage, record, cut)
        status = stage.person.types("tacit --kube status")
    finally:
        node_tool("node-start", lost_node)
        save(record, "node", "A node loses power")
    assert status.startswith("3: ")
    # Each caller had at most one request under way.
    assert len(record.lost) <= CALLERS
    assert len({one.caller for one in record.lost}) == len(record.lost)
    # It was under way when the power went, or the first on a connection to what was gone: none after one that came back.
    (moment,) = (moment for what, moment in record.happened if what.endswith("is without power"))
    for one in record.lost:
        assert not [o for o in record.asked if o.caller == one.caller and moment < o.began < one.began]
