"""Signatures with inputs of their own: each such part of a model is compiled by itself, from one and the same graph.

OpenVINO runs a model whole: every input is fed, and every output is computed. The constants of the parts are the same
memory until they are compiled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tacit.graph.signature import SERVING_DEFAULT, Signature
from tacit.serving.engines.interface import Engine
from tacit.serving.engines.openvino.ports import SERVED
from tacit.wire.tensor import Tensor


def group_by_inputs(declared: Mapping[str, Signature]) -> list[Mapping[str, Signature]]:
    """The signatures that can be fed, those with the same inputs together; the default one's group is the first.

    Empty where there is no default signature that can be fed.
    """
    groups: dict[frozenset[str], dict[str, Signature]] = {}
    for name in sorted(declared, key=lambda name: (name != SERVING_DEFAULT, name)):
        signature = declared[name]
        tensors = [*signature.inputs.values(), *signature.outputs.values()]
        if signature.inputs and signature.outputs and all(one.name and one.dtype in SERVED for one in tensors):
            groups.setdefault(frozenset(one.name for one in signature.inputs.values()), {})[name] = signature
        elif name == SERVING_DEFAULT:
            return []
    return list(groups.values()) if SERVING_DEFAULT in declared else []


def take_out(library: Any, model: Any, signatures: Mapping[str, Signature]) -> Any:
    """The part of a model that these signatures need, where tensors have their own names. Raises: RuntimeError."""
    fed = {one.name for signature in signatures.values() for one in signature.inputs.values()}
    asked = {one.name for signature in signatures.values() for one in signature.outputs.values()}
    parameters = [one for one in model.get_parameters() if fed & one.output(0).get_names()]
    results = [one for one in model.get_results() if asked & one.output(0).get_names()]
    return library.Model(results, parameters, "part")


class EngineOfParts:
    """Engines, each for some of a model's signatures; `twins` are the same computation as another under this name."""

    def __init__(self, engines: Sequence[Engine], declared: Mapping[str, Signature], twins: Mapping[str, str]) -> None:
        own = {name: (engine, name) for engine in engines for name in engine.signatures}
        self._runs = own | {name: own[other] for name, other in twins.items() if other in own}
        self._declared, self._engines = declared, engines
        self.platform = engines[0].platform

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Those of all parts."""
        return {name: self._declared[name] for name in self._runs}

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        engine, name = self._runs[signature]
        return engine.infer(name, inputs, outputs)

    def close(self) -> None:
        """Give their memory back."""
        for engine in self._engines:
            engine.close()
