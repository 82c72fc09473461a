"""Which root vouches for what a coordinator is shown, and where its collateral lies."""

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from tacit.coordinator.activate import Verifier
from tacit.errors import UntrustedRootError
from tacit.evidence import INTEL, Claims, Collateral, Role, verify_binding, verify_evidence
from tacit.evidence.fetch import fetch_collateral, load_anchor, load_collateral

COLLATERAL_KEPT = timedelta(seconds=10)  # before the platform's folder is asked again

Clock = Callable[[], datetime]
Judge = Callable[[bytes], Claims]
"""Evidence in; authentic claims out, bound to whatever it is bound to."""


def make_verifier(platform: Path, *, clock: Clock) -> Verifier:
    """Evidence of this platform's TEEs, bound to the client certificate of its connection, becomes claims."""
    anchor = load_anchor(platform)
    kept: dict[str, tuple[datetime, Collateral]] = {}

    def verify(evidence: bytes, certificate: bytes) -> Claims:
        moment = clock()
        fetched, collateral = kept.get("newest", (None, None))
        if fetched is None or collateral is None or not timedelta() <= moment - fetched < COLLATERAL_KEPT:
            collateral = fetch_collateral(evidence, folder=platform)
            kept["newest"] = moment, collateral
        claims = verify_evidence(evidence, collateral, anchor, now=moment)
        verify_binding(claims, role=Role.MARBLE, key=certificate)
        return claims

    return verify


def make_judge(platform: Path | None, intel: Path | None, *, clock: Clock) -> Judge | None:
    """What verifies a quote that a caller wants signed; None where there is nothing to verify by.

    The anchor of the coordinator's own TEE judges. A quote whose chain is of another kind is judged by Intel's root,
    where there is a file with Intel's collateral.
    """
    judges: list[Judge] = []
    if platform is not None:
        judges.append(partial(_judge_by_platform, platform, clock))
    if intel is not None:
        judges.append(partial(_judge_by_intel, intel, clock))
    if not judges:
        return None

    def judge(quote: bytes) -> Claims:
        for one in judges[:-1]:
            with contextlib.suppress(UntrustedRootError):
                return one(quote)
        return judges[-1](quote)

    return judge


def _judge_by_platform(platform: Path, clock: Clock, quote: bytes) -> Claims:
    return verify_evidence(quote, fetch_collateral(quote, folder=platform), load_anchor(platform), now=clock())


def _judge_by_intel(file: Path, clock: Clock, quote: bytes) -> Claims:
    return verify_evidence(quote, load_collateral(file), INTEL, now=clock())
