"""T13: whatever bytes come in, the answer is claims or an error of ours, never another exception."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.tee import NOW, FakeTee, shared_platform
from tacit.errors import CollateralError, EvidenceError, EvidenceFormatError, PlatformError
from tacit.evidence import INTEL, Collateral, TrustAnchor, verify_evidence
from tacit.evidence.anchor.certificates import parse_chain, parse_crl
from tacit.evidence.anchor.der import parse_elements
from tacit.evidence.anchor.strict_json import MAX_JSON_SIZE, parse_strict_json
from tacit.evidence.intel.collateral import parse_time, render_collateral
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.intel.quote import MAX_EVIDENCE_SIZE, parse_quote
from tacit.evidence.sgx.report import parse_report
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.authority import Platform, render_pck_extension
from tacit.evidence.simulated.platform import parse_platform, render_platform
from tacit.evidence.verify import parse_collateral
from tacit.evidence.verify.envelope import unwrap, wrap

REAL = Path(__file__).parents[1] / "vectors" / "evidence"
QUOTES = {debug: unwrap(FakeTee(debug=debug).issue_evidence(bytes(64))) for debug in (False, True)} | {
    "real": (REAL / "v3-phala-confighw" / "quote.bin").read_bytes()
}
COLLATERAL = shared_platform().collateral


def answer(quote: bytes, collateral: Collateral = COLLATERAL, anchor: TrustAnchor | None = None) -> str:
    """The class of the refusal, or the status; anything else propagates and fails the test."""
    try:
        return verify_evidence(quote, collateral, anchor or shared_platform().anchor, now=NOW).tcb_status
    except EvidenceError as exc:
        return type(exc).__name__ if str(exc) else "an error without a word"


# ---- evidence


@settings(max_examples=300)
@given(raw=st.binary(max_size=2000))
@example(raw=b"")
@example(raw=b"\1\0\0\0")
@example(raw=b"\3\0\2\0")
def test_t13_random_bytes_are_refused(raw: bytes) -> None:
    assert answer(raw) == "EvidenceFormatError"
    assert answer(QUOTES[False][:48] + raw) in {"EvidenceFormatError", "EvidenceSignatureError"}


@settings(max_examples=400)
@given(
    which=st.sampled_from(sorted(QUOTES, key=str)),
    edits=st.lists(st.tuples(st.integers(0, 4599), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_t13_mutated_quote_is_answered_in_our_words(which: Any, edits: list[tuple[int, int]]) -> None:
    quote = bytearray(QUOTES[which])
    for offset, mask in edits:
        quote[offset % len(quote)] ^= mask
    assert answer(bytes(quote))


@settings(max_examples=100)
@given(length=st.integers(0, 4000), debug=st.booleans())
def test_t13_cut_quote_is_refused(length: int, debug: bool) -> None:
    quote = QUOTES[debug]
    assert answer(quote[: min(length, len(quote) - 1)]) == "EvidenceFormatError"


@pytest.mark.parametrize("offset", [432, 1012, 1048], ids=["signature-data", "auth-data", "certification-data"])
@pytest.mark.parametrize("length", [0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
def test_t13_hostile_lengths_are_refused(offset: int, length: int) -> None:
    size = 2 if offset == 1012 else 4
    quote = bytearray(QUOTES[False])
    quote[offset : offset + size] = (length & (256**size - 1)).to_bytes(size, "little")
    assert answer(bytes(quote)) == "EvidenceFormatError"


@pytest.mark.parametrize("tail", [b"x", b"\0\0x", bytes(500) + b"\1"])
def test_t13_bytes_behind_the_quote_are_refused(tail: bytes) -> None:
    with pytest.raises(EvidenceFormatError, match="not zero padding"):
        parse_quote(QUOTES[False] + tail)


@pytest.mark.parametrize(
    "make",
    [
        lambda chain: chain.replace(b"-----\n-----", b"-----\nhidden\n-----"),
        lambda chain: b" " + chain,
        lambda chain: chain + b"\0",
        lambda chain: chain.rstrip(b"\0") + b"x",
        lambda chain: b"",
        lambda chain: chain.rstrip(b"\0") * 5,
        lambda chain: chain.replace(b"MII", b"!!!"),
        lambda chain: chain.replace(b"MII", b"AAA"),
    ],
    ids=["between", "before", "two-nuls", "behind", "empty", "many", "no-base64", "no-der"],
)
def test_t13_chain_with_anything_else_in_it_is_refused(make: Callable[[bytes], bytes]) -> None:
    with pytest.raises(EvidenceFormatError, match="certificate chain"):
        parse_chain(make(parse_quote(QUOTES[False]).pck_chain_pem))


def test_t13_oversized_evidence_is_refused_before_parsing() -> None:
    for check in (unwrap, parse_quote):
        with pytest.raises(EvidenceFormatError, match="no"):
            check(QUOTES[False] + bytes(MAX_EVIDENCE_SIZE))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"\1\0\0\0", "ends inside"),
        (wrap(b"q")[:4] + b"\1\0\0\0" + wrap(b"q")[8:], "report type is 1"),
        (wrap(b"quote")[:-1], "promises a quote of 5 bytes, 4 follow"),
        (wrap(b"quote") + b"\0", "promises a quote of 5 bytes, 6 follow"),
        (b"\1\0\0\0\2\0\0\0" + b"\xff" * 8, "promises a quote"),
    ],
    ids=["cut", "local-report", "short", "long", "huge"],
)
def test_t13_envelope_that_does_not_fit_is_refused(header: bytes, match: str) -> None:
    with pytest.raises(EvidenceFormatError, match=match):
        unwrap(header)


def test_t13_envelope_in_an_envelope_is_refused() -> None:
    assert answer(wrap(wrap(QUOTES[False]))) == "EvidenceFormatError"


@pytest.mark.parametrize("version", [0, 1, 2, 6, 0xFFFF])
def test_other_quote_versions_are_refused_by_name(version: int) -> None:
    quote = version.to_bytes(2, "little") + QUOTES[False][2:]
    with pytest.raises(EvidenceFormatError, match=f"quote version {version}"):
        parse_quote(quote)


def test_t13_a_quote_that_says_another_kind_than_its_body_is_refused() -> None:
    for header in (b"\4\0\2\0\x81\0\0\0", b"\3\0\2\0\x81\0\0\0", b"\5\0\2\0\0\0\0\0", b"\4\0\2\0\1\0\0\0"):
        assert answer(header + QUOTES[False][8:]) == "EvidenceFormatError"


@pytest.mark.parametrize("offset", [20, 31, 96, 127, 160, 191, 262, 303])
def test_t13_reserved_bytes_of_a_report_are_zero(offset: int) -> None:
    report = bytearray(parse_quote(QUOTES[False]).report.raw)
    report[offset] = 1
    with pytest.raises(EvidenceFormatError, match="reserved"):
        parse_report(bytes(report))


def test_report_of_another_size_is_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="384"):
        parse_report(bytes(383))


@settings(max_examples=300)
@given(raw=st.binary(max_size=60))
def test_t13_der_walker_ends(raw: bytes) -> None:
    try:
        for element in parse_elements(raw):
            assert len(element.content) < len(element.raw) <= len(raw)
    except ValueError:
        pass


def octets(tag: int, content: bytes) -> bytes:
    return bytes((tag, 0x82)) + len(content).to_bytes(2, "big") + content


def entry(suffix: bytes, value: bytes) -> bytes:
    return octets(0x30, octets(0x06, bytes.fromhex("2a864886f84d010d01") + suffix) + value)


GOOD_EXTENSION = render_pck_extension(Platform(ppid=bytes(16)))


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x84\0\0\0\0",
        b"\x30\x05\0",
        octets(0x31, b""),
        octets(0x30, b""),
        octets(0x30, octets(0x30, b"")),
        octets(0x30, entry(b"\1", octets(4, bytes(16))) * 2),
        octets(0x30, entry(b"\1", octets(4, bytes(15)))),
        GOOD_EXTENSION + GOOD_EXTENSION,
        GOOD_EXTENSION.replace(b"\x02\x01\x01", b"\x02\x01\xff", 1),
        GOOD_EXTENSION.replace(b"\x02\x01\x01", b"\x04\x01\x01", 1),
    ],
    ids=["empty", "cut", "long-length", "short", "set", "no-fields", "no-pair", "twice", "size", "two", "negative",
         "type"],
)  # fmt: skip
def test_t13_platform_extension_of_another_form_is_refused(der: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "render_pck_extension", lambda platform: der)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_certificate(
        authority.PCK, key.public_key(), key, now=NOW, platform=Platform(ppid=bytes(16))
    )
    with pytest.raises(EvidenceFormatError, match="does not say which platform"):
        parse_pck_extension(certificate)


def test_certificate_without_the_platform_extension_is_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="does not say which platform"):
        parse_pck_extension(shared_platform().tcb_signer)


# ---- collateral


def test_collateral_survives_its_file() -> None:
    assert parse_collateral(render_collateral(COLLATERAL)) == COLLATERAL


@settings(max_examples=150)
@given(edits=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_t13_mutated_collateral_file_is_answered_in_our_words(edits: list[tuple[int, int]]) -> None:
    raw = bytearray(render_collateral(COLLATERAL))
    for offset, value in edits:
        raw[offset % len(raw)] = value
    try:
        collateral = parse_collateral(bytes(raw))
    except CollateralError:
        return
    for debug in (False, True):
        assert answer(QUOTES[debug], collateral)


@settings(max_examples=200)
@given(
    field=st.sampled_from([*asdict(COLLATERAL)]),
    offset=st.integers(0, 10_000),
    mask=st.integers(1, 127),
    debug=st.booleans(),
)
def test_t13_mutated_field_of_collateral_is_answered_in_our_words(
    field: str, offset: int, mask: int, debug: bool
) -> None:
    value = getattr(COLLATERAL, field)
    raw = bytearray(value if isinstance(value, bytes) else value.encode())
    raw[offset % len(raw)] ^= mask
    changed: Any = bytes(raw) if isinstance(value, bytes) else raw.decode("latin-1")
    assert answer(QUOTES[debug], replace(COLLATERAL, **{field: changed}))


def changed_file(**fields: Any) -> bytes:
    return json.dumps({**json.loads(render_collateral(COLLATERAL)), **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b'"text"',
        b"{",
        b"{}",
        b"\xff\xfe",
        b'{"tcb_info": NaN}',
        b'{"tcb_info": Infinity}',
        b'{"tcb_info": "a", "tcb_info": "b"}',
        b'{"a":' * 5000,
        b"[" * 100_000,
        b"1" * 5000,
        b"{" + b" " * MAX_JSON_SIZE + b"}",
        changed_file(tcb_info=None),
        changed_file(tcb_info={"id": "SGX"}),
        changed_file(root_ca_crl="zz"),
        changed_file(unknown="x"),
        changed_file(pck_certificate_chain="x"),
    ],
    ids=lambda raw: raw[:12].decode("latin-1"),
)
def test_t13_file_that_is_no_collateral_is_refused(raw: bytes) -> None:
    with pytest.raises(CollateralError):
        parse_collateral(raw)


def test_collateral_file_of_the_library_with_an_empty_chain_is_read() -> None:
    assert parse_collateral(changed_file(pck_certificate_chain=None)) == COLLATERAL


@pytest.mark.parametrize("text", ["[" * 3000, "{}", "[]", "1", "", "\ud800"[:0], '{"issueDate": 5}'])
@pytest.mark.parametrize("field", ["tcb_info", "qe_identity"])
def test_t13_signed_text_of_another_form_is_refused(field: str, text: str) -> None:
    for debug in (False, True):
        assert answer(QUOTES[debug], replace(COLLATERAL, **{field: text})) == "CollateralError"


@settings(max_examples=200)
@given(raw=st.binary(max_size=200) | st.text('[]{}",:0123456789eE+-.NaInfity\\u ', max_size=60).map(str.encode))
def test_t13_strict_json_never_raises_another_error(raw: bytes) -> None:
    with contextlib.suppress(CollateralError):
        parse_strict_json(raw, CollateralError)


@pytest.mark.parametrize(
    "text", [None, 5, "", "now", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00+01:00"]
)
def test_time_of_another_form_is_refused(text: Any) -> None:
    with pytest.raises(CollateralError, match="not a time"):
        parse_time(text, "it")


def test_time_is_utc() -> None:
    assert parse_time("2026-11-01T00:00:00Z", "it") == datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize("der", [b"", b"0", bytes(100), INTEL.root_der])
def test_t13_list_that_does_not_parse_is_refused(der: bytes) -> None:
    with pytest.raises(CollateralError, match="CRL"):
        parse_crl(der, "root")


# ---- the platform's file


@settings(max_examples=60)
@given(edits=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_t13_mutated_platform_file_is_answered_in_our_words(edits: list[tuple[int, int]]) -> None:
    raw = bytearray(render_platform(shared_platform().public()))
    for offset, value in edits:
        raw[offset % len(raw)] = value
    with contextlib.suppress(PlatformError):
        parse_platform(bytes(raw), source="memory")
