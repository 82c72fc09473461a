"""grpc.health.v1: a server is SERVING while it is ready, which is when every model answers, and does not drain.

Source: github.com/grpc/grpc/blob/master/doc/health-checking.md. The names of services are those that TensorFlow Serving
registers, and their full ones.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from google.protobuf.message import DecodeError

from tacit.edge import GrpcCall, GrpcHandler, GrpcStreaming
from tacit.errors import RequestError, Status
from tacit.wire.pb import health_pb2 as wire

SERVICES = frozenset(
    (
        "",
        "ModelService",
        "PredictionService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
        "inference.GRPCInferenceService",
    )
)
_METHOD = "/grpc.health.v1.Health/"
_LOOK = 0.5  # seconds between two looks for whoever watches
_Response = wire.HealthCheckResponse


class Health:
    """Answers Check and Watch; `ready` says whether the server serves."""

    def __init__(self, ready: Callable[[], bool], *, services: frozenset[str] = SERVICES) -> None:
        self._ready = ready
        self._services = services
        self.draining = False

    def handlers(self) -> Mapping[str, GrpcHandler | GrpcStreaming]:
        """One handler per method path."""
        return {_METHOD + "Check": self.check, _METHOD + "Watch": GrpcStreaming(self.watch)}

    async def check(self, message: bytes, _call: GrpcCall) -> bytes:
        """HealthCheckRequest to HealthCheckResponse. Raises: RequestError NOT_FOUND for a service there is not."""
        service = _service(message)
        if service not in self._services:
            raise RequestError(Status.NOT_FOUND, "unknown service")
        return _Response(status=self._status(service)).SerializeToString()

    async def watch(self, messages: AsyncIterator[bytes], _call: GrpcCall) -> AsyncGenerator[bytes, None]:
        """The state now, and again whenever it changes."""
        service = _service(await anext(messages, b""))
        told = None
        while True:
            status = self._status(service)
            if status != told:
                told = status
                yield _Response(status=status).SerializeToString()
            if self.draining:
                return
            await asyncio.sleep(_LOOK)

    def _status(self, service: str) -> "wire.HealthCheckResponse.ServingStatus":
        if service not in self._services:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._ready() and not self.draining else _Response.NOT_SERVING


def _service(message: bytes) -> str:
    try:
        return wire.HealthCheckRequest.FromString(message).service
    except DecodeError as exc:
        raise RequestError(Status.INTERNAL, "Exception deserializing request!") from exc
