"""The routes of the audit log: what is asked for, and the answers. Ours: MarbleRun has no such log."""

from urllib.parse import parse_qs

from tacit.coordinator.updates.audit import Page
from tacit.errors import InputError
from tacit.wire.log import LogDigestsV2, LogV2

_MAX_DIGITS = 18


def parse_after(query: str) -> int:
    """The number of the entry after which the answer begins; 0 where none is given.

    Raises:
        InputError: no such number.
    """
    given = parse_qs(query, keep_blank_values=True).get("after", ["0"])[0]
    if not given.isascii() or not given.isdigit() or len(given) > _MAX_DIGITS:
        raise InputError(f'invalid query: after is "{given[:40]}"; expected the number of an entry, or 0')
    return int(given)


def log_page(page: Page) -> LogV2:
    """The answer with lines."""
    lines = [line.decode() for line in page.lines]
    return LogV2(page.begins.number, page.begins.head.hex(), lines, page.mark)


def digests_page(page: Page) -> LogDigestsV2:
    """The answer with digests."""
    return LogDigestsV2(page.begins.number, b"".join(page.lines), page.mark)
