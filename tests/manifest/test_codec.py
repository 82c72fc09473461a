"""Reading as MarbleRun does: what is accepted, what is noted, and the words of each refusal."""

import base64
import json
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.manifests import MINIMAL, UNIQUE_ID, minimal, raw
from tacit.errors import ManifestError, TacitError
from tacit.manifest import parse_manifest, parse_manifest_strict
from tacit.manifest.codec.text import MAX_SIZE
from tacit.manifest.model import CertificateTemplate, Content
from tacit.pki import issue_self_signed


def refusal(text: str | bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode() if isinstance(text, str) else text)
    return str(caught.value).removeprefix("unmarshaling manifest: ")


def file_of(entry: object) -> bytes:
    return raw(minimal(Marbles={"m": {"Package": "server", "Parameters": {"Files": {"/f": entry}}}}))


def test_a_plain_manifest_needs_no_leniency() -> None:
    parsed = parse_manifest(raw(MINIMAL))
    assert parsed.leniencies == ()
    assert parsed.manifest.packages["server"].unique_id == bytes.fromhex(UNIQUE_ID)
    assert parsed.manifest.marbles["tf-server"].package == "server"


def test_the_raw_text_is_kept_for_the_fingerprint() -> None:
    text = b" " + raw(MINIMAL) + b"\n"
    assert parse_manifest(text).manifest.raw == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("Packages: {}", "invalid character 'P' looking for beginning of value"),
        ("{} x", "invalid character 'x' after top-level value"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 2}', "invalid character '2' after object key:value pair"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ("trux", "invalid character 'x' in literal true (expecting 'e')"),
        ("nul", "invalid character ' ' in literal null (expecting 'l')"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1e+x", "invalid character 'x' in exponent of numeric literal"),
        ("01", "invalid character '1' after top-level value"),
        ('"a\nb"', r"invalid character '\n' in string literal"),
        (r'"\q"', "invalid character 'q' in string escape code"),
        (r'"\u12g4"', r"invalid character 'g' in \u hexadecimal character escape"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ("\ufeff{}", "invalid character 'ï' looking for beginning of value"),
        ("[]", "json: cannot unmarshal array into Go value of type manifest.Manifest"),
        (
            '{"Packages":{"a":{"ProductID":"x"}}}',
            "json: cannot unmarshal string into Go struct field PackageProperties.Packages.ProductID of type uint64",
        ),
        (
            '{"Packages":{"a":{"ProductID":-1}}}',
            "json: cannot unmarshal number -1 into Go struct field PackageProperties.Packages.ProductID of type uint64",
        ),
        (
            '{"Packages":{"a":5}}',
            "json: cannot unmarshal number into Go struct field Manifest.Packages of type quote.PackageProperties",
        ),
        (
            '{"Marbles":{"m":{"TLS":"x"}}}',
            "json: cannot unmarshal string into Go struct field Marble.Marbles.TLS of type []string",
        ),
        (
            '{"Infrastructures":{"i":{"QESVN":65536}}}',
            "json: cannot unmarshal number 65536 into Go struct field "
            "InfrastructureProperties.Infrastructures.QESVN of type uint16",
        ),
    ],
)
def test_refusals_have_the_recorded_words(text: str, words: str) -> None:
    assert refusal(text) == words


def test_the_first_wrong_type_is_the_one_that_is_named() -> None:
    assert "ProductID" in refusal('{"Packages":{"a":{"ProductID":"x","Debug":"y"}}}')


def test_a_content_that_cannot_be_decoded_comes_before_a_wrong_type() -> None:
    text = '{"Marbles":{"m":{"Parameters":{"Argv":5,"Files":{"f":null}}}}}'
    assert refusal(text) == "got: %!t(<nil>), expected: string or interface"


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("text", Content(b"text")),
        ("", Content(b"")),
        ("grün", Content("grün".encode())),
        ({"Data": "x"}, Content(b"x")),
        ({"Data": "x", "NoTemplates": True}, Content(b"x", templates=False)),
        ({"Data": "AAEC", "Encoding": "base64"}, Content(b"\0\1\2")),
        ({"Data": "AA\nEC", "Encoding": "BASE64"}, Content(b"\0\1\2")),
        ({"Data": "00fF", "Encoding": "Hex"}, Content(b"\0\xff")),
        ({"Data": "x", "Encoding": "string"}, Content(b"x")),
    ],
)
def test_contents_are_decoded_when_parsed(entry: object, content: Content) -> None:
    assert parse_manifest(file_of(entry)).manifest.marbles["m"].parameters.files["/f"] == content


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        ("!!", "base64", "illegal base64 data at input byte 0"),
        ("AAA", "base64", "illegal base64 data at input byte 0"),
        ("AAAAA", "base64", "illegal base64 data at input byte 4"),
        ("AA==x", "base64", "illegal base64 data at input byte 4"),
        ("AA=A", "base64", "illegal base64 data at input byte 2"),
        ("AA=", "base64", "illegal base64 data at input byte 3"),
        ("====", "base64", "illegal base64 data at input byte 0"),
        ("zz", "hex", "encoding/hex: invalid byte: U+007A 'z'"),
        ("abc", "hex", "encoding/hex: odd length hex string"),
        ("x", "rot13", "unknown encoding type: rot13"),
    ],
)
def test_undecodable_contents_are_refused_with_the_place(data: str, encoding: str, words: str) -> None:
    assert refusal(file_of({"Data": data, "Encoding": encoding})) == words


def test_t18_keys_of_other_case_are_read_and_noted() -> None:
    parsed = parse_manifest(b'{"packages":{"a":{"debug":true}},"Marble\xc5\xbf":{}}')
    assert parsed.manifest.packages["a"].debug
    assert parsed.leniencies == (
        '$.packages: key "packages" read as "Packages"',
        '$.Packages.a.debug: key "debug" read as "Debug"',
        '$["Marbleſ"]: key "Marbleſ" read as "Marbles"',
    )


def test_t18_unknown_keys_are_ignored_and_noted_with_the_nearest_name() -> None:
    parsed = parse_manifest(b'{"Packages":{"a":{"UniqeID":"00"}}}')
    assert parsed.manifest.packages["a"].unique_id is None
    assert parsed.leniencies == ('$.Packages.a.UniqeID: unknown key "UniqeID" ignored; did you mean "UniqueID"?',)


def test_t18_the_last_duplicate_wins_and_is_noted() -> None:
    parsed = parse_manifest(b'{"Packages":{"a":{"Debug":true,"Debug":false},"a":{"ProductID":1}}}')
    assert not parsed.manifest.packages["a"].debug
    assert parsed.manifest.packages["a"].product_id == 1
    assert len(parsed.leniencies) == 2


def test_t18_a_duplicate_section_adds_to_the_first() -> None:
    parsed = parse_manifest(b'{"Packages":{"a":{}},"packages":{"b":{}}}')
    assert set(parsed.manifest.packages) == {"a", "b"}
    assert len(parsed.leniencies) == 2


def test_null_is_read_as_absent_and_noted() -> None:
    parsed = parse_manifest(b'{"Packages":{"a":{"ProductID":null,"Debug":null}},"Marbles":null}')
    assert parsed.manifest.packages["a"].product_id is None
    assert parsed.manifest.marbles == {}
    assert len(parsed.leniencies) == 3


def test_t19_text_that_is_no_digest_stands_as_one_that_nothing_matches() -> None:
    parsed = parse_manifest(b'{"Packages":{"a":{"SignerID":"YOUR_SIGNER_ID"}}}')
    assert parsed.manifest.packages["a"].signer_id == b""
    assert "nothing ever matches" in parsed.leniencies[0]


def test_t19_an_empty_list_is_not_an_absent_one() -> None:
    marbles = {"a": {"Package": "server", "AllowedNames": []}, "b": {"Package": "server"}}
    manifest = parse_manifest(raw(minimal(Marbles=marbles))).manifest
    assert manifest.marbles["a"].allowed_names == ()
    assert manifest.marbles["b"].allowed_names is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("1h30m", 5400), ("90s", 90), ("1h0m1s", 3601), ("9999999h", 9999999 * 3600)]
)
def test_a_span_of_time_is_read(text: str, seconds: int) -> None:
    manifest = parse_manifest(raw(minimal(Marbles={"m": {"Package": "server", "LeafTTL": text}}))).manifest
    assert manifest.marbles["m"].leaf_ttl == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "24", "h", "1.5h", "1h ", "1s1h", "-1h", "1d", "24H", "\u0661h", "99999999h"])
def test_what_is_no_span_of_time_is_refused_with_its_place(text: str) -> None:
    wrong = raw(minimal(Marbles={"m": {"Package": "server", "LeafTTL": text}}))
    for parse in (parse_manifest, parse_manifest_strict):
        with pytest.raises(ManifestError, match=r"Marbles\.m\.LeafTTL.*no span of time such as 24h"):
            parse(wrong)


def test_a_number_is_no_span_of_time() -> None:
    with pytest.raises(ManifestError, match="of type time.Duration"):
        parse_manifest(raw(minimal(Marbles={"m": {"Package": "server", "LeafTTL": 24}})))


def test_our_extensions_are_read() -> None:
    models = {"digits": {"Format": "capsule", "ID": "ab" * 32, "MinVersion": 3, "Key": "k"}}
    manifest = parse_manifest(raw(minimal(Models=models, Packages={"server": {"TEE": "simulated"}}))).manifest
    assert manifest.packages["server"].tee == "simulated"
    assert manifest.models["digits"].model_id == b"\xab" * 32
    assert manifest.models["digits"].min_version == 3


def test_a_certificate_template_is_read() -> None:
    cert = {
        "Subject": {"CommonName": "x", "Country": ["DE"], "Organization": ["o1", "o2"]},
        "IPAddresses": ["10.1.2.3", "::1"],
        "NotAfter": "2031-01-02T03:04:05Z",
        "KeyUsage": 96,
        "ExtKeyUsage": [1],
        "IsCA": True,
        "MaxPathLenZero": True,
    }
    manifest = parse_manifest(raw(minimal(Secrets={"c": {"Type": "cert-ecdsa", "Size": 256, "Cert": cert}}))).manifest
    template = manifest.secrets["c"].certificate
    assert template.subject == (("Country", "DE"), ("Organization", "o1"), ("Organization", "o2"))
    assert template.ip_addresses == ("10.1.2.3", "::1")
    assert template.not_after == datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (template.key_usage, template.ext_key_usage, template.max_path_len) == (96, (1,), 0)


@pytest.mark.parametrize(
    "value",
    [
        {"NotAfter": "tomorrow"},
        {"NotAfter": "2031-13-02T03:04:05Z"},
        {"NotAfter": 5},
        {"IPAddresses": ["x"]},
        {"IPAddresses": [5]},
        {"IPAddresses": ["fe80::1%eth0"]},
    ],
)
def test_a_certificate_template_with_a_wrong_value_is_refused(value: object) -> None:
    assert refusal(raw(minimal(Secrets={"c": {"Cert": value}})))


def test_a_null_is_absent_wherever_it_stands() -> None:
    secrets = {"c": {"Type": "cert-ed25519", "Cert": {"NotAfter": None, "DNSNames": None}, "Private": None}}
    parsed = parse_manifest(raw(minimal(Secrets=secrets)))
    assert parsed.manifest.secrets["c"].certificate.not_after is None
    assert parsed.manifest.secrets["c"].certificate.dns_names is None
    assert len(parsed.leniencies) == 2  # a value that is not used anyway may be null


def test_t13_a_manifest_that_is_too_large_is_refused_before_it_is_read() -> None:
    assert str(MAX_SIZE) in refusal(b"[" * (MAX_SIZE + 1))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_t13_deep_nesting_is_refused(opening: str) -> None:
    assert refusal(opening * 100_000) == "exceeded max depth"


def test_t13_a_huge_number_is_refused_at_once() -> None:
    assert "cannot unmarshal number" in refusal('{"Packages":{"a":{"ProductID":' + "9" * 500_000 + "}}}")


def test_t13_surrogates_and_damaged_unicode_become_marks() -> None:
    parsed = parse_manifest(b'{"RecoveryKeys":{"a":"\\ud83d\\ude00 \\ud83d x","b":"\xff"}}')
    assert parsed.manifest.recovery_keys == {"a": "\U0001f600 \ufffd x", "b": "\ufffd"}
    assert len(parsed.leniencies) == 2


NAMES = [
    "Packages",
    "Marbles",
    "Secrets",
    "Users",
    "Roles",
    "TLS",
    "Models",
    "Config",
    "RecoveryKeys",
    "Debug",
    "debug",
    "UniqueID",
    "Package",
    "Parameters",
    "Files",
    "Env",
    "Data",
    "Encoding",
    "Type",
    "Size",
    "Cert",
    "Subject",
    "NotAfter",
    "Incoming",
    "Outgoing",
    "Port",
    "TEE",
    "Format",
    "Key",
    "Certificate",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner),
    max_leaves=25,
)


@given(json_values)
def test_any_json_is_read_or_refused_with_our_error(value: object) -> None:
    text = json.dumps(value).encode()
    try:
        lenient = parse_manifest(text)
    except TacitError:
        with pytest.raises(ManifestError):
            parse_manifest_strict(text)
        return
    if lenient.leniencies:
        with pytest.raises(ManifestError) as caught:
            parse_manifest_strict(text)
        assert len(caught.value.defects) == len(lenient.leniencies)
    else:
        assert parse_manifest_strict(text) == lenient.manifest


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_our_error(text: bytes) -> None:
    for parse in (parse_manifest, parse_manifest_strict):
        with suppress(TacitError):
            parse(text)


@given(st.integers(min_value=0, max_value=2**32))
def test_a_manifest_with_altered_bytes_is_read_or_refused_with_our_error(seed: int) -> None:
    chance = random.Random(seed)
    text = bytearray(raw(minimal(Secrets={"k": {"Type": "symmetric-key", "Size": 256}}, Models={"m": {"Key": "k"}})))
    for _ in range(3):
        text[chance.randrange(len(text))] = chance.choice(b'{}[]":,019.\\uae \xff')
    try:
        strict = parse_manifest_strict(bytes(text))
    except ManifestError:
        return
    assert parse_manifest(bytes(text)).manifest == strict


@pytest.mark.parametrize(
    ("cert", "words"),
    [
        (
            '{"Subject": {"CommonName": 1}}',
            "number into Go struct field Secret.Secrets.Cert.Subject.CommonName of type string",
        ),
        ('{"DNSNames": [1]}', "number into Go struct field Secret.Secrets.Cert.DNSNames of type string"),
        ("7", "number into Go struct field Secret.Secrets.Cert of type x509.Certificate"),
    ],
)
def test_what_is_wrong_in_a_certificate_is_told_of_its_secret_and_ends_the_reading(cert: str, words: str) -> None:
    text = f'{{"Secrets": {{"a": {{"Size": "x"}}, "c": {{"Cert": {cert}}}}}}}'
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode())
    assert str(caught.value) == f"unmarshaling manifest: json: cannot unmarshal {words}"


def test_a_certificate_that_is_given_whole_is_ignored_and_said() -> None:
    der = issue_self_signed(["localhost"], common_name="x", now=datetime(2026, 1, 1, tzinfo=UTC)).certificate_der
    parsed = parse_manifest(raw({"Secrets": {"c": {"Type": "cert-ecdsa", "Cert": base64.b64encode(der).decode()}}}))
    assert parsed.manifest.secrets["c"].certificate == CertificateTemplate()
    assert "Secrets.c.Cert" in parsed.leniencies[0]
