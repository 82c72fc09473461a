"""`tacit manifest check`: every defect of a manifest at once, each with its path and its line in the file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format, manifest_json, printable, read_input
from tacit.cli.manifest.yaml_places import YamlPlaces
from tacit.errors import Defect, ManifestError
from tacit.manifest.review.defects import Examined, examine_manifest, parse_path
from tacit.manifest.yaml_text import survey_yaml

MAX_SHOWN = 50
"""Defects in a message for a person; the rest is counted."""


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Manifest, JSON or YAML.")], output: FormatOption = "text"
) -> None:
    """Read a manifest strictly and name every defect with its path and line.

    Example: tacit manifest check manifest.json
    """
    check_format(output)
    raw = read_input(file)
    converted = manifest_json(file, raw, survey_yaml)
    found = examine_manifest(converted)
    if converted is not raw:
        found = _in_yaml(found, YamlPlaces(raw))
    if output == "json":
        fields = [
            {"path": one.path, "line": one.line, "column": one.column, "message": one.message} for one in found.defects
        ]
        typer.echo(json.dumps({"defects": fields, "warnings": list(found.warnings)}, indent=2))
        if found.defects:
            raise typer.Exit(1)
        return
    for warning in found.warnings:
        typer.echo(f"Warning: {printable(warning)}", err=True)
    if found.defects or found.manifest is None:
        raise ManifestError(_listing(found.defects), defects=found.defects)
    manifest = found.manifest
    typer.echo(
        f"OK: {len(manifest.packages)} packages, {len(manifest.marbles)} marbles, {len(manifest.secrets)} secrets"
    )


def _in_yaml(found: Examined, places: YamlPlaces) -> Examined:
    """The defects with their lines in the YAML text, and what YAML alone can hide: a key that stands twice."""
    moved = []
    for one in found.defects:
        line, column = places.find(parse_path(one.path))
        moved.append(replace(one, line=line, column=column))
    all_of_them = sorted((*places.repeated(), *moved), key=lambda one: (one.line, one.column))
    return replace(found, defects=tuple(all_of_them))


def _listing(defects: tuple[Defect, ...]) -> str:
    lines = [
        printable(f"{one.path}: line {one.line}, column {one.column}: {one.message}") for one in defects[:MAX_SHOWN]
    ]
    if len(defects) > MAX_SHOWN:
        lines.append(f"and {len(defects) - MAX_SHOWN} more; --output json lists them all")
    count = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
    return f"manifest has {count}:\n  " + "\n  ".join(lines)
