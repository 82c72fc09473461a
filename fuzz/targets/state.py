"""The coordinator's folder: a file of sealed records, the wrapped key, and the payloads inside, which only this program writes.

The first byte chooses: `f` a file, `k` a key, `s` a snapshot's payload, else a payload behind the snapshot of the corpus.
"""

from pathlib import Path

from tacit.coordinator.sealed.changes import encode_snapshot, replay
from tacit.coordinator.sealed.keys import open_key, seal_key
from tacit.coordinator.sealed.records import Position, read_file, seal_record
from tacit.errors import StateError
from tacit.evidence import Tee

REFUSALS = (StateError,)
LIMIT = 16384  # bytes
KEY = bytes(range(32))
SNAPSHOT = (Path(__file__).parents[1] / "corpus" / "state" / "snapshot").read_bytes()[1:]


class Issuer:
    """A TEE that always derives the same key."""

    tee = Tee.SIMULATED

    def issue_evidence(self, data: bytes) -> bytes:
        raise NotImplementedError

    def derive_seal_key(self, *, bound_to: str) -> bytes:
        return bound_to.ljust(32).encode()


def check(data: bytes) -> None:
    which, rest = data[:1], data[1:]
    if which == b"f":
        _file(rest)
    elif which == b"k":
        key = open_key(rest, Issuer())
        bound_to = "signer" if rest[8] == 1 else "measurement"
        assert seal_key(key, Issuer(), bound_to=bound_to, nonce=rest[9:21]) == rest  # type: ignore[arg-type]
    elif which == b"s":
        read = replay([rest])
        written = encode_snapshot(read.holdings, read.journal)
        again = replay([written])
        assert encode_snapshot(again.holdings, again.journal) == written
    else:
        replay([SNAPSHOT, rest])


def _file(data: bytes) -> None:
    contents = read_file(data, KEY)
    position, at = contents.start.base, len(contents.start.header)
    whole = contents.start.header
    for payload in contents.payloads:
        nonce = data[at + 12 : at + 24]
        record, position = seal_record(payload, start=contents.start, after=position, nonce=nonce)
        whole += record
        at += len(record)
    assert whole == data[: len(data) - contents.torn], "what was read is what is written"
    assert position == contents.position != Position()
