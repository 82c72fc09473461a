"""An SGX enclave that runs in Gramine, seen from inside: `/dev/attestation`.

Its buffers belong to the whole process, so one lock is held from the write of the report data until the quote is read.
A quote is made when its file is opened, over what the last write left: 64 bytes in one write, for a shorter one is filled
up with zeros and a longer one cut, both without a word. So every quote is compared with what was asked for.

Source: Gramine 1.9, "Attestation and Secret Provisioning", and its LibOS (`/dev/attestation`).
"""

from pathlib import Path
from threading import Lock
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import EvidenceFormatError, InputError, TeeError
from tacit.evidence.claims import Tee
from tacit.evidence.intel.quote import MAX_EVIDENCE_SIZE, parse_quote
from tacit.evidence.issue.kernel import Kernel
from tacit.evidence.verify.binding import length_prefixed
from tacit.evidence.verify.envelope import wrap

ATTESTATION = Path("/dev/attestation")
ATTESTATION_TYPE = ATTESTATION / "attestation_type"
"""There only inside an enclave: `dcap`, or `none` where its manifest switches quotes off."""
_DATA, _QUOTE = ATTESTATION / "user_report_data", ATTESTATION / "quote"
_KEYS = {"signer": ATTESTATION / "keys/_sgx_mrsigner", "measurement": ATTESTATION / "keys/_sgx_mrenclave"}
_KEY_SIZE = 16  # bytes
_LABEL = b"tacit sgx seal key v1\0"

_lock = Lock()


class GramineEnclave:
    """The enclave around this process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @property
    def tee(self) -> Tee:
        """SGX."""
        return Tee.SGX

    def issue_evidence(self, data: bytes) -> bytes:
        """A quote over 64 bytes of report data, in Open Enclave's envelope.

        Raises:
            InputError: report data of another size.
            TeeError: no quote, or one over other report data.
        """
        if len(data) != 64:
            raise InputError(f"report data has 64 bytes, not {len(data)}")
        with _lock:
            quote = self._read_quote(data)
        try:
            report = parse_quote(quote)
        except EvidenceFormatError as exc:
            raise TeeError(f"{_QUOTE} holds no quote: {exc}") from exc
        if report.tee is not Tee.SGX or report.report.report_data != data:
            raise TeeError(
                f"{_QUOTE} holds a quote over other report data than this program wrote: something else in this enclave "
                "writes there too; start one program alone"
            )
        return wrap(quote)

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes:
        """32 bytes from the CPU's sealing key of this enclave, or of its signer and product.

        Raises:
            TeeError: there is no such key.
        """
        path = _KEYS[bound_to]
        try:
            key = self._kernel.read(path, limit=_KEY_SIZE)
        except OSError as exc:
            raise TeeError(
                f"no sealing key: {path} cannot be read ({exc.strerror}); this needs Gramine in SGX"
            ) from exc
        if len(key) != _KEY_SIZE or not any(key):
            raise TeeError(f"no sealing key: {path} has {len(key)} bytes, expected {_KEY_SIZE} that are not all zero")
        info = _LABEL + length_prefixed(bound_to.encode())
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)

    def _read_quote(self, data: bytes) -> bytes:
        path = _DATA
        try:
            taken = self._kernel.write(_DATA, data)
            if taken != len(data):
                raise TeeError(f"{_DATA} took {taken} of {len(data)} bytes, so a quote would be over something else")
            path = _QUOTE
            return self._kernel.read(_QUOTE, limit=MAX_EVIDENCE_SIZE)
        except OSError as exc:
            raise TeeError(
                f"no quote from {path}: {exc.strerror}; the reason stands in Gramine's log. Is aesmd running on the host, "
                "with the DCAP libraries and a PCCS, and its socket shared with this container?"
            ) from exc


def require_quotes(kernel: Kernel) -> None:
    """Refuse an enclave whose manifest switches quotes off. Raises: TeeError."""
    try:
        kind = kernel.read(ATTESTATION_TYPE, limit=64).decode("utf-8", "replace").strip()
    except OSError as exc:
        raise TeeError(f"{ATTESTATION_TYPE} cannot be read: {exc.strerror}") from exc
    if kind != "dcap":
        raise TeeError(
            f"this enclave makes no quotes ({ATTESTATION_TYPE} says {kind[:20]!r}); write "
            'sgx.remote_attestation = "dcap" into its Gramine manifest, and sign it again'
        )
