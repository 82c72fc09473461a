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
from typing import Any, TypeVar

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
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, parse_crl
from tacit.evidence.anchor.roots import parse_anchor
from tacit.evidence.anchor.strict_json import parse_strict_json
from tacit.evidence.claims import Tee, TrustAnchor
from tacit.evidence.intel.collateral import (
    IntelCollateral,
    check_validity,
    parse_intel_collateral,
    render_collateral,
)
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.simulated import authority
from tacit.evidence.simulated.authority import Platform, Signer, issue_certificate, issue_collateral
from tacit.evidence.simulated.snp import SnpChip, issue_amd_crl, parse_chip, render_chip, render_chip_keys
from tacit.evidence.simulated.tdx import issue_td_collateral
from tacit.evidence.snp.collateral import AmdCollateral

_Part = TypeVar("_Part")

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
    collateral: IntelCollateral
    keys: PlatformKeys | None
    td_collateral: IntelCollateral | None = None
    snp: SnpChip | None = None

    @property
    def anchor(self) -> TrustAnchor:
        """What a verifier trusts when it trusts this platform."""
        return self.anchor_for(Tee.SIMULATED)

    def anchor_for(self, tee: Tee) -> TrustAnchor:
        """What a verifier trusts when it trusts this platform for this kind of evidence. Raises: PlatformError."""
        if tee is Tee.SIMULATED_SNP:
            return self._part(self.snp, "SNP").anchor
        if not tee.is_simulated:
            raise PlatformError(f"a simulated platform never vouches for {tee}; name the root of its maker")
        return TrustAnchor(tee, "simulated platform", self.root.public_bytes(Encoding.DER))

    def collateral_for(self, tee: Tee) -> IntelCollateral | AmdCollateral:
        """What a verifier needs beside evidence of this kind. Raises: PlatformError."""
        if tee.layout is Tee.SNP:
            return self._part(self.snp, "SNP").collateral
        return self._part(self.td_collateral, "TDX") if tee.layout is Tee.TDX else self.collateral

    @staticmethod
    def _part(part: _Part | None, name: str) -> _Part:
        if part is None:
            raise PlatformError(
                f"this simulated platform has no {name} part: it is made when a program with its keys first runs as "
                f"simulated {name}; export the platform again after that"
            )
        return part

    @property
    def pck_chain(self) -> tuple[x509.Certificate, ...]:
        """The chain that quotes carry, leaf first."""
        return self.pck, self.pck_ca, self.root

    @property
    def cpu_svn(self) -> bytes:
        """The 16 component versions, one byte each."""
        return bytes(parse_pck_extension(self.pck).components)

    def with_chip(self, chip: SnpChip) -> "SimulatedPlatform":
        """The same platform with this SNP chip."""
        return replace(self, snp=chip)

    def with_parts_of(self, other: "SimulatedPlatform") -> "SimulatedPlatform":
        """The same platform with what only the other copy of it has: the SNP chip, its keys, TDX's collateral."""
        chip = self.snp or other.snp
        if chip and chip.keys is None and other.snp and other.snp.ark == chip.ark:
            chip = replace(chip, keys=other.snp.keys)
        return replace(self, snp=chip, td_collateral=self.td_collateral or other.td_collateral)

    def public(self) -> "SimulatedPlatform":
        """The same platform for those who shall only verify."""
        return replace(self, keys=None, snp=None if self.snp is None else replace(self.snp, keys=None))


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
    signers = by_root, Signer(ca, ca_key), Signer(tcb, tcb_key)
    return SimulatedPlatform(
        root=root,
        pck_ca=ca,
        pck=pck,
        tcb_signer=tcb,
        signer_id=signer_id(enclave_signer),
        collateral=issue_collateral(*signers, platform=platform, now=now),
        td_collateral=issue_td_collateral(*signers, platform=platform, now=now),
        keys=PlatformKeys(root_key, ca_key, pck_key, tcb_key, attestation, enclave_signer, random(32)),
    )


def refresh_platform(platform: SimulatedPlatform, *, now: datetime) -> SimulatedPlatform:
    """The same platform with collateral for another year, if less than 30 days are left and the keys are here.

    Platforms from before TDX get its collateral then, too.
    """
    if platform.keys is None or not _is_due(platform, now):
        return platform
    found = parse_pck_extension(platform.pck)
    described = Platform(found.ppid, found.fmspc, found.pce_id, found.components, found.pce_svn)
    signers = (
        Signer(platform.root, platform.keys.root),
        Signer(platform.pck_ca, platform.keys.pck_ca),
        Signer(platform.tcb_signer, platform.keys.tcb_signer),
    )
    chip = platform.snp
    return replace(
        platform,
        collateral=issue_collateral(*signers, platform=described, now=now),
        td_collateral=issue_td_collateral(*signers, platform=described, now=now),
        snp=chip and replace(chip, crl=issue_amd_crl(chip, now=now)),
    )


def _is_due(platform: SimulatedPlatform, now: datetime) -> bool:
    """Whether something of the collateral is missing, no longer in force, or nearly so."""
    if platform.td_collateral is None:
        return True
    try:
        ends = [
            check_validity(platform.pck_chain, platform.root, one, now=now)
            for one in (platform.collateral, platform.td_collateral)
        ]
    except EvidenceError:
        return True  # no longer in force: the very reason to make new collateral
    if platform.snp is not None:
        crl = parse_crl(platform.snp.crl, "simulated AMD")
        ends.append(crl.next_update_utc or crl.last_update_utc)
    return min(ends) - now <= _REFRESH_BEFORE


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
    # Both are absent from files of older versions, which skip what they do not know.
    if platform.td_collateral is not None:
        value["public"]["td_collateral"] = json.loads(render_collateral(platform.td_collateral))
    if platform.snp is not None:
        value["public"]["snp"] = render_chip(platform.snp)
    if platform.keys is not None:
        names = (*_KEYS, "enclave_signer")
        value["private"] = {
            "keys": {name: _key_pem(getattr(platform.keys, name)) for name in names},
            "seal_secret": platform.keys.seal_secret.hex(),
        }
        if platform.snp is not None and platform.snp.keys is not None:
            value["private"]["snp_keys"] = render_chip_keys(platform.snp.keys)
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
            if platform.snp is not None:
                platform = replace(platform, snp=parse_chip(value["public"]["snp"], value["private"]["snp_keys"]))
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
        collateral=parse_intel_collateral(public["collateral"]),
        keys=None,
        td_collateral=parse_intel_collateral(public["td_collateral"]) if "td_collateral" in public else None,
        snp=parse_chip(public["snp"], None) if "snp" in public else None,
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
