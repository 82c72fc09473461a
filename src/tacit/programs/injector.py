"""The program `tacit-injector`: prepares the pods of marbles before they start. It runs in a cluster, outside a TEE.

    tacit-injector [OPTION...]

It serves a mutating webhook, HTTPS on port 8443. Nothing secret passes through it, and nobody has to trust it: whether a
marble gets anything, the coordinator decides by its evidence. Options may begin with one dash or two:

- --coordAddr HOST:PORT (coordinator-mesh-api.marblerun:2001): where marbles find the coordinator.
- --clusterDomain NAME (cluster.local): what names of services end with.
- --sgxResource NAME[=AMOUNT] (sgx.intel.com/epc): the resource of a TEE that marbles ask their node for; `none` where
  the TEE is simulated.
- --tlsCertFile FILE, --tlsKeyFile FILE (/etc/webhook/certs/tls.crt and tls.key): the certificate to serve with, read anew
  when it changes.
- --certificateSecret NAME: instead of files, a certificate of its own, kept in this Secret, renewed by itself, shared by
  all replicas and named in --webhookConfiguration NAME. --namespace NAME is theirs (default: $POD_NAMESPACE).
- --addr HOST:PORT (:8443): where to listen.

EDG_HTTP_ERROR_LOG_LEVEL (error): the level at which faults of connections are logged: debug, info, warn or error.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit import __version__
from tacit.edge.server import serve_http
from tacit.errors import ClusterAccessError, FileInputError, InputError, PkiError, TacitError, UsageError
from tacit.kube.hardware import INTEL_EPC, parse_resource_key
from tacit.kube.injector.patch import Settings
from tacit.kube.injector.upkeep import Place, Upkeep
from tacit.kube.injector.webhook import MAX_REVIEW, PORT, Webhook
from tacit.pki import parse_key_pair
from tacit.pki.keys import Credentials
from tacit.pki.tls import server_context
from tacit.programs.arguments import Parser, fail

NAME = "tacit-injector"
NOTHING = "none"  # the resource that simulated TEEs need
GRACE = 5.0  # seconds that running requests get at the end
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_START = 60.0  # seconds to get a first certificate; Kubernetes starts a pod anew after that
_FOLDER = "/etc/webhook/certs"


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line and the environment say. Of `files` and `place` one is given."""

    address: tuple[str, int]
    settings: Settings
    files: tuple[Path, Path] | None
    place: Place | None
    fault_level: int


def main() -> None:
    """Run the program."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until told to end; the exit code."""
    try:
        config = read_config(argv, environ)
        open_log(config.fault_level)
        asyncio.run(serve(config))
    except UsageError as exc:
        return fail(NAME, exc, code=2)
    except TacitError as exc:
        return fail(NAME, exc, code=1)
    except KeyboardInterrupt:
        return 130
    return 0


def read_config(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration. Raises: UsageError."""
    options = _parser().parse_args(argv)
    level = (environ.get("EDG_HTTP_ERROR_LOG_LEVEL") or "error").lower()
    if level not in LEVELS:
        raise UsageError(f'EDG_HTTP_ERROR_LOG_LEVEL is "{level}"; expected one of {", ".join(LEVELS)}')
    try:
        wanted = None if options.sgxResource == NOTHING else parse_resource_key(options.sgxResource)
    except InputError as exc:
        raise UsageError(f"--sgxResource: {exc}") from exc
    _check_coordinator(options.coordAddr)
    place = None
    if options.certificateSecret or options.webhookConfiguration:
        namespace = options.namespace or environ.get("POD_NAMESPACE") or ""
        if not (options.certificateSecret and options.webhookConfiguration and namespace):
            raise UsageError(
                "a certificate of its own needs --certificateSecret, --webhookConfiguration, and --namespace or POD_NAMESPACE"
            )
        place = Place(namespace, options.certificateSecret, options.webhookConfiguration)
    host, colon, port = options.addr.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f'--addr is "{options.addr}"; expected HOST:PORT, such as :{PORT}')
    return Config(
        address=(host.removeprefix("[").removesuffix("]"), int(port)),
        settings=Settings(options.coordAddr, options.clusterDomain, wanted),
        files=(options.tlsCertFile, options.tlsKeyFile) if place is None else None,
        place=place,
        fault_level=LEVELS[level],
    )


def _check_coordinator(text: str) -> None:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or " " in text:
        raise UsageError(f'--coordAddr is "{text}"; expected HOST:PORT, such as coordinator-mesh-api.marblerun:2001')


async def serve(config: Config) -> None:
    """Serve until a signal says to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _LOG.info("starting injector, version %s", __version__)
    async with AsyncExitStack() as stack:
        if config.place is not None:
            credentials = await _keep_certificate(stack, config.place)
        else:
            credentials = _checked_files(*config.files) if config.files else _nothing
        tls = server_context(credentials, client_certificates="none", alpn=["h2", "http/1.1"])
        host, port = config.address
        handle = Webhook(config.settings).handle
        listener = await serve_http(handle, host=host, port=port, tls=tls, max_body=MAX_REVIEW)
        stack.push_async_callback(listener.close, GRACE)
        _LOG.info("listening on %s:%d", host, listener.port)
        await stop.wait()
        _LOG.info("ending")


async def _keep_certificate(stack: AsyncExitStack, place: Place) -> Credentials:
    """The certificate that this program keeps itself; trusted by the cluster before this returns. Raises: ClusterError."""
    from tacit.kube.cluster import KubernetesCluster  # with files no cluster is asked

    cluster = await stack.enter_async_context(KubernetesCluster())
    upkeep = Upkeep(cluster, place, clock=lambda: datetime.now(UTC))
    try:
        async with asyncio.timeout(_START):
            await upkeep.look()
    except TimeoutError:
        raise ClusterAccessError(
            f"the cluster did not answer within {_START:.0f} s; the next start asks again"
        ) from None
    task = asyncio.create_task(upkeep.run())
    stack.push_async_callback(_end, task)
    return upkeep.credentials


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _checked_files(certificate: Path, key: Path) -> Credentials:
    """Credentials from files that hold a pair now. Raises: FileInputError."""
    credentials = read_files(certificate, key)
    try:
        parse_key_pair(*credentials())
    except PkiError as exc:
        raise FileInputError(
            f"the webhook's certificate {certificate} and its key {key} cannot be used: {exc}"
        ) from exc
    return credentials


def read_files(certificate: Path, key: Path) -> Credentials:
    """Credentials from files, which somebody else renews; read anew when one of them changes."""
    held: tuple[tuple[int, ...], tuple[bytes, bytes]] | None = None

    def credentials() -> tuple[bytes, bytes]:
        nonlocal held
        try:
            stamp = tuple(value for path in (certificate, key) for value in _stamp(path))
            if held is None or held[0] != stamp:
                held = stamp, (certificate.read_bytes(), key.read_bytes())
        except OSError as exc:
            raise FileInputError(
                f"the webhook's certificate cannot be read: {exc.filename}: {exc.strerror}; mount it there, or let the "
                "injector make one with --certificateSecret"
            ) from exc
        return held[1]

    return credentials


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _nothing() -> tuple[bytes, bytes]:
    raise UsageError("no certificate to serve with")


# ---- what is written down

_LOG = logging.getLogger("tacit.kube.injector")


class _Lines(logging.Formatter):
    """One JSON object a line, with the fields that the coordinator's log has."""

    def format(self, record: logging.LogRecord) -> str:
        level = {"WARNING": "warn"}.get(record.levelname, record.levelname.lower())
        entry: dict[str, Any] = {"level": level, "ts": record.created, "msg": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            # The text of a foreign exception may quote what it was given; its kind is enough.
            entry["error"] = record.exc_info[0].__name__
        return json.dumps(entry)


def open_log(fault_level: int) -> None:
    """Log to standard error; faults of connections are a matter of their own, and are logged at the level that was asked for."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    for name, level in (("tacit.kube", logging.INFO), ("tacit.edge", fault_level), ("tacit.pki", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _option(parser: argparse.ArgumentParser, name: str, default: object, kind: Callable[[str], object] = str) -> None:
    parser.add_argument(f"--{name}", f"-{name}", dest=name, default=default, type=kind, help=argparse.SUPPRESS)


def _parser() -> argparse.ArgumentParser:
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog=NAME,
        allow_abbrev=False,
        description=description,
        epilog=rest.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _option(parser, "coordAddr", "coordinator-mesh-api.marblerun:2001")
    _option(parser, "clusterDomain", "cluster.local")
    _option(parser, "sgxResource", INTEL_EPC)
    _option(parser, "tlsCertFile", Path(_FOLDER, "tls.crt"), Path)
    _option(parser, "tlsKeyFile", Path(_FOLDER, "tls.key"), Path)
    _option(parser, "certificateSecret", "")
    _option(parser, "webhookConfiguration", "")
    _option(parser, "namespace", "")
    _option(parser, "addr", f":{PORT}")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    return parser


if __name__ == "__main__":
    main()
