"""The rules for Prometheus ask for nothing but what the two programs show, and send whoever is woken to a page."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tacit.coordinator.api import metrics as coordinator
from tacit.coordinator.api.meter import Activation
from tacit.coordinator.api.routes import PATHS
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import Status
from tacit.serving.plane import State, VersionStatus
from tacit.serving.tfs.manage import metrics as server

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
OF_PROMETHEUS = {"up": set[str]()}
OF_EVERY_TARGET = {"instance", "job"}

rules = pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])

Shown = Mapping[str, set[str]]


def series(text: str) -> dict[str, set[str]]:
    """The series of a scrape: names, and the labels of each."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


@pytest.fixture(scope="module")
def shown() -> Shown:
    """What a scrape of each program shows once everything that is counted has happened."""
    counts = coordinator.Metrics(state=lambda: 3, paths=PATHS, version="1", tee="sgx")
    for status in Status:
        counts.call_began()
        counts.call_ended(status)
    request = HttpRequest("GET", next(iter(PATHS)), "", {}, b"", None)
    counts.request_began(request.path)
    counts.request_ended(request.path, request, HttpResponse(200, b"", {}), seconds=0.1)
    counts.activated(Activation(datetime(2026, 11, 1, tzinfo=UTC), "server", "u", b""))
    scrape = asyncio.run(counts.handle(HttpRequest("GET", "/metrics", "", {}, b"", None)))
    statuses = {"m": [VersionStatus(1, State.AVAILABLE)]}
    served = server.Metrics(lambda: statuses, names=lambda: tuple(statuses), tee="sgx")
    for status in Status:
        served.request("m", "Predict", "GRPC", status, 0.1)
    served.examples("m", 1)
    for event in ("model-available", "model-failed"):
        served.observe(event, path="/m", recorded=1)
    return series(scrape.body.decode()) | series(served.answer().body.decode()) | OF_PROMETHEUS


def parts(expression: Any) -> Iterator[Any]:
    """An expression, and everything in it."""
    found: list[Any] = []
    promql_parser.walk(expression, found.append)
    yield from found


def unknown(query: str, shown: Shown) -> list[str]:
    """What a query asks for that no program shows. The library refuses a query that is none."""
    missing = []
    everywhere = {label for labels in shown.values() for label in labels} | OF_EVERY_TARGET
    for part in parts(promql_parser.parse(query)):
        selector = getattr(part, "vector_selector", part)
        if isinstance(selector, promql_parser.VectorSelector):
            if selector.name not in shown:
                missing.append(str(selector.name))
                continue
            known = shown[selector.name] | OF_EVERY_TARGET
            missing += [f"{selector.name}.{one.name}" for one in selector.matchers.matchers if one.name not in known]
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            missing += [f"by {label}" for label in part.modifier.labels if label not in everywhere]
    return list(dict.fromkeys(missing))


@rules
def test_a_rule_asks_for_what_the_programs_show(rule: dict[str, Any], shown: Shown) -> None:
    assert unknown(rule["expr"], shown) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("coordinator_state_of_mind == 1", ["coordinator_state_of_mind"]),
        ("rate(:tensorflow:serving:request_counts[5m]) > 1", [":tensorflow:serving:request_counts"]),
        ('coordinator_state{colour="red"}', ["coordinator_state.colour"]),
        ("sum by (colour) (coordinator_state) > up", ["by colour"]),
    ],
)
def test_a_rule_that_asks_for_what_nobody_shows_is_found(query: str, said: list[str], shown: Shown) -> None:
    assert unknown(query, shown) == said


@rules
def test_the_values_of_labels_are_those_that_the_programs_write(rule: dict[str, Any]) -> None:
    known = {
        "status": {status.name for status in Status} | {"fail", "success"},
        "grpc_code": set(coordinator.CODE_NAMES.values()),
    }
    for part in parts(promql_parser.parse(rule["expr"])):
        selector = getattr(part, "vector_selector", part)
        if isinstance(selector, promql_parser.VectorSelector):
            for matcher in selector.matchers.matchers:
                if matcher.name in known:
                    assert set(matcher.value.split("|")) <= known[matcher.name]


@rules
def test_a_rule_says_what_happened_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith((".", "alone."))
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_lists_every_alert() -> None:
    page = (ROOT / "docs" / "operate.md").read_text()
    assert not [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page]


@pytest.mark.tools
def test_promtool_finds_each_alert_come_and_go() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.fail("promtool is not on this machine; install Prometheus and run this again")
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]):
        done = subprocess.run([tool, *words], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
