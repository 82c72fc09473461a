"""The sealing key among several holders: the recorded shares open, fewer do not."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

KEY = bytes(range(32))


def load(vectors: Path, name: str) -> Any:
    return json.loads((vectors / "marblerun" / "seal" / name).read_text())


def seeded(seed: bytes) -> Callable[[int], bytes]:
    """Bytes that differ from call to call, the same in every run."""
    counter = itertools.count(1)
    return lambda size: bytes((next(counter) * 37 + seed[0]) % 256 for _ in range(size))


def test_the_recorded_shares_of_shamirs_scheme_open(shared_vectors: Path) -> None:
    recorded = load(shared_vectors, "shamir-2of3-shares.json")
    shares = [bytes.fromhex(one) for one in recorded["shares"].values()]
    plan = make_plan(shares, threshold=2)
    for pair in itertools.permutations(shares, 2):
        assert combine_shares(plan, pair) == bytes.fromhex(recorded["secret"])


@pytest.mark.parametrize(
    ("shares", "plan"),
    [
        ("multi-xor-shares.json", "recovery-data-multi-xor.json"),
        ("shamir-2of3-shares.json", "recovery-data-shamir-2of3.json"),
    ],
)
def test_shares_are_known_again_by_the_recorded_digests(shared_vectors: Path, shares: str, plan: str) -> None:
    recorded = load(shared_vectors, shares)
    values = recorded.get("shares", recorded)
    made = make_plan([bytes.fromhex(one) for one in values.values()], threshold=0)
    assert sorted(made.shares) == sorted(load(shared_vectors, plan))


@given(
    key=st.binary(min_size=32, max_size=32),
    count=st.integers(1, 6),
    threshold=st.integers(0, 6),
    seed=st.binary(min_size=1, max_size=1),
)
def test_enough_shares_give_the_key_back(key: bytes, count: int, threshold: int, seed: bytes) -> None:
    if threshold == 1 or threshold > count:
        threshold = 0
    shares = split_key(key, count=count, threshold=threshold, random=seeded(seed))
    plan = parse_plan(encode_plan(make_plan(shares, threshold=threshold)))
    assert combine_shares(plan, shares[-plan.threshold :]) == key


def test_t33_too_few_shares_give_something_else() -> None:
    shares = split_key(KEY, count=3, threshold=3, random=os.urandom)
    assert combine_shares(Plan(2, ("a", "b")), shares[:2]) != KEY
    shares = split_key(KEY, count=4, threshold=3, random=os.urandom)
    assert combine_shares(make_plan(shares, threshold=3), shares[:2]) != KEY


def test_what_remains_is_counted_as_marblerun_counts() -> None:
    assert [Plan(3, ("a", "b", "c")).remaining(given) for given in (1, 2, 3)] == [2, 1, 0]
    assert [Plan(2, ("a", "b", "c")).remaining(given) for given in (1, 2)] == [2, 0]
    assert Plan().remaining(1) == 0


def test_t33_a_share_that_is_unknown_or_given_before_is_refused() -> None:
    shares = split_key(KEY, count=3, threshold=0, random=os.urandom)
    plan = make_plan(shares, threshold=0)
    first = accept_share(plan, (), Given(shares[0], b""))
    for bad in (shares[0], bytes(32), b""):
        with pytest.raises(RecoveryError, match="invalid or already used"):
            accept_share(plan, first, Given(bad, b""))


@pytest.mark.parametrize(
    ("threshold", "shares"),
    [
        (2, [bytes(32), bytes(31)]),
        (2, [b"", b"a"]),
        (2, [b"", bytes(33), bytes(33)]),
        (2, [bytes([1]) * 33, bytes([2]) * 32 + b"\1", bytes(33)]),
        (2, [bytes([3]) * 32 + b"\0", bytes([2]) * 33, bytes(33)]),
    ],
    ids=["another size", "empty", "empty of three", "one point twice", "the key's own point"],
)
def test_t32_a_plan_that_its_host_made_up_opens_nothing(threshold: int, shares: list[bytes]) -> None:
    plan = make_plan(shares, threshold=threshold)
    given: tuple[Given, ...] = ()
    for share in shares[:threshold]:
        given = accept_share(plan, given, Given(share, b""))
    with pytest.raises(RecoveryError, match="the plan beside the sealed state was altered"):
        combine_shares(plan, [one.share for one in given])


@pytest.mark.parametrize(
    "raw",
    [b"x", b"[]", b'{"shares":["\xba"]}', b'{"threshold":0,"shares":["a","b"]}', b'{"threshold":3,"shares":["a"]}'],
)
def test_t33_a_damaged_plan_is_refused(raw: bytes) -> None:
    with pytest.raises(RecoveryError, match="recovery plan"):
        parse_plan(raw)
