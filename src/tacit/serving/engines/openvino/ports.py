"""Which of a model's inputs and outputs a signature means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.errors import ModelFormatError
from tacit.graph.signature import SERVING_DEFAULT, Signature, TensorSpec

# OpenVINO's names for element types, in TensorFlow's numbers.
_DTYPES = {
    "f32": 1,
    "f64": 2,
    "i32": 3,
    "u8": 4,
    "i16": 5,
    "i8": 6,
    "i64": 9,
    "boolean": 10,
    "bf16": 14,
    "u16": 17,
    "f16": 19,
    "u32": 22,
    "u64": 23,
}

SERVED = frozenset(_DTYPES.values())
"""The types of tensors that it takes."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the compiled model; `names` are those that a signature may call it by."""

    index: int
    names: tuple[str, ...]
    element_type: Any
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Binding:
    """A signature, and the port of each of its tensors by alias."""

    signature: Signature
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


def bind(model: Any, declared: Mapping[str, Signature]) -> dict[str, Binding]:
    """The signatures that a model can run, compiled or not. Raises: ModelFormatError, where that is none."""
    inputs = [_port(number, port, declared, inputs=True) for number, port in enumerate(model.inputs)]
    outputs = [_port(number, port, declared, inputs=False) for number, port in enumerate(model.outputs)]
    bindings = _bind_declared(declared, inputs, outputs) if declared else _bind_ports(inputs, outputs)
    if not bindings:
        raise ModelFormatError(f"OpenVINO can run none of the signatures {', '.join(sorted(declared))}")
    return bindings


def _port(number: int, port: Any, declared: Mapping[str, Signature], *, inputs: bool) -> Port:
    own = port.get_node().get_friendly_name() if inputs else ""  # its first name; others are what it is handed on as
    names = sorted(port.get_names(), key=lambda name: (name != own, name))
    default = declared.get(SERVING_DEFAULT)
    if default:
        # The SavedModel reader renames the default signature's tensors to their aliases.
        specs = default.inputs if inputs else default.outputs
        names += [spec.name for alias, spec in specs.items() if alias in names]
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        what = "input" if inputs else "output"
        raise ModelFormatError(
            f"{what} {names[0] if names else number} is of type {kind}, which OpenVINO does not serve"
        )
    partial = port.get_partial_shape()
    shape = None
    if not partial.rank.is_dynamic:
        shape = tuple(-1 if size.is_dynamic else size.get_length() for size in partial)
    return Port(number, tuple(names), port.get_element_type(), _DTYPES[kind], shape)


def _bind_ports(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, Binding]:
    """One signature with the graph's own names, for formats that know no signatures."""
    by_alias = [{_alias(port): port for port in ports} for ports in (inputs, outputs)]
    specs = [
        {alias: TensorSpec(port.names[0], port.dtype, port.shape) for alias, port in ports.items()}
        for ports in by_alias
    ]
    return {SERVING_DEFAULT: Binding(Signature(specs[0], specs[1]), by_alias[0], by_alias[1])}


def _alias(port: Port) -> str:
    if not port.names:
        raise ModelFormatError(f"port {port.index} has no name that a request could use")
    return port.names[0].removesuffix(":0")


def _bind_declared(
    declared: Mapping[str, Signature], inputs: Sequence[Port], outputs: Sequence[Port]
) -> dict[str, Binding]:
    """The declared signatures that feed every input of the compiled model and ask for outputs that it has."""
    bindings = {}
    for key, signature in declared.items():
        # Another signature may use the same alias for another tensor: only the default one is found by its aliases.
        known = key == SERVING_DEFAULT or SERVING_DEFAULT not in declared
        fed = {alias: _find(inputs, alias if known else "", spec) for alias, spec in signature.inputs.items()}
        asked = {alias: _find(outputs, alias if known else "", spec) for alias, spec in signature.outputs.items()}
        feeds = {alias: port for alias, port in fed.items() if port}
        answers = {alias: port for alias, port in asked.items() if port}
        complete = len(feeds) == len(fed) == len(inputs) and len(answers) == len(asked)
        if complete and all(port.dtype == signature.inputs[alias].dtype for alias, port in feeds.items()):
            bindings[key] = Binding(signature, feeds, answers)
    return bindings


def _find(ports: Sequence[Port], alias: str, spec: TensorSpec) -> Port | None:
    return next((p for p in ports if spec.name in p.names), None) or next((p for p in ports if alias in p.names), None)
