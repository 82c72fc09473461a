"""Collateral: what the maker of a platform says about it, as bytes that carry their own signatures.

TCB info says which security versions are good, QE identity which quoting enclave is genuine, and two CRLs which
certificates are not. The file is JSON with the field names of the dcap-qvl library, bytes as hex, and the signed texts
exactly as they were signed: re-serialising them would break their signatures.

Source: Intel SGX PCS API v4 (TCB info version 3, QE identity version 2); field names of dcap-qvl's `QuoteCollateralV3`.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from tacit.errors import CollateralError, CollateralTimeError, EvidenceError, EvidenceFormatError

# Real collateral has 20 to 60 KiB.
MAX_COLLATERAL_SIZE = 1024 * 1024
# Real texts nest six deep; deeper ones only cost stack.
MAX_JSON_DEPTH = 32
MAX_CHAIN = 5  # certificates

# What the certificate library raises on bytes that are no certificate; `Warning` because callers may have made it an error.
FOREIGN_ERRORS = (
    ValueError, TypeError, OverflowError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, Warning,
)  # fmt: skip

_PEM_CHAIN = re.compile(
    rb"(?:-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----(?:\r?\n)*)+\0?"
)
_HEX = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True, slots=True)
class Collateral:
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


def parse_strict_json(raw: bytes, refuse: Callable[[str], Exception]) -> Any:
    """The value of a JSON text in which every key stands once.

    `refuse` makes the error of a defect. Refused: not UTF-8, larger than MAX_COLLATERAL_SIZE, deeper than
    MAX_JSON_DEPTH, a key twice (libraries differ in which one they take), NaN and infinities.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            twice = next(key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1)
            raise ValueError(f"the key {twice[:40]!r} stands twice")
        return seen

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    if len(raw) > MAX_COLLATERAL_SIZE:
        raise refuse(f"{len(raw)} bytes; at most {MAX_COLLATERAL_SIZE} are read")
    depth = deepest = 0
    for bracket in re.finditer(rb"[\[{\]}]", raw):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_JSON_DEPTH:
        raise refuse(f"nested {deepest} deep; at most {MAX_JSON_DEPTH} is read")
    try:
        return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=no_constant)
    except ValueError as exc:
        raise refuse(f"not strict JSON: {exc}") from exc


def parse_collateral(raw: bytes) -> Collateral:
    """Collateral from its JSON file.

    Raises:
        CollateralError: not strict JSON, or a field that is missing, unknown or of another type.
    """
    value = parse_strict_json(raw, lambda defect: CollateralError(f"collateral: {defect}"))
    if not isinstance(value, dict):
        raise CollateralError("collateral is a JSON object; this is another value")
    # Some files of the library carry this for quotes without a chain, which are not read here.
    if value.get("pck_certificate_chain", "") is None:
        del value["pck_certificate_chain"]
    names = [field.name for field in fields(Collateral)]
    if wrong := sorted(set(names) ^ set(value)):
        raise CollateralError(f"collateral: the fields {', '.join(wrong)[:200]} are missing or unknown")
    for name in names:
        if not isinstance(value[name], str):
            raise CollateralError(f"collateral: {name} is a string, this is {type(value[name]).__name__}")
    try:
        decoded: dict[str, Any] = {name: bytes.fromhex(value[name]) if name in _HEX else value[name] for name in names}
        return Collateral(**decoded)
    except ValueError as exc:
        raise CollateralError(f"collateral: {', '.join(_HEX)} are hex: {exc}") from exc


def render_collateral(collateral: Collateral) -> bytes:
    """The JSON file that `parse_collateral` reads."""
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(collateral).items()}
    return json.dumps(plain, indent=1).encode()


def parse_chain(pem: bytes, refuse: type[EvidenceError] = EvidenceFormatError) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM chain, as they stand.

    Only PEM blocks may stand in it (and one NUL at the end, which quotes have), so that nobody can hide bytes between.

    Raises:
        EvidenceFormatError: or what `refuse` names: not PEM, no certificate, or more than MAX_CHAIN.
    """
    if not _PEM_CHAIN.fullmatch(pem):
        raise refuse("a certificate chain that is not PEM blocks alone")
    if pem.count(b"-----BEGIN") > MAX_CHAIN:
        raise refuse(f"a certificate chain of {pem.count(b'-----BEGIN')}; at most {MAX_CHAIN} are read")
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem.rstrip(b"\0")))
        for one in chain:
            # The library parses these when they are first asked for, so that is done here, where its errors are caught.
            _ = one.subject, one.issuer, one.not_valid_before_utc, one.not_valid_after_utc
            _ = one.public_key(), one.extensions, one.signature_hash_algorithm
        return chain
    except FOREIGN_ERRORS as exc:
        raise refuse(f"a certificate chain that does not parse: {exc}") from exc


def parse_crl(der: bytes, name: str) -> x509.CertificateRevocationList:
    """A certificate revocation list that has a date for its successor.

    Raises:
        CollateralError: not one, or without a date for its successor.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        _ = crl.issuer, crl.last_update_utc, crl.extensions, crl.signature_hash_algorithm
        if crl.next_update_utc is None:
            raise ValueError("it has no nextUpdate, so it would be valid for ever")
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"the {name} CRL of the collateral cannot be used: {exc}") from exc
    return crl


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


def check_window(what: str, begin: datetime, end: datetime, *, now: datetime) -> None:
    """Refuse what is not in force at `now`: from `begin` on, and no longer at `end`.

    Raises:
        CollateralTimeError: before `begin`, or at `end` or later.
    """
    if now < begin:
        raise CollateralTimeError(
            f"{what} is dated {begin:%Y-%m-%d %H:%M}Z, in the future of this machine's clock ({now:%Y-%m-%d %H:%M}Z); "
            "set the clock"
        )
    if now >= end:
        raise CollateralTimeError(
            f"{what} expired on {end:%Y-%m-%d %H:%M}Z, it is now {now:%Y-%m-%d %H:%M}Z; fetch fresh collateral"
        )


def parse_signed_object(text: str, what: str) -> dict[str, Any]:
    """TCB info or QE identity as an object, with its window's two times still text.

    Raises:
        CollateralError: not a strict JSON object.
    """
    value = parse_strict_json(text.encode(), lambda defect: CollateralError(f"{what}: {defect}"))
    if not isinstance(value, dict):
        raise CollateralError(f"{what} is not a JSON object")
    return value


def check_signers(collateral: Collateral) -> None:
    """Refuse TCB info or QE identity that another signed than the one whom the root itself appointed for that.

    A platform's own key (PCK) has a chain to the same root. Whoever got such a key out of one machine could otherwise
    sign collateral that calls every machine up to date. The dcap-qvl library does not look at this.

    Raises:
        CollateralError: a signer's chain that is not signer and root alone.
    """
    chains = (("TCB info", collateral.tcb_info_issuer_chain), ("QE identity", collateral.qe_identity_issuer_chain))
    for name, pem in chains:
        chain = parse_chain(pem.encode(), CollateralError)
        if len(chain) != 2 or chain[0].issuer != chain[1].subject:
            raise CollateralError(
                f"the signer of {name} was not appointed by the root: its chain has {len(chain)} certificates, "
                "expected a TCB signing certificate and the root that issued it"
            )


def check_validity(
    pck_chain: Sequence[x509.Certificate], root: x509.Certificate, collateral: Collateral, *, now: datetime
) -> datetime:
    """The earliest end of everything that a verdict rests on, all of it in force at `now` (UTC).

    Raises:
        CollateralTimeError: something is not in force; the message names it.
        CollateralError: something has no readable dates.
    """
    windows = []
    chains = (
        collateral.pck_crl_issuer_chain,
        collateral.tcb_info_issuer_chain,
        collateral.qe_identity_issuer_chain,
    )
    certificates = {root, *pck_chain}
    for chain in chains:
        certificates.update(parse_chain(chain.encode(), CollateralError))
    for certificate in certificates:
        name = f"the certificate '{certificate.subject.rfc4514_string()[:100]}'"
        windows.append((name, certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    for name, der in (("root", collateral.root_ca_crl), ("PCK", collateral.pck_crl)):
        crl = parse_crl(der, name)
        # parse_crl refuses a list without nextUpdate; the second operand is for the type checker alone.
        windows.append((f"the {name} CRL", crl.last_update_utc, crl.next_update_utc or crl.last_update_utc))
    for name, text in (("TCB info", collateral.tcb_info), ("QE identity", collateral.qe_identity)):
        value = parse_signed_object(text, name)
        begin = parse_time(value.get("issueDate"), f"{name}'s issueDate")
        end = parse_time(value.get("nextUpdate"), f"{name}'s nextUpdate")
        windows.append((name, begin, end))
    for name, begin, end in sorted(windows):
        check_window(name, begin, end, now=now)
    return min(end for _, _, end in windows)
