"""A SavedModel's signatures, read and written past its graph: protobuf would copy all the weights for a few names.

Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto.
"""

from collections.abc import Mapping

from tacit.graph.protobuf import fields, tagged
from tacit.graph.savedmodel import parse_saved_model, write_signature
from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.wire.pb import tensorflow_pb2 as tf

_WHAT = "a SavedModel"
_META_GRAPHS, _META_INFO, _SIGNATURES = 2, 1, 5  # fields of SavedModel, and two of MetaGraphDef


def read_signatures(saved_model: bytes | bytearray | memoryview) -> Mapping[str, Signature]:
    """The signatures for serving, by name. Raises: ModelFormatError."""
    slim = []
    for number, _, graph in fields(memoryview(saved_model), what=_WHAT):
        if number == _META_GRAPHS:
            kept = [bytes(raw) for number, raw, _ in fields(graph, what=_WHAT) if number in (_META_INFO, _SIGNATURES)]
            slim.append(tagged(_META_GRAPHS, b"".join(kept)))
    return parse_saved_model(b"".join(slim))


def merge_signatures(saved_model: bytes | bytearray | memoryview, signatures: Mapping[str, Signature]) -> bytes:
    """The file with a default signature alone, for a reader that reads no other.

    It has all tensors of `signatures`, each under its own name.

    Raises: ModelFormatError for what is no SavedModel.
    """
    merged = Signature(
        {spec.name: spec for one in signatures.values() for spec in one.inputs.values()},
        {spec.name: spec for one in signatures.values() for spec in one.outputs.values()},
    )
    added = tf.MetaGraphDef()
    added.signature_def[SERVING_DEFAULT].CopyFrom(write_signature(merged))
    out = []
    for number, raw, graph in fields(memoryview(saved_model), what=_WHAT):
        if number == _META_GRAPHS:
            kept = [bytes(part) for field, part, _ in fields(graph, what=_WHAT) if field != _SIGNATURES]
            out.append(tagged(_META_GRAPHS, b"".join([*kept, added.SerializeToString()])))
        else:
            out.append(bytes(raw))
    return b"".join(out)
