"""Each check of our own evaluator by itself: beside the library another one often refuses first, and hides that it is there."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes.tee import NOW, FakeTee, forge_collateral, shared_platform
from fakes.tee_kinds import td_quote
from tacit.errors import (
    CollateralError,
    EvidenceError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.claims import Tee
from tacit.evidence.intel import evaluator, levels
from tacit.evidence.intel.collateral import IntelCollateral, check_validity, read_collateral
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


def test_every_certificate_that_was_used_is_looked_up() -> None:
    for words, chains in (
        ({"revoked_by_pck_ca": [PLATFORM.pck.serial_number]}, (CHAIN,)),
        ({"revoked_by_root": [PLATFORM.pck_ca.serial_number]}, (CHAIN,)),
        ({"revoked_by_root": [PLATFORM.tcb_signer.serial_number]}, (CHAIN, (PLATFORM.tcb_signer, PLATFORM.root))),
    ):
        with pytest.raises(RevokedError, match="was revoked"):
            evaluator._check_revocation(chains, forge_collateral(PLATFORM, **words), PLATFORM.root)  # type: ignore[arg-type]
        evaluator._check_revocation(chains, TEE.collateral, PLATFORM.root)


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
