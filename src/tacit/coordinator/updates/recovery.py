"""Recovery: shares come in one by one until the sealed state opens.

Shares may come in clear or encrypted to an ephemeral key that is made when somebody first asks for it. Nothing of a
failed attempt stays once it could be told to have failed: the holders begin again.

Source: order of checks and words of refusal as recorded from MarbleRun v1.9.1.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.coordinator.log.journal import Journal
from tacit.coordinator.sealed.changes import replay
from tacit.coordinator.sealed.records import KEY_SIZE
from tacit.coordinator.sealed.shares import (
    SHARE_SIZE,
    Given,
    accept_share,
    combine_shares,
    parse_plan,
    verify_holders,
)
from tacit.coordinator.state import Holdings
from tacit.coordinator.store import Store
from tacit.errors import InputError, RecoveryError, SealingKeyError
from tacit.manifest.material import parse_recovery_key

EPHEMERAL_BITS = 4096
_LEGACY_SIZE = 16  # bytes; a key of MarbleRun's first versions, told from a ciphertext by its length
_CLEAR_SIZES = (_LEGACY_SIZE, KEY_SIZE, SHARE_SIZE)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a share brought: how many remain, and the key with what it opened once none does.

    `version` is that of the state's file; `given` shares opened it, `refused` were offered before and did not.
    `holders` are the recovery keys whose owners signed them.
    """

    remaining: int
    key: bytes = field(default=b"", repr=False)
    holdings: Holdings | None = None
    journal: Journal | None = None
    version: int = 0
    given: int = 0
    refused: int = 0
    holders: tuple[str, ...] = ()


class Recovery:
    """The shares given so far, and the key that they may be encrypted to. One caller at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._given: tuple[Given, ...] = ()
        self._ephemeral: rsa.RSAPrivateKey | None = None
        self._refused = 0

    def public_key(self) -> bytes:
        """PKIX DER of the ephemeral key."""
        if self._ephemeral is None:
            self._ephemeral = rsa.generate_private_key(65537, EPHEMERAL_BITS)
        return self._ephemeral.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def open_share(self, secret: bytes) -> bytes:
        """The share in clear, however it came.

        Raises:
            InputError: it is neither a share nor encrypted to the ephemeral key.
        """
        if len(secret) in _CLEAR_SIZES:
            return secret
        if self._ephemeral is None:
            raise undecryptable("ephemeral secret key not set")
        try:
            return self._ephemeral.decrypt(secret, OAEP(MGF1(SHA256()), SHA256(), None))
        except ValueError as exc:
            raise undecryptable("crypto/rsa: decryption error") from exc

    def offer(self, secret: bytes, signature: bytes) -> Recovered:
        """Take a share; opens the state once there are enough.

        Raises:
            InputError: it cannot be decrypted.
            RecoveryError: not a share of this state, or not given by whom the manifest names.
            StateError: the state cannot be read.
        """
        try:
            return self._offer(secret, signature)
        except RecoveryError:
            self._refused += 1
            raise

    def _offer(self, secret: bytes, signature: bytes) -> Recovered:
        plan = parse_plan(self._store.recovery_plan())
        given = accept_share(plan, self._given, Given(self.open_share(secret), signature))
        remaining = plan.remaining(len(given))
        if remaining:
            self._given = given
            return Recovered(remaining)
        self._given = ()
        key = combine_shares(plan, [one.share for one in given])
        try:
            contents = self._store.open_with(key)
        except SealingKeyError as exc:
            raise RecoveryError("setting recovery key: uploaded an invalid or already used secret") from exc
        replayed = replay(contents.payloads)
        manifest = replayed.holdings.manifest
        if manifest is None:
            raise RecoveryError("the sealed state holds no manifest")
        holders = {name: parse_recovery_key(pem) for name, pem in manifest.recovery_keys.items()}
        signers = verify_holders(plan, given, holders, threshold=manifest.config.recovery_threshold)
        return Recovered(
            remaining=0,
            key=key,
            holdings=replayed.holdings,
            journal=replayed.journal,
            version=contents.start.version,
            given=len(given),
            refused=self._refused,
            holders=signers,
        )

    def forget(self) -> None:
        """Drop what was given and the ephemeral key."""
        self._given, self._ephemeral, self._refused = (), None, 0


def undecryptable(reason: str) -> InputError:
    """What MarbleRun says of an encrypted share that it cannot use."""
    return InputError(f"failed to decrypt recovery secret: {reason}")


def is_in_clear(secret: bytes) -> bool:
    """Whether a share's length says that it is not encrypted."""
    return len(secret) in _CLEAR_SIZES
