"""What a signing request may ask for, and what it gets."""

import ipaddress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fakes.ratls import NAMES, UNREADABLE_NAMES
from tacit.errors import PkiError
from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_root, parse_csr
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture(scope="module")
def issuer() -> KeyPair:
    return issue_intermediate(issue_root([], now=NOW), [], now=NOW)


def request(*extensions: x509.ExtensionType, subject: x509.Name | None = None, key: object = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key or generate_key(), algorithm).public_bytes(Encoding.DER)


def issue(issuer: KeyPair, der: bytes, allowed: tuple[str, ...] | None = None) -> x509.Certificate:
    made = issue_leaf(parse_csr(der), issuer=issuer, uuid="u", marble_type="t", allowed_names=allowed, now=NOW)
    return made.certificate


def names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(entry.value) for entry in found]


def test_t38_a_request_for_authority_gets_a_plain_leaf(issuer: KeyPair) -> None:
    made = issue(issuer, request(x509.BasicConstraints(ca=True, path_length=None)))
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_t38_requested_usages_are_ignored(issuer: KeyPair) -> None:
    made = issue(issuer, request(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])))
    usages = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def test_t38_a_foreign_name_is_refused_by_name(issuer: KeyPair) -> None:
    der = create_csr(generate_key(), ["digits.example", "bank.example"])
    with pytest.raises(PkiError, match=r"'bank\.example'"):
        issue(issuer, der, ("digits.example",))


def test_t38_a_wildcard_is_refused_unless_it_is_written_so(issuer: KeyPair) -> None:
    der = create_csr(generate_key(), ["*.example"])
    with pytest.raises(PkiError, match=r"\*\.example"):
        issue(issuer, der, ("a.example", "example"))
    assert names(issue(issuer, der, ("*.example",))) == ["*.example"]


def test_t38_a_name_under_an_allowed_wildcard_is_still_foreign(issuer: KeyPair) -> None:
    with pytest.raises(PkiError):
        issue(issuer, create_csr(generate_key(), ["a.example"]), ("*.example",))


def test_t38_a_foreign_address_is_refused(issuer: KeyPair) -> None:
    with pytest.raises(PkiError, match=r"10\.0\.0\.7"):
        issue(issuer, create_csr(generate_key(), ["10.0.0.7"]), ("a.example",))


@pytest.mark.parametrize("asked", ["fd00::7", "::ffff:10.0.0.8", "10.0.0.80", "fe80::8"])
def test_t38_an_address_of_either_family_is_compared_as_a_whole(issuer: KeyPair, asked: str) -> None:
    allowed = ("10.0.0.8", "FD00:0:0::8")
    with pytest.raises(PkiError, match="does not allow"):
        issue(issuer, create_csr(generate_key(), [asked]), allowed)
    assert names(issue(issuer, create_csr(generate_key(), ["10.0.0.8", "fd00::8"]), allowed)) == ["10.0.0.8", "fd00::8"]


@pytest.mark.parametrize("asked", ["a.example", "localhost", "10.0.0.7", "fd00::7", "*"])
def test_t38_an_empty_list_allows_no_name(issuer: KeyPair, asked: str) -> None:
    with pytest.raises(PkiError, match="allowed: none"):
        issue(issuer, create_csr(generate_key(), [asked]), ())


def test_unlisted_loopback_is_left_out(issuer: KeyPair) -> None:
    der = create_csr(generate_key(), ["a.example"])
    assert names(issue(issuer, der, ("a.example",))) == ["a.example"]
    assert names(issue(issuer, der, ("a.example", "::1"))) == ["a.example", "::1"]


def test_no_allowed_name_means_none(issuer: KeyPair) -> None:
    assert names(issue(issuer, create_csr(generate_key(), []), ())) == []


def test_allowed_names_are_compared_without_case(issuer: KeyPair) -> None:
    assert names(issue(issuer, create_csr(generate_key(), ["A.Example"]), ("a.example",))) == ["A.Example"]


def test_t38_mail_and_uri_are_dropped(issuer: KeyPair) -> None:
    wanted = x509.SubjectAlternativeName(
        [
            x509.RFC822Name("a@a.example"),
            x509.IPAddress(ipaddress.ip_address("10.1.1.1")),
            x509.UniformResourceIdentifier("spiffe://x/y"),
            x509.DNSName("a.example"),
        ]
    )
    assert names(issue(issuer, request(wanted))) == ["a.example", "10.1.1.1"]


def test_organization_is_dropped_and_the_uuid_is_the_common_name(issuer: KeyPair) -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "somebody"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bank"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Bonn"),
        ]
    )
    assert issue(issuer, request(subject=subject)).subject.rfc4514_string() == "CN=u,L=Bonn"


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)])
def test_the_requests_key_is_not_used(issuer: KeyPair, key: object) -> None:
    made = issue(issuer, request(key=key))
    assert made.public_key_algorithm_oid == issuer.certificate.public_key_algorithm_oid


def test_a_flipped_signature_is_refused() -> None:
    der = bytearray(create_csr(generate_key(), ["a.example"]))
    der[der.index(b"a.example")] ^= 1
    with pytest.raises(PkiError, match=r"^signature over CSR is invalid$"):
        parse_csr(bytes(der))


def test_a_request_with_a_key_on_an_unknown_curve_is_refused() -> None:
    der, secp384r1 = request(), bytes.fromhex("06052b81040022")
    assert der.count(secp384r1) == 1
    with pytest.raises(PkiError, match="signature over CSR is invalid"):
        parse_csr(der.replace(secp384r1, secp384r1[:-1] + b"\x7f"))


@pytest.mark.parametrize("der", [b"", b"nonsense", b"\x30\x80", create_csr(generate_key(), [])[:-20]])
def test_t13_what_is_no_request_is_refused(der: bytes) -> None:
    with pytest.raises(PkiError, match=r"^parsing CSR: asn1: "):
        parse_csr(der)


def test_t13_a_request_of_an_unknown_version_is_refused() -> None:
    der, version = request(), b"\x02\x01\x00"
    at = der.index(version)
    with pytest.raises(PkiError, match=r"^parsing CSR: asn1: .*not a valid CSR version"):
        parse_csr(der[:at] + b"\x02\x01\x10" + der[at + 3 :])


def test_t13_a_request_for_names_that_the_library_does_not_read_is_refused() -> None:
    unreadable = x509.UnrecognizedExtension(x509.ObjectIdentifier(NAMES), UNREADABLE_NAMES)
    with pytest.raises(PkiError, match=r"^parsing CSR: asn1: .*EDIPartyName are not supported"):
        parse_csr(request(unreadable))


def test_t13_a_huge_request_is_refused_before_parsing() -> None:
    with pytest.raises(PkiError, match="at most"):
        parse_csr(b"\x30" * 100_000)
