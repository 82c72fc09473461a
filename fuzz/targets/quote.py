"""SGX evidence: envelope, quote, and the whole verification against real collateral and Intel's root."""

from datetime import datetime
from pathlib import Path

from tacit.errors import EvidenceError
from tacit.evidence import INTEL, parse_collateral, verify_evidence
from tacit.evidence.sgx.quote import check_attributes, parse_quote, unwrap, wrap

REFUSALS = (EvidenceError,)
LIMIT = 8192  # bytes

_VECTOR = Path(__file__).parents[2] / "tests" / "vectors" / "evidence" / "v3-phala-confighw"
_COLLATERAL = parse_collateral((_VECTOR / "collateral.json").read_bytes())
_NOW = datetime.fromisoformat("2025-06-20T00:00:00+00:00")


def check(data: bytes) -> None:
    bare = unwrap(data)
    quote = parse_quote(bare)
    check_attributes(quote.report)
    assert unwrap(wrap(bare)) == bare
    claims = verify_evidence(data, _COLLATERAL, INTEL, now=_NOW)
    assert claims.measurement == quote.report.mr_enclave
