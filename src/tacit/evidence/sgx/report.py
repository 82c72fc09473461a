"""SGX reports: bytes in, fields out, nothing trusted yet.

Source: Intel SDM volume 3D, REPORT and ATTRIBUTES. All integers are little endian.
"""

import struct
from dataclasses import dataclass

from tacit.errors import EvidenceFormatError

REPORT_SIZE = 384
REPORT = struct.Struct("<16sI12x16sQQ32s32x32s32x64sHHH42x16s64s")
_RESERVED = ((20, 32), (96, 128), (160, 192), (262, 304))  # of a report; all zero

ATTRIBUTE_INIT = 0x1
ATTRIBUTE_DEBUG = 0x2
# INIT, DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKEN_KEY, CET, KSS, AEXNOTIFY.
_KNOWN_ATTRIBUTES = 0x4F7
# x87, SSE (both always on), AVX, MPX (2), AVX-512 (3), PKRU, CET (2), AMX (2).
_KNOWN_XFRM = 0x61AFF
_KNOWN_MISCSELECT = 0x3  # EXINFO, CPINFO


@dataclass(frozen=True, slots=True)
class SgxReport:
    """A report's fields (384 bytes): of the enclave itself, or of Intel's quoting enclave (QE)."""

    raw: bytes
    cpu_svn: bytes
    misc_select: int
    ext_product_id: bytes
    attributes: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    product_id: int
    security_version: int
    config_version: int
    family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read this enclave's memory."""
        return bool(self.attributes & ATTRIBUTE_DEBUG)

    @property
    def registers(self) -> dict[str, bytes]:
        """What was measured, and what the loader added, by Intel's names."""
        return {
            "MRENCLAVE": self.mr_enclave,
            "MRSIGNER": self.mr_signer,
            "CONFIGID": self.config_id,
            "ISVFAMILYID": self.family_id,
            "ISVEXTPRODID": self.ext_product_id,
        }


def parse_report(raw: bytes) -> SgxReport:
    """The fields of a 384-byte report.

    Raises:
        EvidenceFormatError: wrong size, or a reserved byte that is not zero.
    """
    if len(raw) != REPORT_SIZE:
        raise EvidenceFormatError(f"an SGX report has {REPORT_SIZE} bytes, this one {len(raw)}")
    if any(any(raw[start:end]) for start, end in _RESERVED):
        raise EvidenceFormatError("an SGX report with reserved bytes that are not zero: not a layout known here")
    return SgxReport(raw, *REPORT.unpack(raw))


def check_attributes(report: SgxReport) -> None:
    """Refuse what no known SGX enclave has: unknown bits may mean less protection than we know of.

    Whether a debug enclave is allowed is the manifest's decision, not this one.

    Raises:
        EvidenceFormatError: an uninitialised enclave, or an unknown bit in ATTRIBUTES, XFRM or MISCSELECT.
    """
    if not report.attributes & ATTRIBUTE_INIT:
        raise EvidenceFormatError("the enclave was never initialised (ATTRIBUTES.INIT is 0)")
    unknown = (
        ("ATTRIBUTES", report.attributes & ~_KNOWN_ATTRIBUTES),
        ("XFRM", report.xfrm & ~_KNOWN_XFRM),
        ("MISCSELECT", report.misc_select & ~_KNOWN_MISCSELECT),
    )
    for name, bits in unknown:
        if bits:
            raise EvidenceFormatError(f"the enclave's {name} has bits that are not known here: {bits:#x}")
    if report.xfrm & 0x3 != 0x3:
        raise EvidenceFormatError(f"the enclave's XFRM is {report.xfrm:#x}; x87 and SSE (0x3) are always on")
