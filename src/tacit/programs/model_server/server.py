"""The server as a whole: its parts are built, it listens, serves, and drains when it is told to end."""

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from tacit.edge import GrpcMethods, Listener
from tacit.edge.server import serve as serve_both
from tacit.edge.server import serve_grpc, serve_http
from tacit.errors import FileInputError, UsageError
from tacit.programs.memory import give_back_memory
from tacit.programs.model_server.doors import edge_limits, oip_handlers, open_doors, rest_timeout
from tacit.programs.model_server.isolation import open_workers
from tacit.programs.model_server.models import configure_models, list_entries, load_batching, tell_unbound
from tacit.programs.model_server.samples import recorded_samples
from tacit.programs.model_server.telling import faults_in, observer, open_log, tell_all, tell_flags, tell_trust
from tacit.serving.batching.loaded import Queueing
from tacit.serving.bundle import Bundle
from tacit.serving.callers import Callers, parse_clients
from tacit.serving.engines.interface import Device, Engine, EngineOptions, Precision
from tacit.serving.engines.select import check_engine, load_model
from tacit.serving.loading.isolation import Workers
from tacit.serving.loading.opening import Loading, Observer
from tacit.serving.loading.starting import Started
from tacit.serving.plane import STORAGE_THREAD, Plane
from tacit.serving.repository import Repository
from tacit.serving.tfs.config import (
    Monitoring,
    SslFile,
    load_text,
    parse_monitoring_config,
)
from tacit.serving.tfs.flags import Flags
from tacit.serving.tfs.manage.health import Health
from tacit.serving.tfs.manage.reload import Reloader
from tacit.serving.tfs.records import read_recorded
from tacit.serving.tfs.rest import RestOptions, TfsRest
from tacit.serving.tfs.service import GrpcOptions, Reload, TfsService
from tacit.wire.release import CLIENTS_ENV

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger as Log

    from tacit.edge.listener import HttpHandler, HttpRefusal
    from tacit.edge.service import Limits
    from tacit.evidence.claims import Issuer
    from tacit.pki.tls import ClientCertificates, ServerContext
    from tacit.serving.tfs.manage.metrics import Metrics

_DRAIN = 30.0  # seconds for requests that are under way when the program is told to end
_ANY_PORT = -1


def run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(main)


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a loop; None for asyncio's own. It is no dependency: nothing needs it but speed."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def serve(flags: Flags, environ: Mapping[str, str], ahead: Started | None = None) -> None:
    """Build everything, serve, and drain when a signal says so; `ahead` is the first process for a model, if it runs yet.

    Raises: TacitError.
    """
    log = open_log()
    identity = load_identity(flags, environ, log)
    tell_trust(log, environ.get("TACIT_TEE", ""), tls=identity is not None)
    tell_flags(log, flags)
    with faults_in(log), closing(open_workers(flags, environ, log, ahead=ahead)) as workers:
        await run_server(*build(flags, environ, identity, log, workers), flags, log)


async def run_server(server: "Server", repository: Repository, reloader: Reloader, flags: Flags, log: "Log") -> None:
    """Listen, load, and drain when a signal says so. Raises: TacitError."""
    stop = asyncio.Event()
    catch_signals(stop)
    listeners = await listen(server)
    halt = threading.Event()
    poller: threading.Thread | None = None
    try:
        ports = {name: each.port for name, each in listeners.items() if each.port}
        poller = start_polling(flags, repository, log, ports, halt=halt)
        follow_config(flags, reloader, halt)
        await stop.wait()
        log.info("draining", seconds=_DRAIN)
    finally:
        halt.set()
        server.health.draining = True
        await asyncio.gather(*(listener.close(_DRAIN) for listener in set(listeners.values())))
        # A model that is being loaded right now is not waited for: the thread ends with the process.
        if poller is not None:
            await asyncio.to_thread(poller.join, 1.0)
        if poller is None or not poller.is_alive():
            repository.close()
    log.info("stopped")


def build(
    flags: Flags,
    environ: Mapping[str, str],
    identity: "Identity | None",
    log: "Log",
    workers: Workers | None = None,
) -> "tuple[Server, Repository, Reloader]":
    """What the ports serve, the models behind it, and who exchanges them. Raises: TacitError."""
    entries = list_entries(flags)
    if not entries:
        log.warning("no-models", file=flags.text("model_config_file"), message="none until a configuration names some")
    models = configure_models(entries, flags, environ)
    tell_unbound(log, models, attested="TACIT_TEE" in environ)
    observers: list[Observer] = [observer(log)]
    repository = Repository(
        models,
        load=load_engine,
        options=engine_options(flags, attested="TACIT_TEE" in environ),
        observe=tell_all(observers),
        loading=loading_options(flags, workers),
    )
    monitoring = load_monitoring(flags)
    metrics = open_metrics(repository, environ.get("TACIT_TEE", "")) if monitoring.enabled else None
    if metrics is not None:
        observers.append(metrics.observe)
    reloader = Reloader(
        repository,
        lambda entries: configure_models(entries, flags, environ),
        entries=entries,
        observe=observers[0],
        labels_ahead=flags.switch("allow_version_labels_for_unavailable_models"),
        applied=lambda models: tell_unbound(log, models, attested="TACIT_TEE" in environ),
    )
    server = Server(
        flags,
        Plane(repository, load_callers(environ)),
        identity,
        Health(lambda: repository.ready),
        reloader.handle,
        metrics,
        monitoring.path,
        issuer=load_issuer(environ) if flags.switch("attest_connections") else None,
    )
    return server, repository, reloader


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate of both ports, and what signs clients' certificates, each asked for at every handshake."""

    pair: Callable[[], tuple[bytes, bytes]]
    client_roots: Callable[[], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """What the ports need."""

    flags: Flags
    plane: Plane
    identity: Identity | None
    health: Health
    reload: Reload
    metrics: "Metrics | None"
    metrics_path: str
    issuer: "Issuer | None" = None  # of evidence for each connection of the REST port, where that is asked for


async def listen(server: Server) -> dict[str, Listener]:
    """Open the ports that are wanted. Raises: PortInUseError, UsageError."""
    flags = server.flags
    grpc_port, rest_port, socket = flags.number("port"), flags.number("rest_api_port"), flags.text("grpc_socket_path")
    if not grpc_port and not rest_port and not socket:
        raise UsageError("both ports are off; give --port, --rest_api_port or --grpc_socket_path")
    _edge(flags)  # a wrong one is refused whatever is served
    doors = open_doors(flags)
    more, oip = oip_handlers(server.plane, flags)
    methods = doors.grpc(grpc_methods(server), more)
    rest = TfsRest(server.plane, _rest_options(server), meter=server.metrics)
    http = doors.http(_attested(server, rest.handle), oip, metrics_path=server.metrics_path)
    listeners: dict[str, Listener] = {}
    if grpc_port == rest_port != _ANY_PORT and grpc_port:
        listeners["grpc"] = listeners["rest"] = await _listen_for_both(server, methods, http, doors.refuse)
    else:
        if grpc_port:
            listeners["grpc"] = await _listen_for_grpc(server, methods, max(0, grpc_port))
        if rest_port:
            listeners["rest"] = await serve_http(
                http,
                host=flags.text("host"),
                port=max(0, rest_port),
                tls=_tls(server, "h2", "http/1.1"),
                max_body=flags.number("max_message_bytes"),
                limits=_limits(server),
                refuse=doors.refuse,
            )
    if socket:
        listeners["grpc_socket"] = await serve_grpc(
            methods,
            host=f"unix:{socket}",
            port=0,
            tls=_tls(server, "h2"),
            max_message=flags.number("max_message_bytes"),
            limits=_limits(server),
        )
    return listeners


async def _listen_for_both(
    server: Server, methods: GrpcMethods, http: "HttpHandler", refuse: "HttpRefusal"
) -> Listener:
    """One port, where each connection is told by ALPN, or by its first bytes, and each request by its type."""
    flags = server.flags
    if _edge(flags) != "tacit":
        raise UsageError("--edge=grpcio answers gRPC alone; give --port and --rest_api_port different numbers")
    return await serve_both(
        host=flags.text("host"),
        port=flags.number("port"),
        tls=_tls(server, "h2", "http/1.1"),
        http=http,
        grpc=methods,
        max_body=flags.number("max_message_bytes"),
        max_message=flags.number("max_message_bytes"),
        limits=_limits(server),
        refuse=refuse,
    )


def grpc_methods(server: Server) -> GrpcMethods:
    """All methods of the gRPC port, by path."""
    flags = server.flags
    options = GrpcOptions(
        as_content=flags.switch("enable_serialization_as_tensor_content"),
        check_methods=flags.switch("enable_signature_method_name_check"),
    )
    service = TfsService(server.plane, options, reload=server.reload, meter=server.metrics)
    health = server.health.handlers() if flags.switch("enable_grpc_healthcheck_service") else {}
    return {**service.handlers(), **health}


def _limits(server: Server) -> "Limits":
    return edge_limits(server.flags, open_to_all=not server.plane.callers.closed)


def _rest_options(server: Server) -> RestOptions:
    flags = server.flags
    return RestOptions(
        check_methods=flags.switch("enable_signature_method_name_check"),
        timeout=rest_timeout(flags),
        max_json=flags.number("max_json_bytes"),
        metrics_path=server.metrics_path,
        metrics=server.metrics.answer if server.metrics else None,
    )


async def _listen_for_grpc(server: Server, methods: GrpcMethods, port: int) -> Listener:
    flags, identity = server.flags, server.identity
    host, limit = flags.text("host"), flags.number("max_message_bytes")
    if _edge(flags) == "tacit":
        return await serve_grpc(
            methods,
            host=host,
            port=port,
            tls=_tls(server, "h2"),
            max_message=limit,
            limits=_limits(server),
        )
    if server.plane.callers.ask_for_certificates and not (identity and identity.client_roots):
        raise UsageError(
            "--edge=grpcio sees no client certificate that it does not verify itself, and the manifest's Clients are known "
            "by theirs: give custom_ca in --ssl_config_file, or leave --edge out"
        )
    from tacit.edge.data import serve_grpc_data

    return await serve_grpc_data(
        methods,
        host=host,
        port=port,
        credentials=identity.pair if identity else None,
        client_roots=identity.client_roots() if identity and identity.client_roots else None,
        max_message=limit,
    )


def _edge(flags: Flags) -> str:
    """What serves gRPC. Raises: UsageError."""
    found = flags.text("edge")
    if found not in ("tacit", "grpcio"):
        raise UsageError(f"--edge={found}: expected tacit or grpcio")
    return found


def _tls(server: Server, *protocols: str) -> "ServerContext | None":
    if server.identity is None:
        return None
    from tacit.pki.tls import server_context

    roots = server.identity.client_roots
    counted = any(server.flags.values[name] for name in ("max_client_requests", "max_client_rate"))
    asked = "request" if counted or server.plane.callers.ask_for_certificates else "none"
    return server_context(
        server.identity.pair,
        client_certificates="require" if roots else cast("ClientCertificates", asked),
        client_roots=roots,
        alpn=protocols,
    )


def open_metrics(repository: Repository, tee: str) -> "Metrics":
    """Counts of what happens; the library is imported where somebody wants them."""
    from tacit.serving.tfs.manage.metrics import Metrics

    return Metrics(
        lambda: {name: repository.statuses(name) for name in repository.names()},
        names=repository.names,
        tee=tee,
        queued=repository.queued,
        done=repository.done,
    )


def follow_config(flags: Flags, reloader: Reloader, halt: threading.Event) -> None:
    """Start the thread that looks after the file with the models, if it is to be looked after."""
    path, interval = flags.text("model_config_file"), flags.number("model_config_file_poll_wait_seconds")
    if path and interval:
        arguments = {"interval": float(interval), "known": load_text(Path(path))}
        threading.Thread(
            target=reloader.follow, args=(Path(path), halt), kwargs=arguments, name=STORAGE_THREAD, daemon=True
        ).start()


def start_polling(
    flags: Flags, repository: Repository, log: "Log", ports: Mapping[str, int], *, halt: threading.Event
) -> threading.Thread:
    """Start the thread that looks after the models; it says `ready` when all of them answer."""
    port_file = flags.text("port_file")
    if port_file:
        store_ports(Path(port_file), ports)
    log.info("listening", **ports)
    interval = flags.number("file_system_poll_wait_seconds")
    thread = threading.Thread(
        target=repository.run,
        args=(halt,),
        kwargs={"interval": interval, "announce": lambda: log.info("ready", **ports)},
        name=STORAGE_THREAD,
        daemon=True,
    )
    thread.start()
    return thread


def catch_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM, SIGINT or SIGHUP drains; a second one ends the process at once.

    SIGHUP is a closed terminal, and `nohup` asks for that to be ignored.
    """
    loop = asyncio.get_running_loop()
    ends = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        ends.append(signal.SIGHUP)

    def first() -> None:
        stop.set()
        for number in ends:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in ends:
        loop.add_signal_handler(number, first)


def store_ports(path: Path, ports: Mapping[str, int]) -> None:
    """Write the ports for whoever started this program. Raises: FileInputError."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(dict(ports)) + "\n")
        partial.replace(path)
    except OSError as exc:
        raise FileInputError(f"cannot write {path}: {exc.strerror}") from exc


# ---- how models are run


def engine_options(flags: Flags, *, attested: bool) -> EngineOptions:
    """What engines may use. Raises: UsageError."""
    precision, device = flags.text("precision"), flags.text("device")
    for name, kind in (("precision", Precision), ("device", Device)):
        if flags.text(name) not in get_args(kind):
            raise UsageError(f"--{name}={flags.text(name)}: expected {', '.join(get_args(kind))}")
    if attested and device != "cpu":
        raise UsageError(f"--device={device}: an attested server computes within its TEE, and that is outside of it")
    asked = ("threads", "tensorflow_session_parallelism", "tensorflow_intra_op_parallelism")
    threads = next((flags.number(name) for name in asked if flags.number(name) > 0), None)
    engine = check_engine(flags.text("engine"))
    staging = Path(flags.text("staging_dir"))
    return EngineOptions(
        cast("Precision", precision), threads, engine, staging, recorded_samples, cast("Device", device)
    )


def loading_options(flags: Flags, workers: Workers | None = None) -> Loading:
    """How versions are loaded, and how requests wait for them. Raises: UsageError."""
    rules, own = load_batching(flags)
    return Loading(
        warm=flags.switch("enable_model_warmup"),
        recorded=read_recorded,
        iterations=max(1, flags.number("num_request_iterations_for_warmup")),
        retries=flags.number("max_num_load_retries"),
        pause=flags.number("load_retry_interval_micros") / 1e6,
        queueing=Queueing(rules, flags.number("max_waiting_requests")),
        own_rules=own,
        workers=workers,
    )


def load_engine(bundle: Bundle, options: EngineOptions) -> Engine:
    """The engine for a model; its library is imported when the first model is there."""
    engine = load_model(bundle, options)
    give_back_memory()
    return engine


# ---- trust


def load_identity(flags: Flags, environ: Mapping[str, str], log: "Log") -> Identity | None:
    """The identity for both ports, or None for plaintext, which an attested server never serves.

    Raises:
        UsageError: attested and without an identity, or a file that is none.
    """
    if flags.switch("use_alts_credentials"):
        raise UsageError("--use_alts_credentials: this server has no ALTS; give --ssl_config_file for TLS")
    if flags.text("ssl_config_file"):
        file = SslFile(Path(flags.text("ssl_config_file")), lambda text: log.warning("ssl-config-failed", error=text))
        return Identity(file.pair, file.client_roots if file.current().client_roots is not None else None)
    chain = environ.get("MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN")
    key = environ.get("MARBLE_PREDEFINED_PRIVATE_KEY")
    if chain and key:
        pair = (chain.encode(), key.encode())
        return Identity(lambda: pair)
    if "TACIT_TEE" in environ:
        raise UsageError(
            "an attested server never serves plaintext, and no certificate came with activation; "
            "start by tacit-premain, or give --ssl_config_file"
        )
    return None


def load_issuer(environ: Mapping[str, str]) -> "Issuer":
    """The TEE around this process, which makes its evidence. Raises: UsageError, PlatformError, TeeError."""
    from tacit.programs.model_server.attest import load_issuer

    return load_issuer(environ, now=datetime.now(UTC))


def _attested(server: Server, handle: "HttpHandler") -> "HttpHandler":
    """The handler of the REST port, which answers for evidence too where that is asked for. Raises: UsageError."""
    if server.issuer is None:
        return handle
    from tacit.programs.model_server.attest import attested

    return attested(handle, server.issuer, server.identity.pair if server.identity else None)


def load_callers(environ: Mapping[str, str]) -> Callers:
    """Who may call and who may manage, as the manifest says. Raises: UsageError."""
    clients = parse_clients(environ[CLIENTS_ENV]) if CLIENTS_ENV in environ else []
    return Callers(clients, anybody_manages="TACIT_TEE" not in environ)


def load_monitoring(flags: Flags) -> Monitoring:
    """Whether and where metrics are served. Raises: UsageError, FileInputError."""
    if not flags.text("monitoring_config_file"):
        return Monitoring()
    return parse_monitoring_config(load_text(Path(flags.text("monitoring_config_file"))))
