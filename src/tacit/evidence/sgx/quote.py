"""SGX quotes (version 3) and reports: bytes in, fields out, nothing trusted yet.

Source: Intel SGX ECDSA Quote Library API, appendix A (quote layout); Intel SDM volume 3D, REPORT and ATTRIBUTES;
Open Enclave `oe_report_header_t` (the 16 bytes before a quote).

All integers are little endian. A quote is `header[48] ‖ report[384] ‖ u32 length ‖ signature data`; behind it only zero
bytes may stand (platforms pad their buffers). Every length is checked against what is there before it is used.
"""

import struct
from dataclasses import dataclass

from tacit.errors import EvidenceFormatError

# 32 KiB: real quotes have 1.5 to 8 KiB, and platforms pad to 8 KiB at most.
MAX_EVIDENCE_SIZE = 32 * 1024
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
REPORT_SIZE = 384
SIGNED_SIZE = 48 + REPORT_SIZE  # bytes that the quote's own signature covers

_ENVELOPE = struct.Struct("<IIQ")
_ENVELOPE_VERSION = 1
_ENVELOPE_SGX_REMOTE = 2
HEADER = struct.Struct("<HHIHH16s20s")
REPORT = struct.Struct("<16sI12x16sQQ32s32x32s32x64sHHH42x16s64s")
_RESERVED = ((20, 32), (96, 128), (160, 192), (262, 304))  # of a report; all zero
_CERTIFICATION_PCK_CHAIN = 5

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
    attributes: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    product_id: int
    security_version: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may read this enclave's memory."""
        return bool(self.attributes & ATTRIBUTE_DEBUG)


@dataclass(frozen=True, slots=True)
class SgxQuote:
    """A quote's parts. `raw` ends with the signature data, without padding.

    Signatures are r ‖ s (64 bytes), keys X ‖ Y (64 bytes), big endian, all P-256.
    """

    raw: bytes
    report: SgxReport
    signature: bytes
    attestation_key: bytes
    qe_report: SgxReport
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain_pem: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the attestation key signed."""
        return self.raw[:SIGNED_SIZE]


def wrap(quote: bytes) -> bytes:
    """The quote in Open Enclave's envelope, as MarbleRun sends it."""
    return _ENVELOPE.pack(_ENVELOPE_VERSION, _ENVELOPE_SGX_REMOTE, len(quote)) + quote


def unwrap(evidence: bytes) -> bytes:
    """The quote alone, from evidence with or without Open Enclave's 16-byte envelope.

    A quote starts with its version (u16: 3, 4, 5), an envelope with u32 1, so the two cannot be taken for each other.

    Raises:
        EvidenceFormatError: too large, or an envelope of another kind or with another length.
    """
    if len(evidence) > MAX_EVIDENCE_SIZE:
        raise EvidenceFormatError(f"evidence has {len(evidence)} bytes; no quote is larger than {MAX_EVIDENCE_SIZE}")
    if evidence[:4] != _ENVELOPE_VERSION.to_bytes(4, "little"):
        return evidence
    if len(evidence) < _ENVELOPE.size:
        raise EvidenceFormatError(f"evidence ends inside its 16-byte Open Enclave header: {len(evidence)} bytes")
    _, kind, length = _ENVELOPE.unpack_from(evidence)
    if kind != _ENVELOPE_SGX_REMOTE:
        raise EvidenceFormatError(
            f"Open Enclave report type is {kind}; only {_ENVELOPE_SGX_REMOTE} (SGX remote) proves"
        )
    if length != len(evidence) - _ENVELOPE.size:
        found = len(evidence) - _ENVELOPE.size
        raise EvidenceFormatError(f"Open Enclave header promises a quote of {length} bytes, {found} follow")
    return evidence[_ENVELOPE.size :]


class _Reader:
    """Takes bytes from the front and refuses to take more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int, what: str) -> bytes:
        if size > len(self._data) - self._at:
            left = len(self._data) - self._at
            raise EvidenceFormatError(f"quote is cut: {what} has {size} bytes, {left} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def take_number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    @property
    def rest(self) -> bytes:
        return self._data[self._at :]


def parse_report(raw: bytes) -> SgxReport:
    """The fields of a 384-byte report.

    Raises:
        EvidenceFormatError: wrong size, or a reserved byte that is not zero.
    """
    if len(raw) != REPORT_SIZE:
        raise EvidenceFormatError(f"an SGX report has {REPORT_SIZE} bytes, this one {len(raw)}")
    if any(any(raw[start:end]) for start, end in _RESERVED):
        raise EvidenceFormatError("an SGX report with reserved bytes that are not zero: not a layout known here")
    fields = REPORT.unpack(raw)
    cpu_svn, misc, _, attributes, xfrm, enclave, signer, _, product, version, _, _, data = fields
    return SgxReport(raw, cpu_svn, misc, attributes, xfrm, enclave, signer, product, version, data)


def _check_header(raw: bytes) -> None:
    if len(raw) < HEADER.size:
        raise EvidenceFormatError(f"not a quote: {len(raw)} bytes, the header alone has {HEADER.size}")
    version, key_type, tee_type, _, _, vendor, _ = HEADER.unpack_from(raw)
    if version != 3:
        kind = "TDX" if version in (4, 5) and tee_type == 0x81 else "this kind of"
        raise EvidenceFormatError(f"quote version {version}: {kind} evidence is not supported yet; version 3 (SGX) is")
    if tee_type != 0:
        raise EvidenceFormatError(f"a version 3 quote has TEE type 0 (SGX), this one says {tee_type:#x}")
    if key_type != 2:
        raise EvidenceFormatError(f"attestation key type {key_type} is not supported; 2 (ECDSA P-256) is")
    if vendor != QE_VENDOR_INTEL:
        raise EvidenceFormatError(f"quoting enclave of vendor {vendor.hex()}; only Intel's layout is known")


def parse_quote(raw: bytes) -> SgxQuote:
    """The parts of an SGX quote of version 3, without envelope; padding of zeros is cut off.

    Raises:
        EvidenceFormatError: another kind of quote, a length that does not fit, bytes behind the signature data,
            or certification data other than a PCK chain.
    """
    if len(raw) > MAX_EVIDENCE_SIZE:
        raise EvidenceFormatError(f"a quote of {len(raw)} bytes; none is larger than {MAX_EVIDENCE_SIZE}")
    _check_header(raw)
    reader = _Reader(raw)
    reader.take(HEADER.size, "the header")
    report = parse_report(reader.take(REPORT_SIZE, "the report"))
    signature_data = reader.take(reader.take_number(4, "the signature data's length"), "the signature data")
    if any(reader.rest):
        raise EvidenceFormatError(f"{len(reader.rest)} bytes follow the quote and are not zero padding")
    end = len(raw) - len(reader.rest)

    inner = _Reader(signature_data)
    signature = inner.take(64, "the quote's signature")
    attestation_key = inner.take(64, "the attestation key")
    qe_report = parse_report(inner.take(REPORT_SIZE, "the quoting enclave's report"))
    qe_signature = inner.take(64, "the quoting enclave's signature")
    auth_data = inner.take(inner.take_number(2, "the authentication data's length"), "the authentication data")
    kind = inner.take_number(2, "the certification data's type")
    chain = inner.take(inner.take_number(4, "the certification data's length"), "the certification data")
    if inner.rest:
        raise EvidenceFormatError(f"{len(inner.rest)} bytes are left over inside the signature data")
    if kind != _CERTIFICATION_PCK_CHAIN:
        raise EvidenceFormatError(
            f"certification data of type {kind} brings no certificate chain; let the platform embed it (type 5)"
        )
    return SgxQuote(raw[:end], report, signature, attestation_key, qe_report, qe_signature, auth_data, chain)


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
