"""What no secret, recovery key or user can be made of is refused, in MarbleRun's order."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.manifests import minimal, raw
from tacit.errors import ManifestError, PkiError
from tacit.manifest import parse_manifest
from tacit.manifest.material import check_material, parse_recovery_key, parse_user_certificate

KEY = ec.generate_private_key(ec.SECP256R1())


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, start, start + timedelta(days=1))
    return builder.sign(KEY, SHA256())


CERTIFICATE = certificate()
PEM = CERTIFICATE.public_bytes(Encoding.PEM).decode()
DER = CERTIFICATE.public_bytes(Encoding.DER)


def public_pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


RSA_PEM = public_pem(rsa.generate_private_key(65537, 2048))


def refusal(**sections: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        check_material(parse_manifest(raw(minimal(**sections))).manifest)
    return str(caught.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"Type": "symmetric-key", "Shared": True}, "generating secrets from manifest: invalid secret size: s"),
        (
            {"Type": "symmetric-key", "Size": 129, "Shared": True},
            "generating secrets from manifest: invalid secret size: s",
        ),
        ({"Type": "symmetric-key"}, "generating placeholder secrets from manifest: invalid secret size: s"),
        (
            {"Type": "plain"},
            "generating placeholder secrets from manifest: secret s is invalid: unsupported secret of type plain",
        ),
        (
            {"Type": "cert-ecdsa", "Size": 123, "Shared": True},
            "generating secrets from manifest: invalid secret size for cert-ecdsa secret s: "
            "unsupported size 123: does not map to a supported curve",
        ),
        (
            {"Type": "cert-ed25519", "Size": 256, "Shared": True},
            "generating secrets from manifest: invalid secret size for cert-ed25519 secret s: none is expected, got: 256",
        ),
        (
            {"Type": "cert-rsa", "Shared": True},
            "generating secrets from manifest: crypto/rsa: 0-bit keys are insecure "
            "(see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)",
        ),
    ],
)
def test_secrets_that_cannot_be_made_are_refused(rule: dict[str, Any], words: str) -> None:
    assert refusal(Secrets={"s": rule}) == words


@pytest.mark.parametrize("rule", [{"Type": "cert-rsa", "Size": 10**6}, {"Type": "symmetric-key", "Size": 8 * 10**12}])
def test_t13_sizes_that_would_exhaust_the_coordinator_are_refused(rule: dict[str, Any]) -> None:
    assert "invalid secret size" in refusal(Secrets={"s": rule})


def test_user_defined_secrets_need_no_size() -> None:
    rules = {"a": {"Type": "plain", "UserDefined": True}, "b": {"Type": "symmetric-key", "UserDefined": True}}
    check_material(parse_manifest(raw(minimal(Secrets=rules))).manifest)


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        ("garbage", "given PEM data is not a public key"),
        (PEM, "given PEM data is not a public key"),
        (public_pem(KEY), "unsupported type of public key"),
        ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "given PEM data is not a public key"),
    ],
)
def test_recovery_keys_that_are_no_rsa_keys_are_refused(pem: str, words: str) -> None:
    assert refusal(RecoveryKeys={"r": pem}) == f"generating recovery encryption key: {words}"


def test_what_can_be_made_passes() -> None:
    rules = {"k": {"Type": "symmetric-key", "Size": 128, "Shared": True}, "c": {"Type": "cert-ecdsa", "Size": 521}}
    check_material(
        parse_manifest(
            raw(minimal(Secrets=rules, RecoveryKeys={"r": RSA_PEM}, Users={"u": {"Certificate": PEM}}))
        ).manifest
    )


def test_a_recovery_key_is_read() -> None:
    assert parse_recovery_key(RSA_PEM).key_size == 2048


def test_a_user_without_a_certificate_is_refused_and_matches_nobody() -> None:
    users = {"u": {"Certificate": "garbage"}}
    assert refusal(Users=users) == "generating users from manifest: received invalid certificate for user u"
    assert parse_manifest(raw(minimal(Users=users))).manifest.users["u"].certificate == b""


def test_secrets_are_looked_at_before_recovery_keys_and_those_before_users() -> None:
    secrets, keys, users = {"s": {"Type": "symmetric-key"}}, {"r": "x"}, {"u": {"Certificate": "x"}}
    assert refusal(Secrets=secrets, RecoveryKeys=keys, Users=users).startswith("generating placeholder")
    assert refusal(RecoveryKeys=keys, Users=users).startswith("generating recovery")


@pytest.mark.parametrize("pem", [PEM, "comment\n" + PEM, PEM + public_pem(KEY), PEM.replace("\n", "\r\n")])
def test_the_first_block_of_a_users_pem_is_the_certificate(pem: str) -> None:
    assert parse_user_certificate(pem) == DER


@pytest.mark.parametrize(
    "pem", ["", public_pem(KEY) + PEM, PEM[:200], PEM.replace("MII", "M!I"), PEM.replace("MII", "M\xe9I"), "x" * 1000]
)
def test_pem_without_a_certificate_first_is_refused(pem: str) -> None:
    with pytest.raises(PkiError):
        parse_user_certificate(pem)
