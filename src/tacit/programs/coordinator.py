"""The program `tacit-coordinator`: checks marbles against one manifest, and gives them their keys.

    tacit-coordinator [--unattested]
    tacit-coordinator backup FILE
    tacit-coordinator restore FILE [--replace]

It listens for clients (HTTPS) and for marbles (gRPC). The environment is read here and nowhere else; the variables are
MarbleRun's, and an empty one counts as unset:

- EDG_COORDINATOR_CLIENT_ADDR (:4433), EDG_COORDINATOR_MESH_ADDR (:2001): host and port; port 0 takes a free one.
- EDG_COORDINATOR_DNS_NAMES (localhost): names and addresses of the coordinator's certificates, comma between.
- EDG_COORDINATOR_SEAL_DIR (./marblerun-coordinator-data): folder of the sealed state.
- EDG_STARTUP_MANIFEST: file with a manifest to start with, in an empty folder.
- EDG_COORDINATOR_PROMETHEUS_ADDR: host and port of /metrics and /events, plain HTTP; none unless given.
- TACIT_METRICS_TLS=1: those over TLS with the root certificate, for users of the manifest alone.
- EDG_COORDINATOR_DEV_MODE=1: a log for people. EDG_DEBUG_LOGGING=1: a log of everything.
- EDG_HTTP_ERROR_LOG_LEVEL (error): the level at which faults of connections are logged: debug, info, warn or error.
- TACIT_PCCS, TACIT_KDS, TACIT_COLLATERAL_BUNDLE, TACIT_COLLATERAL_CACHE: where the collateral of real evidence comes
  from: an address for Intel's (or `intel`), one for AMD's (or `amd`), a bundle's file, the folder to keep it in.

In a real TEE, found by what is there, it makes that TEE's evidence, and ends where one of these is set; elsewhere:

- TACIT_PLATFORM: folder of the simulated platform. TACIT_SIMULATE (simulated): the kind of TEE to simulate, simulated,
  simulated-tdx or simulated-snp. TACIT_SIMULATE_MACHINE: a name for the machine, where several have one platform: what
  is sealed on one does not open on another.
- OE_SIMULATION=1, or --unattested: release to marbles without evidence. Nothing is protected then, and status,
  certificates and log say so.

`backup` copies the folder of the sealed state into one file, also while the coordinator runs; `restore` puts it back
while none runs. Both take the folder from EDG_COORDINATOR_SEAL_DIR, and need neither a key nor a TEE.
"""

import argparse
import asyncio
import logging
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from tacit import __version__
from tacit.coordinator.api.mesh import MAX_MESSAGE, MeshApi
from tacit.coordinator.api.meter import Meter
from tacit.coordinator.api.rest import MAX_BODY, ClientApi
from tacit.coordinator.api.routes import PATHS
from tacit.coordinator.core import Coordinator, Settings, World
from tacit.coordinator.log import EventLog, open_log
from tacit.coordinator.sealed.records import Contents
from tacit.coordinator.store import SealedFolder
from tacit.edge import HttpHandler, Listener
from tacit.edge.server import serve_grpc, serve_http
from tacit.errors import FileInputError, IllegalTransitionError, SealingKeyError, TacitError, UsageError
from tacit.evidence import Tee
from tacit.evidence.claims import Issuer
from tacit.evidence.fetch import Places
from tacit.evidence.issue import default_platform_folder, load_simulated_tee
from tacit.pki import KeyPair
from tacit.pki.keys import Credentials
from tacit.pki.tls import ServerContext, server_context
from tacit.programs.arguments import Parser, fail
from tacit.programs.memory import keep_memory_private
from tacit.programs.tee.anchors import make_judge, make_verifier
from tacit.programs.tee.collateral import open_source, read_places
from tacit.programs.tee.surroundings import MACHINE, find_real_tee, load_real_tee, refuse_pretence, simulated_kind

NAME = "tacit-coordinator"
# Threads for what takes long, for each of the two ports; those that wait for the disk share one sync.
WORKERS = 8
GRACE = 5.0  # seconds that running requests get at the end
MAX_MANIFEST = 4 << 20  # bytes
MAX_SCRAPE = 4096  # bytes of a body that nobody needs
METRICS_ADDR = "EDG_COORDINATOR_PROMETHEUS_ADDR"
METRICS_TLS = "TACIT_METRICS_TLS"
# A wildcard may stand for the first part. Underscores are no host's, but clusters have services with them.
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
FAULT_LEVELS = ("debug", "info", "warn", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """What the environment and the command line say."""

    client: tuple[str, int]
    mesh: tuple[str, int]
    names: tuple[str, ...]
    seal_folder: Path
    metrics: tuple[str, int] | None
    metrics_tls: bool
    startup_manifest: Path | None
    tee: Tee | None
    simulate: Tee
    machine: str
    platform: Path | None
    collateral: Places | None
    unattested: bool
    debug: bool
    development: bool
    fault_level: str
    given: tuple[str, ...]


def main() -> None:
    """Run the program."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until told to end; the exit code."""
    keep_memory_private()
    try:
        if argv and argv[0] in ("backup", "restore"):
            from tacit.programs import maintain  # what reads backups is not in a coordinator that serves

            maintain.run(argv, folder=seal_folder(environ), program=NAME)
            return 0
        config = read_config(argv, environ, tee=find_real_tee())
        log = open_log(sys.stderr, clock=now, debug=config.debug, development=config.development)
        asyncio.run(serve(config, log))
    except UsageError as exc:
        return fail(NAME, exc, code=2)
    except TacitError as exc:
        return fail(NAME, exc, code=1)
    except KeyboardInterrupt:
        return 130
    return 0


def read_config(argv: Sequence[str], environ: Mapping[str, str], *, tee: Tee | None = None) -> Config:
    """The configuration; `tee` is the real TEE around this process.

    Raises:
        UsageError: an address that is none, something that this coordinator does not offer, or that its TEE forbids.
    """
    options = _parser().parse_args(argv)
    given = {name: value for name, value in environ.items() if value}
    if tee is not None:
        refuse_pretence(tee, given, flags=["--unattested"] if options.unattested else [])
    licensed = "distributedcoordinator" in given.get("EDG_ENTERPRISE_LICENSED_FEATURES", "").lower()
    if licensed or given.get("EDG_DISTRIBUTED_COORDINATOR") == "1" or "EDG_STORE_BACKEND" in given:
        raise UsageError(
            "several coordinators with one state (EDG_DISTRIBUTED_COORDINATOR, EDG_STORE_BACKEND, "
            "EDG_ENTERPRISE_LICENSED_FEATURES) are not offered; unset them, and give the one coordinator a folder of its own"
        )
    unattested = options.unattested or given.get("OE_SIMULATION") == "1"
    startup = given.get("EDG_STARTUP_MANIFEST")
    metrics = given.get(METRICS_ADDR)
    level = given.get("EDG_HTTP_ERROR_LOG_LEVEL", "error").lower()
    if level not in FAULT_LEVELS:
        raise UsageError(f'EDG_HTTP_ERROR_LOG_LEVEL is "{level}"; expected one of {", ".join(FAULT_LEVELS)}')
    return Config(
        client=parse_address("EDG_COORDINATOR_CLIENT_ADDR", given.get("EDG_COORDINATOR_CLIENT_ADDR", ":4433")),
        mesh=parse_address("EDG_COORDINATOR_MESH_ADDR", given.get("EDG_COORDINATOR_MESH_ADDR", ":2001")),
        names=parse_names("EDG_COORDINATOR_DNS_NAMES", given.get("EDG_COORDINATOR_DNS_NAMES", "localhost")),
        metrics=parse_address(METRICS_ADDR, metrics) if metrics else None,
        metrics_tls=given.get(METRICS_TLS) == "1",
        seal_folder=seal_folder(environ),
        startup_manifest=Path(startup) if startup else None,
        tee=tee,
        simulate=simulated_kind(given),
        machine=given.get(MACHINE, ""),
        platform=default_platform_folder(given) if tee is None and not unattested else None,
        collateral=read_places(given),
        unattested=unattested,
        debug=given.get("EDG_DEBUG_LOGGING") == "1",
        development=given.get("EDG_COORDINATOR_DEV_MODE") == "1",
        fault_level=level,
        given=tuple(given),
    )


def seal_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the sealed state."""
    named = environ.get("EDG_COORDINATOR_SEAL_DIR")
    return Path(named) if named else Path(environ.get("EDG_CWD") or ".") / "marblerun-coordinator-data"


def parse_names(variable: str, text: str) -> tuple[str, ...]:
    """Names and addresses for a certificate, with commas between them.

    Raises:
        UsageError: one that no client could connect to, or none at all.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names or (text,):
        if not _DNS_NAME.fullmatch(name) and not _is_address(name):
            raise UsageError(
                f'{variable} is "{text}", and "{name}" in it is neither a name nor an address; expected names with '
                "commas between them, such as localhost,coordinator.example.org,10.0.0.1"
            )
    return names


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_address(variable: str, text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an empty host means every address of the machine.

    Raises:
        UsageError: not of that form.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in bare and bare == host):
        raise UsageError(f'{variable} is "{text}"; expected HOST:PORT, such as localhost:4433, [::1]:4433 or :4433')
    return bare, int(port)


async def serve(config: Config, log: EventLog) -> None:
    """Serve until a signal says to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("starting coordinator", version=__version__)
    log_faults(log, config.fault_level)
    world = load_world(config, log)
    with (
        closing(SealedFolder(config.seal_folder, world.issuer)) as folder,
        ThreadPoolExecutor(WORKERS) as clients,
        ThreadPoolExecutor(WORKERS) as marbles,
    ):
        coordinator = open_coordinator(config, folder, world)
        async with AsyncExitStack() as stack:
            await _listen(stack, config, log, coordinator, (clients, marbles))
            await stop.wait()
            log.info("ending")


async def _listen(
    stack: AsyncExitStack,
    config: Config,
    log: EventLog,
    coordinator: Coordinator,
    executors: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
) -> None:
    """Open the ports. Neither's callers wait behind the other's: strangers may ask at both."""
    clients, marbles = executors
    meter = None
    if config.metrics:
        meter = await _listen_for_scrapes(stack, config.metrics, log, coordinator, secured=config.metrics_tls)
    api = ClientApi(coordinator, executor=clients, log=log, meter=meter)
    mesh = MeshApi(coordinator, executor=marbles, log=log, meter=meter)
    host, port = config.mesh
    tls = server_context(_credentials(coordinator, "marble_root"), client_certificates="require", alpn=["h2"])
    listener: Listener = await serve_grpc(mesh.handlers, host=host, port=port, tls=tls, max_message=MAX_MESSAGE)
    stack.push_async_callback(listener.close, GRACE)
    log.info(f"mesh API listening on {_shown(host, listener.port)}", address=_shown(host, listener.port))
    host, port = config.client
    tls = server_context(_credentials(coordinator, "root"), client_certificates="request", alpn=["h2", "http/1.1"])
    listener = await serve_http(api.handle, host=host, port=port, tls=tls, max_body=MAX_BODY)
    stack.push_async_callback(listener.close, GRACE)
    log.info(f"client API listening on {_shown(host, listener.port)}", address=_shown(host, listener.port))


def _credentials(coordinator: Coordinator, which: Literal["root", "marble_root"]) -> Credentials:
    """Asked at every handshake: a new manifest in recovery mode, and an update, change the certificates."""
    shown: tuple[KeyPair, tuple[bytes, bytes]] | None = None

    def credentials() -> tuple[bytes, bytes]:
        nonlocal shown
        pair: KeyPair = getattr(coordinator.holdings.identity, which)
        if shown is None or shown[0] is not pair:
            shown = pair, (pair.certificate_pem, pair.key_pem)
        return shown[1]

    return credentials


async def _listen_for_scrapes(
    stack: AsyncExitStack, address: tuple[str, int], log: EventLog, coordinator: Coordinator, *, secured: bool
) -> Meter:
    # Here, so that the library is in the process only where somebody scrapes.
    from tacit.coordinator.api.metrics import Metrics, for_users

    metrics = Metrics(
        state=lambda: coordinator.holdings.state,
        paths=PATHS,
        version=__version__,
        tee=coordinator.status().tee,
    )
    host, port = address
    tls: ServerContext | None = None
    handle: HttpHandler = metrics.handle
    if secured:
        tls = server_context(_credentials(coordinator, "root"), client_certificates="request", alpn=["http/1.1"])
        handle = for_users(metrics.handle, coordinator.authenticate)
    listener = await serve_http(handle, host=host, port=port, tls=tls, max_body=MAX_SCRAPE)
    stack.push_async_callback(listener.close, GRACE)
    log.info("Starting prometheus /metrics endpoint", address=_shown(host, listener.port))
    if not secured and not _is_loopback(host):
        # As the variable has always meant; but it lists marbles with their evidence, and somebody should know.
        log.warning(f"whoever reaches the metrics port reads it; {METRICS_TLS}=1 gives it TLS, for users alone")
    return metrics


class _Faults(logging.Handler):
    """Takes what libraries say about connections into our log, without the traceback."""

    def __init__(self, write: Callable[..., None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        # The text of a foreign exception may quote what it was given; its kind is enough.
        self._write("fault of a connection", source=record.name, what=str(record.msg)[:200], error=kind)


def log_faults(log: EventLog, level: str) -> None:
    """Log faults of connections at this level."""
    handler = _Faults({"debug": log.debug, "info": log.info, "warn": log.warning, "error": log.error}[level])
    for name in ("tacit.edge", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)


def load_world(config: Config, log: EventLog) -> World:
    """What this coordinator reaches: its TEE and the verifier of marbles, or neither in unattested mode.

    Raises:
        PlatformError: there is no platform; says how to make one.
        TeeError: the real TEE cannot be used.
        CollateralError: or CollateralAbsentError: where collateral should be, is none.
    """
    source = None if config.collateral is None else open_source(config.collateral, note=partial(_note, log))
    issuer = load_tee(config, log)
    verify = None if issuer is None else make_verifier(config.platform, source, clock=now)
    judge = make_judge(config.platform, source, clock=now)
    return World(issuer, verify, now, secrets.token_bytes, log, judge)


def load_tee(config: Config, log: EventLog) -> Issuer | None:
    """The TEE around this process: the real one, one that is simulated, or none in unattested mode.

    Raises: as `load_world`.
    """
    if config.tee is not None:
        real = load_real_tee(config.tee)
        log.info("making evidence of the TEE around this process", tee=str(config.tee))
        if real.derive_seal_key(bound_to="signer") is None:
            log.warning("this TEE has no key for sealing: each start is in recovery mode, and needs the recovery keys")
        return real
    if config.unattested:
        log.warning("UNATTESTED: no evidence is asked for, and whoever asks gets what the manifest gives to its name")
        return None
    if config.platform is None:
        raise UsageError("no folder for the simulated platform: set TACIT_PLATFORM")
    issuer = load_simulated_tee(
        config.platform, program="coordinator", now=now(), tee=config.simulate, machine=config.machine
    )
    info = issuer.package_info
    log.warning(
        "SIMULATED: this TEE protects nothing from whoever reads its folder",
        tee=str(issuer.tee),
        platform=str(config.platform),
        measurement=info.unique_id.hex(),
        signer=info.signer_id.hex(),
    )
    return issuer


def open_coordinator(config: Config, folder: SealedFolder, world: World) -> Coordinator:
    """The coordinator as its folder has it.

    Raises:
        StateError: the state was damaged or cannot be read.
        ManifestError: the startup manifest was refused.
    """
    log, issuer = world.log, world.issuer
    contents: Contents | None = None
    recovery = False
    try:
        contents = folder.load()
    except SealingKeyError as exc:
        recovery = True
        log.error("cannot unseal the state; starting in recovery mode with temporary certificates", error=str(exc))
    if contents and contents.torn:
        log.warning("a record that was never answered for stands unfinished in the state file", bytes=contents.torn)
    if issuer is None:
        log.warning("the sealing key lies in clear beside the state")
    marked = "UNATTESTED" if issuer is None else "SIMULATED" if issuer.tee.is_simulated else None
    tee = "unattested" if issuer is None else str(issuer.tee)
    settings = Settings(config.names, tee, marked, dict.fromkeys(config.given, "set"))
    coordinator = Coordinator(folder, settings, world, contents=contents, recovery=recovery)
    if config.startup_manifest is not None:
        _set_startup_manifest(coordinator, config.startup_manifest)
    status = coordinator.status()
    log.info("coordinator ready", state=int(status.state), epoch=status.position.epoch, tee=status.tee)
    return coordinator


def _note(log: EventLog, what: str) -> None:
    log.warning("collateral", error=what)


def _set_startup_manifest(coordinator: Coordinator, path: Path) -> None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST + 1)
    except OSError as exc:
        raise FileInputError(f"cannot read EDG_STARTUP_MANIFEST {path}: {exc.strerror}") from exc
    try:
        coordinator.set_manifest(raw)
    except IllegalTransitionError as exc:
        raise IllegalTransitionError(
            "Cannot set startup manifest: server is not in expected state; the folder already holds a state: "
            "unset EDG_STARTUP_MANIFEST to go on with it"
        ) from exc


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parser() -> argparse.ArgumentParser:
    description, _, _ = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog=NAME,
        allow_abbrev=False,  # what switches attestation off is written out
        description=description,
        epilog=(__doc__ or "").split("\n\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--unattested", action="store_true", help="release to marbles without evidence")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    return parser


if __name__ == "__main__":
    main()
