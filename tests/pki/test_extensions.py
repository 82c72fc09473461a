"""Certificates that a manifest asks for have the bytes that MarbleRun v1.9.1 gave the same wishes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import PkiError
from tacit.pki import CertificateRequest, KeyPair, issue_intermediate, issue_root, issue_secret_certificate
from tacit.pki.extensions import Extras

NOW = datetime(2026, 11, 23, 6, 32, 19, tzinfo=UTC)
LOOPBACK = "87047f000001871000000000000000000000000000000001"


@pytest.fixture(scope="module")
def issuer() -> KeyPair:
    return issue_intermediate(issue_root([], now=NOW), [], now=NOW)


def made(issuer: KeyPair, **wishes: Any) -> x509.Certificate:
    request = CertificateRequest("s", "cert-ecdsa", 256, **wishes)
    certificate = issue_secret_certificate(request, issuer=issuer, now=NOW).certificate
    certificate.verify_directly_issued_by(issuer.certificate)
    return certificate


def extras(**wishes: Any) -> dict[str, Any]:
    return {"extras": Extras(**wishes)}


@pytest.mark.parametrize(
    ("wishes", "extension"),
    [
        ({"key_usage": 128}, "300e0603551d0f0101ff040403020001"),
        ({"key_usage": 256}, "300f0603551d0f0101ff04050303070080"),
        ({"key_usage": 512}, "300f0603551d0f0101ff04050303060040"),
        ({"key_usage": -1}, "300f0603551d0f0101ff0405030300ffff"),
        ({"key_usage": 65536}, "300e0603551d0f0101ff040403020000"),
        ({"ext_key_usage": (5,)}, "30130603551d25040c300a06082b06010505070305"),
        ({"ext_key_usage": (10,)}, "30150603551d25040e300c060a2b0601040182370a0303"),
        ({"ext_key_usage": (11,)}, "30140603551d25040d300b06096086480186f8420401"),
        ({"ext_key_usage": (13,)}, "30150603551d25040e300c060a2b0601040182373d0101"),
        (
            extras(further_usages=("1.2.3", "2.999.1")),
            "30260603551d25041f301d06082b0601050507030106082b0601050507030206022a030603883701",
        ),
        ({"ext_key_usage": (), **extras(further_usages=("1.2.3",))}, "300d0603551d250406300406022a03"),
        ({"is_ca": True, "max_path_len": 300}, "30130603551d130101ff040930070101ff0202012c"),
        ({"email_addresses": ("", "a@b")}, f"30330603551d11042c302a82096c6f63616c686f737481008103614062{LOOPBACK}"),
        (
            {"ip_addresses": ("10.0.0.1", "fe80::1", "::ffff:1.2.3.4")},
            "30320603551d11042b302982096c6f63616c686f737487040a0000018710fe800000000000000000000000000001870401020304",
        ),
        (
            extras(uris=("spiffe://x/y",)),
            f"303a0603551d110433303182096c6f63616c686f7374{LOOPBACK}860c7370696666653a2f2f782f79",
        ),
        (
            extras(ocsp_servers=("http://x", ""), issuer_urls=("http://i",)),
            "304806082b06010505070101043c303a301406082b060105050730018608687474703a2f2f78"
            "300c06082b060105050730018600301406082b060105050730028608687474703a2f2f69",
        ),
        (
            extras(revocation_urls=("http://x", "ü")),
            "30230603551d1f041c301a300ea00ca00a8608687474703a2f2f783008a006a0048602c3bc",
        ),
        (
            extras(permitted=(("dns", "x.y"), ("dns", "*.z"), ("dns", ".d"), ("dns", ""))),
            "30230603551d1e041c301aa01830058203782e79300582032a2e7a300482022e6430028200",
        ),
        (
            extras(
                permitted=(("dns", "x"), ("email", "a@b"), ("email", ".x"), ("uri", ".x")),
                excluded=(("dns", "q"), ("email", "z"), ("uri", "a")),
                limits_are_critical=True,
            ),
            "30370603551d1e0101ff042d302ba018300382017830058103614062300481022e78300486022e78"
            "a10f3003820171300381017a3003860161",
        ),
        (extras(key_id=b"\1\2\3"), "300c0603551d0e04050403010203"),
    ],
)
def test_an_extension_has_the_recorded_bytes(issuer: KeyPair, wishes: dict[str, Any], extension: str) -> None:
    assert bytes.fromhex(extension) in made(issuer, **wishes).tbs_certificate_bytes


def test_extensions_stand_in_gos_order(issuer: KeyPair) -> None:
    more = Extras(
        uris=("a:b",), ocsp_servers=("o",), revocation_urls=("c",), permitted=(("dns", "p"),), key_id=b"\1\2\3"
    )
    order = [one.oid.dotted_string.rpartition("29.")[2] for one in made(issuer, is_ca=True, extras=more).extensions]
    assert order == ["15", "37", "19", "14", "35", "1.3.6.1.5.5.7.1.1", "17", "30", "31"]


def test_an_empty_name_is_written_and_without_a_subject_names_are_critical(issuer: KeyPair) -> None:
    certificate = made(issuer, dns_names=("",))
    assert certificate.subject.public_bytes().hex() == "3000"
    names = f"30260603551d110101ff041c301a8200{LOOPBACK}"
    assert bytes.fromhex(names) in certificate.tbs_certificate_bytes


def test_an_empty_attribute_of_a_subject_is_written(issuer: KeyPair) -> None:
    subject = bytes.fromhex("301f310930070603550406130031123010060355040313096c6f63616c686f7374")
    assert subject in made(issuer, subject=(("Country", ""),)).tbs_certificate_bytes


@pytest.mark.parametrize(
    ("end", "written"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), b"\x17\x0d200101000000Z"),
        (datetime(1900, 1, 1, tzinfo=UTC), b"\x18\x0f19000101000000Z"),
        (datetime(1949, 12, 31, tzinfo=UTC), b"\x18\x0f19491231000000Z"),
        (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
    ],
)
def test_a_certificate_may_have_ended_before_it_began(issuer: KeyPair, end: datetime, written: bytes) -> None:
    certificate = made(issuer, not_after=end)
    assert certificate.not_valid_after_utc == end
    assert written in certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"ext_key_usage": (14,)}, "x509: unknown extended key usage"),
        ({"ext_key_usage": (-1,)}, "x509: unknown extended key usage"),
        ({"max_path_len": 3}, "x509: only CAs are allowed to specify MaxPathLen"),
        ({"max_path_len": 0}, "x509: only CAs are allowed to specify MaxPathLen"),
        ({"is_ca": True, "max_path_len": -2}, "x509: invalid MaxPathLen, must be greater or equal to -1"),
        ({"dns_names": ("jürgen.de",)}, 'x509: "jürgen.de" cannot be encoded as an IA5String'),
        ({"email_addresses": ("ä@b",)}, 'x509: "ä@b" cannot be encoded as an IA5String'),
        (extras(uris=("ü",)), 'x509: "ü" cannot be encoded as an IA5String'),
        (extras(permitted=(("email", "ü"),)), 'x509: "ü" cannot be encoded as an IA5String'),
        (extras(further_usages=("9",)), "asn1: structure error: invalid object identifier"),
    ],
)
def test_what_go_does_not_write_is_refused_in_its_words(issuer: KeyPair, wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(PkiError) as refused:
        made(issuer, **wishes)
    assert str(refused.value) == words


def test_a_subject_has_gos_order_and_its_kinds_of_text(issuer: KeyPair) -> None:
    subject = (
        *(("Country", "DE"), ("Organization", "A&B"), ("Organization", "*"), ("OrganizationalUnit", "o")),
        *(("Locality", "l"), ("Province", "p"), ("StreetAddress", "s"), ("PostalCode", "1")),
    )
    name = made(issuer, subject=subject, common_name="*.x", serial_number="7").subject
    assert name.public_bytes().hex() == (
        "307b310b3009060355040613024445310a30080603550408130170310a3008060355040713016c310a300806035504091301"
        "73310a3008060355041113013131163008060355040a0c012a300a060355040a0c03412642310a3008060355040b13016f31"
        "0c300a06035504030c032a2e78310a30080603550405130137"
    )


def test_a_single_wildcard_name_becomes_the_common_name(issuer: KeyPair) -> None:
    certificate = made(issuer, dns_names=("*.example.org",))
    assert certificate.subject.rfc4514_string() == "CN=*.example.org"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*.example.org"]
