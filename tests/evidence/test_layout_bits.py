"""Every bit and every byte of the three layouts: known and read, or refused. The tables are written out a second time here."""

from dataclasses import replace

import pytest

from fakes.tee import FakeTee
from fakes.tee_kinds import snp_report, td_quote
from tacit.errors import EvidenceFormatError
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.sgx.report import SgxReport, check_attributes, parse_report
from tacit.evidence.snp.report import (
    check_snp_attributes,
    is_report,
    parse_snp_report,
    product_of,
    tcb_components,
)
from tacit.evidence.tdx.report import TdReport, check_td_attributes, parse_td_report
from tacit.evidence.verify.envelope import unwrap, wrap

SGX = parse_quote(unwrap(FakeTee().issue_evidence(bytes(64)))).report
TD = parse_quote(td_quote()).report
assert isinstance(SGX, SgxReport)
assert isinstance(TD, TdReport)
SGX_RAW, TD_RAW = SGX.raw, TD.raw


def with_byte(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + bytes((value,)) + raw[at + 1 :]


def edges(*ranges: range) -> list[tuple[int, bool]]:
    """The first and last byte of each range and their neighbours, and whether each is inside."""
    inside = {at for one in ranges for at in one}
    return sorted({(at, at in inside) for one in ranges for at in (one[0] - 1, one[0], one[-1], one[-1] + 1)})


# ---- SGX


@pytest.mark.parametrize(("at", "reserved"), edges(range(20, 32), range(96, 128), range(160, 192), range(262, 304)))
def test_reserved_bytes_of_an_sgx_report_are_zero(at: int, reserved: bool) -> None:
    raw = with_byte(SGX_RAW, at, 0x40)
    if reserved:
        with pytest.raises(EvidenceFormatError, match="reserved bytes that are not zero"):
            parse_report(raw)
    else:
        assert parse_report(raw).raw == raw


@pytest.mark.parametrize("size", [0, 383, 385])
def test_an_sgx_report_has_384_bytes(size: int) -> None:
    with pytest.raises(EvidenceFormatError, match=f"has 384 bytes, this one {size}"):
        parse_report(bytes(size))


def test_the_fields_of_an_sgx_report_stand_where_intel_says() -> None:
    raw = bytearray(384)
    for at, value in ((0, 1), (16, 2), (32, 3), (48, 4), (56, 5), (64, 6), (128, 7), (192, 8), (256, 9), (258, 10)):
        raw[at] = value
    for at, value in ((260, 11), (304, 12), (320, 13)):
        raw[at] = value
    one = parse_report(bytes(raw))
    firsts = [one.cpu_svn[0], one.misc_select, one.ext_product_id[0], one.attributes, one.xfrm, one.mr_enclave[0]]
    firsts += [one.mr_signer[0], one.config_id[0], one.product_id, one.security_version, one.config_version]
    assert [*firsts, one.family_id[0], one.report_data[0]] == list(range(1, 14))


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_sgx_attributes_is_known_or_refused(bit: int) -> None:
    # INIT, DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKEN_KEY, CET, KSS, AEXNOTIFY.
    report = replace(SGX, attributes=1 | 1 << bit)
    assert report.debug is (bit == 1)
    if bit in (0, 1, 2, 4, 5, 6, 7, 10):
        check_attributes(report)
    else:
        with pytest.raises(EvidenceFormatError, match="ATTRIBUTES has bits that are not known"):
            check_attributes(report)


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_xfrm_is_known_or_refused(bit: int) -> None:
    # x87, SSE, AVX, MPX (2), AVX-512 (3), PKRU, CET (2), AMX (2).
    report = replace(SGX, xfrm=3 | 1 << bit)
    if bit in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 17, 18):
        check_attributes(report)
    else:
        with pytest.raises(EvidenceFormatError, match="XFRM has bits that are not known"):
            check_attributes(report)


@pytest.mark.parametrize("bit", range(32))
def test_each_bit_of_miscselect_is_known_or_refused(bit: int) -> None:
    report = replace(SGX, misc_select=1 << bit)
    if bit < 2:
        check_attributes(report)
    else:
        with pytest.raises(EvidenceFormatError, match="MISCSELECT has bits that are not known"):
            check_attributes(report)


@pytest.mark.parametrize("xfrm", [0, 1, 2, 4])
def test_x87_and_sse_are_always_on_in_an_enclave(xfrm: int) -> None:
    with pytest.raises(EvidenceFormatError, match="always on"):
        check_attributes(replace(SGX, xfrm=xfrm))


def test_an_enclave_was_initialised() -> None:
    with pytest.raises(EvidenceFormatError, match="never initialised"):
        check_attributes(replace(SGX, attributes=4))


# ---- TDX


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_tdattributes_is_known_or_refused(bit: int) -> None:
    # DEBUG, profiling (3), LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA, PERFMON.
    report = replace(TD, attributes=1 << bit)
    assert report.debug is (bit == 0)
    named = {4: "profiling", 5: "profiling", 6: "profiling", 29: "migratable"}
    weak = {named[bit]} if bit in named else set()
    assert report.weaknesses == weak | (set() if bit == 28 else {"sept-ve-off"})
    if bit in (0, 4, 5, 6, 27, 28, 29, 30, 31, 62, 63):
        check_td_attributes(report)
    else:
        with pytest.raises(EvidenceFormatError, match="TDATTRIBUTES has bits that are not known"):
            check_td_attributes(report)


@pytest.mark.parametrize("bit", range(64))
def test_each_bit_of_xfam_is_known_or_refused(bit: int) -> None:
    # x87, SSE, AVX, AVX-512 (3), PT, PKRU, CET (2), UINTR, LBR, AMX (2), APX.
    report = replace(TD, xfam=3 | 1 << bit)
    if bit in (0, 1, 2, 5, 6, 7, 8, 9, 11, 12, 14, 15, 17, 18, 19):
        check_td_attributes(report)
    else:
        with pytest.raises(EvidenceFormatError, match="XFAM has bits that are not known"):
            check_td_attributes(report)


@pytest.mark.parametrize("xfam", [0, 1, 2, 4])
def test_x87_and_sse_are_always_on_in_a_td(xfam: int) -> None:
    with pytest.raises(EvidenceFormatError, match="always on"):
        check_td_attributes(replace(TD, xfam=xfam))


@pytest.mark.parametrize("size", [0, 583, 585, 647, 649, 884, 886])
def test_a_td_report_has_one_of_three_sizes(size: int) -> None:
    with pytest.raises(EvidenceFormatError, match="584, 648 or 885 bytes"):
        parse_td_report(bytes(size))


@pytest.mark.parametrize(
    ("at", "size", "bound"),
    [(599, 648, False), (600, 648, True), (647, 648, True), (648, 885, False), (728, 885, False), (729, 885, True),
     (784, 885, True), (785, 885, False), (828, 885, False), (829, 885, True), (884, 885, True)],
)  # fmt: skip
def test_a_service_td_is_seen_wherever_it_is_named(at: int, size: int, bound: bool) -> None:
    raw = with_byte(TD_RAW.ljust(size, b"\0"), at, 1)
    raw = raw[:584] + TD_RAW[:16] + raw[600:] if at >= 600 else raw
    assert ("service-td" in parse_td_report(raw).weaknesses) is bound


def test_the_module_that_runs_now_stands_behind_the_first_584_bytes() -> None:
    assert parse_td_report(TD_RAW).tcb_svn2 == TD.tcb_svn
    longer = TD_RAW + bytes(range(16)) + bytes(48)
    assert parse_td_report(longer).tcb_svn2 == bytes(range(16))


@pytest.mark.parametrize("at", range(16))
def test_a_module_that_went_back_in_any_part_is_told(at: int) -> None:
    then = bytes((5,)) * 16
    older = replace(TD, tcb_svn=then, tcb_svn2=with_byte(then, at, 4))
    newer = replace(TD, tcb_svn=then, tcb_svn2=with_byte(then, at, 6))
    assert "module-downgraded" in older.weaknesses
    assert "module-downgraded" not in newer.weaknesses
    assert "module-downgraded" not in replace(TD, tcb_svn=then, tcb_svn2=then).weaknesses


# ---- SNP

ALWAYS = (range(0x4C, 0x50), range(0x18B, 0x1A0), range(0x1EB, 0x1EC), range(0x1EF, 0x1F0), range(0x208, 0x2A0))
RESERVED = {
    2: (*ALWAYS, range(0x188, 0x1A0), range(0x1F8, 0x2A0)),
    3: (*ALWAYS, range(0x1F8, 0x2A0)),
    5: ALWAYS,
}
CASES = [(version, at, inside) for version, ranges in RESERVED.items() for at, inside in edges(*ranges)]


@pytest.mark.parametrize(("version", "at", "reserved"), CASES)
def test_reserved_bytes_of_an_snp_report_are_zero(version: int, at: int, reserved: bool) -> None:
    raw = with_byte(snp_report(version=version), at, 1)
    if reserved:
        with pytest.raises(EvidenceFormatError, match="reserved bytes that are not zero"):
            parse_snp_report(raw)
    else:
        assert parse_snp_report(raw).raw == raw


@pytest.mark.parametrize("at", [0x330, 0x49F])
def test_nothing_stands_behind_the_signature_of_an_snp_report(at: int) -> None:
    with pytest.raises(EvidenceFormatError, match="reserved bytes"):
        parse_snp_report(with_byte(snp_report(), at, 1))


@pytest.mark.parametrize("at", [0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71])
def test_numbers_of_a_signature_have_48_bytes(at: int) -> None:
    with pytest.raises(EvidenceFormatError, match="larger than P-384 allows"):
        parse_snp_report(with_byte(snp_report(), at, 1))
    low = with_byte(snp_report(), 0x2A0 + 47, 0)
    assert parse_snp_report(low).signature[0] < 1 << 376


@pytest.mark.parametrize("version", range(8))
def test_versions_of_a_report_are_two_three_and_five(version: int) -> None:
    raw = with_byte(snp_report(version=5), 0, version)
    assert is_report(raw) is (version in (2, 3, 5))
    if version in (3, 5):
        assert parse_snp_report(raw).cpuid is not None
    elif version == 2:
        with pytest.raises(EvidenceFormatError, match="reserved bytes"):  # a CPUID, which came later
            parse_snp_report(raw)
    else:
        with pytest.raises(EvidenceFormatError, match=f"SNP report version {version} is not known"):
            parse_snp_report(raw)


@pytest.mark.parametrize("algorithm", [0, 2])
def test_a_report_is_signed_with_the_one_algorithm(algorithm: int) -> None:
    with pytest.raises(EvidenceFormatError, match=f"signature algorithm {algorithm} is not known"):
        parse_snp_report(with_byte(snp_report(), 0x34, algorithm))


def test_a_guests_level_is_zero_to_three() -> None:
    for level in range(4):
        report = parse_snp_report(snp_report(vmpl=level))
        check_snp_attributes(report)
        assert report.weaknesses == ({f"vmpl-{level}"} if level else set())
    with pytest.raises(EvidenceFormatError, match="VMPL 4"):
        check_snp_attributes(parse_snp_report(snp_report(vmpl=4)))


def test_bit_17_of_a_policy_is_always_set() -> None:
    with pytest.raises(EvidenceFormatError, match="bit 17 is always 1"):
        check_snp_attributes(parse_snp_report(snp_report(policy=1 << 16)))


def test_the_kind_of_key_has_three_bits_behind_two_others() -> None:
    report = parse_snp_report(snp_report())
    for flags, key in ((0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (28, 7), (31, 7)):
        assert replace(report, flags=flags).signing_key == key


LINES = {
    (0x19, 0x00): "Milan", (0x19, 0x0F): "Milan", (0x19, 0x10): "Genoa", (0x19, 0x1F): "Genoa", (0x19, 0x20): None,
    (0x19, 0x9F): None, (0x19, 0xA0): "Genoa", (0x19, 0xAF): "Genoa", (0x19, 0xB0): None, (0x1A, 0x00): "Turin",
    (0x1A, 0x1F): "Turin", (0x1A, 0x20): None, (0x18, 0x00): None, (0x1B, 0x00): None,
}  # fmt: skip


@pytest.mark.parametrize("cpuid", LINES)
def test_a_product_line_is_told_by_family_and_model(cpuid: tuple[int, int]) -> None:
    assert product_of(cpuid) == LINES[cpuid]


@pytest.mark.parametrize(
    ("product", "places"),
    [
        ("Milan", {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}),
        ("Genoa", {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}),
        ("Turin", {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}),
    ],
)
def test_the_components_of_a_tcb_stand_in_their_places(product: str, places: dict[str, int]) -> None:
    whole = bytes(at + 1 if at in places.values() else 0 for at in range(8))
    assert tcb_components(whole, product) == {name: at + 1 for name, at in places.items()}
    for at in set(range(8)) - set(places.values()):
        with pytest.raises(EvidenceFormatError, match="reserved on"):
            tcb_components(with_byte(whole, at, 1), product)


def test_the_fields_of_an_snp_report_stand_where_amd_says() -> None:
    raw = bytearray(snp_report(version=5))
    for at in (0x04, 0x08, 0x10, 0x20, 0x30, 0x38, 0x40, 0x48, 0x50, 0x90, 0xC0, 0xE0, 0x110, 0x140, 0x160, 0x180):
        raw[at] = at >> 2 & 0xFF or 1
    for at in (0x1A0, 0x1E0, 0x1F0):
        raw[at] = at >> 2 & 0xFF
    one = parse_snp_report(bytes(raw))
    assert [one.guest_svn & 0xFF, one.policy & 0xFF, one.family_id[0], one.image_id[0], one.vmpl] == [1, 2, 4, 8, 12]
    found = [one.current_tcb[0], one.platform_info, one.flags, one.report_data[0], one.measurement[0]]
    assert [value & 0xFF for value in found] == [14, 16, 18, 20, 36]
    rest = [one.host_data, one.id_key_digest, one.author_key_digest, one.report_id, one.report_id_ma, one.reported_tcb]
    assert [value[0] for value in rest] == [48, 56, 68, 80, 88, 96]
    assert [one.chip_id[0], one.committed_tcb[0], one.launch_tcb[0]] == [104, 120, 124]


# ---- the envelope


def test_an_envelope_says_its_version_kind_and_length() -> None:
    whole = wrap(b"\3\0quote")
    assert whole[:16] == b"\1\0\0\0\2\0\0\0\7\0\0\0\0\0\0\0"
    assert unwrap(whole) == b"\3\0quote"
    assert unwrap(b"\3\0quote") == b"\3\0quote"
    for at, value in ((4, 1), (4, 3), (8, 6), (8, 8), (15, 1)):
        with pytest.raises(EvidenceFormatError):
            unwrap(with_byte(whole, at, value))
    with pytest.raises(EvidenceFormatError):
        unwrap(whole[:15])
