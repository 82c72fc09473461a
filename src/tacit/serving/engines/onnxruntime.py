"""ONNX Runtime: ONNX models with types or operations that OpenVINO lacks, strings among them. An extra.

The model is read from memory; only where its tensors lie in other files is it read from a path, in place or from a
private folder on a tmpfs. It computes as the model says: there is no other precision.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import ModelFormatError, RequestError, Status
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.serving.bundle import Bundle, Kind, Layout, recognise
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.onnx import external_files
from tacit.serving.engines.processors import usable_processors
from tacit.serving.engines.staging import staged
from tacit.wire.tensor import DT_STRING, ELEMENT_TYPES, Tensor

_DTYPES = {
    "tensor(float)": 1,
    "tensor(double)": 2,
    "tensor(int32)": 3,
    "tensor(uint8)": 4,
    "tensor(int16)": 5,
    "tensor(int8)": 6,
    "tensor(string)": 7,
    "tensor(int64)": 9,
    "tensor(bool)": 10,
    "tensor(uint16)": 17,
    "tensor(float16)": 19,
    "tensor(uint32)": 22,
    "tensor(uint64)": 23,
}
_MAX_REASON = 300  # characters of the engine's own words in an error
_FATAL_ONLY = 4  # severity: its warnings go to the terminal, past our log


def load_onnxruntime(bundle: Bundle, options: EngineOptions) -> Engine:
    """A session on this machine's processor.

    Raises:
        ModelFormatError: not an ONNX model that it reads, or a precision that it does not have.
        PlaintextError: the model needs a path and `options.staging` is not memory.
    """
    layout = recognise(bundle.names)
    if layout.kind is not Kind.ONNX:
        raise ModelFormatError(f"ONNX Runtime reads ONNX models, and {layout.entry} is a {layout.kind}")
    if options.device != "cpu":
        raise ModelFormatError(f"ONNX Runtime computes on the processor; --device={options.device} is OpenVINO's")
    if options.precision != "f32":
        raise ModelFormatError(
            f"ONNX Runtime computes as the model says; --precision={options.precision} is OpenVINO's"
        )
    import onnxruntime as library

    wanted = library.SessionOptions()
    wanted.intra_op_num_threads = options.threads or usable_processors()
    wanted.inter_op_num_threads = 1
    wanted.log_severity_level = _FATAL_ONLY
    # Threads that spin between calls burn the processor while nobody asks.
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = _open(library, bundle, layout, wanted, options)
    except ModelFormatError:
        raise
    except Exception as exc:  # its exceptions have no base but this one
        raise ModelFormatError(f"ONNX Runtime cannot read {layout.entry}: {_reason(exc)}") from exc
    return OnnxRuntimeEngine(session)


def _open(library: Any, bundle: Bundle, layout: Layout, wanted: Any, options: EngineOptions) -> Any:
    providers = ["CPUExecutionProvider"]
    content = bytes(bundle.read(layout.entry))
    if not external_files(content, layout, bundle.names):
        return library.InferenceSession(content, wanted, providers=providers)
    with nullcontext(bundle.place) if bundle.place else staged(bundle, options.staging) as folder:
        return library.InferenceSession(str(Path(folder, layout.entry)), wanted, providers=providers)


class OnnxRuntimeEngine:
    """One session."""

    platform = "onnxruntime"

    def __init__(self, session: Any) -> None:
        self._session = session
        inputs = {port.name: _spec(port) for port in session.get_inputs()}
        outputs = {port.name: _spec(port) for port in session.get_outputs()}
        self._signatures = {SERVING_DEFAULT: Signature(inputs, outputs)}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """One, with the graph's own names."""
        return self._signatures

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        specs = self._signatures[signature].outputs
        feeds = {alias: _fed(alias, tensor) for alias, tensor in inputs.items()}
        try:
            found = self._session.run(list(outputs), feeds)
        except Exception as exc:  # its exceptions have no base but this one
            shapes = ", ".join(f"{alias} {list(tensor.shape)}" for alias, tensor in sorted(inputs.items()))
            raise RequestError(
                Status.INVALID_ARGUMENT, f"the model does not take these inputs ({shapes}): {_reason(exc)}"
            ) from exc
        return {alias: _taken(specs[alias].dtype, array) for alias, array in zip(outputs, found, strict=True)}

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None


def _spec(port: Any) -> TensorSpec:
    dtype = _DTYPES.get(port.type)
    if dtype is None:
        raise ModelFormatError(f"{port.name} is of type {port.type}, which is not served")
    # A size that has a name, or none, is free.
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    return TensorSpec(port.name, dtype, shape)


def _fed(alias: str, tensor: Tensor) -> Any:
    if tensor.dtype != DT_STRING:
        return np.ascontiguousarray(tensor.array)
    words = np.empty(tensor.array.size, dtype=object)
    try:
        words[:] = [value.decode() for value in tensor.array.ravel()]
    except UnicodeDecodeError as exc:
        raise RequestError(
            Status.INVALID_ARGUMENT, f"input {alias} has bytes that are no UTF-8, and ONNX strings are text"
        ) from exc
    return words.reshape(tensor.shape)


def _taken(dtype: int, found: Any) -> Tensor:
    if dtype != DT_STRING:
        return Tensor(dtype, np.ascontiguousarray(found, ELEMENT_TYPES[dtype].memory).reshape(found.shape))
    words = np.empty(found.size, dtype=object)
    words[:] = [str(value).encode() for value in found.ravel()]
    return Tensor(dtype, words.reshape(found.shape))


def _reason(exc: Exception) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."
