"""Who signed: `k` + what should be a signer's key, PEM; else a file of signatures, tried against three signers' keys."""

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tacit.errors import PkiError
from tacit.pki.detached import MOST_SIGNATURES, parse_signatures, parse_signer, verify_detached
from tacit.pki.keys import public_der

REFUSALS = (PkiError,)
LIMIT = 8192  # bytes
_SIGNERS = (
    public_der(ec.derive_private_key(7, ec.SECP256R1())),
    public_der(ec.derive_private_key(7, ec.SECP384R1())),
    public_der(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
)


def check(data: bytes) -> None:
    if data[:1] == b"k":
        signer = parse_signer(data[1:])
        pem = load_der_public_key(signer).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert parse_signer(pem) == signer
        return
    given = parse_signatures(data)
    assert len(given) <= MOST_SIGNATURES
    assert verify_detached("a", b"text", given, _SIGNERS) in _SIGNERS
