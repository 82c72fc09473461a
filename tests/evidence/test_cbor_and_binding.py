"""CBOR as RA-TLS has it, and what report data is bound to: each limit from both sides."""

from hashlib import sha256

import pytest

from fakes.tee import NOW, FakeTee
from tacit.errors import BindingError, CollateralError, EvidenceFormatError
from tacit.evidence import Claims, Role, report_data, verify_binding, verify_evidence
from tacit.evidence.intel.quote import MAX_EVIDENCE_SIZE
from tacit.evidence.verify import parse_collateral
from tacit.evidence.verify.binding import CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE
from tacit.evidence.verify.cbor import Tagged, parse_cbor
from tacit.evidence.verify.envelope import unwrap, wrap

KEY, NONCE, CHANNEL = b"a certificate", b"n" * 32, b"c" * 32


# ---- CBOR

READ = {
    b"\x00": 0,
    b"\x17": 23,
    b"\x18\x18": 24,
    b"\x18\xff": 255,
    b"\x19\x01\x00": 256,
    b"\x1a\x00\x01\x00\x00": 65536,
    b"\x40": b"",
    b"\x41a": b"a",
    b"\x61a": "a",
    b"\x80": [],
    b"\x82\x01\x02": [1, 2],
    b"\xa0": {},
    b"\xa1\x61a\x01": {"a": 1},
    b"\xc1\x01": Tagged(1, 1),
    b"\xd8\x18\x01": Tagged(24, 1),
    b"\xd9\x01\x00\x01": Tagged(256, 1),
    b"\x58\x18" + b"x" * 24: b"x" * 24,
    b"\x90" + b"\x00" * 16: [0] * 16,
    b"\xb0" + b"".join(b"\x61" + bytes((97 + at, at)) for at in range(16)): {chr(97 + at): at for at in range(16)},
    b"\x81\x81\x81\x81\x00": [[[[0]]]],
    b"\xc1\xc1\xc1\xc1\x00": Tagged(1, Tagged(1, Tagged(1, Tagged(1, 0)))),
    b"\xa1\x61a" * 4 + b"\x00": {"a": {"a": {"a": {"a": 0}}}},
}


@pytest.mark.parametrize("raw", READ)
def test_a_value_has_one_form(raw: bytes) -> None:
    assert parse_cbor(raw) == READ[raw]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cut CBOR value"),
        (b"\x82\x01", "cut CBOR value"),
        (b"\x00\x00", "1 bytes behind the CBOR value"),
        (b"\x18\x17", "longer than it need be"),
        (b"\x19\x00\xff", "longer than it need be"),
        (b"\x1a\x00\x00\xff\xff", "longer than it need be"),
        (b"\x18", "cut, or longer"),
        (b"\x19\x01", "cut, or longer"),
        (b"\x1a\x01\x00\x00", "cut, or longer"),
        (b"\x1b" + bytes(8), "indefinite or has more than 4 bytes"),
        (b"\x5f", "indefinite or has more than 4 bytes"),
        (b"\x42a", "cut CBOR string"),
        (b"\x62a", "cut CBOR string"),
        (b"\x81\x81\x81\x81\x81\x00", "nested too deep"),
        (b"\xc1\xc1\xc1\xc1\xc1\x00", "nested too deep"),
        (b"\xa1\x61a" * 5 + b"\x00", "nested too deep"),
        (b"\xa1" * 5000, "nested too deep"),
        (b"\xa1\x61a" * 5000, "nested too deep"),
        (b"\xa1\xa1\xa1\x61a\x00\x00\x00", "a key that is no text"),
        (b"\x91" + b"\x00" * 17, "too many items"),
        (b"\xb1" + b"\x61a\x00" * 17, "too many items"),
        (b"\xa1\x01\x01", "a key that is no text"),
        (b"\xa2\x61a\x01\x61a\x01", "stands twice"),
        (b"\x20", "a CBOR value of type 1"),
        (b"\xf4", "a CBOR value of type 7"),
        (b"\x61\xff", "decode"),
    ],
)
def test_t13_any_other_form_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cbor(raw)


# ---- the envelope, and a collateral's file


def test_an_envelope_is_as_long_as_it_says() -> None:
    assert unwrap(wrap(b"quote")) == b"quote"
    assert unwrap(wrap(b"")) == b""
    for evidence, message in (
        (wrap(b"")[:-1], "ends inside its 16-byte"),
        (wrap(b"quote")[:-1], "promises a quote of 5 bytes, 4 follow"),
        (wrap(b"quote") + b"!", "promises a quote of 5 bytes, 6 follow"),
    ):
        with pytest.raises(EvidenceFormatError, match=message):
            unwrap(evidence)


def test_t13_evidence_that_is_too_large_is_not_read() -> None:
    assert unwrap(b"\3" * MAX_EVIDENCE_SIZE) == b"\3" * MAX_EVIDENCE_SIZE
    with pytest.raises(EvidenceFormatError, match="no quote is larger than"):
        unwrap(b"\3" * (MAX_EVIDENCE_SIZE + 1))


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"leaf"', b"null"])
def test_t13_collateral_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(CollateralError, match="collateral is a JSON object"):
        parse_collateral(raw)


# ---- report data


def test_both_ends_bind_what_the_documentation_says() -> None:
    assert (CHANNEL_BINDING, CHANNEL_LABEL, CHANNEL_SIZE) == ("tls-exporter-v1", b"EXPORTER-tacit-evidence-v1", 32)


def test_report_data_is_what_the_documentation_says() -> None:
    def lp(field: bytes) -> bytes:
        return len(field).to_bytes(4, "big") + field

    first = sha256(KEY + NONCE).digest()
    assert report_data(role=None, key=KEY, nonce=NONCE) == first + bytes(32)
    fields = lp(b"marble") + lp(NONCE)
    plain = sha256(b"tacit report data v1\0" + fields + KEY).digest()
    assert report_data(role=Role.MARBLE, key=KEY, nonce=NONCE) == first + plain
    bound = sha256(b"tacit report data with channel v1\0" + fields + lp(CHANNEL) + KEY).digest()
    assert report_data(role=Role.MARBLE, key=KEY, nonce=NONCE, channel=CHANNEL) == first + bound
    assert report_data(role=Role.COORDINATOR, key=KEY)[:32] == sha256(KEY).digest()


def claims(**made: object) -> Claims:
    tee = FakeTee()
    given = {"role": Role.MARBLE, "key": KEY, "nonce": NONCE} | made
    data = report_data(**given)  # type: ignore[arg-type]
    return verify_evidence(tee.issue_evidence(data), tee.collateral, tee.anchor, now=NOW)


WRONG = [
    ({}, {"key": b"other"}, "B1", "another key or another nonce"),
    ({}, {"nonce": b"other"}, "B1", "another key or another nonce"),
    ({}, {"role": Role.COORDINATOR}, "B1", "to the role 'coordinator'"),
    ({}, {"role": None}, "B1", "to the role"),
    ({"role": None}, {}, "B1", "to the role 'marble'"),
    ({}, {"channel": CHANNEL}, "B2", "does not bind this very connection"),
    ({"channel": CHANNEL}, {}, "B1", "to the role 'marble'"),
    ({"channel": b"d" * 32}, {"channel": CHANNEL}, "B2", "does not bind this very connection"),
    ({"channel": CHANNEL}, {"channel": CHANNEL, "key": b"other"}, "B1", "another key or another nonce"),
]


@pytest.mark.parametrize(("made", "asked", "step", "message"), WRONG)
def test_t01_what_was_bound_to_something_else_is_refused_in_its_step(
    made: dict[str, object], asked: dict[str, object], step: str, message: str
) -> None:
    given = {"role": Role.MARBLE, "key": KEY, "nonce": NONCE} | asked
    with pytest.raises(BindingError, match=message) as refused:
        verify_binding(claims(**made), **given)  # type: ignore[arg-type]
    assert refused.value.step is not None
    assert refused.value.step.split()[0] == step


def test_what_was_checked_is_listed_with_what_it_was_made_over() -> None:
    plain = verify_binding(claims(), role=Role.MARBLE, key=KEY, nonce=NONCE)
    made = {one.number: one.input_sha256 for one in plain.checks}
    assert made["B1"] == sha256(report_data(role=Role.MARBLE, key=KEY, nonce=NONCE)).digest()
    assert "B2" not in made
    bound = verify_binding(claims(channel=CHANNEL), role=Role.MARBLE, key=KEY, nonce=NONCE, channel=CHANNEL)
    made = {one.number: one.input_sha256 for one in bound.checks}
    assert made["B2"] == sha256(CHANNEL).digest()


def test_what_binds_no_role_is_not_taken_as_bound_to_a_connection() -> None:
    with pytest.raises(BindingError, match="binds no connection"):
        verify_binding(claims(role=None), role=None, key=KEY, nonce=NONCE, channel=CHANNEL)
