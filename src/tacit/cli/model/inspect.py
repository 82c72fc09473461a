"""What a model file says of itself, as lines for a person."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tacit.cli.model.convert import SAVED_MODEL
from tacit.cli.model.encrypt import MAX_MODEL, check_model, digest_of, load_key
from tacit.cli.model.files import file_error, file_size, load_file
from tacit.errors import ModelFormatError
from tacit.graph import Graph, Signature, TensorSpec, dtype_name, parse_graph, parse_saved_model, tensor_spec
from tacit.graph.graphdef import MAX_MODEL_BYTES
from tacit.vault.files import list_plain_files, open_capsule, read_capsule_header
from tacit.vault.plain import plain_id

_CLOSED = {".onnx": "ONNX", ".xml": "OpenVINO IR"}


def describe_model(path: Path) -> list[str]:
    """Lines about a model that is not encrypted, a folder or a file; the last is the ID that a manifest names it by.

    SavedModels and frozen graphs are looked into, others are only named.

    Raises: FileInputError, ModelFormatError, UsageError.
    """
    if path.is_dir():
        check_model(path)
    file = path / SAVED_MODEL if path.is_dir() else path
    if not file.exists() and path.is_dir():
        lines = [f"{path}: a folder without {SAVED_MODEL}; not looked into"]
    elif file.suffix in _CLOSED:
        size = file_size(file, what="a model", largest=MAX_MODEL)
        lines = [f"{file}: {_CLOSED[file.suffix]}, {size} bytes; not looked into"]
    else:
        lines = _look_into(file)
    return [*lines, f"ID: {_plain_id(path).hex()} (as a plain model)"]


def describe_ctr(path: Path) -> list[str]:
    """Lines about a file in the demo's encrypted format. Raises: FileInputError."""
    size = file_size(path, what="a file in the ctr format", largest=MAX_MODEL)
    return [
        f"{path}: encrypted in the ctr format, {size} bytes; nothing in it is authenticated",
        f"ID: {digest_of(path).hex()}",
    ]


def _plain_id(path: Path) -> bytes:
    """The id of a plain model, as the server computes it."""
    try:
        folder, names = list_plain_files(path)
    except OSError as exc:
        raise file_error(path, exc) from exc
    return plain_id({name: digest_of(folder / name) for name in names})


def _look_into(file: Path) -> list[str]:
    raw = load_file(file, what="a SavedModel or a frozen graph", largest=MAX_MODEL_BYTES)
    try:
        return [f"{file}: SavedModel, {len(raw)} bytes", *_signatures(parse_saved_model(raw))]
    except ModelFormatError as no_saved_model:
        try:
            graph = parse_graph(raw)
        except ModelFormatError as no_graph:
            raise ModelFormatError(
                f"{file}: neither a SavedModel ({no_saved_model}) nor a frozen graph ({no_graph}); "
                "ONNX, IR and TensorFlow Lite models are served, but not inspected here"
            ) from no_graph
        return [f"{file}: frozen graph, {len(raw)} bytes, {len(graph.nodes)} nodes", *_ends(graph)]


def _signatures(signatures: Mapping[str, Signature]) -> Iterator[str]:
    for name, signature in signatures.items():
        yield f"signature {name} ({signature.method or 'no method'})"
        yield from (_tensor("input ", key, spec) for key, spec in signature.inputs.items())
        yield from (_tensor("output", key, spec) for key, spec in signature.outputs.items())


def _ends(graph: Graph) -> Iterator[str]:
    for what, names in (("input ", graph.placeholders()), ("output", graph.ends())):
        for name in names:
            try:
                yield _tensor(what, name, tensor_spec(graph, name))
            except ModelFormatError:
                yield f"  {what} {name}: type not said"
    yield "make a SavedModel of it with: tacit model convert"


def _tensor(what: str, key: str, spec: TensorSpec) -> str:
    shape = "unknown rank" if spec.shape is None else "[" + ", ".join(str(size) for size in spec.shape) + "]"
    return f"  {what} {key}: {dtype_name(spec.dtype)} {shape}"


def describe_capsule(path: Path, key_file: Path | None) -> list[str]:
    """Lines about a capsule: what anybody sees, and with its key the name, version and files, which are verified.

    Raises: FileInputError, VaultError.
    """
    size = file_size(path, what="a capsule", largest=MAX_MODEL)
    if key_file is None:
        info = read_capsule_header(path)
        return [
            f"{path}: capsule, {size} bytes",
            f"ID: {info.id.hex()}",
            "its name and files are shown with: --key KEY",
        ]
    with open_capsule(path, load_key(key_file)) as opened:
        info = opened.info
    lines = [f"{path}: capsule, {size} bytes", f"ID: {info.id.hex()}", f"Name: {info.name}, version {info.version}"]
    return [*lines, *(f"  {file.name}: {file.size} bytes" for file in info.files)]
