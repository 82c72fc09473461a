"""Simulated TEEs in memory: the real platform code without a folder, with knobs for whatever may go wrong.

    tee = FakeTee()                                  # an Issuer, as the coordinator and the marble take one
    evidence = tee.issue_evidence(report_data(...))
    claims = verify_evidence(evidence, tee.collateral, tee.anchor, now=NOW)

Several TEEs on one platform: `FakeTee(platform=tee.platform, measurement=...)`. On another: `FakeTee(platform=make_platform())`.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from typing import Literal

from tacit.evidence import Collateral, Tee, TrustAnchor
from tacit.evidence.claims import PackageInfo
from tacit.evidence.issue import SimulatedTee
from tacit.evidence.sgx.quote import ATTRIBUTE_DEBUG
from tacit.evidence.simulated.platform import SimulatedPlatform, generate_platform
from tacit.evidence.simulated.quote import Enclave

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def make_platform(*, now: datetime = NOW) -> SimulatedPlatform:
    """A platform with new keys."""
    return generate_platform(now=now, random=lambda size: sha256(b"fake").digest()[:size])


@cache
def shared_platform() -> SimulatedPlatform:
    """One platform for all tests of a process: making keys takes half a second."""
    return make_platform()


class FakeTee:
    """An Issuer whose measurement, product, versions and attributes the test chooses."""

    def __init__(
        self,
        *,
        platform: SimulatedPlatform | None = None,
        measurement: bytes = b"\x11" * 32,
        product_id: int = 1,
        security_version: int = 1,
        debug: bool = False,
        signer: bytes | None = None,
        attributes: int | None = None,
        xfrm: int | None = None,
    ) -> None:
        self.platform = platform or shared_platform()
        enclave = Enclave(measurement, signer or self.platform.signer_id, product_id, security_version)
        if debug:
            enclave = replace(enclave, attributes=enclave.attributes | ATTRIBUTE_DEBUG)
        if attributes is not None:
            enclave = replace(enclave, attributes=attributes)
        if xfrm is not None:
            enclave = replace(enclave, xfrm=xfrm)
        self.enclave = enclave
        assert self.platform.keys is not None
        self._tee = SimulatedTee(self.platform, self.platform.keys, enclave)

    @property
    def tee(self) -> Tee:
        return self._tee.tee

    @property
    def package_info(self) -> PackageInfo:
        return self._tee.package_info

    @property
    def anchor(self) -> TrustAnchor:
        return self.platform.anchor

    @property
    def collateral(self) -> Collateral:
        return self.platform.collateral

    def issue_evidence(self, data: bytes) -> bytes:
        return self._tee.issue_evidence(data)

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes:
        return self._tee.derive_seal_key(bound_to=bound_to)
