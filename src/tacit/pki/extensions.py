"""The extensions of a certificate that a manifest asks for, as Go writes them.

Go writes what `cryptography` has reason to refuse, such as an empty name, or `decipherOnly` without `keyAgreement`.
A manifest that MarbleRun takes has to go on being taken, so these are encoded from their declaration here.

Source: RFC 5280 sections 4.2.1 and 4.2.2; words of refusal as recorded from MarbleRun v1.9.1.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID

from tacit.errors import PkiError
from tacit.pki.keys import PublicKey
from tacit.pki.shape import SERVER_AND_CLIENT, IpAddress, key_identifier

Extension = tuple[x509.ExtensionType, bool]
"""An extension, and whether it is critical."""

NameKind = Literal["email", "dns", "uri"]

EXTENDED_USAGES = (
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.EMAIL_PROTECTION,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.5"),  # IPsec: end system, tunnel, user
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    ExtendedKeyUsageOID.TIME_STAMPING,
    ExtendedKeyUsageOID.OCSP_SIGNING,
    x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),  # server gated cryptography: Microsoft's, Netscape's
    x509.ObjectIdentifier("2.16.840.1.113730.4.1"),
    x509.ObjectIdentifier("1.3.6.1.4.1.311.2.1.22"),  # Microsoft's code signing: commercial, kernel
    x509.ObjectIdentifier("1.3.6.1.4.1.311.61.1.1"),
)
"""By Go's numbers."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What few certificates have. `further_usages` are dotted identifiers, `key_id` in place of the usual one.

    `permitted` and `excluded` are (`dns`, `email` or `uri`; name), in Go's order of the kinds.
    """

    uris: tuple[str, ...] = ()
    ocsp_servers: tuple[str, ...] = ()
    issuer_urls: tuple[str, ...] = ()
    revocation_urls: tuple[str, ...] = ()
    further_usages: tuple[str, ...] = ()
    key_id: bytes = b""
    permitted: tuple[tuple[NameKind, str], ...] = ()
    excluded: tuple[tuple[NameKind, str], ...] = ()
    limits_are_critical: bool = False


_Email = Annotated[asn1.Variant[bytes, Literal["email"]], asn1.Implicit(1)]
_Dns = Annotated[asn1.Variant[bytes, Literal["dns"]], asn1.Implicit(2)]
_Uri = Annotated[asn1.Variant[bytes, Literal["uri"]], asn1.Implicit(6)]
_Ip = Annotated[asn1.Variant[bytes, Literal["ip"]], asn1.Implicit(7)]
_Name = _Email | _Dns | _Uri | _Ip


@asn1.sequence
class _Names:
    all: list[_Name]


@asn1.sequence
class _Subtree:
    base: _Name


@asn1.sequence
class _Limits:
    permitted: Annotated[list[_Subtree] | None, asn1.Implicit(0)]
    excluded: Annotated[list[_Subtree] | None, asn1.Implicit(1)]


@asn1.sequence
class _Access:
    method: x509.ObjectIdentifier
    location: Annotated[bytes, asn1.Implicit(6)]


@asn1.sequence
class _Accesses:
    all: list[_Access]


@asn1.sequence
class _FullName:
    names: Annotated[list[_Name], asn1.Implicit(0)]


@asn1.sequence
class _Point:
    name: Annotated[_FullName, asn1.Implicit(0)]


@asn1.sequence
class _Points:
    all: list[_Point]


@asn1.sequence
class _Holder:
    inside: asn1.TLV


def key_usage_extension(bits: int) -> Extension:
    """The lowest 16 of Go's bits: 1 digitalSignature, ..., 256 decipherOnly, and what has no name yet."""
    octets = [int(f"{bits >> shift & 0xFF:08b}"[::-1], 2) for shift in (0, 8)]
    value = bytes(octets) if octets[1] else bytes(octets[:1])
    written = f"{int.from_bytes(value):0{8 * len(value)}b}".rstrip("0")
    return _raw(ExtensionOID.KEY_USAGE, asn1.encode_der(asn1.BitString(value, -len(written) % 8)), critical=True)


def usage_extensions(numbers: Sequence[int] | None, further: Sequence[str]) -> Iterator[Extension]:
    """Extended key usage by Go's numbers, then by identifiers; none where both are empty, the default for None.

    Raises:
        PkiError: a number or an identifier that there is not.
    """
    if numbers is not None and any(not 0 <= number < len(EXTENDED_USAGES) for number in numbers):
        raise PkiError("x509: unknown extended key usage")
    usages = list(SERVER_AND_CLIENT) if numbers is None else [EXTENDED_USAGES[number] for number in numbers]
    try:
        usages += [x509.ObjectIdentifier(dotted) for dotted in further]
    except ValueError as exc:
        raise PkiError("asn1: structure error: invalid object identifier") from exc
    if usages:
        yield x509.ExtendedKeyUsage(usages), False


def constraint_extension(*, is_ca: bool, max_path_len: int | None) -> Extension:
    """Basic constraints. Raises: PkiError, for a length that no authority has, or that who is none has."""
    if max_path_len is not None and max_path_len < 0:
        raise PkiError("x509: invalid MaxPathLen, must be greater or equal to -1")
    if max_path_len is not None and not is_ca:
        raise PkiError("x509: only CAs are allowed to specify MaxPathLen")
    return x509.BasicConstraints(ca=is_ca, path_length=max_path_len), True


def identifier_extensions(
    key: PublicKey, extras: Extras, authority: x509.AuthorityKeyIdentifier | None, *, is_ca: bool
) -> Iterator[Extension]:
    """Identifiers of the certificate's own key, where it has one, and of its issuer's; then where to ask about it."""
    if extras.key_id or is_ca:
        own = x509.SubjectKeyIdentifier(extras.key_id) if extras.key_id else key_identifier(key)
        yield own, False
    if authority is not None:
        yield authority, False
    places = [(AuthorityInformationAccessOID.OCSP, url) for url in extras.ocsp_servers]
    places += [(AuthorityInformationAccessOID.CA_ISSUERS, url) for url in extras.issuer_urls]
    if places:
        accesses = _Accesses(all=[_Access(method=method, location=url.encode()) for method, url in places])
        yield _raw(ExtensionOID.AUTHORITY_INFORMATION_ACCESS, _inside(accesses))


def name_extensions(
    dns: Iterable[str], emails: Iterable[str], ips: Iterable[IpAddress], uris: Iterable[str], *, critical: bool
) -> Iterator[Extension]:
    """The subject alternative name, unless there is no name. Raises: PkiError, for a name that is not ASCII."""
    names: list[_Name] = [_named("dns", one) for one in dns]
    names += [_named("email", one) for one in emails]
    names += [asn1.Variant(address.packed, "ip") for address in ips]
    names += [_named("uri", one) for one in uris]
    if names:
        yield _raw(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, _inside(_Names(all=names)), critical=critical)


def limit_extensions(extras: Extras) -> Iterator[Extension]:
    """Name constraints and places of revocation lists, each where there are any.

    Raises:
        PkiError: a name that is not ASCII.
    """
    if extras.permitted or extras.excluded:
        limits = _Limits(permitted=_subtrees(extras.permitted), excluded=_subtrees(extras.excluded))
        yield _raw(ExtensionOID.NAME_CONSTRAINTS, asn1.encode_der(limits), critical=extras.limits_are_critical)
    if extras.revocation_urls:
        points = [_point(url) for url in extras.revocation_urls]
        yield _raw(ExtensionOID.CRL_DISTRIBUTION_POINTS, _inside(_Points(all=points)))


def _point(url: str) -> _Point:
    return _Point(name=_FullName(names=[asn1.Variant(url.encode(), "uri")]))


def _subtrees(names: Sequence[tuple[NameKind, str]]) -> list[_Subtree] | None:
    return [_Subtree(base=_named(kind, name)) for kind, name in names] or None


def _named(kind: NameKind, name: str) -> _Name:
    if not name.isascii():
        raise PkiError(f"x509: {json.dumps(name, ensure_ascii=False)} cannot be encoded as an IA5String")
    match kind:
        case "email":
            return asn1.Variant(name.encode(), "email")
        case "dns":
            return asn1.Variant(name.encode(), "dns")
        case "uri":
            return asn1.Variant(name.encode(), "uri")


def _inside(holder: object) -> bytes:
    """The DER of a sequence's only field: a list cannot be encoded by itself."""
    return asn1.encode_der(asn1.decode_der(_Holder, asn1.encode_der(holder)).inside)


def _raw(oid: x509.ObjectIdentifier, der: bytes, *, critical: bool = False) -> Extension:
    return x509.UnrecognizedExtension(oid, der), critical
