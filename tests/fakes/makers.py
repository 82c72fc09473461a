"""A maker of TEEs that stands in for Intel and AMD: own roots, real layouts, and nothing in its names says SIMULATED.

Where a test pins its roots in place of the makers' (`pin`), everything is as on real hardware: kinds, anchors, evidence,
collateral. Nobody else believes it.

    maker = load_maker(folder)          # made where there is none yet
    maker.pin(monkeypatch)
    kernel = FakeGramine(maker, program="coordinator")
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha384
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tacit.evidence import Tee, TrustAnchor
from tacit.evidence.anchor import roots
from tacit.evidence.anchor.certificates import public_point
from tacit.evidence.intel.collateral import IntelCollateral, render_collateral
from tacit.evidence.simulated import authority, snp
from tacit.evidence.simulated.authority import Platform, Signer, issue_certificate
from tacit.evidence.simulated.quote import QuotingKeys
from tacit.evidence.simulated.snp import SnpChip, generate_chip
from tacit.evidence.simulated.tdx import issue_td_collateral
from tacit.evidence.snp.certificates import parse_amd_certificate
from tacit.evidence.snp.collateral import render_amd_collateral

_NAMES = ("root", "ca", "pck", "tcb", "attestation")
_PLATFORM = Platform(ppid=b"TEST-PPID-000001", fmspc=b"TSTSGX")
_FILE = "maker.json"


@contextmanager
def _named() -> Iterator[None]:
    """Certificates that are made in the block have names like the makers', with TEST in them."""

    def name(what: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"TEST SGX {what}")])

    def amd_name(what: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, what)])

    before = authority._name, snp._name
    authority._name, snp._name = name, amd_name
    try:
        yield
    finally:
        authority._name, snp._name = before


@dataclass(frozen=True)
class Maker:
    """Keys and certificates of the maker and of its one machine."""

    keys: dict[str, ec.EllipticCurvePrivateKey]
    certificates: dict[str, x509.Certificate]

    @property
    def quoting_keys(self) -> QuotingKeys:
        chain = [self.certificates[name] for name in ("pck", "ca", "root")]
        return QuotingKeys(self.keys["attestation"], self.keys["pck"], chain, bytes(_PLATFORM.components))

    @property
    def root_der(self) -> bytes:
        return self.certificates["root"].public_bytes(Encoding.DER)

    def _signer(self, name: str) -> Signer:
        return Signer(self.certificates[name], self.keys[name])

    def collateral(self, *, now: datetime, tee: Tee = Tee.SGX) -> IntelCollateral:
        issue: Callable[..., IntelCollateral] = issue_td_collateral if tee is Tee.TDX else authority.issue_collateral
        return issue(*map(self._signer, ("root", "ca", "tcb")), platform=_PLATFORM, now=now)

    def store_collateral(self, file: Path, *, now: datetime, tee: Tee = Tee.SGX) -> Path:
        """The file that a program's TACIT_INTEL_COLLATERAL or TACIT_AMD_COLLATERAL names."""
        raw = (
            render_amd_collateral(shared_amd_chip().collateral)
            if tee is Tee.SNP
            else render_collateral(self.collateral(now=now, tee=tee))
        )
        file.write_bytes(raw)
        return file

    def pin(self, patch: pytest.MonkeyPatch) -> None:
        """Take Intel's place in this process, until the patch is undone."""
        patch.setattr(roots, "INTEL_ROOT_KEY", public_point(self.certificates["root"]))
        for tee in (Tee.SGX, Tee.TDX):
            patch.setitem(roots.MAKERS, tee, self.anchor(tee))

    def anchor(self, tee: Tee) -> TrustAnchor:
        """What pins this maker for one kind."""
        return TrustAnchor(tee, "a test's Intel", self.root_der)

    def render(self) -> bytes:
        keys = {
            name: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
            for name, key in self.keys.items()
        }
        certificates = {name: one.public_bytes(Encoding.PEM).decode() for name, one in self.certificates.items()}
        return json.dumps({"keys": keys, "certificates": certificates}).encode()


def make_maker(*, now: datetime) -> Maker:
    """A maker with new keys."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in _NAMES}
    public = {name: key.public_key() for name, key in keys.items()}
    with _named():
        root = issue_certificate("Root CA", public["root"], keys["root"], now=now, ca_depth=1)
        by_root = Signer(root, keys["root"])
        ca = issue_certificate("PCK Platform CA", public["ca"], by_root, now=now, ca_depth=0)
        pck = issue_certificate("PCK", public["pck"], Signer(ca, keys["ca"]), now=now, platform=_PLATFORM)
        tcb = issue_certificate("TCB Signing", public["tcb"], by_root, now=now)
    return Maker(keys, {"root": root, "ca": ca, "pck": pck, "tcb": tcb})


def load_maker(folder: Path) -> Maker:
    """The maker whose keys lie in this folder; made where there is none."""
    file = folder / _FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_maker(now=datetime.now(UTC)).render())
    value = json.loads(file.read_bytes())
    keys = {name: load_pem_private_key(pem.encode(), None) for name, pem in value["keys"].items()}
    certificates = {name: x509.load_pem_x509_certificate(pem.encode()) for name, pem in value["certificates"].items()}
    return Maker(keys, certificates)  # type: ignore[arg-type]


@cache
def shared_maker() -> Maker:
    """One maker for all tests of a process, in force at `fakes.tee.NOW` and for twenty years."""
    from fakes.tee import NOW

    return make_maker(now=NOW)


@cache
def shared_amd_chip(product: str = "Milan") -> SnpChip:
    """One chip of another maker than AMD, without SIMULATED in its names."""
    from fakes.tee import NOW

    with _named():
        return generate_chip(now=NOW, random=lambda size: sha384(b"a test's chip").digest().ljust(64, b"\1")[:size])


def pin_amd(chip: SnpChip, patch: pytest.MonkeyPatch) -> None:
    """Have this chip's root count as AMD's, until the patch is undone."""
    key = parse_amd_certificate(chip.ark).key_der
    patch.setitem(roots.AMD_ROOT_KEYS, sha384(key).digest(), "Milan")
