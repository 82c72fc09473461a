"""Collateral for the client's connections: of the simulated platform, or from where the expectation says."""

import os
from functools import lru_cache
from pathlib import Path

from tacit.evidence import Collateral
from tacit.evidence.fetch import CollateralSource, Places, default_cache_folder, fetch_collateral
from tacit.evidence.issue import default_platform_folder


def load_simulated(evidence: bytes, platform: Path | None) -> Collateral:
    """Of the simulated platform in this folder, or this user's. Raises: PlatformError, EvidenceFormatError."""
    return fetch_collateral(evidence, folder=platform or default_platform_folder(os.environ))


def own_platform() -> Path:
    """The folder of this user's simulated platform."""
    return default_platform_folder(os.environ)


def open_source(where: str | None) -> CollateralSource:
    """For a real TEE. The last ones are kept, so that a connection that is made anew does not read everything again.

    Raises:
        CollateralAbsentError: an address that is none, or no bundle where one was named.
        CollateralError: a bundle that cannot be read.
    """
    return _open(where, default_cache_folder(os.environ))


@lru_cache(maxsize=8)
def _open(where: str | None, cache: Path | None) -> CollateralSource:
    return CollateralSource(Places.named(where, cache=cache))
