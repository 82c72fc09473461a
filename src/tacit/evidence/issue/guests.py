"""Confidential virtual machines seen from inside: a trust domain of Intel's, a guest of AMD's SNP."""

import time
from collections.abc import Callable
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import EvidenceFormatError, InputError, TeeError
from tacit.evidence.claims import Tee
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.issue.devices import SNP_DEVICE, fetch_snp_key, fetch_snp_report, fetch_td_quote
from tacit.evidence.issue.kernel import Kernel
from tacit.evidence.issue.tsm import TSM_FOLDER, TsmReport, fetch_report
from tacit.evidence.snp.carried import read_table, render_carried
from tacit.evidence.snp.report import parse_snp_report

_SNP_LABEL = b"tacit snp seal key v1\0"
_PROVIDERS = {Tee.TDX: "tdx_guest", Tee.SNP: "sev_guest"}

Names = Callable[[], str]
"""A new name for an entry of the kernel's reports."""


class TdxGuest:
    """The trust domain around this process. It has no key for sealing: Intel's module gives none."""

    def __init__(self, kernel: Kernel, names: Names, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._kernel, self._names, self._sleep = kernel, names, sleep

    @property
    def tee(self) -> Tee:
        """TDX."""
        return Tee.TDX

    def issue_evidence(self, data: bytes) -> bytes:
        """A quote over 64 bytes of report data.

        Raises:
            InputError: report data of another size.
            TeeError: no quote, or one over other report data.
        """
        _check_size(data)
        if self._kernel.exists(TSM_FOLDER):
            quote = _from_kernel(self._kernel, self._names(), data, Tee.TDX, self._sleep).outblob
        else:
            quote = fetch_td_quote(self._kernel, data)
        try:
            found = parse_quote(quote)
        except EvidenceFormatError as exc:
            raise TeeError(f"what the kernel gave is no quote: {exc}") from exc
        if found.tee is not Tee.TDX:
            raise TeeError(f"the kernel gave a quote of {found.tee}, expected one of tdx")
        _check_bound(found.report.report_data, data)
        return quote

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> None:
        """None, whatever it should be bound to."""


class SnpGuest:
    """The SNP guest around this process."""

    def __init__(self, kernel: Kernel, names: Names, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._kernel, self._names, self._sleep = kernel, names, sleep

    @property
    def tee(self) -> Tee:
        """SNP."""
        return Tee.SNP

    def issue_evidence(self, data: bytes) -> bytes:
        """A report over 64 bytes of report data, and the chip's certificates where the host hands them out.

        Raises:
            InputError: report data of another size.
            TeeError: no report, or one over other report data.
        """
        _check_size(data)
        if self._kernel.exists(TSM_FOLDER):
            made = _from_kernel(self._kernel, self._names(), data, Tee.SNP, self._sleep)
            report, table = made.outblob, made.auxblob
        else:
            report, table = fetch_snp_report(self._kernel, data)
        try:
            found = parse_snp_report(report)
        except EvidenceFormatError as exc:
            raise TeeError(f"what the kernel gave is no report: {exc}") from exc
        _check_bound(found.report_data, data)
        carried = read_table(table)
        return report if carried is None else report + render_carried(carried)

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes | None:
        """32 bytes from the chip's key for this measurement and policy; None where the kernel has no device for that.

        Nobody signs a guest as an enclave is signed, so a key that should be the signer's is this measurement's too.
        Raises: TeeError.
        """
        if not self._kernel.exists(SNP_DEVICE):
            return None
        key = fetch_snp_key(self._kernel)
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=_SNP_LABEL).derive(key)


def _from_kernel(kernel: Kernel, name: str, data: bytes, tee: Tee, sleep: Callable[[float], None]) -> TsmReport:
    found = fetch_report(kernel, data, name=name, sleep=sleep)
    if found.provider != _PROVIDERS[tee]:
        raise TeeError(f"the kernel's reports come from {found.provider[:40]!r}, expected {_PROVIDERS[tee]!r}")
    return found


def _check_size(data: bytes) -> None:
    if len(data) != 64:
        raise InputError(f"report data has 64 bytes, not {len(data)}")


def _check_bound(found: bytes, data: bytes) -> None:
    if found != data:
        raise TeeError("what the kernel gave is over other report data than this program wrote; nothing of it is used")
