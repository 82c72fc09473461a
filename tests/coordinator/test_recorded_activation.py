"""Every recorded activation, put to ours: the same names, the same values where they are not random, the same refusals."""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ssl import TLSVersion
from typing import Any

import pytest
from cryptography import x509

from fakes.core import PLAIN_MANIFEST, encode, make_coordinator, make_order
from fakes.programs import CoordinatorProcess
from fakes.tee import NOW
from tacit.coordinator.activate import Order, release
from tacit.coordinator.api.mesh import MeshApi
from tacit.coordinator.secrets import NewValue, Secret
from tacit.coordinator.state import Holdings, Identity, State
from tacit.edge import GrpcCall
from tacit.errors import RequestError
from tacit.manifest import Unattested, parse_manifest
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.keys import parse_private_key_der
from tacit.pki.tls import unverified_client_context

CERTIFICATE = issue_self_signed(["localhost"], common_name="MarbleRun Marble", now=NOW).certificate_der
CALL = GrpcCall("/rpc.Marble/Activate", {}, CERTIFICATE, None)
MANIFESTS = {"typical-ok": "typical-tf-server.json", "err-typical-max-activations": "typical-tf-server.json"}
BY_START = {"all": "secrets-all.json", "nobind": "secrets-all.json", "bare": "secrets-all.json", "tls": "tls.json"}
MINIMAL = "minimal.json"
# These need more than a manifest and one call; each has a test of its own below.
WITHOUT_MANIFEST = ("err-wrong-state", "err-in-recovery")
SPENT, NO_CERTIFICATE = "err-max-activations", "err-no-client-cert"
ELSEWHERE = {*WITHOUT_MANIFEST, SPENT, NO_CERTIFICATE}
COUNT = 30  # recorded activations


def recorded_cases() -> list[str]:
    folder = Path(__file__).parents[2].parent / "shared" / "vectors" / "marblerun" / "activation"
    return sorted(path.stem for path in folder.glob("*.json") if path.stem not in ELSEWHERE)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def manifest_of(case: str) -> str:
    if case == "err-user-secrets-unset":
        return "secrets-all.json"
    return MANIFESTS.get(case) or next((name for start, name in BY_START.items() if case.startswith(start)), MINIMAL)


def order_of(recorded: dict[str, Any]) -> Order:
    asked = recorded["request"]
    csr, quote = (base64.b64decode(asked[name]) for name in ("CSR", "Quote"))
    return Order(asked["MarbleType"], asked["UUID"], csr, quote, CERTIFICATE)


def message_of(recorded: dict[str, Any]) -> bytes:
    from tacit.wire.pb.marble_pb2 import ActivationRequest

    order = order_of(recorded)
    request = ActivationRequest(quote=order.evidence, csr=order.csr, marble_type=order.marble_type, uuid=order.uuid)
    return request.SerializeToString()


@pytest.mark.parametrize("case", recorded_cases())
async def test_an_activation_as_recorded(case: str, shared_vectors: Path, executor: ThreadPoolExecutor) -> None:
    from tacit.wire.pb.marble_pb2 import ActivationResponse

    vectors = shared_vectors / "marblerun"
    recorded = json.loads((vectors / "activation" / f"{case}.json").read_text())
    made = make_coordinator()
    made.core.set_manifest((vectors / "manifests" / manifest_of(case)).read_bytes())
    if manifest_of(case) == "secrets-all.json" and "unset" not in case:
        posted = json.loads((vectors / "rest" / "6-secrets" / "set-ok-v2.json").read_text())
        body = json.loads(posted["request"]["body"]["text"])["secrets"]
        values = {
            name: NewValue(*(base64.b64decode(one.get(key, "")) for key in ("Key", "Cert", "Private")))
            for name, one in body.items()
        }
        made.core.write_secrets("alice", {**values, "plain_user": NewValue(key=b"word")})
    api = MeshApi(made.core, executor=executor, log=made.world.log)
    message = message_of(recorded)
    if case == "err-typical-max-activations":
        for _ in range(3):
            await api.activate(message, CALL)
    if "error" in recorded:
        with pytest.raises(RequestError) as caught:
            await api.activate(message, CALL)
        assert int(caught.value.status) == recorded["error"]["number"]
        compare_text(case, str(caught.value), recorded["error"]["message"])
        return
    answer = ActivationResponse.FromString(await api.activate(message, CALL))
    expected = recorded["response"]["Parameters"]
    assert sorted(answer.parameters.files) == sorted(expected["Files"])
    assert sorted(answer.parameters.env) == sorted(expected["Env"])
    assert list(answer.parameters.argv) == expected["Argv"]
    if "MARBLE_TTLS_CONFIG" in expected["Env"]:
        ours, theirs = (
            answer.parameters.env["MARBLE_TTLS_CONFIG"],
            base64.b64decode(expected["Env"]["MARBLE_TTLS_CONFIG"]),
        )
        assert without_pem(ours.decode()) == without_pem(theirs.decode())
    chain = "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"
    assert shape_of(answer.parameters.env[chain]) == shape_of(base64.b64decode(expected["Env"][chain]))
    for name, value in expected["Env"].items():
        theirs = base64.b64decode(value)
        if theirs.startswith(b"-----BEGIN"):
            assert without_pem(answer.parameters.env[name].decode()) == without_pem(theirs.decode())


def shape_of(chain: bytes) -> list[Any]:
    """What a leaf says besides keys and times: its subject but our mark, and its extensions in their order."""
    leaf, _ = x509.load_pem_x509_certificates(chain)
    subject = [(one.oid, one.value) for one in leaf.subject if one.value != "UNATTESTED"]
    own_key = (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier)
    extensions = [
        (one.oid, one.critical, None if isinstance(one.value, own_key) else one.value) for one in leaf.extensions
    ]
    return [subject, extensions, leaf.signature_algorithm_oid]


def compare_text(case: str, ours: str, theirs: str) -> None:
    """Equal, but for the inner words of Go's ASN.1 parser, and which of several unset secrets is named."""
    prefix, _, _ = theirs.partition("asn1: ")
    if case == "err-user-secrets-unset":
        ours, theirs = (
            re.sub(r"(plain|sym|cert)_user\w*(\.\w+)*|raw|hex|base64", "_", text) for text in (ours, theirs)
        )
    assert ours == theirs or (prefix != theirs and ours.startswith(prefix))


def without_pem(text: str) -> str:
    return re.sub(r"-----BEGIN ([^-]*)-----.*?-----END \1-----(\\n|\n)", r"<\1>", text, flags=re.DOTALL)


def test_every_recorded_activation_is_replayed(
    shared_vectors: Path, record_property: Callable[[str, object], None]
) -> None:
    recorded = {path.stem for path in (shared_vectors / "marblerun" / "activation").glob("*.json")}
    assert len(recorded) == COUNT
    assert {*recorded_cases(), *ELSEWHERE} == recorded
    record_property("recorded activations", len(recorded))


async def test_a_spent_budget_as_recorded(shared_vectors: Path, executor: ThreadPoolExecutor) -> None:
    recorded = json.loads((shared_vectors / "marblerun" / "activation" / f"{SPENT}.json").read_text())
    made = make_coordinator()
    made.core.set_manifest(encode({**PLAIN_MANIFEST, "Marbles": {"m": {"Package": "p", "MaxActivations": 1}}}))
    api = MeshApi(made.core, executor=executor, log=made.world.log)
    await api.activate(message_of(recorded), CALL)
    with pytest.raises(RequestError) as caught:
        await api.activate(message_of(recorded), CALL)
    assert (int(caught.value.status), str(caught.value)) == (7, recorded["error"]["message"])


async def test_a_connection_without_a_certificate_ends_before_a_call_as_recorded(
    shared_vectors: Path, tmp_path: Path
) -> None:
    recorded = json.loads((shared_vectors / "marblerun" / "activation" / f"{NO_CERTIFICATE}.json").read_text())
    assert recorded["error"]["code"] == "UNAVAILABLE"
    with CoordinatorProcess(tmp_path) as coordinator:
        host, _, port = coordinator.mesh.rpartition(":")
        context = unverified_client_context(alpn=["h2"])
        context.maximum_version = TLSVersion.TLSv1_2  # where the refusal is part of the handshake
        with pytest.raises(OSError, match=r"(?i)handshake|alert|closed|reset"):
            await asyncio.open_connection(host, int(port), ssl=context)


async def test_activation_waits_for_a_manifest(shared_vectors: Path, executor: ThreadPoolExecutor) -> None:
    for case, recovery in zip(WITHOUT_MANIFEST, (False, True), strict=True):
        recorded = json.loads((shared_vectors / "marblerun" / "activation" / f"{case}.json").read_text())
        made = make_coordinator(recovery=recovery)
        api = MeshApi(made.core, executor=executor, log=made.world.log)
        with pytest.raises(RequestError) as caught:
            await api.activate(message_of(recorded), CALL)
        assert (int(caught.value.status), str(caught.value)) == (9, recorded["error"]["message"])


async def test_without_a_client_certificate_nobody_is_activated(executor: ThreadPoolExecutor) -> None:
    made = make_coordinator()
    made.core.set_manifest(encode(PLAIN_MANIFEST))
    api = MeshApi(made.core, executor=executor, log=made.world.log)
    with pytest.raises(RequestError, match="couldn't get marble TLS certificate") as caught:
        await api.activate(b"", GrpcCall(CALL.method, {}, None, None))
    assert int(caught.value.status) == 16


async def test_bytes_that_are_no_message_are_refused(executor: ThreadPoolExecutor) -> None:
    made = make_coordinator()
    api = MeshApi(made.core, executor=executor, log=made.world.log)
    with pytest.raises(RequestError, match="grpc: error unmarshalling request") as caught:
        await api.activate(b"\xff\xff garbage", CALL)
    assert int(caught.value.status) == 13


def recorded_holdings(vectors: Path) -> Holdings:
    """What the recorded coordinator held, from its decrypted state."""
    state = json.loads((vectors / "seal" / "state-plaintext-secrets-all.json").read_text())

    def value(name: str) -> bytes:
        text: str = state[name]
        encoded = text.removeprefix("base64:")
        return text.encode() if encoded == text else base64.b64decode(encoded)

    def pair(certificate: str, key: str) -> KeyPair:
        loaded = x509.load_der_x509_certificate(value(f"certificate:{certificate}"))
        return KeyPair(loaded, parse_private_key_der(value(f"privateKey:{key}")))

    def secrets(kind: str) -> dict[str, Secret]:
        return {
            name.removeprefix(kind): recorded_secret(json.loads(value(name))) for name in state if name.startswith(kind)
        }

    identity = Identity(
        pair("coordinatorRootCert", "coordinatorRootKey"),
        pair("coordinatorIntermediateCert", "coordinatorIntermediateKey"),
        pair("marbleRootCert", "coordinatorIntermediateKey"),
    )
    return Holdings(
        State.ACCEPTING_MARBLES,
        identity,
        parse_manifest(value("manifest")).manifest,
        root_secret=value("rootSecret"),
        previous_root_secret=value("rootSecret"),  # none is recorded before an update,
        secrets=secrets("secret:"),
        previous_secrets=secrets("previousSecret:"),
    )


def recorded_secret(entry: dict[str, Any]) -> Secret:
    def decoded(name: str) -> bytes:
        return base64.b64decode(entry[name] or "")

    flags = entry["Type"], entry["Size"], entry["Shared"], entry["UserDefined"], entry["ValidFor"]
    return Secret(*flags, decoded("Cert"), decoded("Private"), decoded("Public"))


NEW_EACH_TIME = re.compile(r"(rsa|ed)_private|ec384|marble\.(crt|key|pub)|MARBLE_PREDEFINED_(MARBLE|PRIVATE)")


@pytest.mark.parametrize("case", ["all-secrets", "all-secrets-same-uuid", "all-secrets-other-uuid", "all2", "nobind"])
def test_from_the_recorded_state_come_the_recorded_values(case: str, shared_vectors: Path) -> None:
    vectors = shared_vectors / "marblerun"
    holdings = recorded_holdings(vectors)
    assert holdings.manifest is not None
    recorded = json.loads((vectors / "activation" / f"{case}.json").read_text())
    order = order_of(recorded)
    released = release(Unattested("recorded"), holdings, holdings.manifest, order, uuid=order.uuid, now=NOW, mark=None)
    expected = recorded["response"]["Parameters"]
    differing, compared = [], 0
    for ours, theirs in ((released.files, expected["Files"]), (released.env, expected["Env"])):
        assert sorted(ours) == sorted(theirs)
        for name, value in theirs.items():
            if not NEW_EACH_TIME.search(name):
                compared += 1
                differing += [name] if ours[name] != base64.b64decode(value) else []
    assert not differing
    assert compared >= 3


def test_the_configuration_of_transparent_tls_is_escaped_as_go_does() -> None:
    core = make_coordinator().core
    tags = {"t": {"Outgoing": [{"Addr": "a<b>&ü", "Port": "1"}], "Incoming": []}}
    marbles = {"m": {"Package": "p", "TLS": ["t"]}}
    core.set_manifest(encode({**PLAIN_MANIFEST, "Marbles": marbles, "TLS": tags}))
    config = core.activate(make_order()).env["MARBLE_TTLS_CONFIG"]
    assert b'"Outgoing":{"a\\u003cb\\u003e\\u0026\xc3\xbc:1":{"cacrt":"' in config
    assert list(json.loads(config)["tls"]["Outgoing"]) == ["a<b>&ü:1"]
