"""What an engine is: a loaded model that turns named tensors into named tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.wire.tensor import Tensor

Precision = Literal["f32", "f16", "bf16", "int8"]

Device = Literal["cpu", "gpu"]

Samples = Callable[[Bundle, Mapping[str, Signature]], Sequence[tuple[str, Mapping[str, Tensor]]]]
"""Requests that were recorded among a model's files, each with its signature. Raises: RequestError."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine may use.

    `precision` is the arithmetic of floating-point layers and always stated: an engine's own default may round. With
    int8 it is that of convolutions and matrix products alone.
    `threads` is None for all processors that this process may use.
    `engine` is the name of one, or `auto` for the first that can.
    `device` is what computes; a GPU does it outside of the TEE.
    `samples` finds what int8 learns its ranges from.
    `staging` is a folder on a tmpfs for formats that are only read from a path.
    """

    precision: Precision = "f32"
    threads: int | None = None
    engine: str = "auto"
    staging: Path = Path("/dev/shm")  # noqa: S108 (memory, and checked to be)
    samples: Samples | None = None
    device: Device = "cpu"

    @property
    def has_choice_of_threads(self) -> bool:
        """Whether fewer threads may be tried."""
        return self.threads is None and self.device == "cpu"


class Engine(Protocol):
    """One loaded model. Never called by two threads at once."""

    @property
    def platform(self) -> str:
        """Which engine this is, in one word."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that it can run."""

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for; their arrays are the caller's own.

        Raises:
            RequestError: INVALID_ARGUMENT where the model does not take these shapes.
        """

    def close(self) -> None:
        """Give its memory back."""


@runtime_checkable
class MayBeAway(Protocol):
    """An engine in a process of its own, which may have died; `close` ends it whatever it does."""

    @property
    def works(self) -> bool:
        """Whether it would answer now."""


EngineLoader = Callable[[Bundle, EngineOptions], Engine]
