"""What a protocol for predictions has to say: which message asks what, and what its answer means. No connection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from tacit.client.inference.values import Array, Prediction, Signature, VersionStatus

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question(Generic[_T]):
    """A unary call: its method, the message, how the answer is parsed, and what it says (`read(answer, address)`).

    `read` raises PeerError for an answer that means nothing.
    """

    method: str
    request: Message
    answer: Callable[[bytes], Any]
    read: Callable[[Any, str], _T]


class Language(Protocol):
    """One protocol. Its methods raise InputError for inputs that it cannot carry."""

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: int | None,
        signature_name: str,
        outputs: Sequence[str],
    ) -> Question[Prediction]:
        """One prediction; all outputs, unless some are named."""
        ...

    def signatures(self, model: str, version: int | None) -> Question[Mapping[str, Signature]]:
        """A model's signatures by name."""
        ...

    def status(self, model: str, version: int | None) -> Question[tuple[VersionStatus, ...]]:
        """A model's versions, highest first."""
        ...
