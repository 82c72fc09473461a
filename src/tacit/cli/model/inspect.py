"""What a model file says of itself, as lines for a person."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tacit.cli.model.convert import SAVED_MODEL
from tacit.cli.model.files import file_size, load_file
from tacit.errors import ModelFormatError
from tacit.graph import Graph, Signature, TensorSpec, dtype_name, parse_graph, parse_saved_model, tensor_spec
from tacit.graph.graphdef import MAX_MODEL_BYTES


def describe_model(path: Path) -> list[str]:
    """Lines about a SavedModel (its folder or its file) or a frozen graph.

    Raises: FileInputError, ModelFormatError.
    """
    file = path / SAVED_MODEL if path.is_dir() else path
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
    from tacit.cli.model.encrypt import MAX_MODEL, load_key
    from tacit.vault.files import open_capsule, read_capsule_header

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
