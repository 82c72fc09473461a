"""The program `tacit-serve`: serves models to TensorFlow Serving's clients, in the clear or attested.

    tacit-serve --model_name=NAME --model_base_path=PATH [--rest_api_port=PORT] ...        (--help lists the flags)

Started by tacit-premain it is attested: its certificate came from the coordinator, it loads only what the manifest's
`Models` names, and it never serves plaintext. The environment is read here and nowhere else:

- TACIT_TEE: the kind of TEE that this process was attested in; set by premain.
- TACIT_MODELS: the manifest's rules for models, as JSON. TACIT_KEY_DIR: a folder in memory with one key per model.
- MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN, MARBLE_PREDEFINED_PRIVATE_KEY: the identity, unless a file gives one.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import structlog

from tacit.edge import Listener
from tacit.edge.server import serve_grpc, serve_http
from tacit.errors import FileInputError, ModelNotAllowedError, PkiError, TacitError, UsageError
from tacit.pki import parse_key_pair
from tacit.programs.memory import keep_memory_private
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine, EngineOptions, Precision
from tacit.serving.plane import Plane
from tacit.serving.private import remove_private_folder
from tacit.serving.repository import ModelConfig, Observer, Repository, VersionPolicy
from tacit.serving.sources import Access, Format, ModelRule, load_key, parse_rules
from tacit.serving.tfs.config import Credentials, ModelEntry, load_text, parse_model_config, parse_ssl_config
from tacit.serving.tfs.flags import Flags, parse_flags, usage
from tacit.serving.tfs.rest import RestOptions, TfsRest
from tacit.serving.tfs.service import TfsService
from tacit.wire.release import MODELS_ENV

if TYPE_CHECKING:
    from tacit.edge.listener import HttpHandler
    from tacit.evidence.claims import Issuer
    from tacit.pki.tls import ServerContext

# malloc.h of glibc. Its defaults hand every buffer of a request back to the system and take it anew: on images that
# cost as much again as all the rest of a call. One arena, because Python's threads take turns anyway.
_MALLOC = {-8: 1, -3: 32 << 20, -1: 128 << 20}  # M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
_DRAIN = 30.0  # seconds for requests that are under way when the program is told to end
_ANY_PORT = -1
_STORAGE = "storage"  # the thread that looks after the models


def main() -> None:
    """Run the program and end the process with its exit code."""
    code = run(sys.argv[1:], os.environ)
    if any(thread.name == _STORAGE for thread in threading.enumerate()):
        # A model is still being loaded. The engine's own threads would meet its destructors, which abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until told to end: 0 after SIGTERM or SIGINT, 1 where it cannot start, 2 for a wrong command line."""
    keep_memory_private()
    keep_buffers()
    try:
        flags = parse_flags(arguments)
        if flags.switch("help") or flags.switch("version"):
            print(usage() if flags.switch("help") else f"tacit-serve {version('tacit')}")  # noqa: T201 (asked for)
            return 0
        asyncio.run(serve(flags, environ))
    except UsageError as exc:
        print(f"Failed to start server. Error: {exc}", file=sys.stderr)  # noqa: T201 (the last word of this program)
        return 2
    except TacitError as exc:
        print(f"Failed to start server. Error: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        remove_private_folder(environ)
    return 0


def keep_buffers() -> None:
    """Let the allocator keep the large buffers of one request for the next, where it is one that can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for option, value in _MALLOC.items():
            mallopt(option, value)


async def serve(flags: Flags, environ: Mapping[str, str]) -> None:
    """Build everything, serve, and drain when a signal says so. Raises: TacitError."""
    log = open_log()
    tee = environ.get("TACIT_TEE", "")
    credentials = load_credentials(flags, environ)
    tell_trust(log, tee, credentials)
    if flags.accepted:
        log.info("flags-without-effect", flags=list(flags.accepted))
    models = configure_models(flags, environ)
    tell_unbound(log, models, attested="TACIT_TEE" in environ)
    repository = Repository(
        models,
        load=load_engine,
        options=engine_options(flags),
        observe=observer(log),
        warm=flags.switch("enable_model_warmup"),
    )
    plane = Plane(repository)
    stop = asyncio.Event()
    catch_signals(stop)
    issuer = load_issuer(tee, environ) if flags.switch("attest_connections") else None
    listeners = await listen(flags, plane, credentials, issuer)
    halt = threading.Event()
    try:
        ports = {name: each.port for name, each in listeners.items()}
        poller = start_polling(flags, repository, log, ports, halt=halt)
        await stop.wait()
        log.info("draining", seconds=_DRAIN)
    finally:
        halt.set()
        await asyncio.gather(*(listener.close(_DRAIN) for listener in listeners.values()))
    # A model that is being loaded right now is not waited for: the thread ends with the process.
    await asyncio.to_thread(poller.join, 1.0)
    if not poller.is_alive():
        repository.close()
    log.info("stopped")


async def listen(
    flags: Flags, plane: Plane, credentials: Credentials | None, issuer: "Issuer | None" = None
) -> dict[str, Listener]:
    """Open the ports that are wanted. Raises: PortInUseError, UsageError."""
    grpc_port, rest_port = flags.number("port"), flags.number("rest_api_port")
    if not grpc_port and not rest_port:
        raise UsageError("both ports are off; give --port or --rest_api_port")
    if grpc_port == rest_port != _ANY_PORT:
        raise UsageError(f"--port and --rest_api_port are both {grpc_port}; give them different ports")
    listeners: dict[str, Listener] = {}
    if grpc_port:
        listeners["grpc"] = await _listen_for_grpc(flags, plane, credentials, max(0, grpc_port))
    if rest_port:
        rest = TfsRest(plane, RestOptions(cors=flags.switch("rest_api_enable_cors_support")))
        listeners["rest"] = await serve_http(
            rest.handle if issuer is None else attested(rest.handle, issuer, credentials),
            host=flags.text("host"),
            port=max(0, rest_port),
            tls=_tls(credentials, "h2", "http/1.1"),
            max_body=flags.number("max_message_bytes"),
        )
    return listeners


async def _listen_for_grpc(flags: Flags, plane: Plane, credentials: Credentials | None, port: int) -> Listener:
    service = TfsService(plane, as_content=flags.switch("enable_serialization_as_tensor_content"))
    host, limit, handlers = flags.text("host"), flags.number("max_message_bytes"), service.handlers()
    if flags.text("edge") == "tacit":
        return await serve_grpc(handlers, host=host, port=port, tls=_tls(credentials, "h2"), max_message=limit)
    if flags.text("edge") != "grpcio":
        raise UsageError(f"--edge={flags.text('edge')}: expected tacit or grpcio")
    from tacit.edge.data import serve_grpc_data

    return await serve_grpc_data(
        handlers,
        host=host,
        port=port,
        credentials=(lambda: (credentials.chain, credentials.key)) if credentials else None,
        client_roots=credentials.client_roots if credentials else None,
        max_message=limit,
    )


def _tls(credentials: Credentials | None, *protocols: str) -> "ServerContext | None":
    if credentials is None:
        return None
    from tacit.pki.tls import server_context

    chain_and_key = (credentials.chain, credentials.key)
    return server_context(
        lambda: chain_and_key,
        client_certificates="require" if credentials.client_roots else "none",
        client_roots=credentials.client_roots,
        alpn=protocols,
    )


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
        name=_STORAGE,
        daemon=True,
    )
    thread.start()
    return thread


def catch_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT drains; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)


def store_ports(path: Path, ports: Mapping[str, int]) -> None:
    """Write the ports for whoever started this program. Raises: FileInputError."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(json.dumps(dict(ports)) + "\n")
        partial.replace(path)
    except OSError as exc:
        raise FileInputError(f"cannot write {path}: {exc.strerror}") from exc


# ---- what is served, and how


def configure_models(flags: Flags, environ: Mapping[str, str]) -> list[ModelConfig]:
    """The models of the command line or the configuration file, each with what the manifest says of it.

    Raises:
        UsageError: nothing to serve, or a sealed model without a key.
        ModelNotAllowedError: a model that the manifest does not name.
    """
    rules = parse_rules(environ[MODELS_ENV]) if MODELS_ENV in environ else None
    return [configure_model(entry, flags, environ, rules) for entry in list_entries(flags)]


def list_entries(flags: Flags) -> list[ModelEntry]:
    """Names and places of the models. Raises: UsageError."""
    if flags.text("model_config_file"):
        return parse_model_config(load_text(Path(flags.text("model_config_file"))))
    if not flags.text("model_base_path"):
        raise UsageError("Both server_options.model_base_path and server_options.model_config_file are empty!")
    return [ModelEntry(flags.text("model_name"), Path(flags.text("model_base_path")), VersionPolicy(), {})]


def configure_model(
    entry: ModelEntry, flags: Flags, environ: Mapping[str, str], rules: Mapping[str, ModelRule] | None
) -> ModelConfig:
    """One model. Raises: UsageError, ModelNotAllowedError, FileInputError."""
    if not entry.name or entry.name in (".", "..") or any(sign in entry.name for sign in "/:\\\0"):
        raise UsageError(f"{entry.name!r} is no name for a model; it stands in addresses and file names")
    rule = None
    if rules is not None:
        rule = rules.get(entry.name)
        if rule is None:
            raise ModelNotAllowedError(
                f"the manifest does not allow this server to load model {entry.name!r}; "
                f"its Models name {', '.join(sorted(rules)) or 'none'}"
            )
    storage = rule.format if rule else parse_format(flags.text("model_format"))
    if rule is None and storage is Format.PLAIN and environ.get("TACIT_TEE", "unattested") != "unattested":
        raise ModelNotAllowedError(
            f"model {entry.name!r} is plain and the manifest does not name it, so whoever keeps the storage could put "
            "any model there; add it to Models in the manifest, with its ID, or encrypt it"
        )
    key = b"" if storage is Format.PLAIN else load_key(find_key(entry.name, flags, environ))
    return ModelConfig(entry.base, Access(entry.name, storage, rule, key), entry.policy, entry.labels)


def parse_format(text: str) -> Format:
    """How models lie in the storage. Raises: UsageError."""
    try:
        return Format(text)
    except ValueError as exc:
        raise UsageError(f"--model_format={text}: expected {', '.join(Format)}") from exc


def find_key(model: str, flags: Flags, environ: Mapping[str, str]) -> Path:
    """The file with a model's key: from activation, else from the flag. Raises: UsageError."""
    if "TACIT_KEY_DIR" in environ:
        return Path(environ["TACIT_KEY_DIR"], model)
    if flags.text("model_key_file"):
        return Path(flags.text("model_key_file"))
    raise UsageError(f"model {model} is sealed, and no key was given: start by tacit-premain, or with --model_key_file")


def engine_options(flags: Flags) -> EngineOptions:
    """What engines may use. Raises: UsageError."""
    precision = flags.text("precision")
    if precision not in get_args(Precision):
        raise UsageError(f"--precision={precision}: expected {', '.join(get_args(Precision))}")
    asked = ("threads", "tensorflow_session_parallelism", "tensorflow_intra_op_parallelism")
    threads = next((flags.number(name) for name in asked if flags.number(name) > 0), None)
    return EngineOptions(cast("Precision", precision), threads, Path(flags.text("staging_dir")))


def load_engine(bundle: Bundle, options: EngineOptions) -> Engine:
    """The engine for a model; its library is imported when the first model is there."""
    from tacit.serving.engines.openvino import load_openvino

    engine = load_openvino(bundle, options)
    # Reading a model takes memory several times its size, which is not what `keep_buffers` is to keep.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    return engine


# ---- trust


def load_credentials(flags: Flags, environ: Mapping[str, str]) -> Credentials | None:
    """The identity for both ports, or None for plaintext, which an attested server never serves.

    Raises:
        UsageError: attested and without an identity, or a file that is none.
    """
    if flags.text("ssl_config_file"):
        path = Path(flags.text("ssl_config_file"))
        try:
            credentials = parse_ssl_config(load_text(path))
            parse_key_pair(credentials.chain, credentials.key)
            return credentials
        except (UsageError, PkiError) as exc:
            raise type(exc)(f"--ssl_config_file={path}: {exc}") from exc
    chain = environ.get("MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN")
    key = environ.get("MARBLE_PREDEFINED_PRIVATE_KEY")
    if chain and key:
        return Credentials(chain.encode(), key.encode())
    if "TACIT_TEE" in environ:
        raise UsageError(
            "an attested server never serves plaintext, and no certificate came with activation; "
            "start by tacit-premain, or give --ssl_config_file"
        )
    return None


def load_issuer(tee: str, environ: Mapping[str, str]) -> "Issuer":
    """The TEE around this process, which makes its evidence.

    Raises:
        UsageError: it was not attested, or in a kind that makes none here.
        PlatformError: there is no simulated platform.
    """
    from tacit.evidence.claims import Tee
    from tacit.evidence.issue import default_platform_folder, load_simulated_tee

    if tee not in tuple(Tee) or not Tee(tee).is_simulated:
        raise UsageError(f"--attest_connections needs a TEE that makes evidence; this process runs in {tee or 'none'}")
    now = datetime.now(UTC)
    return load_simulated_tee(default_platform_folder(environ), program="marble", now=now, tee=Tee(tee))


def attested(handle: "HttpHandler", issuer: "Issuer", credentials: Credentials | None) -> "HttpHandler":
    """The handler, answering for evidence that is bound to its connections too. Raises: UsageError."""
    from tacit.serving.evidence import AttestedRest

    if credentials is None:
        raise UsageError("--attest_connections needs TLS: there is nothing to bind evidence to")
    leaf = parse_key_pair(credentials.chain, credentials.key)
    return AttestedRest(handle, issuer, leaf.certificate_der).handle


def tell_trust(log: "Log", tee: str, credentials: Credentials | None) -> None:
    """Say in the log how far this server may be trusted."""
    told = {
        "simulated": "SIMULATED: a simulated TEE protects nothing from who runs this machine",
        "unattested": "UNATTESTED: nobody checked what this server is",
        "": "no TEE: started without attestation",
    }
    log.info("trust", tee=tee or "none", tls=credentials is not None, message=told.get(tee, f"attested in {tee}"))


def tell_unbound(log: "Log", models: Sequence[ModelConfig], *, attested: bool) -> None:
    """Warn of each model that whoever keeps the storage may exchange for another."""
    for model in models:
        access, rule = model.access, model.access.rule
        if rule is None and attested:
            log.warning(
                "model-not-named",
                model=access.model,
                message=f"the manifest names no Models, so whatever lies at {model.base} is loaded as {access.model}: "
                f'add "Models": {{"{access.model}": {{"Format": "{access.format}", "ID": ...}}}} to the manifest, and '
                "the name to the marble's Models; `tacit model inspect` prints the ID",
            )
        elif rule is not None and not rule.id and access.format is not Format.CAPSULE:
            log.warning(
                "model-without-id",
                model=access.model,
                message=f"the manifest's rule for {access.model} has no ID, and the {access.format} format authenticates "
                "nothing: nobody would see that the file was changed. Add the ID that `tacit model inspect` prints, or "
                "encrypt it as a capsule",
            )


def observer(log: "Log") -> Observer:
    """Writes the repository's events to the log, failures as errors, what works less well as warnings."""

    def observe(event: str, /, **fields: object) -> None:
        tell = log.error if event.endswith("-failed") else log.warning if event == "model-cold" else log.info
        tell(event, **fields)

    return observe


Log = structlog.typing.FilteringBoundLogger


def open_log(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Log:
    """One JSON object a line on standard error: when, what, and its fields."""

    def stamp(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"ts": clock().isoformat(timespec="milliseconds"), **event}

    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, stamp, structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(20),
    )
    return log
