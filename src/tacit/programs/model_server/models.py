"""What the program `tacit-serve` serves: names, places and keys, held to what the manifest says of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import ModelNotAllowedError, UsageError
from tacit.serving.batching import BatchRules
from tacit.serving.bundle import Bundle
from tacit.serving.repository import ModelConfig, VersionPolicy
from tacit.serving.sources import Access, Format, ModelRule, load_key, parse_rules
from tacit.serving.tfs.config import (
    MAX_CONFIG,
    ModelEntry,
    load_text,
    parse_base,
    parse_batching,
    parse_model_config,
)
from tacit.serving.tfs.flags import Flags
from tacit.wire.release import MODELS_ENV

OWN_BATCHING = "batching_params.pbtxt"

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger as Log


def configure_models(entries: Sequence[ModelEntry], flags: Flags, environ: Mapping[str, str]) -> list[ModelConfig]:
    """The models, each with what the manifest says of it.

    Raises:
        UsageError: a sealed model without a key, or a name that is none.
        ModelNotAllowedError: a model that the manifest does not name.
    """
    rules = parse_rules(environ[MODELS_ENV]) if MODELS_ENV in environ else None
    return [configure_model(entry, flags, environ, rules) for entry in entries]


def list_entries(flags: Flags) -> list[ModelEntry]:
    """Names and places of the models. Raises: UsageError."""
    if flags.text("model_config_file"):
        # An empty list is what a server starts with that is told its models by calls.
        return parse_model_config(load_text(Path(flags.text("model_config_file"))), may_be_empty=True)
    if not flags.text("model_base_path"):
        raise UsageError("Both server_options.model_base_path and server_options.model_config_file are empty!")
    name = flags.text("model_name")
    return [ModelEntry(name, parse_base(name, flags.text("model_base_path")), VersionPolicy(), {})]


def load_batching(flags: Flags) -> tuple[BatchRules | None, Callable[[Bundle], BatchRules | None] | None]:
    """How requests are joined, and what finds that among a version's files where each says it for itself.

    Raises:
        UsageError: rules without batching, or rules that contradict themselves.
    """
    path, mixed = flags.text("batching_parameters_file"), flags.switch("batch_mixes_clients")
    if not flags.switch("enable_batching"):
        if path:
            raise UsageError("--batching_parameters_file needs --enable_batching")
        return None, None
    rules = parse_batching(load_text(Path(path)) if path else "", mix_clients=mixed)
    if not flags.switch("enable_per_model_batching_parameters"):
        return rules, None

    def own(bundle: Bundle) -> BatchRules | None:
        if OWN_BATCHING not in bundle.names:
            return None
        if bundle.size(OWN_BATCHING) > MAX_CONFIG:
            raise UsageError(f"{OWN_BATCHING} is larger than {MAX_CONFIG} bytes; that is no configuration file")
        return parse_batching(bytes(bundle.read(OWN_BATCHING)).decode("utf-8", "replace"), mix_clients=mixed)

    return rules, own


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
