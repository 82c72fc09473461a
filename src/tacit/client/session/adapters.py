"""Clients that others wrote, made over a session's channels: Triton's (`tritonclient`) and TensorFlow Serving's stubs.

Their own calls stay as they are; what is other is whom they speak to. They are libraries of the caller's: each is
imported when it is asked for, and none of them is needed otherwise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tacit.client.address import GRPC_PORT, REST_PORT, parse_address
from tacit.client.connect import AttestedCoordinator
from tacit.client.session.dropin import AttestedChannel, credentials
from tacit.client.session.renewal import Renewal
from tacit.errors import UsageError

if TYPE_CHECKING:
    from tacit.client.session.aio import AttestedAioChannel

_STUB = "_client_stub"  # where tritonclient's client keeps what it calls, and `_channel` beside it


@dataclass(frozen=True, slots=True)
class ServingStubs:
    """TensorFlow Serving's own stubs, from `tensorflow_serving.apis`: `PredictionService` and `ModelService`."""

    prediction: Any
    model: Any


def serving_stubs(channel: "AttestedChannel | AttestedAioChannel") -> ServingStubs:
    """The stubs over this channel. Raises: UsageError, where tensorflow-serving-api is not installed."""
    try:
        from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    except ImportError as exc:
        raise UsageError(
            f"TensorFlow Serving's stubs are not installed ({exc}): pip install tensorflow-serving-api"
        ) from exc
    return ServingStubs(PredictionServiceStub(channel), ModelServiceStub(channel))


def triton_client(renewal: Renewal, address: str, *, verbose: bool) -> Any:
    """A `tritonclient.grpc.InferenceServerClient` whose calls go over an attested channel.

    Raises:
        UsageError: tritonclient is not installed, or keeps its channel elsewhere than the versions known here.
    """
    try:
        from tritonclient import grpc as triton
    except ImportError as exc:
        raise _absent("grpc", exc) from exc
    at = str(parse_address(address, default_port=GRPC_PORT))
    client = triton.InferenceServerClient(at, verbose=verbose, creds=credentials(renewal.current()))
    _check_places(client)
    client._channel.close()
    client._channel = AttestedChannel(renewal, at)
    setattr(client, _STUB, triton.service_pb2_grpc.GRPCInferenceServiceStub(client._channel))
    return client


async def triton_aio_client(renewal: Renewal, address: str, *, verbose: bool) -> Any:
    """A `tritonclient.grpc.aio.InferenceServerClient`, likewise. Raises: as `triton_client`."""
    import asyncio

    from tacit.client.session.aio import AttestedAioChannel

    try:
        from tritonclient.grpc import aio as triton
        from tritonclient.grpc import service_pb2_grpc
    except ImportError as exc:
        raise _absent("grpc", exc) from exc
    at = str(parse_address(address, default_port=GRPC_PORT))
    used = await asyncio.to_thread(renewal.current)
    client = triton.InferenceServerClient(at, verbose=verbose, creds=credentials(used))
    _check_places(client)
    await client._channel.close()
    client._channel = AttestedAioChannel(renewal, at)
    setattr(client, _STUB, service_pb2_grpc.GRPCInferenceServiceStub(client._channel))
    return client


def triton_http_client(used: AttestedCoordinator, address: str, **options: Any) -> Any:
    """A `tritonclient.http.InferenceServerClient` for the servers' present chain. Raises: UsageError."""
    try:
        from gevent import ssl as gevent_ssl
        from tritonclient import http as triton
    except ImportError as exc:
        raise _absent("http", exc) from exc

    def context() -> Any:
        made = gevent_ssl.SSLContext(gevent_ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = gevent_ssl.TLSVersion.TLSv1_2
        made.load_verify_locations(cadata=used.intermediate_pem.decode("ascii"))
        made.verify_flags |= gevent_ssl.VERIFY_X509_PARTIAL_CHAIN
        made.hostname_checks_common_name = False
        return made

    if chosen := {"ssl", "ssl_options", "ssl_context_factory", "insecure"} & set(options):
        raise UsageError(f"whom to trust is the session's to say, so {', '.join(sorted(chosen))} cannot be given")
    at = str(parse_address(address, default_port=REST_PORT))
    return triton.InferenceServerClient(at, ssl=True, ssl_context_factory=context, **options)


def _check_places(client: Any) -> None:
    if not hasattr(client, "_channel") or not hasattr(client, _STUB):
        raise UsageError(
            "this version of tritonclient keeps its channel elsewhere than those known here (2.73); give it "
            "`creds=session.grpc_credentials()` instead"
        )


def _absent(kind: str, exc: ImportError) -> UsageError:
    return UsageError(f"tritonclient is not installed ({exc}): pip install 'tritonclient[{kind}]'")
