"""What belongs to an SNP report: its chip's certificate, the two above it, and AMD's revocation list if there is one.

The file is JSON: `leaf` (VCEK or VLEK) and `crl` are DER as hex, `crl` empty where there is none; `issuer_chain` is PEM,
ASK (or ASVK) first and then ARK, as AMD's key distribution service gives it.
"""

import json
import re
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tacit.errors import CollateralError
from tacit.evidence.anchor.certificates import KEPT
from tacit.evidence.snp.certificates import AmdCertificate, parse_amd_certificate

_FIELDS = ("leaf", "issuer_chain", "crl")
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----(?:\r?\n)*")
_MAX_CRL = 512 * 1024  # bytes; AMD's have less than 10 KiB


@dataclass(frozen=True, slots=True)
class AmdCollateral:
    """Certificates and list for one chip. Nothing in it is trusted until `verify_evidence` has used it.

    `leaf` and `crl` are DER; an empty `crl` leaves revocation unchecked, and the claims say so.
    """

    leaf: bytes
    issuer_chain: str
    crl: bytes = b""


def parse_amd_collateral(value: dict[str, Any]) -> AmdCollateral:
    """Collateral from the object of its JSON file.

    Raises:
        CollateralError: a field that is missing, unknown or of another type.
    """
    if wrong := sorted(set(_FIELDS) ^ set(value)):
        raise CollateralError(f"collateral: the fields {', '.join(wrong)[:200]} are missing or unknown")
    if not all(isinstance(value[name], str) for name in _FIELDS):
        raise CollateralError(f"collateral: {', '.join(_FIELDS)} are strings")
    try:
        leaf, crl = bytes.fromhex(value["leaf"]), bytes.fromhex(value["crl"])
    except ValueError as exc:
        raise CollateralError(f"collateral: leaf and crl are hex: {exc}") from exc
    if len(crl) > _MAX_CRL:
        raise CollateralError(f"collateral: a crl of {len(crl)} bytes; at most {_MAX_CRL} are read")
    return AmdCollateral(leaf, value["issuer_chain"], crl)


def render_amd_collateral(collateral: AmdCollateral) -> bytes:
    """The JSON file that it was read from."""
    plain = {"leaf": collateral.leaf.hex(), "issuer_chain": collateral.issuer_chain, "crl": collateral.crl.hex()}
    return json.dumps(plain, indent=1).encode()


@lru_cache(maxsize=KEPT)
def read_chain(collateral: AmdCollateral) -> tuple[AmdCertificate, AmdCertificate, AmdCertificate]:
    """Chip's certificate, intermediate and root, parsed and not trusted.

    Raises:
        CollateralError: something does not parse, or the chain above the chip is not two certificates.
    """
    pem = collateral.issuer_chain
    blocks = _BLOCK.findall(pem)
    if len(blocks) != 2 or _BLOCK.sub("", pem):
        raise CollateralError(
            f"AMD's chain above a chip is two PEM certificates and nothing else (ASK or ASVK, then ARK), not {len(blocks)}"
        )
    try:
        intermediate, root = (
            a2b_base64(block.replace("\r", "").replace("\n", ""), strict_mode=True) for block in blocks
        )
    except ValueError as exc:
        raise CollateralError(f"AMD's chain is not PEM: {exc}") from exc
    leaf = parse_amd_certificate(collateral.leaf)
    return leaf, parse_amd_certificate(intermediate), parse_amd_certificate(root)


def pem(der: bytes) -> str:
    """A certificate as PEM."""
    text = b2a_base64(der, newline=False).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
