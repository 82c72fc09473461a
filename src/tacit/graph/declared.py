"""A SavedModel's signatures, read past its graph: protobuf would copy all the weights to find a few names.

Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto.
"""

from collections.abc import Mapping

from tacit.graph.protobuf import fields, tagged
from tacit.graph.savedmodel import parse_saved_model
from tacit.graph.signature import Signature

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
