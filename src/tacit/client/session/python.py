"""Python programs' way in: `connect` checks a coordinator, and its models answer over TLS that it vouches for.

    session = tacit.connect("coordinator.example.org:4433")
    labels = session.model("digits", address="server.example.org:8500").predict(images)

Clients that others wrote go the same way: `httpx.Client(transport=session.http_transport())`, and for gRPC stubs
`session.grpc_channel("server.example.org:8500")`.

What to expect of the coordinator is told once, with `tacit trust`, and its manifest pinned with `tacit manifest verify`;
nothing here weakens it, unless a caller says `manifest=None`.
"""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.client.address import GRPC_PORT, Address, parse_address
from tacit.client.connect import (
    ACCEPTS_MARBLES,
    NONCE_SIZE,
    AttestedCoordinator,
    attest_coordinator,
    verify_pinned,
)
from tacit.client.inference import Credential, RestServingClient, ServingClient, Signature, fit_to
from tacit.client.session.current import Current
from tacit.client.session.renewal import Renewal
from tacit.client.session.servers import ServerChannel
from tacit.client.trust import UNATTESTED, TrustStore, default_trust_folder
from tacit.errors import InputError, NotSetError, TlsError
from tacit.evidence import Tee

if TYPE_CHECKING:
    from tacit.client.session.dropin import AsyncHttpTransport, HttpTransport

_T = TypeVar("_T")
MAX_AGE = timedelta(hours=1)
"""After which a session attests its coordinator again."""
DEFAULT_SIGNATURE = "serving_default"


def connect(
    host: str,
    *,
    manifest: Literal["pinned"] | None = "pinned",
    config: Path | None = None,
    platform: Path | None = None,
    timeout: float = 30.0,
    max_age: timedelta = MAX_AGE,
) -> "Session":
    """A session with the coordinator at `host` (`name:port`), which passed every check.

    `config` is the folder of `trust.json` (as the command line: $XDG_CONFIG_HOME/tacit or ~/.config/tacit), `platform`
    the simulated platform's ($TACIT_PLATFORM, or below ~/.local/share); `timeout` is seconds for each answer. After `max_age` the
    coordinator is attested again while calls go on, and also when its servers show another chain.
    With `manifest=None` a coordinator will do of which no manifest is pinned: its servers are whatever the one who set
    its manifest likes, and `Session.manifest_pinned` is False. One that is pinned is compared all the same.

    Raises:
        NotTrustedError: nothing says what to expect (`tacit trust HOST` does), or no manifest is pinned
            (`tacit manifest verify FILE HOST` does that).
        EvidenceError: its evidence is not authentic, or not of this connection.
        AppraisalError: it is another program, or runs in another kind of TEE.
        PinMismatchError: its root or its manifest is not the pinned one.
        RollbackError: it runs on an older state than one already seen.
        NotSetError: it has no manifest in force, so no server to vouch for.
        ConnectError: nobody answers, or TLS fails.
    """
    trust = TrustStore(config if config is not None else default_trust_folder(os.environ))

    def attest() -> AttestedCoordinator:
        attested = attest_coordinator(
            host, trust, now=_now(), nonce=os.urandom(NONCE_SIZE), platform=platform, timeout=timeout
        )
        if attested.status.code != ACCEPTS_MARBLES:
            raise NotSetError(
                f"the coordinator at {attested.host} vouches for no server yet: {attested.status.message}"
            )
        if manifest is not None:
            verify_pinned(attested)
        return attested

    first = attest()
    return Session(first, Renewal(first, attest, max_age=max_age, clock=_now))


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  # this module composes a Python program's client, as programs/ do for ours


class Session:
    """A coordinator that was checked, and the way to the servers that its manifest allows.

    After an update of the manifest the coordinator signs with a new intermediate. Then it is attested again: the calls go
    on if it is still what is expected, and fail with what changed if it is not (`renewal` None: they fail with TlsError).
    """

    def __init__(self, coordinator: AttestedCoordinator, renewal: Renewal | None = None) -> None:
        self._renewal = renewal or Renewal(coordinator, lambda: coordinator, max_age=timedelta.max / 4, clock=_now)
        self._models: list[Model] = []
        self._channels: list[Any] = []

    @property
    def coordinator(self) -> AttestedCoordinator:
        """As it was last attested."""
        return self._renewal.last

    def http_transport(self) -> "HttpTransport":
        """For `httpx.Client`: requests to servers that the coordinator vouches for. Needs httpx."""
        from tacit.client.session.dropin import HttpTransport

        return HttpTransport(self._renewal)

    def async_http_transport(self) -> "AsyncHttpTransport":
        """For `httpx.AsyncClient`, likewise."""
        from tacit.client.session.dropin import AsyncHttpTransport

        return AsyncHttpTransport(self._renewal)

    def grpc_channel(self, address: str) -> Any:
        """A `grpc.Channel` to the server at `address`, for stubs of any service, TensorFlow Serving's for one."""
        from tacit.client.session.dropin import AttestedChannel

        channel = AttestedChannel(self._renewal, str(parse_address(address, default_port=GRPC_PORT)))
        self._channels.append(channel)
        return channel

    def grpc_aio_channel(self, address: str) -> Any:
        """A `grpc.aio.Channel`, likewise, for the servers' present chain.

        It is not renewed: the coordinator is not attested again for its calls, and after a rotation it takes a new one.
        """
        from tacit.client.session.dropin import aio_channel

        return aio_channel(self._renewal.current(), str(parse_address(address, default_port=GRPC_PORT)))

    def grpc_credentials(self) -> Any:
        """For clients that make their own channel, for the servers' present chain; not renewed, like `grpc_aio_channel`.

        Triton's: `tritonclient.grpc.InferenceServerClient(address, ssl=True, creds=session.grpc_credentials())`.
        """
        from tacit.client.session.dropin import credentials

        return credentials(self._renewal.current())

    @property
    def tee(self) -> str:
        """Kind of TEE that the coordinator proved, or `unattested`."""
        return self.coordinator.tee

    @property
    def simulated(self) -> bool:
        """Whether nothing real was proven: a simulated TEE, or none at all."""
        return self.tee == UNATTESTED or Tee(self.tee).is_simulated

    @property
    def manifest_pinned(self) -> bool:
        """Whether the coordinator holds the manifest that this client pinned; else anybody may have set it."""
        return self.coordinator.manifest is not None

    def model(
        self,
        name: str,
        *,
        address: str | None = None,
        version: int | None = None,
        timeout: float = 60.0,
        credential: Credential | None = None,
    ) -> "Model":
        """A model on the server at `address` (`host:port`; by default port 8500 where the coordinator is).

        `credential` is what to show where the manifest says who may call.
        """
        if address is None:
            address = str(Address(parse_address(self.coordinator.host, default_port=GRPC_PORT).host, GRPC_PORT))
        client = _Servers(self._renewal, address, timeout, credential)
        model = Model(name, client, address=address, tee=self.tee, version=version)
        self._models.append(model)
        return model

    def attested_rest(
        self, address: str, *, timeout: float = 60.0, marble_type: str | None = None
    ) -> RestServingClient:
        """TensorFlow Serving's REST calls to the server at `address`, which is attested itself, connection by connection.

        Its evidence is bound to the channel (`tacit-serve --attest_connections`), its certificate has to name `address`,
        and to be of `marble_type`, where that is given. Under the manifest that is pinned and in force at each request.
        Raises: NotTrustedError, where no manifest is pinned.
        """
        channel = ServerChannel(self._renewal, address, clock=_now, timeout=timeout, marble_type=marble_type)
        self._channels.append(channel)
        return RestServingClient.from_channel(channel)

    def close(self) -> None:
        """End the connections of all models and channels."""
        for one in (*self._models, *self._channels):
            one.close()
        self._models.clear()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        unpinned = "" if self.manifest_pinned else " ANY MANIFEST"
        return f"<tacit.Session {self.coordinator.host} {self.tee.upper()}{unpinned}>"


class _Servers:
    """The client of one address, for whichever chain its servers have."""

    def __init__(self, renewal: Renewal, address: str, timeout: float, credential: Credential | None) -> None:
        def connect(chain: bytes) -> ServingClient:
            return ServingClient(address, roots_pem=chain, timeout=timeout, credential=credential)

        self._clients = Current(renewal, connect)

    def call(self, what: Callable[[ServingClient], _T]) -> _T:
        """What the server answers; asked once more where it shows a new chain. Raises: TacitError."""
        used, client = self._clients.now()
        try:
            return what(client)
        except TlsError:
            again = self._clients.renewed(used)
            if again is None:
                raise
        return what(again)

    def close(self) -> None:
        """End the connections."""
        for client in self._clients.all():
            client.close()


class Model:
    """One model on one server."""

    def __init__(
        self, name: str, client: ServingClient | _Servers, *, address: str, tee: str, version: int | None
    ) -> None:
        self.name = name
        self.version = version
        self._client = client
        self._address = address
        self._tee = tee
        self._signatures: Mapping[str, Signature] | None = None

    def predict(self, inputs: Any, *, signature_name: str = DEFAULT_SIGNATURE) -> Any:
        """The model's answer: an array where it has one output and got an array, else arrays by name.

        `inputs` is one array (or nested lists) for a model with one input, or a mapping of arrays by input name.
        Arrays take the type that the model declares if that keeps their kind (float64 becomes float32, say).

        Raises:
            InputError: inputs that do not fit the model.
            RequestError: the server refuses; `status` says in what way.
            ConnectError: nobody answers, or TLS fails.
        """
        signature = self.signature(signature_name)
        named = inputs if isinstance(inputs, Mapping) else self._name_input(signature, inputs)
        arrays: dict[str, NDArray[Any]] = {}
        for name, value in named.items():
            spec = signature.inputs.get(name)
            arrays[name] = fit_to(spec, name, value) if spec is not None else np.asarray(value)
        outputs = self._call(
            lambda client: client.predict(self.name, arrays, version=self.version, signature_name=signature_name)
        ).outputs
        if isinstance(inputs, Mapping) or len(outputs) != 1:
            return dict(outputs)
        return next(iter(outputs.values()))

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Inputs and outputs, asked once and kept. Raises: InputError, RequestError, ConnectError."""
        if self._signatures is None:
            self._signatures = self._call(lambda client: client.signatures(self.name, version=self.version))
        if name not in self._signatures:
            known = ", ".join(sorted(self._signatures)) or "none"
            raise InputError(f"model {self.name!r} has no signature {name!r}; it has: {known}")
        return self._signatures[name]

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _call(self, what: Callable[[ServingClient], _T]) -> _T:
        return what(self._client) if isinstance(self._client, ServingClient) else self._client.call(what)

    def __repr__(self) -> str:
        return f"<tacit.Model {self.name} at {self._address} {self._tee.upper()}>"

    def _name_input(self, signature: Signature, value: Any) -> Mapping[str, Any]:
        if len(signature.inputs) != 1:
            names = ", ".join(sorted(signature.inputs))
            raise InputError(
                f"model {self.name!r} has {len(signature.inputs)} inputs: give {{name: array}} for {names}"
            )
        return {next(iter(signature.inputs)): value}
