"""httpx's drop-ins: transports that speak TLS to the attested coordinator's servers, and to nobody else (see `dropin`)."""

import httpx

from tacit.client.address import Address
from tacit.client.channel import way_to
from tacit.client.session.current import Current, refused_certificate
from tacit.client.session.renewal import Renewal
from tacit.errors import InputError
from tacit.pki.tls import client_context

_HTTPS_PORT = 443
_KEEPS_NONE = httpx.Limits(max_keepalive_connections=0)


class HttpTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`."""

    def __init__(self, renewal: Renewal) -> None:
        self._inner = Current(renewal, _Transports)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer.

        Raises: httpx.TransportError; TacitError, where the coordinator is refused or the request would go in the clear.
        """
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
        for inner in self._inner.finish():
            inner.close()


class AsyncHttpTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`."""

    def __init__(self, renewal: Renewal) -> None:
        self._inner = Current(renewal, _AsyncTransports)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The server's answer.

        Raises: httpx.TransportError; TacitError, where the coordinator is refused or the request would go in the clear.
        """
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
        for inner in self._inner.finish():
            await inner.aclose()


class _Transports(httpx.BaseTransport):
    """One for what goes to its address, and one for what goes another way.

    httpx keeps connections by where they go, and not by whom they were judged as. So what goes another way takes none of
    those, and leaves none.
    """

    def __init__(self, chain_pem: bytes) -> None:
        verify = client_context(roots_pem=chain_pem)
        self._direct = httpx.HTTPTransport(verify=verify, trust_env=False)
        self._led = httpx.HTTPTransport(verify=verify, trust_env=False, limits=_KEEPS_NONE)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        led = _led(request)
        return self._direct.handle_request(request) if led is None else self._led.handle_request(led)

    def close(self) -> None:
        self._direct.close()
        self._led.close()


class _AsyncTransports(httpx.AsyncBaseTransport):
    """The same, for asyncio."""

    def __init__(self, chain_pem: bytes) -> None:
        verify = client_context(roots_pem=chain_pem)
        self._direct = httpx.AsyncHTTPTransport(verify=verify, trust_env=False)
        self._led = httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=_KEEPS_NONE)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        led = _led(request)
        return await (
            self._direct.handle_async_request(request) if led is None else self._led.handle_async_request(led)
        )

    async def aclose(self) -> None:
        await self._direct.aclose()
        await self._led.aclose()


def _led(request: httpx.Request) -> httpx.Request | None:
    """The request that `way_to` leads elsewhere; the name that the server is judged by, and told, stays the old one's.

    None where it goes to its address. Raises: InputError, for one that would go in the clear.
    """
    if request.url.scheme != "https":
        raise InputError(
            f"{request.url.copy_with(query=None)} would be asked in the clear, whoever is there; say https://"
        )
    address = Address(request.url.host, request.url.port or _HTTPS_PORT)
    way = way_to(address)
    if way == address:
        return None
    return httpx.Request(
        request.method,
        request.url.copy_with(host=way.host, port=way.port),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": address.host},
    )
