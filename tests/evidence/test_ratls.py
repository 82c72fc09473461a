"""RA-TLS certificates: Gramine's own, and ours with every defect. The quote in one has to name the certificate's key."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.ratls import NAMES, OLDER, TAGGED, UNREADABLE_NAMES, cbor, certificate, key_der, new_key, tagged
from fakes.tee import NOW, FakeTee
from fakes.tee_kinds import td_quote
from tacit.errors import (
    BindingError,
    CollateralTimeError,
    EvidenceError,
    EvidenceFormatError,
    UntrustedRootError,
)
from tacit.evidence import INTEL, Binding, Claims, Role, Tee, verify_evidence
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.verify.cbor import Tagged, parse_cbor
from tacit.evidence.verify.envelope import unwrap
from tacit.evidence.verify.ratls import parse_ratls, verify_ratls_binding

KEY = new_key()
TEE = FakeTee()
SHARED = Path(__file__).parents[2].parent / "shared" / "vectors" / "ratls"


def issue(data: bytes) -> bytes:
    return unwrap(TEE.issue_evidence(data))


GOOD = certificate(KEY, {TAGGED: tagged(issue, KEY)})


def verify(der: bytes, **more: Any) -> Claims:
    return verify_evidence(der, TEE.collateral, TEE.anchor, now=NOW, **more)


def refusal_of(der: bytes, **more: Any) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        verify(der, **more)
    return caught.value


def claims_of(data: bytes) -> Claims:
    """Claims with this report data and nothing checked: the recorded certificates carry a quote that nobody signed."""
    known = verify_evidence(TEE.issue_evidence(bytes(64)), TEE.collateral, TEE.anchor, now=NOW)
    return replace(known, report_data=data, checks=())


@pytest.mark.parametrize("file", sorted(SHARED.glob("*.der")), ids=lambda file: file.stem)
def test_recorded_certificates_are_judged_as_a_sound_verifier_should(file: Path, shared_vectors: Path) -> None:
    expected = json.loads((SHARED / "expected.json").read_text())["certs"].get(file.name)
    if expected is None:
        return  # a key
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def judge() -> Claims:
        carried = parse_ratls(file.read_bytes(), now=now)
        return verify_ratls_binding(claims_of(parse_quote(carried.quote).report.report_data), carried)

    if expected["should_accept"]:
        assert [check.number for check in judge().checks if check.made] == ["R1", "R2", "R3"]
    else:
        with pytest.raises(BindingError, match="R3"):
            judge()


def test_tagged_evidence_says_what_the_enclave_is() -> None:
    claims = verify(GOOD)
    assert claims.tee is Tee.SIMULATED
    assert claims.measurement == TEE.enclave.measurement
    assert {"R1", "R2", "R3"} <= {check.number for check in claims.checks if check.made}
    assert [check.number for check in claims.checks if not check.made] == ["B1"]


@pytest.mark.parametrize("oid", OLDER)
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=["p256", "p384"])
def test_the_older_extension_binds_the_key_itself(oid: str, curve: ec.EllipticCurve) -> None:
    key = new_key(curve)
    quote = issue(sha256(key_der(key)).digest() + bytes(32))
    assert verify(certificate(key, {oid: quote})).measurement == TEE.enclave.measurement


@pytest.mark.parametrize(("number", "make"), [(1, sha256), (7, sha384), (8, sha512)])
def test_each_hash_that_the_claims_may_use(number: int, make: Callable[[bytes], Any]) -> None:
    entry = cbor([number, make(key_der(KEY)).digest()])
    assert verify(certificate(KEY, {TAGGED: tagged(issue, KEY, {"pubkey-hash": entry, "other": 1})}))


def test_a_td_may_show_itself_so_too() -> None:
    def issue_td(data: bytes) -> bytes:
        return td_quote(data=data)

    platform = TEE.platform
    der = certificate(KEY, {TAGGED: tagged(issue_td, KEY)})
    collateral, anchor = platform.collateral_for(Tee.SIMULATED_TDX), platform.anchor_for(Tee.SIMULATED_TDX)
    assert verify_evidence(der, collateral, anchor, now=NOW).tee is Tee.SIMULATED_TDX


def test_t01_claims_without_the_keys_hash_are_refused() -> None:
    # Gramine's own verifier takes these; anybody could put the quote into a certificate of theirs.
    for claims in ({}, {"nonce": b"n"}, {"pubkey_hash": cbor([1, sha256(key_der(KEY)).digest()])}):
        refused = refusal_of(certificate(KEY, {TAGGED: tagged(issue, KEY, claims)}))  # type: ignore[arg-type]
        assert isinstance(refused, BindingError)
        assert refused.step.startswith("R3")


@pytest.mark.parametrize(
    "entry",
    [
        cbor([1, sha256(b"another key").digest()]),
        cbor([1, sha256(key_der(KEY)).digest()[:31]]),
        cbor([7, sha256(key_der(KEY)).digest()]),
        cbor([2, sha256(key_der(KEY)).digest()]),
        cbor([1, sha256(key_der(KEY)).digest(), 1]),
        cbor([1]),
        cbor(sha256(key_der(KEY)).digest()),
        b"",
        b"\xff",
        cbor(1),
        cbor([[1], sha256(key_der(KEY)).digest()]),
        1,
    ],
    ids=[
        "other", "short", "wrong-size", "unknown", "three", "one", "bare", "empty", "no-cbor", "number", "list", "no-bytes",
    ],
)  # fmt: skip
def test_t01_a_hash_of_another_key_or_form_is_refused(entry: Any) -> None:
    refused = refusal_of(certificate(KEY, {TAGGED: tagged(issue, KEY, {"pubkey-hash": entry})}))
    assert isinstance(refused, BindingError)


def test_t01_claims_that_are_no_map_or_name_no_key_are_told_as_that() -> None:
    quote = issue(sha256(cbor(1)).digest() + bytes(32))
    for value in (cbor((60000, [quote, cbor(1)])), cbor((60000, [quote, cbor([])])), tagged(issue, KEY, {})):
        refused = refusal_of(certificate(KEY, {TAGGED: value}))
        assert isinstance(refused, BindingError)
        assert "do not name the certificate's key" in str(refused)


@pytest.mark.parametrize("nonce", [1, "text", [b"n"]])
def test_t13_a_nonce_that_is_no_byte_string_is_refused(nonce: Any) -> None:
    claims = {"pubkey-hash": cbor([1, sha256(key_der(KEY)).digest()]), "nonce": nonce}
    refused = refusal_of(certificate(KEY, {TAGGED: tagged(issue, KEY, claims)}))
    assert isinstance(refused, BindingError)
    assert "a nonce that is no byte string" in str(refused)


def test_t01_a_quote_in_another_certificate_is_refused() -> None:
    other = new_key()
    extension = tagged(issue, KEY)
    assert isinstance(refusal_of(certificate(other, {TAGGED: extension})), BindingError)
    older = issue(sha256(key_der(KEY)).digest() + bytes(32))
    assert isinstance(refusal_of(certificate(other, {OLDER[0]: older})), BindingError)


def test_t01_the_second_half_of_report_data_is_zero() -> None:
    older = issue(sha256(key_der(KEY)).digest() + b"\1" + bytes(31))
    assert isinstance(refusal_of(certificate(KEY, {OLDER[0]: older})), BindingError)


def test_t06_tagged_evidence_that_fails_does_not_fall_back() -> None:
    older = issue(sha256(key_der(KEY)).digest() + bytes(32))
    assert verify(certificate(KEY, {OLDER[0]: older}))
    for broken in (tagged(issue, KEY, {}), b"", cbor((60001, [older, b""]))):
        refusal_of(certificate(KEY, {OLDER[0]: older, TAGGED: broken}))


def test_t01_the_nonce_in_the_claims_is_the_one_that_was_asked_for() -> None:
    claims = {"pubkey-hash": cbor([1, sha256(key_der(KEY)).digest()]), "nonce": b"asked for"}
    der = certificate(KEY, {TAGGED: tagged(issue, KEY, claims)})  # type: ignore[arg-type]
    found = verify(der, binding=Binding(None, der, b"asked for"))
    assert all(check.made for check in found.checks)
    for nonce in (b"", b"another"):
        assert isinstance(refusal_of(der, binding=Binding(None, der, nonce)), BindingError)
    assert isinstance(refusal_of(GOOD, binding=Binding(None, GOOD, b"asked for")), BindingError)
    assert verify(GOOD, binding=Binding(None, GOOD))


def test_t03_a_certificate_binds_no_role_and_no_other_connection() -> None:
    assert isinstance(refusal_of(GOOD, binding=Binding(Role.MARBLE, GOOD)), BindingError)
    other = certificate(KEY, {TAGGED: tagged(issue, KEY)})
    assert isinstance(refusal_of(GOOD, binding=Binding(None, other)), BindingError)
    bound = refusal_of(GOOD, binding=Binding(None, GOOD, channel=b"c" * 32))
    assert isinstance(bound, BindingError)
    assert "RA-TLS binds no connection" in str(bound)


def test_t07_a_simulated_certificate_is_refused_under_intels_anchor() -> None:
    with pytest.raises(UntrustedRootError):
        verify_evidence(GOOD, TEE.collateral, INTEL, now=NOW)


@pytest.mark.parametrize(("begin", "end"), [(-3, -2), (2, 3)])
def test_a_certificate_that_is_not_in_force_is_refused(begin: int, end: int) -> None:
    window = {"begin": NOW + timedelta(days=begin), "end": NOW + timedelta(days=end)}
    refused = refusal_of(certificate(KEY, {TAGGED: tagged(issue, KEY)}, **window))
    assert isinstance(refused, CollateralTimeError)
    assert refused.step.startswith("R1")


def test_a_certificate_of_another_form_is_refused() -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for der in (
        certificate(KEY, {TAGGED: tagged(issue, KEY)}, signer=new_key()),
        certificate(rsa_key, {TAGGED: tagged(issue, rsa_key)}),
        certificate(new_key(ec.SECP521R1()), {TAGGED: b""}),
        certificate(KEY, {}),
        certificate(KEY, {TAGGED: tagged(issue, KEY), NAMES: UNREADABLE_NAMES}),
        GOOD[:-1],
        GOOD + b"\0",
        b"\x30\x82\x00\x00",
    ):
        assert isinstance(refusal_of(der), EvidenceFormatError)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        cbor(1),
        cbor((60000, b"")),
        cbor((60000, [b""])),
        cbor((60000, [1, b""])),
        cbor((60000, [b"", "text"])),
        cbor((60000, [b"quote", b"\xff"])),
        cbor([b"quote", cbor({})]),
        b"\xd9\xea\x60\x9f\x40\x40\xff",
    ],
)
def test_t13_tagged_evidence_of_another_form_is_refused(value: bytes) -> None:
    refused = refusal_of(certificate(KEY, {TAGGED: value}))
    assert isinstance(refused, EvidenceFormatError | BindingError)


@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, 6000), st.integers(1, 255)), min_size=1, max_size=4))
def test_t13_a_mutated_certificate_is_refused_in_our_words(edits: list[tuple[int, int]]) -> None:
    der = bytearray(GOOD)
    for offset, mask in edits:
        der[offset % len(der)] ^= mask
    if der != GOOD:
        assert str(refusal_of(bytes(der)))


def test_t13_a_certificate_whose_signature_is_not_whole_bytes_is_refused() -> None:
    """One bit is said to be none of its own; it is zero, as in every second signature, so that nothing else changes."""
    made = iter(lambda: certificate(KEY, {TAGGED: tagged(issue, KEY)}), None)
    whole = next(each for each in made if not each[-1] & 1)
    at = len(whole) - len(x509.load_der_x509_certificate(whole).signature) - 1
    assert verify(whole)
    refused = refusal_of(whole[:at] + b"\1" + whole[at + 1 :])
    assert "its signature is not whole bytes" in str(refused)


# ---- CBOR


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (b"bytes", b"bytes"),
        ("text", "text"),
        (500, 500),
        ([1, b"x"], [1, b"x"]),
        ({"a": 1}, {"a": 1}),
        ((60000, [b"x" * 70_000]), Tagged(60000, [b"x" * 70_000])),
    ],
)
def test_cbor_is_read_as_it_was_written(value: Any, parsed: Any) -> None:
    assert parse_cbor(cbor(value)) == parsed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00",
        b"\x41",
        b"\x58",
        b"\x18\x17",
        b"\x59\x00\x01\x00",
        b"\x5f\x41\x00\xff",
        b"\x1b" + bytes(8),
        b"\xa2\x61a\x00\x61a\x00",
        b"\xa1\x00\x00",
        b"\x81" * 6 + b"\x00",
        b"\x9a\xff\xff\xff\xff",
        b"\x61\xff",
        b"\xf5",
        b"\x20",
    ],
    ids=lambda data: data[:6].hex(),
)
def test_t13_cbor_with_more_than_one_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cbor(data)


@settings(max_examples=300)
@given(data=st.binary(max_size=60))
def test_t13_cbor_ends_with_a_value_or_one_kind_of_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_cbor(data)
