"""Certificates that a manifest asks for as secrets, with MarbleRun's defaults."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import PkiError
from tacit.pki.keys import KeyPair, PrivateKey
from tacit.pki.shape import LOOPBACK, SERVER_AND_CLIENT, Grants, IpAddress, Names, Shape, parse_ip, sign, subject_name

DEFAULT_DAYS = 365
DEFAULT_NAMES = ("localhost",)
DEFAULT_USAGE = 1 | 32  # digitalSignature and keyCertSign, although it is no authority: MarbleRun's default
MAX_RSA = 8192  # bits; making a larger key would hold the coordinator up for minutes

_CURVES: dict[int, type[ec.EllipticCurve]] = {
    224: ec.SECP224R1,
    256: ec.SECP256R1,
    384: ec.SECP384R1,
    521: ec.SECP521R1,
}
_ATTRIBUTES = {
    "Country": NameOID.COUNTRY_NAME,
    "Organization": NameOID.ORGANIZATION_NAME,
    "OrganizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "Locality": NameOID.LOCALITY_NAME,
    "Province": NameOID.STATE_OR_PROVINCE_NAME,
    "StreetAddress": NameOID.STREET_ADDRESS,
    "PostalCode": NameOID.POSTAL_CODE,
}
_EXTENDED_USAGES = {
    0: ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    1: ExtendedKeyUsageOID.SERVER_AUTH,
    2: ExtendedKeyUsageOID.CLIENT_AUTH,
    3: ExtendedKeyUsageOID.CODE_SIGNING,
    4: ExtendedKeyUsageOID.EMAIL_PROTECTION,
    8: ExtendedKeyUsageOID.TIME_STAMPING,
    9: ExtendedKeyUsageOID.OCSP_SIGNING,
}


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """How a certificate secret is to look; the fields are the manifest's. What is None or 0 takes the default; `()` is none.

    `name` is the secret's name, for messages. `type` is `cert-rsa`, `cert-ed25519` or `cert-ecdsa`; `size` is bits;
    `valid_for` is days (0: not given). `subject` are (Go's attribute name, text); `key_usage` and `ext_key_usage` are
    Go's numbers; `max_path_len` None is no limit.
    """

    name: str
    type: str
    size: int = 0
    valid_for: int = 0
    common_name: str | None = None
    serial_number: str | None = None
    subject: tuple[tuple[str, str], ...] = ()
    dns_names: tuple[str, ...] | None = None
    ip_addresses: tuple[str, ...] | None = None
    email_addresses: tuple[str, ...] = ()
    not_after: datetime | None = None
    key_usage: int | None = None
    ext_key_usage: tuple[int, ...] | None = None
    is_ca: bool = False
    max_path_len: int | None = None


def issue_secret_certificate(request: CertificateRequest, *, issuer: KeyPair, now: datetime) -> KeyPair:
    """A new key of the asked kind and its certificate, signed by the marble root.

    Raises:
        PkiError: A size that the kind of key does not have, or a field that no certificate can hold; the texts about
            sizes are those of MarbleRun's wire.
    """
    key = _generate(request)
    shape = Shape(
        subject=_subject(request),
        public_key=key.public_key(),
        not_before=now,
        not_after=_not_after(request, now),
        grants=Grants(
            usage=request.key_usage or DEFAULT_USAGE,
            names=_names(request),
            is_ca=request.is_ca,
            path_length=request.max_path_len,
            extended_usage=_extended_usage(request),
        ),
    )
    return KeyPair(sign(shape, issuer_name=issuer.certificate.subject, issuer=issuer, key=issuer.key), key)


def check_secret_size(request: CertificateRequest) -> None:
    """Refuse a size that the kind of key does not have, without making a key. Raises: PkiError."""
    name, size = request.name, request.size
    if request.type == "cert-ecdsa":
        if size not in _CURVES:
            what = f"unsupported size {size}: does not map to a supported curve"
            raise PkiError(f"invalid secret size for cert-ecdsa secret {name}: {what}")
    elif request.type == "cert-ed25519":
        if size != 0:
            raise PkiError(f"invalid secret size for cert-ed25519 secret {name}: none is expected, got: {size}")
    elif request.type == "cert-rsa":
        if size < 1024:
            link = "https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size"
            raise PkiError(f"crypto/rsa: {size}-bit keys are insecure (see {link})")
        if size > MAX_RSA:
            raise PkiError(f"invalid secret size for cert-rsa secret {name}: {size} bits, at most {MAX_RSA}")
    else:
        raise PkiError(f"secret {name} is of type {request.type}; expected cert-rsa, cert-ed25519 or cert-ecdsa")


def _generate(request: CertificateRequest) -> PrivateKey:
    check_secret_size(request)
    if request.type == "cert-ecdsa":
        return ec.generate_private_key(_CURVES[request.size]())
    if request.type == "cert-ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=request.size)


def _not_after(request: CertificateRequest, now: datetime) -> datetime:
    if request.not_after is not None:
        return request.not_after
    try:
        return now + timedelta(days=request.valid_for or DEFAULT_DAYS)
    except OverflowError as exc:
        raise PkiError(f"secret {request.name} is valid for {request.valid_for} days, beyond the year 9999") from exc


def _subject(request: CertificateRequest) -> x509.Name:
    attributes = []
    for go_name, text in request.subject:
        if go_name not in _ATTRIBUTES:
            raise PkiError(
                f'secret {request.name}: subject attribute "{go_name}" is not one of {", ".join(_ATTRIBUTES)}'
            )
        attributes.append((_ATTRIBUTES[go_name], text))
    attributes.append((NameOID.COMMON_NAME, request.common_name or _default_common_name(request)))
    if request.serial_number:
        attributes.append((NameOID.SERIAL_NUMBER, request.serial_number))
    return subject_name(attributes)


def _default_common_name(request: CertificateRequest) -> str:
    names = DEFAULT_NAMES if request.dns_names is None else request.dns_names
    return names[0] if len(names) == 1 else "MarbleRun Generated Certificate"


def _names(request: CertificateRequest) -> Names:
    addresses: list[IpAddress] = []
    for text in request.ip_addresses or ():
        address = parse_ip(text)
        if address is None:
            raise PkiError(f'secret {request.name}: "{text}" is no IP address')
        addresses.append(address)
    names = DEFAULT_NAMES if request.dns_names is None else request.dns_names
    return Names(names, LOOPBACK if request.ip_addresses is None else tuple(addresses), request.email_addresses)


def _extended_usage(request: CertificateRequest) -> x509.ExtendedKeyUsage | None:
    if request.ext_key_usage is None:
        return SERVER_AND_CLIENT
    if not request.ext_key_usage:
        return None
    unknown = [number for number in request.ext_key_usage if number not in _EXTENDED_USAGES]
    if unknown:
        raise PkiError(f"secret {request.name}: extended key usage {unknown[0]} is not one of {list(_EXTENDED_USAGES)}")
    return x509.ExtendedKeyUsage([_EXTENDED_USAGES[number] for number in request.ext_key_usage])
