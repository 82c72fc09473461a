"""Who is it? Evidence and collateral come in as bytes, with an anchor and the time; `Claims` go out, or an error.

    bytes → parsed quote or report → `Claims` (authentic, by `verify_evidence`) → `Appraisal` (allowed, by `manifest`)

Kinds of TEE: SGX and TDX (`intel`), SNP (`snp`), under roots that the package pins (`anchor`); and a simulated one of
each (`simulated`): the same layout and the same verifier, another root. No function here returns whether something is
valid: a check that fails raises. `issue` and `fetch` touch the world and are for composition roots; all else is pure.
"""

from tacit.evidence.anchor import INTEL
from tacit.evidence.claims import Claims, Role, Tee, TrustAnchor
from tacit.evidence.verify import Binding, Collateral, report_data, verify_binding, verify_evidence

__all__ = [
    "INTEL",
    "Binding",
    "Claims",
    "Collateral",
    "Role",
    "Tee",
    "TrustAnchor",
    "report_data",
    "verify_binding",
    "verify_evidence",
]
