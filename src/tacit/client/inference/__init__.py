"""How is a model asked, on a server that was checked?

In: arrays, and the certificates to trust. Out: arrays. `language` says what a protocol is, `tensorflow` and `open` are
the two over gRPC, `grpc` the connections for them, by threads and by asyncio; `rest` is TensorFlow Serving's JSON.
"""

from tacit.client.inference.grpc import AsyncServingClient, ServingClient
from tacit.client.inference.rest import RestServingClient
from tacit.client.inference.values import (
    Credential,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
    fit_to,
    make_array,
)

__all__ = [
    "AsyncServingClient",
    "Credential",
    "Prediction",
    "RestServingClient",
    "ServingClient",
    "Signature",
    "TensorSpec",
    "VersionStatus",
    "fit_to",
    "make_array",
]
