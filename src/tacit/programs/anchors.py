"""Which root vouches for what a coordinator is shown, and where its collateral lies."""

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from tacit.coordinator.activate import Verifier
from tacit.errors import UntrustedRootError
from tacit.evidence import Claims, Collateral, Role, Tee, TrustAnchor, verify_binding, verify_evidence
from tacit.evidence.anchor import MAKERS
from tacit.evidence.fetch import CollateralSource, evidence_layout, fetch_collateral, load_anchor, simulated_kind

COLLATERAL_KEPT = timedelta(seconds=10)  # before the platform's folder is asked again

Clock = Callable[[], datetime]
Judge = Callable[[bytes], Claims]
"""Evidence in; authentic claims out, bound to whatever it is bound to."""


def make_verifier(platform: Path, *, clock: Clock) -> Verifier:
    """Evidence of this platform's TEEs, bound to the client certificate of its connection, becomes claims."""
    load_anchor(platform)  # no start without a platform
    kept: dict[Tee, tuple[datetime, TrustAnchor, Collateral]] = {}

    def verify(evidence: bytes, certificate: bytes) -> Claims:
        moment, tee = clock(), simulated_kind(evidence)
        found = kept.get(tee)
        if found is None or not timedelta() <= moment - found[0] < COLLATERAL_KEPT:
            # All of them are this platform's, and every package says which kind it allows.
            found = moment, load_anchor(platform, tee=tee), fetch_collateral(evidence, folder=platform)
            kept[tee] = found
        claims = verify_evidence(evidence, found[2], found[1], now=moment)
        return verify_binding(claims, role=Role.MARBLE, key=certificate)

    return verify


def make_judge(platform: Path | None, source: CollateralSource | None, *, clock: Clock) -> Judge | None:
    """What verifies a quote that a caller wants signed; None where there is nothing to verify by.

    The anchor of the coordinator's own TEE judges. A quote whose chain is of another kind is judged by its maker's
    root, where something says where its collateral comes from.
    """
    judges: list[Judge] = []
    if platform is not None:
        judges.append(partial(_judge_by_platform, platform, clock))
    if source is not None:
        judges.append(partial(_judge_by_maker, source, clock))
    if not judges:
        return None

    def judge(quote: bytes) -> Claims:
        for one in judges[:-1]:
            with contextlib.suppress(UntrustedRootError):
                return one(quote)
        return judges[-1](quote)

    return judge


def _judge_by_platform(platform: Path, clock: Clock, quote: bytes) -> Claims:
    anchor = load_anchor(platform, tee=simulated_kind(quote))
    return verify_evidence(quote, fetch_collateral(quote, folder=platform), anchor, now=clock())


def _judge_by_maker(source: CollateralSource, clock: Clock, quote: bytes) -> Claims:
    return source.verify(quote, MAKERS[evidence_layout(quote)], now=clock())
