"""Calls of a coordinator's client API, as values: status, quote, manifest, secrets, updates, recovery, log.

Speaks MarbleRun's API v2 and falls back to v1 on exactly 405, as MarbleRun's own command line does, so it works against
a MarbleRun coordinator too. Failures read as MarbleRun's read: method, address, code, the coordinator's message.

Source: recorded answers of MarbleRun v1.9.1.
"""

import base64
import binascii
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET

from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.answers import (
    CoordinatorStatus,
    NewSecret,
    PendingUpdate,
    Quote,
    ReadSecret,
    Recovered,
    ShownQuote,
    StateMark,
    StoredManifest,
    UpdateOutcome,
)
from tacit.client.channel import Answer, HttpsChannel
from tacit.errors import InputError, NotSetError, PeerError, UnauthorizedError
from tacit.pki import KeyPair
from tacit.pki.tls import pinned_client_context
from tacit.wire import rest
from tacit.wire.log import LogDigestsV2, LogMark, LogV2

_T = TypeVar("_T")
_WHERE = f"A coordinator's client API is on port {COORDINATOR_PORT} unless it was told otherwise"


class _Envelope(msgspec.Struct):
    status: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    message: str = ""


class _FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A value in a person's file: the wire's `NewSecretEntry`, but strict about names."""

    key: bytes = msgspec.field(name="Key", default=b"")
    certificate: bytes = msgspec.field(name="Cert", default=b"")
    private: bytes = msgspec.field(name="Private", default=b"")


class CoordinatorClient:
    """The client API of one coordinator, which has to show a certificate of `roots_pem` itself.

    One that those signed is a marble's, whatever its name: it must not be told what is the coordinator's to know.
    """

    def __init__(
        self, host: str, *, roots_pem: bytes, certificate: KeyPair | None = None, timeout: float = 30.0
    ) -> None:
        self._open(host, pinned_client_context(pinned_pem=roots_pem, certificate=certificate), timeout)

    @classmethod
    def from_context(cls, host: str, tls: ssl.SSLContext, *, timeout: float = 30.0) -> Self:
        """A client whose TLS the caller prepared: how evidence is fetched before anything is known."""
        client = cls.__new__(cls)
        client._open(host, tls, timeout)
        return client

    @classmethod
    def from_channel(cls, channel: HttpsChannel) -> Self:
        """A client over a channel that the caller prepared."""
        client = cls.__new__(cls)
        client._channel = channel
        return client

    def _open(self, host: str, tls: ssl.SSLContext, timeout: float) -> None:
        self._channel = HttpsChannel(parse_address(host, default_port=COORDINATOR_PORT), tls, timeout=timeout)

    def status(self) -> CoordinatorStatus:
        """Where the coordinator stands. Raises: ConnectError."""
        newer, answer = self._call("GET", "/status")
        value = self._decode(answer, rest.StatusV2 if newer else rest.StatusV1, "/status")
        mark = value.tacit
        if not isinstance(mark, rest.StateMark):
            return CoordinatorStatus(value.code, value.message)
        try:
            head = bytes.fromhex(mark.head)
        except ValueError as exc:
            raise PeerError(f"{self._channel.url('/api/v2/status')}: head is no hexadecimal text") from exc
        log = None
        if isinstance(mark.log, rest.LogHead):
            log = LogMark(mark.log.entries, mark.log.head, mark.epoch, mark.head, mark.log.signature)
        return CoordinatorStatus(value.code, value.message, StateMark(mark.tee, mark.epoch, head, mark.signature, log))

    def quote(self, nonce: bytes = b"") -> Quote:
        """Certificates and evidence. v1 has no nonce, so an answer to one may be old. Raises: ConnectError."""
        return self.shown_quote(nonce).quote

    def shown_quote(self, nonce: bytes = b"", *, binding: str | None = None) -> ShownQuote:
        """Certificates and evidence, and what is known of the connection that brought them.

        With `binding` evidence that is bound to that very connection is asked for; whether it is, the answer says.
        Raises: ConnectError.
        """
        query = [("nonce", base64.urlsafe_b64encode(nonce).decode())] if nonce else []
        if binding is not None:
            query.append(("channel", binding))
        newer, answer = self._call("GET", "/quote", query=query)
        value = self._decode(answer, rest.QuoteV2 if newer else rest.QuoteV1, "/quote")
        if answer.certificate is None:
            raise PeerError(f"{self._channel.url('/quote')} showed no certificate")
        bound = value.channel if isinstance(value, rest.QuoteV2) and isinstance(value.channel, str) else None
        quote = Quote(value.cert.encode(), value.quote or b"")
        return ShownQuote(quote, answer.certificate, newer, bound, answer.exporter)

    def manifest(self) -> StoredManifest:
        """The manifest in force.

        Raises:
            NotSetError: an older coordinator that has none (a newer one answers with an error, so PeerError).
            ConnectError: no answer, or an error.
        """
        newer, answer = self._call("GET", "/manifest")
        value = self._decode(answer, rest.ManifestV2 if newer else rest.ManifestV1, "/manifest")
        if not value.manifest or not value.root_signature:
            raise NotSetError("the coordinator has no manifest yet; set one with `tacit manifest set`")
        try:
            return StoredManifest(value.manifest, bytes.fromhex(value.fingerprint), value.root_signature)
        except ValueError as exc:
            raise PeerError(f"{self._channel.url('/manifest')}: the fingerprint is no hexadecimal text") from exc

    def set_manifest(self, raw: bytes) -> Mapping[str, bytes]:
        """Upload the manifest as it is; the encrypted recovery secrets by the name of their key.

        Raises: ConnectError, with the coordinator's own words about what is wrong with it.
        """
        _, answer = self._call("POST", "/manifest", body_v1=raw, body_v2=_encode(rest.ManifestSetV2(raw)))
        value = self._decode(answer, rest.RecoverySecrets | None, "/manifest")
        return {} if value is None else value.secrets

    def secrets(self, names: Sequence[str]) -> Mapping[str, ReadSecret]:
        """The named secrets, all or none.

        Raises:
            UnauthorizedError: the client certificate is no user's.
            ConnectError: refused otherwise, or no answer.
        """
        newer, answer = self._call("GET", "/secrets", query=[("s", name) for name in names])
        value = self._decode(answer, rest.SecretsV2 if newer else dict[str, rest.SecretEntry], "/secrets")
        found: Mapping[str, rest.SecretEntry] = value.secrets if newer else value
        return {name: _read_secret(secret) for name, secret in found.items()}

    def set_secrets(self, values: Mapping[str, NewSecret]) -> None:
        """Give user-defined secrets their values, all or none. Raises: as `secrets`."""
        wire = {name: _entry(value) for name, value in values.items()}
        _, answer = self._call("POST", "/secrets", body_v1=_encode(wire), body_v2=_encode(rest.SecretsSetV2(wire)))
        self._decode(answer, Any, "/secrets")

    # ---- updates

    def update_log(self) -> Sequence[str]:
        """The lines of the update log, a JSON object each, without line feeds. Raises: ConnectError."""
        newer, answer = self._call("GET", "/update")
        value = self._decode(answer, rest.UpdateLogV2 if newer else str, "/update")
        return tuple(value.lines if newer else value.splitlines())

    def update(self, raw: bytes) -> UpdateOutcome:
        """Submit an update of security versions, or of the whole manifest. Raises: as `secrets`."""
        newer, answer = self._call("POST", "/update", body_v1=raw, body_v2=_encode(rest.ManifestSetV2(raw)))
        # MarbleRun's version 1 says nothing; ours answers as version 2 does where recovery secrets are to be given.
        value = self._decode(answer, rest.UpdateV2 if newer else rest.UpdateV2 | None, "/update")
        if value is None:
            return UpdateOutcome(None)
        return UpdateOutcome(value.needed, tuple(value.missing or ()), "", _given(value.recovery_secrets))

    def pending_update(self) -> PendingUpdate:
        """The update that waits for acknowledgments. Raises: ConnectError, also where none waits."""
        _, answer = self._call("GET", "/update-manifest")
        value = self._decode(answer, rest.PendingUpdate, "/update-manifest")
        return PendingUpdate(value.manifest, tuple(value.missing or ()), value.message)

    def acknowledge_update(self, raw: bytes) -> UpdateOutcome:
        """Agree to the update that waits; `raw` has to be that very manifest. Raises: as `secrets`."""
        path = "/update-manifest"
        newer, answer = self._call("POST", path, body_v1=raw, body_v2=_encode(rest.ManifestSetV2(raw)))
        value = self._decode(answer, rest.AcknowledgedV2 if newer else rest.AcknowledgedV2 | str, path)
        if isinstance(value, str):
            return UpdateOutcome(None, message=value)
        return UpdateOutcome(value.needed, tuple(value.missing or ()), value.message, _given(value.recovery_secrets))

    def cancel_update(self) -> str:
        """Drop the update that waits; what the coordinator says. Raises: as `secrets`."""
        newer, answer = self._call("POST", "/update-cancel")
        value = self._decode(answer, rest.Message if newer else str, "/update-cancel")
        return str(value.message if newer else value)

    # ---- recovery

    def recover(self, secret: bytes, signature: bytes) -> Recovered:
        """Give one recovery secret, in clear or encrypted to `recovery_public_key`, with its holder's signature.

        A coordinator of version 1 takes the secret in clear and no signature. Raises: ConnectError.
        """
        body = _encode(rest.RecoverySetV2(secret, signature))
        newer, answer = self._call("POST", "/recover", body_v1=secret, body_v2=body)
        if not newer:
            return Recovered(None, self._decode(answer, rest.RecoverV1, "/recover").message)
        value = self._decode(answer, rest.RecoverV2, "/recover")
        return Recovered(value.remaining, value.message)

    def recovery_public_key(self) -> bytes:
        """The key (PKIX DER, RSA) that recovery secrets may be encrypted to while in recovery mode. Raises: ConnectError."""
        _, answer = self._call("GET", "/recover/public-key")
        return bytes(self._decode(answer, rest.RecoveryPublicKey, "/recover/public-key").key)

    # ---- the audit log

    def log(self, after: int) -> LogV2:
        """Entries of the audit log after that number, a page of them. Nothing of it is checked.

        Raises: as `secrets`.
        """
        page: LogV2 = self._ours("/log", after, LogV2)
        return page

    def log_digests(self, after: int) -> tuple[int, bytes]:
        """The digests of a page of entries, and the number after which they begin. Raises: ConnectError."""
        page: LogDigestsV2 = self._ours("/log/digests", after, LogDigestsV2)
        return page.after, page.digests

    def close(self) -> None:
        """End the connections."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body_v1: bytes | None = None,
        body_v2: bytes | None = None,
    ) -> tuple[bool, Answer]:
        """Whether v2 answered, and its answer, if that is 200."""
        answer = self._channel.call(method, f"/api/v2{path}", query=query, body=body_v2)
        newer = answer.status != 405
        if not newer:
            # v1 has no query but the names of secrets; a nonce is ignored there, as MarbleRun's command line leaves it.
            answer = self._channel.call(method, path, query=query, body=body_v1)
        if answer.status != 200:
            asked = f"?{urlencode(query)}" if query else ""
            raise _refusal(method, self._channel.url(f"/api/v2{path}" if newer else path) + asked, answer)
        return newer, answer

    def _ours(self, path: str, after: int, kind: type[_T]) -> _T:
        """What only our coordinator has."""
        query = [("after", str(after))]
        answer = self._channel.call("GET", f"/api/v2{path}", query=query)
        if answer.status == 405:
            raise PeerError(f"{self._channel.url(f'/api/v2{path}')}: this coordinator keeps no audit log")
        if answer.status != 200:
            raise _refusal("GET", self._channel.url(f"/api/v2{path}") + f"?{urlencode(query)}", answer)
        decoded: _T = self._decode(answer, kind, path)
        return decoded

    def _decode(self, answer: Answer, kind: type[_T] | Any, path: str) -> Any:
        try:
            envelope = msgspec.json.decode(answer.body, type=_Envelope)
            return msgspec.json.decode(envelope.data, type=kind)
        except rest.JSON_ERRORS as exc:
            raise PeerError(
                f"{self._channel.url(path)} answered with something else than a coordinator's JSON ({exc}); is it one? {_WHERE}"
            ) from exc


def parse_secrets_file(raw: bytes) -> Mapping[str, NewSecret]:
    """The values in a file as `secret set` takes it: `{"name": {"Key": base64}}` or `{"Cert": ..., "Private": ...}`.

    Raises:
        InputError: not that JSON; the message never quotes a value.
    """
    try:
        wire = msgspec.json.decode(raw, type=dict[str, _FileEntry])
    except (*rest.JSON_ERRORS, binascii.Error) as exc:
        raise InputError(
            f'the secrets are not as expected ({exc}); expected {{"NAME": {{"Key": "BASE64"}}}} '
            'or {"NAME": {"Cert": "BASE64", "Private": "BASE64"}}'
        ) from exc
    return {name: NewSecret(value.key, value.certificate, value.private) for name, value in wire.items()}


def fingerprint(raw_manifest: bytes) -> bytes:
    """SHA-256 of a manifest's bytes as uploaded: what clients pin."""
    return hashlib.sha256(raw_manifest).digest()


def _refusal(method: str, url: str, answer: Answer) -> PeerError | UnauthorizedError:
    """The coordinator's refusal in the words of MarbleRun's command line."""
    try:
        envelope = msgspec.json.decode(answer.body, type=_Envelope)
        status, message = envelope.status, envelope.message
    except rest.JSON_ERRORS:
        said = answer.body[:200].decode("utf-8", "replace").strip()
        status, message = "error", f"{said or 'nothing more'}; is it a coordinator? {_WHERE}"
    if answer.status == 401:
        return UnauthorizedError(f"{method} {url}: authorizing user: {message}")
    return PeerError(f"{method} {url}: {answer.status} {answer.phrase}: {status}: {message}")


def _given(secrets: dict[str, bytes] | msgspec.UnsetType) -> Mapping[str, bytes]:
    return {} if isinstance(secrets, msgspec.UnsetType) else secrets


def _read_secret(wire: rest.SecretEntry) -> ReadSecret:
    return ReadSecret(
        wire.type,
        wire.size,
        wire.shared,
        wire.user_defined,
        wire.valid_for,
        wire.certificate or b"",
        wire.private or b"",
        wire.public or b"",
    )


def _entry(secret: NewSecret) -> rest.NewSecretEntry:
    return rest.NewSecretEntry(secret.key or UNSET, secret.certificate or UNSET, secret.private or UNSET)


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)
