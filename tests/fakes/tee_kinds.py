"""Simulated TDs and SNP guests in memory, with knobs; their chip's keys are made once for all tests of a process."""

from dataclasses import replace
from functools import cache
from hashlib import sha512

from cryptography.hazmat.primitives.asymmetric import rsa

from fakes.tee import NOW, shared_platform
from tacit.evidence.simulated import snp
from tacit.evidence.simulated.quote import QuotingKeys
from tacit.evidence.simulated.snp import SnpChip, generate_chip
from tacit.evidence.simulated.tdx import TrustDomain, issue_td_quote

CHIP_ID = sha512(b"fake chip").digest()
DOMAIN = TrustDomain(mr_td=b"\x31" * 48, rtmrs=(b"\x40" * 48, b"\x41" * 48, b"\x42" * 48, b"\x43" * 48))


@cache
def shared_chip(product: str = "Milan") -> SnpChip:
    """One chip for all tests of a process; AMD's key sizes take seconds to make."""
    return generate_chip(now=NOW, random=lambda size: CHIP_ID[:size], product=product)


@cache
def other_rsa() -> rsa.RSAPrivateKey:
    """A key that nobody trusts."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def quoting_keys() -> QuotingKeys:
    """The shared platform's."""
    platform = shared_platform()
    assert platform.keys is not None
    return QuotingKeys(platform.keys.attestation, platform.keys.pck, platform.pck_chain, platform.cpu_svn)


def td_quote(*, version: int = 4, size: int | None = None, data: bytes = bytes(64), **changes: object) -> bytes:
    """A quote of a TD that differs from `DOMAIN` as told."""
    return issue_td_quote(replace(DOMAIN, **changes), data, keys=quoting_keys(), version=version, size=size)  # type: ignore[arg-type]


def snp_report(
    *, chip: SnpChip | None = None, tcb: bytes | None = None, data: bytes = bytes(64), **changes: object
) -> bytes:
    """A report of a guest that differs from the simulated default as told."""
    one = snp.Guest(measurement=b"\x51" * 48)
    return snp.issue_report(replace(one, **changes), data, chip=chip or shared_chip(), tcb=tcb)  # type: ignore[arg-type]
