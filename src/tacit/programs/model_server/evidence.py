"""A model server's own evidence, for clients that attest it directly, connection by connection.

Report data is that of a marble: the certificate of this very connection, the client's nonce and the exporter of TLS 1.3.
It always binds a nonce and a channel, which the evidence of an activation never does, so neither stands for the other.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from tacit.edge import HttpRequest, HttpResponse
from tacit.edge.listener import HttpHandler
from tacit.errors import PkiError, TacitError
from tacit.evidence import Role, report_data
from tacit.evidence.claims import Issuer
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.wire.evidence import EVIDENCE_PATH, NONCE_SIZE, ServerEvidence

_LOG = logging.getLogger(__name__)
MAX_WAITING = 8  # requests for evidence; whoever comes then is told so at once
_HEADERS = {"content-type": "application/json"}


class AttestedRest:
    """A REST handler that answers for its evidence too.

    `certificate` gives the leaf (DER) that the port shows to new connections. One that was opened before it was renewed
    gets evidence that does not fit it: its client connects again.
    """

    def __init__(self, handle: HttpHandler, issuer: Issuer, certificate: Callable[[], bytes]) -> None:
        self._handle, self._issuer, self._certificate = handle, issuer, certificate
        self._one = asyncio.Semaphore(1)  # a quote takes a processor's time: strangers get one at a time
        self._asking = 0

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
        return await self._answer(nonce, channel)

    async def _answer(self, nonce: bytes, channel: bytes) -> HttpResponse:
        if self._asking > MAX_WAITING:  # one of them is at work
            return _refusal(503, f"{MAX_WAITING} others wait for evidence; try again")
        self._asking += 1
        try:
            evidence = await self._in_turn(nonce, channel)
        except TacitError as exc:
            _LOG.warning("no evidence for a client: %s", exc)  # strangers read the answer
            return _refusal(503, f"this server has no evidence now ({exc.reason}); its log says more")
        finally:
            self._asking -= 1
        return HttpResponse(200, msgspec.json.encode(ServerEvidence(evidence, CHANNEL_BINDING)), _HEADERS)

    async def _in_turn(self, nonce: bytes, channel: bytes) -> bytes:
        """A quote that is made for somebody who left holds its place to the end."""
        await self._one.acquire()
        work = asyncio.ensure_future(asyncio.to_thread(self._issue, nonce, channel))
        work.add_done_callback(lambda _: self._one.release())
        return await asyncio.shield(work)

    def _issue(self, nonce: bytes, channel: bytes) -> bytes:
        return self._issuer.issue_evidence(
            report_data(role=Role.MARBLE, key=self._certificate(), nonce=nonce, channel=channel)
        )


def _refusal(status: int, message: str) -> HttpResponse:
    return HttpResponse(status, msgspec.json.encode({"error": message}), _HEADERS)
