"""How a manifest says what a certificate is to look like."""

import json
from typing import Any

import pytest

from fakes.manifests import minimal, raw
from tacit.errors import ManifestError
from tacit.manifest import parse_manifest
from tacit.manifest.model import CertificateTemplate
from tacit.pki.extensions import Extras


def template(**fields: Any) -> CertificateTemplate:
    secret = {"Type": "cert-ecdsa", "Size": 256, "Cert": fields}
    return parse_manifest(raw(minimal(Secrets={"c": secret}))).manifest.secrets["c"].certificate


def test_what_few_certificates_have_is_read() -> None:
    read = template(
        URIs=[{"Scheme": "spiffe", "Host": "mesh", "Path": "/server"}],
        OCSPServer=["http://o"],
        IssuingCertificateURL=["http://i"],
        CRLDistributionPoints=["http://c"],
        UnknownExtKeyUsage=[[1, 2, 3]],
        SubjectKeyId="AQID",
        PermittedURIDomains=["u"],
        PermittedDNSDomains=["d"],
        ExcludedEmailAddresses=["e"],
        PermittedDNSDomainsCritical=True,
    )
    assert read.extras == Extras(
        uris=("spiffe://mesh/server",),
        ocsp_servers=("http://o",),
        issuer_urls=("http://i",),
        revocation_urls=("http://c",),
        further_usages=("1.2.3",),
        key_id=b"\1\2\3",
        permitted=(("dns", "d"), ("uri", "u")),
        excluded=(("email", "e"),),
        limits_are_critical=True,
    )


@pytest.mark.parametrize(
    ("parts", "uri"),
    [
        ({"Scheme": "spiffe", "Host": "x", "Path": "y"}, "spiffe://x/y"),
        ({"Scheme": "urn", "Opaque": "a:b"}, "urn:a:b"),
        ({"Path": "a:b"}, "./a:b"),
        ({"Path": "a/b:c"}, "a/b:c"),
        ({"Path": "/a b%é?#"}, "/a%20b%25%C3%A9%3F%23"),
        ({"Path": "/a b", "RawPath": "/a b"}, "/a%20b"),
        ({"Path": "/a(b", "RawPath": "/a(b"}, "/a(b"),
        ({"Path": "/a(b"}, "/a%28b"),
        ({"Path": "*"}, "*"),
        ({"Host": "h", "Path": "*"}, "//h/*"),
        ({"Scheme": "http", "Path": "/x"}, "http:///x"),
        ({"Scheme": "http", "Path": "/x", "OmitHost": True}, "http:/x"),
        ({"Scheme": "http", "Host": "h", "ForceQuery": True}, "http://h?"),
        ({"Scheme": "http", "Host": "h", "RawQuery": "a=b c"}, "http://h?a=b c"),
        ({"Scheme": "http", "Host": "h", "Fragment": "x y'[z]*"}, "http://h#x%20y%27%5Bz%5D*"),
        ({"Scheme": "http", "Host": "h", "Fragment": "x'y", "RawFragment": "x'y"}, "http://h#x'y"),
        ({}, ""),
    ],
)
def test_a_uri_is_put_together_as_recorded(parts: dict[str, Any], uri: str) -> None:
    assert template(URIs=[parts]).extras.uris == (uri,)


@pytest.mark.parametrize(
    ("length", "read"),
    [
        ({"MaxPathLen": 300}, 300),
        ({"MaxPathLen": -1}, None),
        ({"MaxPathLen": -1, "MaxPathLenZero": True}, None),
        ({"MaxPathLen": -2}, -2),
        ({"MaxPathLenZero": True}, 0),
        ({"MaxPathLen": 2, "MaxPathLenZero": True}, 2),
        ({}, None),
    ],
)
def test_the_length_of_a_path_is_gos(length: dict[str, Any], read: int | None) -> None:
    assert template(IsCA=True, **length).max_path_len == read


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"URIs": ["spiffe://x/y"]}, "string into Go struct field Secret.Secrets.Cert.URIs of type url.URL"),
        ({"URIs": [{"Scheme": 5}]}, "number into Go struct field Secret.Secrets.Cert.URIs.Scheme of type string"),
        (
            {"UnknownExtKeyUsage": ["1.2"]},
            "string into Go struct field Secret.Secrets.Cert.UnknownExtKeyUsage of type asn1.ObjectIdentifier",
        ),
        (
            {"KeyUsage": 2**63},
            f"number {2**63} into Go struct field Secret.Secrets.Cert.KeyUsage of type x509.KeyUsage",
        ),
    ],
)
def test_what_is_of_another_type_is_refused_in_gos_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps({"Secrets": {"c": {"Cert": fields}}}).encode())
    assert str(caught.value) == f"unmarshaling manifest: json: cannot unmarshal {words}"


@pytest.mark.parametrize("field", ["ExtraExtensions", "SignatureAlgorithm", "PermittedIPRanges", "Policies"])
def test_a_field_that_cannot_be_chosen_is_named(field: str) -> None:
    parsed = parse_manifest(json.dumps({"Secrets": {"c": {"Type": "cert-ecdsa", "Cert": {field: 1}}}}).encode())
    assert any(f"Secrets.c.Cert.{field}" in one for one in parsed.leniencies)
