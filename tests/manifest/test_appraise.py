"""Each rule of appraisal, alone and in order."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tacit.errors import (
    AppraisalError,
    DebugNotAllowedError,
    MeasurementError,
    SignerError,
    TcbStatusError,
    WrongTeeError,
)
from tacit.evidence.claims import Claims, Tee
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
