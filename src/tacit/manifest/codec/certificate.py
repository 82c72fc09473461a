"""How a manifest says what a certificate is to look like: the fields of Go's x509.Certificate that are obeyed.

Fields of Go's that cannot be chosen here are read over and reported.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from tacit.manifest.codec.content import Address, Blob
from tacit.manifest.codec.decode import Flag, Kind, ListOf, Place, Report, Struct, Text, Unused, Whole
from tacit.manifest.codec.moment import Moment
from tacit.manifest.codec.text import Node, Shape
from tacit.manifest.model import CertificateTemplate
from tacit.pki.extensions import Extras, NameKind

Values = dict[str, Any]

_TEXTS = ListOf(Text())
_INT = 2**63 - 1


def _int(go_type: str = "int") -> Whole:
    return Whole(go_type, _INT, low=-_INT - 1)


@dataclass(frozen=True, slots=True)
class _Identifier:
    """An object identifier, as a list of its numbers."""

    go_type: str = "asn1.ObjectIdentifier"

    def empty(self) -> str:
        """No identifier."""
        return ""

    def decode(self, node: Node, place: Place, current: Any, report: Report) -> Any:
        """The dotted form; whether there is such an identifier is seen when it is written."""
        if node.shape not in (Shape.ARRAY, Shape.NULL):
            report.wrong_type(node, place, self.go_type, expected="a list of numbers")
            return current
        return ".".join(str(number) for number in ListOf(_int()).decode(node, place, None, report) or ())


_SUBJECT_LISTS = (
    "Country",
    "Organization",
    "OrganizationalUnit",
    "Locality",
    "Province",
    "StreetAddress",
    "PostalCode",
)
_FREE = Unused("free attributes of a subject are not supported")
_SUBJECT_FIELDS: dict[str, Kind] = {
    "CommonName": Text(),
    "SerialNumber": Text(),
    "Names": _FREE,
    "ExtraNames": _FREE,
    **dict.fromkeys(_SUBJECT_LISTS, _TEXTS),
}
_URI_PARTS = ("Scheme", "Opaque", "Host", "Path", "RawPath", "RawQuery", "Fragment", "RawFragment")
_URI = Struct(
    "url.URL",
    {
        **dict.fromkeys(_URI_PARTS, Text()),
        "ForceQuery": Flag(),
        "OmitHost": Flag(),
        "User": Unused("a URI in a certificate names no user"),
    },
)
_LIMITS: tuple[tuple[NameKind, str], ...] = (("dns", "DNSDomains"), ("email", "EmailAddresses"), ("uri", "URIDomains"))
_NOT_SUPPORTED = (
    "Raw RawTBSCertificate RawSubjectPublicKeyInfo RawSubject RawIssuer Signature SignatureAlgorithm "
    "PublicKeyAlgorithm PublicKey Version SerialNumber Issuer NotBefore Extensions ExtraExtensions "
    "UnhandledCriticalExtensions BasicConstraintsValid AuthorityKeyId PermittedIPRanges ExcludedIPRanges "
    "PolicyIdentifiers Policies InhibitAnyPolicy InhibitAnyPolicyZero InhibitPolicyMapping "
    "InhibitPolicyMappingZero RequireExplicitPolicy RequireExplicitPolicyZero PolicyMappings"
)
_IGNORED = Unused("this field of a certificate cannot be chosen; it is ignored")
_FIELDS: dict[str, Kind] = {
    "Subject": Struct("pkix.Name", _SUBJECT_FIELDS),
    "DNSNames": _TEXTS,
    "IPAddresses": ListOf(Address()),
    "EmailAddresses": _TEXTS,
    "URIs": ListOf(_URI),
    "NotAfter": Moment(),
    "KeyUsage": _int("x509.KeyUsage"),
    "ExtKeyUsage": ListOf(_int("x509.ExtKeyUsage")),
    "UnknownExtKeyUsage": ListOf(_Identifier()),
    "IsCA": Flag(),
    "MaxPathLen": _int(),
    "MaxPathLenZero": Flag(),
    "SubjectKeyId": Blob(),
    "OCSPServer": _TEXTS,
    "IssuingCertificateURL": _TEXTS,
    "CRLDistributionPoints": _TEXTS,
    "PermittedDNSDomainsCritical": Flag(),
    **{f"{sign}{name}": _TEXTS for sign in ("Permitted", "Excluded") for _, name in _LIMITS},
    **dict.fromkeys(_NOT_SUPPORTED.split(), _IGNORED),
}
CERTIFICATE = Struct("x509.Certificate", _FIELDS)
_LATER = (
    *("URIs", "UnknownExtKeyUsage", "SubjectKeyId", "OCSPServer", "IssuingCertificateURL", "CRLDistributionPoints"),
    *(name for name in _FIELDS if name.startswith(("Permitted", "Excluded"))),
)
CERTIFICATE_BEFORE = Struct("x509.Certificate", {**_FIELDS, **dict.fromkeys(_LATER, _IGNORED)})
"""As it was read when these fields were passed over, whatever they held."""


def build_certificate(entry: Values) -> CertificateTemplate:
    """A template of what the walk over `CERTIFICATE` gave."""
    subject = entry["Subject"]
    length = entry["MaxPathLen"]
    # Go's template cannot tell 0 from "not given", so it has a field of its own for it; -1 is no limit.
    limited = length not in (0, -1) or (length == 0 and entry["MaxPathLenZero"])
    return CertificateTemplate(
        common_name=subject["CommonName"] or None,
        serial_number=subject["SerialNumber"] or None,
        subject=tuple((name, value) for name in _SUBJECT_LISTS for value in subject[name] or ()),
        dns_names=_tuple_or_none(entry["DNSNames"]),
        ip_addresses=_tuple_or_none(entry["IPAddresses"]),
        email_addresses=tuple(entry["EmailAddresses"] or ()),
        not_after=entry["NotAfter"],
        key_usage=entry["KeyUsage"] or None,
        ext_key_usage=_tuple_or_none(entry["ExtKeyUsage"]),
        is_ca=entry["IsCA"],
        max_path_len=length if limited else None,
        extras=_extras(entry),
    )


def _extras(entry: Values) -> Extras:
    permitted, excluded = (
        tuple((kind, name) for kind, field in _LIMITS for name in entry[f"{sign}{field}"] or ())
        for sign in ("Permitted", "Excluded")
    )
    return Extras(
        uris=tuple(_uri(one) for one in entry["URIs"] or ()),
        ocsp_servers=tuple(entry["OCSPServer"] or ()),
        issuer_urls=tuple(entry["IssuingCertificateURL"] or ()),
        revocation_urls=tuple(entry["CRLDistributionPoints"] or ()),
        further_usages=tuple(entry["UnknownExtKeyUsage"] or ()),
        key_id=entry["SubjectKeyId"] or b"",
        permitted=permitted,
        excluded=excluded,
        limits_are_critical=bool(entry["PermittedDNSDomainsCritical"]),
    )


def _tuple_or_none(entries: list[Any] | None) -> tuple[Any, ...] | None:
    return None if entries is None else tuple(entries)


def _uri(entry: Values) -> str:
    """A URI put together from its parts as Go does.

    Source: RFC 3986 section 5.3; what is escaped in which part is Go's choice within it.
    """
    scheme, host, rest = str(entry["Scheme"]), str(entry["Host"]), str(entry["Opaque"])
    start = f"{scheme}:" if scheme else ""
    if not rest:
        path = _escaped(entry["Path"], entry["RawPath"], "$&+,/:;=@", "!'()*[]")
        slash = "/" if host and path and not path.startswith("/") else ""
        authority = "//" if host or (scheme and entry["Path"] and not entry["OmitHost"]) else ""
        rest = authority + quote(host, safe="!$&'()*+,;=:[]<>\"") + slash + path
        # What stands before a colon in the first part of a path alone would be read as a scheme.
        if not start and not authority and ":" in rest.partition("/")[0]:
            rest = f"./{rest}"
    query = f"?{entry['RawQuery']}" if entry["ForceQuery"] or entry["RawQuery"] else ""
    fragment = _escaped(entry["Fragment"], entry["RawFragment"], "$&+,/:;=?@!()*", "'[]")
    return start + rest + query + (f"#{fragment}" if fragment else "")


def _escaped(text: str, raw: str, safe: str, besides: str) -> str:
    """The raw form where it is one of this text, with signs besides that need no escape; else the usual form."""
    if raw and quote(raw, safe=f"%{safe}{besides}") == raw and unquote(raw, errors="surrogateescape") == text:
        return raw
    return text if text == "*" else quote(text, safe=safe)
