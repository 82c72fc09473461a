"""The messages of an activation. `q` + a request, as the coordinator reads it with the CSR inside; else a response, as premain does."""

from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from tacit.errors import ActivationError, PkiError
from tacit.marble.activate import compose_environment, parse_response
from tacit.pki import issue_intermediate, issue_leaf, issue_root, parse_csr
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse, Parameters
from tacit.wire.release import KEY_FOLDER

REFUSALS = (ActivationError, PkiError)
LIMIT = 4096  # bytes

_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_ISSUER = issue_intermediate(issue_root((), now=_NOW), (), now=_NOW)
_FOLDER = Path("/dev/shm/tacit")
_UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"


def check(data: bytes) -> None:
    if data[:1] == b"q":
        _request(data[1:])
    else:
        _response(data[1:])


def _request(raw: bytes) -> None:
    try:
        request = ActivationRequest.FromString(raw)
    except DecodeError:
        return  # the mesh port has a status of its own for it
    csr = parse_csr(request.csr)
    leaf = issue_leaf(
        csr, issuer=_ISSUER, uuid=_UUID, marble_type="t", allowed_names=("localhost",), now=_NOW, mark="SIMULATED"
    )
    assert leaf.certificate.subject.rfc4514_string().count(f"CN={_UUID}") == 1
    leaf.certificate.verify_directly_issued_by(_ISSUER.certificate)


def _response(raw: bytes) -> None:
    found = parse_response(raw)
    assert not [path for path in found.files if path.startswith(KEY_FOLDER)]
    assert not [name for name in found.keys if "/" in name or name in {"", ".", ".."}]
    composed = compose_environment(found, {}, tee="simulated", programs=_FOLDER, memory=_FOLDER)
    assert composed[b"TACIT_TEE"] == b"simulated"
    files = {**found.files, **{KEY_FOLDER + name: key for name, key in found.keys.items()}}
    again = ActivationResponse(parameters=Parameters(files=files, env=dict(found.env), argv=found.argv))
    assert parse_response(again.SerializeToString()) == found
