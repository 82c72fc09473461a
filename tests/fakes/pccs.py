"""Intel's and AMD's services on loopback, made from collateral, with faults that a test chooses.

with pccs(collateral, ...) as service:
    source = CollateralSource(Places(service.url, service.url))
    service.status = 500
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import quote

from tacit.evidence import Collateral
from tacit.evidence.fetch.amd import AmdPlatform, platform_of_certificates
from tacit.evidence.fetch.intel import platform_of_collateral
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.snp.collateral import AmdCollateral
from tacit.evidence.snp.report import tcb_components

Page = tuple[bytes, dict[str, str]]


@dataclass
class Service:
    """What it answers; change it between questions."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    status: int = 200
    edit: Callable[[str, bytes], bytes] = lambda path, body: body
    cut: int | None = None  # bytes that are missing at the end of each body
    headers_at: float = 0.0  # seconds before anything is said
    drip: float = 0.0  # seconds between two bytes of a body

    def hold(self, *collateral: Collateral) -> None:
        """Answer with these and with nothing else."""
        self.pages = {}
        for one in collateral:
            self.pages |= intel_pages(one) if isinstance(one, IntelCollateral) else amd_pages(one)


def intel_pages(one: IntelCollateral, *, as_hex: bool = True) -> dict[str, Page]:
    """By path and query, as a PCCS answers for this platform; its lists come as hex."""
    platform = platform_of_collateral(one)
    sgx, kind = "/sgx/certification/v4", f"/{platform.tee}/certification/v4"

    def body(name: str, text: str, signature: bytes) -> bytes:
        return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()

    def crl(der: bytes) -> bytes:
        return der.hex().encode() if as_hex else der

    return {
        f"{kind}/tcb?fmspc={platform.fmspc}": (
            body("tcbInfo", one.tcb_info, one.tcb_info_signature),
            {"TCB-Info-Issuer-Chain": quote(one.tcb_info_issuer_chain)},
        ),
        f"{kind}/qe/identity": (
            body("enclaveIdentity", one.qe_identity, one.qe_identity_signature),
            {"SGX-Enclave-Identity-Issuer-Chain": quote(one.qe_identity_issuer_chain)},
        ),
        f"{sgx}/pckcrl?ca={platform.ca}&encoding=der": (
            one.pck_crl,
            {"SGX-PCK-CRL-Issuer-Chain": quote(one.pck_crl_issuer_chain)},
        ),
        f"{sgx}/rootcacrl": (crl(one.root_ca_crl), {}),
    }


def amd_pages(one: AmdCollateral) -> dict[str, Page]:
    """By path and query, as AMD's service answers for this chip."""
    platform = platform_of_certificates(one)
    line = f"/vcek/v1/{platform.product}"
    return {
        leaf_path(platform): (one.leaf, {}),
        f"{line}/cert_chain": (one.issuer_chain.encode(), {}),
        f"{line}/crl": (one.crl, {}),
    }


def leaf_path(platform: AmdPlatform) -> str:
    product = platform.product or ""
    names = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
    chip = platform.chip_id[:8] if product == "Turin" else platform.chip_id
    versions = tcb_components(platform.tcb, product)
    return f"/vcek/v1/{product}/{chip.hex()}?" + "&".join(
        f"{names[one]}={value:02d}" for one, value in versions.items()
    )


@contextmanager
def pccs(*collateral: Collateral) -> Iterator[Service]:
    state, ended = Service(), Event()
    state.hold(*collateral)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            ended.wait(state.headers_at)
            found = state.pages.get(self.path)
            status = state.status if found else 404
            body, headers = found or (json.dumps({"message": "no such thing"}).encode(), {})
            body = state.edit(self.path, body)
            with suppress(OSError):  # the other side has left, as some tests want
                self._answer(status, body, headers)

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            body = body[: len(body) - (state.cut or 0)]
            if not state.drip:
                self.wfile.write(body)
                return
            for byte in body:
                if ended.wait(state.drip):
                    return
                self.wfile.write(bytes((byte,)))
                self.wfile.flush()

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_until(done: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
