"""TensorFlow Serving's text files: which models, and which certificate.

They are protobuf text format, and are read by protobuf's own parser: people write them with and without colons, with
commas, comments and strings in pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message import Message

from tacit.errors import FileInputError, PkiError, TacitError, UsageError
from tacit.serving.batching import BatchRules
from tacit.serving.repository import VersionPolicy
from tacit.wire.pb import serving_config_pb2 as wire

METRICS_PATH = "/monitoring/prometheus/metrics"
PLATFORM = "tensorflow"  # what a model is that does not say, as TensorFlow Serving has it for --model_name
_ADAPTERS = ("SavedModelBundleSourceAdapterConfig", "SessionBundleSourceAdapterConfig")
MAX_CONFIG = 4 * 1024 * 1024  # bytes; a file of models and certificates is far smaller

_AnyMessage = TypeVar("_AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The server's identity: PEM text. `client_roots` is None where clients need no certificate."""

    chain: bytes
    key: bytes = field(repr=False)
    client_roots: bytes | None = None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of a configuration file."""

    name: str
    base: Path
    policy: VersionPolicy
    labels: Mapping[str, int]
    platform: str = PLATFORM


def load_text(path: Path) -> str:
    """A configuration file's text. Raises: FileInputError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG + 1)
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}") from exc
    if len(raw) > MAX_CONFIG:
        raise FileInputError(f"{path} is larger than {MAX_CONFIG} bytes; that is no configuration file")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise FileInputError(f"{path} is not text (UTF-8)") from exc


def parse_ssl_config(text: str) -> Credentials:
    """The identity in a `--ssl_config_file`.

    Raises:
        UsageError: not the text form of SSLConfig, or without key and certificate.
    """
    config = _parse(text, wire.SSLConfig(), "SSLConfig", secret=True)
    if not config.server_key or not config.server_cert:
        raise UsageError("the SSL configuration needs server_key and server_cert, both as PEM text")
    if config.client_verify and not config.custom_ca:
        raise UsageError("client_verify needs custom_ca: the certificates that may sign clients' certificates, as PEM")
    roots = config.custom_ca.encode() if config.client_verify else None
    return Credentials(config.server_cert.encode(), config.server_key.encode(), roots)


class SslFile:
    """A `--ssl_config_file` whose newest good content is in use. A bad one is told once, and changes nothing.

    Whether clients need certificates is settled when the server starts.

    Raises:
        UsageError, PkiError: at first, and never later.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn, self._told = path, warn, ""
        self._stamp = _stamp(path)
        self._good = self._load()

    def pair(self) -> tuple[bytes, bytes]:
        """Chain and key as they are now."""
        return self.current().chain, self.current().key

    def client_roots(self) -> bytes:
        """What signs clients' certificates, as it is now."""
        return self.current().client_roots or b""

    def current(self) -> Credentials:
        """The newest content that can be used."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                self._told = ""
                return self._good
            self._stamp = stamp
            found = self._load()
            if (found.client_roots is None) != (self._good.client_roots is None):
                raise UsageError("client_verify cannot change while the server runs; restart it")
            self._good = found
        except TacitError as exc:
            if str(exc) != self._told:  # a file that is gone is looked for at every handshake
                self._told = str(exc)
                self._warn(f"{exc}; the previous certificate stays in use")
        return self._good

    def _load(self) -> Credentials:
        from tacit.pki.keys import parse_certificates, parse_key_pair

        try:
            credentials = parse_ssl_config(load_text(self._path))
            parse_key_pair(credentials.chain, credentials.key)
            if credentials.client_roots is not None:
                parse_certificates(credentials.client_roots)
            return credentials
        except (UsageError, PkiError) as exc:
            raise type(exc)(f"--ssl_config_file={self._path}: {exc}") from exc


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}") from exc
    return found.st_ino, found.st_size, found.st_mtime_ns


def parse_model_config(text: str, *, may_be_empty: bool = False) -> list[ModelEntry]:
    """The models in a `--model_config_file`.

    Raises:
        UsageError: not the text form of ModelServerConfig, or models that cannot be served together.
    """
    config = _parse(text, wire.ModelServerConfig(), "ModelServerConfig")
    if config.HasField("custom_model_config"):
        raise UsageError(
            "custom_model_config is not read here; list the models in model_config_list { config { ... } }"
        )
    entries = read_model_config(config)
    if not entries and not may_be_empty:
        raise UsageError("the configuration names no model; expected model_config_list { config { ... } }")
    return entries


def read_model_config(config: wire.ModelServerConfig) -> list[ModelEntry]:
    """The models of a configuration, from a file or a call.

    Raises:
        UsageError: models that cannot be served together.
    """
    entries: dict[str, ModelEntry] = {}
    for model in config.model_config_list.config:
        if not model.name:
            raise UsageError("a model in the configuration has no name")
        if model.name in entries:
            raise UsageError(f"Illegal to list model {model.name} multiple times in config list")
        base = parse_base(model.name, model.base_path)
        if not base.is_absolute():
            raise UsageError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        policy, labels = _policy(model.model_version_policy), dict(model.version_labels)
        entries[model.name] = ModelEntry(model.name, base, policy, labels, model.model_platform or PLATFORM)
    return list(entries.values())


def parse_base(model: str, text: str) -> Path:
    """Where a model lies: a path, which may be written as an address of this machine's files (`file:///models/m`).

    Raises:
        UsageError: an address that is elsewhere, or no path at all.
    """
    scheme, is_address, rest = text.partition("://")
    if is_address and scheme.lower() == "file" and rest.removeprefix("localhost").startswith("/"):
        text = rest.removeprefix("localhost")
    elif is_address and scheme.isalnum():
        raise UsageError(
            f"model {model} is at {text}, and this server reads files of its own machine alone; mount what is there, "
            "or copy it, and give the path"
        )
    if "\0" in text:
        raise UsageError(f"the base path of model {model} holds a zero byte, which no path does")
    return Path(text)


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Whether metrics are served, and at which path of the REST port."""

    enabled: bool = False
    path: str = METRICS_PATH


def parse_monitoring_config(text: str) -> Monitoring:
    """What a `--monitoring_config_file` says. Raises: UsageError."""
    config = _parse(text, wire.MonitoringConfig(), "MonitoringConfig").prometheus_config
    path = config.path or METRICS_PATH
    if not path.startswith("/"):
        raise UsageError(f"the path of the metrics is {path!r}; expected one that begins with /")
    if path == "/v2" or path.startswith("/v2/"):
        raise UsageError(f"the path of the metrics is {path!r}, and what is below /v2 is the Open Inference Protocol's")
    if not path.isascii() or not path.isprintable() or any(sign in path for sign in " ?#"):
        raise UsageError(
            f"the path of the metrics is {path!r}; expected one as it stands in an address, without ? and #"
        )
    return Monitoring(config.enable, path)


def parse_batching(text: str, *, mix_clients: bool = True) -> BatchRules:
    """What a `--batching_parameters_file` says, with this server's own defaults where it says nothing.

    `num_batch_threads` and `thread_pool_name` are read and change nothing: a model runs one batch at a time.

    Raises:
        UsageError: not the text form of BatchingParameters, or rules that contradict themselves.
    """
    wanted = _parse(text, wire.BatchingParameters(), "BatchingParameters")

    def value(name: str, default: int) -> int:
        return int(getattr(wanted, name).value) if wanted.HasField(name) else default

    default = BatchRules()
    sizes = tuple(wanted.allowed_batch_sizes)
    split = wanted.enable_large_batch_splitting.value if wanted.HasField("enable_large_batch_splitting") else True
    return BatchRules(
        max_batch=value("max_batch_size", default.max_batch),
        timeout=value("batch_timeout_micros", 0) / 1e6,
        max_enqueued=value("max_enqueued_batches", default.max_enqueued),
        allowed=sizes,
        pad=wanted.pad_variable_length_inputs,
        split=split,
        max_execution=value("max_execution_batch_size", 0),
        mix_clients=mix_clients,
    )


def check_platform_config(text: str) -> None:
    """Refuse a `--platform_config_file` that is none; what it says is for TensorFlow. Raises: UsageError."""
    found = _parse(text, wire.PlatformConfigMap(), "PlatformConfigMap", adapters=_adapters())
    if not found.platform_configs:
        raise UsageError("the platforms' configuration names no platform; expected platform_configs { key value }")


def _adapters() -> descriptor_pool.DescriptorPool:
    """TensorFlow Serving's adapters by their names, which the text spells out, and without what stands in them.

    A pool of their own: in the common one they would keep out the whole definitions, which other packages bring.
    """
    file = descriptor_pb2.FileDescriptorProto(name="adapters.proto", package="tensorflow.serving", syntax="proto3")
    for name in _ADAPTERS:
        file.message_type.add(name=name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _policy(policy: wire.ServableVersionPolicy) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return VersionPolicy(specific=frozenset(policy.specific.versions))
    if choice == "all":
        return VersionPolicy(latest=0)
    return VersionPolicy(latest=max(1, policy.latest.num_versions))


def _parse(
    text: str,
    into: _AnyMessage,
    name: str,
    *,
    secret: bool = False,
    adapters: descriptor_pool.DescriptorPool | None = None,
) -> _AnyMessage:
    """The message of a text; with `adapters`, which say what may stand in an Any, unknown fields are passed over."""
    try:
        return text_format.Parse(text, into, allow_unknown_field=adapters is not None, descriptor_pool=adapters)
    except text_format.ParseError as exc:
        # The parser quotes what it stumbled over, which may be a piece of a key.
        where = f"line {exc.GetLine()}, column {exc.GetColumn()}" if secret else str(exc)
        cause = None if secret else exc
        raise UsageError(f"Error parsing text-format tensorflow.serving.{name}: {where}") from cause
    except RecursionError as exc:  # fields that are passed over may be as deep as they like
        raise UsageError(f"Error parsing text-format tensorflow.serving.{name}: it is nested too deeply") from exc
