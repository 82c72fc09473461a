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

NOT_OFFERED = re.compile(r"POST /api/v2/(sign-quote|monotonic-counter)")
COMPARED_HEADERS = ("content-type", "x-content-type-options", "location")
RANDOM_FIELDS = {
    *("Cert", "cert", "Private", "Public", "ManifestSignatureRootECDSA", "manifestSignatureRootECDSA"),
    *("updateLog", "tacit", "rec1", "rec2", "rec3"),
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


# ---- updates, in the order in which they were recorded. Sets of users have no order; the recorded one is by chance.


def unordered(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded answer with the users who are missing sorted, as ours are."""
    data = recorded["response"]["body"].get("json", {}).get("data")
    if isinstance(data, dict) and data.get("missingUsers"):
        data["missingUsers"].sort()
        recorded["response"]["body"]["text"] = json.dumps(recorded["response"]["body"]["json"], separators=(",", ":"))
        recorded["response"]["body"]["text"] += "\n"
    return recorded


async def in_order(replay: Replay, part: str, *order: str) -> None:
    for case in order:
        try:
            await compare(replay, unordered(load(replay.vectors / "rest" / part, case)))
        except AssertionError as exc:
            raise AssertionError(f"{case}: {exc}") from exc


async def same_lines(replay: Replay, part: str, case: str) -> None:
    """The update log says the same, times and the order of users aside."""
    recorded = load(replay.vectors / "rest" / part, case)["response"]["body"]["json"]["data"]["updateLog"]

    def plain(lines: list[str]) -> list[dict[str, Any]]:
        parsed = [json.loads(line) for line in lines]
        return [
            {key: sorted(one) if isinstance(one, list) else one for key, one in line.items() if key != "time"}
            for line in parsed
        ]

    ours = list(replay.made.core.update_log())
    assert plain(ours) == plain(recorded)
    assert [list(json.loads(line)) for line in ours] == [list(json.loads(line)) for line in recorded]


async def test_security_versions_as_recorded(replay: Replay) -> None:
    part = "10-update-svn"
    await in_order(replay, part, "manifest-set")
    last = ["ok-v2", "ok-again-same-svn-v1", "ok-b", "manifest-unchanged", "log"]
    await in_order(replay, part, *(case for case in cases(part) if case not in ["manifest-set", "downgrade", *last]))
    await in_order(replay, part, "ok-v2", "ok-again-same-svn-v1", "downgrade", "ok-b", "manifest-unchanged")
    await same_lines(replay, part, "log")


async def test_an_update_by_three_users_as_recorded(replay: Replay) -> None:
    part = "11-update-full"
    await in_order(replay, part, "manifest-set", "get-none", "ack-none", "cancel-none", "apply-invalid")
    await in_order(replay, part, "apply-alice", "get-pending", "get-pending-v1", "apply-second-while-pending")
    await in_order(replay, part, "apply-svn-while-pending", "ack-stranger", "ack-wrong-manifest", "ack-alice-again")
    await in_order(replay, part, "ack-bob-v1", "cancel-carol", "get-after-cancel")
    await in_order(replay, part, "apply2-alice", "ack2-bob", "ack2-carol", "manifest-after")
    await same_lines(replay, part, "log")
    await in_order(replay, part, "rotate-alice", "rotate-bob", "rotate-carol")
    await in_order(replay, part, "newkeys-alice", "newkeys-bob", "newkeys-carol")


async def test_an_update_by_two_of_three_as_recorded(replay: Replay) -> None:
    part = "12-update-threshold2of3"
    await in_order(replay, part, "manifest-set", "apply-alice", "get", "ack-carol", "get-after")
    await same_lines(replay, part, "log")


async def test_an_update_by_one_user_and_one_that_fails_as_recorded(replay: Replay) -> None:
    part = "13-update-single-user"
    await in_order(replay, part, "manifest-set", "apply-alice")
    await same_lines(replay, part, "log")
    await in_order(replay, part, "apply-bad-template", "get-after-bad")
    await same_lines(replay, part, "log-after-bad")


async def test_updates_without_permission_as_recorded(replay: Replay) -> None:
    part = "17-extra"
    await in_order(replay, part, "dashed-secret-name", "apply", "ack-without-permission", "ack-without-permission-v1")
    await in_order(replay, part, "cancel-without-permission", "cancel-without-permission-v1", "ack-v1-wrong-manifest")
