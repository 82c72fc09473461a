"""The mesh API: `/rpc.Marble/Activate`, over TLS that demands a client certificate and verifies it by evidence alone.

Source: messages, codes and texts as recorded from MarbleRun v1.9.1.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial

from google.protobuf.message import DecodeError

from tacit.coordinator.activate import Order, Release
from tacit.coordinator.core import Coordinator
from tacit.coordinator.log import EventLog
from tacit.edge import GrpcCall, GrpcHandler
from tacit.errors import (
    ActivationError,
    IllegalTransitionError,
    InputError,
    RequestError,
    Status,
    TacitError,
)
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse

ACTIVATE = "/rpc.Marble/Activate"
MAX_MESSAGE = 4 << 20  # bytes, gRPC's usual limit

_STATUS: tuple[tuple[type[TacitError], Status], ...] = (
    (IllegalTransitionError, Status.FAILED_PRECONDITION),
    (ActivationError, Status.PERMISSION_DENIED),
    (InputError, Status.INVALID_ARGUMENT),
    (TacitError, Status.INTERNAL),
)


class MeshApi:
    """Answers marbles. Activations run in `executor`, so that the client API never waits behind one."""

    def __init__(self, coordinator: Coordinator, *, executor: Executor, log: EventLog) -> None:
        self._coordinator = coordinator
        self._executor = executor
        self._log = log
        self.handlers: Mapping[str, GrpcHandler] = {ACTIVATE: self.activate}

    async def activate(self, message: bytes, call: GrpcCall) -> bytes:
        """An activation: the serialized request in, the serialized response out.

        Raises:
            RequestError: with the canonical status of the refusal.
        """
        if call.peer_certificate is None:
            raise RequestError(Status.UNAUTHENTICATED, "couldn't get marble TLS certificate")
        request = ActivationRequest()
        try:
            request.ParseFromString(message)
        except DecodeError as exc:
            text = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"
            raise RequestError(Status.INTERNAL, text) from exc
        order = Order(request.marble_type, request.uuid, request.csr, request.quote, call.peer_certificate)
        try:
            loop = asyncio.get_running_loop()
            released = await loop.run_in_executor(self._executor, partial(self._coordinator.activate, order))
        except TacitError as exc:
            raise _refusal(exc) from exc
        except Exception as exc:
            self._log.error("activation failed", error=type(exc).__name__)
            raise RequestError(Status.INTERNAL, "internal error") from exc
        return _response(released)


def _refusal(exc: TacitError) -> RequestError:
    status = next(code for kind, code in _STATUS if isinstance(exc, kind))
    text = "cannot accept marbles in current state" if isinstance(exc, IllegalTransitionError) else str(exc)
    return RequestError(status, text)


def _response(released: Release) -> bytes:
    response = ActivationResponse()
    parameters = response.parameters
    for path, content in released.files.items():
        parameters.files[path] = content
    for name, value in released.env.items():
        parameters.env[name] = value
    parameters.argv.extend(released.argv)
    return response.SerializeToString()
