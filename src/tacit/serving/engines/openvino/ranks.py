"""Inputs of any number of dimensions: the plugin wants that number, so a model is compiled for each that is asked for."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tacit.errors import ModelFormatError, RequestError, Status
from tacit.graph.signature import Signature
from tacit.serving.engines.openvino.engine import OpenVinoEngine
from tacit.serving.engines.openvino.library import reason_of
from tacit.serving.engines.openvino.ports import bind
from tacit.wire.tensor import Tensor

_MAX_RANK = 8  # dimensions; the plugin knows no more
_REMEMBERED = 1024  # numbers of dimensions that do not go together
_KEPT = 8  # compiled models; another one takes the place of the one that was asked longest ago

_Ranks = tuple[int | None, ...]
"""Of each input in the model's order, None where the model says it itself."""


def has_free_ranks(model: Any) -> bool:
    """Whether an input's number of dimensions is free."""
    return any(port.get_partial_shape().rank.is_dynamic for port in model.inputs)


class EngineOfRanks:
    """A model that is compiled when a request is the first with its numbers of dimensions, which takes as long as a load."""

    platform = "openvino"

    def __init__(
        self,
        library: Any,
        model: Any,
        declared: Mapping[str, Signature],
        compiled: Callable[[Any], OpenVinoEngine],
    ) -> None:
        self._library, self._model, self._compiled = library, model, compiled
        self._bindings = bind(model, declared)
        self._engines: OrderedDict[_Ranks, OpenVinoEngine] = OrderedDict()
        self._refused: dict[_Ranks, str] = {}  # and why, so that nobody has them compiled again and again

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures whose tensors the model has."""
        return {key: binding.signature for key, binding in self._bindings.items()}

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        ports = self._bindings[signature].inputs
        free = {ports[alias].index: len(tensor.shape) for alias, tensor in inputs.items() if ports[alias].shape is None}
        ranks = tuple(free.get(number) for number in range(len(self._model.inputs)))
        engine = self._engines.get(ranks)
        if engine is None:
            if ranks in self._refused:
                raise RequestError(Status.INVALID_ARGUMENT, self._refused[ranks])
            engine = self._compile(ranks, {alias: tensor.shape for alias, tensor in inputs.items()})
        self._engines.move_to_end(ranks)
        return engine.infer(signature, inputs, outputs)

    def close(self) -> None:
        """Give its memory back."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._model = None

    def _compile(self, ranks: _Ranks, asked: Mapping[str, tuple[int, ...]]) -> OpenVinoEngine:
        shapes = ", ".join(f"{alias} {list(shape)}" for alias, shape in sorted(asked.items()))
        if any(rank is not None and rank > _MAX_RANK for rank in ranks):
            text = f"the model takes inputs of at most {_MAX_RANK} dimensions ({shapes})"
            raise RequestError(Status.INVALID_ARGUMENT, text)
        model = self._model.clone()
        try:
            model.reshape(
                {
                    port: port.get_partial_shape() if rank is None else self._library.PartialShape([-1] * rank)
                    for port, rank in zip(model.inputs, ranks, strict=True)
                }
            )
            engine = self._compiled(model)
        except (RuntimeError, ModelFormatError) as exc:
            text = f"the model does not take these shapes ({shapes}): {reason_of(exc)}"
            if len(self._refused) < _REMEMBERED:
                self._refused[ranks] = text
            raise RequestError(Status.INVALID_ARGUMENT, text) from exc
        self._engines[ranks] = engine
        if len(self._engines) > _KEPT:
            self._engines.popitem(last=False)[1].close()
        return engine
