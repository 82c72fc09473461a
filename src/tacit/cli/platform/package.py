"""`tacit package-info` and `tacit snp-measure`: what a manifest has to say about a program, from whatever there is of it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tacit.cli.files import FormatOption, check_format, read_input
from tacit.cli.platform.display import parsed_fields
from tacit.cli.platform.folder import FolderOption, package_of
from tacit.cli.platform.gather import gather
from tacit.errors import EvidenceError, EvidenceFormatError, EvidenceSignatureError, FileInputError, UsageError
from tacit.evidence.claims import PROGRAM_REGISTERS, PackageInfo, Tee
from tacit.evidence.fetch import evidence_layout
from tacit.evidence.fetch.source import parse_any
from tacit.evidence.intel.quote import Quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.sgx.sigstruct import find_sigstruct

_MAX_ENCLAVE = 1 << 30  # bytes; a signed enclave may hold a whole runtime
_MAX_EVIDENCE = 64 << 10  # bytes; a larger file is an enclave
_MODELS = {
    "milan": (25, 1, 1),
    "genoa": (25, 17, 0),
    "turin": (26, 0, 0),
}  # CPUID family, model, stepping of QEMU's types


def package_info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="marble|coordinator|PATH|HOST:PORT",
            help="A program of this installation; a .sig file or enclave; a quote or report; a running coordinator or server.",
        ),
    ] = "marble",
    folder: FolderOption = None,
    tee: Annotated[
        str,
        typer.Option(
            "--tee",
            help="The kind of simulation, for a program of this installation: simulated, simulated-tdx, simulated-snp.",
        ),
    ] = str(Tee.SIMULATED),
    output: FormatOption = "text",
) -> None:
    """Print the values that a manifest needs for a program: of this installation, of a signed enclave, or of evidence.

    A model server is asked on its REST port, and has to attest connections (`--attest_connections`).
    This installation's are those of the simulated platform. What evidence says is not verified here: `tacit evidence explain` does that.

    Example: tacit package-info marble
    """
    check_format(output)
    if target in ("marble", "coordinator"):
        _say(package_of(target, folder, tee), output)
        return
    shown = _shown(target)
    if shown is None:
        _say(_signed(Path(target)), output)
        return
    typer.echo("Note: nothing of it was verified; `tacit evidence explain` does that.", err=True)
    if isinstance(shown, PackageInfo):
        _say(shown, output)
    else:
        _say_values(shown, output)


def _say(info: PackageInfo, output: str) -> None:
    if info.measurements:
        registers = {name: value.hex() for name, value in info.measurements.items()}
        lowest = {"MinimumTCB": dict(info.minimum_tcb)} if info.minimum_tcb else {}
        _say_values({"TEE": str(info.tee), "Measurements": registers, **lowest}, output)
        return
    values: dict[str, Any] = {"TEE": str(info.tee), "UniqueID": info.unique_id.hex(), "SignerID": info.signer_id.hex()}
    values |= {"ProductID": info.product_id, "SecurityVersion": info.security_version}
    _say_values(values | ({"Debug": True} if info.debug else {}), output)
    if info.debug and output != "json":
        typer.echo("Note: it may be started in debug mode, in which the host reads its memory.", err=True)


def _say_values(values: dict[str, Any], output: str) -> None:
    """With the keys and types of a manifest's package: what is printed can be pasted there."""
    if output == "json":
        typer.echo(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            for register, digest in value.items():
                typer.echo(f"{register + ':':16} {digest}")
        else:
            typer.echo(f"{name + ':':16} {str(value).lower() if isinstance(value, bool) else value}")


def _shown(target: str) -> PackageInfo | dict[str, Any] | None:
    """What a running program or a file of evidence says of its program; None for a file that is no evidence.

    Raises: UsageError, FileInputError, ConnectError, EvidenceError.
    """
    path = Path(target)
    if path.exists():
        if path.is_dir() or path.stat().st_size > _MAX_EVIDENCE:
            return None
        try:
            evidence_layout(gather(target).evidence)
        except (EvidenceError, FileInputError):
            return None
    elif ":" not in target or "/" in target:
        raise UsageError(
            f"{target} is neither a file nor a program of this installation; expected marble, coordinator or PATH"
        )
    return _of_evidence(gather(target).evidence)


def _of_evidence(evidence: bytes) -> PackageInfo | dict[str, Any]:
    now = datetime.now(UTC)
    found = parse_any(evidence, now=now)
    if isinstance(found, Quote) and isinstance(found.report, SgxReport):
        one = found.report
        return PackageInfo(_kind(found), one.mr_enclave, one.mr_signer, one.product_id, one.security_version, one.debug)
    tee = _kind(found) if isinstance(found, Quote) else Tee.SNP
    fields = parsed_fields(evidence, now=now)
    names = [PROGRAM_REGISTERS[tee.layout], *(f"RTMR{index}" for index in range(4))]
    debug = {"Debug": True} if fields["Debug"] else {}
    return {"TEE": str(tee), "Measurements": {name: fields[name] for name in names if name in fields}, **debug}


def _kind(quote: Quote) -> Tee:
    """By the word that simulated platforms write into a quote's header: a hint for a person, and no proof."""
    simulated = {Tee.SGX: Tee.SIMULATED, Tee.TDX: Tee.SIMULATED_TDX}
    return simulated[quote.tee] if b"SIMULATED" in quote.raw[:48] else quote.tee


def _signed(path: Path) -> PackageInfo:
    """What the signer of an enclave says of it. Raises: FileInputError, EvidenceError."""
    try:
        return find_sigstruct(read_input(path, largest=_MAX_ENCLAVE))
    except (EvidenceFormatError, EvidenceSignatureError) as exc:
        raise type(exc)(f"{path}: {exc}") from exc


def snp_measure(
    firmware: Annotated[Path, typer.Argument(help="The guest's firmware (OVMF), built for SEV-SNP.")],
    vcpus: Annotated[int, typer.Option("--vcpus", min=1, max=512, help="Processors that the guest is started with.")],
    line: Annotated[str, typer.Option("--line", help="Product line of the chip: milan, genoa or turin.")] = "milan",
    kernel: Annotated[
        Path | None, typer.Option("--kernel", help="Kernel, where it is measured with the firmware.")
    ] = None,
    initrd: Annotated[Path | None, typer.Option("--initrd", help="Its initial file system.")] = None,
    append: Annotated[str, typer.Option("--append", help="Its command line.")] = "",
    features: Annotated[int, typer.Option("--guest-features", help="SEV_FEATURES, as the host sets them.")] = 1,
    output: FormatOption = "text",
) -> None:
    """Compute the MEASUREMENT that an SEV-SNP guest will show, from what it is started with (QEMU's way).

    Needs the library sev-snp-measure: pip install 'tacit[snp-measure]'.

    Example: tacit snp-measure OVMF.fd --vcpus 4 --kernel vmlinuz --initrd initrd.img --append "console=ttyS0"
    """
    check_format(output)
    if line.lower() not in _MODELS:
        raise UsageError(f"--line {line!r} is unknown; expected {', '.join(_MODELS)}")
    for file in filter(None, (firmware, kernel, initrd)):
        read_input(file, largest=_MAX_ENCLAVE)
    digest = _compute(firmware, vcpus, line.lower(), kernel, initrd, append, features)
    _say_values({"TEE": "snp", "Measurements": {"MEASUREMENT": digest.hex()}}, output)


def _compute(
    firmware: Path, vcpus: int, line: str, kernel: Path | None, initrd: Path | None, append: str, features: int
) -> bytes:
    try:
        from sevsnpmeasure.guest import snp_calc_launch_digest
        from sevsnpmeasure.vcpu_types import cpu_sig
    except ImportError as exc:
        raise UsageError("the library sev-snp-measure is not installed; pip install 'tacit[snp-measure]'") from exc
    signature = cpu_sig(*_MODELS[line])
    paths = [None if one is None else str(one) for one in (kernel, initrd)]
    try:
        digest = snp_calc_launch_digest(vcpus, signature, str(firmware), *paths, append, features, "")
    except (ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError) as exc:
        raise FileInputError(f"{firmware} is no firmware for SEV-SNP guests ({exc}); expected an OVMF.fd") from exc
    return bytes(digest)
