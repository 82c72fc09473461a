"""SNP attestation reports, versions 2, 3 and 5: bytes in, fields out, nothing trusted yet.

Source: AMD SEV Secure Nested Paging Firmware ABI Specification (56860), ATTESTATION_REPORT; TCB_VERSION by family.
All integers are little endian.
"""

import struct
from dataclasses import dataclass

from tacit.errors import EvidenceFormatError

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
VERSIONS = (2, 3, 5)

FIELDS = struct.Struct("<IIQ16s16sII8sQI4x64s48s32s48s48s32s32s8s")  # up to REPORTED_TCB, 0x188 bytes
_CPUID = slice(0x188, 0x18B)  # family, model, stepping; from version 3 on
_CHIP_ID, _COMMITTED, _LAUNCH = slice(0x1A0, 0x1E0), slice(0x1E0, 0x1E8), slice(0x1F0, 0x1F8)
_SIGNATURE = SIGNED_SIZE
_WORD = 72  # bytes of r and of s, of which a P-384 number fills 48

POLICY_MUST = 1 << 17
POLICY_MIGRATE_MA = 1 << 18
POLICY_DEBUG = 1 << 19
_KNOWN_POLICY = (1 << 26) - 1  # ABI version (16 bits), SMT, the bit that is always 1, and 18 to 25
_KNOWN_PLATFORM = 0x3F  # SMT, TSME, ECC, RAPL off, ciphertext hiding, alias check
_KNOWN_FLAGS = 0x1F  # AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY (3)
VCEK, VLEK = 0, 1
_NO_AGENT = b"\xff" * 32

# Product line -> where its TCB's components stand in the 8 bytes.
TCB_PLACES = {
    "Milan": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Genoa": {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Turin": {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7},
}

# Ways in which a guest protects less than it could, as packages name them; and `vmpl-1` to `vmpl-3`.
MIGRATION_AGENT = "migration-agent"


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A report's fields. TCBs are 8 bytes as they stand; `signature` is r ‖ s, 48 bytes each, big endian."""

    raw: bytes
    cpuid: tuple[int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    signature: tuple[int, int]
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    algorithm: int
    current_tcb: bytes
    platform_info: int
    flags: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the chip's key signed."""
        return self.raw[:SIGNED_SIZE]

    @property
    def debug(self) -> bool:
        """Whether the host may read this guest's memory."""
        return bool(self.policy & POLICY_DEBUG)

    @property
    def signing_key(self) -> int:
        """VCEK, VLEK, or another number."""
        return self.flags >> 2 & 0x7

    @property
    def weaknesses(self) -> frozenset[str]:
        """In which ways it protects less than it could, debug aside."""
        found = {f"vmpl-{self.vmpl}"} if self.vmpl else set[str]()
        if self.policy & POLICY_MIGRATE_MA or self.report_id_ma != _NO_AGENT:
            found.add(MIGRATION_AGENT)
        return frozenset(found)

    @property
    def registers(self) -> dict[str, bytes]:
        """What was measured, and what the host or the guest's owner added, by AMD's names."""
        return {
            "MEASUREMENT": self.measurement,
            "HOST_DATA": self.host_data,
            "ID_KEY_DIGEST": self.id_key_digest,
            "AUTHOR_KEY_DIGEST": self.author_key_digest,
            "FAMILY_ID": self.family_id,
            "IMAGE_ID": self.image_id,
        }


def is_report(evidence: bytes) -> bool:
    """Whether these bytes begin as a report does. A quote has its key's type where a report's version has zeros."""
    return evidence[:4] in {version.to_bytes(4, "little") for version in VERSIONS}


def parse_snp_report(raw: bytes) -> SnpReport:
    """The fields of a report.

    Raises:
        EvidenceFormatError: another size or version, a reserved byte that is not zero, or another algorithm.
    """
    if len(raw) != REPORT_SIZE:
        raise EvidenceFormatError(f"an SNP report has {REPORT_SIZE} bytes, this one {len(raw)}")
    fields = FIELDS.unpack_from(raw)
    version, algorithm = fields[0], fields[6]
    if version not in VERSIONS:
        raise EvidenceFormatError(f"SNP report version {version} is not known here; {VERSIONS} are")
    reserved = [
        (0x4C, 0x50),
        (0x18B, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208, SIGNED_SIZE),
        (0x330, REPORT_SIZE),
    ]
    reserved += [(0x188, 0x18B)] if version < 3 else []
    reserved += [(0x1F8, 0x208)] if version < 5 else []
    if any(any(raw[start:end]) for start, end in reserved):
        raise EvidenceFormatError("an SNP report with reserved bytes that are not zero: not a layout known here")
    if algorithm != 1:
        raise EvidenceFormatError(f"signature algorithm {algorithm} is not known here; 1 (ECDSA P-384, SHA-384) is")
    return SnpReport(
        raw,
        (raw[_CPUID][0], raw[_CPUID][1]) if version >= 3 else None,
        raw[_CHIP_ID],
        raw[_COMMITTED],
        raw[_LAUNCH],
        (_parse_word(raw, _SIGNATURE), _parse_word(raw, _SIGNATURE + _WORD)),
        *fields,
    )


def _parse_word(raw: bytes, at: int) -> int:
    word = raw[at : at + _WORD]
    if any(word[48:]):
        raise EvidenceFormatError("the report's signature has a number that is larger than P-384 allows")
    return int.from_bytes(word, "little")


def check_snp_attributes(report: SnpReport) -> None:
    """Refuse what no known guest has: unknown bits may mean less protection than we know of.

    Raises:
        EvidenceFormatError: an unknown bit of POLICY, PLATFORM_INFO or flags, or a VMPL that no guest has.
    """
    unknown = (
        ("POLICY", report.policy & ~_KNOWN_POLICY),
        ("PLATFORM_INFO", report.platform_info & ~_KNOWN_PLATFORM),
        ("flags", report.flags & ~_KNOWN_FLAGS),
    )
    for name, bits in unknown:
        if bits:
            raise EvidenceFormatError(f"the report's {name} has bits that are not known here: {bits:#x}")
    if not report.policy & POLICY_MUST:
        raise EvidenceFormatError(f"the report's POLICY is {report.policy:#x}; bit 17 is always 1")
    if report.vmpl > 3:
        raise EvidenceFormatError(f"VMPL {report.vmpl}: a guest has 0 to 3; the host asked for this report")


def product_of(cpuid: tuple[int, int]) -> str | None:
    """The product line of a CPUID family and model, None where it is not known here."""
    family, model = cpuid
    if family == 0x19:
        return (
            "Milan" if model <= 0x0F else "Genoa" if model in range(0x10, 0x20) or model in range(0xA0, 0xB0) else None
        )
    return "Turin" if family == 0x1A and model <= 0x1F else None


def tcb_components(tcb: bytes, product: str) -> dict[str, int]:
    """The components of a TCB by name.

    Raises:
        EvidenceFormatError: a byte set that is reserved for this product line.
    """
    places = TCB_PLACES[product]
    if any(value for index, value in enumerate(tcb) if index not in places.values()):
        raise EvidenceFormatError(f"the TCB {tcb.hex()} has bytes that are reserved on {product}")
    return {name: tcb[index] for name, index in places.items()}
