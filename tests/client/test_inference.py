import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW, FakeTee
from tacit.client import connect as connect_module
from tacit.client.address import Address
from tacit.client.coordinator import fingerprint
from tacit.client.inference import RestServingClient, ServingClient, TensorSpec, VersionStatus, fit_to
from tacit.client.inference.grpc import AsyncServingClient, grpc_error
from tacit.client.session import Model
from tacit.client.session.model import AsyncModel
from tacit.client.trust import UNATTESTED, Expectation, TrustStore
from tacit.errors import (
    EvidenceError,
    InputError,
    ManifestError,
    MeasurementError,
    NotSetError,
    NotTrustedError,
    PeerError,
    PinMismatchError,
    RequestError,
    RollbackError,
    Status,
    TacitError,
    TlsError,
    UnreachableError,
)
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_root, parse_csr
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.wire.pb import serving_pb2
from tacit.wire.tensor import DT_STRING, Tensor, encode_tensor, parse_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


@dataclass
class Mesh:
    root: KeyPair
    intermediate: KeyPair
    leaf: KeyPair

    @property
    def chain(self) -> bytes:
        return self.leaf.certificate_pem + self.intermediate.certificate_pem


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    root = issue_root(("localhost",), now=NOW)
    intermediate = issue_intermediate(root, ("localhost",), now=NOW)
    return Mesh(root, intermediate, leaf_for("localhost", intermediate))


def leaf_for(name: str, intermediate: KeyPair) -> KeyPair:
    csr = parse_csr(create_csr(generate_key(), (name,)))
    uuid = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
    return issue_leaf(csr, issuer=intermediate, uuid=uuid, marble_type="tf", allowed_names=None, now=NOW)


@dataclass
class FakeServer:
    """A model `double` with float input `x` and output `y` = 2x, and one `pair` with two of each."""

    port: int = 0
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    answers: dict[str, Callable[[bytes, grpc.ServicerContext], bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"


def metadata(signatures: Mapping[str, tuple[list[str], list[str]]]) -> bytes:
    found = serving_pb2.SignatureDefMap()
    for name, (inputs, outputs) in signatures.items():
        for names, target in ((inputs, "inputs"), (outputs, "outputs")):
            for tensor in names:
                info = getattr(found.signature_def[name], target)[tensor]
                info.dtype = 1
                info.tensor_shape.dim.add(size=-1)
                info.tensor_shape.dim.add(size=2)
    answer = serving_pb2.GetModelMetadataResponse()
    answer.metadata["signature_def"].value = found.SerializeToString()
    return answer.SerializeToString()


def double(raw: bytes, context: grpc.ServicerContext) -> bytes:
    request = serving_pb2.PredictRequest.FromString(raw)
    answer = serving_pb2.PredictResponse()
    answer.model_spec.name = request.model_spec.name
    answer.model_spec.version.value = 7
    for name, proto in request.inputs.items():
        tensor = parse_tensor(proto)
        output = Tensor(tensor.dtype, tensor.array if tensor.dtype == DT_STRING else tensor.array * 2)
        encode_tensor(output, answer.outputs[name.replace("x", "y")])
    return answer.SerializeToString()


def status(raw: bytes, context: grpc.ServicerContext) -> bytes:
    answer = serving_pb2.GetModelStatusResponse()
    answer.model_version_status.add(version=7, state=30)
    answer.model_version_status.add(version=6, state=50).status.error_message = "gone"
    return answer.SerializeToString()


@pytest.fixture
def server(mesh: Mesh) -> Iterator[FakeServer]:
    fake = FakeServer()
    pair = {"serving_default": (["x1", "x2"], ["y1", "y2"])}
    fake.answers = {
        PREDICT: double,
        STATUS: status,
        METADATA: lambda raw, context: metadata(
            pair if b"pair" in raw else {"serving_default": (["x"], ["y"]), "other": (["x"], ["y"])}
        ),
    }

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            answer = fake.answers.get(details.method)
            if answer is None:
                return None

            def call(raw: bytes, context: grpc.ServicerContext) -> bytes:
                fake.requests.append((details.method, raw))
                return answer(raw, context)

            return grpc.unary_unary_rpc_method_handler(call)

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    running = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()], options=options)
    credentials = grpc.ssl_server_credentials([(mesh.leaf.key_pem, mesh.chain)])
    fake.port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    yield fake
    running.stop(0).wait()


@pytest.fixture
def model(server: FakeServer, mesh: Mesh) -> Iterator[Model]:
    client = ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=60)
    model = Model("double", client, address=server.address, tee="simulated", version=None)
    yield model
    model.close()


# ---- gRPC


class Failed(grpc.RpcError):
    """A call that failed with these words of grpcio's."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("details", "kind", "said"),
    [
        (
            "errors resolving a.b:1: [address lookup failed for a.b:1: Domain name not found]",
            UnreachableError,
            "nobody",
        ),
        ("errors resolving tls.example:1: [address lookup failed]", UnreachableError, "nobody"),
        (
            "failed to connect to all addresses; last error: UNKNOWN: Tls handshake failed: CERTIFICATE_VERIFY_FAILED: "
            "certificate is not yet valid: OK",
            TlsError,
            "is not valid at this time; set the clock",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.1.2.3:1: tcp handshaker shutdown",
            UnreachableError,
            "nobody answers at a.b:1; check the address",
        ),
        ("model 'ssl-scanner' is being loaded", RequestError, "model 'ssl-scanner' is being loaded"),
    ],
)
def test_what_keeps_a_call_from_its_server_is_told_as_what_it_is(
    details: str, kind: type[TacitError], said: str
) -> None:
    error = grpc_error(Address("a.b", 1), Failed(grpc.StatusCode.UNAVAILABLE, details), 5)
    assert type(error) is kind
    assert said in str(error)


def test_an_answer_of_another_protocol_is_the_servers_mistake(model: Model, server: FakeServer) -> None:
    server.answers[PREDICT] = lambda raw, context: b"\xff\xff"
    with pytest.raises(PeerError, match=r"localhost:\d+ answers with something else than this protocol has"):
        model.predict([[1, 2]])


def test_a_signature_that_was_not_there_is_asked_for_again(model: Model, server: FakeServer) -> None:
    known = server.answers[METADATA]
    server.answers[METADATA] = lambda raw, context: metadata({"other": (["x"], ["y"])})
    with pytest.raises(InputError, match="has no signature 'serving_default'; it has: other"):
        model.predict([[1, 2]])
    server.answers[METADATA] = known
    assert model.predict([[1, 2]]).tolist() == [[2, 4]]


def test_an_array_goes_in_and_an_array_comes_out(model: Model) -> None:
    answer = model.predict(np.array([[1, 2]], np.float32))
    assert answer.dtype == np.float32
    assert answer.tolist() == [[2, 4]]


def test_lists_take_the_declared_type(model: Model) -> None:
    assert model.predict([[1, 2]]).dtype == np.float32


def test_names_in_mean_names_out(model: Model) -> None:
    assert {name: value.tolist() for name, value in model.predict({"x": [[1.5, 2]]}).items()} == {"y": [[3, 4]]}


def test_several_inputs_are_given_by_name(server: FakeServer, mesh: Mesh) -> None:
    client = ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=60)
    with client:
        pair = Model("pair", client, address=server.address, tee="simulated", version=None)
        assert sorted(pair.predict({"x1": [[1, 1]], "x2": [[2, 2]]})) == ["y1", "y2"]
        with pytest.raises(InputError, match="has 2 inputs: give {name: array} for x1, x2"):
            pair.predict([[1, 1]])


def test_large_tensors_pass_both_ways(model: Model) -> None:
    big = np.ones((1_000_000, 2), np.float32)
    assert model.predict(big).shape == big.shape


def test_strings_and_bytes_are_sent(server: FakeServer, mesh: Mesh) -> None:
    with ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=60) as client:
        for array in (np.array(["a", "é"]), np.array([b"a", "é".encode()], dtype=object)):
            assert client.predict("double", {"x": array}).outputs["y"].tolist() == [b"a", "é".encode()]


def test_the_version_that_answered_is_told(server: FakeServer, mesh: Mesh) -> None:
    with ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=60) as client:
        assert client.predict("double", {"x": np.ones(2)}, version=7, outputs=("y",)).version == 7
    request = serving_pb2.PredictRequest.FromString(server.requests[-1][1])
    assert request.model_spec.version.value == 7
    assert list(request.output_filter) == ["y"]


def test_versions_are_listed_with_their_state(server: FakeServer, mesh: Mesh) -> None:
    with ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=60) as client:
        assert client.status("double") == (VersionStatus(7, "AVAILABLE", ""), VersionStatus(6, "END", "gone"))


def test_the_signature_is_asked_once(model: Model, server: FakeServer) -> None:
    model.predict([[1, 2]])
    model.predict([[1, 2]])
    assert [method for method, _ in server.requests] == [METADATA, PREDICT, PREDICT]
    assert model.signature().inputs == {"x": TensorSpec(1, (-1, 2))}


def test_a_signature_that_is_not_there_is_told_with_those_that_are(model: Model) -> None:
    with pytest.raises(InputError, match="it has: other, serving_default"):
        model.predict([[1, 2]], signature_name="classify")


def test_a_refusal_keeps_its_canonical_status(model: Model, server: FakeServer) -> None:
    server.answers[PREDICT] = lambda raw, context: context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
    with pytest.raises(RequestError, match="^Servable not found$") as refused:
        model.predict([[1, 2]])
    assert refused.value.status is Status.NOT_FOUND


def test_a_server_that_takes_too_long_is_given_up(server: FakeServer, mesh: Mesh) -> None:
    let_go = threading.Event()
    server.answers[STATUS] = lambda raw, context: b"" if let_go.wait(60) else b"late"
    client = ServingClient(server.address, roots_pem=mesh.intermediate.certificate_pem, timeout=0.2)
    with client, pytest.raises(RequestError) as refused:
        client.status("double")
    let_go.set()
    assert refused.value.status is Status.DEADLINE_EXCEEDED


def test_t40_a_server_of_another_coordinator_is_refused(server: FakeServer) -> None:
    other = issue_intermediate(issue_root((), now=NOW), (), now=NOW)
    client = ServingClient(server.address, roots_pem=other.certificate_pem, timeout=60)
    with client, pytest.raises(TlsError, match="does not lead to the attested coordinator"):
        client.status("double")


def test_t40_the_server_s_name_is_checked(mesh: Mesh) -> None:
    leaf = leaf_for("elsewhere.test", mesh.intermediate)
    running = grpc.server(ThreadPoolExecutor(1))
    port = running.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(leaf.key_pem, leaf.certificate_pem)]))
    running.start()
    client = ServingClient(f"localhost:{port}", roots_pem=mesh.intermediate.certificate_pem, timeout=60)
    with client, pytest.raises(TlsError, match="EDG_MARBLE_DNS_NAMES=localhost"):
        client.status("double")
    running.stop(0).wait()


def test_the_root_alone_is_enough_to_verify_a_server(server: FakeServer, mesh: Mesh) -> None:
    with ServingClient(server.address, roots_pem=mesh.root.certificate_pem, timeout=60) as client:
        assert client.status("double")


def test_t06_a_plaintext_server_is_not_spoken_to() -> None:
    running = grpc.server(ThreadPoolExecutor(1))
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    client = ServingClient(f"localhost:{port}", roots_pem=issue_root((), now=NOW).certificate_pem, timeout=60)
    with client, pytest.raises((TlsError, UnreachableError)):
        client.status("double")
    running.stop(0).wait()


def test_an_address_where_nobody_answers_is_named() -> None:
    client = ServingClient("localhost:1", roots_pem=issue_root((), now=NOW).certificate_pem, timeout=60)
    with client, pytest.raises(UnreachableError, match="localhost:1"):
        client.status("double")


# ---- types


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        (np.array([1.5]), 1, np.float32),
        (np.array([1], np.uint8), 1, np.float32),
        (np.array([1], np.int64), 3, np.int32),
        ([1, 2], 1, np.float32),
        ([1, 2], 9, np.int64),
        ([1, 2], 4, np.uint8),
        ([1.0, 2.0], 3, np.int32),
        (np.array([1], np.float32), 1, np.float32),
    ],
)
def test_values_take_the_declared_type_within_their_kind(value: object, declared: int, expected: type) -> None:
    assert fit_to(TensorSpec(declared, None), "x", value).dtype == expected


@pytest.mark.parametrize(
    ("value", "declared"),
    [(np.array([1.5]), 3), ([1.5], 3), ([300], 4), ([-1], 4), (["a"], 1), ([[1], [1, 2]], 1), (np.array([1j]), 1)],
)
def test_values_that_would_change_their_meaning_are_refused(value: object, declared: int) -> None:
    with pytest.raises(InputError, match="'x'"):
        fit_to(TensorSpec(declared, None), "x", value)


def test_a_model_that_the_server_has_not_is_told_with_the_server(model: Model, server: FakeServer) -> None:
    server.answers[METADATA] = lambda raw, context: context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
    said = rf"^the server at {server.address} has no model 'double'; check the name \(Servable not found\)$"
    with pytest.raises(RequestError, match=said) as refused:
        model.predict([[1, 2]])
    assert refused.value.status is Status.NOT_FOUND


@pytest.mark.parametrize(
    ("code", "said"),
    [(grpc.StatusCode.NOT_FOUND, "has no model 'double' in version 3; check"), (grpc.StatusCode.INTERNAL, "^none$")],
)
async def test_by_asyncio_too_a_model_that_the_server_has_not_is_told(
    code: grpc.StatusCode, said: str, server: FakeServer, mesh: Mesh
) -> None:
    server.answers[METADATA] = lambda raw, context: context.abort(code, "none")
    trusted = grpc.ssl_channel_credentials(mesh.intermediate.certificate_pem)
    client = AsyncServingClient(server.address, grpc.aio.secure_channel(server.address, trusted), timeout=5)
    async with AsyncModel("double", client, address=server.address, tee="simulated", version=3) as model:
        with pytest.raises(RequestError, match=said):
            await model.predict([[1, 2]])


def test_a_refusal_to_tell_of_a_model_stays_what_it_is(model: Model, server: FakeServer) -> None:
    server.answers[METADATA] = lambda raw, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
    with pytest.raises(RequestError, match="^not you$"):
        model.predict([[1, 2]])


def test_text_with_half_a_character_is_refused() -> None:
    with pytest.raises(InputError, match="half a character"):
        ServingClient.without_tls("localhost:1").predict("m", {"x": np.array(["\ud800"])})


@pytest.mark.parametrize(
    ("code", "words", "kind", "said"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "errors resolving nowhere:8500: [field:hostname lookup error:address lookup failed]",
            UnreachableError,
            "nobody answers at nowhere:8500; check the address",
        ),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "Received http2 header with status: 404",
            PeerError,
            "nowhere:8500 speaks HTTP and no gRPC; give the port of the server's gRPC",
        ),
    ],
)
def test_a_wrong_address_is_told_as_one(code: grpc.StatusCode, words: str, kind: type[TacitError], said: str) -> None:
    class Failed(grpc.RpcError):  # type: ignore[misc]  # grpcio's stubs make it Any
        def code(self) -> grpc.StatusCode:
            return code

        def details(self) -> str:
            return words

    error = grpc_error(Address("nowhere", 8500), Failed(), 5)
    assert isinstance(error, kind)
    assert said in str(error)


# ---- REST


@pytest.fixture
def rest() -> Iterator[tuple[FakeCoordinator, RestServingClient]]:
    """The fake coordinator's web server, with a server's answers."""
    with FakeCoordinator() as web:
        client = RestServingClient(f"localhost:{web.port}", roots_pem=web.root.certificate_pem, timeout=60)
        yield web, client
        client.close()


def test_rest_sends_columns_and_reads_outputs(rest: tuple[FakeCoordinator, RestServingClient]) -> None:
    web, client = rest
    web.answers["POST", "/v1/models/double/versions/7:predict"] = (200, b'{"outputs": {"y": [[2.0, NaN]]}}')
    answer = client.predict("double", {"x": np.array([[1, 2]], np.float32)}, version=7, signature_name="s")
    assert np.isnan(answer.outputs["y"][0, 1])
    assert json.loads(web.requests[-1][2]) == {"inputs": {"x": [[1.0, 2.0]]}, "signature_name": "s"}


def test_rest_sends_bytes_as_base64(rest: tuple[FakeCoordinator, RestServingClient]) -> None:
    web, client = rest
    web.answers["POST", "/v1/models/m:predict"] = (200, b'{"outputs": ["a"]}')
    assert client.predict("m", {"x": np.array([b"\0\1"], object)}).outputs["output"].tolist() == ["a"]
    assert json.loads(web.requests[-1][2]) == {"inputs": {"x": [{"b64": "AAE="}]}}


def test_rest_refusals_become_statuses(rest: tuple[FakeCoordinator, RestServingClient]) -> None:
    web, client = rest
    web.answers["GET", "/v1/models/none"] = (404, b'{"error": "no such model"}')
    with pytest.raises(RequestError, match="^no such model$") as refused:
        client.status("none")
    assert refused.value.status is Status.NOT_FOUND


def test_rest_lists_versions(rest: tuple[FakeCoordinator, RestServingClient]) -> None:
    web, client = rest
    version = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    web.answers["GET", "/v1/models/m"] = (200, json.dumps({"model_version_status": [version]}).encode())
    assert client.status("m") == (VersionStatus(7, "AVAILABLE", ""),)


def test_rest_cannot_hold_infinities() -> None:
    client = RestServingClient("localhost:1", roots_pem=issue_root((), now=NOW).certificate_pem)
    with client, pytest.raises(InputError, match="use gRPC"):
        client.predict("m", {"x": np.array([np.inf])})


# ---- sessions


def test_a_session_reaches_the_servers_that_its_coordinator_vouches_for(
    coordinator: FakeCoordinator,
    trust: TrustStore,
    platform: Path,
    server: FakeServer,
    mesh: Mesh,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator.root, coordinator.intermediate = mesh.root, mesh.intermediate
    found = connect_module.AttestedCoordinator(
        host=coordinator.host,
        root_pem=mesh.root.certificate_pem,
        intermediate_pem=mesh.intermediate.certificate_pem,
        claims=None,
        appraisal=connect_module.Unattested("a test"),
        status=connect_module.CoordinatorStatus(3, ""),
        manifest=None,
        epoch=1,
        head=b"",
    )
    with tacit.Session(found) as session:
        assert session.model("double", address=server.address).predict([[1, 2]]).tolist() == [[2, 4]]
        assert session.simulated
        assert "UNATTESTED" in repr(session)
        assert "UNATTESTED" in repr(session.model("double", address=server.address))


def test_connect_attests_and_says_simulated(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = pinned
    with tacit.connect(coordinator.host, config=trust.path.parent, platform=platform, timeout=60) as session:
        assert session.tee == "simulated"
        assert session.simulated
        assert session.manifest_pinned
        assert repr(session) == f"<tacit.Session {coordinator.host} SIMULATED>"
    assert capsys.readouterr() == ("", "")


def test_t14_connect_refuses_where_no_manifest_is_pinned(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    with pytest.raises(NotTrustedError, match=r"no manifest is pinned .* `tacit manifest verify FILE localhost:"):
        tacit.connect(coordinator.host, config=trust.path.parent, platform=platform, timeout=60)


def test_t14_a_session_under_any_manifest_must_be_asked_for_and_says_so(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    folder = trust.path.parent
    session = tacit.connect(coordinator.host, manifest=None, config=folder, platform=platform, timeout=60)
    assert not session.manifest_pinned
    assert "ANY MANIFEST" in repr(session)


def test_t14_one_that_is_pinned_is_compared_also_where_any_would_do(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    trust.pin_manifest(coordinator.host, b"\1" * 32)
    with pytest.raises(PinMismatchError):
        tacit.connect(coordinator.host, manifest=None, config=trust.path.parent, platform=platform, timeout=60)


def package_of(tee: FakeTee) -> dict[str, str]:
    return {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}


def test_a_call_may_say_itself_what_to_expect(
    coordinator: FakeCoordinator, platform: Path, tee: FakeTee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    (tmp_path / "package.json").write_text(json.dumps(package_of(tee)))
    (tmp_path / "manifest.json").write_bytes(coordinator.manifest)
    for package in (package_of(tee), tmp_path / "package.json"):
        for manifest in (coordinator.manifest, tmp_path / "manifest.json"):
            found = tacit.connect(coordinator.host, package=package, manifest=manifest, platform=platform, timeout=60)
            assert found.manifest_pinned
    assert not (tmp_path / "nothing").exists()


def test_t15_the_manifest_of_a_call_is_compared(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path, tee: FakeTee
) -> None:
    with pytest.raises(PinMismatchError):
        tacit.connect(coordinator.host, package=package_of(tee), manifest=b"{}", platform=platform, timeout=60)
    with pytest.raises(PinMismatchError):
        tacit.connect(coordinator.host, manifest=b"{}", config=pinned.path.parent, platform=platform, timeout=60)
    with pytest.raises(NotTrustedError, match="no manifest is pinned"):
        tacit.connect(coordinator.host, package=package_of(tee), platform=platform, timeout=60)


def test_t08_the_package_of_a_call_is_compared(coordinator: FakeCoordinator, platform: Path, tee: FakeTee) -> None:
    other = package_of(tee) | {"UniqueID": "ab" * 32}
    with pytest.raises(MeasurementError):
        tacit.connect(coordinator.host, package=other, manifest=coordinator.manifest, platform=platform, timeout=60)
    for nothing in ({"TEE": "simulated"}, {"TEE": "simulated", "SignerID": "ab" * 32}):
        with pytest.raises(InputError, match="needs a UniqueID"):
            tacit.connect(
                coordinator.host, package=nothing, manifest=coordinator.manifest, platform=platform, timeout=60
            )
    for kind in ("unattested", "sgx2"):
        with pytest.raises((InputError, ManifestError)):
            tacit.connect(
                coordinator.host,
                package=package_of(tee) | {"TEE": kind},
                manifest=coordinator.manifest,
                platform=platform,
                timeout=60,
            )
    with pytest.raises(InputError, match="cannot be read"):
        tacit.connect(coordinator.host, package=platform / "none", platform=platform, timeout=60)
    with pytest.raises(EvidenceError):  # SGX is meant
        tacit.connect(
            coordinator.host,
            package={"UniqueID": "ab" * 32},
            manifest=coordinator.manifest,
            platform=platform,
            timeout=60,
        )


def test_t40_a_session_of_a_call_stays_with_the_root_that_it_saw(
    coordinator: FakeCoordinator, platform: Path, tee: FakeTee
) -> None:
    manifest, package = coordinator.manifest, package_of(tee)
    session = tacit.connect(coordinator.host, package=package, manifest=manifest, platform=platform, timeout=60)
    coordinator.root = issue_root(("localhost",), now=NOW)
    coordinator.intermediate = issue_intermediate(coordinator.root, ("localhost",), now=NOW)
    with pytest.raises(PinMismatchError):
        session._renewal.after_refusal(session.coordinator)


def test_t38_a_session_of_a_call_takes_no_older_state_than_it_saw(
    coordinator: FakeCoordinator, platform: Path, tee: FakeTee
) -> None:
    manifest, package = coordinator.manifest, package_of(tee)
    coordinator.epoch = 7
    session = tacit.connect(coordinator.host, package=package, manifest=manifest, platform=platform, timeout=60)
    coordinator.epoch = 6
    with pytest.raises(RollbackError):
        session._renewal.after_refusal(session.coordinator)


def test_connect_finds_what_the_user_trusts(
    coordinator: FakeCoordinator, pinned: TrustStore, platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(pinned.path.parent.parent))
    monkeypatch.setenv("TACIT_PLATFORM", str(platform))
    assert tacit.connect(coordinator.host, timeout=60).tee == "simulated"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(platform))
    with pytest.raises(NotTrustedError):
        tacit.connect(coordinator.host, timeout=60)


def test_a_coordinator_without_a_manifest_vouches_for_nobody(
    coordinator: FakeCoordinator, trust: TrustStore, platform: Path
) -> None:
    coordinator.code = 2
    with pytest.raises(NotSetError, match="vouches for no server"):
        tacit.connect(coordinator.host, config=trust.path.parent, platform=platform, timeout=60)


def test_a_session_without_evidence_says_so(coordinator: FakeCoordinator, trust: TrustStore, platform: Path) -> None:
    coordinator.tee, coordinator.marked = None, "unattested"
    trust.store_expectation(coordinator.host, Expectation(UNATTESTED, None, None, fingerprint(coordinator.manifest)))
    session = tacit.connect(coordinator.host, config=trust.path.parent, platform=platform, timeout=60)
    assert repr(session) == f"<tacit.Session {coordinator.host} UNATTESTED>"


def test_the_package_imports_its_client_only_when_asked() -> None:
    import subprocess
    import sys

    script = "import sys, tacit; assert 'tacit.client' not in sys.modules; tacit.connect; assert 'tacit.client' in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = tacit.nothing  # type: ignore[attr-defined]
