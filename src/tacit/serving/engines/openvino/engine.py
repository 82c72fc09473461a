"""A compiled model that answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import RequestError, Status
from tacit.graph.signature import Signature
from tacit.serving.engines.openvino.library import reason_of
from tacit.serving.engines.openvino.ports import Binding, Port, bind
from tacit.serving.engines.openvino.shapes import ShapeCheck
from tacit.wire.tensor import ELEMENT_TYPES, Tensor

_WIDE = (9, 22, 23)  # int64, uint32 and uint64: they hold what 32 bits with a sign do not
_LEAST, _MOST = -(2**31), 2**31 - 1


class OpenVinoEngine:
    """A compiled model with one infer request, whose input buffers are kept from call to call."""

    platform = "openvino"

    def __init__(
        self,
        library: Any,
        compiled: Any,
        declared: Mapping[str, Signature],
        check: ShapeCheck | None = None,
        renew: Callable[[Any], Any] = lambda compiled: compiled,
    ) -> None:
        """`check` says which shapes fit, and `renew` makes a compiled model that is as this one was when it was new."""
        self._library = library
        self._check, self._renew = check, renew
        self._compiled = compiled
        self._bindings = bind(compiled, declared)
        self._buffers: dict[int, tuple[tuple[int, ...], NDArray[Any]]] = {}
        self._request: Any = compiled.create_infer_request()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures whose tensors the compiled model has."""
        return {key: binding.signature for key, binding in self._bindings.items()}

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        binding = self._bindings[signature]
        added = {alias: _missing_ones(binding.inputs[alias].shape, tensor.shape) for alias, tensor in inputs.items()}
        given = [(alias, binding.inputs[alias], _with_ones(tensor, added[alias])) for alias, tensor in inputs.items()]
        for alias, _, tensor in given:
            _check_range(alias, tensor)
        if self._request is None:
            self._begin_anew()
        try:
            if self._check is not None:
                self._check.check({port.index: tensor.shape for _, port, tensor in given})
        except RuntimeError as exc:
            raise _misfit(inputs, exc) from exc
        try:
            for _, port, tensor in given:
                self._fill(port, tensor)
        except RuntimeError as exc:
            # Half-filled, and no more: a fresh request serves the next call.
            self._buffers.clear()
            self._request = self._compiled.create_infer_request()
            raise _misfit(inputs, exc) from exc
        try:
            found = self._request.infer(share_outputs=True, decode_strings=False).to_tuple()  # nothing is copied yet
            taken = {alias: _take(binding, alias, found) for alias in outputs}
            return _without_ones(taken, added.values()) if any(added.values()) else taken
        except RuntimeError as exc:
            self._begin_anew()
            raise _misfit(inputs, exc) from exc

    def _begin_anew(self) -> None:
        """After a run that broke off in the middle: what was compiled would answer good requests wrong from here on."""
        self._buffers.clear()
        self._request = None
        try:
            self._compiled = self._renew(self._compiled)
            self._request = self._compiled.create_infer_request()
        except RuntimeError as exc:
            raise RequestError(Status.INTERNAL, f"the model has to be loaded again: {reason_of(exc)}") from exc

    def by_number(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[int, NDArray[Any]]:
        """Inputs of a signature as the compiled model numbers them."""
        ports = self._bindings[signature].inputs
        return {
            ports[alias].index: _with_ones(tensor, _missing_ones(ports[alias].shape, tensor.shape)).array
            for alias, tensor in inputs.items()
        }

    def close(self) -> None:
        """Give the compiled model's memory back."""
        self._buffers.clear()
        self._request = self._compiled = None

    def _fill(self, port: Port, tensor: Tensor) -> None:
        kept = self._buffers.get(port.index)
        if kept is None or kept[0] != tensor.shape:
            buffer = self._library.Tensor(port.element_type, list(tensor.shape))
            self._request.set_input_tensor(port.index, buffer)
            kept = self._buffers[port.index] = (tensor.shape, buffer.data)
        target = kept[1]
        # OpenVINO shows types that numpy lacks under others of the same width: the bits are what is copied.
        np.copyto(target.view(tensor.array.dtype) if target.dtype != tensor.array.dtype else target, tensor.array)


def _misfit(inputs: Mapping[str, Tensor], exc: RuntimeError) -> RequestError:
    shapes = ", ".join(f"{alias} {list(tensor.shape)}" for alias, tensor in sorted(inputs.items()))
    return RequestError(Status.INVALID_ARGUMENT, f"the model does not take these shapes ({shapes}): {reason_of(exc)}")


def _check_range(alias: str, tensor: Tensor) -> None:
    """Refuse integers that the plugin would cut. Raises: RequestError."""
    if tensor.dtype not in _WIDE or not tensor.array.size:
        return
    for found in (int(tensor.array.min()), int(tensor.array.max())):
        if not _LEAST <= found <= _MOST:
            raise RequestError(
                Status.INVALID_ARGUMENT,
                f"input {alias} holds {found}, and OpenVINO computes integers in 32 bits ({_LEAST} to {_MOST}); "
                "onnxruntime and tensorflow (--engine) compute them whole",
            )


def _take(binding: Binding, alias: str, outputs: Sequence[NDArray[Any]]) -> Tensor:
    """An output as the caller's own; the engine's memory is for the next run."""
    dtype, found = binding.signature.outputs[alias].dtype, outputs[binding.outputs[alias].index]
    memory = ELEMENT_TYPES[dtype].memory
    return Tensor(dtype, (found.view(memory) if found.dtype != memory else found).copy())


# ---- ranks


def _missing_ones(wanted: tuple[int, ...] | None, shape: tuple[int, ...]) -> int:
    """How many dimensions of size 1 an input lacks at its end.

    TensorFlow's graphs take a vector where a column was declared, and its clients send one. A compiled model holds to
    its ranks: so the dimensions are put on, and taken off again where the outputs have them.
    """
    if not shape or wanted is None or len(wanted) <= len(shape) or any(size != 1 for size in wanted[len(shape) :]):
        return 0
    return len(wanted) - len(shape)


def _with_ones(tensor: Tensor, count: int) -> Tensor:
    return Tensor(tensor.dtype, tensor.array.reshape(tensor.shape + (1,) * count)) if count else tensor


def _without_ones(outputs: Mapping[str, Tensor], added: Iterable[int]) -> dict[str, Tensor]:
    count = min(added)
    return {
        alias: Tensor(tensor.dtype, tensor.array.reshape(tensor.shape[:-count]))
        if count and len(tensor.shape) > count and tensor.shape[-count:] == (1,) * count
        else tensor
        for alias, tensor in outputs.items()
    }
