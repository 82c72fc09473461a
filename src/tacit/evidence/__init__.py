"""Who is it? Evidence and collateral come in as bytes, with an anchor and the time; `Claims` go out, or an error.

    bytes → parsed quote → `Claims` (authentic, by `verify_evidence`) → `Appraisal` (allowed, by `manifest.appraise`)

Kinds of TEE: SGX (quotes of version 3, Intel's pinned root) and simulated ones (the same layout and the same verifier,
another root). No function here returns whether something is valid: a check that fails raises.
`issue` and `fetch` touch the world and are for composition roots; everything else is pure.
"""

from tacit.evidence.anchor import INTEL
from tacit.evidence.binding import report_data, verify_binding
from tacit.evidence.claims import Claims, Role, Tee, TrustAnchor
from tacit.evidence.collateral import Collateral, parse_collateral
from tacit.evidence.dcap import verify_evidence

__all__ = [
    "INTEL",
    "Claims",
    "Collateral",
    "Role",
    "Tee",
    "TrustAnchor",
    "parse_collateral",
    "report_data",
    "verify_binding",
    "verify_evidence",
]
