"""One model on one server, by threads or by asyncio: arrays in, arrays out."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from tacit.client.inference import AsyncServingClient, Credential, ServingClient, Signature, fit_to, make_array
from tacit.client.inference.language import Language
from tacit.client.session.current import Current
from tacit.client.session.renewal import Renewal
from tacit.errors import InputError, RequestError, Status, TlsError

_T = TypeVar("_T")
DEFAULT_SIGNATURE = "serving_default"


class Servers:
    """The client of one address, for whichever chain its servers have."""

    def __init__(
        self, renewal: Renewal, address: str, timeout: float, credential: Credential | None, language: Language
    ) -> None:
        def connect(chain: bytes) -> ServingClient:
            return ServingClient(address, roots_pem=chain, timeout=timeout, credential=credential, language=language)

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
        for client in self._clients.finish():
            client.close()


def async_servers(
    renewal: Renewal, address: str, timeout: float, credential: Credential | None, language: Language
) -> AsyncServingClient:
    """The same for asyncio."""
    from tacit.client.session.aio import AttestedAioChannel

    channel = AttestedAioChannel(renewal, address, credential=credential)
    return AsyncServingClient(address, channel, timeout=timeout, credential=credential, language=language)


class _Asked:
    """What both kinds of a model have: how inputs become those that the model declares, and outputs those of the caller."""

    def __init__(self, name: str, *, address: str, tee: str, version: int | None) -> None:
        self.name = name
        self.version = version
        self._address = address
        self._tee = tee
        self._signatures: Mapping[str, Signature] | None = None

    def _unknown(self, exc: RequestError) -> RequestError:
        """The server's refusal to tell of the model, with what was asked of whom."""
        version = "" if self.version is None else f" in version {self.version}"
        return RequestError(
            exc.status, f"the server at {self._address} has no model {self.name!r}{version}; check the name ({exc})"
        )

    def _pick(self, signatures: Mapping[str, Signature], name: str) -> Signature:
        if name not in signatures:
            known = ", ".join(sorted(signatures)) or "none"
            raise InputError(f"model {self.name!r} has no signature {name!r}; it has: {known}")
        return signatures[name]

    def _arrays(self, signature: Signature, inputs: Any) -> dict[str, NDArray[Any]]:
        named = inputs if isinstance(inputs, Mapping) else self._name_input(signature, inputs)
        arrays: dict[str, NDArray[Any]] = {}
        for name, value in named.items():
            spec = signature.inputs.get(name)
            arrays[name] = make_array(name, value) if spec is None else fit_to(spec, name, value)
        return arrays

    def _name_input(self, signature: Signature, value: Any) -> Mapping[str, Any]:
        if len(signature.inputs) != 1:
            names = ", ".join(sorted(signature.inputs))
            raise InputError(
                f"model {self.name!r} has {len(signature.inputs)} inputs: give {{name: array}} for {names}"
            )
        return {next(iter(signature.inputs)): value}

    def __repr__(self) -> str:
        return f"<tacit.{type(self).__name__} {self.name} at {self._address} {self._tee.upper()}>"


def _outputs(inputs: Any, outputs: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(inputs, Mapping) or len(outputs) != 1:
        return dict(outputs)
    return next(iter(outputs.values()))


class Model(_Asked):
    """One model on one server."""

    def __init__(
        self, name: str, client: ServingClient | Servers, *, address: str, tee: str, version: int | None
    ) -> None:
        super().__init__(name, address=address, tee=tee, version=version)
        self._client = client

    def predict(self, inputs: Any, *, signature_name: str = DEFAULT_SIGNATURE) -> Any:
        """The model's answer: an array where it has one output and got an array, else arrays by name.

        `inputs` is one array (or nested lists) for a model with one input, or a mapping of arrays by input name.
        Arrays take the type that the model declares if that keeps their kind (float64 becomes float32, say).

        Raises:
            InputError: inputs that do not fit the model.
            RequestError: the server refuses; `status` says in what way.
            ConnectError: nobody answers, or TLS fails.
        """
        arrays = self._arrays(self.signature(signature_name), inputs)
        found = self._call(
            lambda client: client.predict(self.name, arrays, version=self.version, signature_name=signature_name)
        )
        return _outputs(inputs, found.outputs)

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Inputs and outputs, kept once they are known. Raises: InputError, RequestError, ConnectError."""
        if self._signatures is None or name not in self._signatures:
            try:
                self._signatures = self._call(lambda client: client.signatures(self.name, version=self.version))
            except RequestError as exc:
                if exc.status is not Status.NOT_FOUND:
                    raise
                raise self._unknown(exc) from exc
        return self._pick(self._signatures, name)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _call(self, what: Callable[[ServingClient], _T]) -> _T:
        return what(self._client) if isinstance(self._client, ServingClient) else self._client.call(what)


class AsyncModel(_Asked):
    """The same for asyncio."""

    def __init__(self, name: str, client: AsyncServingClient, *, address: str, tee: str, version: int | None) -> None:
        super().__init__(name, address=address, tee=tee, version=version)
        self._client = client

    async def predict(self, inputs: Any, *, signature_name: str = DEFAULT_SIGNATURE) -> Any:
        """As `Model.predict`."""
        arrays = self._arrays(await self.signature(signature_name), inputs)
        found = await self._client.predict(self.name, arrays, version=self.version, signature_name=signature_name)
        return _outputs(inputs, found.outputs)

    async def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """As `Model.signature`."""
        if self._signatures is None or name not in self._signatures:
            try:
                self._signatures = await self._client.signatures(self.name, version=self.version)
            except RequestError as exc:
                if exc.status is not Status.NOT_FOUND:
                    raise
                raise self._unknown(exc) from exc
        return self._pick(self._signatures, name)

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
