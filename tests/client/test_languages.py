"""A model asked in each protocol, by threads and by asyncio, on a server that a session's coordinator vouches for."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.tee import NOW
from fakes.tls_server import server_leaf
from tacit.client.connect import AttestedCoordinator, attest_coordinator
from tacit.client.inference.language import Language
from tacit.client.inference.open import OPEN_INFERENCE
from tacit.client.inference.tensorflow import TENSORFLOW_SERVING
from tacit.client.inference.values import TensorSpec, VersionStatus
from tacit.client.session.renewal import Renewal
from tacit.client.trust import TrustStore
from tacit.errors import InputError, PeerError, PinMismatchError, RequestError, TlsError
from tacit.pki import KeyPair, issue_intermediate, issue_root
from tacit.wire.pb import inference_pb2, serving_pb2
from tacit.wire.raw_tensor import encode_raw, parse_raw
from tacit.wire.tensor import Tensor, encode_tensor, parse_tensor

Protocol = Literal["tensorflow-serving", "open-inference"]
PROTOCOLS: tuple[Protocol, ...] = ("tensorflow-serving", "open-inference")
TFS, OIP = "/tensorflow.serving.PredictionService/", "/inference.GRPCInferenceService/"


def oip_double(raw: bytes) -> bytes:
    asked = inference_pb2.ModelInferRequest.FromString(raw)
    tensor = parse_raw(asked.raw_input_contents[0], 1, tuple(asked.inputs[0].shape), name="x")
    answer = inference_pb2.ModelInferResponse(model_name=asked.model_name, model_version="7")
    answer.outputs.add(name="y", datatype="FP32", shape=tensor.shape)
    answer.raw_output_contents.append(encode_raw(Tensor(1, tensor.array * 2)))
    return answer.SerializeToString()


def oip_metadata(_: bytes) -> bytes:
    answer = inference_pb2.ModelMetadataResponse(name="double", versions=["7"])
    answer.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
    answer.outputs.add(name="y", datatype="FP32", shape=[-1, 2])
    return answer.SerializeToString()


def oip_index(_: bytes) -> bytes:
    answer = inference_pb2.RepositoryIndexResponse()
    for name, version, state in (("double", "7", "READY"), ("double", "9", "UNAVAILABLE"), ("other", "1", "READY")):
        answer.models.add(name=name, version=version, state=state)
    return answer.SerializeToString()


def tfs_double(raw: bytes) -> bytes:
    asked = serving_pb2.PredictRequest.FromString(raw)
    answer = serving_pb2.PredictResponse()
    answer.model_spec.version.value = 7
    encode_tensor(Tensor(1, parse_tensor(asked.inputs["x"]).array * 2), answer.outputs["y"])
    return answer.SerializeToString()


def tfs_metadata(_: bytes) -> bytes:
    found = serving_pb2.SignatureDefMap()
    for names in (
        found.signature_def["serving_default"].inputs["x"],
        found.signature_def["serving_default"].outputs["y"],
    ):
        names.dtype = 1
        names.tensor_shape.dim.add(size=-1)
        names.tensor_shape.dim.add(size=2)
    answer = serving_pb2.GetModelMetadataResponse()
    answer.metadata["signature_def"].value = found.SerializeToString()
    return answer.SerializeToString()


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    TFS + "Predict": tfs_double,
    TFS + "GetModelMetadata": tfs_metadata,
    OIP + "ModelInfer": oip_double,
    OIP + "ModelMetadata": oip_metadata,
    OIP + "RepositoryIndex": oip_index,
}


@dataclass
class Server:
    """Answers in both protocols; its certificate can be changed while it runs."""

    leaf: KeyPair
    port: int = 0
    calls: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def certificate(self) -> Any:
        return grpc.ssl_server_certificate_configuration([(self.leaf.key_pem, self.leaf.certificate_pem)])


@dataclass
class Place:
    coordinator: FakeCoordinator
    trust: TrustStore
    platform: Path
    server: Server

    def attest(self) -> AttestedCoordinator:
        host, nonce = self.coordinator.host, bytes(32)
        return attest_coordinator(host, self.trust, now=NOW, nonce=nonce, platform=self.platform, timeout=60)

    def open(self) -> tacit.Session:
        first = self.attest()
        return tacit.Session(first, Renewal(first, self.attest, max_age=timedelta(hours=1), clock=lambda: NOW))

    def rotate(self) -> None:
        """A new intermediate, as after an update of the manifest, and the server below it."""
        self.coordinator.intermediate = issue_intermediate(self.coordinator.root, ("localhost",), now=NOW)
        self.server.leaf = server_leaf(self.coordinator.intermediate)


@pytest.fixture
def place(coordinator: FakeCoordinator, pinned: TrustStore, platform: Path) -> Iterator[Place]:
    assert coordinator.intermediate is not None
    server = Server(server_leaf(coordinator.intermediate))

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            answer = ANSWERS.get(details.method)
            if answer is None:
                return None
            server.calls.append(details.method)
            return grpc.unary_unary_rpc_method_handler(lambda raw, context: answer(raw))

    running = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    credentials = grpc.dynamic_ssl_server_credentials(server.certificate(), server.certificate)
    server.port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    yield Place(coordinator, pinned, platform, server)
    running.stop(0).wait()


def ask(session: tacit.Session, server: Server, protocol: Protocol, by: str) -> Any:
    """One array in, one array out."""
    if by == "threads":
        return session.model("double", address=server.address, protocol=protocol, timeout=60).predict([[1, 2]])

    async def go() -> Any:
        async with session.async_model("double", address=server.address, protocol=protocol, timeout=60) as model:
            return await model.predict([[1, 2]])

    return asyncio.run(go())


EACH = pytest.mark.parametrize(("protocol", "by"), [(p, by) for p in PROTOCOLS for by in ("threads", "asyncio")])


@EACH
def test_a_model_answers_in_every_protocol_by_threads_and_by_asyncio(place: Place, protocol: Protocol, by: str) -> None:
    with place.open() as session:
        answer = ask(session, place.server, protocol, by)
    assert answer.dtype == np.float32
    assert answer.tolist() == [[2, 4]]


@EACH
def test_a_rotation_costs_no_prediction(place: Place, protocol: Protocol, by: str) -> None:
    with place.open() as session:
        ask(session, place.server, protocol, by)
        place.rotate()
        assert ask(session, place.server, protocol, by).tolist() == [[2, 4]]


@EACH
def test_t40_a_model_is_not_asked_on_another_coordinators_server(place: Place, protocol: Protocol, by: str) -> None:
    place.server.leaf = server_leaf(issue_intermediate(issue_root((), now=NOW), (), now=NOW))
    with place.open() as session, pytest.raises(TlsError, match="does not lead to the attested coordinator"):
        ask(session, place.server, protocol, by)
    assert place.server.calls == []


@EACH
def test_t15_a_changed_manifest_ends_predictions(place: Place, protocol: Protocol, by: str) -> None:
    with place.open() as session:
        place.coordinator.manifest = b'{"Packages": {"theirs": {}}}'
        place.rotate()
        for _ in range(2):
            with pytest.raises(PinMismatchError, match="another manifest than the pinned one"):
                ask(session, place.server, protocol, by)
    assert place.server.calls == []


def test_a_call_by_asyncio_is_asked_what_grpcs_own_is_asked(place: Place) -> None:
    async def go(session: tacit.Session) -> None:
        async with session.grpc_aio_channel(place.server.address) as channel:
            call = channel.unary_unary(OIP + "ModelMetadata")(b"", timeout=60)
            ended: list[Any] = []
            call.add_done_callback(ended.append)
            assert inference_pb2.ModelMetadataResponse.FromString(await call).name == "double"
            assert (call.done(), call.cancelled(), await call.code()) == (True, False, grpc.StatusCode.OK)
            assert [await call.details(), *await call.initial_metadata()] == [""]
            await call.trailing_metadata()
            assert ended == [call]
            unknown = channel.unary_unary("/no.Service/Method")(b"", timeout=60)
            with pytest.raises(grpc.RpcError):
                await unknown
            assert await unknown.code() is grpc.StatusCode.UNIMPLEMENTED
            stopped = channel.unary_unary(OIP + "ModelMetadata")(b"", timeout=60)
            assert stopped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopped

    with place.open() as session:
        asyncio.run(go(session))


# ---- the Open Inference Protocol's questions and answers


def read(language: Language, answer: inference_pb2.ModelInferResponse) -> Any:
    question = language.predict("m", {}, None, "", ())
    return question.read(question.answer(answer.SerializeToString()), "there").outputs


def test_typed_outputs_are_read_as_raw_ones_are() -> None:
    answer = inference_pb2.ModelInferResponse()
    answer.outputs.add(name="y", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -2])
    assert read(OPEN_INFERENCE, answer)["y"].tolist() == [1, -2]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [("FP32", [2], [b"1234"]), ("FP32", [2], [b"", b""]), ("COMPLEX", [2], [b"12345678"]), ("INT8", [-1], [b"1"])],
)
def test_an_output_that_is_none_is_an_answer_that_means_nothing(
    datatype: str, shape: list[int], raw: list[bytes]
) -> None:
    answer = inference_pb2.ModelInferResponse(raw_output_contents=raw)
    answer.outputs.add(name="y", datatype=datatype, shape=shape)
    with pytest.raises(PeerError, match="^there answers with"):
        read(OPEN_INFERENCE, answer)


def test_metadata_with_an_unknown_type_means_nothing() -> None:
    question = OPEN_INFERENCE.signatures("m", 3)
    assert question.request == inference_pb2.ModelRequest(name="m", version="3")
    answer = inference_pb2.ModelMetadataResponse(name="m")
    answer.inputs.add(name="x", datatype="FP8")
    with pytest.raises(PeerError, match="datatype 'FP8'"):
        question.read(answer, "there")


def test_versions_come_from_the_servers_index_highest_first() -> None:
    question = OPEN_INFERENCE.status("double", None)
    found = question.read(question.answer(oip_index(b"")), "there")
    assert found == (VersionStatus(9, "UNAVAILABLE", ""), VersionStatus(7, "AVAILABLE", ""))
    one = OPEN_INFERENCE.status("double", 7)
    assert one.read(one.answer(oip_index(b"")), "there") == (VersionStatus(7, "AVAILABLE", ""),)


def test_the_protocol_without_signatures_has_the_default_one() -> None:
    question = OPEN_INFERENCE.signatures("double", None)
    found = question.read(question.answer(oip_metadata(b"")), "there")
    assert found["serving_default"].inputs == {"x": TensorSpec(1, (-1, 2))}
    with pytest.raises(InputError, match="knows no signatures"):
        OPEN_INFERENCE.predict("m", {}, None, "classify", ())


def test_a_type_that_a_protocol_has_not_is_the_callers_mistake() -> None:
    with pytest.raises(InputError, match="'x'"):
        OPEN_INFERENCE.predict("m", {"x": np.zeros(1, np.complex64)}, None, "", ())


def test_named_outputs_are_asked_for_in_both() -> None:
    oip = OPEN_INFERENCE.predict("m", {"x": np.zeros(1, np.float32)}, 7, "", ("y",)).request
    assert isinstance(oip, inference_pb2.ModelInferRequest)
    assert ([one.name for one in oip.outputs], oip.model_version) == (["y"], "7")
    tfs = TENSORFLOW_SERVING.predict("m", {}, None, "", ("y",)).request
    assert isinstance(tfs, serving_pb2.PredictRequest)
    assert list(tfs.output_filter) == ["y"]


def test_a_refusal_by_asyncio_keeps_its_canonical_status(place: Place) -> None:
    async def go(session: tacit.Session) -> None:
        async with session.async_model("double", address=place.server.address, timeout=60) as model:
            with pytest.raises(InputError, match="it has: serving_default"):
                await model.predict([[1, 2]], signature_name="other")
            with pytest.raises(RequestError):
                await model._client.status("double")

    with place.open() as session:
        asyncio.run(go(session))
