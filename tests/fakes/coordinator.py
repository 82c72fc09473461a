"""A coordinator on loopback that tells the truth unless the test bends it: status, quote, manifest and secrets.

    with FakeCoordinator(tee=FakeTee()) as coordinator:
        attest_coordinator(coordinator.host, ...)

It signs with real keys and makes real (simulated) evidence. Each field can be changed at any time; `answers` puts fixed
answers in the place of its own, by method and path.
"""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from fakes.loops import end_loop
from fakes.tee import NOW, FakeTee
from tacit.edge import HttpRequest, HttpResponse, Listener
from tacit.edge.listener import Exporter
from tacit.edge.server import serve_http
from tacit.evidence import Role, report_data
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.pki import KeyPair, issue_intermediate, issue_root
from tacit.pki.tls import server_context
from tacit.wire.log import LOG_START, line_digest, log_mark_message

T = TypeVar("T")
STATE_LABEL = b"tacit state head v1\0"


@dataclass
class FakeCoordinator:
    """`tee` None stands for a coordinator without evidence; `shown` is the certificate of its TLS, if not the root, and
    `above` (PEM) what stands behind it in the chain. `log` are the lines of its audit log; None for one without.
    """

    tee: FakeTee | None = None
    names: tuple[str, ...] = ("localhost",)
    root: KeyPair = field(default_factory=lambda: issue_root(("localhost",), now=NOW))
    intermediate: KeyPair | None = None
    shown: KeyPair | None = None
    above: bytes = b""
    marked: str | None = "simulated"
    epoch: int = 1
    head: bytes = b"\1" * 32
    log: list[bytes] | None = None
    code: int = 3
    manifest: bytes = b'{"Packages": {}}'
    role: Role | None = Role.COORDINATOR  # None: as MarbleRun's own
    evidence: bytes | None = None
    only_v1: bool = False
    answers: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    port: int = 0
    only_key_bound: bool = False  # as MarbleRun's own
    ends_connections: bool = False  # after each answer
    exporter: Exporter | None = None
    certificates: set[bytes | None] = field(default_factory=set)  # that clients showed

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def __enter__(self) -> Self:
        if self.intermediate is None:
            self.intermediate = issue_intermediate(self.root, self.names, now=NOW)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listener = self._wait(self._listen())
        self.port = self._listener.port
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._wait(self._listener.close(0))
        end_loop(self._loop, self._thread)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> Listener:
        def credentials() -> tuple[bytes, bytes]:
            shown = self.shown or self.root
            return shown.certificate_pem + self.above, shown.key_pem

        tls = server_context(credentials, client_certificates="request", alpn=["http/1.1"])
        return await serve_http(self._handle, host="127.0.0.1", port=0, tls=tls, max_body=1 << 24)

    async def _handle(self, request: HttpRequest) -> HttpResponse:
        target = f"{request.path}?{request.query}" if request.query else request.path
        self.requests.append((request.method, target, request.body))
        self.exporter = request.exporter
        self.certificates.add(request.peer_certificate)
        status, answer = self.answer(request.method, request.path, parse_qs(request.query), request.body)
        headers = {"connection": "close"} if self.ends_connections else {}
        return HttpResponse(status, answer, headers)

    # ---- what it says

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[int, bytes]:
        if (method, path) in self.answers:
            return self.answers[method, path]
        newer = path.startswith("/api/v2")
        if newer and self.only_v1:
            return 405, b'{"status":"error","data":null}\n'
        call = getattr(self, f"_{method.lower()}_{path.removeprefix('/api/v2').strip('/').replace('/', '_')}", None)
        if call is None:
            return 405, b'{"status":"error","data":null}\n'
        return 200, json.dumps({"status": "success", "data": call(newer, query, body)}).encode() + b"\n"

    def _get_status(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any]:
        names = ("code", "message") if newer else ("StatusCode", "StatusMessage")
        data: dict[str, Any] = dict(zip(names, (self.code, "Coordinator is running."), strict=True))
        if self.marked is not None:
            signature = self._sign_mark(self.epoch, self.head)
            data["tacit"] = {"tee": self.marked, "epoch": self.epoch, "head": self.head.hex(), "signature": signature}
        if self.marked is not None and self.log is not None:
            position = LOG_START.after_lines(self.log)
            signature = self._sign(log_mark_message(position, self.epoch, self.head))
            data["tacit"]["log"] = {
                "entries": position.number,
                "head": position.head.hex(),
                "signature": signature,
            }
        return data

    def _get_log_digests(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any]:
        after = int(query["after"][0])
        digests = b"".join(line_digest(line) for line in (self.log or [])[after : after + 2])
        mark = {"entries": 0, "head": "", "epoch": 0, "stateHead": "", "signature": ""}
        return {"after": after, "digests": base64.b64encode(digests).decode(), "mark": mark}

    def _sign(self, message: bytes) -> str:
        key = self.root.key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return base64.b64encode(key.sign(message, ec.ECDSA(SHA384()))).decode()

    def _sign_mark(self, epoch: int, head: bytes) -> str:
        return self._sign(STATE_LABEL + epoch.to_bytes(8, "big") + head)

    def _get_quote(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any]:
        assert self.intermediate is not None
        nonce = base64.urlsafe_b64decode(query["nonce"][0]) if newer and "nonce" in query else b""
        evidence, bound = self.evidence, newer and "channel" in query and not self.only_key_bound
        if evidence is None and self.tee is not None:
            evidence = self.tee.issue_evidence(self.report_data(nonce, self.channel() if bound else b""))
        chain = (self.intermediate.certificate_pem + self.root.certificate_pem).decode()
        text = base64.b64encode(evidence).decode() if evidence else None
        if bound:
            return {"cert": chain, "quote": text, "channel": CHANNEL_BINDING}
        return {"cert": chain, "quote": text} if newer else {"Cert": chain, "Quote": text}

    def report_data(self, nonce: bytes, channel: bytes) -> bytes:
        return report_data(role=self.role, key=self.root.certificate_der, nonce=nonce, channel=channel)

    def channel(self) -> bytes:
        """The exporter of the connection of this request."""
        assert self.exporter is not None
        return self.exporter(CHANNEL_LABEL, CHANNEL_SIZE)

    def _get_manifest(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any]:
        key = self.root.key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = base64.b64encode(key.sign(self.manifest, ec.ECDSA(SHA256()))).decode()
        fingerprint, raw = hashlib.sha256(self.manifest).hexdigest(), base64.b64encode(self.manifest).decode()
        if newer:
            return {"manifestSignatureRootECDSA": signature, "manifestFingerprint": fingerprint, "manifest": raw}
        return {"ManifestSignatureRootECDSA": signature, "ManifestSignature": fingerprint, "Manifest": raw}

    def _post_manifest(self, newer: bool, query: Mapping[str, list[str]], body: bytes) -> dict[str, Any] | None:
        self.manifest = base64.b64decode(json.loads(body)["manifest"]) if newer else body
        self.code = 3
        return {"RecoverySecrets": {}} if newer else None
