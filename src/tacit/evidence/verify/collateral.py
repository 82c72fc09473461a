"""Collateral of either maker, from its JSON file."""

from tacit.errors import CollateralError
from tacit.evidence.anchor.strict_json import parse_strict_json
from tacit.evidence.intel.collateral import IntelCollateral, parse_intel_collateral
from tacit.evidence.snp.collateral import AmdCollateral, parse_amd_collateral

Collateral = IntelCollateral | AmdCollateral


def parse_collateral(raw: bytes) -> Collateral:
    """Collateral from its JSON file; one with a chip's certificate (`leaf`) is AMD's.

    Raises:
        CollateralError: not strict JSON, or a field that is missing, unknown or of another type.
    """
    value = parse_strict_json(raw, lambda defect: CollateralError(f"collateral: {defect}"))
    if not isinstance(value, dict):
        raise CollateralError("collateral is a JSON object; this is another value")
    return parse_amd_collateral(value) if "leaf" in value else parse_intel_collateral(value)
