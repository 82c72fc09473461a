"""The client API: MarbleRun's routes, version 1 and 2, as one table.

A route is a method, a path and a function from a request to the `data` of the answer. What goes wrong is an error of
`tacit.errors`; `_refuse` turns it into MarbleRun's codes and envelopes, in one place. A path that is not in the table
answers as an unknown one does, 405, which MarbleRun's command line takes for an older coordinator.

Source: recorded requests and answers of MarbleRun v1.9.1.
"""

import asyncio
import contextlib
import hashlib
import html
import posixpath
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import quote, unquote

from msgspec import UNSET

from tacit.coordinator.api.audit import digests_page, log_page, parse_after
from tacit.coordinator.api.bodies import (
    parse_counter,
    parse_manifest_body,
    parse_nonce,
    parse_quote,
    parse_recovery,
    parse_secret_names,
    parse_secrets_v1,
    parse_secrets_v2,
)
from tacit.coordinator.api.hand import in_thread
from tacit.coordinator.api.meter import Meter, NoMeter
from tacit.coordinator.core import Coordinator, Status
from tacit.coordinator.log import EventLog
from tacit.coordinator.secrets import Secret
from tacit.coordinator.updates.effects import Outcome
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import (
    FeatureOffError,
    FieldError,
    ForbiddenError,
    GoneError,
    IllegalTransitionError,
    InputError,
    NotSetError,
    NoUpdateError,
    TacitError,
    UnauthorizedError,
)
from tacit.wire.rest import (
    API_V2,
    BAD_STATE,
    AcknowledgedV2,
    CounterV2,
    Envelope,
    LogHead,
    ManifestV1,
    ManifestV2,
    Message,
    PendingUpdate,
    QuoteV1,
    QuoteV2,
    RecoverV2,
    RecoveryPublicKey,
    RecoverySecrets,
    SecretEntry,
    SecretsV2,
    SignedQuoteV2,
    StateMark,
    StatusV1,
    StatusV2,
    UpdateLogV2,
    UpdateV2,
    encode_envelope,
)

MAX_BODY = 4 << 20
"""Bytes of a request. A manifest with 1,000 marble types has 0.7 MB, a third more as base64."""

RECOVER_V1_GONE = (
    "Recovering the Coordinator using the /recover API endpoint has been disabled. "
    "Use the /api/v2/recover endpoint instead."
)

UPDATE_APPLIED = "All users have acknowledged the update manifest. Update successfully applied"
UPDATE_CANCELLED = "Update successfully cancelled"

_V1 = ("/status", "/quote", "/manifest", "/update", "/update-manifest", "/update-cancel", "/recover", "/secrets")
_V2_ALONE = ("/recover/public-key", "/sign-quote", "/monotonic-counter", "/log", "/log/digests")
PATHS = frozenset((*_V1, *(API_V2 + path for path in (*_V1, *_V2_ALONE))))
"""Every path that has a route."""

_JSON = {"content-type": "application/json"}
_PLAIN = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}
_HTML = {"content-type": "text/html; charset=utf-8"}

_T = TypeVar("_T")
Handler = Callable[[HttpRequest], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of the table. `failure` is the code for what a user got wrong after authentication."""

    handler: Handler
    failure: int
    version: int


class ClientApi:
    """Answers requests to one coordinator. What may take long runs in `executor`, so that nobody else waits for it."""

    def __init__(
        self, coordinator: Coordinator, *, executor: Executor, log: EventLog, meter: Meter | None = None
    ) -> None:
        self._coordinator = coordinator
        self._executor = executor
        self._log = log
        # Strangers may ask for digests, which are read from files: one at a time, so they never take every worker.
        self._digesting = asyncio.Semaphore(1)
        self._meter = meter or NoMeter()
        self.routes: Mapping[tuple[str, str], Route] = {
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

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The answer to any request; never raises."""
        path = unquote(request.path)
        clean = _clean(path)
        if clean != path:
            return _redirect(clean, request)
        if path not in PATHS:
            return await self._answer(request, path)
        clock = asyncio.get_running_loop().time
        began = clock()
        self._meter.request_began(path)
        response = await self._answer(request, path)
        self._meter.request_ended(path, request, response, seconds=clock() - began)
        return response

    async def _answer(self, request: HttpRequest, path: str) -> HttpResponse:
        route = self.routes.get((request.method, path))
        if route is None:
            answer = _answer(405, Envelope("error"), _PLAIN)
            return HttpResponse(405, b"", answer.headers) if request.method == "HEAD" else answer
        if route.version == 1:
            self._log.info(f"Usage of deprecated API endpoint. Consider using {API_V2 + path} instead", path=path)
        try:
            data = await route.handler(request)
        except TacitError as exc:
            return self._refuse(exc, request, route)
        except Exception as exc:
            # The text of a foreign exception may quote what it was given; its kind and place are enough.
            self._log.error("request failed", path=path, error=type(exc).__name__, at=_place(exc))
            return _answer(500, Envelope("error", None, "internal error"), _PLAIN)
        return _answer(200, Envelope("success", data), _JSON)

    def _refuse(self, exc: TacitError, request: HttpRequest, route: Route) -> HttpResponse:
        message = str(exc)
        if isinstance(exc, IllegalTransitionError):
            code, message = route.failure, BAD_STATE
        elif isinstance(exc, UnauthorizedError):
            code = 401
        elif isinstance(exc, InputError):
            code = 400
        elif isinstance(exc, FeatureOffError):
            code = 403
        elif isinstance(exc, NoUpdateError):
            code = 404
        elif isinstance(exc, GoneError):
            code = 410
        else:
            code = route.failure
        self._log.warning(
            "request refused",
            method=request.method,
            path=request.path[:200],
            code=code,
            reason=exc.reason,
            error=str(exc),
        )
        if request.method == "POST" or isinstance(exc, UnauthorizedError | ForbiddenError):
            audit = self._coordinator.audit
            entries = audit.request_refused(request.peer_certificate, request.path, exc)
            if entries:
                with contextlib.suppress(RuntimeError):  # the program is ending
                    self._executor.submit(audit.write, entries)
        if route.version == 2 and code in (400, 401):
            data = {exc.field: exc.detail} if isinstance(exc, FieldError) else None
            return _answer(code, Envelope("fail", data, message), _JSON)
        return _answer(code, Envelope("error", None, message), _PLAIN)

    def _note(self, leniency: str) -> None:
        self._log.warning("request read leniently", at=leniency)

    async def _offload(self, function: Callable[[], _T]) -> _T:
        return await in_thread(self._executor, function)

    # ---- status and quote

    async def _status_v1(self, _: HttpRequest) -> object:
        status = self._coordinator.status()
        return StatusV1(int(status.state), status.message, _mark(status))

    async def _status_v2(self, _: HttpRequest) -> object:
        status = self._coordinator.status()
        return StatusV2(int(status.state), status.message, _mark(status))

    async def _quote_v1(self, _: HttpRequest) -> object:
        answer = self._coordinator.quote()
        return QuoteV1(answer.chain_pem.decode(), answer.evidence)

    async def _quote_v2(self, request: HttpRequest) -> object:
        answer = self._coordinator.quote(parse_nonce(request.query))
        return QuoteV2(answer.chain_pem.decode(), answer.evidence)

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
        raw = parse_manifest_body(request.body, self._note)
        return RecoverySecrets(await self._offload(partial(self._coordinator.set_manifest, raw)))

    async def _update_log_v1(self, _: HttpRequest) -> object:
        return "".join(f"{line}\n" for line in self._coordinator.update_log())

    async def _update_log_v2(self, _: HttpRequest) -> object:
        return UpdateLogV2(list(self._coordinator.update_log()))

    # ---- updates. Version 1 has no place for recovery secrets; where there are any, it answers as version 2 does.

    async def _update_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        outcome = await self._offload(partial(self._coordinator.updates.update, user, request.body))
        return _update(outcome) if outcome.recovery_secrets else None

    async def _update_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        raw = parse_manifest_body(request.body, self._note)
        return _update(await self._offload(partial(self._coordinator.updates.update, user, raw)))

    async def _pending_update(self, _: HttpRequest) -> object:
        pending = self._coordinator.updates.pending()
        return PendingUpdate(pending.raw, _still_needed(pending.needed), list(pending.missing))

    async def _acknowledge_v1(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        outcome = await self._offload(partial(self._coordinator.updates.acknowledge, user, request.body))
        if outcome.recovery_secrets:
            return _acknowledged(outcome)
        return _still_needed(outcome.needed) if outcome.needed else UPDATE_APPLIED

    async def _acknowledge_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        raw = parse_manifest_body(request.body, self._note)
        return _acknowledged(await self._offload(partial(self._coordinator.updates.acknowledge, user, raw)))

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
        return {name: _entry(secret) for name, secret in secrets.items()}

    async def _secrets_v2(self, request: HttpRequest) -> object:
        user = self._coordinator.authenticate(request.peer_certificate)
        names = parse_secret_names(request.query)
        secrets = await self._offload(partial(self._coordinator.read_secrets, user, names))
        return SecretsV2({name: _entry(secret) for name, secret in secrets.items()})

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
        async with self._digesting:
            return digests_page(await self._offload(partial(self._coordinator.audit.digests, after)))

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


def _mark(status: Status) -> StateMark:
    log = LogHead(status.log.number, status.log.head.hex(), status.log_signature)
    return StateMark(status.tee, status.position.epoch, status.position.head.hex(), status.signature, log)


def _still_needed(count: int) -> str:
    users = "1 user still needs" if count == 1 else f"{count} users still need"
    return f"{users} to acknowledge the update manifest"


def _update(outcome: Outcome) -> UpdateV2:
    return UpdateV2(outcome.needed, list(outcome.missing) or None, dict(outcome.recovery_secrets) or UNSET)


def _acknowledged(outcome: Outcome) -> AcknowledgedV2:
    message = UPDATE_APPLIED
    if outcome.needed:
        names = ", ".join(outcome.missing)
        message = f"{_still_needed(outcome.needed)}.\nThe following users have not yet accepted: {names}"
    missing = list(outcome.missing) or None
    return AcknowledgedV2(message, missing, outcome.needed, dict(outcome.recovery_secrets) or UNSET)


def _entry(secret: Secret) -> SecretEntry:
    return SecretEntry(
        secret.type,
        secret.size,
        secret.shared,
        secret.user_defined,
        secret.certificate or None,
        secret.valid_for,
        secret.private or None,
        secret.public or None,
    )


def _answer(code: int, envelope: Envelope, headers: Mapping[str, str]) -> HttpResponse:
    return HttpResponse(code, encode_envelope(envelope), headers)


def _clean(path: str) -> str:
    """The path without empty and dot segments; a slash at the end stays."""
    if not path.startswith("/"):
        path = "/" + path
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if path.endswith("/") and clean != "/":
        clean += "/"
    return clean


def _redirect(clean: str, request: HttpRequest) -> HttpResponse:
    # Encoded again: what was decoded to be compared may hold line ends, or a backslash that browsers take for a host.
    target = quote(clean, safe="/:@!$&'()*+,;=~") + (f"?{request.query}" if request.query else "")
    body = f'<a href="{html.escape(target)}">Temporary Redirect</a>.\n\n'.encode()
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(307, b"", {"location": target})
    return HttpResponse(307, b"" if request.method == "HEAD" else body, {**_HTML, "location": target})


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
