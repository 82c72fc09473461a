"""httpx's drop-ins: transports that speak TLS to the attested coordinator's servers, and to nobody else (see `dropin`)."""

import httpx

from tacit.client.session.current import Current, refused_certificate
from tacit.client.session.renewal import Renewal
from tacit.pki.tls import client_context


class HttpTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`."""

    def __init__(self, renewal: Renewal) -> None:
        self._inner = Current(renewal, _transport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer. Raises: httpx.TransportError; TacitError, where the coordinator is refused."""
        used, inner = self._inner.now()
        try:
            return inner.handle_request(request)
        except httpx.ConnectError as exc:
            again = self._inner.renewed(used) if refused_certificate(exc) else None
            if again is None:
                raise
        return again.handle_request(request)

    def close(self) -> None:
        """End the connections."""
        for inner in self._inner.all():
            inner.close()


class AsyncHttpTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`."""

    def __init__(self, renewal: Renewal) -> None:
        self._inner = Current(renewal, _async_transport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer. Raises: httpx.TransportError; TacitError, where the coordinator is refused."""
        import asyncio

        used, inner = await asyncio.to_thread(self._inner.now)
        try:
            return await inner.handle_async_request(request)
        except httpx.ConnectError as exc:
            again = await asyncio.to_thread(self._inner.renewed, used) if refused_certificate(exc) else None
            if again is None:
                raise
        return await again.handle_async_request(request)

    async def aclose(self) -> None:
        """End the connections."""
        for inner in self._inner.all():
            await inner.aclose()


def _transport(chain_pem: bytes) -> httpx.HTTPTransport:
    return httpx.HTTPTransport(verify=client_context(roots_pem=chain_pem), trust_env=False)


def _async_transport(chain_pem: bytes) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=client_context(roots_pem=chain_pem), trust_env=False)
