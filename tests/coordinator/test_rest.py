"""The client API without recorded vectors: codes, envelopes, Go's decoder and encoder, and what never gets out."""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from fakes.core import PLAIN_MANIFEST, encode, make_coordinator
from fakes.tee import NOW, FakeTee
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.api.routes import PATHS
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import BindingError, PkiError
from tacit.evidence import Role, verify_binding, verify_evidence
from tacit.pki import issue_self_signed
from tacit.wire.rest import Envelope, encode_envelope

OWNER = issue_self_signed(["owner"], common_name="owner", now=NOW)
STRANGER = issue_self_signed(["owner"], common_name="owner", now=NOW)
MANIFEST: dict[str, Any] = {
    **PLAIN_MANIFEST,
    "Secrets": {"word": {"Type": "plain", "UserDefined": True}},
    "Users": {"owner": {"Certificate": OWNER.certificate_pem.decode(), "Roles": ["r"]}},
    "Roles": {"r": {"ResourceType": "Secrets", "ResourceNames": ["word"], "Actions": ["ReadSecret", "WriteSecret"]}},
}


class Api:
    def __init__(self, executor: ThreadPoolExecutor, tee: FakeTee | None = None) -> None:
        self.made = make_coordinator(tee=tee)
        self.tee = tee
        self.rest = ClientApi(self.made.core, executor=executor, log=self.made.world.log)

    async def send(self, method: str, target: str, body: bytes = b"", certificate: bytes | None = None) -> HttpResponse:
        path, _, query = target.partition("?")
        return await self.rest.handle(HttpRequest(method, path, query, {}, body, certificate))

    async def bound(self, target: str, exporter: Any) -> HttpResponse:
        path, _, query = target.partition("?")
        return await self.rest.handle(HttpRequest("GET", path, query, {}, b"", None, exporter))

    async def data(self, method: str, target: str, body: bytes = b"", certificate: bytes | None = None) -> Any:
        answer = await self.send(method, target, body, certificate)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)["data"]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def api(executor: ThreadPoolExecutor) -> Api:
    return Api(executor)


class SlowTee(FakeTee):
    """One that takes until it is told to go on, once it is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.go_on, self.begun = False, threading.Event(), 0

    def issue_evidence(self, data: bytes) -> bytes:
        if self.slow:
            self.begun += 1
            assert self.go_on.wait(60)
        return super().issue_evidence(data)


@pytest.mark.parametrize("path", ["/quote", "/api/v2/quote"])
async def test_t48_strangers_who_ask_for_evidence_take_one_worker(path: str, executor: ThreadPoolExecutor) -> None:
    tee = SlowTee()
    api = Api(executor, tee)
    await api.data("POST", "/manifest", encode(PLAIN_MANIFEST))
    tee.slow = True
    asked = [asyncio.create_task(api.send("GET", path)) for _ in range(8)]
    try:
        other = await asyncio.wait_for(api.send("GET", "/api/v2/log/digests?after=0"), 60)
        assert other.status == 200
        assert tee.begun <= 1
        assert not any(one.done() for one in asked)
        for gone in asked[:4]:
            gone.cancel()
        async with asyncio.timeout(60):
            while not tee.begun:
                await asyncio.sleep(0.01)
        other = await asyncio.wait_for(api.send("GET", "/api/v2/log/digests?after=0"), 60)
        assert other.status == 200
        assert tee.begun == 1, "those who leave give nobody the place of the one at work"
    finally:
        tee.go_on.set()
    assert {answer.status for answer in await asyncio.gather(*asked[4:])} == {200}


async def test_the_status_has_our_field_last(api: Api) -> None:
    raw = (await api.send("GET", "/api/v2/status")).body
    start = (
        b'{"status":"success","data":{"code":2,"message":"Coordinator is ready to accept a manifest.","tacit":{"tee":'
    )
    assert raw.startswith(start)
    mark = json.loads(raw)["data"]["tacit"]
    assert list(mark) == ["tee", "epoch", "head", "signature", "log"]
    assert (mark["tee"], mark["epoch"], mark["head"]) == ("unattested", 0, "00" * 32)


async def test_t02_a_quote_binds_the_channel_where_that_is_asked_for(executor: ThreadPoolExecutor) -> None:
    tee = FakeTee()
    api, asked, secret = Api(executor, tee), [], b"s" * 32

    def export(label: bytes, size: int) -> bytes:
        asked.append((label, size))
        return secret

    nonce = base64.urlsafe_b64encode(b"n" * 32).decode()
    answer = await api.bound(f"/api/v2/quote?nonce={nonce}&channel=tls-exporter-v1", export)
    data = json.loads(answer.body)["data"]
    assert (list(data), data["channel"]) == (["cert", "quote", "channel"], "tls-exporter-v1")
    assert asked == [(b"EXPORTER-tacit-evidence-v1", 32)]
    claims = verify_evidence(base64.b64decode(data["quote"]), tee.collateral, tee.anchor, now=NOW)
    root = api.made.core.holdings.identity.root.certificate_der
    verify_binding(claims, role=Role.COORDINATOR, key=root, nonce=b"n" * 32, channel=secret)
    for channel in (b"", b"t" * 32):
        with pytest.raises(BindingError):
            verify_binding(claims, role=Role.COORDINATOR, key=root, nonce=b"n" * 32, channel=channel)
    # MarbleRun's half stays, for its command line.
    assert claims.report_data[:32] == hashlib.sha256(root + b"n" * 32).digest()


async def test_t02_a_channel_is_bound_with_a_nonce_over_tls_1_3_and_in_one_way_alone(
    executor: ThreadPoolExecutor,
) -> None:
    api = Api(executor, FakeTee())
    nonce = base64.urlsafe_b64encode(b"n" * 32).decode()

    def refuse(label: bytes, size: int) -> bytes:
        raise PkiError("channel binding needs TLS 1.3; this connection is TLSv1.2")

    for query, exporter, word in (
        ("channel=tls-exporter-v1", lambda label, size: b"s" * 32, b"needs a nonce"),
        (f"nonce={nonce}&channel=tls-unique", lambda label, size: b"s" * 32, b"tls-exporter-v1 alone"),
        (f"nonce={nonce}&channel=", lambda label, size: b"s" * 32, b"tls-exporter-v1 alone"),
        (f"nonce={nonce}&channel=tls-exporter-v1", None, b"no TLS"),
        (f"nonce={nonce}&channel=tls-exporter-v1", refuse, b"needs TLS 1.3"),
    ):
        answer = await api.bound(f"/api/v2/quote?{query}", exporter)
        assert answer.status in (400, 500)
        assert word in answer.body


async def test_a_coordinator_without_a_tee_says_that_nothing_is_bound(api: Api) -> None:
    nonce = base64.urlsafe_b64encode(b"n" * 32).decode()
    answer = await api.bound(f"/api/v2/quote?nonce={nonce}&channel=tls-exporter-v1", lambda label, size: b"s" * 32)
    data = json.loads(answer.body)["data"]
    assert data["quote"] is None
    assert "channel" not in data


async def test_a_quote_binds_the_nonce_of_the_query(executor: ThreadPoolExecutor) -> None:
    tee = FakeTee()
    api = Api(executor, tee)
    nonce = bytes(range(248, 256)) * 4
    data = await api.data("GET", f"/api/v2/quote?nonce={base64.urlsafe_b64encode(nonce).decode()}")
    claims = verify_evidence(base64.b64decode(data["quote"]), tee.collateral, tee.anchor, now=NOW)
    root = api.made.core.holdings.identity.root.certificate_der
    verify_binding(claims, role=Role.COORDINATOR, key=root, nonce=nonce)


@pytest.mark.parametrize(
    ("text", "at"), [("YWI", 0), ("%2B%2F%2F%2F", 0), ("YWJj%0AYW", 5), ("=", 0), ("YWJj%20", 4), ("YWJj%C3%A9", 4)]
)
async def test_a_nonce_in_another_encoding_is_refused(api: Api, text: str, at: int) -> None:
    answer = await api.send("GET", f"/api/v2/quote?nonce={text}")
    assert answer.status == 400
    said = f"invalid query: bad nonce format: illegal base64 data at input byte {at}"
    assert json.loads(answer.body) == {"status": "fail", "data": None, "message": said}


async def test_a_very_long_nonce_is_refused(api: Api) -> None:
    assert (await api.send("GET", "/api/v2/quote?nonce=" + "A" * 8192)).status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "EOF"),
        (b" \n", "EOF"),
        (b"{", "unexpected EOF"),
        (b'{"manifest": "YQ"}', "illegal base64 data at input byte 0"),
        (b"xx", "invalid character 'x' looking for beginning of value"),
        (b"[]", "json: cannot unmarshal array into Go value of type v2.ManifestSetRequest"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_in_gos_words(api: Api, body: bytes, said: str) -> None:
    answer = await api.send("POST", "/api/v2/manifest", body)
    assert answer.status == 400
    assert json.loads(answer.body)["message"] == said


async def test_the_first_value_of_a_body_counts_whatever_its_keys_case(api: Api) -> None:
    raw = base64.b64encode(encode(MANIFEST)).decode()
    assert await api.data("POST", "/api/v2/manifest", b'{"MANIFEST":"%s","x":1} trailing' % raw.encode()) == {
        "RecoverySecrets": {}
    }


async def test_secrets_are_set_and_read_by_their_owner_alone(api: Api) -> None:
    api.made.core.set_manifest(encode(MANIFEST))
    body = json.dumps({"secrets": {"word": {"Key": base64.b64encode(b"w").decode()}}}).encode()
    for certificate in (None, STRANGER.certificate_der):
        for method, target in (("POST", "/api/v2/secrets"), ("GET", "/api/v2/secrets?s=word"), ("GET", "/secrets")):
            assert (await api.send(method, target, body, certificate)).status == 401
    assert await api.data("POST", "/api/v2/secrets", body, OWNER.certificate_der) is None
    data = await api.data("GET", "/api/v2/secrets?s=word", b"", OWNER.certificate_der)
    assert data["secrets"]["word"]["Private"] == data["secrets"]["word"]["Public"] == "dw=="


async def test_each_leniency_of_a_body_is_logged_with_its_path_and_without_its_value(api: Api) -> None:
    api.made.core.set_manifest(encode(MANIFEST))
    body = b'{"SECRETS":{"word":{"kEY":"Y2FuYXJ5","nope":"canary"}}} canary'
    assert await api.data("POST", "/api/v2/secrets", body, OWNER.certificate_der) is None
    noted = [line["at"] for line in api.made.lines() if line["msg"] == "request read leniently"]
    assert [one.partition(": ")[0] for one in noted] == [
        "$",
        "$.SECRETS",
        "$.secrets.word.kEY",
        "$.secrets.word.nope",
    ]
    assert "canary" not in api.made.log.getvalue()
    assert "Y2FuYXJ5" not in api.made.log.getvalue()


async def test_t13_a_certificate_that_no_library_reads_is_a_bad_request(api: Api) -> None:
    secrets = {"c": {"Type": "cert-ecdsa", "Size": 256, "UserDefined": True}}
    role = {"ResourceType": "Secrets", "ResourceNames": ["c"], "Actions": ["WriteSecret"]}
    api.made.core.set_manifest(encode({**MANIFEST, "Secrets": secrets, "Roles": {"r": role}}))
    whole = STRANGER.certificate_der
    for at in range(0, len(whole), 7):
        altered = whole[:at] + bytes([whole[at] ^ 0x2A]) + whole[at + 1 :]
        entry = {"Cert": base64.b64encode(altered).decode(), "Private": "AA=="}
        body = json.dumps({"secrets": {"c": entry}}).encode()
        answer = await api.send("POST", "/api/v2/secrets", body, OWNER.certificate_der)
        assert answer.status in (200, 400), (at, answer.body)


async def test_t13_a_body_full_of_leniencies_fills_no_log(api: Api) -> None:
    body = json.dumps({f"{'x' * 400}{number}": None for number in range(5000)}).encode()
    await api.send("POST", "/api/v2/manifest", body)
    assert len(api.made.log.getvalue()) < 100_000
    api.made.core.set_manifest(b"{" + b'"a":0,' * 5000 + encode(MANIFEST)[1:])
    noted = [line["at"] for line in api.made.lines() if line["msg"] == "manifest read leniently"]
    assert len(noted) == 101
    assert noted[-1].endswith("more")


async def test_who_calls_is_settled_before_the_body_is_read(api: Api) -> None:
    api.made.core.set_manifest(encode(MANIFEST))
    assert (await api.send("POST", "/api/v2/secrets", b"not json")).status == 401
    assert (await api.send("POST", "/api/v2/secrets", b"not json", OWNER.certificate_der)).status == 400


@pytest.mark.parametrize("path", ["/nope", "/", "/api/v2/status/", "/api/v3/status", "/sign-quote", "/%2e%2e"])
async def test_an_unknown_path_answers_405(api: Api, path: str) -> None:
    answer = await api.send("POST" if path == "/sign-quote" else "GET", path)
    if path == "/%2e%2e":
        assert answer.status == 307
        return
    assert (answer.status, answer.body) == (405, b'{"status":"error","data":null}\n')


@pytest.mark.parametrize("path", ["//a%0d%0aSet-Cookie:%20a=b", "/%5cevil.test/./", "//%e2%82%ac", "//%ff", "//%00"])
async def test_t48_a_redirect_is_to_an_encoded_path(api: Api, path: str) -> None:
    answer = await api.send("GET", path)
    assert answer.status == 307
    target = answer.headers["location"]
    assert target.isascii()
    assert not set(target) & set("\r\n\\\0 ")


async def test_a_redirect_carries_no_markup_of_the_caller(api: Api) -> None:
    answer = await api.send("GET", '//a"><script>')
    assert answer.status == 307
    assert b"<script>" not in answer.body


async def test_what_nobody_expected_is_answered_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("canary-secret")

    monkeypatch.setattr(api.made.core, "update_log", broken)
    answer = await api.send("GET", "/api/v2/update")
    assert (answer.status, json.loads(answer.body)["message"]) == (500, "internal error")
    assert "canary" not in api.made.log.getvalue()
    assert any(line["error"] == "RuntimeError" for line in api.made.lines() if line["level"] == "error")


async def test_status_does_not_wait_behind_what_takes_long(api: Api) -> None:
    with api.made.core._ledger.lock:  # a change is under way
        assert (await api.send("GET", "/api/v2/status")).status == 200
        assert (await api.send("GET", "/api/v2/manifest")).status == 500


def test_answers_are_escaped_as_gos_encoder_does() -> None:
    raw = encode_envelope(Envelope("error", {"b": 1, "a": "<&>\u2028é\x01"}, "x"))
    assert (
        raw == '{"status":"error","data":{"a":"\\u003c\\u0026\\u003e\\u2028é\\u0001","b":1},"message":"x"}\n'.encode()
    )


def test_the_paths_that_are_counted_are_those_of_the_table(api: Api) -> None:
    assert {path for _, path in api.rest.routes} == PATHS


# ---- who reaches what. A route is open because it is listed here, and for no other reason.

OPEN = {
    *(("GET", path) for path in ("/status", "/quote", "/manifest", "/update", "/update-manifest")),
    *(("GET", "/api/v2" + path) for path in ("/status", "/quote", "/manifest", "/update", "/update-manifest")),
    *(("POST", path) for path in ("/manifest", "/api/v2/manifest", "/recover", "/api/v2/recover")),
    ("GET", "/api/v2/recover/public-key"),
    ("GET", "/api/v2/log/digests"),  # they tell nothing but that one head descends from another
    ("POST", "/api/v2/sign-quote"),  # to everybody, where the manifest switches it on
}
GATED = {**MANIFEST, "Config": {"FeatureGates": ["MonotonicCounter", "SignQuoteEndpoint"]}}


@pytest.mark.parametrize("certificate", [None, STRANGER.certificate_der], ids=["nobody", "stranger"])
async def test_t60_every_route_that_is_not_listed_as_open_asks_who_calls(api: Api, certificate: bytes | None) -> None:
    api.made.core.set_manifest(encode(GATED))
    closed = sorted(set(api.rest.routes) - OPEN)
    assert len(closed) >= 11
    for method, path in closed:
        answer = await api.send(method, path + "?s=word", b'{"secrets":{"word":{"Key":"dw=="}}}', certificate)
        assert (method, path, answer.status) == (method, path, 401)
    assert api.made.core.holdings.secrets["word"].private == b""


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "a%252Fb", "A/B", "a/b ", "a\u00df", "a&s=b", "a+b"])
async def test_t25_a_name_in_a_query_is_one_name(api: Api, name: str) -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", "A/B", "a/b ", "a\u00df", "a&s=b", "a+b", "b", "a b"]
    role = {"ResourceType": "Secrets", "ResourceNames": [name], "Actions": ["ReadSecret"]}
    secrets = {one: {"Type": "symmetric-key", "Size": 128, "Shared": True} for one in names}
    api.made.core.set_manifest(encode({**MANIFEST, "Secrets": secrets, "Roles": {"r": role}}))
    for one in names:
        answer = await api.send("GET", "/api/v2/secrets?s=" + quote(one, safe=""), b"", OWNER.certificate_der)
        assert (one, answer.status) == (one, 200 if one == name else 500)
        if one == name:
            assert list(json.loads(answer.body)["data"]["secrets"]) == [name]
