"""Collateral, of which nothing is trusted until a real quote has been verified with it."""

from datetime import datetime
from pathlib import Path

from tacit.errors import EvidenceError
from tacit.evidence import INTEL, verify_evidence
from tacit.evidence.intel.collateral import IntelCollateral, render_collateral
from tacit.evidence.verify import parse_collateral

REFUSALS = (EvidenceError,)
LIMIT = 65536  # bytes

_VECTOR = Path(__file__).parents[2] / "tests" / "vectors" / "evidence" / "v3-phala-confighw"
_QUOTE = (_VECTOR / "quote.bin").read_bytes()
_NOW = datetime.fromisoformat("2025-06-20T00:00:00+00:00")


def check(data: bytes) -> None:
    collateral = parse_collateral(data)
    if isinstance(collateral, IntelCollateral):
        assert parse_collateral(render_collateral(collateral)) == collateral
    verify_evidence(_QUOTE, collateral, INTEL, now=_NOW)
