"""Each rule of appraisal, alone and in order."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tacit.errors import (
    AppraisalError,
    DebugNotAllowedError,
    HardwareError,
    MeasurementError,
    SignerError,
    TcbStatusError,
    UncheckedError,
    WeaknessError,
    WrongTeeError,
)
from tacit.evidence.claims import REGISTERS, Check, Claims, Tee
from tacit.manifest import Appraisal, Package, Unattested, appraise

CLAIMS = Claims(
    tee=Tee.SIMULATED,
    measurement=b"\x11" * 32,
    signer=b"\x22" * 32,
    product_id=2,
    security_version=3,
    debug=False,
    report_data=bytes(64),
    tcb_status="UpToDate",
    advisories=frozenset(),
    tcb_evaluation_number=1,
    hardware_id=bytes(16),
    expires=datetime(2027, 1, 1, tzinfo=UTC),
    checks=(),
)
BY_MEASUREMENT = Package(tee="simulated", unique_id=CLAIMS.measurement)
BY_SIGNER = Package(tee="simulated", signer_id=CLAIMS.signer, product_id=2, security_version=3)


@pytest.mark.parametrize("package", [BY_MEASUREMENT, BY_SIGNER])
def test_claims_that_fit_are_allowed(package: Package) -> None:
    appraisal = appraise(CLAIMS, package)
    assert (appraisal.claims, appraisal.package) == (CLAIMS, package)


def test_a_refusal_shows_both_sides() -> None:
    other, register = b"\x10" * 32, {"MRTD": b"\x11" * 48}
    td = replace(CLAIMS, tee=Tee.SIMULATED_TDX, registers=register)
    for claims, package, told in (
        (CLAIMS, replace(BY_MEASUREMENT, unique_id=other), f"measurement is {'11' * 32}, the package's UniqueID is {'10' * 32}"),
        (CLAIMS, replace(BY_MEASUREMENT, unique_id=other[1:]), "UniqueID is no digest (64 hexadecimal digits are needed)"),
        (CLAIMS, replace(BY_SIGNER, signer_id=other), f"signer is {'22' * 32}, the package's SignerID is {'10' * 32}"),
        (td, Package(tee="simulated-tdx", measurements={"MRTD": b"\x12" * 48}), f"the package's Measurements say {'12' * 48}"),
        (td, Package(tee="simulated-tdx", measurements={"MRTD": b""}), "the package's Measurements say no hexadecimal text"),
    ):  # fmt: skip
        with pytest.raises(AppraisalError) as refused:
            appraise(claims, package)
        assert told in str(refused.value)


def test_what_is_never_accepted_is_not_offered() -> None:
    package = replace(BY_SIGNER, accepted_tcb_statuses=("Revoked", "SWHardeningNeeded"))
    for status in ("Revoked", "OutOfDate"):
        with pytest.raises(TcbStatusError, match=r"accepts UpToDate, SWHardeningNeeded$"):
            appraise(replace(CLAIMS, tcb_status=status), package)


def test_a_newer_security_version_is_allowed() -> None:
    assert appraise(replace(CLAIMS, security_version=4), BY_SIGNER)


@pytest.mark.parametrize(
    ("claims", "package", "error"),
    [
        ({"tee": Tee.SGX}, BY_MEASUREMENT, WrongTeeError),
        ({}, replace(BY_MEASUREMENT, tee=None), WrongTeeError),
        ({}, replace(BY_MEASUREMENT, tee="sgx"), WrongTeeError),
        ({}, replace(BY_MEASUREMENT, tee="Simulated"), WrongTeeError),
        ({"measurement": b"\x10" + b"\x11" * 31}, BY_MEASUREMENT, MeasurementError),
        ({"measurement": b""}, replace(BY_MEASUREMENT, unique_id=b""), MeasurementError),
        ({}, replace(BY_MEASUREMENT, unique_id=b"\x11" * 31), MeasurementError),
        ({"signer": b"\x23" * 32}, BY_SIGNER, SignerError),
        ({"signer": b""}, replace(BY_SIGNER, signer_id=b""), SignerError),
        ({"product_id": 3}, BY_SIGNER, SignerError),
        ({"product_id": 0}, BY_SIGNER, SignerError),
        ({"security_version": 2}, BY_SIGNER, SignerError),
        ({"tcb_status": "OutOfDate"}, BY_SIGNER, TcbStatusError),
        ({"tcb_status": "uptodate"}, BY_SIGNER, TcbStatusError),
        ({"tcb_status": ""}, BY_SIGNER, TcbStatusError),
    ],
)
def test_claims_that_do_not_fit_are_refused(claims: dict[str, object], package: Package, error: type) -> None:
    with pytest.raises(error):
        appraise(replace(CLAIMS, **claims), package)


def test_sgx_evidence_fits_a_package_that_names_no_tee() -> None:
    assert appraise(replace(CLAIMS, tee=Tee.SGX), replace(BY_SIGNER, tee=None))


def test_t08_a_debug_enclave_is_refused_unless_the_package_says_debug() -> None:
    with pytest.raises(DebugNotAllowedError):
        appraise(replace(CLAIMS, debug=True), BY_SIGNER)
    assert appraise(replace(CLAIMS, debug=True), replace(BY_SIGNER, debug=True))


def test_t08_a_debug_package_allows_no_other_enclave() -> None:
    with pytest.raises(DebugNotAllowedError, match="take Debug out"):
        appraise(CLAIMS, replace(BY_SIGNER, debug=True))


@pytest.mark.parametrize(
    "package",
    [
        Package(tee="simulated"),
        Package(tee="simulated", debug=True),
        Package(tee="simulated", product_id=2, security_version=1),
    ],
)
def test_t19_a_package_that_names_no_software_allows_nothing(package: Package) -> None:
    with pytest.raises(MeasurementError, match="allows nothing"):
        appraise(replace(CLAIMS, debug=package.debug), package)


@pytest.mark.parametrize(
    ("tee", "status", "listed", "allowed"),
    [
        ("sgx", "SWHardeningNeeded", None, True),
        ("sgx", "SWHardeningNeeded", (), False),
        ("sgx", "ConfigurationNeeded", None, False),
        ("sgx", "ConfigurationNeeded", ("ConfigurationNeeded",), True),
        ("sgx", "SWHardeningNeeded", ("ConfigurationNeeded",), False),
        ("sgx", "UpToDate", (), True),
        ("sgx", "Revoked", ("Revoked",), False),
        ("simulated", "SWHardeningNeeded", None, False),
        ("simulated", "SWHardeningNeeded", ("SWHardeningNeeded",), True),
    ],
)
def test_t19_tcb_statuses(tee: str, status: str, listed: tuple[str, ...] | None, allowed: bool) -> None:
    claims = replace(CLAIMS, tee=Tee(tee), tcb_status=status)
    package = replace(BY_SIGNER, tee=tee, accepted_tcb_statuses=listed)
    if allowed:
        assert appraise(claims, package)
        return
    with pytest.raises(TcbStatusError):
        appraise(claims, package)


@pytest.mark.parametrize(
    ("listed", "allowed"),
    [(None, True), (("INTEL-SA-1", "INTEL-SA-2"), True), (("INTEL-SA-1",), False), ((), False)],
)
def test_t19_advisories(listed: tuple[str, ...] | None, allowed: bool) -> None:
    advisories = frozenset({"INTEL-SA-1", "INTEL-SA-2"})
    claims = replace(CLAIMS, tee=Tee.SGX, tcb_status="SWHardeningNeeded", advisories=advisories)
    package = replace(BY_SIGNER, tee="sgx", accepted_advisories=listed)
    if allowed:
        assert appraise(claims, package)
        return
    with pytest.raises(TcbStatusError, match="INTEL-SA-2"):
        appraise(claims, package)


def test_an_appraisal_is_made_by_appraise_alone() -> None:
    with pytest.raises(AppraisalError):
        Appraisal(CLAIMS, BY_SIGNER)
    with pytest.raises(AppraisalError):
        replace(appraise(CLAIMS, BY_SIGNER), made_by=None)


def test_an_appraisal_cannot_be_given_other_claims() -> None:
    appraisal = appraise(CLAIMS, BY_SIGNER)
    with pytest.raises(AppraisalError):
        replace(appraisal, claims=replace(CLAIMS, debug=True))


def test_an_appraisal_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        appraise(CLAIMS, BY_SIGNER).package = BY_MEASUREMENT  # type: ignore[misc]


def test_unattested_is_no_appraisal() -> None:
    assert not isinstance(Unattested("--unattested"), Appraisal)


# ---- TDX and SNP

TD = replace(
    CLAIMS,
    tee=Tee.TDX,
    measurement=b"\x33" * 48,
    signer=b"",
    registers={name: b"\x33" * 48 for name in REGISTERS[Tee.TDX]},
    tcb_evaluation_number=17,
    product_line="00806F050000",
    verified_at=datetime(2026, 11, 1, tzinfo=UTC),
)
GUEST = replace(
    CLAIMS,
    tee=Tee.SNP,
    measurement=b"\x44" * 48,
    registers={name: b"\x44" * size for name, size in REGISTERS[Tee.SNP].items()},
    tcb_status="NotRated",
    tcb_versions={"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
    hardware_id=b"\x55" * 64,
    product_line="Milan",
)
FOR_TD = Package(tee="tdx", measurements={"MRTD": b"\x33" * 48, "RTMR1": b"\x33" * 48})
FOR_GUEST = Package(tee="snp", measurements={"MEASUREMENT": b"\x44" * 48}, minimum_tcb={"snp": 24, "microcode": 219})
OUTDATED = {"tcb_status": "OutOfDate", "outdated_since": datetime(2026, 10, 1, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("claims", "package"),
    [
        (TD, FOR_TD),
        (GUEST, FOR_GUEST),
        (GUEST, replace(FOR_GUEST, minimum_tcb={}, accepted_tcb_statuses=("NotRated",))),
        (replace(TD, weaknesses=frozenset(("sept-ve-off",))), replace(FOR_TD, accepted_weaknesses=("sept-ve-off",))),
        (replace(TD, **OUTDATED), replace(FOR_TD, tcb_grace_days=32)),
        (replace(TD, **OUTDATED), replace(FOR_TD, accepted_tcb_statuses=("OutOfDate",))),
        (
            replace(TD, **OUTDATED | {"tcb_status": "OutOfDateConfigurationNeeded"}),
            replace(FOR_TD, tcb_grace_days=32, accepted_tcb_statuses=("ConfigurationNeeded",)),
        ),
        (TD, replace(FOR_TD, minimum_tcb_evaluation=17)),
        (GUEST, replace(FOR_GUEST, allowed_hardware_ids=(b"\x55" * 64,))),
        (GUEST, replace(FOR_GUEST, refused_product_lines=("Genoa",))),
    ],
)
def test_what_a_package_says_of_platforms_allows(claims: Claims, package: Package) -> None:
    assert appraise(claims, package)


@pytest.mark.parametrize(
    ("claims", "package", "error"),
    [
        (TD, replace(FOR_TD, measurements={}), MeasurementError),
        (TD, replace(FOR_TD, measurements={"RTMR3": b"\x33" * 48}), MeasurementError),
        (TD, replace(FOR_TD, measurements=FOR_TD.measurements | {"RTMR2": b"\x32" * 48}), MeasurementError),
        (TD, replace(FOR_TD, measurements=FOR_TD.measurements | {"RTMR2": b""}), MeasurementError),
        (TD, replace(FOR_TD, measurements=FOR_TD.measurements | {"RTMR9": b"\x33" * 48}), MeasurementError),
        (TD, replace(FOR_TD, measurements={}, unique_id=b"\x33" * 48), MeasurementError),
        (GUEST, replace(FOR_GUEST, measurements={"HOST_DATA": b"\x44" * 32}), MeasurementError),
        (TD, FOR_GUEST, WrongTeeError),
        (replace(TD, tee=Tee.SIMULATED_TDX), FOR_TD, WrongTeeError),
        (TD, replace(FOR_TD, tee="simulated-tdx"), WrongTeeError),
        (replace(TD, weaknesses=frozenset(("sept-ve-off",))), FOR_TD, WeaknessError),
        (
            replace(TD, weaknesses=frozenset(("sept-ve-off", "migratable"))),
            replace(FOR_TD, accepted_weaknesses=("sept-ve-off",)),
            WeaknessError,
        ),
        (replace(TD, **OUTDATED), FOR_TD, TcbStatusError),
        (replace(TD, **OUTDATED), replace(FOR_TD, tcb_grace_days=31), TcbStatusError),
        (replace(TD, **OUTDATED), replace(FOR_TD, tcb_grace_days=0), TcbStatusError),
        (replace(TD, **OUTDATED | {"outdated_since": None}), replace(FOR_TD, tcb_grace_days=999), TcbStatusError),
        (
            replace(TD, **OUTDATED | {"tcb_status": "OutOfDateConfigurationNeeded"}),
            replace(FOR_TD, tcb_grace_days=32),
            TcbStatusError,
        ),
        (replace(TD, tcb_status="SWHardeningNeeded"), FOR_TD, TcbStatusError),
        (TD, replace(FOR_TD, minimum_tcb_evaluation=18), TcbStatusError),
        (GUEST, replace(FOR_GUEST, minimum_tcb={}), TcbStatusError),
        (GUEST, replace(FOR_GUEST, minimum_tcb={"snp": 25}), TcbStatusError),
        (GUEST, replace(FOR_GUEST, minimum_tcb={"snp": 24, "fmc": 0}), TcbStatusError),
    ],
)
def test_what_a_package_says_of_platforms_refuses(claims: Claims, package: Package, error: type) -> None:
    with pytest.raises(AppraisalError) as caught:
        appraise(claims, package)
    assert type(caught.value) is error


def test_t11_hardware_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(HardwareError, match="AllowedHardwareIDs"):
        appraise(GUEST, replace(FOR_GUEST, allowed_hardware_ids=(b"\x56" * 64,)))
    with pytest.raises(HardwareError, match="AllowedHardwareIDs"):
        appraise(GUEST, replace(FOR_GUEST, allowed_hardware_ids=()))


def test_t11_hardware_that_is_known_to_be_forged_is_refused() -> None:
    with pytest.raises(HardwareError, match="RefusedHardwareIDs"):
        appraise(GUEST, replace(FOR_GUEST, refused_hardware_ids=(b"\x55" * 64,)))


@pytest.mark.parametrize("line", ["Milan", "milan"])
def test_t11_a_product_line_that_was_broken_is_refused(line: str) -> None:
    with pytest.raises(HardwareError, match="RefusedProductLines"):
        appraise(GUEST, replace(FOR_GUEST, refused_product_lines=(line,)))
    with pytest.raises(HardwareError, match="RefusedProductLines"):
        appraise(TD, replace(FOR_TD, refused_product_lines=("00806f050000",)))


def test_t63_a_check_that_was_not_made_is_refused() -> None:
    made, open_one = Check("I1", "layout", b"\x01" * 32), Check("B1", "report data", None)
    assert appraise(replace(CLAIMS, checks=(made,)), BY_MEASUREMENT)
    with pytest.raises(UncheckedError, match="B1 report data"):
        appraise(replace(CLAIMS, checks=(made, open_one)), BY_MEASUREMENT)


def test_t63_only_the_revocation_list_can_be_forgone_and_only_by_name() -> None:
    unchecked = replace(
        GUEST, checks=(Check("A6", "revocation", None),), weaknesses=frozenset(("revocation-unchecked",))
    )
    with pytest.raises(UncheckedError, match="A6"):
        appraise(unchecked, FOR_GUEST)
    forgoing = replace(FOR_GUEST, accepted_weaknesses=("revocation-unchecked",))
    assert appraise(unchecked, forgoing)
    with pytest.raises(UncheckedError, match="A10"):
        appraise(replace(unchecked, checks=(Check("A10", "signature", None),)), forgoing)
