"""TD reports (bodies 1.0, 1.5 and 1.5ex of a quote): bytes in, fields out, nothing trusted yet.

Source: Intel TDX DCAP Quoting Library API, appendix A; Intel TDX Module Base Architecture Specification, TD_ATTRIBUTES
and XFAM. All integers are little endian.
"""

import struct
from dataclasses import dataclass

from tacit.errors import EvidenceFormatError

SIZE_10, SIZE_15, SIZE_15EX = 584, 648, 885
# TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, SEAMATTRIBUTES, TDATTRIBUTES, XFAM, MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG,
# RTMR0 to RTMR3, REPORTDATA.
REPORT_10 = struct.Struct("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s")
_MR_SERVICE_TD = slice(600, 648)
# 1.5ex: INIT_SERVTD_HASH and _ATTR; CUR_SERVTD_HASH and _ATTR.
_SERVICE_TD_15EX = (slice(729, 785), slice(829, 885))

TD_DEBUG = 1 << 0
TD_SEPT_VE_DISABLE = 1 << 28
TD_MIGRATABLE = 1 << 29
_TD_PROFILING = 0b1110000  # HGS+, performance and telemetry profiling
# DEBUG, profiling (3), LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA, PERFMON.
_KNOWN_ATTRIBUTES = (
    TD_DEBUG | _TD_PROFILING | 1 << 27 | TD_SEPT_VE_DISABLE | TD_MIGRATABLE | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63
)
# x87, SSE (both always on), AVX, AVX-512 (3), PT, PKRU, CET (2), UINTR, LBR, AMX (2), APX.
_KNOWN_XFAM = 0xEDBE7

# Ways in which a TD protects less than it could, as packages name them.
SEPT_VE_OFF = "sept-ve-off"
MIGRATABLE = "migratable"
PROFILING = "profiling"
SERVICE_TD = "service-td"
MODULE_DOWNGRADED = "module-downgraded"


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report's fields.

    `tcb_svn` is of the TDX module that started the TD, `tcb_svn2` of the one that runs now (the same where body 1.0
    does not say); `service_td` is whatever names service TDs, all zero where none is bound.
    """

    raw: bytes
    tcb_svn2: bytes
    service_td: bytes
    tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: int
    attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read this TD's memory."""
        return bool(self.attributes & TD_DEBUG)

    @property
    def weaknesses(self) -> frozenset[str]:
        """In which ways it protects less than it could, debug aside."""
        present = (
            (SEPT_VE_OFF, not self.attributes & TD_SEPT_VE_DISABLE),
            (MIGRATABLE, self.attributes & TD_MIGRATABLE),
            (PROFILING, self.attributes & _TD_PROFILING),
            (SERVICE_TD, any(self.service_td)),
            # The module was replaced while the TD ran, and the new one is older: the levels are those of its start.
            (MODULE_DOWNGRADED, any(now < then for now, then in zip(self.tcb_svn2, self.tcb_svn, strict=True))),
        )
        return frozenset(name for name, is_so in present if is_so)

    @property
    def registers(self) -> dict[str, bytes]:
        """What was measured, and what the host added, by Intel's names."""
        return {
            "MRTD": self.mr_td,
            "RTMR0": self.rtmr0,
            "RTMR1": self.rtmr1,
            "RTMR2": self.rtmr2,
            "RTMR3": self.rtmr3,
            "MRCONFIGID": self.mr_config_id,
            "MROWNER": self.mr_owner,
            "MROWNERCONFIG": self.mr_owner_config,
            "MRSEAM": self.mr_seam,
            "MRSERVICETD": self.service_td[:48] or bytes(48),
        }


def parse_td_report(raw: bytes) -> TdReport:
    """The fields of a TD report of 584, 648 or 885 bytes.

    Raises:
        EvidenceFormatError: another size.
    """
    if len(raw) not in (SIZE_10, SIZE_15, SIZE_15EX):
        raise EvidenceFormatError(f"a TD report has {SIZE_10}, {SIZE_15} or {SIZE_15EX} bytes, this one {len(raw)}")
    service_td = raw[_MR_SERVICE_TD] + b"".join(raw[part] for part in _SERVICE_TD_15EX)
    fields = REPORT_10.unpack_from(raw)
    tcb_svn2 = raw[SIZE_10 : SIZE_10 + 16] if len(raw) > SIZE_10 else fields[0]
    return TdReport(raw, tcb_svn2, service_td, *fields)


def check_td_attributes(report: TdReport) -> None:
    """Refuse what no known TD has: unknown bits may mean less protection than we know of.

    Raises:
        EvidenceFormatError: an unknown bit in TDATTRIBUTES or XFAM, or x87 and SSE switched off.
    """
    unknown = (
        ("TDATTRIBUTES", report.attributes & ~_KNOWN_ATTRIBUTES),
        ("XFAM", report.xfam & ~_KNOWN_XFAM),
    )
    for name, bits in unknown:
        if bits:
            raise EvidenceFormatError(f"the TD's {name} has bits that are not known here: {bits:#x}")
    if report.xfam & 0x3 != 0x3:
        raise EvidenceFormatError(f"the TD's XFAM is {report.xfam:#x}; x87 and SSE (0x3) are always on")
