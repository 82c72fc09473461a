"""A marble is known again by the leaf of its activation, and by nothing else that its issuer's key has signed."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fakes.tee import NOW
from tacit.errors import PkiError
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_marble_root, issue_root, parse_key_pair
from tacit.pki.csr import Csr
from tacit.pki.keys import generate_key, public_der
from tacit.pki.leaf import LEAF_USAGE, LeafIdentity, verify_leaf
from tacit.pki.mould import Fresh, ToBeSigned, sign_leaf
from tacit.pki.shape import MARBLE_TYPE_OID, Grants, Names, Shape, sign, subject_name

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


def test_t60_a_signature_that_is_not_whole_bytes_is_refused(issuer: KeyPair) -> None:
    """One bit is said to be none of its own; it is zero, as in every second signature, so that nothing else changes."""
    whole = next(made for made in iter(lambda: signed(issuer), None) if not made[-1] & 1)
    at = len(whole) - len(x509.load_der_x509_certificate(whole).signature) - 1
    with pytest.raises(PkiError, match="unknown authority"):
        verify(issuer, whole[:at] + b"\1" + whole[at + 1 :])


NAMES = Names(("server", "*.example.org"), (ip_address("127.0.0.1"), ip_address("::1"), ip_address("10.1.2.3")))


@pytest.mark.parametrize("names", [Names(), NAMES, Names(tuple(f"n{number}.example.org" for number in range(200)))])
@pytest.mark.parametrize("days", [1, 365 * 100])
@pytest.mark.parametrize("marble_type", ["m", "sérveur", ""])
def test_a_leaf_from_encoded_parts_is_what_the_library_builds(
    issuer: KeyPair, names: Names, days: int, marble_type: str
) -> None:
    key = generate_key()
    subject = subject_name([(NameOID.ORGANIZATIONAL_UNIT_NAME, "UNATTESTED"), (NameOID.COMMON_NAME, UUID)])
    grants, until = Grants(LEAF_USAGE, names, marble_type=marble_type), NOW + timedelta(days=days)
    der = sign_leaf(Fresh(subject, public_der(key), NOW, until), grants, issuer=issuer)
    made = x509.load_der_x509_certificate(der)
    made.verify_directly_issued_by(issuer.certificate)
    shape = Shape(subject, key.public_key(), NOW, until, grants)
    built = sign(shape, issuer_name=issuer.certificate.subject, issuer=issuer, key=issuer.key)
    ours, theirs = (asn1.decode_der(ToBeSigned, one.tbs_certificate_bytes) for one in (made, built))
    assert ours.serial != theirs.serial
    ours.serial = theirs.serial
    assert asn1.encode_der(ours) == built.tbs_certificate_bytes
    assert made.signature_algorithm_oid == built.signature_algorithm_oid


def test_a_leaf_is_signed_by_an_ec_key_alone(issuer: KeyPair) -> None:
    other = KeyPair(issuer.certificate, ed25519.Ed25519PrivateKey.generate())
    fresh = Fresh(x509.Name([]), issuer.public_der, NOW, NOW)
    with pytest.raises(PkiError, match="EC key"):
        sign_leaf(fresh, Grants(LEAF_USAGE, Names()), issuer=other)


def test_every_leaf_has_a_key_and_a_number_of_its_own_and_says_the_same_in_every_encoding(issuer: KeyPair) -> None:
    leaves = [
        issue_leaf(Csr(NAMES), issuer=issuer, uuid=UUID, marble_type="m", allowed_names=None, now=NOW) for _ in range(3)
    ]
    assert len({leaf.certificate.serial_number for leaf in leaves}) == 3
    assert len({leaf.public_der for leaf in leaves}) == 3
    for leaf in leaves:
        encoded = leaf.encode()
        again = parse_key_pair(encoded.certificate_pem, encoded.key_pem)
        assert again.certificate_der == encoded.certificate_der == leaf.certificate.public_bytes(Encoding.DER)
        assert again.key_der == encoded.key_der
        assert again.public_der == encoded.public_der == public_der(leaf.key)
        assert encoded.certificate_pem == leaf.certificate.public_bytes(Encoding.PEM)
        assert encoded.key_pem == leaf.key_pem
