"""httpx's drop-ins: transports that speak TLS to the attested coordinator's servers, and to nobody else (see `dropin`)."""

import httpx

from tacit.client.address import Address
from tacit.client.channel import way_to
from tacit.client.session.current import Current, refused_certificate
from tacit.client.session.renewal import Renewal
from tacit.pki.tls import client_context

_HTTPS_PORT = 443


class HttpTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`."""

    def __init__(self, renewal: Renewal) -> None:
        self._inner = Current(renewal, _transport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer. Raises: httpx.TransportError; TacitError, where the coordinator is refused."""
        used, inner = self._inner.now()
        try:
            return inner.handle_request(_on_its_way(request))
        except httpx.ConnectError as exc:
            again = self._inner.renewed(used) if refused_certificate(exc) else None
            if again is None:
                raise
        return again.handle_request(_on_its_way(request))

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
            return await inner.handle_async_request(_on_its_way(request))
        except httpx.ConnectError as exc:
            again = await asyncio.to_thread(self._inner.renewed, used) if refused_certificate(exc) else None
            if again is None:
                raise
        return await again.handle_async_request(_on_its_way(request))

    async def aclose(self) -> None:
        """End the connections."""
        for inner in self._inner.all():
            await inner.aclose()


def _on_its_way(request: httpx.Request) -> httpx.Request:
    """The same request, made where `way_to` says: the name that the server is judged by, and told, stays the request's."""
    address = Address(request.url.host, request.url.port or _HTTPS_PORT)
    way = way_to(address)
    if way == address:
        return request
    headers = request.headers.copy()
    headers["Connection"] = "close"  # httpx keeps connections by where they go, and not by whom they were judged as
    return httpx.Request(
        request.method,
        request.url.copy_with(host=way.host, port=way.port),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": address.host},
    )


def _transport(chain_pem: bytes) -> httpx.HTTPTransport:
    return httpx.HTTPTransport(verify=client_context(roots_pem=chain_pem), trust_env=False)


def _async_transport(chain_pem: bytes) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=client_context(roots_pem=chain_pem), trust_env=False)
