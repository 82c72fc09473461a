"""The mesh API: `/rpc.Marble/Activate`, over TLS that demands a client certificate and verifies it by evidence alone.

Source: messages, codes and texts as recorded from MarbleRun v1.9.1.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial

from google.protobuf.message import DecodeError

from tacit.coordinator.activate import Order, Release
from tacit.coordinator.api.hand import in_thread
from tacit.coordinator.api.meter import CODE_NAMES, Activation, Meter, NoMeter
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
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse, Parameters

ACTIVATE = "/rpc.Marble/Activate"
MAX_MESSAGE = 4 << 20  # bytes, gRPC's usual limit

_STATUS: tuple[tuple[type[TacitError], Status], ...] = (
    (IllegalTransitionError, Status.FAILED_PRECONDITION),
    (ActivationError, Status.PERMISSION_DENIED),
    (InputError, Status.INVALID_ARGUMENT),
    (TacitError, Status.INTERNAL),
)


_LONGEST_DEADLINE = 10**9  # seconds; a caller may say 11,000 years, which no date holds
_LONGEST_REFUSAL = 1000  # characters in the log; a request may name a thousand hosts
_NORMAL = (Status.OK, Status.CANCELLED, Status.INVALID_ARGUMENT, Status.UNAUTHENTICATED)
_OUR_FAULT = (Status.INTERNAL, Status.UNKNOWN, Status.UNIMPLEMENTED, Status.DATA_LOSS)


class MeshApi:
    """Answers marbles. Activations run in `executor`, which is best none of the client API's: strangers may ask at both."""

    def __init__(
        self, coordinator: Coordinator, *, executor: Executor, log: EventLog, meter: Meter | None = None
    ) -> None:
        self._coordinator = coordinator
        self._executor = executor
        self._log = log
        self._meter = meter or NoMeter()
        self.handlers: Mapping[str, GrpcHandler] = {ACTIVATE: self.activate}

    async def activate(self, message: bytes, call: GrpcCall) -> bytes:
        """An activation: the serialized request in, the serialized response out.

        Raises:
            RequestError: with the canonical status of the refusal.
        """
        line = _CallLine(self._log, call, self._coordinator.now())
        clock = asyncio.get_running_loop().time
        began = clock()
        self._meter.call_began()
        line.started()
        # What stays if the caller goes before its answer.
        status, refusal = Status.CANCELLED, "the call was cancelled"
        try:
            answer = await self._activate(message, call)
            status, refusal = Status.OK, ""
            return answer
        except RequestError as exc:
            status, refusal = exc.status, str(exc)
            raise
        finally:
            self._meter.call_ended(status)
            line.finished(status, refusal, seconds=clock() - began)

    async def _activate(self, message: bytes, call: GrpcCall) -> bytes:
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
            released = await in_thread(self._executor, partial(self._coordinator.activate, order))
        except TacitError as exc:
            self._meter.refused(self._known(order.marble_type))
            raise _refusal(exc) from exc
        except Exception as exc:
            self._meter.refused(self._known(order.marble_type))
            self._log.error("activation failed", error=type(exc).__name__)
            raise RequestError(Status.INTERNAL, "internal error") from exc
        now = self._coordinator.now()
        self._meter.activated(Activation(now, order.marble_type, released.uuid, order.evidence))
        return _response(released)

    def _known(self, marble_type: str) -> str:
        """The type, if the manifest has it; whoever was refused may have written anything."""
        manifest = self._coordinator.holdings.manifest
        return marble_type if manifest and marble_type in manifest.marbles else ""


class _CallLine:
    """The two lines that every call leaves in the log, under the names that MarbleRun's have."""

    def __init__(self, log: EventLog, call: GrpcCall, start: datetime) -> None:
        self._log = log
        self._fields = _fields_of(call, start)

    def started(self) -> None:
        self._log.info("started call", **self._fields)

    def finished(self, status: Status, refusal: str, *, seconds: float) -> None:
        fields = {**self._fields, "grpc.code": CODE_NAMES[status]}
        if refusal:
            fields["grpc.error"] = f"rpc error: code = {CODE_NAMES[status]} desc = {refusal[:_LONGEST_REFUSAL]}"
        fields["grpc.time_ms"] = f"{seconds * 1000:.3f}"
        write = self._log.info if status in _NORMAL else self._log.error if status in _OUR_FAULT else self._log.warning
        write("finished call", **fields)


def _fields_of(call: GrpcCall, start: datetime) -> dict[str, object]:
    service, _, method = call.method.removeprefix("/").partition("/")
    fields: dict[str, object] = {
        "protocol": "grpc",
        "grpc.component": "server",
        "grpc.service": service,
        "grpc.method": method,
        "grpc.method_type": "unary",
        "peer.address": call.peer_address,
        "grpc.start_time": _go_seconds(start),
    }
    if call.deadline is not None:
        left = timedelta(seconds=min(call.deadline, _LONGEST_DEADLINE))
        fields["grpc.request.deadline"] = _go_seconds(start + left)
    return fields


def _go_seconds(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _refusal(exc: TacitError) -> RequestError:
    status = next(code for kind, code in _STATUS if isinstance(exc, kind))
    text = "cannot accept marbles in current state" if isinstance(exc, IllegalTransitionError) else str(exc)
    return RequestError(status, text)


def _response(released: Release) -> bytes:
    parameters = Parameters(files=released.files, env=released.env, argv=released.argv)
    return ActivationResponse(parameters=parameters).SerializeToString()
