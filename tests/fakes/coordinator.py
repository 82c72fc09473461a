"""A coordinator on loopback that tells the truth unless the test bends it: status, quote, manifest and secrets.

    with FakeCoordinator(tee=FakeTee()) as coordinator:
        attest_coordinator(coordinator.host, ...)

It signs with real keys and makes real (simulated) evidence. Each field can be changed at any time; `answers` puts fixed
answers in the place of its own, by method and path.
"""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from fakes.tee import NOW, FakeTee
from tacit.evidence import Role, report_data
from tacit.pki import KeyPair, issue_intermediate, issue_root
from tacit.wire.log import LOG_START, line_digest, log_mark_message

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
    role: Role = Role.COORDINATOR
    evidence: bytes | None = None
    only_v1: bool = False
    answers: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def __enter__(self) -> Self:
        if self.intermediate is None:
            self.intermediate = issue_intermediate(self.root, self.names, now=NOW)
        fake = self

        class Handler(_Handler):
            coordinator = fake

        self._server = _Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shown = self.shown or self.root
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "both.pem"
            file.write_bytes(shown.certificate_pem + self.above + shown.key_pem)
            context.load_cert_chain(file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.cut()
        self._server.server_close()
        self._thread.join()

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
        evidence = self.evidence
        if evidence is None and self.tee is not None:
            evidence = self.tee.issue_evidence(report_data(role=self.role, key=self.root.certificate_der, nonce=nonce))
        chain = (self.intermediate.certificate_pem + self.root.certificate_pem).decode()
        text = base64.b64encode(evidence).decode() if evidence else None
        return {"cert": chain, "quote": text} if newer else {"Cert": chain, "Quote": text}

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


class _Server(ThreadingHTTPServer):
    """Its threads end with it: one that is inside OpenSSL while the interpreter ends takes the process down."""

    daemon_threads = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End the connections that clients keep open."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # below TLS, which another thread is using


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    coordinator: FakeCoordinator

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.coordinator.requests.append((self.command, self.path, body))
        status, answer = self.coordinator.answer(self.command, parts.path, parse_qs(parts.query), body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _serve  # noqa: N815

    def handle(self) -> None:
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # a client that refused us
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass
