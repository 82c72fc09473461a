"""What no secret, recovery key or user can be made of is refused, in MarbleRun's order."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fakes.manifests import minimal, raw
from tacit.errors import ManifestError, PkiError
from tacit.manifest import parse_manifest
from tacit.manifest.material import check_material, parse_recovery_key, parse_user_certificate

KEY = ec.generate_private_key(ec.SECP256R1())


PRIVATE_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


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


# 512 bits: nothing makes such a key any more.
SMALL_PEM = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAMuNxJQEX1K6pKWQkW6q1nVPeMukKIh8
4Oy5DKgpCDqT1CuwePEN4LcqsuT/9yi0Hi9pCKyneErtgOiRuH1dDlkCAwEAAQ==
-----END PUBLIC KEY-----
"""
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
        (
            SMALL_PEM,
            "crypto/rsa: 512-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)",
        ),
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


BROKEN = PEM.replace("MII", "M!I")
BEGIN, END = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
KEY_BLOCK = public_pem(KEY)


@pytest.mark.parametrize(
    "pem",
    [
        PEM,
        "comment\n" + PEM,
        PEM + KEY_BLOCK,
        PEM.replace("\n", "\r\n"),
        PEM.replace("CERTIFICATE", "FOO"),
        BEGIN + "Key: value\n" + PEM.removeprefix(BEGIN),
        BEGIN + "Key: value\n\n" + PEM.removeprefix(BEGIN),
        BROKEN + PEM,
        "-----BEGIN \n" + PEM,
        BEGIN + "AAAA\n" + PEM,
        KEY_BLOCK.replace("END PUBLIC KEY", "END FOO") + PEM,
        KEY_BLOCK.replace("END PUBLIC KEY-----", "END PUBLIC KEY----- x") + PEM,
        PEM.replace("\n", "\n  "),
        PEM.replace("\n-----END", "-----END"),
        PEM.replace("\n-----END", "\n  -----END"),
        PEM.rstrip() + " x\n",
        PEM.rstrip() + " x\n" + KEY_BLOCK.replace("END PUBLIC KEY", "END FOO"),
        KEY_BLOCK.replace("\n", "\n ").rstrip(" ") + PEM,
    ],
)
def test_the_first_whole_block_of_a_users_pem_is_the_certificate(pem: str) -> None:
    assert parse_user_certificate(pem) == DER


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        ("", "received invalid certificate for user u"),
        ("x" * 1000, "received invalid certificate for user u"),
        (PEM[:200], "received invalid certificate for user u"),
        (BROKEN, "received invalid certificate for user u"),
        (PEM.replace("MII", "M\xe9I"), "received invalid certificate for user u"),
        (" " + PEM, "received invalid certificate for user u"),
        (BEGIN + "Foo bar\n" + PEM.removeprefix(BEGIN), "received invalid certificate for user u"),
        (PEM.replace("END CERTIFICATE", "END FOO"), "received invalid certificate for user u"),
        (BEGIN + END + PEM, "x509: malformed certificate"),
        (BEGIN + "AAAA\n" + END + PEM, "x509: malformed certificate"),
        (PEM[:300] + "\n" + END, "x509: malformed certificate"),
        (PRIVATE_PEM + PEM, "x509: malformed tbs certificate"),
    ],
)
def test_pem_without_a_certificate_first_is_refused(pem: str, words: str) -> None:
    with pytest.raises(PkiError):
        parse_user_certificate(pem)
    assert refusal(Users={"u": {"Certificate": pem}}) == f"generating users from manifest: {words}"


def test_t13_a_text_of_a_hundred_thousand_broken_blocks_is_read_in_one_pass() -> None:
    begun = time.process_time()
    with pytest.raises(PkiError):
        parse_user_certificate(BEGIN * 100_000 + "\n" + " " * 10**6 + "AAAA\n" + "-----END FOO-----\n" * 100_000)
    assert time.process_time() - begun < 60
