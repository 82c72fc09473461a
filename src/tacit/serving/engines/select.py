"""Which engine runs a model: the one that is named, or the first that can.

OpenVINO is tried first. What it does not read goes to the engine of the model's own format, if that is installed:
ONNX Runtime for ONNX, TensorFlow for SavedModels.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from tacit.errors import ModelFormatError, UsageError
from tacit.serving.bundle import Bundle, Kind, recognise
from tacit.serving.engines.interface import Engine, EngineLoader, EngineOptions

AUTO = "auto"


def _openvino() -> EngineLoader:
    from tacit.serving.engines.openvino import load_openvino

    return load_openvino


def _onnxruntime() -> EngineLoader:
    from tacit.serving.engines.onnxruntime import load_onnxruntime

    return load_onnxruntime


def _tensorflow() -> EngineLoader:
    from tacit.serving.engines.tensorflow import load_tensorflow

    return load_tensorflow


ENGINES: Mapping[str, Callable[[], EngineLoader]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorflow": _tensorflow,
}
"""Loaders by the engine's name, which is also that of its package; each imports its library when it is asked."""

_BESIDE = {Kind.ONNX: "onnxruntime", Kind.SAVED_MODEL: "tensorflow"}
"""The engine of a format's own, for what OpenVINO does not read."""


def check_engine(name: str) -> str:
    """A name of an engine that is installed, or `auto`. Raises: UsageError."""
    if name == AUTO:
        return name
    if name not in ENGINES:
        raise UsageError(f"--engine={name}: expected {AUTO}, {', '.join(ENGINES)}")
    if not is_installed(name):
        raise UsageError(f"--engine={name}: it is not installed; pip install 'tacit[{name}]'")
    return name


def is_installed(name: str) -> bool:
    """Whether an engine's package is there."""
    return find_spec(name) is not None


def prepare() -> None:
    """Read what most models need, before there is one."""
    from tacit.serving.engines.openvino import open_core

    open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # with the plugin for this processor


def load_model(bundle: Bundle, options: EngineOptions) -> Engine:
    """A model in the engine that `options` name, or that can run it.

    Raises:
        ModelFormatError: no engine reads it; says which other one might.
        PlaintextError: the model needs a path and `options.staging` is not memory.
    """
    if options.engine != AUTO:
        return ENGINES[options.engine]()(bundle, options)
    try:
        return _openvino()(bundle, options)
    except ModelFormatError as exc:
        other = _BESIDE.get(recognise(bundle.names).kind)
        if other is None:
            raise
        if not is_installed(other):
            raise ModelFormatError(f"{exc}. {other} may run it: pip install 'tacit[{other}]'") from exc
        try:
            return ENGINES[other]()(bundle, options)
        except ModelFormatError as second:
            if str(second) == str(exc):  # found by both, in the names of the model's files, say
                raise
            raise ModelFormatError(f"{exc}; nor does another engine: {second}") from exc
