"""Evidence: SNP reports, TDX quotes, and of SGX envelope, quote, and the whole verification against real collateral and Intel's root."""

from datetime import datetime
from pathlib import Path

from tacit.errors import EvidenceError
from tacit.evidence import INTEL, Tee, verify_evidence
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.sgx.report import SgxReport, check_attributes
from tacit.evidence.snp.report import check_snp_attributes, is_report, parse_snp_report
from tacit.evidence.verify import parse_collateral
from tacit.evidence.verify.envelope import unwrap, wrap

REFUSALS = (EvidenceError,)
LIMIT = 8192  # bytes

_VECTOR = Path(__file__).parents[2] / "tests" / "vectors" / "evidence" / "v3-phala-confighw"
_COLLATERAL = parse_collateral((_VECTOR / "collateral.json").read_bytes())
_NOW = datetime.fromisoformat("2025-06-20T00:00:00+00:00")


def check(data: bytes) -> None:
    bare = unwrap(data)
    if is_report(bare):
        check_snp_attributes(parse_snp_report(bare))
        return
    quote = parse_quote(bare)
    assert unwrap(wrap(bare)) == bare
    if not isinstance(quote.report, SgxReport):
        assert quote.tee is Tee.TDX
        return
    check_attributes(quote.report)
    claims = verify_evidence(data, _COLLATERAL, INTEL, now=_NOW)
    assert claims.measurement == quote.report.mr_enclave
