"""Compressed bodies: whole ones are read whole, and none costs more than its limit."""

import gzip
import json
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.served import example
from tacit.edge import HttpRequest
from tacit.edge.pieces import inflate
from tacit.errors import RequestError, Status
from tacit.serving.oip.rest import OipRest
from tacit.serving.plane import Plane
from tacit.serving.tfs.rest import TfsRest

BEYOND = RequestError(Status.RESOURCE_EXHAUSTED, "too much")


def read(body: bytes, limit: int = 1 << 20) -> bytes:
    return inflate(body, "gzip", limit=limit, beyond=BEYOND)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8))
def test_members_that_follow_one_another_are_one_body(parts: list[bytes]) -> None:
    assert read(b"".join(map(gzip.compress, parts))) == b"".join(parts)


def test_members_are_read_across_the_pieces_in_which_a_body_is_read() -> None:
    raw = np.random.default_rng(1).bytes(300_000)
    packed = [gzip.compress(raw[at : at + step], 1) for at, step in ((0, 65_500), (65_500, 1), (65_501, 300_000))]
    assert read(b"".join(packed)) == raw


def test_a_body_of_just_the_limit_is_read_and_one_byte_more_is_refused() -> None:
    for size in (0, 1, 1000, 200_000):
        assert read(gzip.compress(bytes(size)), limit=size) == bytes(size)
        for beyond in (gzip.compress(bytes(size + 1)), gzip.compress(bytes(size)) + gzip.compress(b"x")):
            with pytest.raises(RequestError, match="too much"):
                read(beyond, limit=size)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no gzip",
        gzip.compress(b"abc", mtime=0)[:-1],
        gzip.compress(b"abc", mtime=0) + b"more",
        gzip.compress(b"abc", mtime=0) + gzip.compress(b"def", mtime=0)[:-6],
        gzip.compress(b"abc", mtime=0) + bytes(8),
        gzip.compress(b"abc", mtime=0)[:-8] + bytes(8),
        zlib.compress(b"abc"),
    ],
)
def test_what_is_no_whole_body_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        read(body)
    assert refusal.value.status is Status.INVALID_ARGUMENT


def test_t44_no_bomb_takes_more_memory_than_its_limit() -> None:
    bombs = [gzip.compress(bytes(64 << 20)), gzip.compress(bytes(1 << 19)) * 1000]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(RequestError, match="too much"):
                read(bomb, limit=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_t44_a_million_members_that_hold_nothing_are_refused_in_no_time() -> None:
    body = gzip.compress(b"") * 1_000_000
    begun = time.process_time()
    with pytest.raises(RequestError, match="members"):
        read(body)
    assert time.process_time() - begun < 2


async def test_both_interfaces_read_all_members_of_a_body() -> None:
    entry = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    plane = Plane(example())
    interfaces = [
        (OipRest(plane, max_inflated=1 << 20), "/v2/models/half_plus_two/infer", {"inputs": [entry]}),
        (TfsRest(plane), "/v1/models/half_plus_two:predict", {"instances": [1.0, 2.0]}),
    ]
    for rest, path, document in interfaces:
        raw = json.dumps(document).encode()
        packed = gzip.compress(raw[:20]) + gzip.compress(raw[20:])
        request = HttpRequest("POST", path, "", {"content-encoding": "gzip"}, packed, None)
        answer = await rest.handle(request)
        assert (answer.status, b"2.5" in answer.body) == (200, True), answer.body
