"""The routes of the client API: a method and a path to a function from a request to the `data` of its answer.

Who calls is settled before anything that they sent is read. What goes wrong is an error of `tacit.errors`.

Source: recorded requests and answers of MarbleRun v1.9.1.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from msgspec import UNSET

from tacit.coordinator.api.answers import (
    UPDATE_APPLIED,
    UPDATE_CANCELLED,
    acknowledged_answer,
    secret_entry,
    state_mark,
    still_needed,
    update_answer,
)
from tacit.coordinator.api.audit import digests_page, log_page, parse_after
from tacit.coordinator.api.bodies import (
    parse_channel,
    parse_counter,
    parse_manifest_body,
    parse_nonce,
    parse_quote,
    parse_recovery,
    parse_secret_names,
    parse_secrets_v1,
    parse_secrets_v2,
)
from tacit.coordinator.api.hand import in_thread, in_turn
from tacit.coordinator.core import Coordinator
from tacit.coordinator.log import EventLog
from tacit.edge import HttpRequest
from tacit.errors import GoneError, InputError, NotSetError
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.wire.rest import (
    API_V2,
    CounterV2,
    ManifestV1,
    ManifestV2,
    Message,
    PendingUpdate,
    QuoteV1,
    QuoteV2,
    RecoverV2,
    RecoveryPublicKey,
    RecoverySecrets,
    SecretsV2,
    SignedQuoteV2,
    StatusV1,
    StatusV2,
    UpdateLogV2,
)

RECOVER_V1_GONE = (
    "Recovering the Coordinator using the /recover API endpoint has been disabled. "
    "Use the /api/v2/recover endpoint instead."
)

_V1 = ("/status", "/quote", "/manifest", "/update", "/update-manifest", "/update-cancel", "/recover", "/secrets")
_V2_ALONE = ("/recover/public-key", "/sign-quote", "/monotonic-counter", "/log", "/log/digests")
PATHS = frozenset((*_V1, *(API_V2 + path for path in (*_V1, *_V2_ALONE))))
"""Every path that has a route."""

_T = TypeVar("_T")
Handler = Callable[[HttpRequest], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of the table. `failure` is the code for what a user got wrong after authentication."""

    handler: Handler
    failure: int
    version: int


class Routes:
    """The functions of the table, for one coordinator. What may take long runs in `executor`, so that nobody waits for it."""

    def __init__(self, coordinator: Coordinator, *, executor: Executor, log: EventLog) -> None:
        self._coordinator = coordinator
        self._executor = executor
        self._log = log
        # Strangers may ask for digests, which are read from files: one at a time, so they never take every worker.
        self._digesting = asyncio.Semaphore(1)
        self._quoting = asyncio.Semaphore(1)  # likewise for evidence, which a TEE makes one at a time in any case
        self.table: Mapping[tuple[str, str], Route] = {
            ("GET", "/status"): Route(self._status_v1, 400, 1),
            ("GET", "/quote"): Route(self._quote_v1, 400, 1),
            ("GET", "/manifest"): Route(self._manifest_v1, 400, 1),
            ("POST", "/manifest"): Route(self._set_manifest_v1, 400, 1),
            ("GET", "/update"): Route(self._update_log_v1, 500, 1),
            ("GET", "/secrets"): Route(self._secrets_v1, 400, 1),
            ("POST", "/secrets"): Route(self._set_secrets_v1, 400, 1),
            ("GET", API_V2 + "/status"): Route(self._status_v2, 500, 2),
            ("GET", API_V2 + "/quote"): Route(self._quote_v2, 500, 2),
            ("GET", API_V2 + "/manifest"): Route(self._manifest_v2, 500, 2),
            ("POST", API_V2 + "/manifest"): Route(self._set_manifest_v2, 500, 2),
            ("GET", API_V2 + "/update"): Route(self._update_log_v2, 500, 2),
            ("POST", "/update"): Route(self._update_v1, 400, 1),
            ("GET", "/update-manifest"): Route(self._pending_update, 500, 1),
            ("POST", "/update-manifest"): Route(self._acknowledge_v1, 500, 1),
            ("POST", "/update-cancel"): Route(self._cancel_v1, 500, 1),
            ("POST", API_V2 + "/update"): Route(self._update_v2, 500, 2),
            ("GET", API_V2 + "/update-manifest"): Route(self._pending_update, 500, 2),
            ("POST", API_V2 + "/update-manifest"): Route(self._acknowledge_v2, 500, 2),
            ("POST", API_V2 + "/update-cancel"): Route(self._cancel_v2, 500, 2),
            ("POST", "/recover"): Route(self._recover_v1, 500, 1),
            ("POST", API_V2 + "/recover"): Route(self._recover_v2, 500, 2),
            ("GET", API_V2 + "/recover/public-key"): Route(self._recovery_key, 500, 2),
            ("GET", API_V2 + "/secrets"): Route(self._secrets_v2, 500, 2),
            ("POST", API_V2 + "/secrets"): Route(self._set_secrets_v2, 500, 2),
            ("GET", API_V2 + "/log"): Route(self._read_log, 500, 2),
            ("GET", API_V2 + "/log/digests"): Route(self._log_digests, 500, 2),
            ("POST", API_V2 + "/sign-quote"): Route(self._sign_quote, 500, 2),
            ("POST", API_V2 + "/monotonic-counter"): Route(self._monotonic_counter, 500, 2),
        }

    def _note(self, leniency: str) -> None:
        self._log.warning("request read leniently", at=leniency)

    async def _offload(self, function: Callable[[], _T]) -> _T:
        return await in_thread(self._executor, function)

    # ---- status and quote

    async def _status_v1(self, _: HttpRequest) -> object:
        status = self._coordinator.status()
        return StatusV1(int(status.state), status.message, state_mark(status))

    async def _status_v2(self, _: HttpRequest) -> object:
        status = self._coordinator.status()
        return StatusV2(int(status.state), status.message, state_mark(status))

    async def _quote(self, make: Callable[[], _T]) -> _T:
        return await in_turn(self._quoting, self._executor, make)  # a real TEE takes a good part of a second for one

    async def _quote_v1(self, _: HttpRequest) -> object:
        answer = await self._quote(self._coordinator.quote)
        return QuoteV1(answer.chain_pem.decode(), answer.evidence)

    async def _quote_v2(self, request: HttpRequest) -> object:
        nonce, channel = parse_nonce(request.query), b""
        if parse_channel(request.query):
            if request.exporter is None:
                raise InputError("this connection has no TLS that evidence could be bound to")
            channel = request.exporter(CHANNEL_LABEL, CHANNEL_SIZE)
        answer = await self._quote(partial(self._coordinator.quote, nonce, channel))
        bound = CHANNEL_BINDING if channel and answer.evidence is not None else UNSET
        return QuoteV2(answer.chain_pem.decode(), answer.evidence, bound)

    # ---- manifest

    async def _manifest_v1(self, _: HttpRequest) -> object:
        try:
            raw, signature = self._coordinator.manifest()
        except NotSetError:
            return ManifestV1(None, "", None)
        return ManifestV1(signature, hashlib.sha256(raw).hexdigest(), raw)

    async def _manifest_v2(self, _: HttpRequest) -> object:
        raw, signature = self._coordinator.manifest()
        return ManifestV2(signature, hashlib.sha256(raw).hexdigest(), raw)

    async def _set_manifest_v1(self, request: HttpRequest) -> object:
        recovery = await self._offload(partial(self._coordinator.set_manifest, request.body))
        return RecoverySecrets(recovery) if recovery else None

    async def _set_manifest_v2(self, request: HttpRequest) -> object:
        raw = parse_manifest_body(request.body, self._note, request="ManifestSetRequest")
        return RecoverySecrets(await self._offload(partial(self._coordinator.set_manifest, raw)))

    async def _update_log_v1(self, _: HttpRequest) -> object:
        return "".join(f"{line}\n" for line in self._coordinator.update_log())

    async def _update_log_v2(self, _: HttpRequest) -> object:
        return UpdateLogV2(list(self._coordinator.update_log()))

    # ---- updates. Version 1 has no place for recovery secrets; where there are any, it answers as version 2 does.

    async def _update_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        outcome = await self._offload(partial(self._coordinator.updates.update, user, request.body))
        return update_answer(outcome) if outcome.recovery_secrets else None

    async def _update_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        raw = parse_manifest_body(request.body, self._note, request="UpdateApplyRequest")
        return update_answer(await self._offload(partial(self._coordinator.updates.update, user, raw)))

    async def _pending_update(self, _: HttpRequest) -> object:
        pending = self._coordinator.updates.pending()
        return PendingUpdate(pending.raw, still_needed(pending.needed), list(pending.missing))

    async def _acknowledge_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        outcome = await self._offload(partial(self._coordinator.updates.acknowledge, user, request.body))
        if outcome.recovery_secrets:
            return acknowledged_answer(outcome)
        return still_needed(outcome.needed) if outcome.needed else UPDATE_APPLIED

    async def _acknowledge_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        raw = parse_manifest_body(request.body, self._note, request="UpdateManifestPostRequest")
        return acknowledged_answer(await self._offload(partial(self._coordinator.updates.acknowledge, user, raw)))

    async def _cancel_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        await self._offload(partial(self._coordinator.updates.cancel, user))
        return UPDATE_CANCELLED

    async def _cancel_v2(self, request: HttpRequest) -> object:
        return Message(str(await self._cancel_v1(request)))

    # ---- recovery

    async def _recover_v1(self, _: HttpRequest) -> object:
        raise GoneError(RECOVER_V1_GONE)

    async def _recover_v2(self, request: HttpRequest) -> object:
        secret, signature = parse_recovery(request.body, self._note)
        remaining = await self._offload(partial(self._coordinator.recover, secret, signature))
        more = f"Secret was processed successfully. Upload the next secret. Remaining secrets: {remaining}"
        return RecoverV2(remaining, more if remaining else "Recovery successful.")

    async def _recovery_key(self, _: HttpRequest) -> object:
        return RecoveryPublicKey("RSA", await self._offload(self._coordinator.recovery_key))

    # ---- secrets. Who calls is settled before anything that they sent is read.

    async def _secrets_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        names = parse_secret_names(request.query)
        secrets = await self._offload(partial(self._coordinator.read_secrets, user, names))
        return {name: secret_entry(secret) for name, secret in secrets.items()}

    async def _secrets_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        names = parse_secret_names(request.query)
        secrets = await self._offload(partial(self._coordinator.read_secrets, user, names))
        return SecretsV2({name: secret_entry(secret) for name, secret in secrets.items()})

    async def _set_secrets_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        values = parse_secrets_v1(request.body, self._note)
        return await self._offload(partial(self._coordinator.write_secrets, user, values))

    async def _set_secrets_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        values = parse_secrets_v2(request.body, self._note)
        return await self._offload(partial(self._coordinator.write_secrets, user, values))

    # ---- the audit log, which MarbleRun has not

    async def _read_log(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        return log_page(await self._offload(partial(self._coordinator.audit.page, user, parse_after(request.query))))

    async def _log_digests(self, request: HttpRequest) -> object:
        after = parse_after(request.query)
        read = partial(self._coordinator.audit.digests, after)
        return digests_page(await in_turn(self._digesting, self._executor, read))

    # ---- what a manifest has to switch on. That is asked first, then who calls, and only then is the body read.

    async def _sign_quote(self, request: HttpRequest) -> object:
        self._coordinator.require_quote_signing()
        quote = parse_quote(request.body, self._note)
        signed = await self._offload(partial(self._coordinator.sign_quote, quote))
        return SignedQuoteV2(signed.tcb_status, signed.signature)

    async def _monotonic_counter(self, request: HttpRequest) -> object:
        marble = self._coordinator.authenticate_marble(request.peer_certificate)
        name, value = parse_counter(request.body, self._note)
        return CounterV2(await self._offload(partial(self._coordinator.raise_counter, marble, name, value)))
