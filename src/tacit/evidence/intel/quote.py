"""Intel's quotes, versions 3, 4 and 5: bytes in, parts out, nothing trusted yet.

A quote is `header[48] ‖ report ‖ u32 length ‖ signature data`; version 5 has `u16 type ‖ u32 size` before the report,
and versions 4 and 5 wrap the second half of the signature data in certification data of type 6. Behind the quote only
zero bytes may stand (platforms pad their buffers). Every length is checked against what is there before it is used.

Source: Intel SGX ECDSA Quote Library API, appendix A (version 3); Intel TDX DCAP Quoting Library API, appendix A
(versions 4 and 5). All integers are little endian.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache

from tacit.errors import EvidenceFormatError
from tacit.evidence.claims import Tee
from tacit.evidence.sgx.report import REPORT_SIZE, SgxReport, check_attributes, parse_report
from tacit.evidence.tdx.report import (
    SIZE_10,
    SIZE_15,
    SIZE_15EX,
    TdReport,
    check_td_attributes,
    parse_td_report,
)

# 32 KiB: real quotes have 1.5 to 8 KiB, and platforms pad to 8 KiB at most.
MAX_EVIDENCE_SIZE = 32 * 1024
_PARSED = 16  # quotes that are remembered: as many as are verified at one time
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
HEADER = struct.Struct("<HHIHH16s20s")
BODY_DESCRIPTOR = struct.Struct("<HI")  # of version 5

_TEE_TYPES = {0: Tee.SGX, 0x81: Tee.TDX}
# Version 5's types of body -> (kind, size).
_BODIES = {1: (Tee.SGX, REPORT_SIZE), 2: (Tee.TDX, SIZE_10), 3: (Tee.TDX, SIZE_15), 4: (Tee.TDX, SIZE_15EX)}
_CERTIFICATION_PCK_CHAIN = 5
_CERTIFICATION_QE_REPORT = 6


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote's parts. `raw` ends with the signature data, without padding; its first `signed_size` bytes are signed.

    `tee` is the kind whose report it carries. Signatures are r ‖ s (64 bytes), keys X ‖ Y (64 bytes), big endian, all
    P-256.
    """

    raw: bytes
    version: int
    tee: Tee
    signed_size: int
    report: SgxReport | TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: SgxReport
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain_pem: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the attestation key signed."""
        return self.raw[: self.signed_size]

    @property
    def weaknesses(self) -> frozenset[str]:
        """In which ways it protects less than it could, debug aside; an SGX enclave has no others."""
        return self.report.weaknesses if isinstance(self.report, TdReport) else frozenset()


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
    def at(self) -> int:
        return self._at

    @property
    def rest(self) -> bytes:
        return self._data[self._at :]

    def require_end(self) -> None:
        if self.rest:
            raise EvidenceFormatError(f"{len(self.rest)} bytes are left over inside the signature data")


def parse_header(raw: bytes) -> tuple[int, Tee]:
    """Version and kind of a quote.

    Raises:
        EvidenceFormatError: no quote, or of a version, kind, key or vendor that is not known here.
    """
    if len(raw) < HEADER.size:
        raise EvidenceFormatError(f"not a quote: {len(raw)} bytes, the header alone has {HEADER.size}")
    version, key_type, tee_type, _, _, vendor, _ = HEADER.unpack_from(raw)
    if version not in (3, 4, 5):
        raise EvidenceFormatError(f"quote version {version} is not known here; 3 (SGX), 4 and 5 (SGX, TDX) are")
    if version == 3 and tee_type != 0:
        raise EvidenceFormatError(f"a version 3 quote has TEE type 0 (SGX), this one says {tee_type:#x}")
    if tee_type not in _TEE_TYPES:
        raise EvidenceFormatError(f"TEE type {tee_type:#x} is not known here; 0 (SGX) and 0x81 (TDX) are")
    if key_type != 2:
        raise EvidenceFormatError(f"attestation key type {key_type} is not supported; 2 (ECDSA P-256) is")
    if vendor != QE_VENDOR_INTEL:
        raise EvidenceFormatError(f"quoting enclave of vendor {vendor.hex()}; only Intel's layout is known")
    return version, _TEE_TYPES[tee_type]


def _body_size(reader: _Reader, version: int, tee: Tee) -> int:
    if version < 5:
        return REPORT_SIZE if tee is Tee.SGX else SIZE_10
    kind = reader.take_number(2, "the body's type")
    size = reader.take_number(4, "the body's size")
    if _BODIES.get(kind) != (tee, size):
        known = ", ".join(f"{number} ({one} of {length} bytes)" for number, (one, length) in _BODIES.items())
        raise EvidenceFormatError(f"a quote's body of type {kind} with {size} bytes in a {tee} quote; known: {known}")
    return size


@lru_cache(maxsize=_PARSED)
def parse_quote(raw: bytes) -> Quote:
    """The parts of a quote, without envelope; padding of zeros is cut off. Whoever finds collateral asks before the verifier.

    Raises:
        EvidenceFormatError: another kind of quote, a length that does not fit, bytes behind the signature data,
            or certification data other than a PCK chain.
    """
    if len(raw) > MAX_EVIDENCE_SIZE:
        raise EvidenceFormatError(f"a quote of {len(raw)} bytes; none is larger than {MAX_EVIDENCE_SIZE}")
    version, tee = parse_header(raw)
    reader = _Reader(raw)
    reader.take(HEADER.size, "the header")
    body = reader.take(_body_size(reader, version, tee), "the report")
    signed_size = reader.at
    report = parse_report(body) if tee is Tee.SGX else parse_td_report(body)
    signature_data = reader.take(reader.take_number(4, "the signature data's length"), "the signature data")
    if any(reader.rest):
        raise EvidenceFormatError(f"{len(reader.rest)} bytes follow the quote and are not zero padding")
    end = reader.at

    inner = _Reader(signature_data)
    signature = inner.take(64, "the quote's signature")
    attestation_key = inner.take(64, "the attestation key")
    if version > 3:
        inner = _unwrapped(inner)
    qe_report = parse_report(inner.take(REPORT_SIZE, "the quoting enclave's report"))
    qe_signature = inner.take(64, "the quoting enclave's signature")
    auth_data = inner.take(inner.take_number(2, "the authentication data's length"), "the authentication data")
    kind = inner.take_number(2, "the certification data's type")
    chain = inner.take(inner.take_number(4, "the certification data's length"), "the certification data")
    inner.require_end()
    if kind != _CERTIFICATION_PCK_CHAIN:
        raise EvidenceFormatError(
            f"certification data of type {kind} brings no certificate chain; let the platform embed it (type 5)"
        )
    return Quote(
        raw[:end], version, tee, signed_size, report, signature, attestation_key, qe_report, qe_signature, auth_data,
        chain,
    )  # fmt: skip


def _unwrapped(outer: _Reader) -> _Reader:
    """Versions 4 and 5 put what the quoting enclave says of itself into certification data of its own."""
    kind = outer.take_number(2, "the outer certification data's type")
    content = outer.take(outer.take_number(4, "the outer certification data's length"), "the outer certification data")
    outer.require_end()
    if kind != _CERTIFICATION_QE_REPORT:
        raise EvidenceFormatError(f"outer certification data of type {kind}; only 6 (the quoting enclave's) is known")
    return _Reader(content)


def check_known_attributes(quote: Quote) -> None:
    """Refuse attributes that no known enclave or TD has.

    Raises:
        EvidenceFormatError: an unknown bit, or an enclave that was never initialised.
    """
    if isinstance(quote.report, SgxReport):
        check_attributes(quote.report)
    else:
        check_td_attributes(quote.report)
