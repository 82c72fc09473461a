"""Every recorded request of the client API, put to ours: the same answers, in the order in which they were recorded.

A story is one run of the recorded coordinator: what was done first, and the requests that followed. A test counts the
cases of each folder and those of the stories, so that none can be left out without a word.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from fakes.core import UUID, make_order
from fakes.recorded import DIFFERENT, RECORDED, Replay, load, recorded_cases, recorded_manifest
from tacit.coordinator.api.metrics import Metrics
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.api.routes import PATHS
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.state import State

COUNTS: Mapping[str, int] = {
    "1-before-manifest": 50,
    "2-after-minimal": 17,
    "3-invalid-manifests": 64,
    "4-with-prometheus": 3,
    "5-typical": 4,
    "6-secrets": 37,
    "7-recovery-single": 27,
    "8-recovery-multi-xor": 17,
    "9-recovery-shamir-2of3": 6,
    "10-update-svn": 18,
    "11-update-full": 28,
    "12-update-threshold2of3": 6,
    "13-update-single-user": 6,
    "14-features": 17,
    "15-startup-manifest": 1,
    "16-extra": 6,
    "17-extra": 8,
}
"""Recorded requests in each folder. A folder with fewer was cut, one with more holds what no story tells."""

SINGLE_KEY = base64.b64decode("UQLxCx0smfqWpF03VuSfbyCmD+p44ihwjth+8pZ8Jq0=")
OTHER_UUID = "1d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
Prepare = Callable[[Replay], None]


@dataclass(frozen=True)
class Story:
    """Cases of a part in their order, and what was done before the first."""

    part: str
    cases: tuple[str, ...]
    prepare: Prepare = lambda _: None

    def __str__(self) -> str:
        return f"{self.part}:{self.cases[0]}"


def manifest(name: str) -> Prepare:
    """Set a recorded manifest first."""
    return lambda replay: replay.set_manifest(name)


# ---- what came before


def activated(replay: Replay, uuid: str) -> bytes:
    """The certificate (DER) that a marble got at its activation."""
    released = replay.made.core.activate(make_order("tf-server", uuid=uuid))
    return x509.load_pem_x509_certificate(released.env["MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"]).public_bytes(
        Encoding.DER
    )


def counted(replay: Replay) -> None:
    replay.set_manifest("minimal.json")
    meter = Metrics(state=lambda: 3, paths=PATHS, version="1", tee="unattested")
    replay.api = ClientApi(replay.made.core, executor=replay.executor, log=replay.made.world.log, meter=meter)


def marbles_with_features(replay: Replay) -> None:
    replay.set_manifest("features.json")
    first, second = activated(replay, UUID), activated(replay, OTHER_UUID)
    replay.certificates["m.crt"] = first
    replay.before["counter-other-uuid"] = lambda: replay.certificates.update({"m.crt": second})


def secret_that_survives(replay: Replay) -> None:
    """A user's value, and an update after it."""
    alice, bob = ((RECORDED / "pki" / "users" / f"{name}.crt").read_text() for name in ("alice", "bob"))
    reads = {"ResourceType": "Secrets", "ResourceNames": ["tok"], "Actions": ["ReadSecret", "WriteSecret"]}
    nothing = {"ResourceType": "Secrets", "ResourceNames": [], "Actions": ["ReadSecret"]}
    updates = {"ResourceType": "Manifest", "Actions": ["UpdateManifest"]}
    wanted: dict[str, Any] = {
        "Packages": {"p": {"Debug": True}},
        "Marbles": {"m": {"Package": "p"}},
        "Secrets": {"tok": {"Type": "plain", "UserDefined": True}},
        "Users": {
            "alice": {"Certificate": alice, "Roles": ["reads", "updates"]},
            "bob": {"Certificate": bob, "Roles": ["nothing"]},
        },
        "Roles": {"reads": reads, "nothing": nothing, "updates": updates},
    }
    core = replay.made.core
    core.set_manifest(json.dumps(wanted).encode())
    core.write_secrets("alice", {"tok": NewValue(key=b"v")})
    wanted["Marbles"]["another"] = {"Package": "p"}
    assert core.updates.update("alice", json.dumps(wanted).encode()).needed == 0


def recorded_shares(name: str) -> list[bytes]:
    read = json.loads((RECORDED / "seal" / name).read_text())
    return [bytes.fromhex(value) for value in read.get("shares", read).values()]


def locked_by_one(replay: Replay) -> None:
    replay.lock(recorded_manifest("7-recovery-single"), SINGLE_KEY, [SINGLE_KEY])


def locked_by_one_encrypted(replay: Replay) -> None:
    """As recorded, but encrypted to our ephemeral key: the recorded one's private half is nobody's any more."""
    locked_by_one(replay)

    def encrypt_again(request: dict[str, Any]) -> None:
        key = load_der_public_key(replay.made.core.recovery_key())
        assert isinstance(key, rsa.RSAPublicKey)
        body = json.loads(request["body"]["text"])
        secret = key.encrypt(SINGLE_KEY, OAEP(MGF1(SHA256()), SHA256(), None))
        request["body"]["text"] = json.dumps({**body, "recoverySecret": base64.b64encode(secret).decode()})

    replay.rewrite["e-recover-encrypted"] = encrypt_again
    replay.before["e-status-after-restart"] = replay.start_in_folder


def locked_by_three(replay: Replay) -> None:
    shares = recorded_shares("multi-xor-shares.json")
    key = bytes(a ^ b ^ c for a, b, c in zip(*shares, strict=True))
    replay.lock(recorded_manifest("8-recovery-multi-xor"), key, shares)


def locked_by_two_of_three(replay: Replay) -> None:
    key = bytes.fromhex(json.loads((RECORDED / "seal" / "shamir-2of3-shares.json").read_text())["secret"])
    shares = recorded_shares("shamir-2of3-shares.json")
    replay.lock(recorded_manifest("9-recovery-shamir-2of3"), key, shares, threshold=2)


def restarted_before(case: str) -> Prepare:
    def prepare(replay: Replay) -> None:
        replay.start_in_folder()
        replay.before[case] = replay.start_in_folder

    return prepare


# ---- the stories


def each_alone(part: str, prepare: Prepare = lambda _: None, *, bare: tuple[str, ...] = ()) -> list[Story]:
    """A coordinator of its own for every case."""
    return [Story(part, (case,), (lambda _: None) if case in bare else prepare) for case in recorded_cases(part)]


def the_rest(part: str, *others: str) -> tuple[str, ...]:
    """The cases of a part that have no place in an order."""
    return tuple(case for case in recorded_cases(part) if case not in others)


SECRETS_FIRST = ("manifest-set", "v2-get-user-unset")
SECRETS_LAST = ("set-ok-v2", "set-ok-v1", "get-after-set", "after-restart-status", "update-log", "v1-update-log")
VERSIONS_LAST = ("ok-v2", "ok-again-same-svn-v1", "downgrade", "ok-b", "manifest-unchanged", "log")
STORIES: list[Story] = [
    *each_alone("1-before-manifest"),
    *each_alone("2-after-minimal", manifest("minimal.json"), bare=("v2-manifest-set",)),
    *each_alone("3-invalid-manifests"),
    *each_alone("4-with-prometheus", counted),
    Story(
        "5-typical",
        ("secrets-get", "v1-secrets-get", "update-svn", "update-log"),
        manifest("typical-tf-server.json"),
    ),
    Story(
        "6-secrets",
        (*SECRETS_FIRST, *the_rest("6-secrets", *SECRETS_FIRST, *SECRETS_LAST), *SECRETS_LAST),
        restarted_before("after-restart-status"),
    ),
    Story("7-recovery-single", ("manifest-set", "quote-before")),
    Story(
        "7-recovery-single",
        (
            *("status-recovery-v1", "status-recovery-v2", "quote-in-recovery", "manifest-get-v1", "manifest-get-v2"),
            *("recover-v1", "update-get", "secrets-get", "recover-decrypt-before-pubkey", "public-key"),
            *("recover-garbage-ciphertext", "recover-wrong-secret", "recover-right-no-signature"),
            *("recover-right-bad-signature", "status-still-recovery"),
            *("recover-right", "status-after", "quote-after", "recover-again"),
        ),
        locked_by_one,
    ),
    Story(
        "7-recovery-single",
        ("e-public-key", "e-recover-encrypted", "e-status-after-restart"),
        locked_by_one_encrypted,
    ),
    Story(
        "7-recovery-single",
        ("manifest-set-in-recovery-mode", "status-after-set-in-recovery", "update-log-after-set-in-recovery"),
        locked_by_one,
    ),
    Story("8-recovery-multi-xor", ("manifest-set",)),
    Story(
        "8-recovery-multi-xor",
        (
            *("1-rec2", "2-rec2-again", "3-unknown", "3b-33-byte", "3c-16-byte", "4-rec1", "5-status"),
            *("6-rec3", "7-status"),
        ),
        locked_by_three,
    ),
    Story(
        "8-recovery-multi-xor",
        (
            *("bad-signature-1", "bad-signature-2", "bad-signature-3", "bad-signature-status"),
            *("retry-1", "retry-2", "retry-3"),
        ),
        locked_by_three,
    ),
    Story("9-recovery-shamir-2of3", ("manifest-set",)),
    Story(
        "9-recovery-shamir-2of3",
        ("1-rec3", "2-rec3-again", "3-unknown-33", "4-rec1", "5-status"),
        locked_by_two_of_three,
    ),
    Story(
        "10-update-svn",
        ("manifest-set", *the_rest("10-update-svn", "manifest-set", *VERSIONS_LAST), *VERSIONS_LAST),
    ),
    Story(
        "11-update-full",
        (
            *("manifest-set", "get-none", "ack-none", "cancel-none", "apply-invalid", "apply-alice", "get-pending"),
            *("get-pending-v1", "apply-second-while-pending", "apply-svn-while-pending", "ack-stranger"),
            *("ack-wrong-manifest", "ack-alice-again", "ack-bob-v1", "get-pending-after-restart", "cancel-carol"),
            *("get-after-cancel", "apply2-alice", "ack2-bob", "ack2-carol", "manifest-after", "log"),
            *("rotate-alice", "rotate-bob", "rotate-carol", "newkeys-alice", "newkeys-bob", "newkeys-carol"),
        ),
        restarted_before("get-pending-after-restart"),
    ),
    Story("12-update-threshold2of3", ("manifest-set", "apply-alice", "get", "ack-carol", "get-after", "log")),
    Story(
        "13-update-single-user",
        ("manifest-set", "apply-alice", "log", "apply-bad-template", "get-after-bad", "log-after-bad"),
    ),
    Story("14-features", ("manifest-set",)),
    Story(
        "14-features",
        (
            *("counter-1", "counter-2-lower", "counter-3-equal", "counter-4-higher", "counter-5-max-again"),
            *("counter-badjson", "counter-negative", "counter-empty-name", "counter-nocert", "counter-stranger"),
            *("secrets-with-marble-cert", "sign-quote-bad", "sign-quote-badjson", "sign-quote-empty"),
            *("sign-quote-raw-sgx", "counter-other-uuid"),
        ),
        marbles_with_features,
    ),
    Story("15-startup-manifest", ("status",), manifest("minimal.json")),
    Story("16-extra", ("v1-manifest-set",)),
    Story(
        "16-extra",
        (
            *("user-secret-survives-update", "read-permission-no-resources", "body-keys-case-insensitive"),
            *("body-with-trailing-data", "unknown-query"),
        ),
        secret_that_survives,
    ),
    Story(
        "17-extra",
        (
            *("dashed-secret-name", "apply", "ack-without-permission", "ack-without-permission-v1"),
            *("cancel-without-permission", "cancel-without-permission-v1", "ack-v1-wrong-manifest", "log-with-tz"),
        ),
    ),
]


@pytest.fixture
def replay(shared_vectors: Path, tmp_path: Path) -> Iterator[Replay]:
    assert shared_vectors.is_dir()
    with ThreadPoolExecutor(1) as executor:
        made = Replay(tmp_path / "seal", executor)
        yield made
        made.close()


@pytest.mark.parametrize("story", STORIES, ids=str)
async def test_the_recorded_answers(replay: Replay, story: Story) -> None:
    story.prepare(replay)
    await replay.same(story.part, *story.cases)


def test_every_recorded_request_is_replayed_once(
    shared_vectors: Path, record_property: Callable[[str, object], None]
) -> None:
    folders = {folder.name for folder in (shared_vectors / "marblerun" / "rest").iterdir() if folder.is_dir()}
    assert folders == set(COUNTS)
    told = Counter(f"{story.part}/{case}" for story in STORIES for case in story.cases)
    recorded = Counter(f"{part}/{case}" for part in COUNTS for case in recorded_cases(part))
    assert told == recorded
    assert Counter(name.partition("/")[0] for name in told) == COUNTS
    record_property("recorded requests", told.total())
    assert told.total() == 315


def test_each_difference_is_recorded_and_explained() -> None:
    told = {f"{story.part}/{case}" for story in STORIES for case in story.cases}
    if RECORDED.is_dir():
        assert set(DIFFERENT) <= told
    page = (Path(__file__).parents[2] / "docs" / "marblerun.md").read_text()
    table = page.partition("## Different on purpose")[2]
    for name, difference in DIFFERENT.items():
        assert re.search(rf"^\| [^|]*{re.escape(difference.row)}", table, re.MULTILINE), name


def test_the_answer_to_the_typical_manifest_names_its_recovery_keys(replay: Replay) -> None:
    answer = json.loads((RECORDED / "rest" / "typical-set-response.json").read_text())
    recovery = replay.made.core.set_manifest((RECORDED / "manifests" / "typical-tf-server.json").read_bytes())
    assert sorted(recovery) == sorted(answer["data"]["RecoverySecrets"])


async def test_t32_a_single_secret_without_its_holders_signature_opens_nothing(replay: Replay) -> None:
    locked_by_one(replay)
    await replay.same("7-recovery-single", "recover-right-no-signature")
    assert replay.made.core.holdings.state is State.RECOVERY


async def test_t33_a_bad_signature_among_three_is_told_at_the_end_and_nothing_was_opened(replay: Replay) -> None:
    locked_by_three(replay)
    await replay.same("8-recovery-multi-xor", "bad-signature-1", "bad-signature-2", "bad-signature-3")
    assert replay.made.core.holdings.state is State.RECOVERY


async def test_a_wrong_single_secret_is_refused_and_the_right_one_after_it_works(replay: Replay) -> None:
    locked_by_one(replay)
    await replay.same("7-recovery-single", "recover-wrong-secret", "recover-right")
    assert load("7-recovery-single", "recover-right")["response"]["status"] == 200
    assert replay.made.core.holdings.state is State.ACCEPTING_MARBLES
