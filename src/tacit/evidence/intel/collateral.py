"""Collateral: what Intel says about a platform, as bytes that carry their own signatures.

TCB info says which security versions are good, QE identity which quoting enclave is genuine, and two CRLs which
certificates are not. The file is JSON with the field names of the dcap-qvl library, bytes as hex, and the signed texts
exactly as they were signed: re-serialising them would break their signatures.

Source: Intel SGX and TDX PCS API v4 (TCB info version 3, QE identity version 2); field names of dcap-qvl's
`QuoteCollateralV3`.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

from cryptography import x509

from tacit.errors import CollateralError
from tacit.evidence.anchor.certificates import KEPT, parse_chain, parse_crl
from tacit.evidence.anchor.dates import check_window
from tacit.evidence.anchor.strict_json import parse_strict_json
from tacit.evidence.claims import Digested

_HEX = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """Collateral for one platform at one time. Nothing in it is trusted until `verify_evidence` has used it.

    Chains are PEM, leaf first; lists and signatures are bytes (DER; r ‖ s); `tcb_info` and `qe_identity` are the exact
    texts that were signed.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes


@dataclass(frozen=True, slots=True, eq=False)
class ReadCollateral:
    """The parts of collateral, parsed and not trusted. Two readers of one must not change it."""

    pck_crl_chain: tuple[x509.Certificate, ...]
    tcb_info_chain: tuple[x509.Certificate, ...]
    qe_identity_chain: tuple[x509.Certificate, ...]
    root_crl: x509.CertificateRevocationList
    pck_crl: x509.CertificateRevocationList
    tcb_info: dict[str, Any]
    qe_identity: dict[str, Any]
    windows: tuple[tuple[str, datetime, datetime], ...]
    lists: Digested
    tcb_info_text: Digested
    qe_identity_text: Digested
    both_texts: Digested


def parse_intel_collateral(value: dict[str, Any]) -> IntelCollateral:
    """Collateral from the object of its JSON file.

    Raises:
        CollateralError: a field that is missing, unknown or of another type.
    """
    # Some files of the library carry this for quotes without a chain, which are not read here.
    if value.get("pck_certificate_chain", "") is None:
        del value["pck_certificate_chain"]
    names = [field.name for field in fields(IntelCollateral)]
    if wrong := sorted(set(names) ^ set(value)):
        raise CollateralError(f"collateral: the fields {', '.join(wrong)[:200]} are missing or unknown")
    for name in names:
        if not isinstance(value[name], str):
            raise CollateralError(f"collateral: {name} is a string, this is {type(value[name]).__name__}")
    try:
        decoded: dict[str, Any] = {name: bytes.fromhex(value[name]) if name in _HEX else value[name] for name in names}
        return IntelCollateral(**decoded)
    except ValueError as exc:
        raise CollateralError(f"collateral: {', '.join(_HEX)} are hex: {exc}") from exc


def render_collateral(collateral: IntelCollateral) -> bytes:
    """The JSON file that it was read from."""
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(collateral).items()}
    return json.dumps(plain, indent=1).encode()


def parse_time(text: Any, what: str) -> datetime:
    """A time of TCB info or QE identity, `2026-11-01T00:00:00Z`.

    Raises:
        CollateralError: any other text.
    """
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text):
        raise CollateralError(f"{what} is not a time like 2026-11-01T00:00:00Z")
    try:
        return datetime.fromisoformat(text)
    except ValueError as exc:
        raise CollateralError(f"{what} is not a time: {exc}") from exc


def parse_signed_object(text: str, what: str) -> dict[str, Any]:
    """TCB info or QE identity as an object, with its window's two times still text.

    Raises:
        CollateralError: not a strict JSON object.
    """
    value = parse_strict_json(text.encode(), lambda defect: CollateralError(f"{what}: {defect}"))
    if not isinstance(value, dict):
        raise CollateralError(f"{what} is not a JSON object")
    return value


@lru_cache(maxsize=KEPT)
def read_collateral(collateral: IntelCollateral) -> ReadCollateral:
    """Collateral with all its parts parsed, which takes longer than all signatures; so the last ones are remembered.

    Raises:
        CollateralError: a part that does not parse, or has no dates.
    """
    texts = (("TCB info", collateral.tcb_info), ("QE identity", collateral.qe_identity))
    chains = [
        parse_chain(pem.encode(), CollateralError)
        for pem in (
            collateral.pck_crl_issuer_chain, collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain
        )
    ]  # fmt: skip
    windows = [certificate_window(one) for chain in chains for one in chain]
    lists = [parse_crl(der, name) for name, der in (("root", collateral.root_ca_crl), ("PCK", collateral.pck_crl))]
    for name, crl in zip(("root", "PCK"), lists, strict=True):
        # parse_crl refuses a list without nextUpdate; the second operand is for the type checker alone.
        windows.append((f"the {name} CRL", crl.last_update_utc, crl.next_update_utc or crl.last_update_utc))
    objects = []
    for name, text in texts:
        value = parse_signed_object(text, name)
        begin = parse_time(value.get("issueDate"), f"{name}'s issueDate")
        windows.append((name, begin, parse_time(value.get("nextUpdate"), f"{name}'s nextUpdate")))
        objects.append(value)
    pck_crl_chain, tcb_info_chain, qe_identity_chain = chains
    return ReadCollateral(
        pck_crl_chain,
        tcb_info_chain,
        qe_identity_chain,
        lists[0],
        lists[1],
        objects[0],
        objects[1],
        tuple(windows),
        lists=_digest(collateral.root_ca_crl + collateral.pck_crl),
        tcb_info_text=_digest(collateral.tcb_info.encode()),
        qe_identity_text=_digest(collateral.qe_identity.encode()),
        both_texts=_digest((collateral.tcb_info + collateral.qe_identity).encode()),
    )


def _digest(over: bytes) -> Digested:
    return Digested(sha256(over).digest())


@lru_cache(maxsize=KEPT)
def _chain_windows(chain: tuple[x509.Certificate, ...]) -> tuple[tuple[str, datetime, datetime], ...]:
    return tuple(map(certificate_window, chain))


def certificate_window(certificate: x509.Certificate) -> tuple[str, datetime, datetime]:
    """Name, begin and end of a certificate."""
    name = f"the certificate '{certificate.subject.rfc4514_string()[:100]}'"
    return name, certificate.not_valid_before_utc, certificate.not_valid_after_utc


@lru_cache(maxsize=KEPT)  # a refusal is not kept
def check_signers(read: ReadCollateral) -> None:
    """Refuse TCB info or QE identity that another signed than the one whom the root itself appointed for that.

    A platform's own key (PCK) has a chain to the same root. Whoever got such a key out of one machine could otherwise
    sign collateral that calls every machine up to date. The dcap-qvl library does not look at this.

    Raises:
        CollateralError: a signer's chain that is not signer and root alone.
    """
    for name, chain in (("TCB info", read.tcb_info_chain), ("QE identity", read.qe_identity_chain)):
        if len(chain) != 2 or chain[0].issuer != chain[1].subject:
            raise CollateralError(
                f"the signer of {name} was not appointed by the root: its chain has {len(chain)} certificates, "
                "expected a TCB signing certificate and the root that issued it"
            )


def check_validity(
    pck_chain: tuple[x509.Certificate, ...], root: x509.Certificate, collateral: IntelCollateral, *, now: datetime
) -> datetime:
    """The earliest end of everything that a verdict rests on, all of it in force at `now` (UTC).

    Raises:
        CollateralTimeError: something is not in force; the message names it.
        CollateralError: something has no readable dates.
    """
    windows = (*read_collateral(collateral).windows, *_chain_windows((root,)), *_chain_windows(pck_chain))
    for name, begin, end in windows:
        check_window(name, begin, end, now=now)
    return min(end for _, _, end in windows)
