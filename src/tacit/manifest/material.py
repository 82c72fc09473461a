"""Certificates, keys and sizes that a manifest names: can something be made of them?

MarbleRun finds these defects when it generates secrets, after its check of the manifest; their words and their order
are kept, but nothing is generated here.
"""

import binascii
import re

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tacit.errors import ManifestError, PkiError
from tacit.manifest.model import Manifest, SecretRule
from tacit.pki.certificate import CertificateRequest, check_secret_size
from tacit.pki.keys import CERTIFICATE_ERRORS

MAX_SYMMETRIC_SIZE = 8 * 65536
"""Bits of a generated symmetric key."""

MAX_DERIVED_SIZE = 8 * 255 * 32
"""Bits of one that each marble has for its own: what HKDF-SHA256 gives."""

MIN_RSA = 1024
"""Bits of a recovery key: what Go's library encrypts to, and makes."""

_BLANKS = " \t\r"
_INDENT = re.compile(r"\n[ \t]+(?!-----BEGIN |[ \t])")
_END = re.compile(r"(-----END [^\n]*?-----)[^\n]*")
_SEQUENCE = b"\x30"


def parse_user_certificate(pem: str) -> bytes:
    """DER of the certificate in the first PEM block that can be read, whatever the block is called.

    Raises:
        PkiError: there is no block (`no PEM block found`), or it holds no certificate (in the words of Go's x509).
    """
    found = _first_block(pem)
    if found is None:
        raise PkiError("no PEM block found")
    try:
        x509.load_der_x509_certificate(found[1])
    except CERTIFICATE_ERRORS as exc:
        raise PkiError(f"x509: {_certificate_defect(found[1])}") from exc
    return found[1]


def parse_recovery_key(pem: str) -> RSAPublicKey:
    """The RSA key in the first PEM block that can be read.

    Raises:
        PkiError: `given PEM data is not a public key`, `unsupported type of public key`.
    """
    label, block = _first_block(pem) or ("", b"")
    try:
        key = load_der_public_key(block if label == "PUBLIC KEY" else b"")
    except Exception as exc:  # cryptography has several for keys that it does not know
        message = "given PEM data is not a public key"
        raise PkiError(message) from exc
    if not isinstance(key, RSAPublicKey):
        message = "unsupported type of public key"
        raise PkiError(message)
    return key


def check_recovery_key(pem: str) -> None:
    """Refuse what no recovery secret may be encrypted to. Raises: PkiError."""
    size = parse_recovery_key(pem).key_size
    if size < MIN_RSA:
        link = "https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size"
        raise PkiError(f"crypto/rsa: {size}-bit keys are insecure (see {link})")


def _first_block(pem: str) -> tuple[str, bytes] | None:
    """Label and bytes of the block that Go reads: the first that is whole, whatever is damaged before it.

    Where Go finds none, blanks before lines and text around an end are no damage: states were sealed with such text.
    """
    return _first_whole(pem) or _first_whole(_END.sub(r"\n\1", _INDENT.sub("\n", pem)))


def _first_whole(pem: str) -> tuple[str, bytes] | None:
    label, body = None, list[str]()
    for line in pem.split("\n"):
        text = line.rstrip(_BLANKS)
        if text.startswith("-----BEGIN "):
            label, body = text.removeprefix("-----BEGIN ").removesuffix("-----") if text.endswith("-----") else None, []
        elif text.startswith("-----END "):
            block = _decode(body) if label is not None and text == f"-----END {label}-----" else None
            if label is not None and block is not None:
                return label, block
            label = None
        elif body or ":" not in text:  # lines with a colon at the start are headers
            body.append(text)
    return None


def _decode(lines: list[str]) -> bytes | None:
    encoded = "".join("".join(lines).split())
    try:
        # Python would read a text with too little padding in some cases.
        return None if len(encoded) % 4 else binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:  # binascii.Error is one, and text that is no ASCII another
        return None


def _certificate_defect(der: bytes) -> str:
    """Roughly where Go stops to read it."""
    try:
        inside = bytes(asn1.decode_der(asn1.TLV, der).data)
    except ValueError:
        inside = b""
    return "malformed tbs certificate" if inside and inside[:1] != _SEQUENCE else "malformed certificate"


def check_material(manifest: Manifest) -> None:
    """Refuse what no secret, recovery key or user of a first manifest can be made of, in MarbleRun's order.

    Raises:
        ManifestError: with MarbleRun's prefix, such as `generating secrets from manifest: `.
    """
    check_secrets(manifest)
    check_recovery_keys(manifest)
    check_users(manifest)


def check_secrets(manifest: Manifest) -> None:
    """Refuse secrets that cannot be made. Raises: ManifestError."""
    generated = {name: rule for name, rule in sorted(manifest.secrets.items()) if not rule.user_defined}
    for shared, prefix in ((True, "generating secrets from manifest"), (False, None)):
        for name, rule in generated.items():
            # `plain` counts as unshared: it is never generated.
            if rule.shared is shared and (defect := secret_defect(name, rule)):
                message = f"{prefix or 'generating placeholder secrets from manifest'}: {defect}"
                raise ManifestError(message)


def check_recovery_keys(manifest: Manifest) -> None:
    """Refuse keys that nothing can be encrypted to. Raises: ManifestError."""
    for _, pem in sorted(manifest.recovery_keys.items()):
        try:
            check_recovery_key(pem)
        except PkiError as exc:
            message = f"generating recovery encryption key: {exc}"
            raise ManifestError(message) from exc


def check_users(manifest: Manifest) -> None:
    """Refuse users who have no certificate. Raises: ManifestError."""
    for name, user in sorted(manifest.users.items()):
        if not user.certificate:
            raise ManifestError(f"generating users from manifest: {_user_defect(name, user.pem)}")


def _user_defect(name: str, pem: str) -> str:
    found = _first_block(pem)
    return f"x509: {_certificate_defect(found[1])}" if found else f"received invalid certificate for user {name}"


def secret_defect(name: str, rule: SecretRule) -> str:
    """Why this secret cannot be generated, or an empty text."""
    size = rule.size
    defect = ""
    match rule.type:
        case "symmetric-key" if size == 0 or size % 8 or size > MAX_SYMMETRIC_SIZE:
            defect = f"invalid secret size: {name}"
        case "symmetric-key" if size > MAX_DERIVED_SIZE and not rule.shared:
            defect = f"secret {name} has {size} bits; at most {MAX_DERIVED_SIZE} are derived for one marble"
        case "plain":
            defect = f"secret {name} is invalid: unsupported secret of type plain"
        case "cert-rsa" | "cert-ecdsa" | "cert-ed25519":
            try:
                check_secret_size(CertificateRequest(name, rule.type, size))
            except PkiError as exc:
                defect = str(exc)
    return defect
