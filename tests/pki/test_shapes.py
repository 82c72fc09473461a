"""The coordinator's certificates, leaves and secret certificates have the recorded shapes, field by field."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import PkiError
from tacit.pki import (
    CertificateRequest,
    KeyPair,
    issue_intermediate,
    issue_leaf,
    issue_marble_root,
    issue_root,
    issue_secret_certificate,
    issue_self_signed,
    parse_csr,
    parse_key_pair,
)
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key, parse_certificates, parse_private_key

NOW = datetime(2026, 11, 23, 6, 32, 19, 123456, tzinfo=UTC)
UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"


@pytest.fixture(scope="module")
def root() -> KeyPair:
    return issue_root(["localhost"], now=NOW)


@pytest.fixture(scope="module")
def intermediate(root: KeyPair) -> KeyPair:
    return issue_intermediate(root, ["localhost"], now=NOW)


@pytest.fixture(scope="module")
def marble_root(intermediate: KeyPair) -> KeyPair:
    return issue_marble_root(intermediate, now=NOW)


def leaf(issuer: KeyPair, names: list[str]) -> KeyPair:
    csr = parse_csr(create_csr(generate_key(), names))
    return issue_leaf(csr, issuer=issuer, uuid=UUID, marble_type="all", allowed_names=None, now=NOW)


def recorded(shared_vectors: Path, name: str) -> x509.Certificate:
    return parse_certificates((shared_vectors / "marblerun" / "pki" / name).read_bytes())[0]


def fields(certificate: x509.Certificate) -> dict[str, object]:
    """Everything but serial, key, identifiers, times and signature."""
    changing = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
    return {
        "version": certificate.version,
        "subject": certificate.subject.public_bytes(),
        "issuer": certificate.issuer.public_bytes(),
        "signature": certificate.signature_algorithm_oid.dotted_string,
        "key": certificate.public_key_algorithm_oid.dotted_string,
        # Both ends are cut to seconds, so the span depends on the fraction of the second it began in.
        "life": round((certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds(), -1),
        "extensions": [
            (found.oid.dotted_string, found.critical, None if isinstance(found.value, changing) else found.value)
            for found in certificate.extensions
        ],
    }


def test_root_is_as_recorded(shared_vectors: Path, root: KeyPair) -> None:
    assert fields(root.certificate) == fields(recorded(shared_vectors, "root.pem"))


def test_intermediate_is_as_recorded(shared_vectors: Path, intermediate: KeyPair) -> None:
    assert fields(intermediate.certificate) == fields(recorded(shared_vectors, "intermediate.pem"))


def test_marble_root_is_as_recorded(shared_vectors: Path, marble_root: KeyPair) -> None:
    assert fields(marble_root.certificate) == fields(recorded(shared_vectors, "marble-root.pem"))


def test_leaf_is_as_recorded(shared_vectors: Path, marble_root: KeyPair) -> None:
    assert fields(leaf(marble_root, ["localhost"]).certificate) == fields(recorded(shared_vectors, "marble-chain.pem"))


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("ec224", CertificateRequest("s", "cert-ecdsa", 224)),
        ("ec256", CertificateRequest("s", "cert-ecdsa", 256)),
        ("ec384", CertificateRequest("s", "cert-ecdsa", 384)),
        (
            "ec521_ca",
            CertificateRequest(
                "s",
                "cert-ecdsa",
                521,
                common_name="sub ca",
                subject=(("Country", "DE"),),
                dns_names=("a.example", "b.example"),
                ip_addresses=("10.1.2.3",),
                not_after=datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC),
                key_usage=96,
                ext_key_usage=(1,),
                is_ca=True,
                max_path_len=1,
            ),
        ),
        ("ed_shared", CertificateRequest("s", "cert-ed25519")),
        ("rsa_private", CertificateRequest("s", "cert-rsa", 2048, 7, common_name="private rsa", serial_number="42")),
    ],
)
def test_secret_certificate_is_as_recorded(
    shared_vectors: Path, marble_root: KeyPair, name: str, request_: CertificateRequest
) -> None:
    expected = recorded(shared_vectors, f"secret-{name}.pem")
    made = issue_secret_certificate(request_, issuer=marble_root, now=expected.not_valid_before_utc)
    expected_fields = fields(expected)
    if name.startswith(("ec256", "ec384")):  # their manifest set names and usages of its own
        expected_fields = {key: expected_fields[key] for key in ("version", "issuer", "signature", "key")}
    assert {key: fields(made.certificate)[key] for key in expected_fields} == expected_fields
    made.certificate.verify_directly_issued_by(marble_root.certificate)


def test_recorded_keys_and_certificates_are_pairs(shared_vectors: Path) -> None:
    folder = shared_vectors / "marblerun" / "pki"
    for certificate in sorted([*folder.glob("secret-*.pem"), *folder.glob("users/*.crt")]):
        parse_key_pair(certificate.read_bytes(), certificate.with_suffix(".key").read_bytes())


def test_common_name_is_a_printable_string(root: KeyPair) -> None:
    assert b"\x13\x15MarbleRun Coordinator" in root.certificate_der


def test_validity_ends_in_the_year_2319(root: KeyPair) -> None:
    assert root.certificate.not_valid_before_utc == NOW.replace(microsecond=0)
    assert root.certificate.not_valid_after_utc.year == 2319


def test_key_identifier_is_sha256_of_the_point(root: KeyPair, intermediate: KeyPair) -> None:
    point = root.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    expected = hashlib.sha256(point).digest()[:20]
    own = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    above = intermediate.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert (own.digest, above.key_identifier) == (expected, expected)


def test_root_answers_under_names_then_loopback_then_addresses() -> None:
    found = issue_root(["10.0.0.7", "a.example", "", "127.0.0.1"], now=NOW).certificate.extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(entry.value) for entry in names] == ["a.example", "127.0.0.1", "::1", "10.0.0.7"]


def test_a_leaf_verifies_under_marble_root_and_under_the_intermediate(
    root: KeyPair, intermediate: KeyPair, marble_root: KeyPair
) -> None:
    made = leaf(marble_root, [])
    made.certificate.verify_directly_issued_by(marble_root.certificate)
    made.certificate.verify_directly_issued_by(intermediate.certificate)
    intermediate.certificate.verify_directly_issued_by(root.certificate)
    assert marble_root.certificate.public_key() == intermediate.certificate.public_key()


@pytest.mark.parametrize("mark", ["SIMULATED", "UNATTESTED"])
def test_the_mark_stands_in_every_subject(mark: str) -> None:
    root = issue_root([], now=NOW, mark=mark)
    below = issue_intermediate(root, [], now=NOW, mark=mark)
    marble_root = issue_marble_root(below, now=NOW)
    csr = parse_csr(create_csr(generate_key(), []))
    made = issue_leaf(csr, issuer=below, uuid=UUID, marble_type="t", allowed_names=None, now=NOW, mark=mark)
    for pair in (root, below, marble_root, made):
        assert f"OU={mark}" in pair.certificate.subject.rfc4514_string()


def test_self_signed_certificate_is_a_marbles(root: KeyPair) -> None:
    made = issue_self_signed(["a.example"], common_name="MarbleRun Marble", now=NOW).certificate
    made.verify_directly_issued_by(made)
    assert made.subject.rfc4514_string() == "CN=MarbleRun Marble"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_default_common_name_follows_the_dns_names(marble_root: KeyPair) -> None:
    def common_name(names: tuple[str, ...] | None) -> str:
        request = CertificateRequest("s", "cert-ed25519", dns_names=names)
        return issue_secret_certificate(request, issuer=marble_root, now=NOW).certificate.subject.rfc4514_string()

    assert common_name(None) == "CN=localhost"
    assert common_name(("a.example",)) == "CN=a.example"
    assert common_name(("a.example", "b.example")) == "CN=MarbleRun Generated Certificate"
    assert common_name(()) == "CN=MarbleRun Generated Certificate"


def test_an_empty_list_is_none_where_an_absent_one_takes_the_default(marble_root: KeyPair) -> None:
    request = CertificateRequest("s", "cert-ed25519", dns_names=(), ip_addresses=(), ext_key_usage=())
    made = issue_secret_certificate(request, issuer=marble_root, now=NOW).certificate
    kinds = {type(extension.value) for extension in made.extensions}
    assert kinds == {x509.KeyUsage, x509.BasicConstraints, x509.AuthorityKeyIdentifier}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dns_names": ("a" * 60 + ".svc.example",), "ip_addresses": ()}, "a" * 60 + ".svc.example"),
        ({"subject": (("Country", "Germany"),)}, "Germany"),
    ],
)
def test_a_subject_is_as_long_as_the_manifest_says(marble_root: KeyPair, changes: dict, said: str) -> None:
    request = CertificateRequest("s", "cert-ed25519", **changes)
    made = issue_secret_certificate(request, issuer=marble_root, now=NOW).certificate_der
    assert said.encode() in made


@pytest.mark.parametrize(
    ("type_", "size", "text"),
    [
        (
            "cert-ecdsa",
            255,
            "invalid secret size for cert-ecdsa secret s: unsupported size 255: does not map to a supported curve",
        ),
        ("cert-ed25519", 256, "invalid secret size for cert-ed25519 secret s: none is expected, got: 256"),
        (
            "cert-rsa",
            0,
            "crypto/rsa: 0-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)",
        ),
        ("cert-rsa", 16384, "invalid secret size for cert-rsa secret s: 16384 bits, at most 8192"),
    ],
)
def test_a_size_that_the_key_does_not_have_is_refused(marble_root: KeyPair, type_: str, size: int, text: str) -> None:
    with pytest.raises(PkiError) as refused:
        issue_secret_certificate(CertificateRequest("s", type_, size), issuer=marble_root, now=NOW)
    assert str(refused.value) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"ip_addresses": ("nonsense",)},
        {"dns_names": ("ü.example",)},
        {"subject": (("Planet", "Mars"),)},
        {"ext_key_usage": (77,)},
        {"valid_for": 10**9},
        {"is_ca": True, "max_path_len": -1},
    ],
)
def test_a_field_that_no_certificate_can_hold_is_refused(marble_root: KeyPair, changes: dict) -> None:
    with pytest.raises(PkiError):
        issue_secret_certificate(CertificateRequest("s", "cert-ed25519", **changes), issuer=marble_root, now=NOW)


def test_the_key_never_shows(root: KeyPair) -> None:
    assert "PrivateKey" not in repr(root)


def test_an_encrypted_key_is_named_as_such(root: KeyPair) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    locked = root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(PkiError, match="encrypted"):
        parse_private_key(locked)


def test_a_key_of_another_certificate_is_refused(root: KeyPair, intermediate: KeyPair) -> None:
    with pytest.raises(PkiError, match="does not belong"):
        parse_key_pair(root.certificate_pem, intermediate.key_pem)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_text_without_certificate_is_refused(text: bytes) -> None:
    with pytest.raises(PkiError):
        parse_certificates(text)


def test_t13_a_huge_certificate_file_is_refused_before_parsing() -> None:
    with pytest.raises(PkiError, match="at most"):
        parse_certificates(b"x" * (1 << 21))


def test_keys_are_p384() -> None:
    assert isinstance(generate_key().curve, ec.SECP384R1)
