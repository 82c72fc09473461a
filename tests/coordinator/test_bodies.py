"""What callers send, in any shape: taken or refused as MarbleRun's decoders do, in their words."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from fakes.tee import NOW
from tacit.coordinator.api import bodies
from tacit.coordinator.secrets import NewValue
from tacit.errors import FieldError, InputError
from tacit.pki import issue_self_signed

DER = issue_self_signed(["localhost"], common_name="x", now=NOW).certificate_der
CERT = base64.b64encode(DER)
FIELD = "json: cannot unmarshal {} into Go struct field UserSecret.{} of type {}"


def note(_: str) -> None:
    """A leniency; the log's affair."""


def manifest(body: bytes) -> bytes:
    return bodies.parse_manifest_body(body, note, request="ManifestSetRequest")


def update(body: bytes) -> bytes:
    return bodies.parse_manifest_body(body, note, request="UpdateApplyRequest")


def acknowledgment(body: bytes) -> bytes:
    return bodies.parse_manifest_body(body, note, request="UpdateManifestPostRequest")


def secrets(body: bytes) -> dict[str, NewValue]:
    return bodies.parse_secrets_v2(b'{"secrets":%s}' % body, note)


@pytest.mark.parametrize(
    ("parse", "name"),
    [
        (manifest, "ManifestSetRequest"),
        (update, "UpdateApplyRequest"),
        (acknowledgment, "UpdateManifestPostRequest"),
        (lambda body: bodies.parse_recovery(body, note), "RecoveryRequest"),
        (lambda body: bodies.parse_secrets_v2(body, note), "SecretsSetRequest"),
        (lambda body: bodies.parse_counter(body, note), "MonotonicCounterRequest"),
        (lambda body: bodies.parse_quote(body, note), "QuoteSignRequest"),
    ],
)
def test_a_request_of_another_type_is_refused_under_marbleruns_name(parse: Callable[[bytes], Any], name: str) -> None:
    with pytest.raises((InputError, FieldError), match=rf"cannot unmarshal array into Go value of type v2\.{name}$"):
        parse(b"[]")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"c":{"Cert":5}}', FIELD.format("number", "secrets.Cert", "x509.Certificate")),
        (b'{"c":{"Cert":[1]}}', FIELD.format("array", "secrets.Cert", "x509.Certificate")),
        (b'{"c":{"Cert":{"IsCA":5}}}', FIELD.format("number", "secrets.Cert.IsCA", "bool")),
        (b'{"c":{"Private":5}}', FIELD.format("number", "secrets.Private", "manifest.PrivateKey")),
        (b'{"c":{"Private":"!"}}', "illegal base64 data at input byte 0"),
        (b'{"c":{"Cert":"eA=="}}', "x509: malformed certificate"),
        (b'{"c":{"Cert":""}}', "x509: malformed certificate"),
        (b'{"a":{"Key":5},"c":{"Cert":"eA=="}}', "x509: malformed certificate"),
    ],
)
def test_a_secret_of_another_type_is_refused_in_gos_words(body: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        secrets(body)
    assert str(caught.value) == words


@pytest.mark.parametrize("given", [b"{}", b'{"IsCA":true}', b'"!"', b'"\\u0021"', b"null"])
def test_what_marblerun_makes_no_certificate_of_is_none(given: bytes) -> None:
    notes: list[str] = []
    body = b'{"secrets":{"c":{"Cert":%s,"Key":"eA=="}}}' % given
    assert bodies.parse_secrets_v2(body, notes.append) == {"c": NewValue(key=b"x")}
    assert len(notes) == 1


def test_a_certificate_is_given_as_der() -> None:
    assert secrets(b'{"c":{"Cert":"%s","Private":"eA=="}}' % CERT) == {"c": NewValue(b"", DER, b"x")}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "unexpected end of JSON input"),
        (b" ", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b'{"t":{"Key":"eA=="', "unexpected end of JSON input"),
        (b'{"t":{"Key":"eA=="}} x', "invalid character 'x' after top-level value"),
        (b'{"t":{"Key":"eA=="}}{}', "invalid character '{' after top-level value"),
    ],
)
def test_secrets_of_version_1_are_read_whole(body: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        bodies.parse_secrets_v1(body, note)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("s=a&s=%zz", ["a"]),
        ("s=a;s=b&s=c", ["c"]),
        ("s=a&s=b%", ["a"]),
        ("s=a&x=;&s=%62+c", ["a", "b c"]),
        ("s=a=b", ["a=b"]),
    ],
)
def test_what_go_drops_of_a_query_names_no_secret(query: str, names: list[str]) -> None:
    assert bodies.parse_secret_names(query) == names


@pytest.mark.parametrize("query", ["s=a;s=b", "s=%zz", "s=a%", ";", ""])
def test_a_query_of_which_nothing_is_left_is_refused(query: str) -> None:
    with pytest.raises(InputError, match="invalid query: endpoint requires at least one query parameter"):
        bodies.parse_secret_names(query)


def test_a_nonce_that_cannot_be_read_is_never_dropped() -> None:
    for query in ("nonce=%zz", "nonce=AAAA;", "nonce=a;b"):
        with pytest.raises(InputError, match="bad nonce format"):
            bodies.parse_nonce(query)
