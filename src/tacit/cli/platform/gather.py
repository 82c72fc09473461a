"""Evidence that a person names: a file, or what a running server shows when it is asked; and what verifies it."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from tacit.cli.files import read_input
from tacit.cli.platform.folder import platform_folder
from tacit.client.bound.show import fetch_shown
from tacit.client.connect import NONCE_SIZE
from tacit.errors import InputError, UsageError
from tacit.evidence import Binding, Claims, Tee, TrustAnchor, verify_evidence
from tacit.evidence.anchor import MAKERS
from tacit.evidence.fetch import (
    CollateralSource,
    Places,
    default_cache_folder,
    evidence_layout,
    fetch_collateral,
    load_anchor,
)
from tacit.evidence.fetch.keep import Kept, keep
from tacit.evidence.intel.quote import MAX_EVIDENCE_SIZE
from tacit.pki.keys import parse_certificates

_LARGEST = 1 << 20  # bytes of a file; a certificate in PEM around a quote has 15 KiB


@dataclass(frozen=True, slots=True)
class Gathered:
    """Evidence, and for a running program what it has to be bound to: certificate, nonce, and the connection."""

    evidence: bytes
    binding: Binding | None
    origin: str


def gather(target: str) -> Gathered:
    """Evidence from a file, or from the coordinator or model server at `HOST:PORT`, asked with a fresh nonce.

    Raises:
        UsageError: neither.
        FileInputError: a file that cannot be read.
        ConnectError: nobody answers.
        WrongTeeError: it shows no evidence.
    """
    path = Path(target)
    if path.exists():
        return Gathered(_bare(read_input(path, largest=_LARGEST)), None, target)
    if ":" not in target or "/" in target:
        raise UsageError(f"{target} is no file that is there, and no HOST:PORT of a running program")
    shown = fetch_shown(target, nonce=os.urandom(NONCE_SIZE))
    return Gathered(shown.evidence, shown.binding, target)


def _bare(raw: bytes) -> bytes:
    """The evidence of a file: as it is, out of PEM (RA-TLS), or out of hexadecimal text."""
    if raw.startswith(b"-----BEGIN CERTIFICATE-----"):
        return parse_certificates(raw)[0].public_bytes(Encoding.DER)
    if len(raw) <= 2 * MAX_EVIDENCE_SIZE + 2 and raw[:1].isalnum() and raw.strip().isalnum():
        try:
            return bytes.fromhex(raw.decode("ascii").strip())
        except ValueError:
            return raw
    return raw


@dataclass(frozen=True, slots=True)
class Judge:
    """How evidence is to be verified: by which kind's root, with collateral from where, as of when (None: now)."""

    tee: str | None
    collateral: str | None
    platform: Path | None
    moment: datetime | None = None

    def verify(self, gathered: Gathered) -> tuple[Claims, Kept]:
        """What authentic evidence says, and the collateral that was used.

        Raises:
            EvidenceError: it is not authentic; the message names the step.
        """
        anchor = self._anchor(gathered.evidence)
        now = datetime.now(UTC) if self.moment is None else self.moment
        if anchor.tee.is_simulated:
            found = keep(fetch_collateral(gathered.evidence, folder=platform_folder(self.platform)))
            claims = verify_evidence(gathered.evidence, found.collateral, anchor, now=now, binding=gathered.binding)
            return claims, found
        # What was seen in another time is no measure for this one, and the other way round.
        cache = default_cache_folder(os.environ) if self.moment is None else None
        source = CollateralSource(Places.named(self.collateral, cache=cache))
        return source.verify_keeping(gathered.evidence, anchor, now=now, binding=gathered.binding)

    def _anchor(self, evidence: bytes) -> TrustAnchor:
        """A maker's root by the layout of the evidence; a simulated one only where it was asked for by name."""
        if self.tee is None:
            return MAKERS[evidence_layout(evidence)]
        if self.tee not in tuple(Tee):
            raise InputError(f"{self.tee!r} is no kind of TEE; expected one of {', '.join(Tee)}")
        tee = Tee(self.tee)
        return load_anchor(platform_folder(self.platform), tee=tee) if tee.is_simulated else MAKERS[tee]


def check_place(where: str) -> str:
    """An address, or the whole path of a bundle that can be read. Raises: CollateralAbsentError, CollateralError."""
    places = Places.named(where, cache=None)
    CollateralSource(places)
    return where if places.bundle is None else str(places.bundle.resolve())


def parse_moment(text: str | None) -> datetime | None:
    """A time that was typed; None where none was. Raises: UsageError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(f"--at {text!r} is no time; expected one such as 2026-11-01T12:00:00Z") from exc
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
