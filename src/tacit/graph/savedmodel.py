"""TensorFlow's SavedModel: reading its signatures, and wrapping a frozen graph into one.

A frozen graph holds its weights as constants, so the SavedModel is a single file, `saved_model.pb`:

    SavedModel { saved_model_schema_version: 1, meta_graphs: [ MetaGraphDef ] }
    MetaGraphDef { meta_info_def { tags: "serve" }, graph_def, signature_def { "serving_default" } }

Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, and TensorFlow Serving's names for signatures.
"""

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from tacit.errors import ModelFormatError, RequestError
from tacit.graph.graphdef import MAX_MODEL_BYTES, Graph, split_reference
from tacit.graph.infer import tensor_spec
from tacit.graph.signature import PREDICT_METHOD, SERVING_DEFAULT, Signature, TensorSpec
from tacit.wire.pb import tensorflow_pb2 as tf
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

__all__ = ["SCHEMA_VERSION", "SERVE_TAG", "build_saved_model", "parse_saved_model", "write_signature"]

SERVE_TAG = "serve"
SCHEMA_VERSION = 1
MAX_GRAPHS = 1000  # one for each set of tags; models have one or two
_SHOWN_TAGS = 200  # characters of a message; they are the file's own words

# Field numbers of the two messages that are put together by hand, so that the graph's bytes are copied once and unread.
_GRAPH_DEF_FIELD = 2
_META_GRAPHS_FIELD = 2


def parse_saved_model(raw: bytes, *, tag: str = SERVE_TAG) -> Mapping[str, Signature]:
    """The signatures of the graph that carries exactly this tag, by name, as the file has them.

    Raises: ModelFormatError for bytes that are no SavedModel, or one without such a graph.
    """
    if not raw:
        raise ModelFormatError("the file is empty; a SavedModel (saved_model.pb) was expected")
    if len(raw) > MAX_MODEL_BYTES:
        raise ModelFormatError(
            f"{len(raw)} bytes are more than a SavedModel can have ({MAX_MODEL_BYTES}, protobuf's limit)"
        )
    try:
        message = tf.SavedModel.FromString(raw)
    except DecodeError as exc:
        raise ModelFormatError("not a SavedModel: the bytes are of another kind or the file was cut short") from exc
    if not message.meta_graphs:
        raise ModelFormatError(
            "not a SavedModel: it holds no graph; a frozen graph is made into one by `tacit model convert`"
        )
    if len(message.meta_graphs) > MAX_GRAPHS:
        raise ModelFormatError(f"the SavedModel has {len(message.meta_graphs)} graphs; at most {MAX_GRAPHS} are read")
    for meta in message.meta_graphs:
        if set(meta.meta_info_def.tags) == {tag}:
            return {name: _read_signature(found) for name, found in sorted(meta.signature_def.items())}
    tags = "; ".join(",".join(sorted(meta.meta_info_def.tags)) or "none" for meta in message.meta_graphs)
    raise ModelFormatError(
        f"the SavedModel has no graph for serving: expected the tag {tag!r}, found {tags[:_SHOWN_TAGS]}"
    )


def build_saved_model(
    graph: Graph, *, inputs: Sequence[str], outputs: Sequence[str], dtypes: Sequence[int] = ()
) -> bytes:
    """A `saved_model.pb` that serves a frozen graph: TensorFlow, TensorFlow Serving and OpenVINO read it.

    The signature `serving_default` calls every tensor by its node's name, as the graph does. `inputs` and `outputs`
    are names of nodes (`predict`) or tensors (`predict:0`). `dtypes` are the inputs' types where the graph is silent
    about them, one for each input, or none at all. The graph goes in byte for byte, its versions included.

    Raises: ModelFormatError for a name that the graph lacks, twice the same name, or an unknown type.
    """
    if not inputs or not outputs:
        raise ModelFormatError("a model needs at least one input and one output")
    if dtypes and len(dtypes) != len(inputs):
        raise ModelFormatError(f"{len(dtypes)} types were given for {len(inputs)} inputs; give one for each, or none")
    types: Sequence[int | None] = dtypes or [None] * len(inputs)
    signature = Signature(
        inputs=_by_key(
            [(name, tensor_spec(graph, name, dtype=dtype)) for name, dtype in zip(inputs, types, strict=True)]
        ),
        outputs=_by_key([(name, tensor_spec(graph, name)) for name in outputs]),
        method=PREDICT_METHOD,
    )
    info = tf.MetaGraphDef(meta_info_def=tf.MetaGraphDef.MetaInfoDef(tags=[SERVE_TAG])).SerializeToString()
    signatures = tf.MetaGraphDef()
    signatures.signature_def[SERVING_DEFAULT].CopyFrom(write_signature(signature))
    tail = signatures.SerializeToString(deterministic=True)
    head = _field_head(_GRAPH_DEF_FIELD, len(graph.raw))
    size = len(info) + len(head) + len(graph.raw) + len(tail)
    version = tf.SavedModel(saved_model_schema_version=SCHEMA_VERSION).SerializeToString()
    outer = _field_head(_META_GRAPHS_FIELD, size)
    if len(version) + len(outer) + size > MAX_MODEL_BYTES:
        raise ModelFormatError("the graph is too large for a SavedModel in one file (2 GiB, protobuf's limit)")
    return b"".join((version, outer, info, head, graph.raw, tail))


def _by_key(tensors: Sequence[tuple[str, TensorSpec]]) -> dict[str, TensorSpec]:
    keyed: dict[str, TensorSpec] = {}
    for reference, spec in tensors:
        name, number = split_reference(reference)
        key = name if number == 0 else f"{name}_{number}"
        if key in keyed:
            raise ModelFormatError(f"{key!r} was named twice; name every tensor once")
        keyed[key] = spec
    return keyed


def _read_signature(found: tf.SignatureDef) -> Signature:
    return Signature(
        inputs={key: _read_tensor(info) for key, info in sorted(found.inputs.items())},
        outputs={key: _read_tensor(info) for key, info in sorted(found.outputs.items())},
        method=found.method_name,
        defaults=_read_defaults(found),
    )


def _read_defaults(found: tf.SignatureDef) -> dict[str, Tensor]:
    try:
        return {alias: parse_tensor(proto) for alias, proto in sorted(found.defaults.items()) if alias in found.inputs}
    except RequestError as exc:
        raise ModelFormatError(f"a signature's default value is no tensor: {exc}") from exc


def _read_tensor(info: tf.TensorInfo) -> TensorSpec:
    shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
    return TensorSpec(info.name, int(info.dtype), shape)


def write_signature(signature: Signature) -> tf.SignatureDef:
    """A signature as the file has it."""
    definition = tf.SignatureDef(
        inputs={key: _write_tensor(spec) for key, spec in signature.inputs.items()},
        outputs={key: _write_tensor(spec) for key, spec in signature.outputs.items()},
        method_name=signature.method,
    )
    for alias, tensor in signature.defaults.items():
        encode_tensor(tensor, definition.defaults[alias], as_content=True)
    return definition


def _write_tensor(spec: TensorSpec) -> tf.TensorInfo:
    # By its number: a graph may have a type that is newer than the names here.
    info = tf.TensorInfo(name=spec.name, dtype=spec.dtype)  # type: ignore[arg-type]
    if spec.shape is None:
        info.tensor_shape.unknown_rank = True
    else:
        info.tensor_shape.SetInParent()  # a scalar has no dimensions, but does have a shape
        for size in spec.shape:
            info.tensor_shape.dim.add(size=size)
    return info


def _field_head(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)
