"""A model server's own evidence, for clients that attest it directly, connection by connection.

Report data is that of a marble: the certificate of this very connection, the client's nonce and the exporter of TLS 1.3.
It always binds a nonce and a channel, which the evidence of an activation never does, so neither stands for the other.
"""

import asyncio
from collections.abc import Callable

import msgspec

from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.listener import HttpHandler
from tacit.errors import PkiError
from tacit.evidence import Role, report_data
from tacit.evidence.claims import Issuer
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.wire.evidence import EVIDENCE_PATH, NONCE_SIZE, ServerEvidence

_HEADERS = {"content-type": "application/json"}


class AttestedRest:
    """A REST handler that answers for its evidence too.

    `certificate` gives the leaf (DER) that the port shows to new connections. One that was opened before it was renewed
    gets evidence that does not fit it: its client connects again.
    """

    def __init__(self, handle: HttpHandler, issuer: Issuer, certificate: Callable[[], bytes]) -> None:
        self._handle, self._issuer, self._certificate = handle, issuer, certificate
        self._one = asyncio.Semaphore(1)  # a quote takes a processor's time: strangers get one at a time

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The answer to any request; never raises."""
        if request.path != EVIDENCE_PATH:
            return await self._handle(request)
        if request.method != "GET":
            return _refusal(405, "evidence is asked for with GET")
        try:
            nonce = bytes.fromhex(request.query.removeprefix("nonce="))
            channel = b"" if request.exporter is None else request.exporter(CHANNEL_LABEL, CHANNEL_SIZE)
        except ValueError:
            nonce, channel = b"", b""
        except PkiError as exc:
            return _refusal(400, str(exc))
        if len(nonce) != NONCE_SIZE or not channel:
            return _refusal(400, f"expected ?nonce= with {NONCE_SIZE} bytes in hex, over TLS 1.3")
        async with self._one:
            evidence = await asyncio.to_thread(self._issue, nonce, channel)
        return HttpResponse(200, msgspec.json.encode(ServerEvidence(evidence, CHANNEL_BINDING)), _HEADERS)

    def _issue(self, nonce: bytes, channel: bytes) -> bytes:
        return self._issuer.issue_evidence(
            report_data(role=Role.MARBLE, key=self._certificate(), nonce=nonce, channel=channel)
        )


def _refusal(status: int, message: str) -> HttpResponse:
    return HttpResponse(status, msgspec.json.encode({"error": message}), _HEADERS)
