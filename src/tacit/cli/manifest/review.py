"""`tacit manifest lint` and `tacit manifest diff`: what a person should know before a manifest is set."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format, load_manifest
from tacit.errors import UsageError
from tacit.manifest import parse_manifest
from tacit.manifest.check import find_defects
from tacit.manifest.review import Finding, Severity, compare_manifests, lint_manifest

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
    parsed = parse_manifest(load_manifest(file))
    findings = lint_manifest(parsed.manifest, leniencies=parsed.leniencies)
    if any(find_defects(parsed.manifest)):
        typer.echo("Note: a coordinator refuses this manifest; see: tacit manifest check", err=True)
    if output == "json":
        typer.echo(json.dumps([_finding_fields(one) for one in findings], indent=2))
    else:
        for one in findings:
            typer.echo(_printable(f"{one.severity}: {one.path}: {one.what}"))
            typer.echo(_printable(f"    why: {one.why}"))
            typer.echo(_printable(f"    better: {one.better}"))
        counts = ", ".join(f"{sum(one.severity is grade for one in findings)} {grade}" for grade in Severity)
        typer.echo(counts)
    if any(one.severity.rank <= limit.rank for one in findings):
        raise typer.Exit(1)


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The manifest as it is, JSON or YAML.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The manifest as it is to be.")],
    output: FormatOption = "text",
) -> None:
    """Say who gains and who loses what between two manifests, gains of access first.

    Example: tacit manifest diff old.json new.json
    """
    check_format(output)
    changes = compare_manifests(*(parse_manifest(load_manifest(path)).manifest for path in (old, new)))
    if output == "json":
        fields = [{"effect": one.effect, "path": one.path, "text": one.text} for one in changes]
        typer.echo(json.dumps(fields, indent=2))
        return
    for one in changes:
        typer.echo(_printable(f"{one.effect}: {one.text}"))
    if not changes:
        typer.echo("Both manifests allow the same.")


def _parse_severity(text: str) -> Severity:
    """Raises: UsageError."""
    try:
        return Severity(text)
    except ValueError as exc:
        raise UsageError(f"--fail-on {text!r} is unknown; expected {', '.join(Severity)}") from exc


def _finding_fields(one: Finding) -> dict[str, str]:
    return {"severity": one.severity, "path": one.path, "what": one.what, "why": one.why, "better": one.better}


def _printable(line: str) -> str:
    """A line of its own: names are the manifest's, and must not steer the terminal or forge another line."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
