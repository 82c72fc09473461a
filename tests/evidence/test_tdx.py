"""TDs and their quotes, versions 4 and 5: what is accepted, reported and refused, with both evaluators."""

import contextlib
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.tee import NOW, FakeTee, shared_platform
from fakes.tee_kinds import DOMAIN, quoting_keys, td_quote
from tacit.errors import (
    BindingError,
    CollateralError,
    EvidenceError,
    EvidenceFormatError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence import INTEL, Binding, Claims, Collateral, Role, Tee, report_data, verify_evidence
from tacit.evidence.anchor import INTEL_TDX
from tacit.evidence.claims import REGISTERS
from tacit.evidence.intel.library import answers
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.authority import Signer, life, sign_collateral
from tacit.evidence.simulated.quote import issue_quote
from tacit.evidence.simulated.tdx import TD_QUOTING_ENCLAVE, issue_td_quote, td_qe_identity, td_tcb_info
from tacit.evidence.verify.envelope import wrap

ANCHOR = shared_platform().anchor_for(Tee.SIMULATED_TDX)
SIZES = [(4, 584), (5, 584), (5, 648), (5, 885)]
# By the library, and by our own evaluator, which is asked where SEPT_VE_DISABLE is off.
both = pytest.mark.parametrize("attributes", [1 << 28, 0], ids=["by-library", "by-evaluator"])


def collateral() -> Collateral:
    return shared_platform().collateral_for(Tee.SIMULATED_TDX)


def verify(quote: bytes, using: Collateral | None = None) -> Claims:
    return verify_evidence(quote, using or collateral(), ANCHOR, now=NOW)


def forged(info: Any = lambda value: None, identity: Any = lambda value: None) -> Collateral:
    """Collateral by the platform's own authority, after each text was changed as the test likes."""
    one = shared_platform()
    assert one.keys is not None
    found = parse_pck_extension(one.pck)
    platform = authority.Platform(found.ppid, found.fmspc, found.pce_id, found.components, found.pce_svn)
    begin, end = life(NOW)
    texts = td_tcb_info(platform, begin=begin, end=end), td_qe_identity(begin=begin, end=end)
    info(texts[0])
    identity(texts[1])
    signers = [Signer(getattr(one, name), getattr(one.keys, name)) for name in ("root", "pck_ca", "tcb_signer")]
    return sign_collateral(*signers, info=texts[0], identity=texts[1], window=(begin, end))


@pytest.mark.parametrize(("version", "size"), SIZES)
def test_claims_say_what_the_td_is(version: int, size: int) -> None:
    raw = td_quote(version=version, size=size, data=bytes(range(64)))
    claims = verify(raw)
    assert claims.tee is Tee.SIMULATED_TDX
    assert claims.measurement == claims.registers["MRTD"] == DOMAIN.mr_td
    assert [claims.registers[f"RTMR{index}"] for index in range(4)] == list(DOMAIN.rtmrs)
    assert claims.report_data == bytes(range(64))
    assert (claims.tcb_status, claims.debug, claims.weaknesses) == ("UpToDate", False, frozenset())
    assert claims.hardware_id.startswith(b"SIM-")
    assert [check.number for check in claims.checks if not check.made] == ["B1"]
    assert (claims.signer, claims.product_id, claims.security_version) == (b"", 0, 0)
    assert {name: len(value) for name, value in claims.registers.items()} == REGISTERS[Tee.TDX]
    over = {check.number: check.input_sha256 for check in claims.checks}
    assert over["I12"] == sha256(parse_quote(raw).report.raw[:128]).digest()


@pytest.mark.parametrize("version", [3, 4, 5])
def test_an_sgx_quote_of_any_version_says_the_same(version: int) -> None:
    tee = FakeTee()
    quote = issue_quote(tee.enclave, bytes(64), keys=tee.quoting_keys, version=version)
    claims = verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)
    assert claims.measurement == tee.enclave.measurement
    assert parse_quote(quote).version == version
    debug = FakeTee(debug=True)
    quote = issue_quote(debug.enclave, bytes(64), keys=tee.quoting_keys, version=version)
    assert verify_evidence(quote, tee.collateral, tee.anchor, now=NOW).debug


def test_evidence_in_open_enclaves_envelope_says_the_same() -> None:
    quote = td_quote()
    assert verify(wrap(quote)) == verify(quote)


# ---- attributes

_KNOWN = {0, 4, 5, 6, 27, 28, 29, 30, 31, 62, 63}
_WEAK = {28: {"sept-ve-off"}, 29: {"migratable"}, 4: {"profiling"}, 5: {"profiling"}, 6: {"profiling"}}


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_td_attribute_bit_is_known_or_refused(bit: int) -> None:
    quote = td_quote(attributes=(1 << 28) ^ (1 << bit))
    if bit not in _KNOWN:
        with pytest.raises(EvidenceFormatError, match="TDATTRIBUTES has "):
            verify(quote)
        return
    claims = verify(quote)
    assert claims.debug is (bit == 0)
    assert claims.weaknesses == _WEAK.get(bit, set())


@pytest.mark.parametrize("bit", range(64))
def test_t08_each_xfam_bit_is_known_or_refused(bit: int) -> None:
    quote = td_quote(xfam=0x3 ^ (1 << bit))
    if bit in {2, 5, 6, 7, 8, 9, 11, 12, 14, 15, 17, 18, 19}:
        verify(quote)
    else:
        with pytest.raises(EvidenceFormatError, match=r"XFAM (has|is) "):
            verify(quote)


@pytest.mark.parametrize("bit", range(0, 128, 3))
def test_t08_td_attribute_bit_flipped_after_signing_is_refused(bit: int) -> None:
    quote = bytearray(td_quote())
    quote[48 + 120 + bit // 8] ^= 1 << bit % 8
    with pytest.raises((EvidenceSignatureError, EvidenceFormatError)):
        verify(bytes(quote))


@pytest.mark.parametrize("size", [648, 885])
def test_t08_a_service_td_is_told(size: int) -> None:
    assert verify(td_quote(version=5, size=size, mr_service_td=b"\1" * 48)).weaknesses == {"service-td"}


def test_t08_a_service_td_of_the_longest_body_is_told() -> None:
    body = bytearray(td_quote(version=5, size=885))
    for offset in (729, 777, 829, 877):
        changed = bytearray(body)
        changed[54 + offset] = 1
        assert parse_quote(bytes(changed)).weaknesses == {"service-td"}


def test_t08_a_module_that_became_older_is_told() -> None:
    older = bytes((2, 1, 2)).ljust(16, b"\0")
    using = forged(info=lambda value: add_older_level(value, "OutOfDate"))
    claims = verify(td_quote(version=5, size=648, tcb_svn2=older), using)
    assert (claims.tcb_status, claims.weaknesses) == ("UpToDate", {"module-downgraded"})


def add_older_level(value: dict[str, Any], status: str) -> None:
    """TCB info that also knows a module of version 2, with this status."""
    levels = value["tdxModuleIdentities"][0]["tcbLevels"]
    levels.append(levels[0] | {"tcb": {"isvsvn": 2}, "tcbStatus": status})


@both
@pytest.mark.parametrize(
    ("started", "status"),
    [((3, 1, 2), "UpToDate"), ((2, 1, 2), "TDRelaunchAdvised")],
    ids=["up-to-date", "outdated"],
)
def test_a_td_on_a_module_that_was_updated_under_it_should_start_again(
    started: tuple[int, ...], status: str, attributes: int
) -> None:
    using = forged(info=lambda value: add_older_level(value, "OutOfDate"))
    quote = td_quote(version=5, size=648, tcb_svn=bytes(started).ljust(16, b"\0"), attributes=attributes)
    claims = verify(quote, using)
    assert (claims.tcb_status, "module-downgraded" in claims.weaknesses) == (status, False)


@both
def test_t09_a_module_that_was_revoked_must_not_run_now_either(attributes: int) -> None:
    using = forged(info=lambda value: add_older_level(value, "Revoked"))
    older = bytes((2, 1, 2)).ljust(16, b"\0")
    with pytest.raises(RevokedError):
        verify(td_quote(version=5, size=648, tcb_svn2=older, attributes=attributes), using)


@both
def test_t09_a_module_now_that_tcb_info_does_not_know_is_refused(attributes: int) -> None:
    for unknown, error in (((0, 1, 2), TcbError), ((3, 9, 2), EvidenceSignatureError), ((3, 1, 1), TcbError)):
        with pytest.raises(error):
            verify(td_quote(version=5, size=648, tcb_svn2=bytes(unknown).ljust(16, b"\0"), attributes=attributes))


_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


@pytest.mark.parametrize("quoting_enclave", ["UpToDate", "OutOfDate"])
@pytest.mark.parametrize("module", ["UpToDate", "OutOfDate"])
@pytest.mark.parametrize("started", _STATUSES)
def test_statuses_of_then_and_now_converge_as_in_the_library(started: str, module: str, quoting_enclave: str) -> None:
    for now in _STATUSES:

        def info(value: dict[str, Any], now: str = now) -> None:
            newest = value["tcbLevels"][0]
            components = [dict(one) for one in newest["tcb"]["tdxtcbcomponents"]]
            components[2] = {"svn": 1}
            older = newest | {"tcb": newest["tcb"] | {"tdxtcbcomponents": components}, "tcbStatus": started}
            value["tcbLevels"] = [
                newest | {"tcbStatus": now, "advisoryIDs": ["NOW"]},
                older | {"advisoryIDs": ["THEN"]},
            ]
            add_older_level(value, module)

        using = forged(info, lambda value: value["tcbLevels"][0].update(tcbStatus=quoting_enclave))
        then = bytes((2, 1, 1)).ljust(16, b"\0")
        by_library, by_us = (
            verify(td_quote(version=5, size=648, tcb_svn=then, attributes=attributes), using)
            for attributes in (1 << 28, 0)
        )
        assert (by_library.tcb_status, by_library.advisories) == (by_us.tcb_status, by_us.advisories)
        assert by_us.advisories == {"THEN"}


@pytest.mark.parametrize("attributes", [(1 << 28) | 1, 0, (1 << 28) | (1 << 29), (1 << 28) | (1 << 63)])
def test_the_library_is_not_asked_about_what_it_refuses_on_sight(attributes: int) -> None:
    assert answers(parse_quote(td_quote()))
    assert not answers(parse_quote(td_quote(attributes=attributes)))


# ---- the module, and levels


@both
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"mr_signer_seam": b"\1" * 48}, EvidenceSignatureError),
        ({"seam_attributes": 1}, EvidenceSignatureError),
        ({"tcb_svn": bytes((3, 9, 2)).ljust(16, b"\0")}, EvidenceSignatureError),
        ({"tcb_svn": bytes((0, 1, 2)).ljust(16, b"\0")}, TcbError),
        ({"tcb_svn": bytes((3, 1, 1)).ljust(16, b"\0")}, TcbError),
    ],
    ids=["signer", "attributes", "unknown", "below", "component"],
)
def test_t09_a_module_that_tcb_info_does_not_know_is_refused(
    changes: dict[str, Any], error: type, attributes: int
) -> None:
    with pytest.raises(EvidenceError) as caught:
        verify(td_quote(attributes=attributes, **changes))
    assert type(caught.value) is error
    assert caught.value.step.startswith(("I12", "I13"))


@both
def test_t09_a_module_attribute_that_tcb_info_masks_is_refused(attributes: int) -> None:
    def unmask(value: dict[str, Any]) -> None:
        for one in (value["tdxModule"], value["tdxModuleIdentities"][0]):
            one["attributesMask"] = "00" * 8

    with pytest.raises(EvidenceSignatureError, match="SEAMATTRIBUTES"):
        verify(td_quote(attributes=attributes, seam_attributes=1), forged(info=unmask))


@both
@pytest.mark.parametrize("part", ["platform", "module", "quoting enclave"])
@pytest.mark.parametrize("status", ["OutOfDate", "Revoked"])
def test_t09_each_part_lowers_the_status(part: str, status: str, attributes: int) -> None:
    def info(value: dict[str, Any]) -> None:
        levels = value if part == "platform" else value["tdxModuleIdentities"][0]
        if part != "quoting enclave":
            levels["tcbLevels"][0]["tcbStatus"] = status

    def identity(value: dict[str, Any]) -> None:
        if part == "quoting enclave":
            value["tcbLevels"][0]["tcbStatus"] = status

    using, quote = forged(info, identity), td_quote(attributes=attributes)
    if status == "Revoked":
        with pytest.raises(RevokedError):
            verify(quote, using)
    else:
        assert verify(quote, using).tcb_status == status


@both
def test_a_platform_is_outdated_since_the_next_level_came_out(attributes: int) -> None:
    def newer(value: dict[str, Any]) -> None:
        old = value["tcbLevels"][0]
        components = [{"svn": one["svn"] + 1} for one in old["tcb"]["sgxtcbcomponents"]]
        tcb = old["tcb"] | {"sgxtcbcomponents": components}
        value["tcbLevels"] = [{"tcb": tcb, "tcbDate": "2026-10-05T00:00:00Z", "tcbStatus": "UpToDate"}, old]
        old["tcbStatus"] = "OutOfDate"

    claims = verify(td_quote(attributes=attributes), forged(info=newer))
    assert claims.tcb_status == "OutOfDate"
    assert claims.outdated_since is not None
    assert f"{claims.outdated_since:%Y-%m-%d}" == "2026-10-05"
    assert verify(td_quote(attributes=attributes)).outdated_since is None


@both
@pytest.mark.parametrize("which", ["info", "identity"])
def test_t09_collateral_for_sgx_is_refused_for_a_td(which: str, attributes: int) -> None:
    sgx = shared_platform().collateral
    swapped = replace(sgx) if which == "info" else replace(
        collateral(), qe_identity=sgx.qe_identity, qe_identity_signature=sgx.qe_identity_signature
    )  # fmt: skip
    with pytest.raises(CollateralError):
        verify(td_quote(attributes=attributes), swapped)


@both
def test_t09_a_forged_td_quoting_enclave_is_refused(attributes: int) -> None:
    other = replace(TD_QUOTING_ENCLAVE, signer=bytes(32))
    quote = issue_td_quote(
        replace(DOMAIN, attributes=attributes), bytes(64), keys=quoting_keys(), quoting_enclave=other
    )
    with pytest.raises(EvidenceSignatureError) as caught:
        verify(quote)
    assert caught.value.step.startswith("I9")


# ---- whose root, whose key


def test_t07_simulated_tds_are_refused_under_intels_anchor() -> None:
    with pytest.raises(UntrustedRootError, match="SIMULATED"):
        verify_evidence(td_quote(), collateral(), INTEL_TDX, now=NOW)


def test_t07_an_anchor_for_one_kind_vouches_for_no_other() -> None:
    with pytest.raises(UntrustedRootError, match="vouches for simulated alone"):
        verify_evidence(td_quote(), collateral(), shared_platform().anchor, now=NOW)
    tee = FakeTee()
    with pytest.raises(UntrustedRootError, match="vouches for simulated-tdx alone"):
        verify_evidence(tee.issue_evidence(bytes(64)), tee.collateral, ANCHOR, now=NOW)
    for anchor in (INTEL, replace(ANCHOR, tee=Tee.TDX), replace(ANCHOR, tee=Tee.TDX, foreign=True)):
        with pytest.raises(UntrustedRootError):
            verify_evidence(td_quote(), collateral(), anchor, now=NOW)


def test_t01_a_replayed_td_quote_is_refused_at_the_door() -> None:
    binding = Binding(Role.MARBLE, b"key", b"nonce")
    quote = td_quote(data=report_data(role=Role.MARBLE, key=b"key", nonce=b"nonce"))
    claims = verify_evidence(quote, collateral(), ANCHOR, now=NOW, binding=binding)
    assert all(check.made for check in claims.checks)
    for other in (replace(binding, nonce=b"other"), replace(binding, key=b"other")):
        with pytest.raises(BindingError, match="B1"):
            verify_evidence(quote, collateral(), ANCHOR, now=NOW, binding=other)


def test_t03_a_td_quote_of_one_role_is_refused_in_another() -> None:
    quote = td_quote(data=report_data(role=Role.MARBLE, key=b"key"))
    for role in (Role.COORDINATOR, None):
        with pytest.raises(BindingError, match="role"):
            verify_evidence(quote, collateral(), ANCHOR, now=NOW, binding=Binding(role, b"key"))


def test_the_form_without_a_role_is_accepted_only_where_it_is_asked_for() -> None:
    quote = td_quote(data=report_data(role=None, key=b"key"))
    assert verify_evidence(quote, collateral(), ANCHOR, now=NOW, binding=Binding(None, b"key"))
    with pytest.raises(BindingError):
        verify_evidence(quote, collateral(), ANCHOR, now=NOW, binding=Binding(Role.MARBLE, b"key"))


# ---- bytes

QUOTES = [td_quote(version=version, size=size) for version, size in SIZES]


@settings(max_examples=300)
@given(which=st.integers(0, 3), edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), min_size=1))
def test_t13_a_mutated_td_quote_is_answered_in_our_words(which: int, edits: list[tuple[int, int]]) -> None:
    quote = bytearray(QUOTES[which])
    for offset, mask in edits[:4]:
        quote[offset % len(quote)] ^= mask
    with contextlib.suppress(EvidenceError):  # anything else propagates and fails the test
        verify(bytes(quote))


@settings(max_examples=60)
@given(which=st.integers(0, 3), length=st.integers(0, 4000))
def test_t13_a_cut_td_quote_is_refused(which: int, length: int) -> None:
    with pytest.raises(EvidenceFormatError, match="I1"):
        verify(QUOTES[which][: min(length, len(QUOTES[which]) - 1)])


def test_t13_another_outer_certification_data_and_bytes_behind_it_are_refused() -> None:
    quote = bytearray(QUOTES[0])
    at, length = 632 + 4 + 128, int.from_bytes(quote[632:636], "little")
    assert quote[at : at + 2] == b"\6\0"
    for kind in (5, 7):
        other = quote[:at] + kind.to_bytes(2, "little") + quote[at + 2 :]
        with pytest.raises(EvidenceFormatError, match=f"outer certification data of type {kind}; only 6"):
            verify(bytes(other))
    longer = quote[:632] + (length + 1).to_bytes(4, "little") + quote[636 : 636 + length] + b"\1"
    with pytest.raises(EvidenceFormatError, match="1 bytes are left over inside the signature data") as refused:
        verify(bytes(longer))
    assert refused.value.step.startswith("I1 ")


@pytest.mark.parametrize("at", [632, 632 + 4 + 128 + 2, 632 + 4 + 128 + 6 + 448])
@pytest.mark.parametrize("length", [0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
def test_t13_hostile_lengths_of_a_td_quote_are_refused(at: int, length: int) -> None:
    quote = bytearray(QUOTES[0])
    size = 2 if at > 1000 else 4
    quote[at : at + size] = (length & (256**size - 1)).to_bytes(size, "little")
    with pytest.raises(EvidenceFormatError):
        verify(bytes(quote))


@pytest.mark.parametrize(("kind", "size"), [(1, 384), (2, 648), (3, 584), (4, 648), (9, 584), (0, 584), (3, 0)])
def test_t13_a_body_of_another_type_or_size_is_refused(kind: int, size: int) -> None:
    quote = bytearray(QUOTES[1])
    quote[48:54] = kind.to_bytes(2, "little") + size.to_bytes(4, "little")
    with pytest.raises(EvidenceFormatError, match="I1"):
        verify(bytes(quote))
