"""Is this evidence authentic, and whose key does it bind? One door for every kind of evidence.

`entry` sees what kind it is and hands it to the verifier of its maker (`tacit.evidence.intel`, `tacit.evidence.snp`);
`binding` says what report data has to be, `collateral` reads either maker's. `envelope` and `ratls` (with `cbor`) are
what evidence travels in.
"""

from tacit.evidence.verify.binding import Binding, report_data, verify_binding
from tacit.evidence.verify.collateral import Collateral, parse_collateral
from tacit.evidence.verify.entry import verify_evidence

__all__ = ["Binding", "Collateral", "parse_collateral", "report_data", "verify_binding", "verify_evidence"]
