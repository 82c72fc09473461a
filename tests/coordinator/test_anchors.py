"""Which root vouches for what a coordinator is shown: its own platform's, and Intel's where there is collateral."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from fakes.core import PLAIN_MANIFEST, UUID, encode
from fakes.programs import CoordinatorProcess, activate, make_platform_folder
from tacit.errors import (
    CollateralAbsentError,
    CollateralError,
    CollateralTimeError,
    EvidenceFormatError,
    UntrustedRootError,
)
from tacit.evidence import Tee
from tacit.evidence.fetch import CollateralSource, Places
from tacit.evidence.issue import load_simulated_tee
from tacit.pki import KeyPair
from tacit.pki.keys import parse_private_key
from tacit.programs.tee.anchors import make_judge
from tacit.programs.tee.collateral import read_places

pytestmark = pytest.mark.slow

INTEL = Path(__file__).parents[1] / "vectors" / "evidence" / "v3-phala-confighw"
QUOTE = (INTEL / "quote.bin").read_bytes()
COLLATERAL = INTEL / "collateral.json"


def intel_time() -> datetime:
    """When Intel's recorded collateral was in force."""
    return datetime.fromisoformat(json.loads((INTEL / "expect.json").read_text())["verify_at"]).astimezone(UTC)


def real_time() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_platform_folder(tmp_path_factory.mktemp("platform"))


def recorded() -> CollateralSource:
    return CollateralSource(Places(None, None, COLLATERAL, None))


def own_quote(platform: Path) -> bytes:
    return load_simulated_tee(platform, program="marble", now=real_time()).issue_evidence(bytes(64))


def test_without_any_root_there_is_no_judge() -> None:
    assert make_judge(None, None, clock=real_time) is None


def test_the_own_platform_judges_its_quotes_and_no_others(platform: Path, tmp_path: Path) -> None:
    judge = make_judge(platform, None, clock=real_time)
    assert judge is not None
    assert judge(own_quote(platform)).tee is Tee.SIMULATED
    for foreign in (own_quote(make_platform_folder(tmp_path / "other")), QUOTE):
        with pytest.raises(UntrustedRootError):
            judge(foreign)
    with pytest.raises(EvidenceFormatError):
        judge(b"nonsense")


def test_intels_root_judges_quotes_of_sgx_where_there_is_collateral(platform: Path) -> None:
    expected = json.loads((INTEL / "expect.json").read_text())["tcb_status"]
    for own in (None, platform):
        judge = make_judge(own, recorded(), clock=intel_time)
        assert judge is not None
        claims = judge(QUOTE)
        assert (claims.tee, claims.tcb_status) == (Tee.SGX, expected)
    alone = make_judge(None, recorded(), clock=real_time)
    assert alone is not None
    with pytest.raises(UntrustedRootError):
        alone(own_quote(platform))
    with pytest.raises(CollateralTimeError):
        alone(QUOTE)


def test_collateral_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    file = tmp_path / "collateral.json"
    with pytest.raises(CollateralAbsentError):
        CollateralSource(Places(None, None, file, None))
    file.write_bytes(b"{}")
    with pytest.raises(CollateralError):
        CollateralSource(Places(None, None, file, None))


def test_the_environment_says_where_collateral_comes_from(tmp_path: Path) -> None:
    assert read_places({}) is None
    assert read_places({"TACIT_PCCS": "", "TACIT_COLLATERAL_BUNDLE": ""}) is None
    own = read_places({"TACIT_PCCS": "intel", "TACIT_KDS": "amd", "TACIT_COLLATERAL_CACHE": "/c"})
    assert own == Places(cache=Path("/c"))
    named = read_places({"TACIT_PCCS": "https://pccs:8081", "TACIT_COLLATERAL_BUNDLE": "/b"})
    assert named == Places("https://pccs:8081", None, Path("/b"), None)
    assert read_places({"TACIT_INTEL_COLLATERAL": "/b"}) == Places(None, None, Path("/b"), None)


# ---- the program, over TLS


async def test_a_marble_counts_and_a_quote_is_signed_over_tls(platform: Path, tmp_path: Path) -> None:
    tee = load_simulated_tee(platform, program="marble", now=real_time())
    manifest = {
        **PLAIN_MANIFEST,
        "Packages": {"p": {"TEE": "simulated", "UniqueID": tee.package_info.unique_id.hex()}},
        "Config": {"FeatureGates": ["SignQuoteEndpoint", "MonotonicCounter"]},
    }
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator:
        with coordinator.http() as http:
            assert http.post("/manifest", content=encode(manifest)).status_code == 200
        env = (await activate(coordinator.mesh, "m", uuid=UUID, issuer=tee)).parameters.env
        leaf, _ = x509.load_pem_x509_certificates(env["MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"])
        own = KeyPair(leaf, parse_private_key(env["MARBLE_PREDEFINED_PRIVATE_KEY"]))
        with coordinator.http(own) as http:
            answers = [http.post("/api/v2/monotonic-counter", json={"name": "n", "value": v}) for v in (2, 1, 9)]
            assert [one.json()["data"]["value"] for one in answers] == [0, 2, 2]
        with coordinator.http() as http:
            assert http.post("/api/v2/monotonic-counter", json={"name": "n", "value": 1}).status_code == 401
            quote = tee.issue_evidence(bytes(64))
            data = http.post("/api/v2/sign-quote", json={"sgxQuote": base64.b64encode(quote).decode()}).json()["data"]
        root = x509.load_pem_x509_certificate(env["MARBLE_PREDEFINED_COORDINATOR_ROOT_CA"]).public_key()
        assert isinstance(root, EllipticCurvePublicKey)
        signed = base64.b64encode(quote) + data["tcbStatus"].encode()
        root.verify(base64.b64decode(data["verificationSignature"]), signed, ECDSA(SHA256()))
        coordinator.kill()
    with CoordinatorProcess(tmp_path, platform=platform) as coordinator, coordinator.http(own) as http:
        assert http.post("/api/v2/monotonic-counter", json={"name": "n", "value": 1}).json()["data"] == {"value": 9}
