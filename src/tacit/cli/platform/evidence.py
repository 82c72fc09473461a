"""`tacit evidence`: what evidence says, whether it is authentic, what would allow it, and collateral to take along."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tacit.cli.files import FormatOption, about, check_format, load_manifest, read_input, write_output
from tacit.cli.platform.display import check_rows, claims_fields, parsed_fields, say_table
from tacit.cli.platform.gather import Gathered, Judge, gather, parse_moment
from tacit.errors import InputError, UsageError
from tacit.evidence import Claims, Role
from tacit.evidence.fetch.keep import Bundle, Kept, platform_of, render_bundle
from tacit.manifest import Package, parse_manifest
from tacit.manifest.codec import parse_package
from tacit.manifest.review.explain import Explained, explain, package_lines

app = typer.Typer(
    no_args_is_help=True,
    help="What a TEE shows: quotes, reports and certificates, from a file or a running program.",
)

TargetArgument = Annotated[
    str, typer.Argument(metavar="FILE|HOST:PORT", help="A file with evidence, a coordinator, or a model server (REST).")
]
TeeOption = Annotated[
    str | None, typer.Option("--tee", help="The kind of TEE; a simulated one has to be named (simulated, ...).")
]
CollateralOption = Annotated[
    str | None, typer.Option("--collateral", help="Where collateral comes from: an address, or a bundle's file.")
]
PlatformOption = Annotated[Path | None, typer.Option("--platform", help="Folder of the simulated platform.")]
AtOption = Annotated[str | None, typer.Option("--at", help="Verify as of this time, for old evidence; else now.")]


@app.command()
def show(target: TargetArgument, output: FormatOption = "text") -> None:
    """Print what evidence says of itself. Nothing is verified.

    Example: tacit evidence show quote.bin
    """
    check_format(output)
    gathered = gather(target)
    with about(target):
        fields = parsed_fields(gathered.evidence, now=datetime.now(UTC))
    if output == "json":
        typer.echo(json.dumps({"Verified": False, **fields}, indent=2))
        return
    say_table(fields)
    if fields.get("Simulated"):  # a report of SNP has no certificates that could say so
        typer.echo("SIMULATED, as its certificates say: this proves nothing about a real machine.")
    typer.echo("Nothing was verified: anybody could have written these bytes.")


@app.command()
def verify(
    target: TargetArgument,
    tee: TeeOption = None,
    collateral: CollateralOption = None,
    platform: PlatformOption = None,
    at: AtOption = None,
    output: FormatOption = "text",
) -> None:
    """Verify evidence, and print its claims and every check, made or not.

    A running coordinator, or model server that attests connections, is asked with a fresh nonce: its evidence is bound to
    its certificate and to that very connection. A file's is bound to nobody knows what, and those checks are shown as not made.

    Example: tacit evidence verify localhost:4433 --tee simulated
    """
    check_format(output)
    gathered = gather(target)
    claims, _ = Judge(tee, collateral, platform, parse_moment(at)).verify(gathered)
    if output == "json":
        typer.echo(json.dumps({"Claims": claims_fields(claims), "Checks": check_rows(claims)}, indent=2))
        return
    _say_verified(claims, gathered, at)


@app.command("explain")
def explain_(
    target: TargetArgument,
    tee: TeeOption = None,
    collateral: CollateralOption = None,
    platform: PlatformOption = None,
    at: AtOption = None,
    package: Annotated[Path | None, typer.Option("--package", help="A package (JSON) to compare with.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="A manifest to compare with.")] = None,
    output: FormatOption = "text",
) -> None:
    """Verify evidence, and print which line of a manifest would allow it, rule by rule.

    Example: tacit evidence explain localhost:4433 --tee simulated --manifest manifest.json
    """
    check_format(output)
    if package is not None and manifest is not None:
        raise UsageError("compare with a package or with a manifest, not with both")
    claims, _ = Judge(tee, collateral, platform, parse_moment(at)).verify(gather(target))
    packages = _packages(package, manifest)
    explained = {name: explain(claims, one) for name, one in packages.items()} or {"": explain(claims)}
    if output == "json":
        found = {name: [_rule_json(one) for one in rules] for name, rules in explained.items()}
        typer.echo(json.dumps({"Packages": found, "Package": package_lines(claims)}, indent=2))
        return
    for name, rules in explained.items():
        _say_rules(name, rules)
    typer.echo("A package that allows exactly this, of which you take what you meant:")
    typer.echo(json.dumps(package_lines(claims), indent=2))


@app.command()
def bundle(
    file: Annotated[Path, typer.Argument(help="The bundle to write; what is in it already stays.")],
    targets: Annotated[list[str], typer.Argument(metavar="FILE|HOST:PORT...", help="Evidence of the platforms.")],
    collateral: CollateralOption = None,
    output: FormatOption = "text",
) -> None:
    """Write the collateral of platforms into one file, for machines without a network.

    Each piece of evidence is verified with what goes into the bundle.

    Example: tacit evidence bundle bundle.json quote.bin
    """
    check_format(output)
    judge = Judge(None, collateral, None)
    entries: dict[str, Kept] = {}
    if file.exists():
        entries = dict(Bundle(file).entries)
    for target in targets:
        with about(target):
            _, kept = judge.verify(gather(target))
        entries[str(platform_of(kept.collateral))] = replace(kept, fetched=kept.fetched.astimezone(UTC))
    write_output(file, render_bundle(tuple(entries.values())))
    if output == "json":
        typer.echo(json.dumps({name: one.end.isoformat() for name, one in entries.items()}, indent=2))
        return
    for name, one in entries.items():
        typer.echo(f"{name}: good until {one.end:%Y-%m-%d %H:%M}Z")
    typer.echo(f"Bundle written to {file}")


def _say_verified(claims: Claims, gathered: Gathered, at: str | None) -> None:
    say_table(claims_fields(claims))
    typer.echo("")
    for row in check_rows(claims):
        typer.echo(f"{'made' if row['Made'] else 'NOT MADE':9} {row['Number']:4} {row['Name']}")
    if claims.tee.is_simulated:
        typer.echo("SIMULATED: this proves nothing about a real machine.")
    if at is not None:
        typer.echo(f"Verified as of {at}, and not as of now.")
    left = [row["Number"] for row in check_rows(claims) if not row["Made"]]
    if left:
        unknown = " It does not say who showed it." if gathered.binding is None else ""
        typer.echo(f"Authentic, and not checked in full: {', '.join(left)} not made.{unknown}")
    if gathered.binding is not None:
        whose = "root certificate" if gathered.binding.role is Role.COORDINATOR else "certificate"
        channel = ", and to the connection that it was asked over" if gathered.binding.channel else ""
        typer.echo(f"Bound to the {whose} of {gathered.origin}{channel}.")
        typer.echo(
            "Whether it is allowed is another question: compare it with a manifest, by `tacit evidence explain`."
        )


def _packages(package: Path | None, manifest: Path | None) -> dict[str, Package]:
    """What to compare with, by name. Raises: FileInputError, ManifestError, InputError."""
    if package is not None:
        with about(package):
            return {str(package): parse_package(read_input(package))}
    if manifest is None:
        return {}
    found = parse_manifest(load_manifest(manifest)).manifest.packages
    if not found:
        raise InputError(f"{manifest} names no package, so it allows nothing")
    return dict(found)


def _say_rules(name: str, rules: tuple[Explained, ...]) -> None:
    if name:
        refused = [one for one in rules if one.refusal]
        typer.echo(f"Package {name}: " + (f"refuses, by {len(refused)} rules" if refused else "allows it"))
    for one in rules:
        verdict = "" if one.refusal is None else "refuses  " if one.refusal else "content  "
        lines = json.dumps(one.lines)[1:-1] if one.lines else "no line is needed, or none would help"
        typer.echo(f"({one.number:2}) {verdict}{one.question}: {lines}")
        if one.refusal:
            typer.echo(f"     {one.refusal}")


def _rule_json(one: Explained) -> dict[str, Any]:
    return {"Rule": one.number, "Question": one.question, "Refusal": one.refusal, "Lines": dict(one.lines)}
