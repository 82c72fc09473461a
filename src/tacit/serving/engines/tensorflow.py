"""TensorFlow: SavedModels with what OpenVINO lacks: strings, tables, parsing of examples. An extra.

A graph is a program, so it is read before TensorFlow sees it: one with an operation that reaches files, processes or the
network is refused, tables from text files among them, since the graph names the file. Restoring variables is left, which
loading needs, and which reads checkpoints alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tacit.errors import ModelFormatError, RequestError, Status
from tacit.graph.declared import read_signatures
from tacit.graph.protobuf import fields
from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle, Kind, check_name, recognise
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.processors import usable_processors
from tacit.serving.engines.staging import staged
from tacit.wire.tensor import DT_BFLOAT16, DT_STRING, ELEMENT_TYPES, Tensor, type_name

_FORBIDDEN = (
    # files
    "ReadFile", "WriteFile", "MatchingFiles", "ImmutableConst", "WholeFileReader", "TextLineReader", "TFRecordReader",
    "FixedLengthRecordReader", "LMDBReader", "LMDBDataset", "TextLineDataset", "TFRecordDataset", "CSVDataset",
    "FixedLengthRecordDataset", "MatchingFilesDataset", "SqlDataset", "DatasetToTFRecord", "SaveDataset", "LoadDataset",
    "CacheDataset", "SnapshotDataset", "AssertNextDataset", "DecodeProto", "EncodeProto", "PrintV2", "Experimental",
    "InitializeTableFrom", "CreateSummaryFileWriter", "CreateSummaryDbWriter", "WriteSummary", "WriteRawProtoSummary",
    # other code, processes and machines
    "PyFunc", "EagerPyFunc", "RemoteCall", "RemoteFusedGraphExecute", "RpcCall", "RpcClient", "RpcServer", "TryRpc", "Rpc",
    "Debug", "DataService", "RegisterDataset", "Collective", "NcclAllReduce", "_Send", "_Recv", "Send", "Recv", "XlaLaunch",
    "TPU", "ConfigureDistributed",
)  # fmt: skip
"""Beginnings of the names of operations that no served graph needs."""
# Fields on the way from a SavedModel to the operations of its nodes.
_META_GRAPHS, _GRAPH, _NODE, _OP = 2, 2, 1, 2
_LIBRARY, _FUNCTION, _FUNCTION_NODE = 2, 1, 3
_ASSETS, _ASSET_NAME = 6, 2
_MAX_REASON = 300  # characters of the engine's own words in an error


def load_tensorflow(bundle: Bundle, options: EngineOptions) -> Engine:
    """A SavedModel's signatures as TensorFlow functions.

    Raises:
        ModelFormatError: not a SavedModel, one that TensorFlow does not read, or one that reaches out of itself.
        PlaintextError: the model is sealed and `options.staging` is not memory.
    """
    layout = recognise(bundle.names)
    if layout.kind is not Kind.SAVED_MODEL:
        raise ModelFormatError(f"TensorFlow serves SavedModels here, and {layout.entry} is a {layout.kind}")
    if options.device != "cpu":
        raise ModelFormatError(f"TensorFlow computes on the processor; --device={options.device} is OpenVINO's")
    if options.precision != "f32":
        raise ModelFormatError(f"TensorFlow computes as the model says; --precision={options.precision} is OpenVINO's")
    content = bundle.read(layout.entry)
    refuse_reaching_out(content)
    declared = read_signatures(content)
    library = _import_library(options)
    with nullcontext(bundle.place) if bundle.place else staged(bundle, options.staging) as folder:
        try:
            model = library.saved_model.load(str(Path(folder, layout.entry).parent), tags=["serve"])
        except Exception as exc:  # it raises whatever it meets
            raise ModelFormatError(f"TensorFlow cannot read {layout.entry}: {_reason(exc)}") from exc
    return TensorFlowEngine(library, model, declared)


def refuse_reaching_out(saved_model: bytes | bytearray | memoryview) -> None:
    """Refuse a graph that reaches files, processes or the network. Raises: ModelFormatError."""
    found = sorted({name for name in operations(saved_model) if name.startswith(_FORBIDDEN)})
    if found:
        raise ModelFormatError(
            f"the graph has the operation {found[0]}, which reaches out of the model; export it without, such a graph "
            "is not served"
        )


def operations(saved_model: bytes | bytearray | memoryview) -> Iterator[str]:
    """The operations of every node, those of functions among them. Raises: ModelFormatError."""
    for graph in _inner(memoryview(saved_model), _META_GRAPHS):
        for asset in _inner(graph, _ASSETS):
            for name in _inner(asset, _ASSET_NAME):
                check_name(bytes(name).decode("utf-8", "replace"))
        for definition in _inner(graph, _GRAPH):
            nodes = [*_inner(definition, _NODE)]
            for library in _inner(definition, _LIBRARY):
                for function in _inner(library, _FUNCTION):
                    nodes.extend(_inner(function, _FUNCTION_NODE))
            for node in nodes:
                yield from (bytes(op).decode("utf-8", "replace") for op in _inner(node, _OP))


def _inner(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (payload for number, _, payload in fields(message, what="a SavedModel") if number == wanted)


class TensorFlowEngine:
    """A loaded SavedModel. It is kept alive here: its signatures do not hold it."""

    platform = "tensorflow"

    def __init__(self, library: Any, model: Any, declared: Mapping[str, Signature]) -> None:
        self._library, self._model = library, model
        self._functions = {key: model.signatures[key] for key in declared if key in model.signatures}
        self._signatures = {key: declared[key] for key in self._functions}
        if not self._functions:
            raise ModelFormatError("the SavedModel has no signature that can be served")

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those that the model declares."""
        return self._signatures

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        specs = self._signatures[signature].outputs
        try:
            fed = {alias: self._fed(tensor) for alias, tensor in inputs.items()}
            found = self._functions[signature](**fed)
            return {alias: _taken(specs[alias].dtype, found[alias]) for alias in outputs}
        except (self._library.errors.OpError, ValueError, TypeError) as exc:
            raise RequestError(Status.INVALID_ARGUMENT, _reason(exc)) from exc

    def close(self) -> None:
        """Give the model's memory back."""
        self._functions, self._model = {}, None

    def _fed(self, tensor: Tensor) -> Any:
        kind = self._library.dtypes.as_dtype(tensor.dtype)
        array = tensor.array
        if tensor.dtype == DT_BFLOAT16:
            array = array.view(kind.as_numpy_dtype)
        return self._library.constant(array, dtype=kind, shape=array.shape)


def _import_library(options: EngineOptions) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it writes to the terminal, past our log
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import tensorflow as library

    threads = options.threads or usable_processors()
    with suppress(RuntimeError):  # it runs already: the first model's threads are everybody's
        library.config.threading.set_intra_op_parallelism_threads(threads)
        library.config.threading.set_inter_op_parallelism_threads(1)
    return library


def _taken(dtype: int, found: Any) -> Tensor:
    if dtype not in ELEMENT_TYPES:
        raise RequestError(Status.UNIMPLEMENTED, f"an output of {type_name(dtype)} is not served")
    array = np.asarray(found.numpy())
    if dtype == DT_STRING:
        return Tensor(dtype, array.astype(object))
    memory = ELEMENT_TYPES[dtype].memory
    return Tensor(dtype, (array.view(memory) if array.dtype != memory and array.ndim else array.astype(memory)).copy())


def _reason(exc: Exception) -> str:
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."
