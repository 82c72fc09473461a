"""Predictions over gRPC, in whichever protocol a `Language` says, by threads or by asyncio.

TLS is verified against the certificates that the caller brings (the coordinator's intermediate), and nothing else: no
system certificates, no proxy from the environment, no way to plaintext but the constructor that is named for it.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from tacit.client.address import GRPC_PORT, Address, parse_address
from tacit.client.channel import CONNECT_TIMEOUT, check_timeout, way_to
from tacit.client.inference.language import Language, Question
from tacit.client.inference.tensorflow import TENSORFLOW_SERVING
from tacit.client.inference.values import Array, Credential, Prediction, Signature, VersionStatus
from tacit.errors import InputError, PeerError, RequestError, Status, TacitError, TlsError, UnreachableError, UsageError

_T = TypeVar("_T")
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "tacit"),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT * 1000)),  # how long one attempt to connect may take
)
_NOBODY = ("failed to connect", "dns", "resolution", "resolving", "socket closed")  # gRPC's words, in lower case
_SILENT = "tcp handshaker shutdown"  # its words for an attempt to connect that took too long; no TLS was begun
_NO_GRPC = "Received http2 header with status"  # gRPC's words for an answer of HTTP alone
_UNREADABLE = "Exception deserializing response!"  # grpcio's words
_Metadata = tuple[tuple[str, str], ...]


class ServingClient:
    """A server's models at one address; TensorFlow Serving's protocol, unless another language is given."""

    _metadata: _Metadata = ()
    _language: Language = TENSORFLOW_SERVING
    _closed = False

    def __init__(
        self,
        address: str,
        *,
        roots_pem: bytes,
        timeout: float = 60.0,
        credential: Credential | None = None,
        language: Language = TENSORFLOW_SERVING,
    ) -> None:
        self._metadata, self._language = bearer(credential), language
        parsed = parse_address(address, default_port=GRPC_PORT)
        secured, (way, named) = secure(roots_pem, credential), way_of(parsed)
        self._start(parsed, grpc.secure_channel(way, secured, options=[*OPTIONS, *named]), timeout)

    @classmethod
    def without_tls(cls, address: str, *, timeout: float = 60.0, language: Language = TENSORFLOW_SERVING) -> Self:
        """A client whose requests anybody on the way can read and change: for servers that have no TLS."""
        client = cls.__new__(cls)
        client._language = language
        parsed = parse_address(address, default_port=GRPC_PORT)
        client._start(parsed, grpc.insecure_channel(str(parsed), options=OPTIONS), timeout)
        return client

    def _start(self, address: Address, channel: grpc.Channel, timeout: float) -> None:
        self._address = address
        self._channel = channel
        self._timeout = check_timeout(timeout)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: int | None = None,
        signature_name: str = "",
        outputs: Sequence[str] = (),
    ) -> Prediction:
        """The model's outputs for `inputs`, whose types go to the server as they are.

        Raises:
            InputError: an array of a type that has no tensor.
            RequestError: the server refuses; with its canonical status.
            ConnectError: nobody answers, or TLS fails.
        """
        return self.ask(self._language.predict(model, inputs, version, signature_name, outputs))

    def signatures(self, model: str, *, version: int | None = None) -> Mapping[str, Signature]:
        """The model's signatures by name. Raises: RequestError, ConnectError."""
        return self.ask(self._language.signatures(model, version))

    def status(self, model: str, *, version: int | None = None) -> tuple[VersionStatus, ...]:
        """The model's versions, highest first. Raises: RequestError, ConnectError."""
        return self.ask(self._language.status(model, version))

    def ask(self, question: Question[_T]) -> _T:
        """The answer to any question. Raises: as `predict`."""
        if self._closed:
            raise UsageError(f"the connection to {self._address} was closed; open another session, or model")
        call = self._channel.unary_unary(question.method, type(question.request).SerializeToString, question.answer)
        try:
            answer = call(question.request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as exc:
            raise grpc_error(self._address, exc, self._timeout) from exc
        return question.read(answer, str(self._address))

    def close(self) -> None:
        """End the connections."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncServingClient:
    """The same for asyncio, over a channel of `grpc.aio` that the caller prepared."""

    def __init__(
        self,
        address: str,
        channel: Any,
        *,
        timeout: float = 60.0,
        credential: Credential | None = None,
        language: Language = TENSORFLOW_SERVING,
    ) -> None:
        self._address = parse_address(address, default_port=GRPC_PORT)
        self._channel, self._timeout = channel, check_timeout(timeout)
        self._metadata, self._language = bearer(credential), language

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: int | None = None,
        signature_name: str = "",
        outputs: Sequence[str] = (),
    ) -> Prediction:
        """As `ServingClient.predict`."""
        return await self.ask(self._language.predict(model, inputs, version, signature_name, outputs))

    async def signatures(self, model: str, *, version: int | None = None) -> Mapping[str, Signature]:
        """As `ServingClient.signatures`."""
        return await self.ask(self._language.signatures(model, version))

    async def status(self, model: str, *, version: int | None = None) -> tuple[VersionStatus, ...]:
        """As `ServingClient.status`."""
        return await self.ask(self._language.status(model, version))

    async def ask(self, question: Question[_T]) -> _T:
        """The answer to any question. Raises: as `predict`."""
        call = self._channel.unary_unary(question.method, type(question.request).SerializeToString, question.answer)
        try:
            answer = await call(question.request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as exc:
            raise grpc_error(self._address, exc, self._timeout) from exc
        return question.read(answer, str(self._address))

    async def close(self) -> None:
        """End the connections."""
        await self._channel.close()


def way_of(address: Address) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Where a channel to this server goes, and the options by which the name in its certificate stays this server's."""
    way = way_to(address)
    return str(way), () if way == address else (("grpc.ssl_target_name_override", address.host),)


def secure(roots_pem: bytes, credential: Credential | None) -> grpc.ChannelCredentials:
    """GRPC's credentials for servers below these certificates alone."""
    shown = credential.certificate if credential else None
    return grpc.ssl_channel_credentials(
        root_certificates=roots_pem,
        private_key=shown.key_pem if shown else None,
        certificate_chain=shown.certificate_pem if shown else None,
    )


def bearer(credential: Credential | None) -> _Metadata:
    """The token as gRPC's metadata. Raises: InputError."""
    if credential is None or not credential.token:
        return ()
    if not credential.token.isascii() or not credential.token.isprintable():
        raise InputError("a bearer token is one line of ASCII text")
    return (("authorization", f"Bearer {credential.token}"),)


def grpc_error(address: Address, exc: grpc.RpcError, timeout: float) -> TacitError:
    """What a failed call means: the way to the server, or the server's own refusal."""
    code, details = exc.code(), exc.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and (found := _way_error(address, details)) is not None:
        return found
    if details.startswith(_NO_GRPC):
        return PeerError(f"{address} speaks HTTP and no gRPC; give the port of the server's gRPC ({details[:200]})")
    if code is grpc.StatusCode.INTERNAL and details == _UNREADABLE:
        return PeerError(f"{address} answers with something else than this protocol has; is it such a server?")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RequestError(Status.DEADLINE_EXCEEDED, f"{address}: no answer within {timeout:.0f} s")
    return RequestError(Status(code.value[0]), details)


def _way_error(address: Address, details: str) -> TacitError | None:
    """What kept a call from reaching its server, by grpcio's words; None where the server itself cannot."""
    lower = details.lower()
    if "hostname verification check failed" in lower or "not in peer certificate" in lower:
        return TlsError(
            f"the certificate of {address} does not name it; connect by a name that it has, "
            f"or start the server with EDG_MARBLE_DNS_NAMES={address.host}"
        )
    if "certificate is not yet valid" in lower or "certificate has expired" in lower:
        return TlsError(f"the certificate of {address} is not valid at this time; set the clock, here or there")
    if "certificate_verify_failed" in lower:
        return TlsError(
            f"the certificate of {address} does not lead to the attested coordinator: it is another server, "
            "or the manifest was updated since; connect to the coordinator again"
        )
    if _SILENT not in lower and any(sign in lower for sign in ("handshake", "ssl_error", "tsi_", "alpn")):
        return TlsError(f"TLS with {address} failed; does that port speak TLS? ({details[:200]})")
    if any(sign in lower for sign in _NOBODY):
        return UnreachableError(
            f"nobody answers at {address}; check the address, and that it is running ({details[:200]})"
        )
    return None
