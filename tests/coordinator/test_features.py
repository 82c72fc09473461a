"""What a manifest has to switch on: counters of marbles, and signatures over quotes."""

import base64
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from fakes.core import PLAIN_MANIFEST, UUID, Made, encode, make_coordinator, make_order
from fakes.tee import NOW, FakeTee, other_platform
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.core import Coordinator, Settings
from tacit.coordinator.core.coordinator import MAX_COUNTER_NAME, MAX_COUNTERS
from tacit.coordinator.sealed.changes import encode_snapshot
from tacit.coordinator.store import SealedFolder
from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import FeatureOffError, FieldError, InputError, PkiError, PlatformError, StateError, UnauthorizedError
from tacit.evidence import Claims, Role, report_data
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_marble_root, issue_root, issue_self_signed
from tacit.pki.csr import Csr
from tacit.pki.keys import parse_private_key_der
from tacit.pki.leaf import LeafIdentity, verify_leaf
from tacit.pki.shape import Names

OTHER = "1d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
FEATURES: dict[str, Any] = {
    **PLAIN_MANIFEST,
    "Marbles": {"m": {"Package": "p"}, "n": {"Package": "p"}},
    "Config": {"FeatureGates": ["SignQuoteEndpoint", "MONOTONICCOUNTER"]},
}


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def with_features(**more: Any) -> Made:
    made = make_coordinator(**more)
    made.core.set_manifest(encode(FEATURES))
    return made


def leaf_of(core: Coordinator, marble_type: str = "m", uuid: str = UUID) -> bytes:
    """The certificate (DER) from an activation."""
    chain = core.activate(make_order(marble_type, uuid=uuid)).env["MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"]
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER)


def marble(core: Coordinator, marble_type: str = "m", uuid: str = UUID) -> LeafIdentity:
    return core.authenticate_marble(leaf_of(core, marble_type, uuid))


async def post(made: Made, executor: Executor, path: str, body: bytes, certificate: bytes | None) -> HttpResponse:
    api = ClientApi(made.core, executor=executor, log=made.world.log)
    return await api.handle(HttpRequest("POST", "/api/v2" + path, "", {}, body, certificate))


def answered(response: HttpResponse) -> tuple[int, Mapping[str, Any]]:
    return response.status, json.loads(response.body)


# ---- counters


def test_a_counter_is_set_to_a_greater_value_and_the_one_before_is_given() -> None:
    core = with_features().core
    own = marble(core)
    assert [core.raise_counter(own, "n", value) for value in (5, 3, 5, 2**64 - 1, 1)] == [0, 5, 5, 5, 2**64 - 1]
    assert core.raise_counter(own, "", 2) == 0


def test_t37_a_hundred_raise_one_counter_at_once_and_none_is_lost() -> None:
    core = with_features().core
    own = marble(core)
    values = list(range(1, 101))
    with ThreadPoolExecutor(16) as pool:
        before = list(pool.map(lambda value: core.raise_counter(own, "n", value), values))
    assert core.raise_counter(own, "n", 0) == 100
    # Each value that was set was seen as the one before by the next that was set, and by nobody twice while it rose.
    for value, old in zip(values, before, strict=True):
        assert old == 0 or old in values
        assert old != value
    rose = [old for value, old in zip(values, before, strict=True) if value > old]
    assert len(rose) == len(set(rose))


async def test_t37_a_hundred_requests_at_once_take_a_number_each(executor: Executor) -> None:
    made = with_features()
    certificate = leaf_of(made.core)
    taken: set[int] = set()
    for number in range(1, 101):
        # As a marble takes numbers: whoever gets an older value than it offered has that number for itself.
        body = json.dumps({"name": "ticket", "value": number}).encode()
        answers = [await post(made, executor, "/monotonic-counter", body, certificate) for _ in range(2)]
        won = [answer for answer in answers if answered(answer)[1]["data"]["value"] < number]
        assert len(won) == 1
        taken.add(number)
    assert len(taken) == 100


def test_t37_a_counter_outlives_restart_snapshot_and_update(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store).core
    core.set_manifest(encode(FEATURES))
    own = marble(core)
    core.raise_counter(own, "n", 7)
    store.close()
    for value, rewrite in ((8, True), (9, False)):
        store = SealedFolder(tmp_path, None)
        made = make_coordinator(store=store, contents=store.load())
        assert made.core.raise_counter(own, "n", value) == value - 1
        if rewrite:
            store.rewrite(encode_snapshot(made.core.holdings))
        assert made.core.raise_counter(own, "n", 1) == value
        store.close()


def test_t37_a_type_that_was_taken_out_and_comes_back_finds_its_counters() -> None:
    owner = issue_self_signed(["o"], common_name="o", now=NOW)
    owned = {
        **FEATURES,
        "Users": {"o": {"Certificate": owner.certificate_pem.decode(), "Roles": ["r"]}},
        "Roles": {"r": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]}},
    }
    core = make_coordinator().core
    core.set_manifest(encode(owned))
    core.raise_counter(marble(core), "n", 7)
    without = {**owned, "Marbles": {"n": {"Package": "p"}}}
    for changed in (without, owned):
        assert core.updates.update("o", encode(changed)).needed == 0
    assert core.raise_counter(marble(core), "n", 1) == 7


def test_t60_marbles_do_not_see_each_others_counters() -> None:
    core = with_features().core
    core.raise_counter(marble(core), "n", 7)
    assert core.raise_counter(marble(core, uuid=OTHER), "n", 1) == 0
    assert core.raise_counter(marble(core, "n"), "n", 1) == 0
    assert core.raise_counter(marble(core), "n", 1) == 7


def test_t37_what_cannot_be_stored_is_not_raised(tmp_path: Path) -> None:
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store).core
    core.set_manifest(encode(FEATURES))
    own = marble(core)
    store.close()
    with pytest.raises(StateError):
        core.raise_counter(own, "n", 7)
    assert core.holdings.counters == {}


def test_t57_a_marble_has_so_many_counters_with_names_so_long() -> None:
    core = with_features().core
    own = marble(core)
    for number in range(MAX_COUNTERS):
        core.raise_counter(own, f"n{number}", 1)
    with pytest.raises(InputError, match="at most 1000 counters"):
        core.raise_counter(own, "one more", 1)
    assert core.raise_counter(own, "n3", 2) == 1
    with pytest.raises(InputError, match="at most 1024 bytes"):
        core.raise_counter(own, "é" * (MAX_COUNTER_NAME // 2 + 1), 1)


def test_t60_nobody_but_a_marble_reaches_a_counter() -> None:
    made = make_coordinator()
    secret = {"Type": "cert-ecdsa", "Size": 256, "Shared": True, "Cert": {"Subject": {"CommonName": UUID}}}
    authority = {**secret, "Cert": {"Subject": {"CommonName": UUID}, "IsCA": True}}
    made.core.set_manifest(encode({**FEATURES, "Secrets": {"c": secret, "a": authority}}))
    identity = made.core.holdings.identity
    foreign = issue_marble_root(issue_intermediate(issue_root(["x"], now=NOW), ["x"], now=NOW), now=NOW)
    for certificate in (
        None,
        b"no certificate",
        issue_self_signed(["x"], common_name=UUID, now=NOW).certificate_der,
        foreign.certificate_der,
        identity.root.certificate_der,
        identity.intermediate.certificate_der,
        identity.marble_root.certificate_der,
        made.core.holdings.secrets["c"].certificate,
        made.core.holdings.secrets["a"].certificate,
    ):
        with pytest.raises(UnauthorizedError, match=r"^unauthorized marble: "):
            made.core.authenticate_marble(certificate)


def test_t60_what_a_certificate_authority_of_a_manifest_signs_is_no_marble() -> None:
    made = make_coordinator()
    authority = {"Type": "cert-ecdsa", "Size": 384, "Shared": True, "Cert": {"IsCA": True}}
    made.core.set_manifest(encode({**FEATURES, "Secrets": {"a": authority}}))
    held = made.core.holdings.secrets["a"]
    issuer = KeyPair(x509.load_der_x509_certificate(held.certificate), parse_private_key_der(held.private))
    forged = issue_leaf(Csr(Names()), issuer=issuer, uuid=UUID, marble_type="m", allowed_names=None, now=NOW)
    with pytest.raises(UnauthorizedError, match="signed by unknown authority"):
        made.core.authenticate_marble(forged.certificate_der)


def test_t39_a_leaf_out_of_its_time_is_refused() -> None:
    core = with_features().core
    leaf = leaf_of(core)
    issuer = core.holdings.identity.marble_root.certificate
    assert verify_leaf(leaf, issuer=issuer, now=NOW) == LeafIdentity("m", UUID)
    for moment, word in ((NOW - timedelta(days=1), "before"), (NOW + timedelta(days=365 * 293), "after")):
        with pytest.raises(PkiError, match=rf"has expired or is not yet valid: current time .* is {word} "):
            verify_leaf(leaf, issuer=issuer, now=moment)


def store_at(issuer: x509.Certificate, moment: datetime) -> crypto.X509Store:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(issuer))
    store.set_time(moment.replace(tzinfo=None))
    return store


def test_t39_a_certificate_ends_when_the_manifest_says_and_so_does_its_tls() -> None:
    core = make_coordinator().core
    core.set_manifest(encode({**FEATURES, "Marbles": {"m": {"Package": "p", "LeafTTL": "24h"}}}))
    leaf = leaf_of(core)
    end = NOW + timedelta(hours=24)
    assert x509.load_der_x509_certificate(leaf).not_valid_after_utc == end
    issuer = core.holdings.identity.marble_root.certificate
    shown = crypto.load_certificate(crypto.FILETYPE_ASN1, leaf)
    # The very check that OpenSSL makes in a handshake, on either side.
    crypto.X509StoreContext(store_at(issuer, end - timedelta(seconds=1)), shown).verify_certificate()
    with pytest.raises(crypto.X509StoreContextError, match="expired"):
        crypto.X509StoreContext(store_at(issuer, end + timedelta(seconds=1)), shown).verify_certificate()
    with pytest.raises(PkiError, match="expired"):
        verify_leaf(leaf, issuer=issuer, now=end + timedelta(seconds=1))


def test_a_leaf_from_before_an_update_has_to_be_renewed() -> None:
    owner = issue_self_signed(["o"], common_name="o", now=NOW)
    owned = {
        **FEATURES,
        "Users": {"o": {"Certificate": owner.certificate_pem.decode(), "Roles": ["r"]}},
        "Roles": {"r": {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]}},
    }
    core = make_coordinator().core
    core.set_manifest(encode(owned))
    leaf = leaf_of(core)
    core.updates.update("o", encode({**owned, "Marbles": {"m": {"Package": "p"}}}))
    with pytest.raises(UnauthorizedError, match="signed by unknown authority"):
        core.authenticate_marble(leaf)
    assert core.authenticate_marble(leaf_of(core)).uuid == UUID


async def test_the_gate_is_asked_before_the_caller_and_the_caller_before_the_body(executor: Executor) -> None:
    made = make_coordinator()
    for manifest in (None, PLAIN_MANIFEST):
        if manifest:
            made.core.set_manifest(encode(manifest))
        for path, gate in (("/monotonic-counter", "MonotonicCounter"), ("/sign-quote", "SignQuoteEndpoint")):
            response = await post(made, executor, path, b"no JSON", None)
            message = f"{gate} feature is not enabled in the manifest"
            assert answered(response) == (403, {"status": "error", "data": None, "message": message})
    made = with_features()
    assert (await post(made, executor, "/monotonic-counter", b"no JSON", None)).status == 401
    assert (await post(made, executor, "/monotonic-counter", b"no JSON", leaf_of(made.core))).status == 400


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"[]",
            b"null x",
            b'{"value":1e3}',
            b'{"value":1.5}',
            b'{"value":"1"}',
            b'{"value":18446744073709551616}',
        ),
        *(
            b'{"name":1}',
            b'{"value":-0.1}',
            b"[" * 70 + b"]" * 70,
            b'{"name":"\xff',
            b'{"sgxQuote":"!"}',
            b'{"sgxQuote":7}',
        ),
    ],
)
@pytest.mark.parametrize("path", ["/monotonic-counter", "/sign-quote"])
async def test_t13_a_hostile_body_is_a_refusal_and_changes_nothing(executor: Executor, path: str, body: bytes) -> None:
    made = with_features()
    response = await post(made, executor, path, body, leaf_of(made.core))
    status, answer = answered(response)
    assert status in (200, 400)
    assert answer["status"] == ("success" if status == 200 else "fail")
    assert not any(values and max(values.values()) > 0 for values in made.core.holdings.counters.values())


@pytest.mark.parametrize("version", [3, 0x7F])
async def test_t13_a_client_certificate_of_no_known_version_is_a_stranger(executor: Executor, version: int) -> None:
    made = with_features()
    leaf = bytearray(leaf_of(made.core))
    assert leaf[8:13] == b"\xa0\x03\x02\x01\x02"  # the version
    leaf[12] = version
    for path, code in (("/monotonic-counter", 401), ("/update-cancel", 401)):
        assert (await post(made, executor, path, b"{}", bytes(leaf))).status == code


# ---- signed quotes


def test_a_quote_of_the_own_platform_is_signed_with_its_status() -> None:
    tee = FakeTee()
    core = with_features(tee=tee).core
    quote = tee.issue_evidence(report_data(role=Role.MARBLE, key=b"anything"))
    for sent in (quote, quote[16:]):  # with Open Enclave's header, and bare
        signed = core.sign_quote(sent)
        assert signed.tcb_status == "UpToDate"
        root = core.holdings.identity.root_key.public_key()
        root.verify(signed.signature, base64.b64encode(sent) + b"UpToDate", ECDSA(SHA256()))


async def test_the_answer_to_a_quote_has_status_and_signature(executor: Executor) -> None:
    tee = FakeTee()
    made = with_features(tee=tee)
    quote = tee.issue_evidence(bytes(64))
    body = json.dumps({"sgxQuote": base64.b64encode(quote).decode()}).encode()
    status, answer = answered(await post(made, executor, "/sign-quote", body, None))
    assert (status, list(answer["data"])) == (200, ["tcbStatus", "verificationSignature"])


@pytest.mark.parametrize("foreign", [False, True])
def test_t04_no_quote_is_signed_that_the_own_anchor_does_not_vouch_for(foreign: bool) -> None:
    core = with_features(tee=FakeTee()).core
    quote = FakeTee(platform=other_platform() if foreign else None).issue_evidence(bytes(64))
    altered = quote if foreign else quote[:100] + bytes([quote[100] ^ 1]) + quote[101:]
    with pytest.raises(FieldError) as caught:
        core.sign_quote(altered)
    assert str(caught.value) == "quote verification failed"
    assert caught.value.detail.startswith("quote verification failed: ")
    assert caught.value.field == "sgxQuote"


def test_t04_without_the_gate_nothing_is_signed() -> None:
    tee = FakeTee()
    core = make_coordinator(tee=tee).core
    with pytest.raises(FeatureOffError):
        core.sign_quote(tee.issue_evidence(bytes(64)))


def test_where_the_platforms_folder_lies_is_not_for_callers() -> None:
    made = with_features(tee=FakeTee())

    def judge(_: bytes) -> Claims:
        message = "no simulated platform in /secret/place"
        raise PlatformError(message)

    core = Coordinator(made.store, Settings(tee="simulated"), replace(made.world, judge=judge))
    core.set_manifest(encode(FEATURES))
    with pytest.raises(FieldError) as caught:
        core.sign_quote(b"quote")
    assert "/secret/place" not in str(caught.value) + caught.value.detail
    assert "/secret/place" in made.log.getvalue()


def test_without_a_verifier_no_quote_is_signed() -> None:
    core = with_features().core
    for quote, reason in ((b"", "empty report"), (b"abc", "OE_UNSUPPORTED")):
        with pytest.raises(FieldError) as caught:
            core.sign_quote(quote)
        assert caught.value.detail == f"quote verification failed: {reason}"
