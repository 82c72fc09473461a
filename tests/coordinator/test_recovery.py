"""Recovery: the recorded secrets open a state under the recorded keys, with the recorded answers."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from fakes.core import PLAIN_MANIFEST, Made, encode, make_coordinator
from tacit.coordinator.api.rest import ClientApi
from tacit.coordinator.sealed.changes import encode_snapshot
from tacit.coordinator.sealed.shares import encode_plan, make_plan
from tacit.coordinator.state import State
from tacit.coordinator.store import KEY_NAME, SealedFolder
from tacit.edge import HttpRequest
from tacit.errors import IllegalTransitionError, InputError, RecoveryError

SINGLE_KEY = base64.b64decode("UQLxCx0smfqWpF03VuSfbyCmD+p44ihwjth+8pZ8Jq0=")
OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


class Locked:
    """A folder that lost its key, and a coordinator over it in recovery mode."""

    def __init__(self, folder: Path, vectors: Path) -> None:
        self.folder = folder
        self.vectors = vectors / "marblerun"
        self.executor = ThreadPoolExecutor(1)
        self.made: Made | None = None
        self.root = b""

    def lock(self, manifest: bytes, key: bytes, shares: list[bytes], threshold: int = 0) -> None:
        """Write a state under this key, lose the key, and start again."""
        store = SealedFolder(self.folder, None)
        made = make_coordinator(store=store)
        made.core.set_manifest(manifest)
        self.root = made.core.holdings.identity.root.certificate_der
        plan = encode_plan(make_plan(shares, threshold=threshold))
        store.create(encode_snapshot(made.core.holdings), key=key, plan=plan, bound_to="signer")
        store.close()
        (self.folder / KEY_NAME).unlink()
        self.start()

    def start(self) -> None:
        self.store = SealedFolder(self.folder, None)
        self.made = make_coordinator(store=self.store, recovery=True)
        self.api = ClientApi(self.made.core, executor=self.executor, log=self.made.world.log)

    async def send(self, part: str, case: str) -> tuple[int, Any, dict[str, Any]]:
        recorded = json.loads((self.vectors / "rest" / part / f"{case}.json").read_text())
        asked, expected = recorded["request"], recorded["response"]
        body = asked["body"] or {"text": ""}
        content = base64.b64decode(body["base64"]) if "base64" in body else body["text"].encode()
        answer = await self.api.handle(HttpRequest(asked["method"], asked["path"], "", {}, content, None))
        return answer.status, json.loads(answer.body), {"status": expected["status"], "json": expected["body"]["json"]}

    async def same(self, part: str, *cases: str) -> None:
        for case in cases:
            status, answer, expected = await self.send(part, case)
            if isinstance(answer["data"], dict):
                answer["data"].pop("tacit", None)
            assert (case, status, answer) == (case, expected["status"], expected["json"])

    def is_open(self) -> bool:
        assert self.made is not None
        holdings = self.made.core.holdings
        return holdings.state is State.ACCEPTING_MARBLES and holdings.identity.root.certificate_der == self.root


@pytest.fixture
def locked(tmp_path: Path, shared_vectors: Path) -> Iterator[Locked]:
    made = Locked(tmp_path / "seal", shared_vectors)
    yield made
    made.store.close()
    made.executor.shutdown()


def recorded_manifest(locked: Locked, part: str) -> bytes:
    recorded = json.loads((locked.vectors / "rest" / part / "manifest-set.json").read_text())
    return base64.b64decode(json.loads(recorded["request"]["body"]["text"])["manifest"])


def recorded_shares(locked: Locked, name: str) -> dict[str, bytes]:
    read = json.loads((locked.vectors / "seal" / name).read_text())
    return {key: bytes.fromhex(value) for key, value in read.get("shares", read).items()}


def lock_single(locked: Locked) -> None:
    locked.lock(recorded_manifest(locked, "7-recovery-single"), SINGLE_KEY, [SINGLE_KEY])


def lock_xor(locked: Locked) -> None:
    shares = list(recorded_shares(locked, "multi-xor-shares.json").values())
    key = bytes(a ^ b ^ c for a, b, c in zip(*shares, strict=True))
    locked.lock(recorded_manifest(locked, "8-recovery-multi-xor"), key, shares)


# ---- the recorded requests


async def test_one_key_as_recorded(locked: Locked) -> None:
    lock_single(locked)
    part = "7-recovery-single"
    await locked.same(part, "status-recovery-v2", "manifest-get-v1", "manifest-get-v2", "recover-v1", "update-get")
    await locked.same(part, "recover-decrypt-before-pubkey", "recover-right-bad-signature", "status-still-recovery")
    await locked.same(part, "recover-right", "status-after", "recover-again")
    assert locked.is_open()


async def test_a_wrong_single_secret_is_refused_and_the_right_one_after_it_works(locked: Locked) -> None:
    lock_single(locked)
    status, answer, _ = await locked.send("7-recovery-single", "recover-wrong-secret")
    assert (status, answer["message"]) == (500, "setting recovery key: uploaded an invalid or already used secret")
    await locked.same("7-recovery-single", "recover-right")


async def test_t32_a_single_secret_without_its_holders_signature_opens_nothing(locked: Locked) -> None:
    lock_single(locked)
    status, answer, _ = await locked.send("7-recovery-single", "recover-right-no-signature")
    assert (status, answer["message"]) == (
        500,
        'no matching recovery key found for recovery public key "rec1"',
    )
    assert not locked.is_open()


async def test_three_keys_as_recorded(locked: Locked) -> None:
    lock_xor(locked)
    part = "8-recovery-multi-xor"
    await locked.same(part, "1-rec2", "2-rec2-again", "3-unknown", "3b-33-byte", "3c-16-byte", "4-rec1", "5-status")
    await locked.same(part, "6-rec3", "7-status")
    assert locked.is_open()


async def test_t33_a_bad_signature_among_three_is_told_at_the_end_and_all_begin_again(locked: Locked) -> None:
    lock_xor(locked)
    part = "8-recovery-multi-xor"
    await locked.same(part, "bad-signature-1", "bad-signature-2", "bad-signature-3", "bad-signature-status")
    await locked.same(part, "retry-1", "retry-2", "retry-3")
    assert locked.is_open()


async def test_two_of_three_as_recorded(locked: Locked) -> None:
    part = "9-recovery-shamir-2of3"
    recorded = json.loads((locked.vectors / "seal" / "shamir-2of3-shares.json").read_text())
    shares = list(recorded_shares(locked, "shamir-2of3-shares.json").values())
    locked.lock(recorded_manifest(locked, part), bytes.fromhex(recorded["secret"]), shares, 2)
    await locked.same(part, "1-rec3", "2-rec3-again", "3-unknown-33", "4-rec1", "5-status")
    assert locked.is_open()


# ---- our own


def sign(key: rsa.RSAPrivateKey, share: bytes) -> bytes:
    return key.sign(share, padding.PKCS1v15(), SHA256())


def pem_of(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("threshold", [0, 2])
def test_what_a_manifest_hands_out_opens_its_state_and_the_key_is_kept_again(tmp_path: Path, threshold: int) -> None:
    keys = {name: rsa.generate_private_key(65537, 2048) for name in ("a", "b", "c")}
    store = SealedFolder(tmp_path, None)
    manifest = {**PLAIN_MANIFEST, "RecoveryKeys": {name: pem_of(key) for name, key in keys.items()}}
    handed = make_coordinator(store=store).core.set_manifest(
        encode({**manifest, "Config": {"RecoveryThreshold": threshold}})
    )
    assert sorted(handed) == ["a", "b", "c"]
    store.close()
    (tmp_path / KEY_NAME).unlink()
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store, recovery=True).core
    wrapped = load_der_public_key(core.recovery_key())
    assert isinstance(wrapped, rsa.RSAPublicKey)
    assert wrapped.key_size == 4096
    left = []
    for name in ("c", "a") if threshold else ("c", "a", "b"):
        share = keys[name].decrypt(handed[name], OAEP)
        left.append(core.recover(wrapped.encrypt(share, OAEP), sign(keys[name], share)))
    assert left == ([2, 0] if threshold else [2, 1, 0])
    assert core.status().state is State.ACCEPTING_MARBLES
    store.close()
    reopened = SealedFolder(tmp_path, None)
    assert reopened.load() is not None
    reopened.close()


def test_t31_a_plan_that_the_host_forged_to_one_holder_opens_nothing(tmp_path: Path) -> None:
    keys = {name: rsa.generate_private_key(65537, 2048) for name in ("a", "b")}
    store = SealedFolder(tmp_path, None)
    manifest = {**PLAIN_MANIFEST, "RecoveryKeys": {name: pem_of(key) for name, key in keys.items()}}
    make_coordinator(store=store).core.set_manifest(encode(manifest))
    store.close()
    key = (tmp_path / KEY_NAME).read_bytes()
    (tmp_path / KEY_NAME).unlink()
    (tmp_path / "sealed_recovery").unlink()
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store, recovery=True).core
    with pytest.raises(RecoveryError, match="expected 2, got 1"):
        core.recover(key, sign(keys["a"], key))
    store.close()


def test_where_nothing_waits_for_recovery_no_secret_is_taken() -> None:
    core = make_coordinator().core
    with pytest.raises(IllegalTransitionError):
        core.recover(bytes(32), b"")
    with pytest.raises(InputError, match="failed to decrypt recovery secret: server is not in expected state"):
        core.recover(bytes(20), b"")
    with pytest.raises(IllegalTransitionError):
        core.recovery_key()
