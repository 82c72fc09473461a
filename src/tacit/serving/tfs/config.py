"""TensorFlow Serving's text files: which models, and which certificate.

They are protobuf text format, and are read by protobuf's own parser: people write them with and without colons, with
commas, comments and strings in pieces.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from tacit.errors import FileInputError, UsageError
from tacit.serving.repository import VersionPolicy
from tacit.wire.pb import serving_config_pb2 as wire

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


def parse_model_config(text: str) -> list[ModelEntry]:
    """The models in a `--model_config_file`.

    Raises:
        UsageError: not the text form of ModelServerConfig, or models that cannot be served together.
    """
    config = _parse(text, wire.ModelServerConfig(), "ModelServerConfig")
    entries: dict[str, ModelEntry] = {}
    for model in config.model_config_list.config:
        if not model.name:
            raise UsageError("a model in the configuration has no name")
        if model.name in entries:
            raise UsageError(f"Illegal to list model {model.name} multiple times in config list")
        if not Path(model.base_path).is_absolute():
            raise UsageError(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
        policy = _policy(model.model_version_policy)
        entries[model.name] = ModelEntry(model.name, Path(model.base_path), policy, dict(model.version_labels))
    if not entries:
        raise UsageError("the configuration names no model; expected model_config_list { config { ... } }")
    return list(entries.values())


def _policy(policy: wire.ServableVersionPolicy) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return VersionPolicy(specific=frozenset(policy.specific.versions))
    if choice == "all":
        return VersionPolicy(latest=0)
    return VersionPolicy(latest=max(1, policy.latest.num_versions))


def _parse(text: str, into: _AnyMessage, name: str, *, secret: bool = False) -> _AnyMessage:
    try:
        return text_format.Parse(text, into)
    except text_format.ParseError as exc:
        # The parser quotes what it stumbled over, which may be a piece of a key.
        where = f"line {exc.GetLine()}, column {exc.GetColumn()}" if secret else str(exc)
        cause = None if secret else exc
        raise UsageError(f"Error parsing text-format tensorflow.serving.{name}: {where}") from cause
