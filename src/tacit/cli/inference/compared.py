"""What a faster arithmetic costs in accuracy, asked of `tacit-serve` itself.

A server for each precision is started on this machine, all get the same inputs in turns, and each answer is held
against that of f32. A precision that the processor lacks is told as that, and never computed as another.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.cli.inference.arrays import as_jsonable
from tacit.cli.up.processes import Program, Programs, clean_environment, find_program
from tacit.client.inference import ServingClient, Signature, TensorSpec
from tacit.client.session import DEFAULT_SIGNATURE
from tacit.errors import ConnectError, InputError, PeerError
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES

Array = NDArray[Any]

EXACT = "f32"
PRECISIONS = (EXACT, "f16", "bf16", "int8")
_MODEL = "model"
_START = 600.0  # seconds until a server has its model
_CALLS = 20  # timed, of each server
_ROWS = 8
_SEED = 7
_CATEGORIES = 16  # below it what is random for whole numbers, which may be places in a table
_UNKNOWN_RANK = (1,)


@dataclass(slots=True)
class Measured:
    """What one precision answered, output by output, and how long each call took in seconds."""

    outputs: Mapping[str, Array] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    trouble: str = ""


# ---- servers


def measure(model: Path, precisions: Sequence[str], given: Any, key: Path | None, folder: Path) -> dict[str, Measured]:
    """A server for each precision, asked in turns. Raises: ConnectError, PeerError, InputError."""
    found = {name: Measured() for name in precisions}
    with Programs(folder / "logs") as programs, ExitStack() as clients:
        asked: dict[str, ServingClient] = {}
        for name in precisions:
            try:
                address = _start(programs, model, name, key, folder)
            except ConnectError as exc:
                if name == EXACT:
                    raise
                found[name].trouble = str(exc)
            else:
                asked[name] = clients.enter_context(ServingClient.without_tls(address, timeout=_START))
        signatures = asked[EXACT].signatures(_MODEL)
        signature_name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else min(signatures, default="")
        if not signature_name:
            raise PeerError(f"{model} has no signature that could be asked")
        inputs = _inputs(signatures[signature_name], given)
        for _ in range(_CALLS + 1):  # in turns, so that all meet the same moods of the machine; the first is not timed
            for name, client in asked.items():
                began = time.perf_counter()
                answered = client.predict(_MODEL, inputs, signature_name=signature_name).outputs
                found[name].seconds.append(time.perf_counter() - began)
                found[name].outputs = answered
    return found


def _start(programs: Programs, model: Path, precision: str, key: Path | None, folder: Path) -> str:
    """A server's address. Raises: ConnectError with what it said, InputError."""
    ports = folder / f"{precision}.json"
    flags = [f"--precision={precision}", "--host=127.0.0.1", "--port=-1", f"--port_file={ports}", "--isolation=none"]
    flags += _place(model, folder)
    if key is not None:
        flags += ["--model_format=capsule", f"--model_key_file={key.absolute()}"]
    server = programs.start(f"server-{precision}", [find_program("tacit-serve"), *flags], env=clean_environment({}))
    server.wait_until(lambda: server.says('"ready"') or _failure(server) != "", seconds=_START)
    if failure := _failure(server):
        server.stop()
        raise ConnectError(failure)
    return f"127.0.0.1:{json.loads(ports.read_text())['grpc']}"


def _failure(server: Program) -> str:
    """What a server says of a model that it cannot load, or find; empty while it says nothing."""
    said = {"model-failed": "error", "model-storage-failed": "message"}
    return next((str(one[said[one["event"]]]) for one in server.events() if one.get("event") in said), "")


def _place(model: Path, folder: Path) -> list[str]:
    """How a server is told of one version, whatever lies beside it. Raises: InputError."""
    if model.is_file():
        return [f"--model_name={_MODEL}", f"--model_base_path={model.absolute()}"]
    if not (model.is_dir() and model.name.isdigit()):
        raise InputError(
            f"{model} is no model that could be compared: expected a file, or a version's folder whose name is a number"
        )
    config = folder / "models.pbtxt"
    config.write_text(
        f'model_config_list {{ config {{ name: "{_MODEL}" base_path: {json.dumps(str(model.absolute().parent))} '
        f'model_platform: "tensorflow" model_version_policy {{ specific {{ versions: {int(model.name)} }} }} }} }}\n'
    )
    return [f"--model_config_file={config}"]


# ---- inputs


def _inputs(signature: Signature, given: Any) -> dict[str, Array]:
    """What all are asked: what was given, in the types of the model, or what is random. Raises: InputError."""
    if given is None:
        random = np.random.default_rng(_SEED)
        return {name: _random(name, spec, random) for name, spec in signature.inputs.items()}
    arrays = given if isinstance(given, dict) else {next(iter(signature.inputs), ""): given}
    if set(arrays) != set(signature.inputs):
        raise InputError(
            f"the model takes {', '.join(sorted(signature.inputs))}; the file has {', '.join(sorted(arrays))}"
        )
    return {
        name: np.asarray(value, ELEMENT_TYPES[signature.inputs[name].dtype].memory) for name, value in arrays.items()
    }


def _random(name: str, spec: TensorSpec, random: np.random.Generator) -> Array:
    if spec.dtype == DT_STRING:
        raise InputError(f"input {name} takes strings, which nobody can guess; give --input")
    sizes = _UNKNOWN_RANK if spec.shape is None else spec.shape
    shape = [(_ROWS if place == 0 else 1) if size < 0 else size for place, size in enumerate(sizes)]
    memory = ELEMENT_TYPES[spec.dtype].memory
    if memory.kind in "iub":
        return random.integers(0, 2 if memory.kind == "b" else _CATEGORIES, shape).astype(memory)
    return random.standard_normal(shape).astype(memory)


# ---- what is told


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from the exact one, in its own units; `same` is the share of rows with the same largest."""

    largest: float
    mean: float
    scale: float
    same: float | None


def difference(exact: Array, other: Array) -> Difference:
    """Hold an output against the exact one."""
    if exact.shape == other.shape and exact.size == 0:
        return Difference(0.0, 0.0, 0.0, None)
    if exact.dtype.kind not in "fiub" or exact.shape != other.shape:
        agree = float(np.mean(exact == other)) if exact.shape == other.shape else 0.0
        return Difference(0.0 if agree == 1.0 else float("inf"), 1.0 - agree, 1.0, agree)
    left, right = exact.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((left == right) | (np.isnan(left) & np.isnan(right)), 0.0, np.abs(left - right))
    apart[np.isnan(apart)] = np.inf  # a number here, and none there
    size = np.abs(left[np.isfinite(left)])
    by_rows = left.ndim > 1 and left.shape[-1] > 1
    same = float(np.mean(left.argmax(-1) == right.argmax(-1))) if by_rows else None
    return Difference(float(apart.max()), float(apart.mean()), float(size.max(initial=0)), same)


def as_fields(found: Mapping[str, Measured]) -> dict[str, Any]:
    """For a program."""
    exact = found[EXACT].outputs
    fields: dict[str, Any] = {}
    for name, one in found.items():
        if one.trouble:
            fields[name] = {"Error": one.trouble}
            continue
        outputs = {}
        for alias in exact:
            held = difference(exact[alias], one.outputs[alias])
            outputs[alias] = {
                "Largest": as_jsonable(held.largest),
                "Mean": as_jsonable(held.mean),
                "Scale": held.scale,
                "SameTop": held.same,
            }
        fields[name] = {"Milliseconds": 1000 * statistics.median(one.seconds[1:]), "Outputs": outputs}
    return fields


def as_lines(found: Mapping[str, Measured], *, random: bool) -> list[str]:
    """For a person."""
    width = max(len(alias) for alias in ("output", *found[EXACT].outputs))
    lines = [f"precision  {'output':<{width}}  largest error  mean error  same top  ms"]
    number: Callable[[float], str] = "{:.3g}".format
    exact = found[EXACT].outputs
    for name, one in found.items():
        if one.trouble:
            lines.append(f"{name:<9}  {one.trouble}")
            continue
        took = f"{1000 * statistics.median(one.seconds[1:]):.2f}"
        for alias in exact:
            held = difference(exact[alias], one.outputs[alias])
            same = "" if held.same is None else f"{100 * held.same:.1f} %"
            lines.append(
                f"{name:<9}  {alias:<{width}}  {number(held.largest):>13}  {number(held.mean):>10}  {same:>8}  {took}"
            )
    rows = "random rows, which say little of the model's own data: give --input" if random else "the given inputs"
    lines.append(f"Errors are absolute, against f32 on this machine; asked on {rows}.")
    return lines
