"""`tacit manifest lint` and `tacit manifest diff`: what a person should know before a manifest is set."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format, load_manifest, printable
from tacit.errors import ManifestError, UsageError
from tacit.manifest import parse_manifest
from tacit.manifest.check import find_defects
from tacit.manifest.codec import ParsedManifest
from tacit.manifest.review import Finding, Severity, compare_manifests, lint_manifest
from tacit.manifest.review.diff import Effect

_FEW = 3  # findings alike that are printed one by one

_ManifestArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Manifest, JSON or YAML.")]


def lint(
    file: _ManifestArgument,
    output: FormatOption = "text",
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", metavar="high|medium|low", help="Exit with 1 for findings as bad as this, or worse."),
    ] = "high",
) -> None:
    """List each weak choice in a manifest, the worst first, with the better form.

    Example: tacit manifest lint manifest.json
    """
    check_format(output)
    limit = _parse_severity(fail_on)
    parsed = _parse(file)
    findings = lint_manifest(parsed.manifest, leniencies=parsed.leniencies)
    refused = any(find_defects(parsed.manifest))
    if refused:
        typer.echo("Note: a coordinator refuses this manifest; see: tacit manifest check", err=True)
    if output == "json":
        typer.echo(json.dumps([_finding_fields(one) for one in findings], indent=2))
    else:
        for alike in _grouped(findings):
            one = alike[0]
            typer.echo(printable(f"{one.severity}: {one.path}: {one.what}"))
            if len(alike) > 1:
                typer.echo(printable(f"    also: {_places(alike[1:])}"))
            typer.echo(printable(f"    why: {one.why}"))
            typer.echo(printable(f"    better: {one.better}"))
        counts = ", ".join(f"{sum(one.severity is grade for one in findings)} {grade}" for grade in Severity)
        typer.echo(counts)
    if refused or any(one.severity.rank <= limit.rank for one in findings):
        raise typer.Exit(1)


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The manifest as it is, JSON or YAML.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The manifest as it is to be.")],
    output: FormatOption = "text",
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on", metavar="gain|change|loss", help="Exit with 1 for a change that weighs as much, or more."
        ),
    ] = None,
) -> None:
    """Say who gains and who loses what between two manifests, gains of access first.

    Example: tacit manifest diff old.json new.json
    """
    check_format(output)
    limit = None if fail_on is None else _parse_effect(fail_on)
    changes = compare_manifests(*(_parse(path).manifest for path in (old, new)))
    if output == "json":
        fields = [{"effect": one.effect, "path": one.path, "text": one.text} for one in changes]
        typer.echo(json.dumps(fields, indent=2))
    else:
        for one in changes:
            typer.echo(printable(f"{one.effect}: {one.text}"))
        if not changes:
            typer.echo("Both manifests allow the same.")
    if limit is not None and any(one.effect.rank <= limit.rank for one in changes):
        raise typer.Exit(1)


def _parse(path: Path) -> ParsedManifest:
    """A manifest as a coordinator reads it. Raises: FileInputError, InputError, ManifestError that names the file."""
    try:
        return parse_manifest(load_manifest(path))
    except ManifestError as exc:
        hint = f"every defect with its line: tacit manifest check {path}"
        raise ManifestError(f"{exc} (in {path}; {hint})", defects=exc.defects) from exc


def _grouped(findings: Sequence[Finding]) -> Iterator[list[Finding]]:
    """Findings that differ in nothing but place and name, together where there are more than a few, at the first one's place."""
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        kind = (one.severity, one.why, one.better, one.path.split(".")[0], one.path.rpartition(".")[2])
        alike.setdefault(kind, []).append(one)
    for group in alike.values():
        if len(group) > _FEW:
            yield group
        else:
            yield from ([one] for one in group)


def _places(findings: Sequence[Finding]) -> str:
    shown = ", ".join(one.path for one in findings[:_FEW])
    more = len(findings) - _FEW
    return f"{shown}, and {more} more (--output json lists them all)" if more > 0 else shown


def _parse_effect(text: str) -> Effect:
    """Raises: UsageError."""
    try:
        return Effect(text)
    except ValueError as exc:
        raise UsageError(f"--fail-on {text!r} is unknown; expected {', '.join(Effect)}") from exc


def _parse_severity(text: str) -> Severity:
    """Raises: UsageError."""
    try:
        return Severity(text)
    except ValueError as exc:
        raise UsageError(f"--fail-on {text!r} is unknown; expected {', '.join(Severity)}") from exc


def _finding_fields(one: Finding) -> dict[str, str]:
    return {"severity": one.severity, "path": one.path, "what": one.what, "why": one.why, "better": one.better}
