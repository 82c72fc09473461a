"""What lies in the operator's storage, and how it is opened.

A base path holds versions, each a child whose whole name is a number:

    plain     BASE/N/ with the model's files; or the base path is itself a .onnx, .pb, .tflite or .xml file
    capsule   BASE/N/*.capsule or BASE/N.capsule; or the base path is itself a .capsule (its own version)
    ctr       BASE/N/*.encrypted or BASE/N.encrypted; or the base path is itself a .encrypted (version 1)

Which of the three it is was said by the manifest or by a flag. It is never tried out: a fallback would let whoever
owns the storage choose the weakest.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import msgspec

from tacit.errors import FileInputError, InputError, ModelNotAllowedError, TacitError, UsageError
from tacit.serving.bundle import Bundle, FolderBundle, MemoryBundle
from tacit.vault import Capsule, CapsuleInfo, decrypt_ctr, open_capsule, parse_key
from tacit.vault.files import list_plain_files
from tacit.vault.plain import plain_id
from tacit.wire import release

_MAX_KEY_FILE = 4096
_PLAIN_SUFFIXES = (".onnx", ".pb", ".tflite", ".xml")


class Format(StrEnum):
    """How a model lies in the storage."""

    CAPSULE = "capsule"
    CTR = "ctr"
    PLAIN = "plain"


_SUFFIXES = {Format.CAPSULE: (".capsule",), Format.CTR: (".encrypted",), Format.PLAIN: _PLAIN_SUFFIXES}


@dataclass(frozen=True, slots=True)
class ModelRule:
    """What the manifest allows a model to be. `id` is 32 bytes, or empty where the manifest names none."""

    format: Format
    id: bytes = b""
    min_version: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """One version in the storage. `stamp`, once it is taken (`stamped`), differs whenever a file of it was changed.

    `twins` are the names that say the same number, and are passed over: 5 and 005.
    """

    version: int
    path: Path
    twins: tuple[str, ...] = ()
    stamp: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """How the versions of one model are opened: their format, what the manifest says of them, and their key."""

    model: str
    format: Format
    rule: ModelRule | None = None
    key: bytes = field(default=b"", repr=False)


def parse_rules(text: str) -> Mapping[str, ModelRule]:
    """The manifest's rules by model name, from the environment that activation made.

    Raises:
        UsageError: not the JSON that a coordinator writes.
    """
    try:
        wire = msgspec.json.decode(text, type=dict[str, release.ModelRule])
        return {
            name: ModelRule(Format(rule.format), bytes.fromhex(rule.id), rule.min_version)
            for name, rule in wire.items()
        }
    except (msgspec.DecodeError, ValueError) as exc:
        raise UsageError(f"{release.MODELS_ENV} is not what a coordinator writes: {exc}") from exc


def load_key(path: Path) -> bytes:
    """A model's key from a file: 32 bytes, or their base64.

    Raises:
        FileInputError: no such file, or too large to be a key.
        InputError: not a key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_FILE + 1)
    except OSError as exc:
        raise FileInputError(f"cannot read the model's key {path}: {exc.strerror}") from exc
    if len(text) > _MAX_KEY_FILE:
        raise FileInputError(f"{path} is larger than a key can be; expected 32 bytes or their base64")
    try:
        return parse_key(text)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc


def list_sources(base: Path, access: Access) -> list[Source]:
    """The versions in the storage, highest first; empty while none has arrived.

    Raises:
        FileInputError: the base path cannot be listed, though it is there.
    """
    suffixes = _SUFFIXES[access.format]
    try:
        if base.suffix in suffixes:
            return [Source(_file_version(base, access), base)] if base.is_file() else []
        if base.is_file():
            expected = " or ".join(suffixes)
            raise FileInputError(f"{base} is a file and no {access.format} model; expected {expected}, or a folder")
        if not base.is_dir():
            return []
        found: dict[int, Source] = {}
        names: dict[int, list[str]] = {}
        with os.scandir(base) as children:  # it knows of most what they are, and there may be thousands
            listed = sorted(children, key=lambda child: child.name)
        for child in listed:
            if source := _child(child, access.format, suffixes):
                # Of several names of a number TensorFlow Serving takes the last: 5, and not 005.
                twins = names.setdefault(source.version, [])
                found[source.version] = replace(source, twins=tuple(twins))
                twins.append(child.name)
    except OSError as exc:
        raise FileInputError(f"cannot list {exc.filename or base}: {exc.strerror}") from exc
    return sorted(found.values(), key=lambda source: source.version, reverse=True)


def stamped(source: Source) -> Source:
    """It with its stamp of now; with none where its files cannot be read, which opening them will tell.

    Of the many versions that may lie in a storage few are loaded, and what is loaded needs no look: so this is no part
    of listing them.
    """
    try:
        return replace(source, stamp=_stamp(source.path))
    except (OSError, TacitError):
        return replace(source, stamp=())


def explain_none(base: Path, access: Access) -> str:
    """Why a base path has no version, and what to do: most often the model lies in it without a version's folder."""
    suffixes = _SUFFIXES[access.format]
    if base.suffix in suffixes or not base.exists():
        return "there is no such path"
    try:
        astray = sorted(child.name for child in base.iterdir() if _is_model(child, suffixes) and child.is_file())
    except OSError:
        astray = []
    if astray:
        return f"{astray[0]} lies in it directly; put it into a folder whose name is its version's number, as {base}/1/"
    return f"expected a folder whose name is a version's number, as {base}/1/, with the model in it"


def open_source(source: Source, access: Access) -> Bundle:
    """The files of a version, checked against the manifest's rule where there is one.

    Raises:
        ModelNotAllowedError: authentic perhaps, but not what the manifest allows.
        VaultError: the key does not fit, or the file was altered.
        FileInputError: it cannot be read.
    """
    try:
        if access.format is Format.CAPSULE:
            return _open_capsule(source, access)
        if access.format is Format.CTR:
            return _open_ctr(source, access)
        return _open_plain(source, access)
    except OSError as exc:
        raise FileInputError(f"cannot read {exc.filename or source.path}: {exc.strerror}") from exc


def reopen_source(source: Source, access: Access) -> Bundle:
    """The files of a version that was opened before. Raises: FileInputError when they have changed since; as above."""
    try:
        found = _stamp(source.path)
    except OSError as exc:
        raise FileInputError(f"cannot read {exc.filename or source.path}: {exc.strerror}") from exc
    if found != source.stamp:
        raise FileInputError(
            f"{source.path} has changed since it was loaded; put back what was there, or give what is new a higher version"
        )
    return open_source(source, access)


# ---- listing


def _child(child: os.DirEntry[str], storage: Format, suffixes: Sequence[str]) -> Source | None:
    stem, dot, ending = child.name.rpartition(".")
    if storage is not Format.PLAIN and dot + ending in suffixes and _is_number(stem):
        return Source(int(stem), Path(child.path))
    if not _is_number(child.name) or not child.is_dir():
        return None
    if storage is Format.PLAIN:
        return Source(int(child.name), Path(child.path))
    files = [file for file in sorted(Path(child.path).iterdir()) if _is_model(file, suffixes)]
    return Source(int(child.name), files[0]) if files else None


def _is_model(file: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file has a model's name; hidden ones are what archives and editors leave beside it."""
    return file.suffix in suffixes and not file.name.startswith(".")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) < 2**63


def _file_version(base: Path, access: Access) -> int:
    """The version of a base path that is a single file: a capsule knows its own."""
    if access.format is not Format.CAPSULE:
        return 1
    try:
        with open_capsule(base, access.key) as capsule:
            return capsule.info.version
    except TacitError:
        return 1  # opening it to load it will fail again, and be reported with its reason


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    entries = []
    folder, names = list_plain_files(path) if path.is_dir() else (path.parent, (path.name,))
    for file in (folder / name for name in names):
        state = file.stat()
        entries.append((str(file), state.st_size, state.st_mtime_ns))
    return tuple(entries)


# ---- opening


@dataclass(frozen=True, slots=True)
class CapsuleBundle:
    """An open capsule: each content is verified as it is read."""

    capsule: Capsule
    place: None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Relative names."""
        return tuple(file.name for file in self.capsule.info.files)

    def read(self, name: str) -> memoryview:
        """One file's content."""
        return self.capsule.read(name)

    def size(self, name: str) -> int:
        """One file's size in bytes."""
        return next(file.size for file in self.capsule.info.files if file.name == name)

    def read_into(self, name: str, target: memoryview) -> None:
        """One file's content into memory of its size."""
        self.capsule.read_into(name, target)

    def close(self) -> None:
        """Close the file below."""
        self.capsule.close()


def _open_capsule(source: Source, access: Access) -> Bundle:
    capsule = open_capsule(source.path, access.key)
    try:
        _check_capsule(capsule.info, source, access)
    except ModelNotAllowedError:
        capsule.close()
        raise
    return CapsuleBundle(capsule)


def _check_capsule(info: CapsuleInfo, source: Source, access: Access) -> None:
    rule = access.rule
    if info.version != source.version:
        raise ModelNotAllowedError(
            f"{source.path} is called version {source.version} but was sealed as version {info.version}; "
            "a capsule serves only as the version that its owner gave it"
        )
    if rule:
        _check_id(access.model, rule, info.id)
        _check_version(access.model, rule, info.version)
        if not rule.id and info.name != access.model:
            raise ModelNotAllowedError(
                f"{source.path} was sealed as model {info.name!r}, not {access.model!r}; "
                'seal it under that name, or give its id in the manifest ("ID")'
            )


def _open_ctr(source: Source, access: Access) -> Bundle:
    # Read once: what is hashed is what is decrypted.
    sealed = source.path.read_bytes()
    if access.rule:
        _check_id(access.model, access.rule, hashlib.sha256(sealed).digest())
        _check_version(access.model, access.rule, source.version)
    return MemoryBundle({source.path.name.removesuffix(".encrypted"): b"".join(decrypt_ctr(sealed, access.key))})


def _open_plain(source: Source, access: Access) -> Bundle:
    bundle = FolderBundle(*list_plain_files(source.path))
    if access.rule is None:
        return bundle
    # Under a rule the storage is the operator's: everything is read once, and only what was hashed is loaded.
    held = MemoryBundle({name: bundle.read(name) for name in bundle.names})
    digests = {name: hashlib.sha256(held.read(name)).digest() for name in held.names}
    _check_id(access.model, access.rule, plain_id(digests))
    _check_version(access.model, access.rule, source.version)
    return held


def _check_id(model: str, rule: ModelRule, found: bytes) -> None:
    if rule.id and rule.id != found:
        raise ModelNotAllowedError(
            f"the manifest allows model {model} with id {rule.id.hex()}, the storage holds {found.hex()}; "
            "put back the allowed one, or update the manifest"
        )


def _check_version(model: str, rule: ModelRule, found: int) -> None:
    if found < rule.min_version:
        raise ModelNotAllowedError(
            f"the manifest allows model {model} from version {rule.min_version}, the storage holds version {found}"
        )
