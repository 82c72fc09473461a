"""Recovery: the plan beside the state, which its host may alter, and shares that anybody may send.

`p` + a plan. Else a threshold, then shares of 34 bytes or less, for which a plan is made as a host would make it.
"""

import hashlib

from tacit.coordinator.sealed.shares import (
    Given,
    Plan,
    accept_share,
    combine_shares,
    encode_plan,
    make_plan,
    parse_plan,
    split_key,
)
from tacit.errors import RecoveryError

REFUSALS = (RecoveryError,)
LIMIT = 1024  # bytes
KEY = bytes(range(32))


def check(data: bytes) -> None:
    if data[:1] == b"p":
        plan = parse_plan(data[1:])
        assert parse_plan(encode_plan(plan)) == plan
        return
    threshold, rest = data[:1][0] % 8 if data else 0, data[1:]
    if threshold == 7:
        _split(rest)
        return
    shares = [rest[at + 1 : at + 1 + rest[at] % 35] for at in range(0, len(rest), 36)]
    plan = parse_plan(encode_plan(Plan(threshold, tuple(hashlib.sha256(one).hexdigest() for one in shares))))
    given: tuple[Given, ...] = ()
    for one in shares:
        given = accept_share(plan, given, Given(one, b""))
        if not plan.remaining(len(given)):
            combine_shares(plan, [each.share for each in given])
            return


def _split(rest: bytes) -> None:
    """Shares of a key bring it back, whoever of the holders comes."""
    count, threshold, seed = (*rest[:2], 1, 1)[0] % 6 + 1, (*rest[:2], 1, 1)[1] % 6 + 1, rest[2:]
    threshold = min(threshold, count)
    if threshold == 1 < count:
        return
    shares = split_key(KEY, count=count, threshold=threshold, random=_Random(seed))
    plan = make_plan(shares, threshold=threshold)
    assert parse_plan(encode_plan(plan)) == plan
    chosen = sorted(shares, key=lambda share: hashlib.sha256(seed + share).digest())
    assert combine_shares(plan, chosen[: plan.threshold]) == KEY


class _Random:
    """Bytes that a seed decides."""

    def __init__(self, seed: bytes) -> None:
        self._state = seed

    def __call__(self, size: int) -> bytes:
        self._state = hashlib.sha256(self._state).digest()
        return hashlib.shake_256(self._state).digest(size)
