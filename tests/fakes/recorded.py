"""The recorded requests of the client API, put to ours in memory; the answers are compared byte for byte.

What cannot be equal is taken out first: certificates, keys, signatures, random values and times. Where we answer
otherwise on purpose, `DIFFERENT` says how, and which row of docs/marblerun.md says why.
"""

import base64
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.core import make_coordinator
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.sealed.changes import encode_snapshot
from tacit.coordinator.sealed.records import Contents
from tacit.coordinator.sealed.shares import encode_plan, make_plan
from tacit.coordinator.store import KEY_NAME, MemoryStore, SealedFolder, Store
from tacit.edge import HttpRequest, HttpResponse

RECORDED = Path(__file__).parents[2].parent / "shared" / "vectors" / "marblerun"
COMPARED_HEADERS = ("content-type", "x-content-type-options", "location")
RANDOM_FIELDS = {
    *("Cert", "cert", "Private", "Public", "ManifestSignatureRootECDSA", "manifestSignatureRootECDSA"),
    *("tacit", "rec1", "rec2", "rec3", "ephemeralPublicKey"),
}


@dataclass(frozen=True)
class Difference:
    """An answer that is another on purpose: its code and message, and words of the row that says why."""

    status: int
    message: str | None
    row: str


DIFFERENT: Mapping[str, Difference] = {
    "4-with-prometheus/unknown-path": Difference(405, None, "an unknown path closes the connection"),
    "7-recovery-single/recover-wrong-secret": Difference(
        500,
        "setting recovery key: uploaded an invalid or already used secret",
        "a wrong single recovery secret answers 200",
    ),
    # Recorded right after the wrong one, which counted as a share there.
    "7-recovery-single/recover-right-no-signature": Difference(
        500,
        'no matching recovery key found for recovery public key "rec1"',
        "a wrong single recovery secret answers 200",
    ),
}


@dataclass
class Replay:
    """A coordinator with its client API over a folder, and certificates by the names that were recorded.

    `before` are things that happened between the recorded requests, by case; `rewrite` changes a request that was made
    for another coordinator's key.
    """

    folder: Path
    executor: ThreadPoolExecutor
    certificates: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, Callable[[], object]] = field(default_factory=dict)
    rewrite: dict[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)
    store: Store = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.start(self.store)

    def start(self, store: Store, *, contents: Contents | None = None, recovery: bool = False) -> None:
        """A coordinator over this store."""
        self.store = store
        self.made = make_coordinator(store=store, contents=contents, recovery=recovery)
        self.api = ClientApi(self.made.core, executor=self.executor, log=self.made.world.log)

    def start_in_folder(self, *, recovery: bool = False) -> None:
        """The same after a restart, or for the first time."""
        self.close()
        folder = SealedFolder(self.folder, None)
        self.start(folder, contents=None if recovery else folder.load(), recovery=recovery)

    def lock(self, manifest: bytes, key: bytes, shares: list[bytes], *, threshold: int = 0) -> None:
        """A state under this key that lost the key, and a coordinator that waits for its recovery."""
        self.start_in_folder()
        self.made.core.set_manifest(manifest)
        plan = encode_plan(make_plan(shares, threshold=threshold))
        self.store.create(encode_snapshot(self.made.core.holdings), key=key, plan=plan, bound_to="signer")
        self.close()
        (self.folder / KEY_NAME).unlink()
        self.start_in_folder(recovery=True)

    def close(self) -> None:
        """Give the folder back."""
        if isinstance(self.store, SealedFolder):
            self.store.close()
            self.store = MemoryStore()

    def certificate(self, name: str | None) -> bytes | None:
        """A client certificate (DER): of a recorded user, or one that the test has put in."""
        if name is None or name in self.certificates:
            return self.certificates.get(name or "")
        pem = (RECORDED / "pki" / "users" / f"{name}.crt").read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    async def send(self, request: dict[str, Any]) -> HttpResponse:
        """Our answer to a recorded request."""
        parts = urlsplit("https://h" + request["path"])
        body = request["body"] or {}
        content = base64.b64decode(body["base64"]) if "base64" in body else body.get("text", "").encode()
        certificate = self.certificate(request["client_cert"])
        return await self.api.handle(HttpRequest(request["method"], parts.path, parts.query, {}, content, certificate))

    async def same(self, part: str, *cases: str) -> None:
        """Each case, in this order, gets the recorded answer or the one of `DIFFERENT`."""
        for case in cases:
            self.before.get(case, lambda: None)()
            recorded = load(part, case)
            self.rewrite.get(case, lambda _: None)(recorded["request"])
            answer = await self.send(recorded["request"])
            try:
                compare(f"{part}/{case}", answer, recorded["response"])
            except AssertionError as exc:
                raise AssertionError(f"{part}/{case}: {exc}") from exc

    def set_manifest(self, name: str) -> None:
        """Set a recorded manifest."""
        self.made.core.set_manifest((RECORDED / "manifests" / name).read_bytes())


def recorded_manifest(part: str) -> bytes:
    """The manifest that was set in a part."""
    body = load(part, "manifest-set")["request"]["body"]["text"]
    return base64.b64decode(json.loads(body)["manifest"])


def load(part: str, case: str) -> dict[str, Any]:
    """A recorded request and its answer. Sets of users have no order there; they are sorted, as ours are."""
    recorded: dict[str, Any] = json.loads((RECORDED / "rest" / part / f"{case}.json").read_text())
    if "response" not in recorded or not isinstance(recorded["response"].get("body", {}).get("json"), dict):
        return recorded
    body = recorded["response"]["body"]
    data = body["json"].get("data")
    if isinstance(data, dict) and data.get("missingUsers"):
        data["missingUsers"].sort()
        body["text"] = json.dumps(body["json"], separators=(",", ":")) + "\n"
    return recorded


def recorded_cases(part: str) -> list[str]:
    """The cases of a part, sorted."""
    return sorted(path.stem for path in (RECORDED / "rest" / part).glob("*.json"))


def compare(name: str, answer: HttpResponse, expected: dict[str, Any]) -> None:
    """Ours beside the recorded answer."""
    if name in DIFFERENT:
        difference = DIFFERENT[name]
        assert (answer.status, json.loads(answer.body).get("message")) == (difference.status, difference.message)
        assert (answer.status, answer.body.decode()) != (expected["status"], (expected.get("body") or {}).get("text"))
        return
    assert answer.status == expected["status"], answer.body
    recorded_headers = {name.lower(): value for name, value in expected["headers"].items()}
    for header in COMPARED_HEADERS:
        assert answer.headers.get(header) == recorded_headers.get(header)
    text = expected["body"]["text"]
    if "json" not in expected["body"]:
        assert answer.body.decode() == text
        return
    ours, theirs = json.loads(answer.body), json.loads(text)
    assert without_random(ours) == without_random(theirs)
    # Keys in the same order, and the same bytes where nothing is random.
    assert skeleton(ours) == skeleton(theirs)
    if without_random(theirs) == theirs and "tacit" not in answer.body.decode():
        assert answer.body.decode() == text
    assert answer.body.endswith(b"\n")


def without_random(value: Any) -> Any:
    """A parsed answer with what is random or ours taken out; that a field is there, and null or not, stays."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key != "tacit"}
        return {
            key: (one is None)
            if key in RANDOM_FIELDS
            else log_lines(one)
            if key == "updateLog"
            else without_random(one)
            for key, one in kept.items()
        }
    if isinstance(value, str) and value.startswith('{"time"'):
        return log_lines(value.splitlines())
    return value


def log_lines(lines: list[str]) -> list[dict[str, Any]]:
    """Lines of an update log without their times; users who are missing sorted."""
    return [
        {key: sorted(one) if isinstance(one, list) else one for key, one in json.loads(line).items() if key != "time"}
        for line in lines
    ]


def skeleton(value: Any) -> Any:
    """The keys, in their order."""
    if isinstance(value, dict):
        return [(key, skeleton(one)) for key, one in value.items() if key != "tacit"]
    if isinstance(value, list):
        return [list(json.loads(line)) for line in value if isinstance(line, str) and line.startswith('{"time"')]
    return None
