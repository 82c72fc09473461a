"""Frozen TensorFlow graphs: which nodes there are, and what can be fed and asked for.

Only the structure is read. No operation is run and no tensor is unpacked, so a hostile file costs at most its own size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from google.protobuf.message import DecodeError

from tacit.errors import ModelFormatError
from tacit.wire.pb import tensorflow_pb2 as tf

__all__ = ["MAX_MODEL_BYTES", "Graph", "parse_graph", "split_reference"]

# Protobuf's own limit for one message, and so the largest graph that any reader takes (bytes).
MAX_MODEL_BYTES = 2**31 - 1
# Far above any real graph (GPT-size graphs have tens of thousands), far below what would hurt to index.
MAX_NODES = 2_000_000


@dataclass(frozen=True, slots=True)
class Graph:
    """A parsed graph. `raw` are the bytes it came from, so that writing it again changes nothing in it."""

    raw: bytes
    nodes: Mapping[str, tf.NodeDef]

    def node(self, name: str) -> tf.NodeDef:
        """The node of this name.

        Raises: ModelFormatError with the nearest names, and with what can be fed and asked for.
        """
        found = self.nodes.get(name)
        if found is not None:
            return found
        near = get_close_matches(name, self.nodes, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"{_some('its inputs are', self.placeholders())}"
        raise ModelFormatError(f"the graph has no node {name!r}; {hint}; {_some('its outputs are', self.ends())}")

    def placeholders(self) -> tuple[str, ...]:
        """Names of the nodes that wait to be fed, in the graph's order."""
        return tuple(name for name, node in self.nodes.items() if node.op == "Placeholder")

    def ends(self) -> tuple[str, ...]:
        """Names of the nodes that no other node reads: usually the outputs."""
        read = {split_reference(reference)[0] for reference in self._references()}
        return tuple(name for name, node in self.nodes.items() if name not in read and node.op not in _NEVER_OUTPUT)

    def _references(self) -> Iterator[str]:
        for node in self.nodes.values():
            yield from node.input


_NEVER_OUTPUT = frozenset({"Const", "NoOp", "Placeholder", "Assert"})


def parse_graph(raw: bytes) -> Graph:
    """The graph in a frozen GraphDef (`.pb`).

    Raises: ModelFormatError for bytes that are no GraphDef, saying what they seem to be instead.
    """
    if not raw:
        raise ModelFormatError("the file is empty; a frozen TensorFlow graph (.pb) was expected")
    if len(raw) > MAX_MODEL_BYTES:
        raise ModelFormatError(f"{len(raw)} bytes are more than a graph can have ({MAX_MODEL_BYTES}, protobuf's limit)")
    try:
        message = tf.GraphDef.FromString(raw)
    except DecodeError as exc:
        raise ModelFormatError(f"not a frozen TensorFlow graph: {_guess(raw)}") from exc
    if not message.node:
        raise ModelFormatError(f"not a frozen TensorFlow graph, it has no nodes: {_guess(raw)}")
    return Graph(raw=raw, nodes=_index(message))


def split_reference(reference: str) -> tuple[str, int]:
    """The node and the output number in a tensor's name: `scope/x:1` → (`scope/x`, 1); a control input `^x` → (`x`, 0).

    Raises: ModelFormatError when the number is none.
    """
    name, colon, number = reference.removeprefix("^").partition(":")
    if not colon:
        return name, 0
    if not name or not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise ModelFormatError(f"{reference!r} is no tensor name; expected NODE or NODE:NUMBER")
    return name, int(number)


def _index(message: tf.GraphDef) -> dict[str, tf.NodeDef]:
    if len(message.node) > MAX_NODES:
        raise ModelFormatError(f"the graph has {len(message.node)} nodes; at most {MAX_NODES} are read")
    nodes: dict[str, tf.NodeDef] = {}
    for node in message.node:
        if not node.name or not node.op:
            raise ModelFormatError("not a frozen TensorFlow graph: it has a node without a name or an operation")
        if node.name in nodes:
            raise ModelFormatError(f"the graph has two nodes named {node.name!r}")
        nodes[node.name] = node
    return nodes


def _guess(raw: bytes) -> str:
    """What these bytes probably are, for a person who gave the wrong file."""
    if raw[:2] == b"PK":
        return "this is a zip archive"
    if raw[:4] == b"\x89HDF":
        return "this is a Keras HDF5 file; freeze the model and save it as a GraphDef"
    if raw[4:8] == b"TFL3":
        return "this is a TensorFlow Lite model, which is served as it is"
    if raw.lstrip()[:5] in (b"node ", b"node{"):
        return "this is a graph in text form; save it in binary form"
    try:
        if tf.SavedModel.FromString(raw).meta_graphs:
            return "this is a SavedModel already, which is served as it is"
    except DecodeError:
        pass
    return "the bytes are of another kind or the file was cut short"


def _some(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return f"{what} unknown"
    shown = ", ".join(names[:5])
    return f"{what} {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
