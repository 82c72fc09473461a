"""Where each small check of what others rest on begins and ends: one step inside is read, one step outside is refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.tee import FakeTee, shared_platform
from fakes.tee_kinds import td_quote
from tacit.errors import CollateralError, CollateralTimeError, EvidenceError, EvidenceFormatError, UntrustedRootError
from tacit.evidence import INTEL, Tee, TrustAnchor
from tacit.evidence.anchor.certificates import MAX_CHAIN, parse_chain
from tacit.evidence.anchor.dates import check_window
from tacit.evidence.anchor.der import (
    BIT_STRING,
    BOOLEAN,
    ENUMERATED,
    INTEGER,
    OCTETS,
    OID,
    SEQUENCE,
    SET,
    Element,
    parse_elements,
    parse_one,
)
from tacit.evidence.anchor.roots import AMD, AMD_ROOT_KEYS, check_chain_kind, parse_anchor
from tacit.evidence.anchor.strict_json import MAX_JSON_DEPTH, MAX_JSON_SIZE, parse_strict_json
from tacit.evidence.intel.library import verify_with_library
from tacit.evidence.intel.pck import PCK_EXTENSION, _values, parse_pck_extension
from tacit.evidence.intel.quote import parse_header, parse_quote
from tacit.evidence.simulated import authority
from tacit.evidence.snp.report import TCB_PLACES
from tacit.evidence.tdx.report import SIZE_10, SIZE_15, SIZE_15EX
from tacit.evidence.verify.envelope import unwrap

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PLATFORM = shared_platform()
ROOT_PEM = PLATFORM.root.public_bytes(Encoding.PEM)


# ---- dates


def test_what_is_in_force_is_so_from_its_first_second_and_no_longer_at_its_last() -> None:
    begin, end = NOW, NOW + timedelta(days=1)
    second = timedelta(seconds=1)
    check_window("it", begin, end, now=begin)
    check_window("it", begin, end, now=end - second)
    with pytest.raises(CollateralTimeError, match="in the future"):
        check_window("it", begin, end, now=begin - second)
    with pytest.raises(CollateralTimeError, match="expired"):
        check_window("it", begin, end, now=end)


# ---- chains


def test_a_chain_has_five_certificates_at_most() -> None:
    assert MAX_CHAIN == 5
    assert len(parse_chain(ROOT_PEM * 5 + b"\0")) == 5
    with pytest.raises(EvidenceFormatError, match="a certificate chain of 6; at most 5"):
        parse_chain(ROOT_PEM * 6)


def test_a_chain_ends_with_one_nul_at_most() -> None:
    for tail in (b"\0\0", b"!", b"\0!"):
        with pytest.raises(EvidenceFormatError, match="PEM blocks alone"):
            parse_chain(ROOT_PEM + tail)


# ---- DER


def long_form(size: int, *, length: int) -> bytes:
    """An element whose length is written in so many bytes."""
    return bytes((0x04, 0x80 | size)) + length.to_bytes(size, "big") + bytes(length)


def test_elements_have_the_tags_of_x_690() -> None:
    assert (BOOLEAN, INTEGER, ENUMERATED, SEQUENCE, SET) == (1, 2, 10, 48, 49)


def test_elements_are_read_whatever_form_their_length_has() -> None:
    assert parse_one(b"\x04\x00") == Element(4, b"", b"\x04\x00")
    for size, length in ((1, 0), (1, 200), (2, 200), (2, 0xFFFF)):
        whole = long_form(size, length=length)
        assert parse_one(whole) == Element(4, bytes(length), whole)
    assert [one.content for one in parse_elements(b"\x04\x01a\x04\x01b")] == [b"a", b"b"]
    assert parse_elements(b"") == []


@pytest.mark.parametrize(
    ("der", "message"),
    [
        (b"\x04", "cut element, or too many"),
        (b"\x04\x01a\x04", "cut element, or too many"),
        (b"\x04\x80", "a length of more than 65535"),
        (b"\x04\x83\x00\x00\x01a", "a length of more than 65535"),
        (b"\x04\x81", "a length of more than 65535, or cut"),
        (b"\x04\x82\x01", "a length of more than 65535, or cut"),
        (b"\x04\x02a", "^cut element$"),
        (b"\x04\x01a\x04\x02b", "^cut element$"),
        (b"\x04\x81\x02a", "^cut element$"),
    ],
)
def test_t13_an_element_that_is_cut_is_refused(der: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_elements(der)


def test_a_sequence_has_256_elements_at_most() -> None:
    assert len(parse_elements(b"\x05\x00" * 256)) == 256
    with pytest.raises(ValueError, match="too many"):
        parse_elements(b"\x05\x00" * 257)


@pytest.mark.parametrize("der", [b"", b"\x05\x00\x05\x00"])
def test_one_element_is_one(der: bytes) -> None:
    with pytest.raises(ValueError, match="where one belongs"):
        parse_one(der)


def test_depth_is_counted_up_and_down() -> None:
    def refuse(defect: str) -> Exception:
        return ValueError(defect)

    for before in (b"", b"[]," * 40, b'{"a":1},' * 40):
        fits, deeper = (b"[" + before + b"[" * deep + b"]" * deep + b"]" for deep in (31, 32))
        assert parse_strict_json(fits, refuse)
        with pytest.raises(ValueError, match="nested 33 deep; at most 32 is read"):
            parse_strict_json(deeper, refuse)


def test_types_of_der_are_those_of_the_standard() -> None:
    assert (BOOLEAN, INTEGER, BIT_STRING, OCTETS, OID) == (1, 2, 3, 4, 6)
    assert (ENUMERATED, SEQUENCE, SET) == (10, 0x30, 0x31)


def test_each_product_line_with_a_pinned_root_has_places_for_its_tcb() -> None:
    assert sorted(AMD_ROOT_KEYS.values()) == sorted(TCB_PLACES) == ["Genoa", "Milan", "Turin"]


OID_OF_PCK = bytes.fromhex("2a864886f84d010d01")


def tlv(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


@pytest.mark.parametrize(
    "pair",
    [
        b"",
        tlv(6, OID_OF_PCK + b"\1"),
        tlv(6, OID_OF_PCK + b"\1") + tlv(2, b"\0") + tlv(2, b"\0"),
        tlv(6, bytes.fromhex("2a864886f84d010d02") + b"\1") + tlv(2, b"\0"),
    ],
    ids=["nothing", "one", "three", "another-prefix"],
)
def test_t13_what_is_no_pair_of_intels_oid_and_a_value_is_refused(pair: bytes) -> None:
    good = tlv(6, OID_OF_PCK + b"\2") + tlv(2, b"\0")
    assert _values(parse_one(tlv(0x30, tlv(0x30, good)))).keys() == {b"\2"}
    with pytest.raises(ValueError, match="not a sequence of"):
        _values(parse_one(tlv(0x30, tlv(0x30, good) + tlv(0x30, pair))))
    with pytest.raises(ValueError, match="stands twice"):
        _values(parse_one(tlv(0x30, tlv(0x30, good) * 2)))


def test_an_element_is_only_what_its_tag_says() -> None:
    sequence, text = parse_one(b"\x30\x02\x05\x00"), parse_one(b"\x04\x02\x05\x00")
    assert [one.tag for one in sequence.elements()] == [5]
    with pytest.raises(ValueError, match="type 0x4 where 0x30 belongs"):
        text.elements()
    assert text.bytes_of(4) == b"\x05\x00"
    with pytest.raises(ValueError, match="type 0x30 where 0x4 belongs"):
        sequence.bytes_of(4)


def test_numbers_are_whole_and_not_negative() -> None:
    for content, number in ((b"\x00", 0), (b"\x7f", 127), (b"\x00\x80", 128)):
        assert Element(INTEGER, content, b"").number() == number
    for content in (b"", b"\x80", b"\xff"):
        with pytest.raises(ValueError, match="negative or empty"):
            Element(INTEGER, content, b"").number()


# ---- JSON


def read(raw: bytes) -> object:
    return parse_strict_json(raw, CollateralError)


def test_json_is_read_up_to_its_largest_size_and_depth() -> None:
    assert (MAX_JSON_SIZE, MAX_JSON_DEPTH) == (1 << 20, 32)
    assert read(b'"' + b"a" * (MAX_JSON_SIZE - 2) + b'"') == "a" * (MAX_JSON_SIZE - 2)
    with pytest.raises(CollateralError, match="^1048577 bytes; at most 1048576 are read$"):
        read(b'"' + b"a" * (MAX_JSON_SIZE - 1) + b'"')
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        assert read(opened * 32 + b"1" + closed * 32)
        with pytest.raises(CollateralError, match="^nested 33 deep; at most 32 is read$"):
            read(opened * 33 + b"1" + closed * 33)


def test_depth_is_counted_where_it_is_deepest() -> None:
    assert read(b"[" + b"[[]]," * 40 + b"1]")
    with pytest.raises(CollateralError, match="nested 33 deep"):
        read(b"[" + b"[" * 32 + b"]" * 32 + b",1]")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "^not strict JSON: the key 'a' stands twice$"),
        (b'{"a": 1, "b": 2, "b": 3}', "^not strict JSON: the key 'b' stands twice$"),
        (b'{"x": {"c": 1, "c": 1}}', "^not strict JSON: the key 'c' stands twice$"),
        (b"[NaN]", "^not strict JSON: NaN is not a JSON number$"),
        (b"[-Infinity]", "^not strict JSON: -Infinity is not a JSON number$"),
        (b"{", "^not strict JSON: "),
        (b"\xff", "^not strict JSON: "),
    ],
)
def test_t13_json_that_two_readers_could_read_differently_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(CollateralError, match=message):
        read(raw)


# ---- anchors


def test_t07_an_anchor_for_simulation_without_the_mark_is_refused_for_that() -> None:
    with pytest.raises(UntrustedRootError, match="is for simulation but is not marked SIMULATED"):
        parse_anchor(TrustAnchor(Tee.SIMULATED, "mine", INTEL.root_der))


def test_t07_a_simulated_anchor_for_a_real_tee_is_refused_for_that() -> None:
    root = PLATFORM.root.public_bytes(Encoding.DER)
    with pytest.raises(UntrustedRootError, match="is SIMULATED and can never vouch for SGX"):
        parse_anchor(TrustAnchor(Tee.SGX, "theirs", root))
    # Not even where the caller says that it is nobody's maker's.
    with pytest.raises(UntrustedRootError, match="is SIMULATED and can never vouch for SGX"):
        parse_anchor(TrustAnchor(Tee.SGX, "theirs", root, foreign=True))


def test_amds_roots_are_of_three_lines() -> None:
    assert sorted(AMD_ROOT_KEYS.values()) == ["Genoa", "Milan", "Turin"]
    assert AMD.root_der == b""


def test_t07_a_root_that_is_not_intels_counts_only_where_the_caller_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    root = PLATFORM.root.public_bytes(Encoding.DER)
    monkeypatch.setattr("tacit.evidence.anchor.roots.is_simulated", lambda _: False)
    parse_anchor.cache_clear()
    with pytest.raises(UntrustedRootError, match="is not Intel's root, the only one for SGX"):
        parse_anchor(TrustAnchor(Tee.SGX, "mine", root))
    assert parse_anchor(TrustAnchor(Tee.SGX, "mine", root, foreign=True)) == PLATFORM.root
    parse_anchor.cache_clear()


def test_t07_an_anchor_signed_itself() -> None:
    signed_by_another = PLATFORM.tcb_signer.public_bytes(Encoding.DER)
    with pytest.raises(UntrustedRootError, match="is not a P-256 root certificate"):
        parse_anchor(TrustAnchor(Tee.SIMULATED, "no root", signed_by_another))


def test_t07_a_simulated_chain_is_refused_for_that_before_its_root_is_compared() -> None:
    with pytest.raises(UntrustedRootError, match="this evidence is SIMULATED: it is never accepted where SGX"):
        check_chain_kind(tuple(PLATFORM.pck_chain), INTEL, parse_anchor(INTEL))


# ---- the platform's certificate


def pck(extension: bytes | None = None, **changes: object) -> x509.Certificate:
    """A platform's certificate that differs as told, or has this extension."""
    assert PLATFORM.keys is not None
    one = authority.Platform(bytes(range(16)), b"FMSPC!", b"\0\1", tuple(range(1, 17)), 40)
    described = replace(one, **changes)  # type: ignore[arg-type]
    content = authority.render_pck_extension(described) if extension is None else extension
    builder = (
        x509.CertificateBuilder()
        .subject_name(PLATFORM.pck.subject)
        .issuer_name(PLATFORM.pck_ca.subject)
        .public_key(PLATFORM.keys.pck.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(PCK_EXTENSION, content), critical=False)
    )
    return builder.sign(PLATFORM.keys.pck_ca, SHA256())


def test_what_a_platforms_certificate_says_is_read_whole_and_in_its_order() -> None:
    found = parse_pck_extension(pck())
    assert (found.ppid, found.fmspc, found.pce_id) == (bytes(range(16)), b"FMSPC!", b"\0\1")
    assert (found.components, found.pce_svn) == (tuple(range(1, 17)), 40)


def test_a_security_version_has_16_bits() -> None:
    assert parse_pck_extension(pck(pce_svn=0xFFFF)).pce_svn == 0xFFFF
    with pytest.raises(EvidenceFormatError, match="a security version outside 0 to 65535"):
        parse_pck_extension(pck(pce_svn=0x10000))


def test_a_field_of_a_platforms_certificate_stands_once() -> None:
    whole = authority.render_pck_extension(authority.Platform(bytes(16), bytes(6), bytes(2), (0,) * 16, 0))
    one = parse_one(whole)
    twice = one.content + one.elements()[0].raw
    extension = b"\x30\x82" + len(twice).to_bytes(2, "big") + twice
    with pytest.raises(EvidenceFormatError, match="an OID stands twice"):
        parse_pck_extension(pck(extension))


# ---- quotes

QUOTE = unwrap(FakeTee().issue_evidence(bytes(64)))


def test_a_quote_has_32_kib_at_most_padding_included() -> None:
    assert parse_quote(QUOTE + bytes(0x8000 - len(QUOTE))).raw == QUOTE
    with pytest.raises(EvidenceFormatError, match="a quote of 32769 bytes; none is larger than 32768"):
        parse_quote(QUOTE + bytes(0x8001 - len(QUOTE)))


def test_a_header_has_48_bytes() -> None:
    with pytest.raises(EvidenceFormatError, match="not a quote: 47 bytes"):
        parse_header(QUOTE[:47])
    assert parse_header(QUOTE[:48]) == (3, Tee.SGX)
    with pytest.raises(EvidenceFormatError, match="quote is cut: the report has 384 bytes, 0 are left"):
        parse_quote(QUOTE[:48])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"\2\0", "quote version 2 is not known"),
        (0, b"\6\0", "quote version 6 is not known"),
        (2, b"\3\0", "attestation key type 3 is not supported"),
        (2, b"\1\0", "attestation key type 1 is not supported"),
        (4, b"\1\0\0\0", "a version 3 quote has TEE type 0"),
        (12, b"\0", "quoting enclave of vendor"),
    ],
)
def test_each_field_of_a_header_is_one_that_is_known(at: int, value: bytes, message: str) -> None:
    with pytest.raises(EvidenceFormatError, match=message):
        parse_header(QUOTE[:at] + value + QUOTE[at + len(value) :])


def test_t13_nothing_is_left_over_inside_the_signature_data() -> None:
    size = int.from_bytes(QUOTE[432:436], "little")
    longer = QUOTE[:432] + (size + 1).to_bytes(4, "little") + QUOTE[436:] + b"\1"
    with pytest.raises(EvidenceFormatError, match="^1 bytes are left over inside the signature data$"):
        parse_quote(longer)
    with pytest.raises(EvidenceFormatError, match="1 bytes follow the quote and are not zero padding"):
        parse_quote(QUOTE + b"\1")
    with pytest.raises(EvidenceFormatError, match="the certification data has"):
        parse_quote(QUOTE[:432] + (size - 1).to_bytes(4, "little") + QUOTE[436:-1])


@pytest.mark.parametrize("kind", [2, 3, 4])
def test_each_kind_of_body_has_its_own_size(kind: int) -> None:
    sizes = {2: SIZE_10, 3: SIZE_15, 4: SIZE_15EX}
    quote = td_quote(version=5, size=sizes[kind])
    assert parse_quote(quote).report.raw == quote[54 : 54 + sizes[kind]]
    for other in {1, 2, 3, 4, 5} - {kind}:
        with pytest.raises(EvidenceFormatError, match="a quote's body of type"):
            parse_quote(quote[:48] + other.to_bytes(2, "little") + quote[50:])


def test_claims_of_the_library_in_another_form_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Claims:
        def to_json(self) -> str:
            return '{"tcb": {"status": "UpToDate", "advisory_ids": []}}'

    class Verifier:
        def __init__(self, _root: bytes) -> None:
            pass

        def verify_with_policy(self, *_: object) -> Claims:
            return Claims()

    monkeypatch.setattr("dcap_qvl.QuoteVerifier", Verifier)
    tee = FakeTee()
    with pytest.raises(EvidenceError, match="the library's claims are of another form"):
        verify_with_library(QUOTE, tee.collateral, tee.anchor.root_der, now=NOW)
