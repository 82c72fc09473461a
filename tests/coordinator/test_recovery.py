"""Recovery with keys of our own. The recorded secrets and answers are in `test_recorded_rest`."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from fakes.core import PLAIN_MANIFEST, encode, make_coordinator
from tacit.coordinator.state import State
from tacit.coordinator.store import KEY_NAME, SealedFolder
from tacit.errors import IllegalTransitionError, InputError, RecoveryError

OAEP = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)


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


@pytest.mark.parametrize("threshold", [0, 2])
def test_t33_one_signature_does_not_speak_for_two_shares(tmp_path: Path, threshold: int) -> None:
    one, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    keys = {"a": one, "b": one, "c": other} if threshold else {"a": one, "b": one}
    store = SealedFolder(tmp_path, None)
    manifest = {**PLAIN_MANIFEST, "RecoveryKeys": {name: pem_of(key) for name, key in keys.items()}}
    handed = make_coordinator(store=store).core.set_manifest(
        encode({**manifest, "Config": {"RecoveryThreshold": threshold}})
    )
    shares = {name: one.decrypt(handed[name], OAEP) for name in ("a", "b")}
    store.close()
    (tmp_path / KEY_NAME).unlink()
    store = SealedFolder(tmp_path, None)
    core = make_coordinator(store=store, recovery=True).core
    for bad in (b"xx", sign(one, shares["b"])):
        core.recover(shares["a"], bad)
        with pytest.raises(RecoveryError, match="no matching recovery"):
            core.recover(shares["b"], sign(one, shares["b"]))
    core.recover(shares["a"], sign(one, shares["a"]))
    assert core.recover(shares["b"], sign(one, shares["b"])) == 0
    store.close()


def test_where_nothing_waits_for_recovery_no_secret_is_taken() -> None:
    core = make_coordinator().core
    with pytest.raises(IllegalTransitionError):
        core.recover(bytes(32), b"")
    with pytest.raises(InputError, match="failed to decrypt recovery secret: server is not in expected state"):
        core.recover(bytes(20), b"")
    with pytest.raises(IllegalTransitionError):
        core.recovery_key()
