"""Python programs' way in: `connect` checks a coordinator, and its models answer over TLS that it vouches for.

    session = tacit.connect("coordinator.example.org:4433")
    labels = session.model("digits", address="server.example.org:8500").predict(images)

Clients that others wrote go the same way: `httpx.Client(transport=session.http_transport())`, and for gRPC stubs
`session.grpc_channel("server.example.org:8500")`.

What to expect of the coordinator is told once, with `tacit trust`, and its manifest pinned with `tacit manifest verify`;
or in the call, `connect(..., package=Path("coordinator.json"), manifest=Path("manifest.json"))`. Nothing here weakens it,
unless a caller says `manifest=None`.
"""

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from tacit.client.address import COORDINATOR_PORT, GRPC_PORT, Address, parse_address
from tacit.client.channel import check_timeout
from tacit.client.connect import (
    ACCEPTS_MARBLES,
    NONCE_SIZE,
    AttestedCoordinator,
    attest_expected,
    load_simulated_expectation,
    verify_pinned,
)
from tacit.client.coordinator import fingerprint
from tacit.client.inference import Credential, RestServingClient
from tacit.client.inference.language import Language
from tacit.client.inference.open import OPEN_INFERENCE
from tacit.client.inference.tensorflow import TENSORFLOW_SERVING
from tacit.client.session.model import AsyncModel, Model, Servers, async_servers
from tacit.client.session.renewal import Renewal
from tacit.client.session.servers import ServerChannel
from tacit.client.trust import (
    UNATTESTED,
    Expectation,
    Memory,
    Recollection,
    TrustStore,
    check_expectation,
    default_trust_folder,
)
from tacit.errors import InputError, NotSetError, UsageError
from tacit.evidence import Tee
from tacit.evidence.anchor import MAKERS
from tacit.manifest.codec import parse_package
from tacit.pki.detached import parse_signer
from tacit.pki.tls import client_context

if TYPE_CHECKING:
    from tacit.client.session.adapters import ServingStubs
    from tacit.client.session.http import AsyncHttpTransport, HttpTransport

Protocol = Literal["tensorflow-serving", "open-inference"]
_LANGUAGES: dict[str, Language] = {"tensorflow-serving": TENSORFLOW_SERVING, "open-inference": OPEN_INFERENCE}
MAX_AGE = timedelta(hours=1)
"""After which a session attests its coordinator again."""


def connect(
    host: str,
    *,
    manifest: Literal["pinned"] | Path | str | bytes | None = "pinned",
    package: Path | str | Mapping[str, Any] | None = None,
    signers: Sequence[Path | str | bytes] = (),
    signatures: Path | str | None = None,
    config: Path | str | None = None,
    platform: Path | str | None = None,
    timeout: float = 30.0,
    max_age: timedelta = MAX_AGE,
) -> "Session":
    """A session with the coordinator at `host` (`name:port`), which passed every check.

    `config` is the folder of `trust.json` (as the command line: $XDG_CONFIG_HOME/tacit or ~/.config/tacit), `platform`
    the simulated platform's ($TACIT_PLATFORM, or below ~/.local/share); `timeout` is seconds for each answer. After `max_age` the
    coordinator is attested again while calls go on, and also when its servers show another chain.
    `manifest` may be the manifest itself, a file or its bytes as they were set: the coordinator has to hold it, whatever
    was pinned. `package` may be the coordinator's package, a file of `tacit package-info coordinator --output json` or
    what stands in it: then nothing has to be told to `tacit trust`, and what was seen is remembered by the returned object alone.
    `signers` are files (or PEM texts) of public keys or certificates, and `signatures` a file, or a folder that has a file
    for each manifest, as `tacit manifest sign` writes them: then any manifest will do that one of them signed. They are
    read again with each attestation, so an update that is signed ends no session.
    With `manifest=None` a coordinator will do of which no manifest is pinned: its servers are whatever the one who set
    its manifest likes, and `Session.manifest_pinned` is False. One that is pinned is compared all the same.

    Raises:
        InputError: a file that is not there, a package that would allow anything, signers beside a manifest, or a
            value that is none of its kind.
        PkiError: a signer's file holds no key.
        NotTrustedError: nothing says what to expect (`tacit trust HOST` does), or no manifest is pinned
            (`tacit manifest verify FILE HOST` does that).
        EvidenceError: its evidence is not authentic, or not of this connection.
        AppraisalError: it is another program, or runs in another kind of TEE.
        PinMismatchError: its root or its manifest is not the pinned one.
        RollbackError: it runs on an older state than one already seen.
        NotSetError: it has no manifest in force, so no server to vouch for.
        ConnectError: nobody answers, or TLS fails.
    """
    check_timeout(timeout)
    if not isinstance(max_age, timedelta) or max_age <= timedelta():
        raise InputError(f"max_age is {max_age!r}; expected a timedelta above 0, such as timedelta(hours=1)")
    address = str(parse_address(host, default_port=COORDINATOR_PORT))
    platform, signatures = _path(platform), _path(signatures)
    memory: Memory
    if package is None:
        memory = TrustStore(_path(config) or default_trust_folder(os.environ))
    else:
        memory = Recollection(expectation_of(package, platform))
    held = None if manifest in ("pinned", None) else fingerprint(_bytes_of(manifest))
    signed = _signers_of(signers, signatures, manifest)
    place = None if signatures is None else str(signatures.absolute())

    def attest() -> AttestedCoordinator:
        expected = memory.load_expectation(address)
        if held is not None:
            expected = replace(expected, manifest_fingerprint=held)
        elif signed:
            expected = replace(expected, manifest_fingerprint=None, signers=signed, signatures=place)
        nonce = os.urandom(NONCE_SIZE)
        attested = attest_expected(
            address, expected, memory, now=_now(), nonce=nonce, platform=platform, timeout=timeout
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


def expectation_of(package: Path | str | Mapping[str, Any], platform: Path | None = None) -> Expectation:
    """What to expect of a coordinator that is this program. Raises: InputError, ManifestError, PlatformError."""
    from tacit.client.bound.collateral import own_platform

    try:
        raw = _bytes_of(package) if isinstance(package, Path | str) else json.dumps(dict(package)).encode()
    except (TypeError, ValueError) as exc:
        raise InputError(f"the package is neither a file nor what stands in one: {exc}") from exc
    found = parse_package(raw)
    if found.tee is not None and found.tee not in tuple(Tee):
        raise InputError(
            f"the package names {found.tee!r}, which is no TEE; expected one of {', '.join(Tee)}; whoever wants no evidence "
            "says so by `tacit trust HOST --tee unattested`"
        )
    tee = Tee(found.tee) if found.tee in tuple(Tee) else Tee.SGX
    if tee.is_simulated:
        expectation = load_simulated_expectation(platform or own_platform(), tee=tee, package=found)
    else:
        expectation = Expectation(str(found.tee or tee), found, MAKERS[tee])
    check_expectation(expectation)
    return expectation


def _signers_of(
    signers: Sequence[Path | str | bytes], signatures: Path | None, manifest: Path | bytes | str | None
) -> tuple[bytes, ...]:
    """Their public keys, DER. Raises: InputError, PkiError."""
    if isinstance(signers, Path | str | bytes):
        raise InputError("`signers` are several, or one in a list: signers=[...]")
    if not signers and signatures is None:
        return ()
    if manifest != "pinned":
        raise InputError("`manifest` says itself which one will do, so signers would say nothing: give one of them")
    if not signers or signatures is None:
        raise InputError("`signers` say who signs manifests, and `signatures` where that lies: give both")
    return tuple(parse_signer(_bytes_of(one)) for one in signers)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _language(protocol: str) -> Language:
    if protocol not in _LANGUAGES:
        raise InputError(f"{protocol!r} is no protocol that is spoken here; expected one of {', '.join(_LANGUAGES)}")
    return _LANGUAGES[protocol]


def _bytes_of(given: object) -> bytes:
    if isinstance(given, bytes):
        return given
    try:
        return Path(str(given)).read_bytes()
    except OSError as exc:
        raise InputError(f"{given} cannot be read: {exc.strerror}") from exc


def _now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  # this module composes a Python program's client, as programs/ do for ours


class Session:
    """A coordinator that was checked, and the way to the servers that its manifest allows.

    After an update of the manifest the coordinator signs with a new intermediate. Then it is attested again: the calls go
    on if it is still what is expected, and fail with what changed if it is not (`renewal` None: they fail with TlsError).
    """

    def __init__(self, coordinator: AttestedCoordinator, renewal: Renewal | None = None) -> None:
        self._kept = renewal or Renewal(coordinator, lambda: coordinator, max_age=timedelta.max / 4, clock=_now)
        self._closed = False
        self._models: list[Model] = []
        self._channels: list[Any] = []

    @property
    def _renewal(self) -> Renewal:
        """What every way to a server begins with. Raises: UsageError, where the session was closed."""
        if self._closed:
            raise UsageError(f"the session with {self.coordinator.host} was closed; open another with tacit.connect")
        return self._kept

    @property
    def coordinator(self) -> AttestedCoordinator:
        """As it was last attested."""
        return self._kept.last

    def http_transport(self) -> "HttpTransport":
        """For `httpx.Client`: requests to servers that the coordinator vouches for. Needs httpx."""
        from tacit.client.session.http import HttpTransport

        return HttpTransport(self._renewal)

    def async_http_transport(self) -> "AsyncHttpTransport":
        """For `httpx.AsyncClient`, likewise."""
        from tacit.client.session.http import AsyncHttpTransport

        return AsyncHttpTransport(self._renewal)

    def grpc_channel(self, address: str) -> Any:
        """A `grpc.Channel` to the server at `address`, for stubs of any service, TensorFlow Serving's for one."""
        from tacit.client.session.dropin import AttestedChannel

        channel = AttestedChannel(self._renewal, str(parse_address(address, default_port=GRPC_PORT)))
        self._channels.append(channel)
        return channel

    def grpc_aio_channel(self, address: str) -> Any:
        """A `grpc.aio.Channel`, likewise. Whoever asked for it closes it, in the loop that it is of."""
        from tacit.client.session.aio import AttestedAioChannel

        return AttestedAioChannel(self._renewal, str(parse_address(address, default_port=GRPC_PORT)))

    def grpc_credentials(self) -> Any:
        """For clients that make their own channel, for the servers' present chain; not renewed: a rotation needs new ones."""
        from tacit.client.session.dropin import credentials

        return credentials(self._renewal.current())

    def ssl_context(self) -> ssl.SSLContext:
        """For clients that take one (aiohttp, urllib3), for the servers' present chain; not renewed, likewise."""
        return client_context(roots_pem=self._renewal.current().intermediate_pem)

    def serving_stubs(self, address: str) -> "ServingStubs":
        """TensorFlow Serving's own stubs for the server at `address`. Needs tensorflow-serving-api."""
        from tacit.client.session.adapters import serving_stubs

        return serving_stubs(self.grpc_channel(address))

    def serving_aio_stubs(self, address: str) -> "ServingStubs":
        """The same over `grpc_aio_channel`."""
        from tacit.client.session.adapters import serving_stubs

        return serving_stubs(self.grpc_aio_channel(address))

    def triton_client(self, address: str, *, verbose: bool = False) -> Any:
        """A `tritonclient.grpc.InferenceServerClient` for the server at `address`, renewed as `grpc_channel` is."""
        from tacit.client.session.adapters import triton_client

        client = triton_client(self._renewal, address, verbose=verbose)
        self._channels.append(client)
        return client

    async def triton_aio_client(self, address: str, *, verbose: bool = False) -> Any:
        """A `tritonclient.grpc.aio.InferenceServerClient`, likewise; whoever asked for it closes it."""
        from tacit.client.session.adapters import triton_aio_client

        return await triton_aio_client(self._renewal, address, verbose=verbose)

    def triton_http_client(self, address: str, **options: Any) -> Any:
        """A `tritonclient.http.InferenceServerClient`, for the servers' present chain; not renewed.

        Its own `concurrency` and timeouts are taken. For `tritonclient.http.aio`: `ssl=True, ssl_context=session.ssl_context()`.
        """
        from tacit.client.session.adapters import triton_http_client

        client = triton_http_client(self._renewal.current(), address, **options)
        self._channels.append(client)
        return client

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
        protocol: Protocol = "tensorflow-serving",
    ) -> "Model":
        """A model on the server at `address` (`host:port`; by default port 8500 where the coordinator is).

        `credential` is what to show where the manifest says who may call. Servers of ours speak both protocols, Triton
        and KServe's `open-inference` alone.
        """
        at = address or self._default_address()
        client = Servers(self._renewal, at, timeout, credential, _language(protocol))
        model = Model(name, client, address=at, tee=self.tee, version=version)
        self._models.append(model)
        return model

    def async_model(
        self,
        name: str,
        *,
        address: str | None = None,
        version: int | None = None,
        timeout: float = 60.0,
        credential: Credential | None = None,
        protocol: Protocol = "tensorflow-serving",
    ) -> "AsyncModel":
        """The same for asyncio: `await model.predict(...)`. Whoever asked for it closes it, or uses `async with`."""
        at = address or self._default_address()
        client = async_servers(self._renewal, at, timeout, credential, _language(protocol))
        return AsyncModel(name, client, address=at, tee=self.tee, version=version)

    def _default_address(self) -> str:
        return str(Address(parse_address(self.coordinator.host, default_port=GRPC_PORT).host, GRPC_PORT))

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
        """End the connections of all models and channels; the session opens no more."""
        self._closed = True
        with ExitStack() as closing:  # each of them, whatever becomes of the others
            for one in (*self._models, *self._channels):
                closing.callback(one.close)
        self._models.clear()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        unpinned = "" if self.manifest_pinned else " ANY MANIFEST"
        return f"<tacit.Session {self.coordinator.host} {self.tee.upper()}{unpinned}>"
