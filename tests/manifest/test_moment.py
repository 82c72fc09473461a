"""Dates of certificates: what Go takes is taken, what it refuses is refused in its words."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import ManifestError
from tacit.manifest import parse_manifest
from tacit.manifest.codec.content import EncodingError
from tacit.manifest.codec.moment import LAYOUT, parse_moment

FIRST = datetime(1, 1, 1, tzinfo=UTC)


def secret(**more: object) -> bytes:
    return json.dumps({"Packages": {}, "Secrets": {"s": {"Type": "cert-rsa", **more}}}).encode()


def refusal(**more: object) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(secret(**more))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2031-01-02T03:04:05Z", "2031-01-02T03:04:05"),
        ("2031-01-02T03:04:05+02:00", "2031-01-02T01:04:05"),
        ("2031-01-02T03:04:05-23:59", "2031-01-03T03:03:05"),
        ("2031-01-02T3:04:05Z", "2031-01-02T03:04:05"),
        ("2031-01-02T03:04:05,5Z", "2031-01-02T03:04:05.500000"),
        ("2031-01-02T03:04:05.1234567891234Z", "2031-01-02T03:04:05.123456"),
        ("2031-01-02T03:04:05+24:60", "2031-01-01T02:04:05"),
        ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00"),
    ],
)
def test_a_moment_is_read_as_go_reads_it(text: str, moment: str) -> None:
    read = parse_moment(text)
    assert read is not None
    assert read.isoformat() == f"{moment}+00:00"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0001-01-01T01:00:00+01:00"])
def test_the_first_moment_that_go_knows_is_none(text: str) -> None:
    assert parse_moment(text) is None


@pytest.mark.parametrize(
    ("text", "rest", "layout"),
    [
        ("5", "5", "2006"),
        ("", "", "2006"),
        ("tomorrow", "tomorrow", "2006"),
        ("2006", "", "-"),
        ("20060-01-02T23:00:00Z", "0-01-02T23:00:00Z", "-"),
        ("2006-1-2T03:04:05Z", "1-2T03:04:05Z", "01"),
        ("2006-01-02 03:04:05Z", " 03:04:05Z", "T"),
        ("2006-01-02T03-04:05Z", "-04:05Z", ":"),
        ("2006-01-02T03:04:5Z", "5Z", "05"),
        ("2006-01-02T03:04:05", "", "Z07:00"),
        ("2006-01-02T03:04:05.Z", ".Z", "Z07:00"),
        ("2006-01-02T03:04:05+0100", "+0100", "Z07:00"),
    ],
)
def test_a_text_of_another_form_is_refused_where_it_leaves_the_layout(text: str, rest: str, layout: str) -> None:
    words = f'parsing time "{text}" as "{LAYOUT}": cannot parse "{rest}" as "{layout}"'
    assert refusal(Cert={"NotAfter": text}) == f"unmarshaling manifest: {words}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2006-13-01T00:00:00Z", "month out of range"),
        ("2006-00-01T00:00:00Z", "month out of range"),
        ("2006-02-30T00:00:00Z", "day out of range"),
        ("2006-01-00T00:00:00Z", "day out of range"),
        ("2006-01-02T24:00:00Z", "hour out of range"),
        ("2006-01-02T23:60:00Z", "minute out of range"),
        ("2006-01-02T23:00:60Z", "second out of range"),
        ("2006-01-02T23:00:00+25:00", "time zone offset hour out of range"),
        ("2006-01-02T23:00:00+00:61", "time zone offset minute out of range"),
        ("2006-01-02T23:00:00Zx", 'extra text: "x"'),
        ("0000-01-01T00:00:00Z", "only the years 1 to 9999 are supported"),
        ("9999-12-31T23:59:59-01:00", "only the years 1 to 9999 are supported"),
    ],
)
def test_a_moment_that_there_is_not_is_refused_by_what_is_wrong_with_it(text: str, words: str) -> None:
    assert refusal(Cert={"NotAfter": text}) == f'unmarshaling manifest: parsing time "{text}": {words}'


def test_what_is_shown_of_a_text_is_quoted_and_no_more_than_a_line() -> None:
    with pytest.raises(EncodingError) as caught:
        parse_moment('ä"')
    assert str(caught.value).startswith(r'parsing time "\xc3\xa4\"" as "2006')
    with pytest.raises(EncodingError) as caught:
        parse_moment("a" * 10_000)
    assert len(str(caught.value)) < 300


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_moment_is_read_back(moment: datetime) -> None:
    assert (parse_moment(moment.isoformat()) or FIRST) == moment


@given(st.text("0123456789-T:.,+Z", max_size=30))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    with suppress(EncodingError):
        assert isinstance(parse_moment(text), datetime | None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"Cert": ""}, "x509: malformed certificate"),
        ({"Cert": "eA=="}, "x509: malformed certificate"),
        ({"Private": "!"}, "illegal base64 data at input byte 0"),
        (
            {"Public": 5},
            "json: cannot unmarshal number into Go struct field Secret.Secrets.Public of type manifest.PublicKey",
        ),
    ],
)
def test_a_value_in_a_manifest_is_read_although_it_is_not_used(given: dict[str, object], words: str) -> None:
    assert refusal(**given) == f"unmarshaling manifest: {words}"


def test_a_value_in_a_manifest_that_can_be_read_is_passed_over() -> None:
    parsed = parse_manifest(secret(Cert="!", Private="eA==", Public=""))
    assert parsed.manifest.secrets["s"].certificate.common_name is None
    assert [line.partition(":")[0] for line in parsed.leniencies] == [
        "$.Secrets.s.Cert",
        "$.Secrets.s.Cert",
        "$.Secrets.s.Private",
        "$.Secrets.s.Public",
    ]
