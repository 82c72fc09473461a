"""What is told of the server and its models, as the JSON of the REST door; the gRPC door's messages have the same fields.

Source: open-inference-protocol; Triton's extension_{model_configuration,model_repository,statistics}.md.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from tacit.errors import RequestError, Status
from tacit.graph.signature import TensorSpec
from tacit.serving.batching import Duration
from tacit.serving.callers import Caller
from tacit.serving.oip.question import find, signature_of
from tacit.serving.plane import Plane, Selector, Served, State, VersionStatus
from tacit.wire.raw_tensor import DATATYPES
from tacit.wire.tensor import type_name

Json = dict[str, Any]

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
UNBATCHED_ROWS = 1 << 16
"""What the configuration says where requests are not joined: any number of rows is taken, and the field wants one."""

_STATES = {
    State.UNKNOWN: "UNKNOWN",
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}
_TRACE = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
_LOG: Json = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def server() -> Json:
    """Name, version and extensions."""
    from importlib.metadata import version  # it reads a mail parser, and few ask

    return {"name": "tacit", "version": version("tacit"), "extensions": list(EXTENSIONS)}


def is_ready(plane: Plane, selector: Selector) -> bool:
    """Whether this model, or this version, answers. Raises: RequestError NOT_FOUND for one that nobody knows."""
    try:
        find(plane, selector)
    except RequestError as exc:
        if exc.status is Status.UNAVAILABLE or (exc.status is Status.NOT_FOUND and _is_known(plane, selector)):
            return False
        raise
    return True


def answers(plane: Plane, selector: Selector) -> bool:
    """As `is_ready`; what nobody knows does not answer."""
    try:
        return is_ready(plane, selector)
    except RequestError as exc:
        if exc.status is Status.NOT_FOUND:
            return False
        raise


def _is_known(plane: Plane, selector: Selector) -> bool:
    statuses = plane.models.statuses(selector.model)
    if selector.version is None:
        return selector.model in plane.models.names()
    return any(status.version == selector.version for status in statuses)


def metadata(plane: Plane, served: Served) -> Json:
    """A model's tensors, and its versions that answer."""
    signature = served.signatures[signature_of(served)]
    versions = [s.version for s in plane.models.statuses(served.name) if s.state is State.AVAILABLE]
    return {
        "name": served.name,
        "versions": [str(number) for number in sorted(versions)],
        "platform": served.platform,
        "inputs": [_tensor(alias, spec) for alias, spec in signature.inputs.items()],
        "outputs": [_tensor(alias, spec) for alias, spec in signature.outputs.items()],
    }


def _tensor(alias: str, spec: TensorSpec) -> Json:
    # A rank that nobody knows has no form here; one free size is the nearest to it.
    shape = [-1] if spec.shape is None else list(spec.shape)
    return {"name": alias, "datatype": _datatype(spec.dtype), "shape": shape}


def _datatype(dtype: int) -> str:
    return DATATYPES.get(dtype, type_name(dtype).upper())


def config(served: Served) -> Json:
    """A model's configuration, as far as there is one: what clients that measure want to know before they ask."""
    signature = served.signatures[signature_of(served)]
    specs = (*signature.inputs.values(), *signature.outputs.values())
    by_rows = all(spec.shape is not None and len(spec.shape) > 0 and spec.shape[0] < 0 for spec in specs)
    told: Json = {
        "name": served.name,
        "platform": served.platform,
        "backend": served.platform,
        "max_batch_size": (served.max_batch or UNBATCHED_ROWS) if by_rows else 0,
        "input": [_config_tensor(alias, spec, by_rows) for alias, spec in signature.inputs.items()],
        "output": [_config_tensor(alias, spec, by_rows) for alias, spec in signature.outputs.items()],
        "model_transaction_policy": {"decoupled": False},
    }
    if served.max_batch and by_rows:
        told["dynamic_batching"] = {"preferred_batch_size": [], "max_queue_delay_microseconds": 0}
    return told


def _config_tensor(alias: str, spec: TensorSpec, by_rows: bool) -> Json:
    shape = [-1] if spec.shape is None else list(spec.shape)
    datatype = {"BYTES": "STRING"}.get(_datatype(spec.dtype), _datatype(spec.dtype))
    known = spec.dtype in DATATYPES
    return {
        "name": alias,
        "data_type": f"TYPE_{datatype}" if known else "TYPE_INVALID",
        "dims": shape[1:] if by_rows else shape,
    }


def statistics(plane: Plane, selector: Selector | None, caller: Caller | None) -> Json:
    """What a model's loaded versions have done; of all that the caller may ask with None. Raises: RequestError."""
    if selector is not None and selector.version is None and selector.model:
        find(plane, selector)
    chosen = [selector] if selector is not None else [Selector(name, caller=caller) for name in visible(plane, caller)]
    return {"model_stats": [_row(served) for each in chosen for served in _loaded(plane, each)]}


def _loaded(plane: Plane, selector: Selector) -> list[Served]:
    if selector.version is not None:
        return [find(plane, selector)]
    found = []
    for status in plane.models.statuses(selector.model):
        if status.state is State.AVAILABLE:
            try:
                found.append(plane.find(msgspec.structs.replace(selector, version=status.version)))
            except RequestError:
                continue  # unloaded meanwhile
    return found


def _row(served: Served) -> Json:
    """One version's. As in Triton each part is counted once a request, whatever was done for several together."""
    done = served.statistics
    requests = done.success.count
    return {
        "name": served.name,
        "version": str(served.version),
        "last_inference": done.last,
        "inference_count": done.inferences,
        "execution_count": done.executions,
        "inference_stats": {
            "success": _duration(done.success),
            "fail": _duration(done.fail),
            "queue": _duration(Duration(requests, done.queue.ns)),
            "compute_input": _duration(Duration(requests, done.joined.ns)),
            "compute_infer": _duration(Duration(requests, done.infer.ns)),
            "compute_output": _duration(Duration(requests, done.parted.ns)),
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(Duration(spent.count)),
                "compute_infer": _duration(spent),
                "compute_output": _duration(Duration(spent.count)),
            }
            for rows, spent in sorted(done.runs.items())
        ],
    }


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}


def visible(plane: Plane, caller: Caller | None) -> list[str]:
    """The models that a caller may ask."""
    names = []
    for name in plane.models.names():
        try:
            plane.callers.check_model(name, caller)
        except RequestError:
            continue
        names.append(name)
    return names


def index(plane: Plane, caller: Caller | None, *, ready: bool) -> list[Json]:
    """Every version of every model that the caller may ask, with its state; with `ready` those that answer."""
    entries: list[Json] = []
    for name in visible(plane, caller):
        statuses = plane.models.statuses(name)
        entries.extend(
            {"name": name, "version": str(s.version), "state": _STATES[s.state], "reason": _reason(s)} for s in statuses
        )
        if not statuses:
            entries.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": "no version is there yet"})
    return [entry for entry in entries if entry["state"] == "READY" or not ready]


def _reason(status: VersionStatus) -> str:
    """Why a version does not answer, in Triton's word for one that was taken away."""
    return status.message or ("unloaded" if status.state is State.END else "")


def trace_settings(plane: Plane, selector: Selector | None, changes: Json) -> Json:
    """How requests are traced, those of one model or of all: they are not.

    Raises:
        RequestError: for whoever wants to change that, and INVALID_ARGUMENT for a model that does not answer, as Triton.
    """
    if selector is not None and not answers(plane, selector):
        raise RequestError(Status.INVALID_ARGUMENT, f"Request for unknown model : {selector.model}")
    return _settings(_TRACE, changes, "requests are not traced here; /v2/models/NAME/stats counts them")


def log_settings(changes: Json) -> Json:
    """What is logged. Raises: RequestError for whoever wants to change it."""
    return _settings(_LOG, changes, "what is logged is not changed by a client")


def _settings(settings: Json, changes: Json, why: str) -> Json:
    for name, value in changes.items():
        if name not in settings:
            raise RequestError(Status.INVALID_ARGUMENT, f"there is no setting '{name[:64]}'; {', '.join(settings)} are")
        if value is not None and value != settings[name]:
            raise RequestError(Status.UNIMPLEMENTED, f"'{name}' stays {settings[name]}: {why}")
    return dict(settings)


def refuse_overrides(parameters: Sequence[str]) -> None:
    """Refuse a configuration or files that a client sends along. Raises: RequestError."""
    if sent := [name for name in parameters if name == "config" or name.startswith("file:")]:
        raise RequestError(
            Status.UNIMPLEMENTED,
            f"'{sent[0][:64]}' is not taken from a client: a model is what lies in the storage and what the manifest allows",
        )
