"""OpenVINO: SavedModel, frozen GraphDef, ONNX, TensorFlow Lite and IR, without TensorFlow in the process.

ONNX and IR are read from memory. The others are only read from a path: in place where the files lie
unencrypted anyway, else from a private folder on a tmpfs that is gone once they are read.

Numbers: floating-point layers run in the precision that the options state. The CPU plugin computes every integer in 32
bits with a sign, which is enough for indices and token numbers; an input that does not fit is refused, because the
plugin would go on with its lower half.
"""

import re
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import ModelFormatError, RequestError, Status
from tacit.graph.declared import read_signatures
from tacit.graph.parsing import WithoutParsing, take_out_parsing
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.serving.bundle import Bundle, Kind, Layout, recognise, weights_of
from tacit.serving.engines.examples import ChangedBundle, ExampleEngine
from tacit.serving.engines.interface import Engine, EngineOptions, Precision
from tacit.serving.engines.onnx import external_files
from tacit.serving.engines.processors import usable_processors
from tacit.serving.engines.quantised import Sample, quantise
from tacit.serving.engines.staging import staged
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

_SOURCE_PLACE = re.compile(r"\S+\.(?:cpp|hpp|cc|c|h):\d+:?\s*")  # in the engine's own source
_MAX_REASON = 300  # characters of the engine's own words in an error

_MAX_SAMPLES = 64  # recorded requests that int8 learns from; more tell little more
_CAPABILITIES: Mapping[Precision, str] = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}

_WIDE = (9, 22, 23)  # int64, uint32 and uint64: they hold what 32 bits with a sign do not
_LEAST, _MOST = -(2**31), 2**31 - 1

# OpenVINO's names for element types, in TensorFlow's numbers.
_DTYPES = {
    "f32": 1,
    "f64": 2,
    "i32": 3,
    "u8": 4,
    "i16": 5,
    "i8": 6,
    "i64": 9,
    "boolean": 10,
    "bf16": 14,
    "u16": 17,
    "f16": 19,
    "u32": 22,
    "u64": 23,
}


def load_openvino(bundle: Bundle, options: EngineOptions) -> Engine:
    """A model, compiled for this machine's processor.

    Raises:
        ModelFormatError: not a model that OpenVINO reads, one with types or operations that it lacks, or a precision
            that the processor lacks.
        RequestError: recorded requests, which int8 learns from, that are broken.
        PlaintextError: the model needs a path and `options.staging` is not memory.
    """
    layout = recognise(bundle.names)
    library, core = import_library(), open_core()
    _check_device(core, options)
    try:
        written, reading = _read_declared(bundle, layout)
        declared = reading.signatures if reading else written
        if reading:
            bundle = ChangedBundle(bundle, layout.entry, reading.content)
        model = _read(core, bundle, layout, options)
        _expose_outputs(model, declared)
        if options.precision == "int8":
            plain = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            model = quantise(core, model, _samples(OpenVinoEngine(library, plain, declared), bundle, options))
        compiled = core.compile_model(model, options.device.upper(), _properties(options))
    except RuntimeError as exc:
        raise ModelFormatError(f"OpenVINO cannot read {layout.entry} as {layout.kind}: {reason_of(exc)}") from exc
    engine = OpenVinoEngine(library, compiled, declared)
    return ExampleEngine(engine, written, reading.examples) if reading else engine


class OpenVinoEngine:
    """A compiled model with one infer request, whose input buffers are kept from call to call."""

    platform = "openvino"

    def __init__(self, library: Any, compiled: Any, declared: Mapping[str, Signature]) -> None:
        self._library = library
        self._compiled = compiled
        inputs = [_port(number, port, declared, inputs=True) for number, port in enumerate(compiled.inputs)]
        outputs = [_port(number, port, declared, inputs=False) for number, port in enumerate(compiled.outputs)]
        self._bindings = _bind_declared(declared, inputs, outputs) if declared else _bind_ports(inputs, outputs)
        if not self._bindings:
            raise ModelFormatError(f"OpenVINO can run none of the signatures {', '.join(sorted(declared))}")
        self._buffers: dict[int, tuple[tuple[int, ...], NDArray[Any]]] = {}
        self._request = compiled.create_infer_request()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures whose tensors the compiled model has."""
        return {key: binding.signature for key, binding in self._bindings.items()}

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        binding = self._bindings[signature]
        added = {alias: _missing_ones(binding.inputs[alias].shape, tensor.shape) for alias, tensor in inputs.items()}
        try:
            for alias, tensor in inputs.items():
                _check_range(alias, tensor)
                self._fill(binding.inputs[alias], _with_ones(tensor, added[alias]))
            found = self._request.infer(share_outputs=True, decode_strings=False).to_tuple()  # nothing is copied yet
            taken = {alias: _take(binding, alias, found) for alias in outputs}
            return _without_ones(taken, added.values()) if any(added.values()) else taken
        except RuntimeError as exc:
            # The request may be left half-filled: a fresh one serves the next call.
            self._buffers.clear()
            self._request = self._compiled.create_infer_request()
            shapes = ", ".join(f"{alias} {list(tensor.shape)}" for alias, tensor in sorted(inputs.items()))
            raise RequestError(
                Status.INVALID_ARGUMENT, f"the model does not take these shapes ({shapes}): {reason_of(exc)}"
            ) from exc

    def by_number(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[int, NDArray[Any]]:
        """Inputs of a signature as the compiled model numbers them."""
        ports = self._bindings[signature].inputs
        return {
            ports[alias].index: _with_ones(tensor, _missing_ones(ports[alias].shape, tensor.shape)).array
            for alias, tensor in inputs.items()
        }

    def close(self) -> None:
        """Give the compiled model's memory back."""
        self._buffers.clear()
        self._request = self._compiled = None

    def _fill(self, port: "_Port", tensor: Tensor) -> None:
        kept = self._buffers.get(port.index)
        if kept is None or kept[0] != tensor.shape:
            buffer = self._library.Tensor(port.element_type, list(tensor.shape))
            self._request.set_input_tensor(port.index, buffer)
            kept = self._buffers[port.index] = (tensor.shape, buffer.data)
        target = kept[1]
        # OpenVINO shows types that numpy lacks under others of the same width: the bits are what is copied.
        np.copyto(target.view(tensor.array.dtype) if target.dtype != tensor.array.dtype else target, tensor.array)


def _check_range(alias: str, tensor: Tensor) -> None:
    """Refuse integers that the plugin would cut. Raises: RequestError."""
    if tensor.dtype not in _WIDE or not tensor.array.size:
        return
    for found in (int(tensor.array.min()), int(tensor.array.max())):
        if not _LEAST <= found <= _MOST:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"input {alias} holds {found}, and OpenVINO computes integers in 32 bits ({_LEAST} to {_MOST}); "
                "onnxruntime and tensorflow (--engine) compute them whole",
            )


def _take(binding: "_Binding", alias: str, outputs: Sequence[NDArray[Any]]) -> Tensor:
    """An output as the caller's own; the engine's memory is for the next run."""
    dtype, found = binding.signature.outputs[alias].dtype, outputs[binding.outputs[alias].index]
    memory = ELEMENT_TYPES[dtype].memory
    return Tensor(dtype, (found.view(memory) if found.dtype != memory else found).copy())


# ---- ranks


def _missing_ones(wanted: tuple[int, ...] | None, shape: tuple[int, ...]) -> int:
    """How many dimensions of size 1 an input lacks at its end.

    TensorFlow's graphs take a vector where a column was declared, and its clients send one. A compiled model holds to
    its ranks: so the dimensions are put on, and taken off again where the outputs have them.
    """
    if not shape or wanted is None or len(wanted) <= len(shape) or any(size != 1 for size in wanted[len(shape) :]):
        return 0
    return len(wanted) - len(shape)


def _with_ones(tensor: Tensor, count: int) -> Tensor:
    return Tensor(tensor.dtype, tensor.array.reshape(tensor.shape + (1,) * count)) if count else tensor


def _without_ones(outputs: Mapping[str, Tensor], added: Iterable[int]) -> dict[str, Tensor]:
    count = min(added)
    return {
        alias: Tensor(tensor.dtype, tensor.array.reshape(tensor.shape[:-count]))
        if count and len(tensor.shape) > count and tensor.shape[-count:] == (1,) * count
        else tensor
        for alias, tensor in outputs.items()
    }


# ---- reading


def import_library() -> Any:
    """OpenVINO without its conversion tools, which bring a telemetry client that nobody asked for (and 60 ms)."""
    kept_out = "openvino.tools"
    modules: dict[str, Any] = sys.modules
    if "openvino" in modules or kept_out in modules:
        import openvino

        return openvino
    modules[kept_out] = None
    try:
        import openvino
    finally:
        del modules[kept_out]
    return openvino


_GATE = threading.Lock()


def open_core() -> Any:
    """The one Core of this process, which stays until the process ends.

    With the last Core goes the CPU plugin, and with that the stack for signals that it gave to the thread which loaded
    it. Where another thread drops it, the first is left with a stack that is gone: its next signal kills the process.
    """
    with _GATE:
        return _make_core()


@cache
def _make_core() -> Any:
    return import_library().Core()


def _read_declared(bundle: Bundle, layout: Layout) -> tuple[Mapping[str, Signature], WithoutParsing | None]:
    """The signatures that a SavedModel declares, and the model without its reading of examples if it has any."""
    if layout.kind is not Kind.SAVED_MODEL:
        return {}, None
    content = bundle.read(layout.entry)
    declared = read_signatures(content)
    return declared, take_out_parsing(content, declared)


def _read(core: Any, bundle: Bundle, layout: Layout, options: EngineOptions) -> Any:
    if layout.kind is Kind.IR:
        # Decrypted right into memory that is the engine's: it keeps it as long as the compiled model looks at it.
        name = weights_of(layout.entry)
        weights = import_library().Tensor(import_library().Type.u8, [bundle.size(name)])
        bundle.read_into(name, memoryview(weights.data))
        return core.read_model(bytes(bundle.read(layout.entry)).decode("utf-8", "replace"), weights)
    if layout.kind is Kind.ONNX:
        content = bytes(bundle.read(layout.entry))
        if not external_files(content, layout, bundle.names):
            return core.read_model(content)
    with nullcontext(bundle.place) if bundle.place else staged(bundle, options.staging) as folder:
        entry = Path(folder, layout.entry)
        return core.read_model(str(entry.parent if layout.kind is Kind.SAVED_MODEL else entry))


def _expose_outputs(model: Any, declared: Mapping[str, Signature]) -> None:
    """Make the outputs of all signatures outputs of the model: OpenVINO reads those of one signature alone."""
    present = {name for port in model.outputs for name in port.get_names()}
    default = declared.get(SERVING_DEFAULT)
    covered = {spec.name for spec in default.outputs.values()} if default else set()
    for key, signature in declared.items():
        if key == SERVING_DEFAULT:
            continue
        for spec in signature.outputs.values():
            if spec.name in covered or spec.name in present:
                continue
            covered.add(spec.name)
            try:
                model.add_outputs([spec.name])
            except RuntimeError:
                continue  # not reachable from the default signature; that signature is left out


def _check_device(core: Any, options: EngineOptions) -> None:
    """Refuse what the device lacks: the engine would compute it as f32 and say nothing. Raises: ModelFormatError."""
    device, precision = options.device.upper(), options.precision
    if device != "CPU" and not any(found.partition(".")[0] == device for found in core.available_devices):
        raise ModelFormatError(
            f"--device={options.device}: OpenVINO finds none that it can use; it finds {', '.join(core.available_devices)}"
        )
    has = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in has:
        offered = ", ".join(name for name, word in _CAPABILITIES.items() if word in has)
        what = "processor" if options.device == "cpu" else "device"
        raise ModelFormatError(f"--precision={precision}: this {what} does not have it; it has {offered}")


def _samples(engine: "OpenVinoEngine", bundle: Bundle, options: EngineOptions) -> Sequence[Sample]:
    """The model's recorded requests by the numbers of its inputs. Raises: RequestError."""
    recorded = options.samples(bundle, engine.signatures) if options.samples else ()
    return [engine.by_number(key, inputs) for key, inputs in recorded[:_MAX_SAMPLES]]


def _properties(options: EngineOptions) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # one stream over all processors: twice the streams, twice the latency
        "INFERENCE_PRECISION_HINT": "f32" if options.precision == "int8" else options.precision,
    }
    if options.device != "cpu":
        return chosen
    chosen["ENABLE_CPU_PINNING"] = False  # pinning costs a system call per inference and fights with other processes
    threads = options.threads or usable_processors()
    if options.threads or threads < (_host_processors() or threads):
        chosen["INFERENCE_NUM_THREADS"] = threads
    return chosen


def _host_processors() -> int | None:
    import os

    return os.cpu_count()


def reason_of(exc: Exception) -> str:
    """The engine's own words without its source lines, on one line."""
    lines = [line.strip() for line in str(exc).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    text = " ".join(said or [line for line in lines if line])
    text = _SOURCE_PLACE.sub("", text).strip() or "no reason given"
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."


# ---- signatures and ports


@dataclass(frozen=True, slots=True)
class _Port:
    """An input or output of the compiled model; `names` are those that a signature may call it by."""

    index: int
    names: tuple[str, ...]
    element_type: Any
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Binding:
    signature: Signature
    inputs: Mapping[str, _Port]
    outputs: Mapping[str, _Port]


def _port(number: int, port: Any, declared: Mapping[str, Signature], *, inputs: bool) -> _Port:
    names = sorted(port.get_names())
    default = declared.get(SERVING_DEFAULT)
    if default:
        # The SavedModel reader renames the default signature's tensors to their aliases.
        specs = default.inputs if inputs else default.outputs
        names += [spec.name for alias, spec in specs.items() if alias in names]
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        what = "input" if inputs else "output"
        raise ModelFormatError(
            f"{what} {names[0] if names else number} is of type {kind}, which OpenVINO does not serve"
        )
    partial = port.get_partial_shape()
    shape = None
    if not partial.rank.is_dynamic:
        shape = tuple(-1 if size.is_dynamic else size.get_length() for size in partial)
    return _Port(number, tuple(names), port.get_element_type(), _DTYPES[kind], shape)


def _bind_ports(inputs: Sequence[_Port], outputs: Sequence[_Port]) -> dict[str, _Binding]:
    """One signature with the graph's own names, for formats that know no signatures."""
    by_alias = [{_alias(port): port for port in ports} for ports in (inputs, outputs)]
    specs = [
        {alias: TensorSpec(port.names[0], port.dtype, port.shape) for alias, port in ports.items()}
        for ports in by_alias
    ]
    return {SERVING_DEFAULT: _Binding(Signature(specs[0], specs[1]), by_alias[0], by_alias[1])}


def _alias(port: _Port) -> str:
    if not port.names:
        raise ModelFormatError(f"port {port.index} has no name that a request could use")
    return port.names[0].removesuffix(":0")


def _bind_declared(
    declared: Mapping[str, Signature], inputs: Sequence[_Port], outputs: Sequence[_Port]
) -> dict[str, _Binding]:
    """The declared signatures that feed every input of the compiled model and ask for outputs that it has."""
    bindings = {}
    for key, signature in declared.items():
        # Another signature may use the same alias for another tensor: only the default one is found by its aliases.
        known = key == SERVING_DEFAULT or SERVING_DEFAULT not in declared
        fed = {alias: _find(inputs, alias if known else "", spec) for alias, spec in signature.inputs.items()}
        asked = {alias: _find(outputs, alias if known else "", spec) for alias, spec in signature.outputs.items()}
        feeds = {alias: port for alias, port in fed.items() if port}
        answers = {alias: port for alias, port in asked.items() if port}
        complete = len(feeds) == len(fed) == len(inputs) and len(answers) == len(asked)
        if complete and all(port.dtype == signature.inputs[alias].dtype for alias, port in feeds.items()):
            bindings[key] = _Binding(signature, feeds, answers)
    return bindings


def _find(ports: Sequence[_Port], alias: str, spec: TensorSpec) -> _Port | None:
    return next((p for p in ports if spec.name in p.names), None) or next((p for p in ports if alias in p.names), None)
