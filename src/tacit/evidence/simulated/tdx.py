"""A simulated trust domain: its report, the quote over it, and what the maker says about such platforms.

Shares root, platform certificate and signers with the simulated SGX of the same platform, as Intel's do.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256, sha384
from typing import Any

from tacit.errors import InputError
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.quote import BODY_DESCRIPTOR, HEADER, QE_VENDOR_INTEL
from tacit.evidence.simulated.authority import Platform, Signer, life, qe_identity, sign_collateral, tcb_info
from tacit.evidence.simulated.quote import QUOTING_ENCLAVE, Enclave, QuotingKeys, sign_quote
from tacit.evidence.tdx.report import REPORT_10, SIZE_15, SIZE_15EX, TD_SEPT_VE_DISABLE

TD_QE_SIGNER = bytes.fromhex("5354" * 16)  # MRSIGNER of the simulated TD quoting enclave: ASCII "ST"
TD_QUOTING_ENCLAVE = replace(
    QUOTING_ENCLAVE, measurement=sha256(b"SIMULATED TD quoting enclave").digest(), signer=TD_QE_SIGNER, product_id=2
)
MODULE_SVN, MODULE_VERSION = 3, 1
_TCB_SVN = bytes((MODULE_SVN, MODULE_VERSION, 2)).ljust(16, b"\0")
_XFAM = 0xE7
_SIZES = {SIZE_15: 3, SIZE_15EX: 4}  # of bodies, and their types in version 5


def _register(what: bytes) -> bytes:
    return sha384(b"SIMULATED " + what).digest()


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """What a TD's report says. `mr_td` has 48 bytes; so has each of the four `rtmrs`."""

    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    attributes: int = TD_SEPT_VE_DISABLE
    xfam: int = _XFAM
    tcb_svn: bytes = _TCB_SVN
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: int = 0
    tcb_svn2: bytes = _TCB_SVN
    mr_service_td: bytes = bytes(48)


def trust_domain(enclave: Enclave) -> TrustDomain:
    """The TD in which a program runs that would be this enclave: firmware and kernel are everybody's, the rest is its."""
    return TrustDomain(
        mr_td=_register(b"MRTD " + enclave.measurement),
        rtmrs=(_register(b"firmware"), _register(b"kernel"), _register(b"program " + enclave.measurement), bytes(48)),
    )


def render_td_report(domain: TrustDomain, data: bytes, *, size: int) -> bytes:
    """A TD report of one of its three sizes over 64 bytes of report data.

    Raises:
        InputError: report data of another size.
    """
    if len(data) != 64:
        raise InputError(f"report data has 64 bytes, not {len(data)}")
    common = REPORT_10.pack(
        domain.tcb_svn, _register(b"TDX module"), domain.mr_signer_seam, domain.seam_attributes, domain.attributes,
        domain.xfam, domain.mr_td, bytes(48), bytes(48), bytes(48), *domain.rtmrs, data,
    )  # fmt: skip
    return (common + domain.tcb_svn2 + domain.mr_service_td).ljust(size, b"\0")[:size]


def issue_td_quote(
    domain: TrustDomain,
    data: bytes,
    *,
    keys: QuotingKeys,
    version: int = 4,
    size: int | None = None,
    quoting_enclave: Enclave = TD_QUOTING_ENCLAVE,
) -> bytes:
    """A quote (version 4 or 5) of a TD over 64 bytes of report data; `size` is of the body in version 5.

    Raises:
        InputError: report data of another size.
    """
    body = render_td_report(domain, data, size=size or REPORT_10.size)
    header = HEADER.pack(version, 2, 0x81, 0, 0, QE_VENDOR_INTEL, b"SIMULATED")
    if version == 5:
        header += BODY_DESCRIPTOR.pack(_SIZES.get(len(body), 2), len(body))
    return sign_quote(header + body, version=version, keys=keys, quoting_enclave=quoting_enclave)


def td_tcb_info(platform: Platform, *, begin: datetime, end: datetime, status: str = "UpToDate") -> dict[str, Any]:
    """What is said about platforms of this kind and their one TDX module."""
    value = tcb_info(platform, begin=begin, end=end, status=status)
    level = value["tcbLevels"][0]
    level["tcb"]["tdxtcbcomponents"] = [{"svn": version} for version in _TCB_SVN]
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    module_level = {"tcb": {"isvsvn": MODULE_SVN}, "tcbDate": level["tcbDate"], "tcbStatus": "UpToDate"}
    named = {"id": f"TDX_{MODULE_VERSION:02X}", **module, "tcbLevels": [module_level]}
    return {**value, "id": "TDX", "tdxModule": module, "tdxModuleIdentities": [named]}


def td_qe_identity(*, begin: datetime, end: datetime, status: str = "UpToDate") -> dict[str, Any]:
    """What is said about the simulated TD quoting enclave."""
    value = qe_identity(begin=begin, end=end, status=status)
    return {**value, "id": "TD_QE", "mrsigner": TD_QE_SIGNER.hex().upper(), "isvprodid": TD_QUOTING_ENCLAVE.product_id}


def issue_td_collateral(
    root: Signer, pck_ca: Signer, tcb_signer: Signer, *, platform: Platform, now: datetime
) -> IntelCollateral:
    """Collateral that says of this platform's TDX that it is up to date, for a year from `now`."""
    begin, end = life(now)
    info, identity = td_tcb_info(platform, begin=begin, end=end), td_qe_identity(begin=begin, end=end)
    return sign_collateral(root, pck_ca, tcb_signer, info=info, identity=identity, window=(begin, end))
