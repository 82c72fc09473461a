"""What is decided at activation, without touching anything: settings, request, response, environment, command.

The protocol is MarbleRun's. Two things differ on purpose. An attested command starts from an almost empty environment:
what the host set (LD_PRELOAD, PYTHONPATH, SSL_CERT_FILE, proxies) cannot reach it, what the manifest gives does. And
model keys, which come as files below `/tacit/keys/`, go into memory wherever it is, never to that path.
"""

import ipaddress
import re
import uuid as uuids
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cryptography import x509
from google.protobuf.message import DecodeError

from tacit.errors import ActivationError, InputError, UsageError
from tacit.evidence import Tee
from tacit.pki.keys import CERTIFICATE_ERRORS
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse
from tacit.wire.release import KEY_FOLDER

DEVICE_PATH = "/dev/attestation/"
"""Gramine's keys; they open its encrypted files, so they are placed before all else."""

CHAIN_VARIABLE = "MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN"
TTLS_VARIABLE = "MARBLE_TTLS_CONFIG"
UNATTESTED = "unattested"
DECRYPT_VARIABLE, MODEL_VARIABLE = "EDG_DECRYPT_MODEL", "TACIT_ENCRYPTED_MODEL"
ENCRYPTED_MODEL = "/encrypted/saved_model.pb.encrypted"
"""Where the demo's encrypted model lies, unless something else is said."""
_BLANKS = " \t\r\n\0\ufeff"  # what editors and Windows put around a line, and what a power cut leaves of a block
_HEX = "[0-9a-fA-F]"
_PLAIN_UUID = f"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
_UUID = re.compile(rf"{_PLAIN_UUID}|\{{{_PLAIN_UUID}\}}|(?i:urn:uuid:){_PLAIN_UUID}|{_HEX}{{32}}")
_UUID_LENGTHS = {32, 36, 38, 45}

# What a command that is attested on a simulated platform takes over from the host: who it is in the mesh, and how text
# looks. Each is checked, because the C library opens files by the names in them.
_KEPT = {
    "EDG_MARBLE_COORDINATOR_ADDR": re.compile(r"[\w.:\[\]-]+"),
    "EDG_MARBLE_TYPE": re.compile(r"[^\0]+"),
    "EDG_MARBLE_DNS_NAMES": re.compile(r"[\w.:,*-]+"),
    "EDG_MARBLE_UUID_FILE": re.compile(r"[^\0]+"),
    "EDG_UUID_FILE": re.compile(r"[^\0]+"),
    "LANG": re.compile(r"[A-Za-z0-9_.@-]+"),
    "LC_ALL": re.compile(r"[A-Za-z0-9_.@-]+"),
    "LC_CTYPE": re.compile(r"[A-Za-z0-9_.@-]+"),
    "TERM": re.compile(r"[A-Za-z0-9_.+-]+"),
    "TZ": re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*"),
}
_NAME = re.compile(r"(?=.{1,253}\Z)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says: where the coordinator is, what this marble is, and how long to wait (seconds).

    `bundle` and `services` (addresses by `intel` and `amd`) say where collateral comes from for a coordinator in a real TEE;
    `key_bound` that it is MarbleRun's own, which cannot bind its evidence to a connection.
    """

    coordinator: str
    coordinator_certificate: Path | None
    coordinator_package: Path | None
    coordinator_api: str | None
    trust_folder: Path
    marble_type: str
    names: tuple[str, ...]
    uuid_file: Path
    decrypt_model: bool
    encrypted_model: Path
    memory: Path
    patience: float
    bundle: Path | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    key_bound: bool = False


@dataclass(frozen=True, slots=True)
class Activation:
    """What the coordinator gave. `files` are by path as the manifest names it, `keys` by model; values stay silent.

    `mark` is the word that the coordinator put into the certificate (`SIMULATED`, `UNATTESTED`), empty if none.
    """

    files: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    env: Mapping[str, bytes] = field(repr=False)
    argv: tuple[str, ...]
    mark: str


def parse_settings(environ: Mapping[str, str], folder: Path) -> Settings:
    """The settings in `environ`; relative paths are below `folder`, as MarbleRun has it.

    Raises:
        UsageError: a variable is missing or cannot be used.
    """
    if not environ.get("EDG_MARBLE_TYPE"):
        raise UsageError("environment variable not set: EDG_MARBLE_TYPE")
    if not _is_utf8(environ["EDG_MARBLE_TYPE"]):
        raise UsageError(
            f"EDG_MARBLE_TYPE is {environ['EDG_MARBLE_TYPE']!r}, and no manifest has such a name: expected UTF-8"
        )
    folder = Path(environ.get("EDG_CWD") or folder)
    names = environ.get("EDG_MARBLE_DNS_NAMES") or "localhost"
    uuid_file = folder / (environ.get("EDG_MARBLE_UUID_FILE") or environ.get("EDG_UUID_FILE") or "uuid")
    trust_folder = environ.get("TACIT_TRUST_DIR") or f"{uuid_file}.trust"
    return Settings(
        coordinator=environ.get("EDG_MARBLE_COORDINATOR_ADDR") or "localhost:2001",
        coordinator_certificate=folder / known if (known := environ.get("TACIT_COORDINATOR_CERTIFICATE")) else None,
        coordinator_package=folder / package if (package := environ.get("TACIT_COORDINATOR_PACKAGE")) else None,
        coordinator_api=environ.get("TACIT_COORDINATOR_API") or None,
        trust_folder=folder / trust_folder,
        marble_type=environ["EDG_MARBLE_TYPE"],
        names=_parse_names(names),
        uuid_file=uuid_file,
        decrypt_model=environ.get(DECRYPT_VARIABLE) == "1",
        encrypted_model=Path(environ.get(MODEL_VARIABLE) or ENCRYPTED_MODEL),
        memory=Path(environ.get("TACIT_MEMORY_DIR") or "/dev/shm"),  # noqa: S108  # a tmpfs, and checked to be one
        patience=_parse_seconds(environ.get("TACIT_ACTIVATION_TIMEOUT") or "60"),
        bundle=folder / bundle if (bundle := environ.get("TACIT_COLLATERAL_BUNDLE")) else None,
        services={
            maker: address
            for maker, variable in (("intel", "TACIT_PCCS"), ("amd", "TACIT_KDS"))
            if (address := environ.get(variable))
        },
        key_bound=environ.get("TACIT_COORDINATOR_KEY_BOUND") == "1",
    )


def parse_uuid(text: str) -> str:
    """The marble's id in its canonical form. It is kept in that form, in braces, as a URN or as 32 digits.

    A line end or blanks that an editor put around it are passed over.

    Raises:
        InputError: anything else.
    """
    text = text.strip(_BLANKS)
    if len(text) not in _UUID_LENGTHS:
        raise InputError(f"failed to unmarshal UUID: invalid UUID length: {len(text)}")
    if not _UUID.fullmatch(text):
        raise InputError("failed to unmarshal UUID: invalid UUID format")
    return str(uuids.UUID(text.lower()))


def is_cut_uuid(text: str) -> bool:
    """Whether `text` is the beginning of an id, and no more: a start that was interrupted left it, before it was used."""
    text = text.strip(_BLANKS)
    return len(text) < 36 and all(
        one == "-" if at in {8, 13, 18, 23} else one in "0123456789abcdefABCDEF" for at, one in enumerate(text)
    )


def make_uuid(randomness: bytes) -> str:
    """A new id (version 4) from 16 random bytes."""
    return str(uuids.UUID(bytes=randomness, version=4))


def build_request(*, evidence: bytes, csr: bytes, marble_type: str, uuid: str) -> bytes:
    """The message that asks for activation; `evidence` is empty where there is no TEE, `csr` is DER."""
    return ActivationRequest(quote=evidence, csr=csr, marble_type=marble_type, uuid=uuid).SerializeToString()


def parse_response(raw: bytes) -> Activation:
    """What the coordinator gave, checked: names that no file, variable or argument can have are refused.

    Raises:
        ActivationError: not a response, or one that cannot be carried out.
    """
    try:
        parameters = ActivationResponse.FromString(raw).parameters
    except DecodeError as exc:
        raise ActivationError("the coordinator's answer is not an activation response") from exc
    env = {name: _check_variable(name, value) for name, value in parameters.env.items()}
    if TTLS_VARIABLE in env:
        raise ActivationError("TTLS configured, but Marble runtime doesn't support TTLS")
    files = {_check_path(path): content for path, content in parameters.files.items()}
    for argument in parameters.argv:
        if "\0" in argument:
            raise ActivationError("an argument in the manifest's Argv contains a null character")
    return Activation(
        files=_devices_first({path: content for path, content in files.items() if not path.startswith(KEY_FOLDER)}),
        keys={_check_key_name(path): content for path, content in files.items() if path.startswith(KEY_FOLDER)},
        env=env,
        argv=tuple(parameters.argv),
        mark=_mark(env.get(CHAIN_VARIABLE, b"")),
    )


def appraised_tee(own: str, activation: Activation) -> str:
    """The TEE in which the command runs as far as anybody checked: `own`, or `unattested`.

    A coordinator in unattested mode ignores evidence and says so in the certificate; then nothing was appraised.
    """
    return UNATTESTED if activation.mark.lower() == UNATTESTED else own


def compose_environment(
    activation: Activation,
    inherited: Mapping[str, str],
    *,
    tee: str,
    programs: Path,
    memory: Path,
) -> dict[bytes, bytes]:
    """The command's environment.

    Attested, it holds a fixed PATH (`programs` and the system's), a HOME in `memory` (a checked tmpfs) and what the
    manifest gives; on a simulated platform also the few variables of the host that are listed above. Unattested, the
    manifest's variables are set over the host's, as MarbleRun does.
    """
    if tee == UNATTESTED:
        composed = {_bytes(name): _bytes(value) for name, value in inherited.items()}
    else:
        allowed = _KEPT if Tee(tee).is_simulated else {}
        kept = {name: inherited[name] for name, form in allowed.items() if form.fullmatch(inherited.get(name, ""))}
        kept |= {"PATH": f"{programs}:{_SYSTEM_PATH}", "HOME": str(memory / "home")}
        composed = {_bytes(name): _bytes(value) for name, value in kept.items()}
    composed |= {_bytes(name): value for name, value in activation.env.items()}
    # Last: neither host nor manifest may tell the server that it runs in another TEE than was appraised.
    composed[b"TACIT_TEE"] = _bytes(tee)
    if activation.keys:
        composed[b"TACIT_KEY_DIR"] = _bytes(str(memory / "keys"))
    else:
        composed.pop(b"TACIT_KEY_DIR", None)
    return composed


def choose_command(activation: Activation, command: Sequence[str], *, tee: str) -> tuple[str, ...]:
    """The manifest's Argv; without one the command line; without both `./marble`, as MarbleRun has it.

    Raises:
        ActivationError: attested, and the command line would choose the program that gets the manifest's secrets.
    """
    if command and not activation.argv and tee != UNATTESTED:
        raise ActivationError(
            f"the manifest names no command, and {command[0]!r} of the command line is the host's choice, which nobody "
            "attested: write it into the marble's Parameters.Argv"
        )
    return activation.argv or tuple(command) or ("./marble",)


def find_base_path(argv: Sequence[str]) -> Path:
    """The folder that `--model_base_path` names, in either spelling.

    Raises:
        UsageError: the flag is missing.
    """
    for position, argument in enumerate(argv):
        flag, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or flag != "model_base_path":
            continue
        if equals and value:
            return Path(value)
        if not equals and position + 1 < len(argv):
            return Path(argv[position + 1])
    raise UsageError("missing required flag [--model_base_path]")


def choose_encrypted(settings: Settings, activation: Activation, *, tee: str) -> Path | None:
    """The demo's encrypted model, where it is to be opened for the command; None where it is not.

    Attested, the manifest's Env alone says so: else whoever runs the host would choose the model, its key and the
    server's arguments.
    """
    said = {
        name: activation.env.get(name, b"").decode("utf-8", "surrogateescape")
        for name in (DECRYPT_VARIABLE, MODEL_VARIABLE)
    }
    if tee != UNATTESTED:
        return Path(said[MODEL_VARIABLE] or ENCRYPTED_MODEL) if said[DECRYPT_VARIABLE] == "1" else None
    return settings.encrypted_model if said[DECRYPT_VARIABLE] == "1" or settings.decrypt_model else None


def open_encrypted(argv: tuple[str, ...], model: Path, key: Path) -> tuple[str, ...]:
    """The arguments with which `tacit-serve` opens the demo's encrypted model itself, so that no plaintext is written.

    Arguments that say the format already are left as they are.
    """
    if any(argument.lstrip("-").partition("=")[0] == "model_format" for argument in argv):
        return argv
    form = "capsule" if model.suffix == ".capsule" else "ctr"
    # The last of several equal flags counts.
    return (*argv, f"--model_base_path={model}", f"--model_format={form}", f"--model_key_file={key}")


def _is_utf8(text: str) -> bool:
    """Whether it is text, and no bytes that the system could not read as such."""
    return text.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in text)


def _parse_names(text: str) -> tuple[str, ...]:
    """Names and addresses for the certificate. Raises: UsageError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    wrong = next((name for name in names if not (_NAME.fullmatch(name) or _is_address(name))), None)
    if wrong is not None or not names:
        raise UsageError(
            f"EDG_MARBLE_DNS_NAMES is {text!r}, and {wrong or text!r} is neither a DNS name nor an IP address; expected names "
            "with commas between"
        )
    return names


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise UsageError(f"TACIT_ACTIVATION_TIMEOUT is {text!r}; expected seconds, from 0 to 86400")
    return seconds


def _check_variable(name: str, value: bytes) -> bytes:
    if not name or "=" in name or "\0" in name:
        raise ActivationError(f"{name!r} in the manifest's Env is no name for an environment variable")
    if b"\0" in value:
        raise ActivationError(f"the value of {name} in the manifest's Env contains a null character")
    return value


def _check_path(path: str) -> str:
    if not path or "\0" in path or path.endswith(("/", "/..", "/.")) or path in {".", ".."}:
        raise ActivationError(f"{path!r} in the manifest's Files is no path of a file")
    return path


def _check_key_name(path: str) -> str:
    """The model that a key belongs to: one plain name, so that no key leaves its folder."""
    name = path.removeprefix(KEY_FOLDER)
    if name in {"", ".", ".."} or "/" in name:
        raise ActivationError(f"{path!r} is no place for a model key: expected {KEY_FOLDER}MODEL")
    return name


def _devices_first(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return dict(sorted(files.items(), key=lambda item: not str(PurePosixPath(item[0])).startswith(DEVICE_PATH)))


def _mark(chain_pem: bytes) -> str:
    """The coordinator's mark in the leaf's subject (its organisational unit); empty for MarbleRun's."""
    if not chain_pem:
        return ""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        units = leaf.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)
    except CERTIFICATE_ERRORS as exc:
        raise ActivationError("the coordinator's answer holds a certificate chain that cannot be read") from exc
    # A request may bring a unit of its own ahead of the mark, so each is looked at; the weakest word counts.
    marks = [str(unit.value) for unit in units]
    return next((mark for mark in marks if mark.lower() == UNATTESTED), marks[-1] if marks else "")


def _bytes(text: str) -> bytes:
    """As the operating system takes it: what came undecodable from the environment goes on unchanged."""
    return text.encode("utf-8", "surrogateescape")
