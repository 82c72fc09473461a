"""Every recorded request of the client API, put to ours in memory; the answers are compared byte for byte.

What cannot be equal is taken out first: certificates, keys, signatures and random values. What is not offered yet
answers as an unknown path does, and is listed here.
"""

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.core import Made, make_coordinator
from tacit.coordinator.api.rest import ClientApi
from tacit.edge import HttpRequest, HttpResponse

NOT_OFFERED = re.compile(
    r"(GET|POST) (/api/v2)?/(sign-quote|monotonic-counter|update-manifest|update-cancel)"
    r"|POST (/api/v2)?/update"
)
COMPARED_HEADERS = ("content-type", "x-content-type-options", "location")
RANDOM_FIELDS = {
    *("Cert", "cert", "Private", "Public", "ManifestSignatureRootECDSA", "manifestSignatureRootECDSA"),
    *("updateLog", "tacit", "rec1"),
}


class Replay:
    """A coordinator with its client API, and the users whose certificates were recorded."""

    def __init__(self, vectors: Path) -> None:
        self.vectors = vectors / "marblerun"
        self.made: Made = make_coordinator()
        self.executor = ThreadPoolExecutor(1)
        self.api = ClientApi(self.made.core, executor=self.executor, log=self.made.world.log)

    def certificate(self, user: str | None) -> bytes | None:
        if user is None:
            return None
        pem = (self.vectors / "pki" / "users" / f"{user}.crt").read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    async def send(self, request: dict[str, Any]) -> HttpResponse:
        parts = urlsplit("https://h" + request["path"])
        body = request["body"]
        content = (
            b"" if body is None else base64.b64decode(body["base64"]) if "base64" in body else body["text"].encode()
        )
        return await self.api.handle(
            HttpRequest(
                request["method"], parts.path, parts.query, {}, content, self.certificate(request["client_cert"])
            )
        )

    async def set_manifest(self, name: str) -> None:
        raw = (self.vectors / "manifests" / name).read_bytes()
        self.made.core.set_manifest(raw)


@pytest.fixture
def replay(shared_vectors: Path) -> Iterator[Replay]:
    made = Replay(shared_vectors)
    yield made
    made.executor.shutdown()


def load(folder: Path, case: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((folder / f"{case}.json").read_text())
    return recorded


def cases(part: str) -> list[str]:
    folder = Path(__file__).parents[2].parent / "shared" / "vectors" / "marblerun" / "rest" / part
    return sorted(path.stem for path in folder.glob("*.json"))


def without_random(value: Any) -> Any:
    """A parsed answer with what is random or ours taken out; that a field is there, and null or not, stays."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key != "tacit"}
        return {key: (one is None) if key in RANDOM_FIELDS else without_random(one) for key, one in kept.items()}
    if isinstance(value, str) and value.startswith('{"time"'):
        return [line["update"] for line in map(json.loads, value.splitlines())]
    return value


async def compare(replay: Replay, recorded: dict[str, Any]) -> None:
    answer = await replay.send(recorded["request"])
    expected = recorded["response"]
    asked = f"{recorded['request']['method']} {urlsplit(recorded['request']['path']).path}"
    if NOT_OFFERED.fullmatch(asked) and expected["status"] != 405:
        assert (answer.status, answer.body) == (405, b'{"status":"error","data":null}\n')
        return
    assert answer.status == expected["status"], answer.body
    recorded_headers = {name.lower(): value for name, value in expected["headers"].items()}
    for name in COMPARED_HEADERS:
        assert answer.headers.get(name) == recorded_headers.get(name)
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


def skeleton(value: Any) -> Any:
    """The keys, in their order."""
    if isinstance(value, dict):
        return [(key, skeleton(one)) for key, one in value.items() if key != "tacit"]
    return None


@pytest.mark.parametrize("case", cases("1-before-manifest"))
async def test_before_a_manifest(replay: Replay, case: str) -> None:
    await compare(replay, load(replay.vectors / "rest" / "1-before-manifest", case))


@pytest.mark.parametrize("case", cases("2-after-minimal"))
async def test_with_the_minimal_manifest(replay: Replay, case: str) -> None:
    if case != "v2-manifest-set":
        await replay.set_manifest("minimal.json")
    await compare(replay, load(replay.vectors / "rest" / "2-after-minimal", case))


@pytest.mark.parametrize("case", cases("3-invalid-manifests"))
async def test_an_invalid_manifest(replay: Replay, case: str) -> None:
    recorded = load(replay.vectors / "rest" / "3-invalid-manifests", case)
    answer = await replay.send(recorded["request"])
    expected = recorded["response"]
    assert answer.status == expected["status"], answer.body
    assert json.loads(answer.body) == expected["body"]["json"]


@pytest.mark.parametrize("case", ["secrets-get", "v1-secrets-get"])
async def test_the_typical_manifest(replay: Replay, case: str) -> None:
    await replay.set_manifest("typical-tf-server.json")
    await compare(replay, load(replay.vectors / "rest" / "5-typical", case))


# In the order in which they were recorded: what was set is read afterwards.
SECRETS_FIRST = ["manifest-set", "v2-get-user-unset"]
SECRETS_LAST = ["set-ok-v2", "set-ok-v1", "get-after-set", "after-restart-status", "update-log", "v1-update-log"]


async def test_secrets_in_the_order_recorded(replay: Replay) -> None:
    folder = replay.vectors / "rest" / "6-secrets"
    between = [case for case in cases("6-secrets") if case not in SECRETS_FIRST + SECRETS_LAST]
    failed = []
    for case in [*SECRETS_FIRST, *between, *SECRETS_LAST]:
        try:
            await compare(replay, load(folder, case))
        except AssertionError as exc:
            failed.append(f"{case}: {str(exc)[:600]}")
    assert not failed, "\n".join(failed)
