"""What int8 learns from: the requests that were recorded beside a model."""

from collections.abc import Mapping, Sequence

from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.wire.tensor import Tensor


def recorded_samples(bundle: Bundle, signatures: Mapping[str, Signature]) -> Sequence[tuple[str, Mapping[str, Tensor]]]:
    """Recorded requests of these signatures. Raises: RequestError."""
    from tacit.serving.tfs.records import read_recorded  # most models need none of it

    return [(call.signature, call.inputs) for call in read_recorded(bundle, signatures)]
