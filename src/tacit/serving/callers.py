"""Who may call which model, and who may manage the server.

A client is known by its certificate, of which TLS proved that it holds the key, or by a bearer token. What each may do
comes from the manifest's `Clients`. Where no client names a model, everybody may call all of them. Where one does, a
model is open to those alone that name it.

Management (other models, other versions, settings) is nobody's under a manifest, except for a client that it names for
that. A server without a manifest is managed by whoever reaches it, as TensorFlow Serving is.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tacit.errors import RequestError, Status, UsageError
from tacit.wire import release

_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request shows of who sent it: a certificate (DER), a bearer token, or nothing."""

    certificate: bytes | None = None
    token: bytes = field(default=b"", repr=False)


NOBODY = Caller()


def caller_of(certificate: bytes | None, headers: Mapping[str, str]) -> Caller:
    """Who sent a request, by the certificate of its connection and its `authorization` header."""
    given = headers.get("authorization", "")
    if not given and certificate is None:
        return NOBODY
    token = given[len(_SCHEME) :].strip() if given.lower().startswith(_SCHEME) else ""
    return Caller(certificate, token.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the manifest. `certificate` and `token` are SHA-256 digests, empty where it has none."""

    name: str
    certificate: bytes = b""
    token: bytes = b""
    models: frozenset[str] = frozenset()
    manages: bool = False


class Callers:
    """Judges requests by who sent them. `anybody_manages` is for servers without a manifest."""

    def __init__(self, clients: Sequence[Client] = (), *, anybody_manages: bool = True) -> None:
        self._clients = tuple(clients)
        self._closed = any(client.models for client in clients)
        self._anybody_manages = anybody_manages

    @property
    def closed(self) -> bool:
        """Whether there are models that only clients of the manifest may call."""
        return self._closed

    @property
    def ask_for_certificates(self) -> bool:
        """Whether some client is known by its certificate."""
        return any(client.certificate for client in self._clients)

    def check_model(self, model: str, caller: Caller | None) -> None:
        """Refuse a caller who may not call this model, whether there is such a model or not.

        Raises:
            RequestError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if not self._closed:
            return
        known = self._known(caller)
        if not any(model in client.models for client in known):
            raise _refusal(known, "call this model")

    def check_management(self, caller: Caller | None) -> None:
        """Refuse a caller who may not manage this server.

        Raises:
            RequestError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        if self._anybody_manages:
            return
        if not any(client.manages for client in self._clients):
            raise RequestError(
                Status.PERMISSION_DENIED,
                "management is off on an attested server; the manifest's Clients may name a client for it "
                '("Management": true)',
            )
        known = self._known(caller)
        # By certificate alone: a token can be passed on.
        if not any(client.manages and client.certificate for client in known):
            raise _refusal(known, "manage this server")

    def _known(self, caller: Caller | None) -> list[Client]:
        """The clients of the manifest that this caller is."""
        if caller is None:
            return []
        shown = hashlib.sha256(caller.certificate).digest() if caller.certificate else b""
        token = hashlib.sha256(caller.token).digest() if caller.token else b""
        found = []
        for client in self._clients:
            # A client with both must show both.
            needs = ((client.certificate, shown), (client.token, token))
            wanted = [(kept, given) for kept, given in needs if kept]
            if wanted and all(hmac.compare_digest(kept, given) for kept, given in wanted):
                found.append(client)
        return found


def parse_clients(text: str) -> list[Client]:
    """The manifest's clients, from the environment that activation made.

    Raises:
        UsageError: not the JSON that a coordinator writes.
    """
    try:
        wire = msgspec.json.decode(text, type=dict[str, release.ClientRule])
        return [
            Client(
                name,
                certificate=_digest(rule.certificate),
                token=_digest(rule.token),
                models=frozenset(rule.models),
                manages=rule.management,
            )
            for name, rule in wire.items()
        ]
    except (msgspec.DecodeError, ValueError) as exc:
        raise UsageError(f"{release.CLIENTS_ENV} is not what a coordinator writes: {exc}") from exc


def _digest(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) not in (0, hashlib.sha256().digest_size):
        raise ValueError(f"{text!r} is no SHA-256 digest")
    return found


def _refusal(known: Sequence[Client], what: str) -> RequestError:
    if known:
        return RequestError(Status.PERMISSION_DENIED, f"the manifest does not let this client {what}")
    return RequestError(
        Status.UNAUTHENTICATED,
        f"the manifest names who may {what}; show a client certificate, or `authorization: Bearer TOKEN`",
    )
