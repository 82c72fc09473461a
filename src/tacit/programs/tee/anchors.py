"""Which root vouches for what a coordinator is shown, and where its collateral lies.

There are two judges: one for evidence of real TEEs, by their makers' roots; and on a simulated platform one by that
platform's own. Whose word counts is said by who asks (a manifest's package names its kind of TEE), never by evidence.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from tacit.coordinator.activate import Verifier
from tacit.errors import CollateralAbsentError, CollateralError, PlatformError, UntrustedRootError, WrongTeeError
from tacit.evidence import Claims, Collateral, Role, Tee, TrustAnchor, verify_binding, verify_evidence
from tacit.evidence.anchor import MAKERS
from tacit.evidence.fetch import (
    CollateralSource,
    Places,
    evidence_layout,
    fetch_collateral,
    find_platform,
    load_anchor,
    simulated_kind,
)

COLLATERAL_KEPT = timedelta(seconds=10)  # before the platform's folder is asked again
# Why a judge does not know some evidence at all; the other may.
_UNKNOWN = (UntrustedRootError, CollateralAbsentError, CollateralError, PlatformError, WrongTeeError)

Clock = Callable[[], datetime]
Judge = Callable[[bytes], Claims]
"""Evidence in; authentic claims out, bound to whatever it is bound to."""


def make_verifier(platform: Path | None, source: CollateralSource | None, *, clock: Clock) -> Verifier:
    """Evidence that is bound to the client certificate of its connection becomes claims.

    The judge for the kind that the package names comes first, and its refusal is the one that is told. Evidence that the
    other judge knows is refused all the same, by the package, which then says what it found. In a real TEE there is no
    `platform`, so nothing simulated has a judge.
    Raises: PlatformError, where the platform's folder is named and holds none.
    """
    # Without a place for collateral real evidence is still told from what is none, and what is missing is named.
    places = source or CollateralSource(Places(None, None, None, None))
    simulated = None if platform is None else _make_simulated_judge(platform, clock=clock)

    def verify(evidence: bytes, certificate: bytes, tee: Tee) -> Claims:
        real = _make_real_judge(places, clock=clock, kind=tee)
        judges = [one for one in ((simulated, real) if tee.is_simulated else (real, simulated)) if one is not None]
        return verify_binding(_ask(judges, evidence), role=Role.MARBLE, key=certificate)

    return verify


def make_judge(platform: Path | None, source: CollateralSource | None, *, clock: Clock) -> Judge | None:
    """What verifies a quote that a caller wants signed; None where there is nothing to verify by.

    It is the maker's root that judges, where something says where its collateral comes from, or that of the
    coordinator's own platform.
    """
    judges: list[Judge] = []
    if source is not None:
        judges.append(_make_real_judge(source, clock=clock))
    if platform is not None:
        judges.append(_make_simulated_judge(platform, clock=clock))
    return (lambda quote: _ask(judges, quote)) if judges else None


def _make_real_judge(source: CollateralSource, *, clock: Clock, kind: Tee | None = None) -> Judge:
    """Evidence of a real TEE, by the root of its maker; of this kind alone, where one is expected.

    A report of AMD's has no chain, and anybody can make some up. So no service is asked about evidence of another kind,
    which would be refused with any answer.
    """

    def judge(evidence: bytes) -> Claims:
        layout, now = evidence_layout(evidence), clock()
        if kind is not None and layout is not kind:
            find_platform(evidence, MAKERS[layout], now)  # of another root, that is what is told
            raise WrongTeeError(f"evidence has the form of TEE {layout}; the package allows {kind}")
        return source.verify(evidence, MAKERS[layout], now=now)

    return judge


def _make_simulated_judge(platform: Path, *, clock: Clock) -> Judge:
    """Evidence of any simulated kind, by this platform's roots. Raises: PlatformError."""
    load_anchor(platform)  # no start without a platform
    kept: dict[Tee, tuple[datetime, TrustAnchor, Collateral]] = {}

    def judge(evidence: bytes) -> Claims:
        moment, tee = clock(), simulated_kind(evidence)
        found = kept.get(tee)
        if found is None or not timedelta() <= moment - found[0] < COLLATERAL_KEPT:
            found = moment, load_anchor(platform, tee=tee), fetch_collateral(evidence, folder=platform)
            kept[tee] = found
        return verify_evidence(evidence, found[2], found[1], now=moment)

    return judge


def _ask(judges: list[Judge], evidence: bytes) -> Claims:
    """The claims of the first judge that knows this evidence, or the first one's refusal. Raises: EvidenceError."""
    refusals: list[Exception] = []
    for judge in judges:
        try:
            return judge(evidence)
        except _UNKNOWN as exc:
            refusals.append(exc)
    raise refusals[0]
