"""Certificates that a host hands to its guests with their reports, and that travel behind the report.

Evidence then is `report ‖ table`: a head of entries (GUID of 16 bytes, u32 offset, u32 length), ended by one of zeros, and
the certificates (DER) that they point at. A host's table may be in any order, with holes, and in PEM; evidence has one
form: chip's, intermediate, root, without a gap, and nothing else.

Nothing of them is trusted: they are what a verifier would otherwise have to fetch.

Source: AMD SEV-ES Guest-Hypervisor Communication Block (56421), "SNP extended guest request". Integers are little endian.
"""

import struct
from binascii import a2b_base64
from dataclasses import dataclass
from uuid import UUID

from tacit.errors import EvidenceFormatError
from tacit.evidence.snp.collateral import AmdCollateral, pem
from tacit.evidence.snp.report import REPORT_SIZE

_ENTRY = struct.Struct("<16sII")
_MAX_ENTRIES = 16
_MAX_CERTIFICATE = 8 * 1024  # bytes; AMD's have 1.2 to 1.7 KiB
_VCEK, _VLEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes, UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes
_INTERMEDIATE = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes  # ASK, and ASVK where the chip's is a VLEK
_ROOT = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes
_PEM_BEGIN, _PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class CarriedCertificates:
    """The chip's certificate (a VLEK where `of_cloud`) and the two above it, DER."""

    leaf: bytes
    intermediate: bytes
    root: bytes
    of_cloud: bool

    @property
    def collateral(self) -> AmdCollateral:
        """As a verifier takes them; no revocation list comes along."""
        return AmdCollateral(self.leaf, pem(self.intermediate) + pem(self.root))


def split_report(evidence: bytes) -> tuple[bytes, CarriedCertificates | None]:
    """The report, and the certificates behind it if there are any.

    Raises:
        EvidenceFormatError: something else stands behind the report.
    """
    report, table = evidence[:REPORT_SIZE], evidence[REPORT_SIZE:]
    if not table:
        return report, None
    carried = read_table(table)
    if carried is None or render_carried(carried) != table:
        raise EvidenceFormatError(
            f"{len(table)} bytes behind the SNP report that are no table of its chip's three certificates"
        )
    return report, carried


def render_carried(carried: CarriedCertificates) -> bytes:
    """The one form in which they travel."""
    kinds = (_VLEK if carried.of_cloud else _VCEK, _INTERMEDIATE, _ROOT)
    content = (carried.leaf, carried.intermediate, carried.root)
    at, head = _ENTRY.size * (len(kinds) + 1), b""
    for kind, one in zip(kinds, content, strict=True):
        head += _ENTRY.pack(kind, at, len(one))
        at += len(one)
    return head + bytes(_ENTRY.size) + b"".join(content)


def read_table(table: bytes) -> CarriedCertificates | None:
    """The three certificates of a host's table; None where one is missing or cannot be read, as hosts may give none."""
    found: dict[bytes, bytes] = {}
    for index in range(min(_MAX_ENTRIES, len(table) // _ENTRY.size)):
        kind, at, size = _ENTRY.unpack_from(table, index * _ENTRY.size)
        if not any(kind):
            break
        if kind in (_VCEK, _VLEK, _INTERMEDIATE, _ROOT) and kind not in found:
            found[kind] = _der(table[at : at + size] if size <= _MAX_CERTIFICATE else b"")
    leaf = found.get(_VCEK) or found.get(_VLEK)
    intermediate, root = found.get(_INTERMEDIATE), found.get(_ROOT)
    if not leaf or not intermediate or not root:
        return None
    return CarriedCertificates(leaf, intermediate, root, of_cloud=not found.get(_VCEK))


def _der(content: bytes) -> bytes:
    """A certificate's DER, empty where it is none."""
    if content.startswith(_PEM_BEGIN):
        body = content.removeprefix(_PEM_BEGIN).partition(_PEM_END)[0]
        try:
            content = a2b_base64(body)
        except ValueError:
            return b""
    return content if content[:1] == b"\x30" else b""
