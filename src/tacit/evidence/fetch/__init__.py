"""Where do anchors and collateral come from? Touches files and sockets; for composition roots and the client's connection.

In: evidence, which says of which platform it is; addresses, files and folders from the configuration, never from
evidence. Out: collateral, of which nothing is trusted, for the verifier checks its signatures against the anchor; or
claims, from `source`, which fetches, verifies, keeps, and goes back to no older judgement.

`folder` reads the simulated platform's folder and single files; `http` asks a server, within limits; `intel` and `amd`
know what to ask their makers' services; `keep` is the cache and the bundle on disk; `source` joins them.
"""

from tacit.evidence.fetch.folder import (
    default_cache_folder,
    evidence_layout,
    fetch_collateral,
    load_anchor,
    simulated_kind,
)
from tacit.evidence.fetch.source import CollateralSource, Places, find_platform

__all__ = [
    "CollateralSource",
    "Places",
    "default_cache_folder",
    "evidence_layout",
    "fetch_collateral",
    "find_platform",
    "load_anchor",
    "simulated_kind",
]
