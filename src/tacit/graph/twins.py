"""Signatures of a SavedModel that are the same computation under two names, as Keras writes its default one.

TensorFlow 2 writes a signature as a call of a function that does nothing but call the real one. Two are twins where both
call the same function with the same variables, and take and give the same aliases in the same places. Whatever is of
another form has no twin.

Source: tensorflow/core/framework/{graph,function,node_def,attr_value,op_def}.proto.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tacit.graph.protobuf import fields
from tacit.graph.signature import Signature

_WHAT = "a SavedModel"
_META_GRAPHS, _GRAPH, _NODE, _LIBRARY, _FUNCTION = 2, 2, 1, 2, 1  # fields on the way to nodes and functions
_NAME, _OP, _INPUT, _ATTRIBUTE = 1, 2, 3, 5  # of a node
_CALLED = 10  # of an attribute's value: the function that it names
_HEAD, _BODY, _RETURNED = 1, 3, 4  # of a function
_ARGUMENT, _RESULT = 2, 3  # of a function's head
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_PLAIN = (*_CALLS, "Identity", "NoOp")  # operations of a function that only calls another

_Call = tuple[tuple[str, ...], str]
"""What a call is fed with, and the function that it calls."""


def find_twins(saved_model: bytes | bytearray | memoryview, signatures: Mapping[str, Signature]) -> Mapping[str, str]:
    """The signatures that are the same as one before them, by that one's name. Raises: ModelFormatError."""
    calls: dict[str, _Call] = {}
    functions: dict[str, Any] = {}
    graphs = list(_parts(memoryview(saved_model), _META_GRAPHS))
    if len(graphs) != 1:  # one for training beside it may have other functions under the same names
        return {}
    for graph in graphs:
        for definition in _parts(graph, _GRAPH):
            calls |= {
                _text(node, _NAME): _call(node) for node in _parts(definition, _NODE) if _text(node, _OP) in _CALLS
            }
            for library in _parts(definition, _LIBRARY):
                functions |= {_name_of(one): one for one in _parts(library, _FUNCTION)}
    known: dict[Any, str] = {}
    twins = {}
    for name, signature in signatures.items():
        found = _computation(signature, calls, functions)
        if found is not None and known.setdefault(found, name) != name:
            twins[name] = known[found]
    return twins


def _computation(signature: Signature, calls: Mapping[str, _Call], functions: Mapping[str, memoryview]) -> Any:
    """All that tells what a signature computes, without its own names; None where it is of another form."""
    nodes = {spec.name.partition(":")[0] for spec in signature.outputs.values()}
    if signature.defaults or len(nodes) != 1 or not (call := calls.get(nodes.pop())) or call[1] not in functions:
        return None
    body = _body(functions[call[1]])
    if body is None:
        return None
    aliases = {spec.name.removesuffix(":0"): alias for alias, spec in signature.inputs.items()}
    fed = tuple((one in aliases, aliases.get(one, one)) for one in call[0])
    forms = [
        tuple(sorted((alias, spec.dtype, spec.shape) for alias, spec in specs.items()))
        for specs in (signature.inputs, signature.outputs)
    ]
    places = tuple(sorted((alias, spec.name.partition(":")[2]) for alias, spec in signature.outputs.items()))
    return signature.method, fed, body, places, *forms


def _body(function: memoryview) -> Any:
    """What a function does that only calls another; None for one that does more."""
    nodes = list(_parts(function, _BODY))
    if any(_text(node, _OP) not in _PLAIN for node in nodes):
        return None
    names = tuple(
        tuple(_text(one, _NAME) for head in _parts(function, _HEAD) for one in _parts(head, part))
        for part in (_ARGUMENT, _RESULT)
    )
    returned = tuple(sorted((_text(one, 1), _text(one, 2)) for one in _parts(function, _RETURNED)))
    return names, returned, tuple((_text(node, _NAME), _text(node, _OP), _call(node)) for node in nodes)


def _call(node: memoryview) -> _Call:
    called = [
        _text(function, 1)
        for attribute in _parts(node, _ATTRIBUTE)
        if _text(attribute, 1) == "f"
        for value in _parts(attribute, 2)
        for function in _parts(value, _CALLED)
    ]
    return tuple(bytes(one).decode("utf-8", "replace") for one in _parts(node, _INPUT)), "".join(called)


def _name_of(function: memoryview) -> str:
    return next((_text(head, _NAME) for head in _parts(function, _HEAD)), "")


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (payload for number, _, payload in fields(message, what=_WHAT) if number == wanted)


def _text(message: memoryview, wanted: int) -> str:
    return next((bytes(one).decode("utf-8", "replace") for one in _parts(message, wanted)), "")
