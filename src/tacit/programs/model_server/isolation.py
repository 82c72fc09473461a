"""Whether models get processes of their own, and what is told to those. It is read before the rest of the server is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import UsageError
from tacit.serving.loading.starting import Command, Isolation, Started, start
from tacit.serving.tfs.flags import Flags

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger as Log

    from tacit.serving.loading.isolation import Workers

AUTO = "auto"
_SGX = "sgx"  # as TACIT_TEE says it
_ENCLAVE = Path("/dev/attestation")  # there inside of Gramine alone

_MODULE = "tacit.programs.model_server.worker"
# What a process with an engine needs. Anything else in our environment may be a secret that a manifest put there.
_HANDED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_ENGINES_OWN = ("OMP_", "KMP_", "TBB_", "ONEDNN_", "DNNL_", "OPENVINO_", "OV_", "TF_", "ORT_", "MALLOC_", "LC_")


def start_ahead(flags: Flags, environ: Mapping[str, str]) -> Started | None:
    """The first process for a model, where there is to be one. Raises: UsageError."""
    isolation, _ = _choose(flags, environ, _ENCLAVE)
    return None if isolation is Isolation.NONE else start(_command(environ))


def open_workers(
    flags: Flags, environ: Mapping[str, str], log: "Log", *, ahead: Started | None = None, enclave: Path = _ENCLAVE
) -> "Workers":
    """Processes for models as `--isolation` wants them. Raises: UsageError."""
    from tacit.serving.engines.select import prepare
    from tacit.serving.loading.isolation import Workers

    isolation, why = _choose(flags, environ, enclave)
    log.info("isolation", isolation=str(isolation), message=why)
    return Workers(isolation, _command(environ), prepare, ahead)


def _choose(flags: Flags, environ: Mapping[str, str], enclave: Path) -> tuple[Isolation, str]:
    return choose_isolation(flags.text("isolation"), in_sgx=environ.get("TACIT_TEE") == _SGX or enclave.exists())


def _command(environ: Mapping[str, str]) -> Command:
    return Command(_MODULE, worker_environment(environ))


def choose_isolation(asked: str, *, in_sgx: bool) -> tuple[Isolation, str]:
    """How far models are kept from this process, and why. Raises: UsageError."""
    if asked == AUTO:
        if in_sgx:
            return (
                Isolation.NONE,
                "in SGX a second process is a second enclave: an engine that crashes ends this server",
            )
        return Isolation.PROBE, "each version is loaded and run in a process that may die, and then in this one"
    try:
        isolation = Isolation(asked)
    except ValueError as exc:
        raise UsageError(f"--isolation={asked}: expected {AUTO}, {', '.join(Isolation)}") from exc
    if in_sgx and isolation is not Isolation.NONE:
        raise UsageError(
            f"--isolation={asked}: in SGX a second process is a second enclave, which nobody attested; take none"
        )
    return isolation, "as --isolation says"


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process for a model: what finds Python and the engine's libraries, and what tunes those."""
    return {name: value for name, value in environ.items() if name in _HANDED_ON or name.startswith(_ENGINES_OWN)}
