"""Certificates, keys and sizes that a manifest names: can something be made of them?

MarbleRun finds these defects when it generates secrets, after its check of the manifest; their words and their order
are kept, but nothing is generated here.
"""

import binascii
import re

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tacit.errors import ManifestError, PkiError
from tacit.manifest.model import Manifest, SecretRule
from tacit.pki.certificate import CertificateRequest, check_secret_size
from tacit.pki.keys import CERTIFICATE_ERRORS

MAX_SYMMETRIC_SIZE = 8 * 65536
"""Bits of a generated symmetric key."""

_PEM = re.compile(
    r"(?:^|\n)-----BEGIN ([^\n]*?)-----[ \t\r]*\n(.*?)\n?-----END \1-----", re.DOTALL
)  # group 2 is base64, after headers if there are any


def parse_user_certificate(pem: str) -> bytes:
    """DER of the certificate in the first PEM block.

    Raises:
        PkiError: there is no block, or it holds no certificate.
    """
    block = _first_block(pem)
    try:
        x509.load_der_x509_certificate(block)
    except CERTIFICATE_ERRORS as exc:
        message = "the first PEM block is no X.509 certificate"
        raise PkiError(message) from exc
    return block


def parse_recovery_key(pem: str) -> RSAPublicKey:
    """The RSA key in the first PEM block.

    Raises:
        PkiError: `given PEM data is not a public key`, `unsupported type of public key`.
    """
    block = _first_block(pem, "PUBLIC KEY")
    try:
        key = load_der_public_key(block)
    except Exception as exc:  # cryptography has several for keys that it does not know
        message = "given PEM data is not a public key"
        raise PkiError(message) from exc
    if not isinstance(key, RSAPublicKey):
        message = "unsupported type of public key"
        raise PkiError(message)
    return key


def _first_block(pem: str, label: str | None = None) -> bytes:
    match = _PEM.search(pem)
    if match is None or (label is not None and match.group(1) != label):
        message = "given PEM data is not a public key" if label else "no PEM block found"
        raise PkiError(message)
    body = match.group(2)
    head, separator, rest = body.replace("\r", "").partition("\n\n")
    encoded = rest if separator and ":" in head else body
    try:
        return binascii.a2b_base64("".join(encoded.split()), strict_mode=True)
    except ValueError as exc:  # binascii.Error is one, and text that is no ASCII another
        message = "given PEM data is not a public key" if label else "the first PEM block is not base64"
        raise PkiError(message) from exc


def check_material(manifest: Manifest) -> None:
    """Refuse what no secret, recovery key or user can be made of, in MarbleRun's order.

    Raises:
        ManifestError: with MarbleRun's prefix, such as `generating secrets from manifest: `.
    """
    generated = {name: rule for name, rule in sorted(manifest.secrets.items()) if not rule.user_defined}
    for shared, prefix in ((True, "generating secrets from manifest"), (False, None)):
        for name, rule in generated.items():
            # `plain` counts as unshared: it is never generated.
            if rule.shared is shared and (defect := secret_defect(name, rule)):
                message = f"{prefix or 'generating placeholder secrets from manifest'}: {defect}"
                raise ManifestError(message)
    for _, pem in sorted(manifest.recovery_keys.items()):
        try:
            parse_recovery_key(pem)
        except PkiError as exc:
            message = f"generating recovery encryption key: {exc}"
            raise ManifestError(message) from exc
    for name, user in sorted(manifest.users.items()):
        if not user.certificate:
            message = f"generating users from manifest: received invalid certificate for user {name}"
            raise ManifestError(message)


def secret_defect(name: str, rule: SecretRule) -> str:
    """Why this secret cannot be generated, or an empty text."""
    size = rule.size
    defect = ""
    match rule.type:
        case "symmetric-key" if size == 0 or size % 8 or size > MAX_SYMMETRIC_SIZE:
            defect = f"invalid secret size: {name}"
        case "plain":
            defect = f"secret {name} is invalid: unsupported secret of type plain"
        case "cert-rsa" | "cert-ecdsa" | "cert-ed25519":
            try:
                check_secret_size(CertificateRequest(name, rule.type, size))
            except PkiError as exc:
                defect = str(exc)
    return defect
