import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW
from tacit.client import channel
from tacit.client.address import parse_address
from tacit.client.answers import NewSecret, ReadSecret
from tacit.client.coordinator import CoordinatorClient, fingerprint, parse_secrets_file
from tacit.errors import InputError, NotSetError, PeerError, TlsError, UnauthorizedError, UnreachableError
from tacit.pki import issue_intermediate, issue_leaf, issue_root, issue_self_signed, parse_csr
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key

CANARY = b"CANARY-77aa"


def connect(coordinator: FakeCoordinator) -> CoordinatorClient:
    return CoordinatorClient(coordinator.host, roots_pem=coordinator.root.certificate_pem, timeout=60)


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port that answers its first connection as the test likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(60)


# ---- what it says and sends


def test_status_has_code_message_and_mark(coordinator: FakeCoordinator) -> None:
    with connect(coordinator) as client:
        status = client.status()
    assert (status.code, status.message) == (3, "Coordinator is running.")
    assert status.mark is not None
    assert (status.mark.tee, status.mark.epoch, status.mark.head) == ("simulated", 1, b"\1" * 32)


def test_a_coordinator_of_marblerun_has_no_mark(coordinator: FakeCoordinator) -> None:
    coordinator.marked = None
    with connect(coordinator) as client:
        assert client.status().mark is None


def test_an_older_coordinator_is_asked_by_v1(coordinator: FakeCoordinator) -> None:
    coordinator.only_v1 = True
    with connect(coordinator) as client:
        assert client.status().code == 3
        assert client.quote().evidence
        assert client.manifest().raw == coordinator.manifest
        assert client.set_manifest(b'{"a": 1}') == {}
    assert coordinator.requests[-1] == ("POST", "/manifest", b'{"a": 1}')


def test_only_405_means_an_older_coordinator(coordinator: FakeCoordinator) -> None:
    coordinator.answers["GET", "/api/v2/status"] = (404, b"nothing here")
    with (
        connect(coordinator) as client,
        pytest.raises(PeerError, match=r"404 Not Found: error: nothing here; is it a coordinator"),
    ):
        client.status()


def test_the_manifest_comes_with_fingerprint_and_signature(coordinator: FakeCoordinator) -> None:
    with connect(coordinator) as client:
        found = client.manifest()
    assert found.fingerprint == fingerprint(coordinator.manifest)
    assert found.signature


def test_a_manifest_goes_out_as_it_is(coordinator: FakeCoordinator) -> None:
    raw = b'{ "x":\t1 }\n'
    coordinator.answers["POST", "/api/v2/manifest"] = (
        200,
        b'{"status":"success","data":{"RecoverySecrets":{"alice":"AAEC"}}}\n',
    )
    with connect(coordinator) as client:
        assert client.set_manifest(raw) == {"alice": b"\0\1\2"}
    assert json.loads(coordinator.requests[-1][2]) == {"manifest": base64.b64encode(raw).decode()}


def test_recorded_answers_of_marblerun_are_read(coordinator: FakeCoordinator, shared_vectors: Path) -> None:
    folder = shared_vectors / "marblerun" / "rest"
    texts = [json.loads(file.read_text()) for file in sorted((folder / "2-after-minimal").glob("*.json"))]
    recorded = {(case["request"]["method"], case["request"]["path"]): case["response"] for case in texts}
    for path in ("/api/v2/status", "/api/v2/quote", "/api/v2/manifest"):
        answer = recorded["GET", path]
        coordinator.answers["GET", path] = (answer["status"], answer["body"]["text"].encode())
    with connect(coordinator) as client:
        assert client.status().code == 3
        assert client.quote().chain_pem.count(b"BEGIN CERTIFICATE") == 2
        assert client.quote().evidence == b""
        manifest = client.manifest()
    assert manifest.fingerprint == fingerprint(manifest.raw)


def test_a_manifest_that_was_never_set_is_told(coordinator: FakeCoordinator) -> None:
    coordinator.only_v1 = True
    data = '{"ManifestSignatureRootECDSA":null,"ManifestSignature":"","Manifest":null}'
    coordinator.answers["GET", "/manifest"] = (200, f'{{"status":"success","data":{data}}}'.encode())
    with connect(coordinator) as client, pytest.raises(NotSetError, match="no manifest yet"):
        client.manifest()


def test_secrets_are_read_and_written(coordinator: FakeCoordinator) -> None:
    entry = '{"Type":"symmetric-key","Size":128,"Shared":true,"UserDefined":true,"Cert":null,"ValidFor":0,"Private":"AAE=","Public":"AAE="}'
    coordinator.answers["GET", "/api/v2/secrets"] = (
        200,
        f'{{"status":"success","data":{{"secrets":{{"a b":{entry}}}}}}}'.encode(),
    )
    coordinator.answers["POST", "/api/v2/secrets"] = (200, b'{"status":"success","data":null}')
    with connect(coordinator) as client:
        assert client.secrets(["a b", "c&d"]) == {
            "a b": ReadSecret("symmetric-key", 128, True, True, 0, b"", b"\0\1", b"\0\1")
        }
        assert coordinator.requests[-1][1] == "/api/v2/secrets?s=a+b&s=c%26d"
        client.set_secrets({"k": NewSecret(key=b"\1\2"), "c": NewSecret(certificate=b"\3", private=b"\4")})
    assert json.loads(coordinator.requests[-1][2]) == {
        "secrets": {"k": {"Key": "AQI="}, "c": {"Cert": "Aw==", "Private": "BA=="}}
    }


# ---- refusals, in MarbleRun's words


def test_a_refusal_has_method_address_code_and_message(coordinator: FakeCoordinator) -> None:
    coordinator.answers["POST", "/api/v2/manifest"] = (
        500,
        b'{"status":"error","data":null,"message":"server is not in expected state"}\n',
    )
    with connect(coordinator) as client, pytest.raises(PeerError) as refused:
        client.set_manifest(b"{}")
    assert str(refused.value) == (
        f"POST https://{coordinator.host}/api/v2/manifest: 500 Internal Server Error: "
        "error: server is not in expected state"
    )


def test_a_stranger_s_refusal_is_a_class_of_its_own(coordinator: FakeCoordinator) -> None:
    coordinator.answers["GET", "/api/v2/secrets"] = (
        401,
        b'{"status":"fail","data":null,"message":"unauthorized user: x"}',
    )
    with (
        connect(coordinator) as client,
        pytest.raises(UnauthorizedError, match=r": authorizing user: unauthorized user: x$"),
    ):
        client.secrets(["a"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"data":',
        b'{"status":"success","data":{"code":"x"}}',
        b"[]",
        b"\xff\xfe",
        b'{"data":' + b"[" * 100_000,
    ],
    ids=["empty", "HTML", "cut", "another type", "list", "no text", "deep"],
)
def test_nonsense_is_refused(coordinator: FakeCoordinator, body: bytes) -> None:
    coordinator.answers["GET", "/api/v2/status"] = (200, body)
    with connect(coordinator) as client, pytest.raises(PeerError, match="something else than a coordinator"):
        client.status()


def test_a_huge_answer_is_not_read_to_its_end(coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_ANSWER", 1 << 20)
    coordinator.answers["GET", "/api/v2/status"] = (200, b" " * (3 << 20))
    with connect(coordinator) as client, pytest.raises(PeerError, match="more than 1 MiB"):
        client.status()


def test_a_body_that_is_cut_short_is_not_taken_for_a_whole_one(coordinator: FakeCoordinator) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"status":"success","data":{"code":3}}')

    with raw_server(answer) as port:
        plain = channel.HttpsChannel(parse_address(f"127.0.0.1:{port}", default_port=1), None, timeout=60)
        with pytest.raises(PeerError, match="52 bytes are missing"):
            plain.call("GET", "/status")


def test_a_connection_that_the_server_ended_meanwhile_is_not_used_again(coordinator: FakeCoordinator) -> None:
    with connect(coordinator) as client:
        assert client.status().code == 3
        (kept,) = client._channel._idle
        kept.sock.shutdown(socket.SHUT_RD)  # what the end of a connection looks like from here
        assert client.status().code == 3


def test_a_redirect_is_not_followed(coordinator: FakeCoordinator) -> None:
    coordinator.answers["GET", "/api/v2/status"] = (307, b"elsewhere")
    with connect(coordinator) as client, pytest.raises(PeerError, match="307"):
        client.status()


# ---- the way there


def test_t40_another_root_is_refused(coordinator: FakeCoordinator) -> None:
    other = issue_root(("localhost",), now=NOW)
    with (
        CoordinatorClient(coordinator.host, roots_pem=other.certificate_pem) as client,
        pytest.raises(TlsError, match="does not lead to the attested root"),
    ):
        client.status()


def test_t40_the_name_is_checked(coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda address, *a, **k: _connect(coordinator.port))
    with (
        CoordinatorClient(f"elsewhere.test:{coordinator.port}", roots_pem=coordinator.root.certificate_pem) as client,
        pytest.raises(TlsError, match=r"EDG_COORDINATOR_DNS_NAMES=elsewhere.test"),
    ):
        client.status()


def _connect(port: int) -> socket.socket:
    connection = socket.socket()
    connection.connect(("127.0.0.1", port))
    return connection


def test_t23_a_proxy_in_the_environment_is_not_taken(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with connect(coordinator) as client:
        assert client.status().code == 3


def test_a_closed_port_is_named() -> None:
    with (
        CoordinatorClient("localhost:1", roots_pem=issue_root((), now=NOW).certificate_pem) as client,
        pytest.raises(UnreachableError, match="nobody answers at localhost:1"),
    ):
        client.status()


def test_a_name_that_does_not_resolve_is_named() -> None:
    with (
        CoordinatorClient("no-such-host.invalid", roots_pem=issue_root((), now=NOW).certificate_pem) as client,
        pytest.raises(UnreachableError, match=r"no-such-host.invalid:4433"),
    ):
        client.status()


def test_a_port_that_speaks_no_tls_is_told() -> None:
    with raw_server(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n")) as port:
        client = CoordinatorClient(f"localhost:{port}", roots_pem=issue_root((), now=NOW).certificate_pem, timeout=60)
        with client, pytest.raises((TlsError, UnreachableError, PeerError), match=str(port)):
            client.status()


def test_a_port_that_stays_silent_is_given_up() -> None:
    with raw_server(lambda connection: connection.recv(1 << 16) and connection.recv(1) and None) as port:
        client = CoordinatorClient(f"localhost:{port}", roots_pem=issue_root((), now=NOW).certificate_pem, timeout=0.3)
        with client, pytest.raises(UnreachableError, match="answer"):
            client.status()


# ---- secrets in files


def test_a_file_of_secrets_is_read() -> None:
    assert parse_secrets_file(b'{"k": {"Key": "AQI="}, "c": {"Cert": "Aw==", "Private": "BA=="}}') == {
        "k": NewSecret(key=b"\1\2"),
        "c": NewSecret(certificate=b"\3", private=b"\4"),
    }


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"k": {"Kye": "AQI="}}', b'{"k": {"Key": "???"}}', b'{"k": "AQI="}', b"\xff"]
)
def test_another_file_is_refused_with_the_shape_it_should_have(raw: bytes) -> None:
    with pytest.raises(InputError, match="NAME"):
        parse_secrets_file(raw)


def test_t24_secrets_are_silent_in_text_and_in_errors() -> None:
    text = base64.b64encode(CANARY)
    for value in (NewSecret(CANARY, b"", CANARY), ReadSecret("plain", 0, True, True, 0, b"", CANARY, CANARY)):
        assert "CANARY" not in repr(value)
    with pytest.raises(InputError) as refused:
        parse_secrets_file(b'{"k": {"Key": "' + text + b'", "X": "' + text + b'"}}')
    assert text.decode() not in str(refused.value)


def test_a_client_certificate_is_shown_to_who_asks(coordinator: FakeCoordinator) -> None:
    user = issue_self_signed((), common_name="owner", now=NOW)
    roots = coordinator.root.certificate_pem
    with CoordinatorClient(coordinator.host, roots_pem=roots, certificate=user) as client:
        assert client.status().code == 3


def test_t38_a_marble_that_names_the_coordinator_is_told_no_secret() -> None:
    root = issue_root(("localhost",), now=NOW)
    intermediate = issue_intermediate(root, ("localhost",), now=NOW)
    csr = parse_csr(create_csr(generate_key(), ["localhost"]))
    leaf = issue_leaf(csr, issuer=intermediate, uuid="0" * 36, marble_type="any", allowed_names=None, now=NOW)
    marble = FakeCoordinator(root=root, intermediate=intermediate, shown=leaf, above=intermediate.certificate_pem)
    with (
        marble,
        CoordinatorClient(marble.host, roots_pem=root.certificate_pem, timeout=60) as client,
        pytest.raises(TlsError, match="not that certificate"),
    ):
        client.set_secrets({"model_key": NewSecret(CANARY)})
    assert not marble.requests


# ---- updates and recovery, in both versions of the API


def success(data: object) -> tuple[int, bytes]:
    return 200, json.dumps({"status": "success", "data": data}).encode()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_the_update_log_is_its_lines(coordinator: FakeCoordinator) -> None:
    coordinator.answers["GET", "/api/v2/update"] = success({"updateLog": ["a", "b"]})
    with connect(coordinator) as client:
        assert client.update_log() == ("a", "b")
    coordinator.answers.clear()
    coordinator.only_v1 = True
    coordinator.answers["GET", "/update"] = success("a\nb\n")
    coordinator.answers["GET", "/api/v2/update"] = (405, b"")
    with connect(coordinator) as client:
        assert client.update_log() == ("a", "b")


def test_an_update_says_who_is_still_needed(coordinator: FakeCoordinator) -> None:
    waiting = {"missingAcknowledgments": 2, "missingUsers": ["bob", "carol"]}
    coordinator.answers["POST", "/api/v2/update"] = success(waiting)
    with connect(coordinator) as client:
        outcome = client.update(b"raw")
    assert (outcome.needed, outcome.missing, outcome.recovery_secrets) == (2, ("bob", "carol"), {})
    method, path, body = coordinator.requests[-1]
    assert (method, path, json.loads(body)) == ("POST", "/api/v2/update", {"manifest": b64(b"raw")})


def test_an_update_that_is_in_force_may_bring_recovery_secrets(coordinator: FakeCoordinator) -> None:
    done = {"missingAcknowledgments": 0, "missingUsers": None, "recoverySecrets": {"r": b64(b"secret")}}
    coordinator.answers["POST", "/api/v2/update"] = success(done)
    with connect(coordinator) as client:
        outcome = client.update(b"raw")
    assert (outcome.needed, outcome.missing, outcome.recovery_secrets) == (0, (), {"r": b"secret"})


def test_version_1_says_nothing_of_an_update_unless_there_are_recovery_secrets(coordinator: FakeCoordinator) -> None:
    coordinator.answers["POST", "/api/v2/update"] = (405, b"")
    coordinator.answers["POST", "/update"] = success(None)
    with connect(coordinator) as client:
        assert client.update(b"raw").needed is None
    assert coordinator.requests[-1] == ("POST", "/update", b"raw")
    done = {"missingAcknowledgments": 0, "missingUsers": None, "recoverySecrets": {"r": b64(b"secret")}}
    coordinator.answers["POST", "/update"] = success(done)
    with connect(coordinator) as client:
        assert client.update(b"raw").recovery_secrets == {"r": b"secret"}


def test_a_pending_update_is_its_manifest_and_who_is_missing(coordinator: FakeCoordinator) -> None:
    for path, silent in (("/api/v2/update-manifest", None), ("/update-manifest", "/api/v2/update-manifest")):
        coordinator.answers.clear()
        if silent:
            coordinator.answers["GET", silent] = (405, b"")
        data = {"manifest": b64(b"raw"), "message": "1 user", "missingUsers": ["bob"]}
        coordinator.answers["GET", path] = success(data)
        with connect(coordinator) as client:
            found = client.pending_update()
        assert (found.manifest, found.missing, found.message) == (b"raw", ("bob",), "1 user")


def test_an_acknowledgment_has_the_coordinators_words(coordinator: FakeCoordinator) -> None:
    data = {"message": "1 user", "missingUsers": ["bob"], "missingAcknowledgments": 1}
    coordinator.answers["POST", "/api/v2/update-manifest"] = success(data)
    with connect(coordinator) as client:
        outcome = client.acknowledge_update(b"raw")
    assert (outcome.needed, outcome.missing, outcome.message) == (1, ("bob",), "1 user")
    coordinator.answers["POST", "/api/v2/update-manifest"] = (405, b"")
    coordinator.answers["POST", "/update-manifest"] = success("1 user")
    with connect(coordinator) as client:
        older = client.acknowledge_update(b"raw")
    assert (older.needed, older.message) == (None, "1 user")


def test_an_update_is_cancelled_in_both_versions(coordinator: FakeCoordinator) -> None:
    coordinator.answers["POST", "/api/v2/update-cancel"] = success({"message": "gone"})
    with connect(coordinator) as client:
        assert client.cancel_update() == "gone"
    coordinator.answers["POST", "/api/v2/update-cancel"] = (405, b"")
    coordinator.answers["POST", "/update-cancel"] = success("gone")
    with connect(coordinator) as client:
        assert client.cancel_update() == "gone"


def test_a_recovery_secret_goes_with_its_signature_or_in_version_1_alone(coordinator: FakeCoordinator) -> None:
    coordinator.answers["POST", "/api/v2/recover"] = success({"remaining": 1, "message": "next"})
    with connect(coordinator) as client:
        found = client.recover(b"share", b"signed")
    assert (found.remaining, found.message) == (1, "next")
    sent = json.loads(coordinator.requests[-1][2])
    assert sent == {"recoverySecret": b64(b"share"), "recoverySecretSignature": b64(b"signed")}
    coordinator.answers["POST", "/api/v2/recover"] = (405, b"")
    coordinator.answers["POST", "/recover"] = success({"StatusMessage": "Recovery successful."})
    with connect(coordinator) as client:
        older = client.recover(b"share", b"signed")
    assert (older.remaining, older.message) == (None, "Recovery successful.")
    assert coordinator.requests[-1] == ("POST", "/recover", b"share")


def test_the_key_for_recovery_secrets_comes_as_it_is(coordinator: FakeCoordinator) -> None:
    data = {"algorithm": "RSA", "ephemeralPublicKey": b64(b"der")}
    coordinator.answers["GET", "/api/v2/recover/public-key"] = success(data)
    with connect(coordinator) as client:
        assert client.recovery_public_key() == b"der"


@pytest.mark.parametrize("call", ["update_log", "pending_update", "cancel_update", "recovery_public_key"])
def test_nonsense_in_the_place_of_an_answer_is_refused(coordinator: FakeCoordinator, call: str) -> None:
    for path in ("update", "update-manifest", "update-cancel", "recover/public-key"):
        for method in ("GET", "POST"):
            coordinator.answers[method, f"/api/v2/{path}"] = success([1])
    with connect(coordinator) as client, pytest.raises(PeerError, match="something else than a coordinator's JSON"):
        getattr(client, call)()
