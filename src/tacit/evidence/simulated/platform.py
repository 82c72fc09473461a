"""One simulated platform: its keys, what everybody may know of it, and the file that holds both.

The file is JSON: `{"format": ..., "public": {...}, "private": {...}}`. Who has the private part can make any evidence
of this platform; without it (a public export) one can verify evidence, and no more.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tacit.errors import EvidenceError, PlatformError
from tacit.evidence.anchor import parse_anchor
from tacit.evidence.claims import Tee, TrustAnchor
from tacit.evidence.collateral import (
    FOREIGN_ERRORS,
    Collateral,
    check_validity,
    parse_collateral,
    parse_strict_json,
    render_collateral,
)
from tacit.evidence.sgx.pck import parse_pck_extension
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.authority import Platform, Signer, issue_certificate, issue_collateral

PLATFORM_FILE = "platform.json"
"""The one file of a platform's folder."""
_FORMAT = "tacit simulated platform v1"
_REFRESH_BEFORE = timedelta(days=30)
_SIGNER_SIZE = 384  # bytes of an RSA-3072 modulus, the only size that SGX signs enclaves with
_CERTIFICATES = ("root", "pck_ca", "pck", "tcb_signer")
_KEYS = (*_CERTIFICATES, "attestation")


@dataclass(frozen=True, slots=True, repr=False)
class PlatformKeys:
    """What nobody else may have: the keys of the whole hierarchy, the enclaves' signing key, the seal secret."""

    root: ec.EllipticCurvePrivateKey
    pck_ca: ec.EllipticCurvePrivateKey
    pck: ec.EllipticCurvePrivateKey
    tcb_signer: ec.EllipticCurvePrivateKey
    attestation: ec.EllipticCurvePrivateKey
    enclave_signer: rsa.RSAPrivateKey
    seal_secret: bytes

    def __repr__(self) -> str:
        return "PlatformKeys(...)"


@dataclass(frozen=True, slots=True)
class SimulatedPlatform:
    """A simulated platform. `keys` is None where only its public part is known.

    `signer_id` is MRSIGNER of every program on it: the SHA-256 of the signing key's modulus.
    """

    root: x509.Certificate
    pck_ca: x509.Certificate
    pck: x509.Certificate
    tcb_signer: x509.Certificate
    signer_id: bytes
    collateral: Collateral
    keys: PlatformKeys | None

    @property
    def anchor(self) -> TrustAnchor:
        """What a verifier trusts when it trusts this platform."""
        return TrustAnchor(Tee.SIMULATED, "simulated platform", self.root.public_bytes(Encoding.DER))

    @property
    def pck_chain(self) -> tuple[x509.Certificate, ...]:
        """The chain that quotes carry, leaf first."""
        return self.pck, self.pck_ca, self.root

    @property
    def cpu_svn(self) -> bytes:
        """The 16 component versions, one byte each."""
        return bytes(parse_pck_extension(self.pck).components)

    def public(self) -> "SimulatedPlatform":
        """The same platform for those who shall only verify."""
        return replace(self, keys=None)


def signer_id(key: rsa.RSAPrivateKey) -> bytes:
    """MRSIGNER: SHA-256 of the modulus, 384 bytes little endian. Source: Intel SDM volume 3D, EINIT."""
    return sha256(key.public_key().public_numbers().n.to_bytes(_SIGNER_SIZE, "little")).digest()


def generate_platform(*, now: datetime, random: Callable[[int], bytes]) -> SimulatedPlatform:
    """A new platform with keys of its own; `random` gives as many random bytes as asked."""
    root_key, ca_key, pck_key, tcb_key, attestation = (ec.generate_private_key(ec.SECP256R1()) for _ in _KEYS)
    root = issue_certificate(authority.ROOT, root_key.public_key(), root_key, now=now, ca_depth=1)
    by_root = Signer(root, root_key)
    ca = issue_certificate(authority.PCK_CA, ca_key.public_key(), by_root, now=now, ca_depth=0)
    platform = Platform(ppid=b"SIM-" + random(12))
    pck = issue_certificate(authority.PCK, pck_key.public_key(), Signer(ca, ca_key), now=now, platform=platform)
    tcb = issue_certificate(authority.TCB_SIGNER, tcb_key.public_key(), by_root, now=now)
    enclave_signer = rsa.generate_private_key(public_exponent=3, key_size=_SIGNER_SIZE * 8)
    return SimulatedPlatform(
        root=root,
        pck_ca=ca,
        pck=pck,
        tcb_signer=tcb,
        signer_id=signer_id(enclave_signer),
        collateral=issue_collateral(by_root, Signer(ca, ca_key), Signer(tcb, tcb_key), platform=platform, now=now),
        keys=PlatformKeys(root_key, ca_key, pck_key, tcb_key, attestation, enclave_signer, random(32)),
    )


def refresh_platform(platform: SimulatedPlatform, *, now: datetime) -> SimulatedPlatform:
    """The same platform with collateral for another year, if less than 30 days are left and the keys are here."""
    if platform.keys is None:
        return platform
    try:
        end = check_validity(platform.pck_chain, platform.root, platform.collateral, now=now)
        if end - now > _REFRESH_BEFORE:
            return platform
    except EvidenceError:
        pass  # no longer in force: the very reason to make new collateral
    found = parse_pck_extension(platform.pck)
    described = Platform(found.ppid, found.fmspc, found.pce_id, found.components, found.pce_svn)
    fresh = issue_collateral(
        Signer(platform.root, platform.keys.root),
        Signer(platform.pck_ca, platform.keys.pck_ca),
        Signer(platform.tcb_signer, platform.keys.tcb_signer),
        platform=described,
        now=now,
    )
    return replace(platform, collateral=fresh)


def render_platform(platform: SimulatedPlatform) -> bytes:
    """The platform's file: with its private part if that is here."""
    value: dict[str, Any] = {
        "format": _FORMAT,
        "public": {
            "certificates": {
                name: getattr(platform, name).public_bytes(Encoding.PEM).decode() for name in _CERTIFICATES
            },
            "signer_id": platform.signer_id.hex(),
            "collateral": json.loads(render_collateral(platform.collateral)),
        },
    }
    if platform.keys is not None:
        names = (*_KEYS, "enclave_signer")
        value["private"] = {
            "keys": {name: _key_pem(getattr(platform.keys, name)) for name in names},
            "seal_secret": platform.keys.seal_secret.hex(),
        }
    return json.dumps(value, indent=1).encode() + b"\n"


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def parse_platform(raw: bytes, *, source: str) -> SimulatedPlatform:
    """The platform of a file, with its keys if the file has them; `source` names it in errors.

    Raises:
        PlatformError: not such a file, not SIMULATED, or parts that do not belong together. Never shows a key.
    """
    value = _parse_object(raw, source)
    with _refusals(source):
        platform = _parse_public(value["public"])
        if "private" in value:
            platform = replace(platform, keys=_parse_keys(value["private"]))
            _check_keys(platform)
    return platform


def parse_public_platform(raw: bytes, *, source: str) -> SimulatedPlatform:
    """The public part of a file; keys that the file may have are not even read, which takes a hundredth of the time.

    Raises:
        PlatformError: not such a file, not SIMULATED, or parts that do not belong together.
    """
    value = _parse_object(raw, source)
    with _refusals(source):
        return _parse_public(value["public"])


def _refusal(source: str, defect: str) -> PlatformError:
    return PlatformError(f"{source} cannot be used as a simulated platform: {defect}; export it again")


@contextmanager
def _refusals(source: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, AttributeError) as exc:
        raise _refusal(source, "a part of it is missing") from exc
    except InvalidSignature as exc:
        raise _refusal(source, "its certificates were not issued by its root") from exc
    except (EvidenceError, *FOREIGN_ERRORS) as exc:
        raise _refusal(source, str(exc)) from exc


def _parse_object(raw: bytes, source: str) -> dict[str, Any]:
    value = parse_strict_json(raw, lambda defect: _refusal(source, defect))
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise _refusal(source, f'it does not say "format": "{_FORMAT}"')
    return value


def _parse_public(public: dict[str, Any]) -> SimulatedPlatform:
    pems = public["certificates"]
    platform = SimulatedPlatform(
        **{name: x509.load_pem_x509_certificate(pems[name].encode()) for name in _CERTIFICATES},
        signer_id=bytes.fromhex(public["signer_id"]),
        collateral=parse_collateral(json.dumps(public["collateral"]).encode()),
        keys=None,
    )
    parse_anchor(platform.anchor)
    platform.pck_ca.verify_directly_issued_by(platform.root)
    platform.tcb_signer.verify_directly_issued_by(platform.root)
    platform.pck.verify_directly_issued_by(platform.pck_ca)
    parse_pck_extension(platform.pck)
    if len(platform.signer_id) != 32:
        raise ValueError("signer_id has not 32 bytes")
    return platform


def _parse_keys(private: dict[str, Any]) -> PlatformKeys:
    loaded = {name: load_pem_private_key(private["keys"][name].encode(), password=None) for name in _KEYS}
    curves = {name: key for name, key in loaded.items() if isinstance(key, ec.EllipticCurvePrivateKey)}
    if len(curves) != len(_KEYS) or any(not isinstance(key.curve, ec.SECP256R1) for key in curves.values()):
        raise ValueError("a key is not on P-256")
    signer = load_pem_private_key(private["keys"]["enclave_signer"].encode(), password=None)
    if not isinstance(signer, rsa.RSAPrivateKey) or signer.key_size != _SIGNER_SIZE * 8:
        raise ValueError("the enclaves' signing key is not RSA-3072")
    secret = bytes.fromhex(private["seal_secret"])
    if len(secret) != 32:
        raise ValueError("the seal secret has not 32 bytes")
    return PlatformKeys(**curves, enclave_signer=signer, seal_secret=secret)


def _check_keys(platform: SimulatedPlatform) -> None:
    """Refuse keys of another platform before any of them is used."""
    for name in _CERTIFICATES:
        if getattr(platform.keys, name).public_key() != getattr(platform, name).public_key():
            raise ValueError(f"the private key of {name} is not that of its certificate")
    if platform.keys is not None and signer_id(platform.keys.enclave_signer) != platform.signer_id:
        raise ValueError("the enclaves' signing key is not that of signer_id")
