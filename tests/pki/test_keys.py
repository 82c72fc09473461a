"""Keys and certificates of every kind that comes in from outside, and those that are of no use here."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from tacit.errors import PkiError
from tacit.pki import CertificateRequest, KeyPair, issue_root, issue_secret_certificate
from tacit.pki.keys import parse_private_key, parse_private_key_der, public_key_of
from tacit.pki.shape import (
    Grants,
    Names,
    Shape,
    alternative_names,
    authority_identifier,
    key_identifier,
    key_usage,
    sign,
    subject_name,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ROOT = issue_root(["localhost"], now=NOW)
ED448 = ed448.Ed448PrivateKey.generate()


def certificate(key: object) -> x509.Certificate:
    """A plain certificate of somebody else's, without any extension."""
    name = subject_name([(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    dated = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return dated.sign(key, None if key is ED448 else SHA256())


def test_t13_a_huge_key_file_is_refused_before_parsing() -> None:
    with pytest.raises(PkiError, match="at most"):
        parse_private_key(b"x" * (1 << 21))


@pytest.mark.parametrize("parse", [parse_private_key, parse_private_key_der])
def test_what_is_no_private_key_is_refused(parse: object) -> None:
    with pytest.raises(PkiError, match="private key"):
        parse(b"nonsense")


def test_a_private_key_of_another_kind_is_refused() -> None:
    with pytest.raises(PkiError, match="unsupported kind"):
        parse_private_key_der(ED448.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_a_certificate_with_a_key_of_another_kind_is_refused_by_its_name() -> None:
    with pytest.raises(PkiError, match="Ed448"):
        public_key_of(certificate(ED448))


def test_a_certificate_whose_key_cannot_be_read_is_refused() -> None:
    der = ROOT.certificate_der
    curve = bytes.fromhex("06052b81040022")  # secp384r1
    assert der.count(curve) == 1
    with pytest.raises(PkiError, match="cannot be read"):
        public_key_of(x509.load_der_x509_certificate(der.replace(curve, bytes.fromhex("06052b8104007f"))))


def test_a_pair_is_written_in_the_forms_that_others_read() -> None:
    assert parse_private_key_der(ROOT.key_der).private_numbers() == ROOT.key.private_numbers()
    assert x509.load_der_x509_certificate(ROOT.certificate_der) == ROOT.certificate
    assert load_der_public_key(ROOT.public_der) == ROOT.key.public_key()


def test_key_identifiers_are_over_the_bare_key_of_each_kind() -> None:
    edwards, rivest = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024)
    raw = edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    pkcs1 = rivest.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert key_identifier(edwards.public_key()).digest == hashlib.sha256(raw).digest()[:20]
    assert key_identifier(rivest.public_key()).digest == hashlib.sha256(pkcs1).digest()[:20]


def test_a_certificate_without_names_or_identifier_has_none() -> None:
    bare = certificate(ec.generate_private_key(ec.SECP256R1()))
    assert alternative_names(bare.extensions) == Names()
    assert authority_identifier(bare) is None


def test_a_leaf_under_a_ca_without_identifier_names_none() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    shape = Shape(ROOT.certificate.subject, key.public_key(), NOW, NOW + timedelta(days=1), Grants(1, Names()))
    made = sign(shape, issuer_name=ROOT.certificate.subject, issuer=KeyPair(certificate(key), key), key=key)
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


def test_only_an_ec_key_signs() -> None:
    shape = Shape(ROOT.certificate.subject, ROOT.key.public_key(), NOW, NOW, Grants(1, Names()))
    with pytest.raises(PkiError, match="EC key"):
        sign(shape, issuer_name=ROOT.certificate.subject, issuer=None, key=ed25519.Ed25519PrivateKey.generate())


def test_a_subject_attribute_that_the_mesh_does_not_have_is_refused() -> None:
    with pytest.raises(PkiError, match=r"2\.5\.4\.42"):
        subject_name([(x509.NameOID.GIVEN_NAME, "x")])


def test_a_key_usage_without_meaning_is_refused() -> None:
    with pytest.raises(PkiError, match="key usage 256"):  # decipherOnly without keyAgreement
        key_usage(256)


def test_a_secret_that_is_no_certificate_is_refused() -> None:
    with pytest.raises(PkiError, match="of type plain"):
        issue_secret_certificate(CertificateRequest("s", "plain"), issuer=ROOT, now=NOW)
