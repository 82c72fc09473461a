"""A marble is known again by the leaf of its activation, and by nothing else that its issuer's key has signed."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fakes.tee import NOW
from tacit.errors import PkiError
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_marble_root, issue_root
from tacit.pki.csr import Csr
from tacit.pki.keys import generate_key
from tacit.pki.leaf import LeafIdentity, verify_leaf
from tacit.pki.shape import MARBLE_TYPE_OID, Names

UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"


@pytest.fixture(scope="module")
def issuer() -> KeyPair:
    return issue_marble_root(issue_intermediate(issue_root(["h"], now=NOW), ["h"], now=NOW), now=NOW)


def signed(
    issuer: KeyPair,
    *,
    names: tuple[str, ...] = (UUID,),
    usage: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    ca: bool = False,
    marble_type: bytes | None = b"m",
) -> bytes:
    """A certificate by the issuer's own key, with whatever the test wants."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(generate_key().public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    )
    if marble_type is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(MARBLE_TYPE_OID, marble_type), critical=False)
    key: Any = issuer.key
    made: bytes = builder.sign(key, SHA384()).public_bytes(Encoding.DER)
    return made


def verify(issuer: KeyPair, der: bytes) -> LeafIdentity:
    return verify_leaf(der, issuer=issuer.certificate, now=NOW)


@pytest.mark.parametrize("marble_type", ["m", "tf-server", "sérveur", ""])
def test_a_leaf_says_which_marble_it_was_issued_to(issuer: KeyPair, marble_type: str) -> None:
    leaf = issue_leaf(Csr(Names()), issuer=issuer, uuid=UUID, marble_type=marble_type, allowed_names=None, now=NOW)
    assert verify(issuer, leaf.certificate_der) == LeafIdentity(marble_type, UUID)
    assert verify(issuer, signed(issuer, marble_type=marble_type.encode())) == LeafIdentity(marble_type, UUID)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"marble_type": None}, "not that of a marble"),
        ({"ca": True}, "incompatible key usage"),
        ({"usage": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "incompatible key usage"),
        ({"names": ()}, "does not say which marble"),
        ({"names": (UUID, "1d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e")}, "does not say which marble"),
    ],
    ids=["no type", "authority", "server alone", "no name", "two names"],
)
def test_t60_what_is_no_leaf_of_an_activation_is_refused(issuer: KeyPair, odd: dict[str, Any], words: str) -> None:
    with pytest.raises(PkiError, match=words):
        verify(issuer, signed(issuer, **odd))


def test_t60_one_flipped_byte_is_refused(issuer: KeyPair) -> None:
    whole = signed(issuer)
    for at in range(0, len(whole), 3):
        altered = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(PkiError):
            verify(issuer, altered)
