"""Whoever signed is found among those who are trusted; a signature of another text, label, or key is none."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.tee import NOW
from tacit.errors import PkiError
from tacit.pki import issue_self_signed
from tacit.pki.detached import parse_signatures, parse_signer, sign_detached, statement, verify_detached
from tacit.pki.keys import PrivateKey, public_der

TEXT = b'{"Packages": {}}'
KEYS: dict[str, PrivateKey] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


def signed(key: PrivateKey, label: str = "a", text: bytes = TEXT) -> tuple[bytes, ...]:
    return parse_signatures(sign_detached(label, text, key))


@pytest.mark.parametrize("kind", KEYS)
def test_a_signer_is_found_among_those_who_are_trusted(kind: str) -> None:
    trusted = [public_der(key) for key in KEYS.values()]
    assert verify_detached("a", TEXT, signed(KEYS[kind]), trusted) == public_der(KEYS[kind])


@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_of_another_text_label_or_key_is_none(kind: str) -> None:
    signer = [public_der(KEYS[kind])]
    (good,) = signed(KEYS[kind])
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    others = [public_der(key) for name, key in KEYS.items() if name != kind]
    for text, label, given, trusted in (
        (TEXT + b" ", "a", good, signer), (TEXT, "b", good, signer), (TEXT, "a", flipped, signer), (TEXT, "a", b"", signer),
        (TEXT, "a", good, others), (TEXT, "a", good, []),
    ):  # fmt: skip
        with pytest.raises(PkiError, match="none of the 1 signatures"):
            verify_detached(label, text, [given], trusted)


@pytest.mark.parametrize("curve", [ec.SECP192R1(), ec.SECP224R1(), ec.SECP256K1()])
def test_a_signer_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    with pytest.raises(PkiError, match=r"on the curve secp\w+; expected P-256, P-384 or P-521"):
        sign_detached("a", TEXT, key)
    with pytest.raises(PkiError, match="on the curve"):
        verify_detached("a", TEXT, [b""], [public_der(key)])


def test_the_statement_is_the_label_and_the_digest() -> None:
    digest = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert statement("tacit manifest v1", b"abc") == b"tacit manifest v1\0" + digest


def test_openssl_alone_can_sign(tmp_path: Path) -> None:
    key, file = tmp_path / "key.pem", tmp_path / "manifest.json"
    file.write_bytes(TEXT)
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    public = subprocess.run(["openssl", "pkey", "-in", key, "-pubout"], check=True, capture_output=True).stdout
    script = f"(printf 'a\\0'; openssl dgst -sha256 -binary {file}) | openssl dgst -sha256 -sign {key} | base64 -w0"
    line = subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout
    signer = parse_signer(public)
    assert verify_detached("a", TEXT, parse_signatures(line), [signer]) == signer


def test_a_signer_is_a_public_key_or_a_certificate_of_it() -> None:
    pair = issue_self_signed(["officer"], common_name="officer", now=NOW)
    pem = pair.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert parse_signer(pem) == parse_signer(pair.certificate_pem) == pair.public_der


def test_what_is_no_signer_is_refused() -> None:
    for pem, reason in (
        (b"", "no PEM certificate"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM public key"),
        (b"x" * ((1 << 20) + 1), "at most"),
        (_pem(rsa.generate_private_key(65537, 1024).public_key()), "1024 bits"),
        (_pem(dsa.generate_private_key(1024).public_key()), "expected an EC, RSA or Ed25519"),
    ):
        with pytest.raises(PkiError, match=reason):
            parse_signer(pem)
    with pytest.raises(PkiError, match="1024 bits"):
        sign_detached("a", TEXT, rsa.generate_private_key(65537, 1024))
    with pytest.raises(PkiError, match="cannot be read"):
        verify_detached("a", TEXT, [], [b"no key"])


def test_a_file_of_signatures_is_read_strictly() -> None:
    both = sign_detached("a", TEXT, KEYS["RSA"]) + sign_detached("a", TEXT, KEYS["P-384"])
    assert len(parse_signatures(both)) == 2
    assert parse_signatures(b"") == ()
    for raw in (b"not base64!", base64.b64encode(b"x") + b"\n=", b"AA==\n" * 17, b"A" * 2049):
        with pytest.raises(PkiError, match="a file of signatures has"):
            parse_signatures(raw)


def _pem(key: rsa.RSAPublicKey | dsa.DSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
