"""Python programs' way in: `connect` checks a coordinator, and its models answer over TLS that it vouches for.

    session = tacit.connect("coordinator.example.org:4433")
    labels = session.model("digits", address="server.example.org:8500").predict(images)

What to expect of the coordinator is told once, with `tacit trust`, and its manifest pinned with `tacit manifest verify`;
nothing here weakens it, unless a caller says `manifest=None`.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

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
from tacit.client.inference import Credential, ServingClient, Signature, fit_to
from tacit.client.trust import UNATTESTED, TrustStore, default_trust_folder
from tacit.errors import InputError, NotSetError
from tacit.evidence import Tee

DEFAULT_SIGNATURE = "serving_default"


def connect(
    host: str,
    *,
    manifest: Literal["pinned"] | None = "pinned",
    config: Path | None = None,
    platform: Path | None = None,
    timeout: float = 30.0,
) -> "Session":
    """A session with the coordinator at `host` (`name:port`), which passed every check.

    `config` is the folder of `trust.json` (as the command line: $XDG_CONFIG_HOME/tacit or ~/.config/tacit), `platform`
    the simulated platform's ($TACIT_PLATFORM, or below ~/.local/share); `timeout` is seconds for each answer.
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
    now = datetime.now(UTC)  # noqa: TID251  # this function composes a Python program's client, as programs/ do for ours
    attested = attest_coordinator(
        host, trust, now=now, nonce=os.urandom(NONCE_SIZE), platform=platform, timeout=timeout
    )
    if attested.status.code != ACCEPTS_MARBLES:
        raise NotSetError(f"the coordinator at {attested.host} vouches for no server yet: {attested.status.message}")
    if manifest is not None:
        verify_pinned(attested)
    return Session(attested)


class Session:
    """A coordinator that was checked, and the way to the servers that its manifest allows.

    A session ends with the manifest that it was opened under: after an update the coordinator signs with a new
    intermediate, and calls fail with TlsError until `connect` checks again.
    """

    def __init__(self, coordinator: AttestedCoordinator) -> None:
        self.coordinator = coordinator
        self._models: list[Model] = []

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
        roots = self.coordinator.intermediate_pem
        client = ServingClient(address, roots_pem=roots, timeout=timeout, credential=credential)
        model = Model(name, client, address=address, tee=self.tee, version=version)
        self._models.append(model)
        return model

    def close(self) -> None:
        """End the connections of all models."""
        for model in self._models:
            model.close()
        self._models.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        unpinned = "" if self.manifest_pinned else " ANY MANIFEST"
        return f"<tacit.Session {self.coordinator.host} {self.tee.upper()}{unpinned}>"


class Model:
    """One model on one server."""

    def __init__(self, name: str, client: ServingClient, *, address: str, tee: str, version: int | None) -> None:
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
        outputs = self._client.predict(self.name, arrays, version=self.version, signature_name=signature_name).outputs
        if isinstance(inputs, Mapping) or len(outputs) != 1:
            return dict(outputs)
        return next(iter(outputs.values()))

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Inputs and outputs, asked once and kept. Raises: InputError, RequestError, ConnectError."""
        if self._signatures is None:
            self._signatures = self._client.signatures(self.name, version=self.version)
        if name not in self._signatures:
            known = ", ".join(sorted(self._signatures)) or "none"
            raise InputError(f"model {self.name!r} has no signature {name!r}; it has: {known}")
        return self._signatures[name]

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<tacit.Model {self.name} at {self._address} {self._tee.upper()}>"

    def _name_input(self, signature: Signature, value: Any) -> Mapping[str, Any]:
        if len(signature.inputs) != 1:
            names = ", ".join(sorted(signature.inputs))
            raise InputError(
                f"model {self.name!r} has {len(signature.inputs)} inputs: give {{name: array}} for {names}"
            )
        return {next(iter(signature.inputs)): value}
