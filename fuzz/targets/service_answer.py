"""What a PCCS, Intel's service or AMD's answers: the first byte says in place of which answer the rest stands."""

from pathlib import Path
from urllib.parse import quote as percent

from tacit.errors import EvidenceError
from tacit.evidence.fetch.amd import fetch_amd_collateral, platform_of_certificates
from tacit.evidence.fetch.http import Answer
from tacit.evidence.fetch.intel import fetch_intel_collateral, platform_of_collateral
from tacit.evidence.fetch.keep import keep
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.snp.collateral import AmdCollateral
from tacit.evidence.verify import parse_collateral

REFUSALS = (EvidenceError,)
LIMIT = 65536  # bytes

_VECTORS = Path(__file__).parents[2] / "tests" / "vectors" / "evidence"
_INTEL = parse_collateral((_VECTORS / "v3-phala-confighw" / "collateral.json").read_bytes())
_AMD = parse_collateral((_VECTORS / "snp-v5-genoa-lunal" / "collateral.json").read_bytes())
assert isinstance(_INTEL, IntelCollateral)
assert isinstance(_AMD, AmdCollateral)


def _signed(name: str, text: str, signature: bytes) -> bytes:
    return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()


HONEST = {
    "/tcb?": _signed("tcbInfo", _INTEL.tcb_info, _INTEL.tcb_info_signature),
    "/qe/identity": _signed("enclaveIdentity", _INTEL.qe_identity, _INTEL.qe_identity_signature),
    "/pckcrl": _INTEL.pck_crl,
    "/rootcacrl": _INTEL.root_ca_crl.hex().encode(),
    "/cert_chain": _AMD.issuer_chain.encode(),
    "/crl": b"a list",
    "SPL=": _AMD.leaf,
}
_HEADERS = {
    "tcb-info-issuer-chain": percent(_INTEL.tcb_info_issuer_chain),
    "sgx-enclave-identity-issuer-chain": percent(_INTEL.qe_identity_issuer_chain),
    "sgx-pck-crl-issuer-chain": percent(_INTEL.pck_crl_issuer_chain),
}


def check(data: bytes) -> None:
    asked = list(HONEST)[data[0] % len(HONEST)] if data else "/tcb?"

    def get(url: str) -> Answer:
        name = next(part for part in HONEST if part in url)
        return Answer(data[1:] if name == asked else HONEST[name], _HEADERS)

    if asked in ("/cert_chain", "/crl", "SPL="):
        keep(fetch_amd_collateral(platform_of_certificates(_AMD), "http://kds", get))
    else:
        keep(fetch_intel_collateral(platform_of_collateral(_INTEL), "http://pccs", get))
