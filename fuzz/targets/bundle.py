"""A bundle of collateral, or the file of one platform: what is read is written as it was read."""

from tacit.errors import EvidenceError
from tacit.evidence.fetch.keep import parse_bundle, platform_of, render_bundle

REFUSALS = (EvidenceError,)
LIMIT = 131072  # bytes


def check(data: bytes) -> None:
    entries = parse_bundle(data)
    assert parse_bundle(render_bundle(entries)) == entries
    for entry in entries:
        assert str(platform_of(entry.collateral)).replace("-", "").isalnum()
