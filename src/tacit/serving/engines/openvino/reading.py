"""OpenVINO: SavedModel, frozen GraphDef, ONNX, TensorFlow Lite and IR, without TensorFlow in the process.

ONNX and IR are read from memory. The others are only read from a path: in place where the files lie
unencrypted anyway, else from a private folder on a tmpfs that is gone once they are read.

Numbers: floating-point layers run in the precision that the options state. The CPU plugin computes every integer in 32
bits with a sign, which is enough for indices and token numbers; an input that does not fit is refused, because the
plugin would go on with its lower half.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from tacit.errors import ModelFormatError, PlaintextError
from tacit.graph.declared import merge_signatures, read_signatures
from tacit.graph.parsing import WithoutParsing, take_out_parsing
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.graph.twins import find_twins
from tacit.serving.bundle import Bundle, Kind, Layout, recognise, weights_of
from tacit.serving.engines.examples import ChangedBundle, ExampleEngine
from tacit.serving.engines.interface import Engine, EngineOptions, Precision
from tacit.serving.engines.onnx import external_files
from tacit.serving.engines.openvino.engine import OpenVinoEngine
from tacit.serving.engines.openvino.guards import add_guards
from tacit.serving.engines.openvino.library import import_library, open_core, reason_of
from tacit.serving.engines.openvino.parts import EngineOfParts, group_by_inputs, take_out
from tacit.serving.engines.openvino.quantised import Sample, quantise
from tacit.serving.engines.openvino.ranks import EngineOfRanks, has_free_ranks
from tacit.serving.engines.openvino.shapes import make_check
from tacit.serving.engines.processors import usable_processors
from tacit.serving.engines.staging import staged

_LEFT_OUT = (RuntimeError, ModelFormatError, PlaintextError, OSError)  # of a signature beside the default one
_MAX_SAMPLES = 64  # recorded requests that int8 learns from; more tell little more
_CAPABILITIES: Mapping[Precision, str] = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}


def load_openvino(bundle: Bundle, options: EngineOptions) -> Engine:
    """A model, compiled for this machine's processor.

    Raises:
        ModelFormatError: not a model that OpenVINO reads, one with types or operations that it lacks, or a precision
            that the processor lacks.
        RequestError: recorded requests, which int8 learns from, that are broken.
        PlaintextError: the model needs a path and `options.staging` is not memory.
    """
    layout = recognise(bundle.names)
    core = open_core()
    _check_device(core, options)
    try:
        written, reading = _read_declared(bundle, layout)
        declared = reading.signatures if reading else written
        if reading:
            bundle = ChangedBundle(bundle, layout.entry, reading.content)
        engine = _load_apart(core, bundle, layout, options, declared) or _load(core, bundle, layout, options, declared)
    except RuntimeError as exc:
        raise ModelFormatError(f"OpenVINO cannot read {layout.entry} as {layout.kind}: {reason_of(exc)}") from exc
    return ExampleEngine(engine, written, reading.examples) if reading else engine


def _load(
    core: Any, bundle: Bundle, layout: Layout, options: EngineOptions, declared: Mapping[str, Signature]
) -> Engine:
    """The model as OpenVINO reads it: with the inputs of the default signature. Raises: RuntimeError, ModelFormatError."""
    model = _read(core, bundle, layout, options)
    _expose_outputs(model, declared)
    if options.precision == "int8":
        plain = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        model = quantise(core, model, _samples(OpenVinoEngine(import_library(), plain, declared), bundle, options))
    return _compile(core, model, options, declared)


def _load_apart(
    core: Any, bundle: Bundle, layout: Layout, options: EngineOptions, declared: Mapping[str, Signature]
) -> Engine | None:
    """A SavedModel whose signatures have inputs of their own; None where they share them.

    Raises: RuntimeError, ModelFormatError.
    """
    if len(group_by_inputs(declared)) < 2 or options.precision == "int8":
        return None
    content = bundle.read(layout.entry)
    twins = find_twins(content, dict(sorted(declared.items(), key=lambda item: item[0] != SERVING_DEFAULT)))
    single = {name: signature for name, signature in declared.items() if name not in twins}
    groups = group_by_inputs(single)

    def read(some: Sequence[Mapping[str, Signature]]) -> Any:
        merged = merge_signatures(content, {name: one for group in some for name, one in group.items()})
        return _read(core, ChangedBundle(bundle, layout.entry, merged), layout, options)

    engines = _compile_groups(core, options, groups, read) if len(groups) > 1 else ()
    return EngineOfParts(engines or [_load(core, bundle, layout, options, single)], declared, twins)


def _compile_groups(
    core: Any,
    options: EngineOptions,
    groups: Sequence[Mapping[str, Signature]],
    read: Callable[[Sequence[Mapping[str, Signature]]], Any],
) -> Sequence[Engine]:
    """An engine for each group of signatures that OpenVINO can run; none where it cannot run the first in this way."""
    whole = None
    with suppress(*_LEFT_OUT):  # where one of them has what OpenVINO lacks, each is read by itself
        whole = read(groups)
    engines: list[Engine] = []
    for group in groups:
        try:
            model = read([group]) if whole is None else whole
            engines.append(_compile(core, take_out(import_library(), model, group), options, group))
        except _LEFT_OUT:
            if not engines:
                break
    return engines


def _compile(core: Any, model: Any, options: EngineOptions, declared: Mapping[str, Signature]) -> Engine:
    """Raises: RuntimeError, ModelFormatError."""
    library = import_library()

    device, properties = options.device.upper(), _properties(options)

    def compiled(one: Any) -> OpenVinoEngine:
        check = make_check(library, one)  # before the guards, which take from it what would not fit
        add_guards(library, one)
        made = core.compile_model(one, device, properties)
        return OpenVinoEngine(library, made, declared, check, _Renewal(core, device, properties))

    return EngineOfRanks(library, model, declared, compiled) if has_free_ranks(model) else compiled(model)


class _Renewal:
    """Compiled models that are as the first one was when it was new.

    What it was made of is kept from the first time on that one is asked for: a second one cannot be written out any more.
    """

    def __init__(self, core: Any, device: str, properties: Mapping[str, Any]) -> None:
        self._core, self._device, self._properties = core, device, properties
        self._written: Any = None

    def __call__(self, compiled: Any) -> Any:
        """Raises: RuntimeError."""
        if self._written is None:
            self._written = compiled.export_model()
        return self._core.import_model(self._written, self._device, dict(self._properties))


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
    if threads == 1:
        # In the thread that asks. One stream of one thread would lose its errors: OpenVINO 2026.4 answers a request that
        # it could not run with what it answered before.
        chosen["NUM_STREAMS"] = 0
    elif options.threads or threads < (_host_processors() or threads):
        chosen["INFERENCE_NUM_THREADS"] = threads
    return chosen


def _host_processors() -> int | None:
    import os

    return os.cpu_count()
