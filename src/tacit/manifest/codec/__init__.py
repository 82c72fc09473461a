"""What does this manifest say?

Bytes come in. `parse_manifest` reads them as MarbleRun's coordinator does and lists each leniency that was needed;
`parse_manifest_strict` accepts only what needs none, and lists every defect at once. Whether what it says makes sense
is for `check_manifest`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tacit.errors import Defect, ManifestError
from tacit.manifest.codec.decode import Finding, Place, Report, Struct, Weight
from tacit.manifest.codec.schema import MANIFEST, MANIFEST_BEFORE, PACKAGE, build_manifest, build_package
from tacit.manifest.codec.text import JsonSyntaxError, parse_text, position
from tacit.manifest.model import Manifest, Package

__all__ = [
    "ParsedManifest",
    "describe_leniencies",
    "parse_manifest",
    "parse_manifest_strict",
    "parse_package",
    "parse_sealed_manifest",
]

MAX_SHOWN = 50
"""Defects in a message; the rest is counted."""
MAX_LENIENCIES = 100
"""Leniencies that are named; the rest is counted."""
MAX_PATH = 300
"""Characters of a leniency's path, and of what is said of it."""


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """A manifest, and each thing that the strict reading would refuse (`$.Packages.a.debug: ...`)."""

    manifest: Manifest
    leniencies: tuple[str, ...]


def parse_manifest(raw: bytes) -> ParsedManifest:
    """The manifest as MarbleRun's coordinator would read it.

    Raises:
        ManifestError: in MarbleRun's words, `unmarshaling manifest: ...`.
    """
    return _parse(raw, MANIFEST)


def parse_sealed_manifest(raw: bytes) -> Manifest:
    """A manifest that a coordinator has taken already, perhaps when it read over what is a defect today.

    Raises:
        ManifestError: no coordinator can have taken it.
    """
    try:
        return _parse(raw, MANIFEST).manifest
    except ManifestError:
        return _parse(raw, MANIFEST_BEFORE).manifest


def _parse(raw: bytes, kind: Struct) -> ParsedManifest:
    try:
        values, findings = _walk(raw, kind)
    except JsonSyntaxError as exc:
        message = f"unmarshaling manifest: {exc}"
        raise ManifestError(message) from exc
    # max keeps the first of equals: the first fatal finding, or else the first wrong one.
    worst = max(findings, key=lambda finding: finding.weight, default=None)
    if worst is not None and worst.weight is not Weight.TOLERATED:
        message = f"unmarshaling manifest: {worst.wire}"
        raise ManifestError(message, defects=(_defect(raw, worst),))
    return ParsedManifest(build_manifest(raw, values), describe_leniencies(findings))


def describe_leniencies(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What was let pass, each with its path; of very many the first, and how many more there are."""
    # Whoever may send a text could otherwise have a line of the log for every few bytes of it.
    shown = [
        f"{_dollar(finding.path)[:MAX_PATH]}: {finding.message[:MAX_PATH]}" for finding in findings[:MAX_LENIENCIES]
    ]
    if len(findings) > MAX_LENIENCIES:
        shown.append(f"$: and {len(findings) - MAX_LENIENCIES} more")
    return tuple(shown)


def parse_manifest_strict(raw: bytes) -> Manifest:
    """The manifest, if every reader understands it alike: no unknown, repeated or misspelt key, no wrong type.

    Raises:
        ManifestError: with every defect, each with its path, line and column.
    """
    return build_manifest(raw, _walk_strictly(raw, MANIFEST, "manifest"))


def parse_package(raw: bytes) -> Package:
    """One package, as it stands in a manifest and as `tacit package-info --output json` prints it; read strictly.

    Raises:
        ManifestError: with every defect, each with its path, line and column.
    """
    return build_package(_walk_strictly(raw, PACKAGE, "package"))


def _walk_strictly(raw: bytes, kind: Struct, what: str) -> dict[str, object]:
    try:
        values, findings = _walk(raw, kind)
    except JsonSyntaxError as exc:
        line, column = position(raw, exc.offset)
        defect = Defect("$", line, column, f"not JSON: {exc}")
        message = f"{what}: line {line}, column {column}: not JSON: {exc}"
        raise ManifestError(message, defects=(defect,)) from exc
    if findings:
        defects = tuple(_defect(raw, finding) for finding in findings)
        raise ManifestError(_listing(defects, what), defects=defects)
    return values


def survey_manifest(raw: bytes) -> tuple[Manifest, tuple[Defect, ...], frozenset[str]]:
    """All that can be read of a manifest, each thing that the strict reading refuses, and the paths that no reading takes.

    What stands at those paths is missing in the value.
    Raises: ManifestError: not JSON.
    """
    try:
        values, findings = _walk(raw)
    except JsonSyntaxError as exc:
        line, column = position(raw, exc.offset)
        raise ManifestError(str(exc), defects=(Defect("$", line, column, f"not JSON: {exc}"),)) from exc
    unread = frozenset(one.path for one in findings if one.weight is not Weight.TOLERATED)
    return build_manifest(raw, values), tuple(_defect(raw, one) for one in findings), unread


def _walk(raw: bytes, kind: Struct = MANIFEST) -> tuple[dict[str, object], list[Finding]]:
    report = Report()
    values = kind.decode(parse_text(raw), Place(), kind.empty(), report)
    return values, report.findings


def _dollar(path: str) -> str:
    return f"${path}" if path.startswith("[") else f"$.{path}" if path else "$"


def _defect(raw: bytes, finding: Finding) -> Defect:
    line, column = position(raw, finding.offset)
    return Defect(finding.path or "$", line, column, finding.message)


def _listing(defects: tuple[Defect, ...], what: str) -> str:
    lines = [f"{one.path}: line {one.line}, column {one.column}: {one.message}" for one in defects[:MAX_SHOWN]]
    if len(defects) > MAX_SHOWN:
        lines.append(f"and {len(defects) - MAX_SHOWN} more")
    count = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
    return f"{what} has {count}:\n  " + "\n  ".join(lines)
