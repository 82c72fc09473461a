"""The pieces that every certificate of the mesh is made of: names, validity, identifiers, order of extensions.

MarbleRun's certificates are written by Go; ours have the same fields in the same order, so that a client which knows
the one reads the other. Two choices differ from what `cryptography` does by itself: the common name is a
PrintableString where its characters allow, and key identifiers are the first 20 bytes of a SHA-256.

Source: RFC 5280; RFC 7093 section 2, method 1.
"""

import hashlib
import ipaddress
import secrets
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# `cryptography` has no public way to choose the string type of an attribute. A test compares the bytes with recorded
# certificates, so a release that moves this name is seen.
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import PkiError
from tacit.pki.keys import KeyPair, PublicKey

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LIFETIME = timedelta(microseconds=(2**63 - 1) // 1000)
"""The longest span of Go's clock, about 292 years: certificates of the mesh end with the mesh, not with a date."""

LOOPBACK: tuple[IpAddress, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
SERVER_AND_CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])

# Characters of a PrintableString (X.680, 41.4). Go writes any other as UTF-8, `*` and `&` among them.
_PRINTABLE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
# The order in which Go 1.26, MarbleRun's, writes the attributes of a name.
_ORDER = (
    NameOID.COUNTRY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STREET_ADDRESS,
    NameOID.POSTAL_CODE,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.COMMON_NAME,
    NameOID.SERIAL_NUMBER,
)
_PLACE = {oid: place for place, oid in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a server, in the order of the certificate: DNS names, mail addresses, IP addresses."""

    dns: tuple[str, ...] = ()
    ips: tuple[IpAddress, ...] = ()
    emails: tuple[str, ...] = ()

    def extension(self) -> x509.SubjectAlternativeName | None:
        """The subject alternative name, None where there are no names.

        Raises:
            PkiError: A name that no certificate can hold, with the name.
        """
        general: list[x509.GeneralName] = []
        try:
            general += [x509.DNSName(name) for name in self.dns]
            general += [x509.RFC822Name(address) for address in self.emails]
        except ValueError as exc:
            raise PkiError(f"a name that no certificate can hold: {exc}") from exc
        general += [x509.IPAddress(address) for address in self.ips]
        return x509.SubjectAlternativeName(general) if general else None


def alternative_names(extensions: x509.Extensions) -> Names:
    """DNS names and addresses of a certificate or a request, empty where it has none; other kinds are left out."""
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names()
    # A network (10.0.0.0/8) stands in name constraints only; as a name of a server it means nothing.
    addresses = (entry for entry in found.get_values_for_type(x509.IPAddress) if isinstance(entry, IpAddress))
    return Names(tuple(found.get_values_for_type(x509.DNSName)), tuple(addresses))


def split_names(names: Iterable[str]) -> Names:
    """DNS names and IP addresses of a list that mixes them; empty entries are passed over, order is kept."""
    dns: list[str] = []
    ips: list[IpAddress] = []
    for name in (entry.strip() for entry in names):
        address = parse_ip(name)
        if address is not None:
            ips.append(address)
        elif name:
            dns.append(name)
    return Names(tuple(dns), tuple(ips))


def parse_ip(text: str) -> IpAddress | None:
    """The address, or None where the text is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def subject_name(attributes: Iterable[tuple[x509.ObjectIdentifier, str]]) -> x509.Name:
    """A name with the attributes in Go's order; several values of one attribute stand in one set.

    Raises:
        PkiError: An attribute that certificates of the mesh do not have, or text that cannot be written.
    """
    values: dict[x509.ObjectIdentifier, list[x509.NameAttribute[str]]] = {}
    for oid, text in attributes:
        if oid not in _PLACE:
            raise PkiError(f"subject attribute {oid.dotted_string} is not one that certificates of the mesh have")
        kind = _ASN1Type.PrintableString if _PRINTABLE.issuperset(text) else _ASN1Type.UTF8String
        try:
            values.setdefault(oid, []).append(_attribute(oid, text, kind))
        except ValueError as exc:
            raise PkiError(f'subject attribute {oid.dotted_string} cannot be "{text}": {exc}') from exc
    return x509.Name([x509.RelativeDistinguishedName(values[oid]) for oid in sorted(values, key=_PLACE.__getitem__)])


def _attribute(oid: x509.ObjectIdentifier, text: str, kind: _ASN1Type) -> "x509.NameAttribute[str]":
    """Go bounds no text: the common name of a server may be its long name in a cluster, and a country be empty."""
    try:
        return x509.NameAttribute(oid, text, kind)
    except ValueError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says again what was just refused
            return x509.NameAttribute(oid, text, kind, _validate=False)


def marked(common_name: str, mark: str | None) -> x509.Name:
    """A subject with this common name and, where given, the mark (SIMULATED, UNATTESTED) as organizational unit."""
    unit = [(NameOID.ORGANIZATIONAL_UNIT_NAME, mark)] if mark else []
    return subject_name([*unit, (NameOID.COMMON_NAME, common_name)])


def key_identifier(key: PublicKey) -> x509.SubjectKeyIdentifier:
    """First 20 bytes of SHA-256 over the key's bit string (the uncompressed point of an EC key).

    Source: RFC 7093 section 2, method 1; Go writes it so since 1.25.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        bits = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return x509.SubjectKeyIdentifier(hashlib.sha256(bits).digest()[:20])


@lru_cache(maxsize=16)
def authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier | None:
    """The key identifier of the issuer's certificate, None where it has none."""
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return x509.AuthorityKeyIdentifier(found.value.digest, None, None)


@cache
def key_usage(bits: int) -> x509.KeyUsage:
    """Key usage from Go's bit mask: 1 digitalSignature, 2 contentCommitment, ..., 256 decipherOnly.

    Raises:
        PkiError: A mask that no certificate can hold.
    """
    if not 0 < bits < 512:
        raise PkiError(f"key usage {bits} is no sum of 1 to 256")
    on = [bool(bits >> position & 1) for position in range(9)]
    try:
        return x509.KeyUsage(*on)
    except ValueError as exc:
        raise PkiError(f"key usage {bits} cannot be written: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Grants:
    """What a certificate says of its holder in its extensions. `usage` is Go's bit mask."""

    usage: int
    names: Names
    is_ca: bool = False
    path_length: int | None = None
    extended_usage: x509.ExtendedKeyUsage | None = SERVER_AND_CLIENT
    marble_type: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything of a certificate but issuer and signature."""

    subject: x509.Name
    public_key: PublicKey
    not_before: datetime
    not_after: datetime
    grants: Grants


# Non-critical, its value is the type's name as raw bytes. MarbleRun's monotonic counters read it.
MARBLE_TYPE_OID = x509.ObjectIdentifier("1.3.9903.2.1")


def sign(shape: Shape, *, issuer_name: x509.Name, issuer: KeyPair | None, key: object) -> x509.Certificate:
    """The certificate, signed with `key`; `issuer` None means self-signed, so without authority identifier.

    Raises:
        PkiError: A field cannot be written, or the key is no EC key.
    """
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("certificates of the mesh are signed by an EC key")
    try:
        builder = (
            x509.CertificateBuilder()
            .subject_name(shape.subject)
            .issuer_name(issuer_name)
            .public_key(shape.public_key)
            .serial_number(secrets.randbits(128) or 1)
            .not_valid_before(shape.not_before.replace(microsecond=0))
            .not_valid_after(shape.not_after.replace(microsecond=0))
        )
        authority = authority_identifier(issuer.certificate) if issuer else None
        for extension, critical in extensions_of(shape.grants, shape.public_key, authority):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key, hashes.SHA384())
    except (ValueError, TypeError) as exc:
        raise PkiError(f"a certificate that cannot be written: {exc}") from exc


def extensions_of(
    grants: Grants, key: PublicKey, authority: x509.AuthorityKeyIdentifier | None
) -> Sequence[tuple[x509.ExtensionType, bool]]:
    """The extensions in Go's order, each with whether it is critical. The key counts for authorities alone.

    Raises:
        PkiError: A name or a usage that no certificate can hold.
    """
    path_length = grants.path_length if grants.is_ca else None
    found: list[tuple[x509.ExtensionType, bool]] = [
        (key_usage(grants.usage), True),
        *([] if grants.extended_usage is None else [(grants.extended_usage, False)]),
        (x509.BasicConstraints(ca=grants.is_ca, path_length=path_length), True),
    ]
    if grants.is_ca:
        found.append((key_identifier(key), False))
    if authority is not None:
        found.append((authority, False))
    names = grants.names.extension()
    if names is not None:
        found.append((names, False))
    if grants.marble_type is not None:
        found.append((x509.UnrecognizedExtension(MARBLE_TYPE_OID, grants.marble_type.encode()), False))
    return found
