"""Metrics for Prometheus, under TensorFlow Serving's names and some of ours.

What is kept is bounded: a model's name becomes a label only while the model is served, since requests may ask for any.

Source: tensorflow_serving/servables/tensorflow/util.cc, tensorflow_serving/util/prometheus_exporter.cc.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from tacit.edge import HttpResponse
from tacit.errors import Status
from tacit.serving.batching import Duration, Statistics
from tacit.serving.plane import State, VersionStatus
from tacit.serving.tfs.meter import Entry

_SERVING = ":tensorflow:serving:"
_LATENCIES = tuple(10 * 1.8**n for n in range(33))  # microseconds
_COUNTS = tuple(2.0**n for n in range(15))
_MICROSECONDS = 1e6
# The library gives counters an ending that TensorFlow Serving's do not have.
_ENDING = re.compile(rb"^((?:# (?:HELP|TYPE) )?:tensorflow:[a-z_:]+?)_total(?=[ {])", re.MULTILINE)
_KEEPS_ENDING = (b":tensorflow:serving:request_example_count",)

Statuses = Callable[[], Mapping[str, Sequence[VersionStatus]]]
"""The models that are to be served, and their versions."""

Done = Callable[[], Iterable[tuple[str, int, Statistics]]]
"""What each loaded version has done: model, version, statistics."""


class Metrics:
    """Counts for one server: a `Meter`, an observer of the repository's events, and the answer to a scrape."""

    def __init__(
        self,
        statuses: Statuses,
        *,
        names: Callable[[], Collection[str]],
        tee: str,
        queued: Callable[[str], Duration] | None = None,
        done: Done = tuple,
    ) -> None:
        # Series of their own with times, which TensorFlow Serving does not have.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the one function without types
        self._names = names
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = self._counter("request_count", "Requests by model and outcome.", "model_name", "status")
        self._latency = Histogram(
            f"{_SERVING}request_latency",
            "Microseconds that requests took which were answered.",
            ("model_name", "API", "entrypoint"),
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self._example_counts = Histogram(
            f"{_SERVING}request_example_counts",
            "Examples of a request.",
            ("model",),
            buckets=_COUNTS,
            registry=self.registry,
        )
        self._examples = self._counter("request_example_count", "Examples of all requests.", "model")
        self._count_loading()
        about = Gauge(
            "tacit_tee_info", "Kind of TEE that this server was attested in.", ("tee",), registry=self.registry
        )
        about.labels(tee or "none").set(1)
        self.registry.register(_States(statuses))
        self.registry.register(_Done(done))
        if queued is not None:
            self.registry.register(_Queues(names, queued))

    def _count_loading(self) -> None:
        self._warmup = Histogram(
            f"{_SERVING}model_warmup_latency",
            "Microseconds that recorded requests took before a version answered.",
            ("model_path", "status"),
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self._warmups = self._counter(
            "model_warmup_records_read", "Recorded requests that were run.", "model_path", "status"
        )
        self._loads = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Versions that were loaded, or not.",
            ("model_path", "status"),
            registry=self.registry,
        )
        self._load_time = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds that loading took.",
            ("model_path",),
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_SERVING + name, text, labels, registry=self.registry)

    # ---- what is counted

    def request(self, model: str, api: str, entry: Entry, status: Status, seconds: float) -> None:
        """A request came to its end."""
        label = model if model in self._names() else ""
        self._requests.labels(label, status.name).inc()
        if status is Status.OK:
            name = api if entry == "GRPC" else api.lower()
            self._latency.labels(label, name, entry).observe(seconds * _MICROSECONDS)

    def examples(self, model: str, count: int) -> None:
        """A request brought so many examples to a model that there is."""
        self._example_counts.labels(model).observe(count)
        self._examples.labels(model).inc(count)

    def observe(self, event: str, /, **fields: Any) -> None:
        """An event of the repository."""
        if event not in ("model-available", "model-failed"):
            return
        path, good = str(fields.get("path", "")), event == "model-available"
        self._loads.labels(path, "success" if good else "fail").inc()
        self._load_time.labels(path).inc(float(fields.get("seconds", 0.0)) * _MICROSECONDS)
        if records := int(fields.get("recorded", 0)):  # told of a version that answers them all
            self._warmups.labels(path, Status.OK.name).inc(records)
            seconds = float(fields.get("warmup_seconds", 0.0))
            self._warmup.labels(path, Status.OK.name).observe(seconds * _MICROSECONDS)

    def total(self, name: str) -> int:
        """What a counter stands at over all its labels, by TensorFlow Serving's name for it; 0 for a name of none."""
        spelt = name.replace("/", ":")
        found = (each for each in self.registry.collect() if each.type == "counter")
        samples = (sample for family in found for sample in family.samples)
        return int(sum(sample.value for sample in samples if sample.name in (spelt, f"{spelt}_total")))

    def answer(self) -> HttpResponse:
        """What a scrape gets."""
        return HttpResponse(
            200, _as_tensorflow(generate_latest(self.registry)), {"content-type": CONTENT_TYPE_PLAIN_0_0_4}
        )


class _States:
    """The versions and where they are in their lives, looked at when somebody asks."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def collect(self) -> Iterable[Metric]:
        """One series for each version that is known."""
        labels = ("model_name", "version", "state")
        states = GaugeMetricFamily("tacit_model_version_state", "1 for the state that a version is in.", labels=labels)
        ready = GaugeMetricFamily(
            "tacit_model_ready", "Whether a version of the model answers.", labels=("model_name",)
        )
        for name, statuses in self._statuses().items():
            for status in statuses:
                states.add_metric((name, str(status.version), status.state.name), 1)
            ready.add_metric((name,), float(any(status.state is State.AVAILABLE for status in statuses)))
        yield states
        yield ready


class _Done:
    """What versions have done for whoever asked, in all protocols; a version that is loaded again begins anew."""

    def __init__(self, done: Done) -> None:
        self._done = done

    def collect(self) -> Iterable[Metric]:
        """Requests by outcome, rows, runs of the engine and the time that answers took, by model and version."""
        labels = ("model_name", "version")
        requests = CounterMetricFamily(
            "tacit_inference_requests", "Inferences by outcome, of all protocols.", labels=(*labels, "outcome")
        )
        rows = CounterMetricFamily("tacit_inference_rows", "Rows that the engine was given.", labels=labels)
        runs = CounterMetricFamily("tacit_inference_runs", "Runs of the engine, each of one batch.", labels=labels)
        seconds = SummaryMetricFamily(
            "tacit_inference_seconds", "Time that inferences took which were answered, waiting included.", labels=labels
        )
        for name, version, done in self._done():
            made_by = (name, str(version))
            requests.add_metric((*made_by, "answered"), done.success.count)
            requests.add_metric((*made_by, "refused"), done.fail.count)
            rows.add_metric(made_by, done.inferences)
            runs.add_metric(made_by, done.executions)
            seconds.add_metric(made_by, done.success.count, done.success.ns / 1e9)
        yield from (requests, rows, runs, seconds)


class _Queues:
    """How long requests waited for their turn: what a server that is too small shows first."""

    def __init__(self, names: Callable[[], Collection[str]], queued: Callable[[str], Duration]) -> None:
        self._names = names
        self._queued = queued

    def collect(self) -> Iterable[Metric]:
        """Count and sum by model; the mean over a time is what to scale by."""
        waits = SummaryMetricFamily(
            "tacit_queue_seconds", "Time that requests waited in the queue of their model.", labels=("model_name",)
        )
        for name in self._names():
            waited = self._queued(name)
            waits.add_metric((name,), waited.count, waited.ns / 1e9)
        yield waits


def _as_tensorflow(text: bytes) -> bytes:
    def without(found: re.Match[bytes]) -> bytes:
        return found[0] if found[1].endswith(_KEEPS_ENDING) else found[1]

    return _ENDING.sub(without, text)
