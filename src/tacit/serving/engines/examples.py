"""Signatures of serialized tf.Example on an engine that cannot read it: examples are read here, the engine runs the rest.

For the engine such a signature has the inputs of the default one; for whoever asks, it has its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import RequestError, Status
from tacit.graph.parsing import ExampleInput
from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine
from tacit.wire.examples import parse_examples
from tacit.wire.tensor import Tensor


@dataclass(frozen=True, slots=True)
class ChangedBundle:
    """A bundle with one file's content exchanged; no longer what lies in any folder, so there is no `place`."""

    bundle: Bundle
    name: str
    content: bytes
    place: None = None

    @property
    def names(self) -> Sequence[str]:
        """Relative names."""
        return self.bundle.names

    @property
    def others(self) -> Path | None:
        """The folder where the other files lie, if they lie in one."""
        return self.bundle.others if isinstance(self.bundle, ChangedBundle) else self.bundle.place

    def read(self, name: str) -> bytes | bytearray | memoryview:
        """One file's content."""
        return self.content if name == self.name else self.bundle.read(name)

    def size(self, name: str) -> int:
        """One file's size in bytes."""
        return len(self.content) if name == self.name else self.bundle.size(name)

    def read_into(self, name: str, target: memoryview) -> None:
        """One file's content into memory of its size."""
        if name == self.name:
            target[:] = self.content
        else:
            self.bundle.read_into(name, target)

    def close(self) -> None:
        """Nothing will be read any more."""
        self.bundle.close()


class ExampleEngine:
    """An engine, and before it the reading of examples."""

    def __init__(self, engine: Engine, declared: Mapping[str, Signature], examples: Mapping[str, ExampleInput]) -> None:
        self._engine = engine
        self.platform = engine.platform
        runs = engine.signatures
        self._examples = {key: example for key, example in examples.items() if key in runs}
        self._signatures = {key: declared[key] if key in self._examples else found for key, found in runs.items()}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The engine's, those of examples with the input that they declare."""
        return self._signatures

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: RequestError."""
        example = self._examples.get(signature)
        return self._engine.infer(signature, _read(example, inputs) if example else inputs, outputs)

    def close(self) -> None:
        """Give its memory back."""
        self._engine.close()


def _read(example: ExampleInput, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    serialized = inputs[example.alias].array
    if serialized.ndim != 1 or not serialized.size:
        raise RequestError(
            Status.INVALID_ARGUMENT,
            f"Expected serialized examples in a vector of at least one, found shape {list(serialized.shape)}",
        )
    features = dict(example.features.values())
    parsed = parse_examples(serialized.tolist(), features)
    return {alias: parsed[name] for alias, (name, _) in example.features.items()}
