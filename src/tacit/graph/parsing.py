"""SavedModels that read serialized tf.Example: the same model with the reading taken out.

A signature for classify or regress has one input of strings, which a ParseExample operation turns into dense tensors.
An engine without that operation can run the rest: the operation is taken out of the graph, and what it gave becomes an
input. Graphs that read in another way (inside of functions, or into sparse tensors) are left as they are.

Source: tensorflow/core/ops/parsing_ops.cc (ParseExample, ParseExampleV2), tensorflow/core/framework/graph.proto.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from tacit.errors import ModelFormatError, RequestError
from tacit.graph.protobuf import fields, tagged
from tacit.graph.savedmodel import SCHEMA_VERSION, write_signature
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec
from tacit.wire.examples import Feature
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import DT_STRING, Tensor, parse_tensor

__all__ = ["ExampleInput", "WithoutParsing", "take_out_parsing"]

_WHAT = "a SavedModel"
_META_GRAPHS = 2  # field of SavedModel
_INFO, _GRAPH, _SIGNATURES = 1, 2, 5  # fields of MetaGraphDef
_NODE, _NODE_INPUT = 1, 3  # fields of GraphDef and NodeDef
_MAX_NODE = 1 << 20  # bytes; names of features and defaults are far smaller, and weights are not looked at
_OPS = frozenset(("Placeholder", "ParseExample", "ParseExampleV2", "Identity", "Const", "Reshape"))


@dataclass(frozen=True, slots=True)
class ExampleInput:
    """The input of strings that a signature has, and what is read from them: name and form by alias of a dense input."""

    alias: str
    features: Mapping[str, tuple[str, Feature]]


@dataclass(frozen=True, slots=True)
class WithoutParsing:
    """A `saved_model.pb` without the operation, its signatures, and how those of examples are fed, by key."""

    content: bytes
    signatures: Mapping[str, Signature]
    examples: Mapping[str, ExampleInput]


@dataclass(frozen=True, slots=True)
class _Parsing:
    """One ParseExample: where its strings come from, and its dense outputs by tensor."""

    node: str
    strings: str
    outputs: Mapping[str, tuple[str, Feature]]


def take_out_parsing(
    saved_model: bytes | bytearray | memoryview, declared: Mapping[str, Signature]
) -> WithoutParsing | None:
    """The model without its reading of examples; None where it has none, or one of a form that is not known here.

    Raises: ModelFormatError for what is no SavedModel.
    """
    asked = {key: found for key, signature in declared.items() if (found := _string_input(signature))}
    if SERVING_DEFAULT not in declared or not asked:
        return None
    nodes = {node.name: node for node in _nodes(saved_model)}
    same = _same_tensors(nodes)
    for node in nodes.values():
        if not node.op.startswith("ParseExample"):
            continue
        try:
            parsing = _Parsing(node.name, _origin(node.input[0], same), _dense_outputs(node, nodes))
        except (LookupError, ValueError, RequestError):
            continue
        keys = {key: alias for key, (alias, spec) in asked.items() if spec.name == parsing.strings}
        without = _without(saved_model, declared, keys, parsing, same)
        if without:
            return without
    return None


def _without(
    saved_model: bytes | bytearray | memoryview,
    declared: Mapping[str, Signature],
    keys: Mapping[str, str],
    parsing: _Parsing,
    same: Mapping[str, str],
) -> WithoutParsing | None:
    """The model without this operation, if it is what feeds the default signature."""
    default = declared[SERVING_DEFAULT]
    if SERVING_DEFAULT in keys:
        # The default signature itself takes examples: its inputs become the features.
        made = {tensor: f"{parsing.node}_{place}" for place, tensor in enumerate(parsing.outputs)}
        features = {name: (name, feature) for name, feature in parsing.outputs.values()}
        inputs = {
            name: TensorSpec(f"{made[tensor]}:0", feature.dtype, (-1, *feature.shape))
            for tensor, (name, feature) in parsing.outputs.items()
        }
        default = replace(default, inputs=inputs)
    else:
        origins = {alias: _origin(spec.name, same) for alias, spec in default.inputs.items()}
        if not all(origin in parsing.outputs for origin in origins.values()):
            return None
        made = {origin: default.inputs[alias].name.removesuffix(":0") for alias, origin in origins.items()}
        features = {alias: parsing.outputs[origin] for alias, origin in origins.items()}
    content = _rewrite(saved_model, parsing, made, default)
    dense = {key: replace(declared[key], inputs=default.inputs) for key in keys}
    others = {key: signature for key, signature in declared.items() if not _string_input(signature)}
    examples = {key: ExampleInput(alias, features) for key, alias in keys.items()}
    return WithoutParsing(content, {**others, **dense}, examples)


def _string_input(signature: Signature) -> tuple[str, TensorSpec] | None:
    """Alias and tensor of a signature's only input, if that is strings."""
    if len(signature.inputs) != 1:
        return None
    ((alias, spec),) = signature.inputs.items()
    return (alias, spec) if spec.dtype == DT_STRING else None


# ---- the operation


def _nodes(saved_model: bytes | bytearray | memoryview) -> Iterator[tf.NodeDef]:
    """The nodes of the operations that matter here, those with weights left out."""
    for number, _, graph in fields(memoryview(saved_model), what=_WHAT):
        if number != _META_GRAPHS:
            continue
        for part, _, definition in fields(graph, what=_WHAT):
            if part != _GRAPH:
                continue
            for kind, _, node in fields(definition, what=_WHAT):
                if kind == _NODE and len(node) <= _MAX_NODE and _text(node, 2) in _OPS:
                    yield _parse_node(node)


def _parse_node(node: memoryview) -> tf.NodeDef:
    try:
        return tf.NodeDef.FromString(bytes(node))
    except DecodeError as exc:
        raise ModelFormatError("not a SavedModel: a node of its graph cannot be read") from exc


def _text(node: memoryview, wanted: int) -> str:
    found = (bytes(value) for number, _, value in fields(node, what=_WHAT) if number == wanted)
    return next(found, b"").decode("utf-8", "replace")


def _same_tensors(nodes: Mapping[str, tf.NodeDef]) -> Mapping[str, str]:
    """For each tensor that an Identity hands on, the tensor that it stands for."""
    return {f"{name}:0": _tensor(node.input[0]) for name, node in nodes.items() if node.op == "Identity" and node.input}


def _tensor(reference: str) -> str:
    return reference if ":" in reference else f"{reference}:0"


def _origin(reference: str, same: Mapping[str, str]) -> str:
    tensor = _tensor(reference)
    for _ in range(len(same) + 1):  # also ends where a hostile graph runs in circles
        if tensor not in same:
            break
        tensor = same[tensor]
    return tensor


def _dense_outputs(node: tf.NodeDef, nodes: Mapping[str, tf.NodeDef]) -> dict[str, tuple[str, Feature]]:
    """Name and form of each dense feature, by the tensor that the operation gives for it.

    Raises: LookupError, ValueError or RequestError where the operation's inputs are no constants of the known form.
    """
    types = list(node.attr["Tdense"].list.type)
    shapes = [tuple(dim.size for dim in shape.dim) for shape in node.attr["dense_shapes"].list.shape]
    if node.op == "ParseExample":
        sparse = node.attr["Nsparse"].i
        begin = 2 + sparse
        names = [_string(node.input[begin + place], nodes) for place in range(len(types))]
        begin += len(types)
    else:
        sparse = node.attr["num_sparse"].i
        names = _strings(node.input[3], nodes)
        begin = 5
    outputs = {}
    for place, (name, dtype, shape) in enumerate(zip(names, types, shapes, strict=True)):
        default = _constant(node.input[begin + place], nodes).array
        feature = Feature(int(dtype), shape, default if default.size else None)
        outputs[f"{node.name}:{3 * sparse + place}"] = (name.decode(), feature)
    return outputs


def _string(reference: str, nodes: Mapping[str, tf.NodeDef]) -> bytes:
    (only,) = _strings(reference, nodes)
    return only


def _strings(reference: str, nodes: Mapping[str, tf.NodeDef]) -> list[bytes]:
    found = _constant(reference, nodes)
    if found.dtype != DT_STRING:
        raise ValueError(f"{reference} holds no strings")
    return [bytes(text) for text in found.array.reshape(-1)]


def _constant(reference: str, nodes: Mapping[str, tf.NodeDef]) -> Tensor:
    node = nodes[_tensor(reference).removesuffix(":0")]
    if node.op == "Reshape":  # TensorFlow gives a default the feature's shape, which it gets here anyway
        node = nodes[_tensor(node.input[0]).removesuffix(":0")]
    if node.op != "Const":
        raise ValueError(f"{node.name} is no constant")
    return parse_tensor(node.attr["value"].tensor)


# ---- writing


def _rewrite(
    saved_model: bytes | bytearray | memoryview, parsing: _Parsing, made: Mapping[str, str], default: Signature
) -> bytes:
    """The file with a placeholder for each tensor in `made`, and the default signature alone."""
    out = [tf.SavedModel(saved_model_schema_version=SCHEMA_VERSION).SerializeToString()]
    for number, raw, graph in fields(memoryview(saved_model), what=_WHAT):
        if number != _META_GRAPHS:
            out.append(bytes(raw))
            continue
        parts = []
        for part, whole, definition in fields(graph, what=_WHAT):
            if part == _GRAPH:
                parts.append(tagged(_GRAPH, _rewrite_graph(definition, parsing, made)))
            elif part == _INFO:
                parts.append(bytes(whole))
        signatures = tf.MetaGraphDef()
        signatures.signature_def[SERVING_DEFAULT].CopyFrom(write_signature(default))
        parts.append(signatures.SerializeToString())
        out.append(tagged(_META_GRAPHS, b"".join(parts)))
    return b"".join(out)


def _rewrite_graph(graph: memoryview, parsing: _Parsing, made: Mapping[str, str]) -> bytes:
    gone = {parsing.node, parsing.strings.removesuffix(":0"), *made.values()}
    out = [
        tagged(_NODE, _placeholder(name, parsing.outputs[tensor][1]).SerializeToString())
        for tensor, name in made.items()
    ]
    for number, raw, payload in fields(graph, what=_WHAT):
        if number != _NODE:
            out.append(bytes(raw))
        elif _text(payload, 1) not in gone:
            out.append(_relink(raw, payload, parsing, made))
    return b"".join(out)


def _relink(raw: memoryview, payload: memoryview, parsing: _Parsing, made: Mapping[str, str]) -> bytes:
    """A node that reads what the operation gave, reading a placeholder; any other as it is."""
    for number, _, value in fields(payload, what=_WHAT):
        reference = bytes(value).decode("utf-8", "replace") if number == _NODE_INPUT else ""
        if reference.lstrip("^").partition(":")[0] == parsing.node:
            break
    else:
        return bytes(raw)
    node = _parse_node(payload)
    references = [made.get(_tensor(reference), reference) for reference in node.input]
    del node.input[:]
    node.input.extend(reference for reference in references if reference != f"^{parsing.node}")
    return tagged(_NODE, node.SerializeToString())


def _placeholder(name: str, feature: Feature) -> tf.NodeDef:
    node = tf.NodeDef(name=name, op="Placeholder")
    node.attr["dtype"].type = feature.dtype  # type: ignore[assignment]
    for size in (-1, *feature.shape):
        node.attr["shape"].shape.dim.add(size=size)
    return node
