"""Where the corpus begins: one honest input of each kind, made by the project's own writers and taken from its vectors.

Usage: python fuzz/seeds.py        (again when a format changes; what fuzzing found since stays beside it)
"""

import base64
import hashlib
import json
import struct
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "tests")]

NOW = datetime(2026, 11, 24, tzinfo=UTC)
VECTORS = ROOT / "tests" / "vectors"


def main() -> None:
    """Write every seed."""
    for target, seeds in {
        "manifest": manifests(),
        "yaml_text": yaml_texts(),
        "template": templates(),
        "rest_body": rest_bodies(),
        "activation": activations(),
        "shares": shares(),
        "signatures": signatures(),
        "quote": quotes(),
        "snp_table": snp_tables(),
        "certificate": certificates(),
        "collateral": {"real": (VECTORS / "evidence" / "v3-phala-confighw" / "collateral.json").read_bytes()},
        "bundle": bundles(),
        "service_answer": service_answers(),
        "capsule": capsules(),
        "tensor": tensors(),
        "predict_json": predictions(),
        "infer_body": infer_bodies(),
        "infer_message": infer_messages(),
        "graph": graphs(),
        "serving_config": serving_configs(),
        "examples": tf_examples(),
        "records": records(),
        "parsing": parsing_models(),
        "ttls": ttls(),
        "coordinator_answer": answers(),
        "state": states(),
    }.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


def certificates() -> dict[str, bytes]:
    """An RA-TLS certificate, its tagged evidence, extensions and certificates of real platforms, and a SIGSTRUCT."""
    from cryptography.x509 import UnrecognizedExtension
    from targets.certificate import _KEY, _NOW

    from fakes.ratls import TAGGED, cbor, certificate, new_key, tagged
    from fakes.sigstruct import Signer
    from tacit.evidence.anchor.certificates import parse_chain
    from tacit.evidence.intel.pck import PCK_EXTENSION
    from tacit.evidence.intel.quote import parse_quote
    from tacit.evidence.snp.collateral import AmdCollateral
    from tacit.evidence.verify import parse_collateral

    key = new_key()
    claims = cbor({"pubkey-hash": cbor([1, hashlib.sha256(_KEY).digest()]), "nonce": b"a nonce"})
    whole = certificate(key, {TAGGED: tagged(lambda data: data, key)}, begin=_NOW, end=_NOW + timedelta(days=1))
    quote = parse_quote((VECTORS / "evidence" / "v3-phala-confighw" / "quote.bin").read_bytes())
    extension = parse_chain(quote.pck_chain_pem)[0].extensions.get_extension_for_oid(PCK_EXTENSION).value
    assert isinstance(extension, UnrecognizedExtension)
    found = {
        "ratls": b"r" + whole,
        "tagged": b"t" + cbor((60000, [b"quote", claims])),
        "pck": b"p" + extension.value,
        "sigstruct": b"s" + Signer().sign(),
    }
    for name in ("snp-v5-genoa-lunal", "snp-v3-milan-vlek-aws-vmpl1"):
        amd = parse_collateral((VECTORS / "evidence" / name / "collateral.json").read_bytes())
        assert isinstance(amd, AmdCollateral)
        found[name] = b"a" + amd.leaf
    return found


def signatures() -> dict[str, bytes]:
    """A file of each kind of key's signatures, and signers' keys."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from tacit.pki.detached import sign_detached

    keys = (ec.derive_private_key(7, ec.SECP256R1()), ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
    pem = [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys]
    lines = [sign_detached("a", b"text", key) for key in keys]
    return {
        "of-two": b"".join(lines),
        "of-another-text": sign_detached("a", b"other", keys[1]),
        "signer-ec": b"k" + pem[0],
        "signer-ed25519": b"k" + pem[1],
    }


def bundles() -> dict[str, bytes]:
    """Collateral of either maker in one file."""
    from tacit.evidence.fetch.keep import keep, render_bundle
    from tacit.evidence.verify import parse_collateral

    names = ("v3-phala-confighw", "snp-v5-genoa-lunal")
    found = [parse_collateral((VECTORS / "evidence" / name / "collateral.json").read_bytes()) for name in names]
    return {"both": render_bundle([keep(one) for one in found])}


def service_answers() -> dict[str, bytes]:
    """Each answer of each service as it is."""
    from targets.service_answer import HONEST

    return {f"answer-{index}": bytes((index,)) + body for index, body in enumerate(HONEST.values())}


def full_manifest() -> dict[str, object]:
    """A manifest with everything in it."""
    from tacit.pki import issue_self_signed

    user = issue_self_signed(["alice"], common_name="alice", now=NOW).certificate_pem.decode()
    marble = {
        "Package": "p",
        "MaxActivations": 3,
        "TLS": ["t"],
        "AllowedNames": ["localhost"],
        "Models": ["digits"],
        "Parameters": {
            "Files": {"a": "{{ hex .Secrets.s }}", "b": {"Data": "AAE=", "Encoding": "base64", "NoTemplates": True}},
            "Env": {"A": "{{ string .Secrets.u }}", "B": {"Data": "x"}},
            "Argv": ["tacit-serve", "--port=1"],
        },
    }
    return {
        "Packages": {
            "p": {"TEE": "simulated", "UniqueID": "11" * 32},
            "q": {"SignerID": "22" * 32, "ProductID": 1, "SecurityVersion": 2, "AcceptedTCBStatuses": ["OutOfDate"]},
        },
        "Marbles": {"m": marble},
        "Models": {"digits": {"Format": "capsule", "ID": "33" * 32, "MinVersion": 1, "Key": "k"}},
        "Secrets": {
            "s": {"Type": "symmetric-key", "Size": 128, "Shared": True},
            "k": {"Type": "symmetric-key", "Size": 256, "UserDefined": True},
            "u": {"Type": "plain", "UserDefined": True},
            "c": {"Type": "cert-ecdsa", "Size": 256, "ValidFor": 7, "Cert": {"DNSNames": ["x"], "IsCA": True}},
        },
        "Users": {"alice": {"Certificate": user, "Roles": ["r"]}},
        "Roles": {"r": {"ResourceType": "Secrets", "ResourceNames": ["k"], "Actions": ["ReadSecret", "WriteSecret"]}},
        "TLS": {"t": {"Outgoing": [{"Port": "1", "Addr": "a"}], "Incoming": [{"Port": "2"}]}},
        "Config": {"SealMode": "ProductKey", "UpdateThreshold": 1, "FeatureGates": ["SignQuoteEndpoint"]},
    }


def manifests() -> dict[str, bytes]:
    """Strict, lenient, and one package."""
    return {
        "full": json.dumps(full_manifest()).encode(),
        "lenient": b'{"packages":{"p":{"debug":true,"X":1}},"MARBLES":{"m":{"Package":"p"}},"Marbles":null} ',
        "package": json.dumps({"TEE": "sgx", "UniqueID": "ab" * 32, "SecurityVersion": 1}).encode(),
        "infrastructure": b'{"Infrastructures":{"i":{"CPUSVN":"AAE=","QESVN":2,"RootCA":""}},"Packages":{}}',
    }


def yaml_texts() -> dict[str, bytes]:
    """Block and flow style, an anchor, and what JSON cannot say."""
    return {
        "block": b"Packages:\n  p: {Debug: true}\nMarbles:\n  m:\n    Package: p\n    Parameters:\n      Argv: [a, 'b c']\n",
        "anchor": b"a: &x [1, 2]\nb: *x\nc: !!str 3\nd: |\n  text\n",
        "date": b"a: 2026-11-24\n? [1, 2]\n: x\n",
    }


def templates() -> dict[str, bytes]:
    """The recorded templates."""
    recorded = json.loads((VECTORS / "manifest" / "templates.json").read_bytes())
    texts = sorted({text for text in _strings(recorded) if "{{" in text and len(text) < 300})
    return {f"recorded-{at:03}": text.encode() for at, text in enumerate(texts[::6])}


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for one in value for text in _strings(one)] if isinstance(value, list) else []


def rest_bodies() -> dict[str, bytes]:
    """One body for each route."""
    from tacit.pki import issue_self_signed

    der = base64.b64encode(issue_self_signed(["a"], common_name="a", now=NOW).certificate_der).decode()
    secrets = json.dumps({"k": {"Key": "AAE="}, "c": {"Cert": der, "Private": "AAE="}}).encode()
    return {
        "manifest": b'm{"manifest":"e30="}',
        "recover": b'r{"recoverySecret":"AAEC","recoverySecretSignature":"AAEC"}',
        "secrets-v1": b"s" + secrets,
        "secrets-v2": b'S{"secrets":' + secrets + b"}",
        "quote": b'g{"sgxQuote":"AAEC"}',
        "counter": b'c{"name":"n","value":7}',
        "nonce": b"nnonce=AAECAwQ_-A==&x=%20",
        "names": b"qs=a&s=b%26c",
    }


def activations() -> dict[str, bytes]:
    """A request and a response."""
    from tacit.pki.csr import create_csr
    from tacit.pki.keys import generate_key
    from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse, Parameters

    csr = create_csr(generate_key(), ["localhost", "127.0.0.1"])
    request = ActivationRequest(quote=b"q", csr=csr, marble_type="t", uuid="0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e")
    parameters = Parameters(
        files={"/tacit/keys/digits": b"k" * 32, "conf/ssl.cfg": b"x"}, env={"A": b"1"}, argv=["sh", "-c", "true"]
    )
    return {
        "request": b"q" + request.SerializeToString(),
        "response": b"r" + ActivationResponse(parameters=parameters).SerializeToString(),
    }


def shares() -> dict[str, bytes]:
    """A plan, shares that a host made up, and keys that are split."""
    own = b"".join(bytes([33]) + bytes([x]) * 32 + bytes([x]) + bytes(2) for x in (1, 2, 3))
    return {
        "plan": b'p{"threshold":2,"shares":["aa","bb","cc"]}',
        "made-up": bytes([2]) + own,
        "split": bytes([7, 4, 2]) + b"seed",
        "split-all": bytes([7, 2, 2]) + b"seed",
    }


def snp_tables() -> dict[str, bytes]:
    from tacit.evidence.snp.carried import CarriedCertificates, render_carried
    from tacit.evidence.snp.collateral import AmdCollateral, read_chain
    from tacit.evidence.verify import parse_collateral

    recorded = parse_collateral((VECTORS / "evidence" / "snp-v5-genoa-lunal" / "collateral.json").read_bytes())
    assert isinstance(recorded, AmdCollateral)
    leaf, intermediate, root = read_chain(recorded)
    one = CarriedCertificates(leaf.raw, intermediate.raw, root.raw, of_cloud=False)
    return {"real": render_carried(one), "small": render_carried(CarriedCertificates(b"0", b"0", b"0", of_cloud=True))}


def quotes() -> dict[str, bytes]:
    """Real ones, bare and in an envelope, of a debug enclave too."""
    from tacit.evidence.verify.envelope import wrap

    found = {
        name: (VECTORS / "evidence" / name / "quote.bin").read_bytes()
        for name in ("v3-phala-confighw", "v3-occlum-debug")
    }
    return {**found, "wrapped": wrap(found["v3-phala-confighw"])}


def capsules() -> dict[str, bytes]:
    """A capsule of two files, and indexes."""
    from targets.capsule import KEY

    from tacit.vault.capsule import Source, write_capsule

    out = BytesIO()
    contents = {"model.onnx": b"weights", "empty": b""}
    sources = [Source(name, len(raw), lambda raw=raw: BytesIO(raw)) for name, raw in contents.items()]
    write_capsule(out, sources, KEY, name="digits", version=1, random_bytes=lambda size: bytes(size))
    index = {"model": "m", "version": 1, "files": [{"name": "a/b", "size": 0, "tags": "00" * 32}]}
    return {"whole": b"c" + out.getvalue(), "index": b"i" + json.dumps(index).encode()}


def tensors() -> dict[str, bytes]:
    """One of each form."""
    import numpy as np

    from tacit.wire.pb.tensorflow_pb2 import TensorProto
    from tacit.wire.tensor import ELEMENT_TYPES, Tensor, encode_tensor

    found = {}
    for number, kind in ELEMENT_TYPES.items():
        array = np.array([b"a", b""], dtype=object) if kind.name == "string" else np.zeros((2, 2), kind.memory)
        for as_content in (False, True):
            proto = TensorProto()
            encode_tensor(Tensor(number, array), proto, as_content=as_content)
            found[f"{kind.name}-{int(as_content)}"] = proto.SerializeToString()
    return found


def infer_bodies() -> dict[str, bytes]:
    """JSON alone, JSON with bytes behind it, bytes alone, and a compressed one."""
    import gzip

    value = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]}
    words = {"name": "w", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    size = 14  # a sixteenth of the body
    behind = {"name": "x", "shape": [size], "datatype": "INT8", "parameters": {"binary_data_size": size}}
    outputs = [{"name": "x", "parameters": {"binary_data": True, "classification": 2}}]
    text = json.dumps({"id": "1", "inputs": [value, words], "outputs": outputs}).encode()
    head = json.dumps({"inputs": [behind], "parameters": {"binary_data_output": True, "timeout": 5}}).encode()
    return {
        "json": b"\0" + text,
        "binary": b"\x0f" + head.ljust(15 * size) + bytes(size),
        "raw": b"\x80" + struct.pack("<3i", 1, 2, 3),
        "gzip": b"\xff" + gzip.compress(text, mtime=0),
    }


def infer_messages() -> dict[str, bytes]:
    """Raw and typed, numbers and strings."""
    from tacit.wire.pb.inference_pb2 import ModelInferRequest

    raw = ModelInferRequest(model_name="m", id="1", raw_input_contents=[struct.pack("<2f", 1, 2), b"\1\0\0\0a"])
    raw.inputs.add(name="x", datatype="FP32", shape=[2])
    raw.inputs.add(name="w", datatype="BYTES", shape=[1])
    raw.outputs.add(name="y").parameters["classification"].int64_param = 2
    typed = ModelInferRequest(model_name="m", model_version="1")
    typed.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -1])
    typed.inputs.add(name="w", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    typed.parameters["timeout"].int64_param = 5
    return {"raw": raw.SerializeToString(), "typed": typed.SerializeToString()}


def predictions() -> dict[str, bytes]:
    """Rows, columns, strings, and words that JSON does not have."""
    from tacit.wire.tensor import ELEMENT_TYPES

    def of(dtype: int, body: bytes, *, two: bool = False) -> bytes:
        types = sorted(ELEMENT_TYPES)
        first = types.index(dtype)
        while two and first < 128:
            first += len(types)
        return bytes([first]) + body

    return {
        "rows": of(1, b'{"instances":[[1.5,2],[3,-4e3]]}'),
        "columns": of(1, b'{"inputs":{"a":[[1],[2]]},"signature_name":"s"}'),
        "two": of(1, b'{"instances":[{"a":1,"b":[2]},{"a":3,"b":[4]}]}', two=True),
        "strings": of(7, b'{"inputs":[{"b64":"AAE="},"x"]}'),
        "infinite": of(2, b'{"instances":[NaN,Infinity,-Infinity]} behind'),
        "integers": of(9, b'{"inputs":9223372036854775807}'),
        "bool": of(10, b'{"inputs":[true,false]}'),
        "bfloat16": of(14, b'{"inputs":[1.5,-0.0]}'),
    }


def graphs() -> dict[str, bytes]:
    """A small frozen graph, and the SavedModel that it becomes."""
    from tacit.graph import build_saved_model, parse_graph
    from tacit.wire.pb import tensorflow_pb2 as tf

    graph = tf.GraphDef()
    image = graph.node.add(name="x", op="Placeholder")
    image.attr["dtype"].type = 1
    for size in (-1, 4):
        image.attr["shape"].shape.dim.add(size=size)
    weights = graph.node.add(name="w", op="Const")
    weights.attr["dtype"].type = 1
    weights.attr["value"].tensor.dtype = 1
    weights.attr["value"].tensor.tensor_content = struct.pack("<8f", *range(8))
    for size in (4, 2):
        weights.attr["value"].tensor.tensor_shape.dim.add(size=size)
    product = graph.node.add(name="y", op="MatMul", input=["x", "w"])
    product.attr["T"].type = 1
    answer = graph.node.add(name="predict", op="Softmax", input=["y:0", "^w"])
    answer.attr["T"].type = 1
    raw = graph.SerializeToString(deterministic=True)
    saved = build_saved_model(parse_graph(raw), inputs=["x"], outputs=["predict"])
    return {"frozen": b"g" + raw, "saved": b"s" + saved}


def serving_configs() -> dict[str, bytes]:
    """A certificate as the demo writes it, and two models."""
    return {
        "ssl": b"sserver_key: 'CANARY\\nAAA'\nserver_cert: \"x\" 'y' # c\nclient_verify: false\n",
        "monitoring": b'oprometheus_config: { enable: true, path: "/metrics" }',
        "platforms": b'pplatform_configs { key: "tensorflow" value { source_adapter_config { type_url: "x" } } }',
        "models": b'mmodel_config_list { config { name: "a" base_path: "/m/a" model_platform: "tensorflow" '
        b'model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: "s" value: 1 } } }',
    }


def tf_examples() -> dict[str, bytes]:
    """One example with each kind of list, and the same in JSON."""
    from tacit.wire.pb import tensorflow_pb2 as tf

    example = tf.Example()
    example.features.feature["x"].float_list.value.extend([1.5, -2.0])
    example.features.feature["n"].int64_list.value.extend([1, -1])
    example.features.feature["t"].bytes_list.value.extend([b"a", b""])
    rows = [{"x": [1.5, -2.0], "n": [1, True], "t": ["a", {"b64": "AAE="}]}, {"x": 80}]
    return {
        "message": b"m" + example.SerializeToString(deterministic=True),
        "json": b"j" + json.dumps({"signature_name": "s", "context": {"x": 1.0}, "examples": rows}).encode(),
    }


def records() -> dict[str, bytes]:
    """A request of each kind, one of them in a file."""
    from tacit.serving.tfs.records import masked_crc
    from tacit.wire.pb import serving_pb2 as wire

    predict, classify, several = wire.PredictionLog(), wire.PredictionLog(), wire.PredictionLog()
    predict.predict_log.request.inputs["x"].dtype = 1
    predict.predict_log.request.inputs["x"].float_val.extend([1.0] * 4)
    for size in (1, 4):
        predict.predict_log.request.inputs["x"].tensor_shape.dim.add(size=size)
    example = tf_examples()["message"][1:]
    classify.classify_log.request.model_spec.signature_name = "classify"
    classify.classify_log.request.input.example_list.examples.append(example)
    several.multi_inference_log.request.tasks.add().model_spec.signature_name = "classify"
    several.multi_inference_log.request.input.example_list_with_context.examples.append(example)
    found = {
        name: b"m" + log.SerializeToString(deterministic=True)
        for name, log in {"predict": predict, "classify": classify, "several": several}.items()
    }
    data, length = found["predict"][1:], (len(found["predict"]) - 1).to_bytes(8, "little")
    checks = [masked_crc(one).to_bytes(4, "little") for one in (length, data)]
    return found | {"file": b"r" + length + checks[0] + data + checks[1]}


def parsing_models() -> dict[str, bytes]:
    """Both forms of the operation that reads examples."""
    from fakes.examples import DENSE, OF_EXAMPLES, saved, sums

    return {
        str(second): saved(sums(second=second), serving_default=DENSE, regress=OF_EXAMPLES) for second in (False, True)
    }


def ttls() -> dict[str, bytes]:
    """Ports in and out, with a certificate of their own and with the marble's."""
    out = [{"Addr": "a", "Port": "1"}]
    incoming = [{"Port": "2"}, {"Port": "3", "Cert": "c", "DisableClientAuth": True}]
    return {"both": json.dumps({"t": {"Outgoing": out, "Incoming": incoming}}).encode(), "none": b'{"t":{}}'}


def answers() -> dict[str, bytes]:
    """Each answer of a coordinator, and a refusal."""
    from tacit.pki import issue_intermediate, issue_root

    root = issue_root(("localhost",), now=NOW)
    chain = issue_intermediate(root, ("localhost",), now=NOW).certificate_pem + root.certificate_pem
    mark = {"tee": "simulated", "epoch": 1, "head": "11" * 32, "signature": "AAAA"}

    def told(which: bytes, **data: object) -> bytes:
        return which + b"0" + json.dumps({"status": "success", "data": data}).encode()

    secret = {"Type": "plain", "Size": 0, "Shared": True, "UserDefined": True, "Cert": None, "ValidFor": 0}
    return {
        "status": told(b"s", code=3, message="ready", tacit=mark),
        "quote": told(b"q", cert=chain.decode(), quote="AAAA"),
        "manifest": told(b"m", manifestSignatureRootECDSA="AAAA", manifestFingerprint="11" * 32, manifest="e30="),
        "secrets": told(b"k", secrets={"a": {**secret, "Private": "AAE=", "Public": None}}),
        "refusal": b's3{"status":"error","data":null,"message":"server is not in expected state"}',
    }


def states() -> dict[str, bytes]:
    """A snapshot and each change, alone and in a sealed file; and a wrapped key."""
    from fakes.core import make_coordinator
    from tacit.coordinator.sealed.changes import encode_change, encode_snapshot
    from tacit.coordinator.sealed.records import Position, seal_record, start_file
    from tacit.coordinator.secrets import Secret
    from tacit.coordinator.state import Activated, Pending, PendingChanged, SecretsSet

    made = make_coordinator()
    small = {"Packages": {"p": {"UniqueID": "11" * 32}}, "Marbles": {"m": {"Package": "p", "MaxActivations": 2}}}
    small["Secrets"] = {"u": {"Type": "plain", "UserDefined": True}}
    made.core.set_manifest(json.dumps(small).encode())
    snapshot = encode_snapshot(made.core._ledger.held[0])
    folder = HERE / "corpus" / "state"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "snapshot").write_bytes(b"s" + snapshot)
    from targets.state import KEY, Issuer

    from tacit.coordinator.sealed.keys import seal_key

    secret = Secret("plain", 0, False, True, 0, b"", b"v", b"v")
    changes = {
        "secrets": encode_change(SecretsSet({"u": secret}, ("line",))),
        "activated": encode_change(Activated("m", "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e")),
        "pending": encode_change(PendingChanged(Pending(b"{}", 1, ("alice",), ()), ("line",))),
    }
    start = start_file(KEY, state_id=bytes(16), file_id=bytes(16), base=Position())
    whole, position = start.header, Position()
    for at, payload in enumerate((snapshot, *changes.values())):
        record, position = seal_record(payload, start=start, after=position, nonce=bytes([at]) * 12)
        whole += record
    key = seal_key(KEY, Issuer(), bound_to="signer", nonce=bytes(12))
    return {"file": b"f" + whole, "key": b"k" + key, **{name: b"c" + one for name, one in changes.items()}}


if __name__ == "__main__":
    main()
