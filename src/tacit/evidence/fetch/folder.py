"""Anchors and collateral from files: the simulated platform's folder, and single files of collateral."""

from collections.abc import Mapping
from pathlib import Path

from tacit.errors import PlatformError
from tacit.evidence.anchor.strict_json import MAX_JSON_SIZE
from tacit.evidence.claims import Tee, TrustAnchor
from tacit.evidence.intel.quote import parse_quote
from tacit.evidence.simulated.platform import PLATFORM_FILE, SimulatedPlatform, parse_public_platform
from tacit.evidence.snp.report import is_report
from tacit.evidence.verify import Collateral
from tacit.evidence.verify.envelope import unwrap


def load_anchor(folder: Path, *, tee: Tee = Tee.SIMULATED) -> TrustAnchor:
    """The root of the simulated platform in a folder, for evidence of this kind; its public part is enough.

    Raises:
        PlatformError: no platform there, one that cannot be used, or one without a part for this kind.
    """
    return _load(folder).anchor_for(tee)


def evidence_layout(evidence: bytes) -> Tee:
    """The real kind whose layout this evidence has. Nothing is believed of it: it only says which root to try.

    Raises:
        EvidenceFormatError: not evidence.
    """
    return Tee.SNP if is_report(evidence) else parse_quote(unwrap(evidence)).tee


def simulated_kind(evidence: bytes) -> Tee:
    """The simulated kind with the layout of this evidence, likewise.

    Raises:
        EvidenceFormatError: not evidence.
    """
    layout = evidence_layout(evidence)
    return next(tee for tee in Tee if tee.is_simulated and tee.layout is layout)


def fetch_collateral(evidence: bytes, *, folder: Path) -> Collateral:
    """Collateral for the platform that made this evidence, from the simulated platform's folder.

    Raises:
        EvidenceFormatError: not evidence, so that there is nothing to fetch for.
        PlatformError: no platform there, one that cannot be used, or one without a part for this kind.
    """
    tee = simulated_kind(evidence)
    return _load(folder).collateral_for(tee)


def default_cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Where a user's collateral is kept: `tacit/collateral` below $XDG_CACHE_HOME or ~/.cache; None where neither is."""
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base) / "tacit" / "collateral"
    home = environ.get("HOME")
    return Path(home) / ".cache" / "tacit" / "collateral" if home else None


def _load(folder: Path) -> SimulatedPlatform:
    file = folder / PLATFORM_FILE
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_JSON_SIZE + 1)
    except FileNotFoundError as exc:
        raise PlatformError(
            f"no simulated platform in {folder}: make one with 'tacit platform init', or bring the one of the machine "
            "that you want to verify with 'tacit platform import FILE'"
        ) from exc
    except OSError as exc:
        raise PlatformError(f"the simulated platform in {folder} cannot be read: {exc.strerror}") from exc
    return parse_public_platform(raw, source=str(file))
