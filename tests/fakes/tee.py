"""Simulated TEEs in memory: the real platform code without a folder, with knobs for whatever may go wrong.

    tee = FakeTee()                                  # an Issuer, as the coordinator and the marble take one
    evidence = tee.issue_evidence(report_data(...))
    claims = verify_evidence(evidence, tee.collateral, tee.anchor, now=NOW)

Several TEEs on one platform: `FakeTee(platform=tee.platform, measurement=...)`. On another: `FakeTee(platform=other_platform())`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Literal

from tacit.evidence import Tee, TrustAnchor
from tacit.evidence.claims import PackageInfo
from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.issue import SimulatedTee
from tacit.evidence.sgx.report import ATTRIBUTE_DEBUG
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.platform import SimulatedPlatform, generate_platform
from tacit.evidence.simulated.quote import Enclave, QuotingKeys

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def make_platform(*, now: datetime = NOW) -> SimulatedPlatform:
    """A platform with new keys."""
    return generate_platform(now=now, random=lambda size: sha256(b"fake").digest()[:size])


@cache
def shared_platform() -> SimulatedPlatform:
    """One platform for all tests of a process: making keys takes half a second."""
    return make_platform()


@cache
def other_platform() -> SimulatedPlatform:
    """A second platform, for tests in which two must not trust each other."""
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
    def quoting_keys(self) -> QuotingKeys:
        one = self.platform
        assert one.keys is not None
        return QuotingKeys(one.keys.attestation, one.keys.pck, one.pck_chain, one.cpu_svn)

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
    def collateral(self) -> IntelCollateral:
        return self.platform.collateral

    def issue_evidence(self, data: bytes) -> bytes:
        return self._tee.issue_evidence(data)

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes:
        return self._tee.derive_seal_key(bound_to=bound_to)


def forge_collateral(
    platform: SimulatedPlatform,
    *,
    begin: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=30),
    crl_begin: datetime | None = None,
    crl_end: datetime | None = None,
    info: Callable[[dict[str, Any]], object] = lambda value: None,
    identity: Callable[[dict[str, Any]], object] = lambda value: None,
    text: Callable[[str], str] = lambda text: text,
    signer: authority.Signer | None = None,
    revoked_by_root: Sequence[int] = (),
    revoked_by_pck_ca: Sequence[int] = (),
) -> IntelCollateral:
    """Collateral signed by the platform's own authority, after each part was changed as the test likes.

    `info` and `identity` change the objects in place, `text` changes TCB info's text just before it is signed.
    """
    keys = platform.keys
    assert keys is not None
    root, pck_ca = authority.Signer(platform.root, keys.root), authority.Signer(platform.pck_ca, keys.pck_ca)
    signer = signer or authority.Signer(platform.tcb_signer, keys.tcb_signer)
    found = parse_pck_extension(platform.pck)
    described = authority.Platform(found.ppid, found.fmspc, found.pce_id, found.components, found.pce_svn)
    tcb_info = authority.tcb_info(described, begin=begin, end=end)
    qe_identity = authority.qe_identity(begin=begin, end=end)
    info(tcb_info)
    identity(qe_identity)
    info_text, identity_text = text(authority.render_text(tcb_info)), authority.render_text(qe_identity)
    crl = {"begin": crl_begin or begin, "end": crl_end or end}
    return IntelCollateral(
        pck_crl_issuer_chain=authority.chain_pem(platform.pck_ca, platform.root),
        root_ca_crl=authority.issue_crl(root, **crl, revoked=revoked_by_root),
        pck_crl=authority.issue_crl(pck_ca, **crl, revoked=revoked_by_pck_ca),
        tcb_info_issuer_chain=authority.chain_pem(signer.certificate, platform.root),
        tcb_info=info_text,
        tcb_info_signature=authority.sign(signer.key, info_text.encode()),
        qe_identity_issuer_chain=authority.chain_pem(signer.certificate, platform.root),
        qe_identity=identity_text,
        qe_identity_signature=authority.sign(signer.key, identity_text.encode()),
    )
