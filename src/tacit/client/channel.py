"""The one door of the client's HTTPS: requests out, answers in, every foreign error turned into one of ours.

No proxy, no system certificates and no redirect is taken: what the environment says does not choose whom we talk to.
"""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast

import httpx

from tacit.client.address import Address
from tacit.errors import PeerError, TlsError, UnreachableError

MAX_ANSWER = 64 << 20  # bytes; the largest honest answer is a manifest of a few MB or a tensor in JSON
CONNECT_TIMEOUT = 10.0  # seconds

_E = TypeVar("_E", bound=BaseException)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and phrase, body, and the certificate (DER) that the server of this very connection showed."""

    status: int
    phrase: str
    body: bytes
    certificate: bytes | None


class HttpsChannel:
    """Requests to one server over TLS, connections kept."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, *, timeout: float = 30.0) -> None:
        self._address = address
        self._base = f"{'http' if tls is None else 'https'}://{address}"
        self._connect_timeout = min(timeout, CONNECT_TIMEOUT)
        self._client = httpx.Client(
            verify=tls if tls is not None else False,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(timeout, connect=self._connect_timeout),
        )
        self._timeout = timeout

    def url(self, path: str) -> str:
        """The whole address of `path`, for messages."""
        return f"{self._base}{path}"

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What the server answers, whatever its status.

        Raises:
            UnreachableError: no connection, or no answer in time.
            TlsError: the certificate or its name does not fit, or TLS fails otherwise.
            PeerError: the answer is no HTTP, or too large.
        """
        url = self.url(path)
        try:
            with self._client.stream(
                method, url, params=list(query), content=body, headers=dict(headers or {})
            ) as response:
                certificate = _certificate(response)  # before the body: a server may close right behind that
                return Answer(response.status_code, response.reason_phrase, _read(response, url), certificate)
        except httpx.ConnectTimeout as exc:
            raise UnreachableError(
                f"{self._address} does not answer within {self._connect_timeout:.0f} s; is it running there?"
            ) from exc
        except httpx.TimeoutException as exc:
            raise UnreachableError(f"{method} {url}: no answer within {self._timeout:.0f} s") from exc
        except httpx.ConnectError as exc:
            raise _connect_error(self._address, exc) from exc
        except (httpx.NetworkError, httpx.ProtocolError) as exc:
            if tls_cause := _find_cause(exc, ssl.SSLError):
                raise _tls_error(self._address, tls_cause) from exc
            raise PeerError(f"{method} {url}: the connection broke before a whole answer came ({exc})") from exc
        except httpx.HTTPError as exc:
            raise PeerError(f"{method} {url}: {exc}") from exc

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(response: httpx.Response, url: str) -> bytes:
    """The body, read only as far as an honest answer goes: memory is not the server's to spend."""
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_ANSWER:
            raise PeerError(f"{url} answered with more than {MAX_ANSWER >> 20} MiB; nothing of it was used")
        parts.append(part)
    return b"".join(parts)


def _certificate(response: httpx.Response) -> bytes | None:
    stream = response.extensions.get("network_stream")
    tls = None if stream is None else stream.get_extra_info("ssl_object")
    # By position: what httpcore gives here is Python's inner TLS object, which takes no names.
    return None if tls is None else cast("bytes | None", tls.getpeercert(True))


def _connect_error(address: Address, exc: httpx.ConnectError) -> UnreachableError | TlsError:
    if tls_cause := _find_cause(exc, ssl.SSLError):
        return _tls_error(address, tls_cause)
    cause = _find_cause(exc, OSError)
    detail = (cause.strerror or str(cause)) if cause is not None else str(exc)
    return UnreachableError(f"nobody answers at {address} ({detail}); check the address, and that it is running")


def _tls_error(address: Address, exc: ssl.SSLError) -> TlsError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        if "mismatch" in exc.verify_message or "not valid for" in exc.verify_message:
            return TlsError(
                f"the certificate of {address} does not name it ({exc.verify_message}); connect by a name that it has, "
                f"or start it with EDG_COORDINATOR_DNS_NAMES={address.host} (a server: EDG_MARBLE_DNS_NAMES)"
            )
        return TlsError(
            f"the certificate of {address} does not lead to the attested root ({exc.verify_message}): "
            "it is another server, or its keys were renewed since"
        )
    return TlsError(f"TLS with {address} failed ({exc.reason or exc}); does that port speak TLS?")


def _find_cause(exc: BaseException, kind: type[_E]) -> _E | None:
    """The first error of `kind` in the chain of causes: httpx keeps the system's own error there."""
    found: BaseException | None = exc
    for _ in range(8):
        if found is None or isinstance(found, kind):
            return found
        found = found.__cause__ or found.__context__
    return None
