"""What a model file says of itself, as lines for a person and as fields for a program."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tacit.cli.model.convert import SAVED_MODEL
from tacit.cli.model.encrypt import MAX_MODEL, check_model, digest_of, load_key, naming
from tacit.cli.model.files import file_error, file_size, load_file
from tacit.errors import ModelFormatError
from tacit.graph import Graph, Signature, TensorSpec, dtype_name, parse_graph, parse_saved_model, tensor_spec
from tacit.graph.graphdef import MAX_MODEL_BYTES
from tacit.vault.files import list_plain_files, open_capsule, read_capsule_header
from tacit.vault.plain import plain_id

_CLOSED = {".onnx": "ONNX", ".xml": "OpenVINO IR"}


@dataclass(frozen=True, slots=True)
class Description:
    """The same twice: `lines` for a person, `fields` that JSON can say."""

    lines: list[str]
    fields: Mapping[str, object]


def describe_model(path: Path) -> Description:
    """About a model that is not encrypted, a folder or a file; the last is the ID that a manifest names it by.

    SavedModels and frozen graphs are looked into, others are only named.

    Raises: FileInputError, ModelFormatError, UsageError.
    """
    if path.is_dir():
        check_model(path)
    file = path / SAVED_MODEL if path.is_dir() else path
    fields: Mapping[str, object] = {"Kind": "unknown"}
    if not file.exists() and path.is_dir():
        lines = [f"{path}: a folder without {SAVED_MODEL}; not looked into"]
    elif file.suffix in _CLOSED:
        size = file_size(file, what="a model", largest=MAX_MODEL)
        lines = [f"{file}: {_CLOSED[file.suffix]}, {size} bytes; not looked into"]
        fields = {"Kind": _CLOSED[file.suffix], "Bytes": size}
    else:
        looked = _look_into(file)
        lines, fields = looked.lines, looked.fields
    identity = _plain_id(path).hex()
    return Description([*lines, f"ID: {identity} (as a plain model)"], {"ID": identity, "Format": "plain", **fields})


def describe_ctr(path: Path) -> Description:
    """About a file in the demo's encrypted format. Raises: FileInputError."""
    size = file_size(path, what="a file in the ctr format", largest=MAX_MODEL)
    identity = digest_of(path).hex()
    lines = [f"{path}: encrypted in the ctr format, {size} bytes; nothing in it is authenticated", f"ID: {identity}"]
    return Description(lines, {"ID": identity, "Format": "ctr", "Bytes": size})


def _plain_id(path: Path) -> bytes:
    """The id of a plain model, as the server computes it."""
    try:
        folder, names = list_plain_files(path)
    except OSError as exc:
        raise file_error(path, exc) from exc
    return plain_id({name: digest_of(folder / name) for name in names})


def _look_into(file: Path) -> Description:
    raw = load_file(file, what="a SavedModel or a frozen graph", largest=MAX_MODEL_BYTES)
    try:
        signatures = parse_saved_model(raw)
        lines = [f"{file}: SavedModel, {len(raw)} bytes", *_signatures(signatures)]
        return Description(
            lines, {"Kind": "SavedModel", "Bytes": len(raw), "Signatures": _signature_fields(signatures)}
        )
    except ModelFormatError as no_saved_model:
        try:
            graph = parse_graph(raw)
        except ModelFormatError as no_graph:
            raise ModelFormatError(
                f"{file}: neither a SavedModel ({no_saved_model}) nor a frozen graph ({no_graph}); "
                "ONNX, IR and TensorFlow Lite models are served, but not inspected here"
            ) from no_graph
        lines = [f"{file}: frozen graph, {len(raw)} bytes, {len(graph.nodes)} nodes", *_ends(graph)]
        ends = {"Inputs": list(graph.placeholders()), "Outputs": list(graph.ends())}
        return Description(lines, {"Kind": "frozen graph", "Bytes": len(raw), "Nodes": len(graph.nodes), **ends})


def _signatures(signatures: Mapping[str, Signature]) -> Iterator[str]:
    for name, signature in signatures.items():
        yield f"signature {name} ({signature.method or 'no method'})"
        yield from (_tensor("input ", key, spec) for key, spec in signature.inputs.items())
        yield from (_tensor("output", key, spec) for key, spec in signature.outputs.items())


def _signature_fields(signatures: Mapping[str, Signature]) -> Mapping[str, object]:
    def tensors(specs: Mapping[str, TensorSpec]) -> Mapping[str, object]:
        return {
            key: {"Type": dtype_name(spec.dtype), "Shape": None if spec.shape is None else list(spec.shape)}
            for key, spec in specs.items()
        }

    return {
        name: {"Method": one.method, "Inputs": tensors(one.inputs), "Outputs": tensors(one.outputs)}
        for name, one in signatures.items()
    }


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


def describe_capsule(path: Path, key_file: Path | None) -> Description:
    """About a capsule: what anybody sees, and with its key the name, version and files, which are verified.

    Raises: FileInputError, VaultError.
    """
    size = file_size(path, what="a capsule", largest=MAX_MODEL)
    if key_file is None:
        with naming(path):
            header = read_capsule_header(path)
        lines = [f"{path}: capsule, {size} bytes", f"ID: {header.id.hex()}"]
        fields = {"ID": header.id.hex(), "Format": "capsule", "Bytes": size}
        return Description([*lines, "its name and files are shown with: --key KEY"], fields)
    key = load_key(key_file)
    with naming(path), open_capsule(path, key) as opened:
        info = opened.info
    lines = [f"{path}: capsule, {size} bytes", f"ID: {info.id.hex()}", f"Name: {info.name}, version {info.version}"]
    return Description(
        [*lines, *(f"  {file.name}: {file.size} bytes" for file in info.files)],
        {
            "ID": info.id.hex(),
            "Format": "capsule",
            "Bytes": size,
            "Name": info.name,
            "Version": info.version,
            "Files": {file.name: file.size for file in info.files},
        },
    )
