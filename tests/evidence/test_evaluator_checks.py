"""Each check of our own evaluator by itself: beside the library another one often refuses first, and hides that it is there."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.tee import NOW, FakeTee, forge_collateral, make_platform, shared_platform
from fakes.tee_kinds import td_quote
from tacit.errors import (
    CollateralError,
    EvidenceError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.claims import Checklist, Tee
from tacit.evidence.intel import evaluator, levels, steps
from tacit.evidence.intel.collateral import (
    IntelCollateral,
    check_validity,
    parse_intel_collateral,
    parse_signed_object,
    parse_time,
    read_collateral,
    render_collateral,
)
from tacit.evidence.intel.library import refusal
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.intel.quote import Quote, parse_quote
from tacit.evidence.simulated import authority
from tacit.evidence.tdx.report import TdReport
from tacit.evidence.verify.envelope import unwrap

PLATFORM = shared_platform()
TEE = FakeTee()
QUOTE = parse_quote(unwrap(TEE.issue_evidence(bytes(64))))
CHAIN = tuple(PLATFORM.pck_chain)


# ---- signatures


def signed_with(begins: bytes) -> tuple[bytes, bytes, bytes]:
    """A key (X ‖ Y), a signature whose s begins so, and what was signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    while True:
        r, s = decode_dss_signature(key.sign(b"message", ec.ECDSA(SHA256())))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if raw[32:].startswith(begins):
            return point, raw, b"message"


def test_a_signature_has_64_bytes_and_no_other_form() -> None:
    point, signature, over = signed_with(b"\0")
    refused = EvidenceSignatureError("refused")
    evaluator.verify_signature(point, signature, over, refused)
    # The same two numbers, written shorter and longer.
    for other in (signature[:32] + signature[33:], signature[:32] + b"\0" + signature[32:], signature[1:], b""):
        with pytest.raises(EvidenceSignatureError, match="^refused$"):
            evaluator.verify_signature(point, other, over, refused)


# ---- chains


def certificate(*, ca: bool, signs: bool, name: str = "someone") -> x509.Certificate:
    """One by the root's key, whose two words about signing others are as told."""
    assert PLATFORM.keys is not None
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only",
         "crl_sign"), False,
    )  # fmt: skip
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(PLATFORM.root.subject)
        .public_key(PLATFORM.keys.root.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=signs, **usage), critical=True)
        .sign(PLATFORM.keys.root, SHA256())
    )


@pytest.mark.parametrize(("ca", "signs"), [(True, False), (False, True), (False, False)])
def test_who_signs_others_says_so_twice(ca: bool, signs: bool) -> None:
    assert not evaluator._is_ca(certificate(ca=ca, signs=signs))
    assert evaluator._is_ca(certificate(ca=True, signs=True))


def test_a_chain_ends_at_the_pinned_root() -> None:
    evaluator._verify_chain(CHAIN, PLATFORM.root, "PCK")
    with pytest.raises(UntrustedRootError, match="does not end at the pinned root"):
        evaluator._verify_chain((*CHAIN[:-1], PLATFORM.pck), PLATFORM.root, "PCK")


def test_a_chain_is_more_than_the_root() -> None:
    with pytest.raises(UntrustedRootError, match="does not end at the pinned root"):
        evaluator._verify_chain((PLATFORM.root,), PLATFORM.root, "PCK")


def test_a_leaf_is_no_ca() -> None:
    with pytest.raises(UntrustedRootError, match="its leaf is a CA"):
        evaluator._verify_chain((PLATFORM.pck_ca, PLATFORM.root), PLATFORM.root, "PCK")


def test_a_chain_through_one_that_is_no_ca_is_refused() -> None:
    with pytest.raises(UntrustedRootError, match="is no CA"):
        evaluator._verify_chain((PLATFORM.pck, PLATFORM.tcb_signer, PLATFORM.root), PLATFORM.root, "PCK")


# ---- lists


def test_a_list_is_of_its_issuers_name_and_key() -> None:
    collateral = TEE.collateral
    evaluator._verify_crl(collateral.root_ca_crl, PLATFORM.root, "root")
    with pytest.raises(CollateralError, match="the PCK CRL is not its issuer's: another key signed it"):
        evaluator._verify_crl(collateral.root_ca_crl, PLATFORM.pck_ca, "PCK")
    assert PLATFORM.keys is not None
    namesake = authority.Signer(certificate(ca=True, signs=True), PLATFORM.keys.root)
    another_name = authority.issue_crl(namesake, begin=NOW, end=NOW + timedelta(days=1))
    with pytest.raises(CollateralError, match="another key signed it"):
        evaluator._verify_crl(another_name, PLATFORM.root, "root")


def test_a_list_that_another_key_signed_in_the_same_name_is_refused() -> None:
    theirs = authority.Signer(PLATFORM.root, ec.generate_private_key(ec.SECP256R1()))
    forged = authority.issue_crl(theirs, begin=NOW, end=NOW + timedelta(days=1))
    with pytest.raises(CollateralError, match="the root CRL is not its issuer's: another key signed it"):
        evaluator._verify_crl(forged, PLATFORM.root, "root")
    with pytest.raises(CollateralError, match="the root CRL is not its issuer's: another key signed it"):
        evaluator._check_revocation(CHAIN, replace(TEE.collateral, root_ca_crl=forged), PLATFORM.root)


def test_every_certificate_that_was_used_is_looked_up() -> None:
    for words in (
        {"revoked_by_pck_ca": [PLATFORM.pck.serial_number]},
        {"revoked_by_root": [PLATFORM.pck_ca.serial_number]},
        {"revoked_by_root": [PLATFORM.tcb_signer.serial_number]},
    ):
        revoking = forge_collateral(PLATFORM, **words)  # type: ignore[arg-type]
        for _ in range(2):  # what passed before, and what was refused before, decide nothing
            evaluator._check_revocation(CHAIN, TEE.collateral, PLATFORM.root)
            with pytest.raises(RevokedError, match="was revoked"):
                evaluator._check_revocation(CHAIN, revoking, PLATFORM.root)


# ---- dates


def test_each_part_has_to_be_in_force_and_the_earliest_end_is_told() -> None:
    collateral = TEE.collateral
    windows = read_collateral(collateral).windows
    assert len(windows) == 10  # 6 certificates, 2 lists, 2 texts
    end = check_validity(CHAIN, PLATFORM.root, collateral, now=NOW)
    assert end == min(one[2] for one in windows)
    for late in (end, end + timedelta(days=1)):
        with pytest.raises(EvidenceError, match="expired"):
            check_validity(CHAIN, PLATFORM.root, collateral, now=late)


# ---- texts


def forged(**changes: Any) -> IntelCollateral:
    return forge_collateral(PLATFORM, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "TDX"}, "TCB info is for 'TDX' version 3"),
        ({"version": 2}, "TCB info is for 'SGX' version 2"),
        ({"fmspc": "00" * 6}, "its fmspc is not"),
        ({"pceId": "ffff"}, "its pceId is not"),
    ],
)
def test_tcb_info_is_for_this_kind_and_this_platform(change: dict[str, Any], message: str) -> None:
    read = read_collateral(forged(info=lambda value: value.update(change)))
    with pytest.raises(CollateralError, match=message):
        evaluator.check_tcb_info_fits(read.tcb_info, parse_pck_extension(CHAIN[0]), Tee.SGX)


def collateral_file() -> dict[str, Any]:
    found = json.loads(render_collateral(TEE.collateral))
    assert isinstance(found, dict)
    return found


def test_a_collateral_file_is_read_as_it_was_written() -> None:
    assert parse_intel_collateral(collateral_file()) == TEE.collateral
    assert render_collateral(TEE.collateral).startswith(b'{\n "pck_crl_issuer_chain"')
    assert parse_intel_collateral(collateral_file() | {"pck_certificate_chain": None}) == TEE.collateral


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pck_certificate_chain": "x"}, "the fields pck_certificate_chain are missing or unknown"),
        ({"more": ""}, "the fields more are missing or unknown"),
        ({"tcb_info": 3}, "tcb_info is a string, this is int"),
        ({"root_ca_crl": "0g"}, "root_ca_crl, pck_crl, tcb_info_signature, qe_identity_signature are hex"),
    ],
)
def test_a_collateral_file_of_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CollateralError, match=message):
        parse_intel_collateral(collateral_file() | change)
    lacking = collateral_file()
    del lacking["pck_crl"]
    with pytest.raises(CollateralError, match="the fields pck_crl are missing or unknown"):
        parse_intel_collateral(lacking)


@pytest.mark.parametrize("text", ["2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z"])
def test_a_time_that_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(CollateralError, match="it is not a time: "):
        parse_time(text, "it")


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T00:00:00+00:00", " 2026-01-01T00:00:00Z", 7, None])
def test_a_time_of_another_form_is_refused(text: object) -> None:
    with pytest.raises(CollateralError, match="it is not a time like 2026-11-01T00:00:00Z"):
        parse_time(text, "it")


def test_what_is_signed_is_an_object() -> None:
    assert parse_signed_object('{"a": 1}', "it") == {"a": 1}
    with pytest.raises(CollateralError, match="it is not a JSON object"):
        parse_signed_object("[]", "it")


def test_each_list_is_named_by_whose_it_is() -> None:
    names = [name for name, _, _ in read_collateral(TEE.collateral).windows]
    assert names[-4:] == ["the root CRL", "the PCK CRL", "TCB info", "QE identity"]
    for field, name in (("root_ca_crl", "root"), ("pck_crl", "PCK")):
        with pytest.raises(CollateralError, match=f"the {name} CRL of the collateral cannot be used"):
            read_collateral(replace(TEE.collateral, **{field: b"none"}))


# ---- the quoting enclave


def identity() -> dict[str, Any]:
    return read_collateral(TEE.collateral).qe_identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": QUOTE.qe_report.attributes | 2}, "a debug enclave"),
        ({"mr_signer": bytes(32)}, "signed by another"),
        ({"product_id": 99}, "another product id"),
        ({"misc_select": 0xFFFFFFFF}, "miscselect are not those"),
        ({"attributes": 0x1 | 1 << 40}, "attributes are not those"),
    ],
)
def test_the_quoting_enclave_is_the_one_of_qe_identity(change: dict[str, Any], message: str) -> None:
    evaluator._check_quoting_enclave(QUOTE.qe_report, identity())
    with pytest.raises(EvidenceSignatureError, match=message):
        evaluator._check_quoting_enclave(replace(QUOTE.qe_report, **change), identity())


def test_a_debug_quoting_enclave_is_refused_even_where_qe_identity_would_let_it_pass() -> None:
    lax = identity() | {"attributes": "00" * 16, "attributesMask": "00" * 16}
    with pytest.raises(EvidenceSignatureError, match="a debug enclave"):
        evaluator._check_quoting_enclave(replace(QUOTE.qe_report, attributes=QUOTE.qe_report.attributes | 2), lax)


def test_the_attestation_key_is_bound_whole() -> None:
    evaluator._check_key_binding(QUOTE)
    bound = QUOTE.qe_report.report_data
    for data in (bytes(64), bound[:32] + b"\1" * 32, bound[:63] + b"\1", b"\1" + bound[1:]):
        report = replace(QUOTE.qe_report, report_data=data)
        with pytest.raises(EvidenceSignatureError):
            evaluator._check_key_binding(replace(QUOTE, qe_report=report))


# ---- levels


def td(**changes: Any) -> Quote:
    return parse_quote(td_quote(**changes))


def report_of(quote: Quote) -> TdReport:
    assert isinstance(quote.report, TdReport)
    return quote.report


def test_the_statuses_that_are_reported_are_intels() -> None:
    assert {
        "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
        "OutOfDateConfigurationNeeded", "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded",
    } == levels.TCB_STATUSES  # fmt: skip


OUT = "OutOfDate"
CONVERGED = {
    ("UpToDate", "UpToDate"): "UpToDate",
    ("SWHardeningNeeded", "UpToDate"): "SWHardeningNeeded",
    ("ConfigurationNeeded", "UpToDate"): "ConfigurationNeeded",
    ("OutOfDate", "UpToDate"): "OutOfDate",
    ("UpToDate", OUT): "OutOfDate",
    ("SWHardeningNeeded", OUT): "OutOfDate",
    ("ConfigurationNeeded", OUT): "OutOfDateConfigurationNeeded",
    ("ConfigurationAndSWHardeningNeeded", OUT): "OutOfDateConfigurationNeeded",
    ("OutOfDate", OUT): "OutOfDate",
    ("OutOfDateConfigurationNeeded", OUT): "OutOfDateConfigurationNeeded",
}


@pytest.mark.parametrize(("platform", "part"), CONVERGED)
def test_statuses_converge_as_intels_table_says(platform: str, part: str) -> None:
    assert levels.converge(platform, part) == CONVERGED[platform, part]


@pytest.mark.parametrize(("platform", "part"), [("Revoked", "UpToDate"), ("UpToDate", "Revoked"), ("Revoked", OUT)])
def test_revoked_converges_to_nothing(platform: str, part: str) -> None:
    with pytest.raises(RevokedError):
        levels.converge(platform, part)


def test_a_platform_alone_that_was_revoked_is_refused() -> None:
    # Of the module that runs now there may be no other level to converge with.
    with pytest.raises(RevokedError, match="of the platform was revoked"):
        levels._converged([levels.Level("Revoked", frozenset(), None)])


RELAUNCH = {
    ("OutOfDate", "UpToDate"): "TDRelaunchAdvised",
    ("OutOfDate", "SWHardeningNeeded"): "TDRelaunchAdvised",
    ("OutOfDate", "ConfigurationNeeded"): "TDRelaunchAdvisedConfigurationNeeded",
    ("OutOfDateConfigurationNeeded", "UpToDate"): "TDRelaunchAdvisedConfigurationNeeded",
    ("OutOfDate", "OutOfDate"): "OutOfDate",
    ("OutOfDateConfigurationNeeded", "OutOfDateConfigurationNeeded"): "OutOfDateConfigurationNeeded",
    ("UpToDate", "OutOfDate"): "UpToDate",
    ("UpToDate", "UpToDate"): "UpToDate",
}


@pytest.mark.parametrize(("started", "now"), RELAUNCH)
def test_a_module_that_was_updated_under_a_td_advises_to_start_again(started: str, now: str) -> None:
    assert levels._relaunch_status(started, now) == RELAUNCH[started, now]


def module(**changes: Any) -> dict[str, Any]:
    whole = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8, **changes}
    return {"tdxModule": whole, "tdxModuleIdentities": [{"id": "TDX_03", **whole}]}


def test_the_tdx_module_is_judged_by_its_own_identity() -> None:
    one, three = bytes(16), bytes((0, 3)) + bytes(14)
    for svn in (one, three):
        levels.check_tdx_module(replace(report_of(td()), tcb_svn=svn), module())
        with pytest.raises(EvidenceSignatureError, match="signed by another"):
            levels.check_tdx_module(replace(report_of(td()), tcb_svn=svn), module(mrsigner="11" * 48))
    four = replace(report_of(td()), tcb_svn=bytes((0, 4)) + bytes(14))
    with pytest.raises(EvidenceSignatureError, match="knows no TDX module TDX_04"):
        levels.check_tdx_module(four, module())


def test_the_tdx_modules_attributes_are_those_of_tcb_info_and_none() -> None:
    report = replace(report_of(td()), tcb_svn=bytes(16))
    with pytest.raises(EvidenceSignatureError, match="are not those of TCB info"):
        levels.check_tdx_module(report, module(attributes="01" + "00" * 7))
    with pytest.raises(EvidenceSignatureError, match="none are known"):
        levels.check_tdx_module(replace(report, seam_attributes=1), module(attributesMask="00" * 8))


def info_with(*steps: tuple[list[int], int, list[int], str]) -> dict[str, Any]:
    """TCB info of a TDX platform with these levels: SGX components, PCE version, TDX components, status."""
    return {
        "tcbEvaluationDataNumber": 7,
        "tdxModuleIdentities": [
            {
                "id": "TDX_03",
                "tcbLevels": [
                    {"tcb": {"isvsvn": 4}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
                    {
                        "tcb": {"isvsvn": 2},
                        "tcbDate": "2025-01-01T00:00:00Z",
                        "tcbStatus": "OutOfDate",
                        "advisoryIDs": ["INTEL-SA-MODULE"],
                    },
                ],
            }
        ],
        "tcbLevels": [
            {
                "tcb": {
                    "sgxtcbcomponents": [{"svn": one} for one in sgx],
                    "pcesvn": pce,
                    "tdxtcbcomponents": [{"svn": one} for one in tdx],
                },
                "tcbDate": "2026-01-01T00:00:00Z",
                "tcbStatus": status,
                "advisoryIDs": [f"INTEL-SA-{status}"],
            }
            for sgx, pce, tdx, status in steps
        ],
    }


def found(quote: Quote, info: dict[str, Any], qe: dict[str, Any] | None = None) -> levels.State:
    shown = identity() | {"tcbEvaluationDataNumber": 9} | (qe or {})
    read = replace(read_collateral(TEE.collateral), tcb_info=info, qe_identity=shown)
    return levels.find_state(quote, read, parse_pck_extension(CHAIN[0]))


HAVE = parse_pck_extension(CHAIN[0])
SGX_PART = list(HAVE.components)
ZEROS = [0] * 16
TOP = [255] * 16


def with_svn(*svn: int, now: tuple[int, ...] | None = None) -> Quote:
    """A TD whose module has these first two numbers, and 5 in all others."""
    first = bytes(svn) + b"\5" * 14
    second = first if now is None else bytes(now) + b"\5" * 14
    quote = td()
    return replace(quote, report=replace(report_of(quote), tcb_svn=first, tcb_svn2=second))


def test_a_module_without_a_version_of_its_own_is_judged_by_all_components() -> None:
    fits = info_with((SGX_PART, HAVE.pce_svn, [3, 0] + [5] * 14, "UpToDate"), (ZEROS, 0, ZEROS, "OutOfDate"))
    assert found(with_svn(3, 0), fits).tcb_status == "UpToDate"
    assert found(with_svn(2, 0), fits).tcb_status == "OutOfDate"
    too_high = info_with((SGX_PART, HAVE.pce_svn, [3, 1] + [5] * 14, "UpToDate"), (ZEROS, 0, ZEROS, "OutOfDate"))
    assert found(with_svn(3, 0), too_high).tcb_status == "OutOfDate"


def test_a_module_with_a_version_is_judged_by_its_identity_and_not_by_the_first_two_components() -> None:
    info = info_with((SGX_PART, HAVE.pce_svn, [255, 255] + [5] * 14, "UpToDate"), (ZEROS, 0, ZEROS, "OutOfDate"))
    assert found(with_svn(4, 3), info).tcb_status == "UpToDate"
    old = found(with_svn(3, 3), info)
    assert old.tcb_status == "OutOfDate"
    assert old.advisories == {"INTEL-SA-UpToDate", "INTEL-SA-MODULE"}
    with pytest.raises(TcbError, match="the TDX module is older"):
        found(with_svn(1, 3), info)
    # The third component counts.
    strict = info_with((SGX_PART, HAVE.pce_svn, [0, 0, 6] + [5] * 13, "UpToDate"), (ZEROS, 0, ZEROS, "OutOfDate"))
    assert found(with_svn(4, 3), strict).tcb_status == "OutOfDate"


def test_the_module_that_runs_now_is_judged_too() -> None:
    info = info_with((SGX_PART, HAVE.pce_svn, [0, 0] + [5] * 14, "UpToDate"), (ZEROS, 0, ZEROS, "OutOfDate"))
    assert found(with_svn(3, 3, now=(4, 3)), info).tcb_status == "TDRelaunchAdvised"
    assert found(with_svn(3, 3), info).tcb_status == "OutOfDate"
    with pytest.raises(TcbError, match="the TDX module is older"):
        found(with_svn(4, 3, now=(1, 3)), info)
    outdated_qe = {"tcbLevels": [{"tcb": {"isvsvn": 0}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "OutOfDate"}]}
    assert found(with_svn(3, 3, now=(4, 3)), info, outdated_qe).tcb_status == "OutOfDate"


def test_every_component_and_the_pce_have_to_be_reached() -> None:
    low = (ZEROS, 0, ZEROS, "OutOfDate")
    for index in range(16):
        needed = [value + (at == index) for at, value in enumerate(SGX_PART)]
        assert found(with_svn(4, 3), info_with((needed, 0, ZEROS, "UpToDate"), low)).tcb_status == "OutOfDate"
    assert found(with_svn(4, 3), info_with((ZEROS, HAVE.pce_svn + 1, ZEROS, "UpToDate"), low)).tcb_status == "OutOfDate"
    assert found(with_svn(4, 3), info_with((SGX_PART, HAVE.pce_svn, ZEROS, "UpToDate"), low)).tcb_status == "UpToDate"
    with pytest.raises(TcbError, match="the platform is older"):
        found(with_svn(4, 3), info_with((TOP, 0, ZEROS, "UpToDate")))


def test_the_order_of_levels_is_not_trusted() -> None:
    low, high = (ZEROS, 0, ZEROS, "OutOfDate"), (SGX_PART, HAVE.pce_svn, ZEROS, "UpToDate")
    assert found(with_svn(4, 3), info_with(low, high)).tcb_status == "UpToDate"


def test_what_the_quoting_enclave_says_counts_with_its_advisories_and_its_number() -> None:
    info = info_with((ZEROS, 0, ZEROS, "UpToDate"))
    level = {
        "tcb": {"isvsvn": 0},
        "tcbDate": "2025-01-01T00:00:00Z",
        "tcbStatus": "OutOfDate",
        "advisoryIDs": ["INTEL-SA-QE"],
    }
    newer = {"tcb": {"isvsvn": 999}, "tcbDate": "2026-02-01T00:00:00Z", "tcbStatus": "UpToDate"}
    state = found(with_svn(4, 3), info, {"tcbLevels": [newer, level]})
    assert (state.tcb_status, state.advisories) == ("OutOfDate", {"INTEL-SA-UpToDate", "INTEL-SA-QE"})
    assert state.outdated_since is not None
    assert f"{state.outdated_since:%Y-%m-%d}" == "2026-02-01"
    assert state.tcb_evaluation_number == 7
    assert found(with_svn(4, 3), info, {"tcbEvaluationDataNumber": 3}).tcb_evaluation_number == 3


# ---- the library's words


@pytest.mark.parametrize(
    ("text", "error", "step"),
    [
        ("something about a CRL", CollateralError, "I6"),
        ("CertRevoked", RevokedError, "I6"),
        ("TCB status is invalid: Revoked", RevokedError, "I13"),
        ("fmspc mismatch", CollateralError, "I7"),
    ],
)
def test_the_librarys_words_become_our_errors(text: str, error: type[EvidenceError], step: str) -> None:
    refused = refusal(text)
    assert type(refused) is error
    assert refused.step is not None
    assert refused.step.startswith(step)
    assert type(refusal("words that nobody has seen")) is EvidenceError


# ---- all of it: each step refuses what only that step can see

TD_QUOTE = parse_quote(td_quote())
TD_COLLATERAL = PLATFORM.collateral_for(Tee.SIMULATED_TDX)
assert isinstance(TD_COLLATERAL, IntelCollateral)


def evaluate(
    quote: Quote = QUOTE,
    *,
    chain: tuple[x509.Certificate, ...] = CHAIN,
    collateral: IntelCollateral = TEE.collateral,
) -> tuple[evaluator.Verdict, Checklist]:
    done = Checklist(steps.SGX_STEPS if quote.tee is Tee.SGX else steps.TDX_STEPS)
    return evaluator.evaluate_quote(quote, chain, collateral, PLATFORM.root, done)[0], done


def other_signature() -> bytes:
    assert PLATFORM.keys is not None
    return authority.sign(PLATFORM.keys.attestation, b"something else")


STRANGER = make_platform()
WRONG: dict[str, tuple[str, Callable[[], object]]] = {
    "another root's chain": ("I5", lambda: evaluate(chain=(*STRANGER.pck_chain[:2], PLATFORM.root))),
    "a chain whose leaf another signed": ("I5", lambda: evaluate(chain=(STRANGER.pck, *CHAIN[1:]))),
    "a revoked platform": (
        "I6", lambda: evaluate(collateral=forged(revoked_by_pck_ca=[PLATFORM.pck.serial_number]))
    ),
    "TCB info that was altered": (
        "I7", lambda: evaluate(collateral=replace(TEE.collateral, tcb_info_signature=other_signature()))
    ),
    "TCB info of another platform": (
        "I7", lambda: evaluate(collateral=forged(info=lambda value: value.update(fmspc="00" * 6)))
    ),
    "TCB info of the other kind": (
        "I7", lambda: evaluate(collateral=forged(info=lambda value: value.update(id="TDX")))
    ),
    "QE identity that was altered": (
        "I8", lambda: evaluate(collateral=replace(TEE.collateral, qe_identity_signature=other_signature()))
    ),
    "QE identity of the other kind": (
        "I8", lambda: evaluate(collateral=forged(identity=lambda value: value.update(id="TD_QE")))
    ),
    "a quoting enclave that the platform did not sign": (
        "I9", lambda: evaluate(replace(QUOTE, qe_signature=other_signature()))
    ),
    "another quoting enclave": (
        "I9", lambda: evaluate(collateral=forged(identity=lambda value: value.update(mrsigner="11" * 32)))
    ),
    "a key that the quoting enclave does not bind": (
        "I10", lambda: evaluate(replace(QUOTE, qe_auth_data=QUOTE.qe_auth_data + b"!"))
    ),
    "a quote that its key did not sign": ("I11", lambda: evaluate(replace(QUOTE, signature=other_signature()))),
    "another TDX module": (
        "I12",
        lambda: evaluate(
            replace(TD_QUOTE, report=replace(report_of(TD_QUOTE), mr_signer_seam=b"\1" * 48)), collateral=TD_COLLATERAL
        ),
    ),
    "a level that nobody knows": (
        "I13", lambda: evaluate(collateral=forged(info=lambda value: value["tcbLevels"][0].update(tcbStatus="Bogus")))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_our_evaluator_alone_refuses_it_in_its_step(name: str) -> None:
    step, act = WRONG[name]
    with pytest.raises(EvidenceError) as refused:
        act()
    assert refused.value.step is not None
    assert refused.value.step.split()[0] == step


@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_our_evaluator_makes_every_step_over_what_it_says(kind: str) -> None:
    quote, collateral = (QUOTE, TEE.collateral) if kind == "sgx" else (TD_QUOTE, TD_COLLATERAL)
    verdict, done = evaluate(quote, collateral=collateral)
    assert (verdict.tcb_status, verdict.hardware_id) == ("UpToDate", HAVE.ppid)
    made = {one.number: one.input_sha256 for one in done.checks()}
    missing = {number for number, digest in made.items() if digest is None}
    assert missing == {"I1", "I2", "I3", "I4"}  # the caller's
    chain = b"".join(one.public_bytes(Encoding.DER) for one in CHAIN)
    assert made["I5"] == sha256(chain).digest()
    assert made["I6"] == sha256(collateral.root_ca_crl + collateral.pck_crl).digest()
    assert made["I7"] == sha256(collateral.tcb_info.encode()).digest()
    assert made["I8"] == sha256(collateral.qe_identity.encode()).digest()
    assert made["I9"] == sha256(quote.qe_report.raw).digest()
    assert made["I10"] == sha256(quote.attestation_key + quote.qe_auth_data).digest()
    assert made["I11"] == sha256(quote.signed).digest()
    assert made.get("I12") == (sha256(quote.report.raw[:128]).digest() if kind == "tdx" else None)
    assert made["I13"] == sha256((collateral.tcb_info + collateral.qe_identity).encode()).digest()
