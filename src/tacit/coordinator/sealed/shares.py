"""The sealing key among several holders: shares, and the plan that lies beside the state to know them again.

One holder gets the key itself. All of several: random shares whose XOR is the key. Some of several: Shamir's scheme
over GF(256), polynomial 0x11b, as HashiCorp Vault writes it: a share is one y for each byte of the key, then its x.

Plan = JSON, `{"threshold": n, "shares": ["sha256 in hex", ...]}`; one holder needs none. It is no secret, and whoever
alters it gains nothing: what opens the state is the key alone, and who may open it stands inside.

Source: shares as recorded from MarbleRun v1.9.1.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from tacit.coordinator.sealed.keys import encrypt_to_recovery_key
from tacit.coordinator.sealed.records import KEY_SIZE
from tacit.errors import RecoveryError
from tacit.manifest import Manifest
from tacit.manifest.material import parse_recovery_key
from tacit.wire.rest import JSON_ERRORS

SHARE_SIZE = KEY_SIZE + 1  # bytes of a share of Shamir's scheme

Random = Callable[[int], bytes]


class Plan(msgspec.Struct, frozen=True):
    """How many shares of which open the state. `shares` are SHA-256 in hex; none for a single holder."""

    threshold: int = 1
    shares: tuple[str, ...] = ()

    def remaining(self, given: int) -> int:
        """How many more to ask for: 0 once there are enough, until then an upper bound, as MarbleRun counts."""
        return 0 if given >= self.threshold else max(len(self.shares), 1) - given


@dataclass(frozen=True, slots=True)
class Given:
    """A share, and its holder's signature over it."""

    share: bytes
    signature: bytes


def split_key(key: bytes, *, count: int, threshold: int, random: Random) -> tuple[bytes, ...]:
    """Shares for `count` holders, of which `threshold` open the state; 0 means all of them."""
    if count <= 1:
        return (key,) * count
    if threshold in (0, count):
        shares = [random(KEY_SIZE) for _ in range(count - 1)]
        return (*shares, _xor([key, *shares]))
    points = _distinct_points(count, random)
    coefficients = [key, *(random(KEY_SIZE) for _ in range(threshold - 1))]
    return tuple(_evaluate(coefficients, x) + bytes([x]) for x in points)


def share_key(key: bytes, manifest: Manifest, *, random: Random) -> tuple[dict[str, bytes], bytes]:
    """Each holder's share of the sealing key, encrypted to the recovery key, and the plan to know them again."""
    holders = {name: parse_recovery_key(pem) for name, pem in sorted(manifest.recovery_keys.items())}
    threshold = manifest.config.recovery_threshold
    shares = split_key(key, count=len(holders), threshold=threshold, random=random)
    encrypted = {
        name: encrypt_to_recovery_key(share, holder)
        for (name, holder), share in zip(holders.items(), shares, strict=True)
    }
    return encrypted, encode_plan(make_plan(shares, threshold=threshold))


def make_plan(shares: Sequence[bytes], *, threshold: int) -> Plan:
    """The plan for these shares; 0 means that all are needed."""
    if len(shares) <= 1:
        return Plan()
    return Plan(threshold or len(shares), tuple(sorted(_digest(share) for share in shares)))


def encode_plan(plan: Plan) -> bytes:
    """A plan as it lies beside the state; empty where there is a single holder."""
    return msgspec.json.encode(plan) if plan.shares else b""


def parse_plan(raw: bytes) -> Plan:
    """The plan beside the state.

    Raises:
        RecoveryError: it was damaged.
    """
    if not raw:
        return Plan()
    try:
        plan = msgspec.json.decode(raw, type=Plan)
    except JSON_ERRORS as exc:
        raise RecoveryError("the recovery plan beside the sealed state is damaged; bring back a copy of it") from exc
    if not 2 <= plan.threshold <= len(plan.shares):
        raise RecoveryError("the recovery plan beside the sealed state makes no sense; bring back a copy of it")
    return plan


def accept_share(plan: Plan, given: Sequence[Given], one: Given) -> tuple[Given, ...]:
    """The shares so far with one more.

    Raises:
        RecoveryError: it is none of this state's, or was given before.
    """
    known = not plan.shares or _digest(one.share) in plan.shares
    if not known or any(hmac.compare_digest(one.share, before.share) for before in given):
        raise RecoveryError("setting recovery key: uploaded an invalid or already used secret")
    return (*given, one)


def combine_shares(plan: Plan, shares: Sequence[bytes]) -> bytes:
    """The key from enough shares.

    Raises:
        RecoveryError: shares that belong to no such scheme; the plan beside the state is its host's to alter.
    """
    if not plan.shares:
        return shares[0]
    whole = plan.threshold == len(plan.shares)
    size = KEY_SIZE if whole else SHARE_SIZE
    points = {share[-1:] for share in shares}
    if any(len(share) != size for share in shares) or (not whole and (len(points) < len(shares) or b"\0" in points)):
        raise RecoveryError("the recovery secrets do not fit together: the plan beside the sealed state was altered")
    if whole:
        return _xor(shares)
    return _interpolate([(share[-1], share[:-1]) for share in shares])


def verify_holders(
    plan: Plan, given: Sequence[Given], holders: Mapping[str, RSAPublicKey], *, threshold: int
) -> tuple[str, ...]:
    """The names of the manifest's recovery keys whose holders gave the shares, once they are enough.

    Raises:
        RecoveryError: another number than the manifest's, or a signature that is nobody's.
    """
    kinds = max(len(plan.shares), 1)
    if kinds != len(holders):
        message = "recovery keys in manifest do not match the keys used for recovery"
        raise RecoveryError(f"{message}: expected {len(holders)}, got {kinds}")
    needed = threshold or len(holders)
    if needed != plan.threshold:
        message = "recovery threshold in manifest does not match the threshold used for recovery"
        raise RecoveryError(f"{message}: expected {needed}, got {plan.threshold}")
    signers = _signers(given, holders)
    if needed < len(holders):
        if len(signers) < len(given):
            raise RecoveryError("no matching recovery public key found for recovery key")
        return tuple(sorted(signers))
    for name in sorted(holders):
        if name not in signers:
            raise RecoveryError(f'no matching recovery key found for recovery public key "{name}"')
    return tuple(sorted(signers))


def _signers(given: Sequence[Given], holders: Mapping[str, RSAPublicKey]) -> set[str]:
    """Who signed the shares. Two names may have one key: then too each signature speaks for one of them."""
    signers: set[str] = set()
    for one in given:
        for name in sorted(set(holders) - signers):
            if _signed(holders[name], one):
                signers.add(name)
                break
    return signers


def _signed(key: RSAPublicKey, one: Given) -> bool:
    try:
        key.verify(one.signature, one.share, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _digest(share: bytes) -> str:
    return hashlib.sha256(share).hexdigest()


def _xor(parts: Sequence[bytes]) -> bytes:
    return bytes(_sum(column) for column in zip(*parts, strict=True))


def _distinct_points(count: int, random: Random) -> list[int]:
    points: dict[int, None] = {}
    while len(points) < count:
        points.update(dict.fromkeys(byte for byte in random(count) if byte))
    return list(points)[:count]


def _evaluate(coefficients: Sequence[bytes], x: int) -> bytes:
    values = bytes(KEY_SIZE)
    for coefficient in reversed(coefficients):
        values = bytes(_multiply(value, x) ^ own for value, own in zip(values, coefficient, strict=True))
    return values


def _interpolate(points: Sequence[tuple[int, bytes]]) -> bytes:
    """The polynomial's values at zero (Lagrange)."""
    weights = []
    for x, _ in points:
        weight = 1
        for other, _ in points:
            if other != x:
                weight = _multiply(weight, _multiply(other, _invert(other ^ x)))
        weights.append(weight)
    columns = zip(*(values for _, values in points), strict=True)
    return bytes(_sum([_multiply(*pair) for pair in zip(column, weights, strict=True)]) for column in columns)


def _sum(values: Sequence[int]) -> int:
    total = 0
    for value in values:
        total ^= value
    return total


def _multiply(left: int, right: int) -> int:
    """In GF(256), without tables and without a branch that depends on a value."""
    product = 0
    for _ in range(8):
        product ^= -(right & 1) & left
        left = (left << 1) ^ (-(left >> 7) & 0x11B)
        right >>= 1
    return product


def _invert(value: int) -> int:
    result = 1
    for _ in range(254):
        result = _multiply(result, value)
    return result
