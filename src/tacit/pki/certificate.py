"""Certificates that a manifest asks for as secrets, with MarbleRun's defaults."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tacit.errors import PkiError
from tacit.pki.extensions import (
    Extension,
    Extras,
    constraint_extension,
    identifier_extensions,
    key_usage_extension,
    limit_extensions,
    name_extensions,
    usage_extensions,
)
from tacit.pki.keys import KeyPair, PrivateKey, PublicKey, public_der
from tacit.pki.mould import Fresh, sign_parts
from tacit.pki.shape import LOOPBACK, IpAddress, authority_identifier, parse_ip, subject_name

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

_SOME_KEY = ec.derive_private_key(1, ec.SECP256R1()).public_key()  # stands where any key does


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
    extras: Extras = field(default_factory=Extras)


def issue_secret_certificate(request: CertificateRequest, *, issuer: KeyPair, now: datetime) -> KeyPair:
    """A new key of the asked kind and its certificate, signed by the marble root.

    Raises:
        PkiError: A size that the kind of key does not have, or a field that no certificate can hold; the texts about
            sizes are those of MarbleRun's wire.
    """
    key = _generate(request)
    subject = _subject(request)
    fresh = Fresh(subject, public_der(key), not_before=now, not_after=_not_after(request, now))
    authority = authority_identifier(issuer.certificate)
    der = sign_parts(fresh, _extensions(request, key.public_key(), authority, subject=subject), issuer=issuer)
    return KeyPair(x509.load_der_x509_certificate(der), key)


def _extensions(
    request: CertificateRequest,
    key: PublicKey,
    authority: x509.AuthorityKeyIdentifier | None,
    *,
    subject: x509.Name,
) -> list[Extension]:
    """What the certificate says of its holder, in Go's order. Raises: PkiError."""
    # Go looks at the length of a path before anything else.
    constraints = constraint_extension(is_ca=request.is_ca, max_path_len=request.max_path_len)
    names = DEFAULT_NAMES if request.dns_names is None else request.dns_names
    ips, uris = _addresses(request), request.extras.uris
    return [
        key_usage_extension(request.key_usage or DEFAULT_USAGE),
        *usage_extensions(request.ext_key_usage, request.extras.further_usages),
        constraints,
        *identifier_extensions(key, request.extras, authority, is_ca=request.is_ca),
        # Without a subject the names are all there is, so nobody may pass them over.
        *name_extensions(names, request.email_addresses, ips, uris, critical=not subject.rdns),
        *limit_extensions(request.extras),
    ]


def check_extensions(request: CertificateRequest) -> None:
    """Refuse what no certificate can say of its holder, without making one. Raises: PkiError."""
    _extensions(request, _SOME_KEY, None, subject=x509.Name([]))


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
    if common_name := request.common_name or _default_common_name(request):
        attributes.append((NameOID.COMMON_NAME, common_name))
    if request.serial_number:
        attributes.append((NameOID.SERIAL_NUMBER, request.serial_number))
    return subject_name(attributes)


def _default_common_name(request: CertificateRequest) -> str:
    names = DEFAULT_NAMES if request.dns_names is None else request.dns_names
    return names[0] if len(names) == 1 else "MarbleRun Generated Certificate"


def _addresses(request: CertificateRequest) -> tuple[IpAddress, ...]:
    if request.ip_addresses is None:
        return LOOPBACK
    addresses: list[IpAddress] = []
    for text in request.ip_addresses:
        address = parse_ip(text)
        if address is None:
            raise PkiError(f'secret {request.name}: "{text}" is no IP address')
        # Go knows no difference between an IPv4 address and the same one written as IPv6.
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        addresses.append(mapped or address)
    return tuple(addresses)
