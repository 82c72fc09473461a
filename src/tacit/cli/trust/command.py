"""`tacit trust`: what to expect of a coordinator, said once, and a list of what is known."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, about, check_format, load_manifest, parse_fingerprint, read_input
from tacit.cli.platform import check_place, platform_folder
from tacit.cli.trust.flags import current_flags
from tacit.cli.trust.reach import open_store
from tacit.cli.trust.through import service_host
from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.connect import load_simulated_expectation
from tacit.client.trust import UNATTESTED, Expectation, TrustStore
from tacit.errors import FileInputError, InputError, ManifestError, NotTrustedError, UsageError
from tacit.evidence import Tee
from tacit.evidence.anchor import MAKERS
from tacit.manifest import Package, parse_manifest
from tacit.manifest.check import check_manifest
from tacit.manifest.codec import parse_package
from tacit.pki.detached import parse_signer

_IDS = ("--unique-id", "--signer-id", "--product-id", "--security-version")  # each says a part of what a package does


def trust(
    host: Annotated[
        str | None,
        typer.Argument(metavar="[HOST:PORT]", help="Client API of the coordinator. Without one: list what is known."),
    ] = None,
    tee: Annotated[
        str | None,
        typer.Option(
            help=f"The kind of TEE, by its exact name: {', '.join(Tee)}; or {UNATTESTED}. Without: as --package says."
        ),
    ] = None,
    unique_id: Annotated[
        str | None, typer.Option("--unique-id", help="Measurement of the coordinator (MRENCLAVE), hex.")
    ] = None,
    signer_id: Annotated[
        str | None, typer.Option("--signer-id", help="Signer of the coordinator (MRSIGNER), hex.")
    ] = None,
    product_id: Annotated[int | None, typer.Option("--product-id", help="Product id, with --signer-id.")] = None,
    security_version: Annotated[
        int | None, typer.Option("--security-version", help="Lowest version, with --signer-id.")
    ] = None,
    package_file: Annotated[
        Path | None,
        typer.Option(
            "--package", help="All that is expected, as a package of a manifest (JSON); needed for tdx and snp."
        ),
    ] = None,
    collateral: Annotated[
        str | None,
        typer.Option("--collateral", help="Where a real TEE's collateral comes from: an address, or a bundle's file."),
    ] = None,
    key_bound: Annotated[
        bool,
        typer.Option(
            "--key-bound", help="It is MarbleRun's own coordinator, whose evidence is bound to its key alone."
        ),
    ] = False,
    platform: Annotated[Path | None, typer.Option("--platform", help="Folder of the simulated platform.")] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", help="Pin this manifest: a file, or its SHA-256 as 64 hex digits.")
    ] = None,
    signers: Annotated[
        list[Path] | None,
        typer.Option("--signer", help="Any manifest will do that this key signed: a public key or certificate (PEM)."),
    ] = None,
    signatures: Annotated[
        Path | None,
        typer.Option("--signatures", help="Where its signatures lie (`tacit manifest sign`): a file, or a folder."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Drop what was told and seen of this coordinator.")] = False,
    output: FormatOption = "text",
) -> None:
    """Say once what to expect of a coordinator; every other command checks it.

    On a simulated TEE the coordinator that is installed here is expected, unless ids or a package are given.

    Example: tacit trust localhost:4433 --tee simulated
    """
    check_format(output)
    flags = current_flags()
    if host is None and flags.kube:
        host = service_host(flags.namespace)
    ids = (unique_id, signer_id, product_id, security_version)
    details = {
        **dict(zip(_IDS, ids, strict=True)),
        "--package": package_file,
        "--collateral": collateral,
        "--key-bound": key_bound or None,
        "--platform": platform,
        "--manifest": manifest,
        "--signer": signers or None,
        "--signatures": signatures,
    }
    told = [option for option, value in details.items() if value is not None]
    if host is None:
        if forget or tee is not None or told:
            raise UsageError("of which coordinator? Give its HOST:PORT, such as localhost:4433")
        _list_known(output)
        return
    address = str(parse_address(host, default_port=COORDINATOR_PORT))
    store = open_store()
    expectation = None
    if forget and tee is None:
        _check_alone(told)
    else:  # built before anything is forgotten, so that a mistake in it loses nothing
        named = None if package_file is None else _load_package(package_file, tee, beside=told)
        tee = _kind(tee, named)
        named = named or _named_package(tee, *ids)
        expectation = _expectation(tee, named, platform, None if manifest is None else _pin(manifest))
        expectation = replace(_with_collateral(expectation, collateral), key_bound=key_bound)
        expectation = _with_signers(expectation, signers or [], signatures)
    if forget:
        _forget(store, address, missing_is_fine=expectation is not None)
    if expectation is None or tee is None:
        return
    store.store_expectation(address, expectation)
    _say_expected(tee, address, key_bound=key_bound)


def _say_expected(tee: str, address: str, *, key_bound: bool) -> None:
    typer.echo(f"Expecting a coordinator in TEE {tee} at {address}")
    if key_bound:
        typer.echo(
            "KEY-BOUND: whoever has its TLS key passes for it; its evidence will not be bound to the connection."
        )
    if tee in tuple(Tee) and Tee(tee).is_simulated:
        typer.echo("SIMULATED: this proves nothing about a real machine.")
    if tee == UNATTESTED:
        typer.echo("UNATTESTED: no evidence will be asked for. Anybody could answer at that address.")


def _kind(tee: str | None, package: Package | None) -> str:
    """The kind of TEE, as it was given or as the package's file says. Raises: UsageError."""
    found = tee if tee is not None or package is None else package.tee
    if found is None:
        raise UsageError(f"which kind of TEE? Give it by name: --tee {', --tee '.join(Tee)}, or --tee {UNATTESTED}")
    return found


def _check_alone(told: list[str]) -> None:
    """Nothing is told where all is forgotten; by --tee alone it is told anew. Raises: UsageError."""
    if told:
        raise UsageError(
            f"--forget drops what was told, so {', '.join(told)} would mean nothing; leave that out, or say by --tee what "
            "is to be expected from now on"
        )


def _pin(text: str) -> bytes:
    """The SHA-256 to pin, of a file that is a manifest or as it was given. Raises: FileInputError, InputError, ManifestError."""
    path = Path(text)
    if not path.exists():
        return parse_fingerprint(text)
    raw = load_manifest(path)
    try:
        check_manifest(parse_manifest(raw).manifest)
    except ManifestError as exc:
        raise ManifestError(
            f"{path} is no manifest that a coordinator could hold: {exc}; every defect: tacit manifest check {path}"
        ) from exc
    return hashlib.sha256(raw).digest()


def _list_known(output: str) -> None:
    """One paragraph for each coordinator that is known."""
    known = open_store().load_hosts()
    if output == "json":
        typer.echo(json.dumps({host: _fields(expected) for host, expected in sorted(known.items())}, indent=2))
        return
    if not known:
        typer.echo(
            "Nothing is known about any coordinator; say what to expect: tacit trust HOST:PORT --tee ...", err=True
        )
    for host, expected in sorted(known.items()):
        typer.echo(f"{host}: TEE {expected.tee}")
        if expected.package is not None and expected.package.unique_id:
            typer.echo(f"\tUniqueID: {expected.package.unique_id.hex()}")
        if expected.package is not None and expected.package.signer_id:
            package = expected.package
            typer.echo(f"\tSignerID: {expected.package.signer_id.hex()}, product {package.product_id}, ", nl=False)
            typer.echo(f"version {package.security_version} or newer")
        if expected.package is not None:
            for name, value in expected.package.measurements.items():
                typer.echo(f"\t{name}: {value.hex()}")
        _list_settings(expected)
        if expected.root_der is not None:
            typer.echo(f"\tRoot:     {hashlib.sha256(expected.root_der).hexdigest()} (seen)")


def _list_settings(expected: Expectation) -> None:
    if expected.key_bound:
        typer.echo("\tKey-bound: its evidence is not bound to the connection")
    if expected.collateral is not None:
        typer.echo(f"\tCollateral: {expected.collateral}")
    if expected.manifest_fingerprint is not None:
        typer.echo(f"\tManifest: {expected.manifest_fingerprint.hex()}")
    for signer in expected.signers:
        typer.echo(f"\tManifest: signed by {hashlib.sha256(signer).hexdigest()}, in {expected.signatures}")


def _fields(expected: Expectation) -> Mapping[str, object]:
    """What is expected, and which root was seen, with the keys of a manifest's package; null where nothing is said."""
    package = expected.package or Package()
    root = expected.root_der
    return {
        "TEE": expected.tee,
        "UniqueID": _hex(package.unique_id),
        "SignerID": _hex(package.signer_id),
        "ProductID": package.product_id,
        "SecurityVersion": package.security_version,
        "Measurements": {name: value.hex() for name, value in package.measurements.items()},
        "Collateral": expected.collateral,
        "KeyBound": expected.key_bound,
        "ManifestSignature": _hex(expected.manifest_fingerprint),
        "ManifestSigners": [hashlib.sha256(signer).hexdigest() for signer in expected.signers],
        "Signatures": expected.signatures,
        "Root": None if root is None else hashlib.sha256(root).hexdigest(),
    }


def _hex(content: bytes | None) -> str | None:
    return None if content is None else content.hex()


def _forget(store: TrustStore, address: str, *, missing_is_fine: bool) -> None:
    """Drop what is known of a coordinator. Raises: NotTrustedError."""
    try:
        store.forget(address)
    except NotTrustedError as exc:
        if not missing_is_fine:
            raise NotTrustedError(
                f"nothing is known about {address}, so there is nothing to forget; `tacit trust` lists what is known"
            ) from exc
        return
    typer.echo(f"Forgot {address}: what was told, and the newest state that was seen")


def _named_package(
    tee: str, unique_id: str | None, signer_id: str | None, product_id: int | None, security_version: int | None
) -> Package | None:
    """The package that the options describe, or None where none of them is given. Raises: InputError."""
    if unique_id is None and signer_id is None and product_id is None and security_version is None:
        return None
    return Package(
        unique_id=None if unique_id is None else _digest(unique_id, "--unique-id"),
        signer_id=None if signer_id is None else _digest(signer_id, "--signer-id"),
        product_id=product_id,
        security_version=security_version,
        tee=tee,
    )


def _load_package(file: Path, tee: str | None, *, beside: list[str]) -> Package:
    """The package of a file; `beside` are the options that were given. Raises: UsageError, FileInputError, ManifestError."""
    if not set(_IDS).isdisjoint(beside):
        raise UsageError("--package says all that is expected; leave out the single ids, or the package")
    try:
        package = parse_package(read_input(file))
    except ManifestError as exc:
        raise ManifestError(f"{file}: {exc}") from exc
    if tee is not None and (package.tee or Tee.SGX) != tee:
        raise UsageError(
            f"the package in {file} is for TEE {package.tee or Tee.SGX}, and --tee says {tee}; leave --tee out, or name "
            "a package of that kind"
        )
    return package


def _with_collateral(expectation: Expectation, collateral: str | None) -> Expectation:
    """The expectation with where collateral comes from. Raises: UsageError, CollateralAbsentError."""
    if collateral is None:
        return expectation
    if expectation.anchor is None or expectation.anchor.tee.is_simulated:
        raise UsageError("--collateral is for real TEEs; a simulated platform has its own, and unattested needs none")
    return replace(expectation, collateral=check_place(collateral))


def _with_signers(expectation: Expectation, signers: list[Path], signatures: Path | None) -> Expectation:
    """The expectation with who signs manifests. Raises: UsageError, FileInputError, PkiError."""
    if not signers and signatures is None:
        return expectation
    if not signers or signatures is None:
        raise UsageError("--signer says who signs manifests, and --signatures where that lies: give both")
    if expectation.manifest_fingerprint is not None:
        raise UsageError("--manifest pins one manifest, and --signer all that are signed: give one of them")
    return replace(expectation, signers=tuple(map(_load_signer, signers)), signatures=_signatures_place(signatures))


def _load_signer(file: Path) -> bytes:
    with about(file):
        return parse_signer(read_input(file))


def _signatures_place(path: Path) -> str:
    """Where signatures lie, or are to lie, as it is remembered. Raises: FileInputError."""
    place = str(path.absolute())
    try:
        place.encode()
    except UnicodeEncodeError as exc:
        raise FileInputError(
            f"{place!r} is no text that can be remembered; give the file or folder such a name"
        ) from exc
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileInputError(f"{path} is neither a file nor a folder; name what `tacit manifest sign -o` writes")
    if not path.exists():
        typer.echo(
            f"Note: there is no {path} yet; until `tacit manifest sign` writes it, no manifest will do.", err=True
        )
    return place


def _digest(text: str, option: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError as exc:
        raise InputError(f"{option} is no hexadecimal text; `tacit package-info coordinator` prints the value") from exc
    if len(digest) != 32:
        raise InputError(
            f"{option} has {len(digest)} bytes, expected 32; `tacit package-info coordinator` prints the value"
        )
    return digest


def _expectation(tee: str, package: Package | None, platform: Path | None, fingerprint: bytes | None) -> Expectation:
    """What to store for `--tee`; for a simulated TEE the coordinator of this installation is the default."""
    if tee in tuple(Tee):
        kind = Tee(tee)
        if kind.is_simulated:
            return load_simulated_expectation(
                platform_folder(platform), tee=kind, package=package, manifest_fingerprint=fingerprint
            )
        if package is None:
            ids = (
                "--unique-id, or --signer-id with --product-id and --security-version, or --package FILE"
                if kind is Tee.SGX
                else "--package FILE"
            )
            raise UsageError(f"--tee {tee} needs {ids}: nothing else says which program to expect there")
        return Expectation(tee, package, MAKERS[kind], fingerprint)
    if tee == UNATTESTED and package is not None:
        raise UsageError("--tee unattested asks for no evidence, so ids would be compared with nothing; leave them out")
    return Expectation(tee, package, None, fingerprint)
