"""Small manifests for tests: a good one, and one with a single change."""

import copy
import json
from typing import Any

UNIQUE_ID = "6b" * 32
SIGNER_ID = "43" * 32

MINIMAL: dict[str, Any] = {
    "Packages": {"server": {"UniqueID": UNIQUE_ID}},
    "Marbles": {"tf-server": {"Package": "server"}},
}


def minimal(**sections: Any) -> dict[str, Any]:
    """The minimal manifest with whole sections put in or replaced."""
    return copy.deepcopy(MINIMAL) | sections


def raw(manifest: Any) -> bytes:
    """The text of a manifest, indented so that lines mean something."""
    return json.dumps(manifest, indent=2).encode()
