"""Which TEE is this process in? By what is there, and never by what somebody says.

(1) Gramine's `/dev/attestation/attestation_type`: SGX. (2) The kernel's devices, `/dev/tdx_guest` and `/dev/sev-guest`.
(3) The kernel's reports, whose provider says its kind. What is there and cannot be asked is no reason to go on as if it
were not: simulated or unattested, a program in a real TEE would serve whoever runs its host.
"""

from collections.abc import Mapping

from tacit.errors import TeeError
from tacit.evidence.claims import Issuer, Tee
from tacit.evidence.issue.devices import SNP_DEVICE, TDX_DEVICE
from tacit.evidence.issue.gramine import ATTESTATION_TYPE, GramineEnclave, require_quotes
from tacit.evidence.issue.guests import Names, SnpGuest, TdxGuest
from tacit.evidence.issue.kernel import Kernel
from tacit.evidence.issue.tsm import TSM_FOLDER, find_provider

_PROVIDERS: Mapping[str, Tee] = {"tdx_guest": Tee.TDX, "sev_guest": Tee.SNP}


def find_tee(kernel: Kernel, names: Names) -> Tee | None:
    """The real TEE around this process, None where there is none. `names` gives new names for requests.

    Raises:
        TeeError: there is one that this version does not know, or that cannot be asked.
    """
    if kernel.exists(ATTESTATION_TYPE):
        return Tee.SGX
    for device, tee in ((TDX_DEVICE, Tee.TDX), (SNP_DEVICE, Tee.SNP)):
        if kernel.exists(device):
            return tee
    if not kernel.exists(TSM_FOLDER):
        return None
    provider = find_provider(kernel, names())
    if provider is None:
        return None
    if provider not in _PROVIDERS:
        raise TeeError(
            f"this machine is a confidential guest of a kind that this version does not know ({provider[:40]!r}); it knows "
            f"{', '.join(_PROVIDERS)}, and never goes on without evidence in a real TEE"
        )
    return _PROVIDERS[provider]


def load_tee(kernel: Kernel, names: Names, *, tee: Tee) -> Issuer:
    """The TEE that was found, ready to make evidence. Raises: TeeError."""
    if tee is Tee.SGX:
        require_quotes(kernel)
        return GramineEnclave(kernel)
    return TdxGuest(kernel, names) if tee is Tee.TDX else SnpGuest(kernel, names)
