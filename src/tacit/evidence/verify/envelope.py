"""The 16 bytes that Open Enclave, and so MarbleRun, puts before a quote.

Source: Open Enclave `oe_report_header_t`. All integers are little endian.
"""

import struct

from tacit.errors import EvidenceFormatError
from tacit.evidence.intel.quote import MAX_EVIDENCE_SIZE

_ENVELOPE = struct.Struct("<IIQ")
_ENVELOPE_VERSION = 1
_ENVELOPE_SGX_REMOTE = 2


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
