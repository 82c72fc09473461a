"""Models at rest: encrypted for a key file, opened again, and given another key.

A key file holds 32 random bytes in base64, as the demo's manifests take them. It is made when it is missing, readable
for its owner alone; one that exists is used, and never overwritten or taken away. A new one is on the disk before
anything that it opens has its name, so that an end at any moment leaves no capsule without its key.
"""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath

from tacit.cli.model.files import (
    COPY_SIZE,
    check_writable,
    file_error,
    file_size,
    load_file,
    make_folder,
    new_folder,
    refuse_existing,
    refuse_inside,
    refuse_same,
    refuse_taken,
    replacing,
    store_new,
)
from tacit.cli.model.parts import list_model, main_file
from tacit.cli.model.progress import Advance
from tacit.errors import CapsuleFormatError, CapsuleIndexError, FileInputError, InputError, UsageError, VaultError
from tacit.vault import KEY_SIZE, generate_key, layout, parse_key
from tacit.vault.files import (
    CapsuleInfo,
    Placing,
    decrypt_ctr,
    encrypt_ctr,
    open_capsule,
    rekey_capsule,
    require_tmpfs,
    seal_files,
)
from tacit.vault.layout import MAGIC
from tacit.vault.plain import sha256_of

ENCRYPTED = Path("encrypted")  # the folder that the demo's scripts and volumes know
IV_SIZE = 16  # bytes
MODEL_SUFFIXES = (".onnx", ".pb", ".tflite", ".xml", ".bin")
MAX_KEY_FILE = 4096  # bytes
MAX_MODEL = 1 << 40  # bytes
_READABLE = 0o644  # ciphertext is for every reader: the server that is to open it often runs as another user


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What was written, whether the key was made for it, and for a capsule what a manifest has to say about it."""

    path: Path
    key_was_made: bool
    info: CapsuleInfo | None


def encrypt_capsule(
    model: Path,
    key_file: Path,
    *,
    out: Path | None,
    name: str | None,
    version: int | None,
    force: bool,
    progress: Advance,
) -> Encrypted:
    """Encrypt a file or a folder into a capsule, by default `encrypted/NAME.capsule`.

    Raises: FileInputError, InputError, VaultError.
    """
    check_model(model)
    own_name, own_version = name_of(main_file(model))
    name, version = own_name if name is None else name, own_version if version is None else version
    layout.check_model(name, version)
    if out is None and "/" in name:
        raise InputError(f"{name!r} has a '/' in it, so it names no file in {ENCRYPTED}; name one with --out")
    target = out or ENCRYPTED / f"{name}.capsule"
    refuse_existing(target, force=force)
    _keep_apart(target, model, key_file)
    key = key_for(key_file)
    sources = list_model(model)
    make_folder(target.parent)
    placing = _placing(target, key, force=force)
    info = seal_files(sources, target, key.content, name=name, version=version, placing=placing, progress=progress)
    return Encrypted(target, key.is_new, info)


def encrypt_legacy(model: Path, key_file: Path, *, out: Path | None, force: bool, progress: Advance) -> Encrypted:
    """Encrypt a file in the demo's format: AES-256-CTR, nothing authenticated, `encrypted/FILE.encrypted`.

    Raises: FileInputError, VaultError.
    """
    if model.is_dir():
        raise InputError(
            f"{model}: the ctr format holds one file; name the file in it, or leave --format out for a capsule"
        )
    file_size(model, what="a model", largest=MAX_MODEL)
    target = out or ENCRYPTED / f"{model.name}.encrypted"
    refuse_existing(target, force=force)
    _keep_apart(target, model, key_file)
    key = key_for(key_file)
    make_folder(target.parent)
    placing = _placing(target, key, force=force)
    encrypt_ctr(model, target, key.content, iv=os.urandom(IV_SIZE), placing=placing, progress=progress)
    return Encrypted(target, key.is_new, None)


def _keep_apart(target: Path, model: Path, key_file: Path) -> None:
    """Refuse an output that would replace what is read, or be read the next time. Raises: FileInputError."""
    refuse_same(target, {"the key": key_file, "the model": model})
    if model.is_dir():
        refuse_inside(key_file, model, what="the key")
        refuse_inside(target, model, what="the output")


def _placing(target: Path, key: "ModelKey", *, force: bool) -> Placing:
    """A new key first; and nothing is replaced that another command wrote meanwhile."""

    def before() -> None:
        refuse_existing(target, force=force)
        key.store()

    return Placing(_READABLE, before)


def name_of(model: Path) -> tuple[str, int]:
    """The name and version that a model's path suggests.

    `models/digits/3/saved_model.pb`, `models/digits/3` → (`digits`, 3); `digits.onnx`, `digits/saved_model.pb` → (`digits`, 1).
    """
    path = model.resolve()
    if path.name == "saved_model.pb":
        path = path.parent
    elif path.is_file():
        return path.stem, 1
    if path.name.isascii() and path.name.isdigit() and path.parent.name:
        return path.parent.name, int(path.name)
    return path.name or "model", 1


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A key, the file that it is in or belongs into, and whether it is new."""

    path: Path
    is_new: bool
    content: bytes = field(repr=False)

    def store(self) -> None:
        """Have a new key on the disk, in a new file; another stays as it is. Raises: FileInputError."""
        if not self.is_new:
            return
        try:
            # No newline at the end: the demo puts the file's content into a manifest as it is.
            store_new(self.path, base64.b64encode(self.content), mode=0o600)
        except FileInputError as exc:
            if isinstance(exc.__cause__, FileExistsError):
                raise FileInputError(
                    f"{self.path} was made by another command meanwhile; run this one again, and it uses that key"
                ) from exc
            raise


def key_for(path: Path) -> ModelKey:
    """The key in a file, or a new one for a file that can be written there and is not there yet.

    Raises: FileInputError, InputError.
    """
    if os.path.lexists(path):
        return ModelKey(path, is_new=False, content=load_key(path))
    check_writable(path.parent)
    return ModelKey(path, is_new=True, content=generate_key())


def load_key(path: Path) -> bytes:
    """The 32 bytes of a key file, raw or base64. Raises: FileInputError, InputError."""
    raw = load_file(path, what=f"a key of {KEY_SIZE} bytes", largest=MAX_KEY_FILE)
    try:
        return parse_key(raw)
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc


def rekey(
    capsule: Path, old_key: Path, new_key: Path, *, out: Path | None, force: bool, progress: Advance
) -> Encrypted:
    """Give a capsule another key, in its place or in `out`, without its plaintext touching a disk.

    Raises: FileInputError, VaultError.
    """
    file_size(capsule, what="a capsule", largest=MAX_MODEL)
    target = out or capsule
    force = force or out is None
    refuse_existing(target, force=force)
    refuse_same(target, {"the old key": old_key, "the new key": new_key})
    old, new = load_key(old_key), key_for(new_key)
    if old == new.content:
        raise InputError(f"{new_key} holds the key that the capsule has already; name a new file to have a key made")
    make_folder(target.parent)
    with naming(capsule):
        placing = _placing(target, new, force=force)
        info = rekey_capsule(capsule, target, old, new.content, placing=placing, progress=progress)
    return Encrypted(target, new.is_new, info)


def decrypt_capsule(capsule: Path, key_file: Path, folder: Path, *, on_disk: bool, progress: Advance) -> list[Path]:
    """Write the files of a capsule into a new folder on a tmpfs, or with `on_disk` anywhere, and give their paths.

    Raises: PlaintextError when the folder is on a disk, FileInputError, VaultError.
    """
    file_size(capsule, what="a capsule", largest=MAX_MODEL)
    refuse_taken(folder)
    _check_target(folder, on_disk=on_disk)
    key = load_key(key_file)
    with naming(capsule), open_capsule(capsule, key) as opened, new_folder(folder, mode=0o700) as part:
        total, done = sum(file.size for file in opened.info.files), 0
        for file in opened.info.files:
            place = part / _inside(file.name)
            make_folder(place.parent)
            with opened.open(file.name) as source, place.open("wb") as out:
                while chunk := source.read(COPY_SIZE):
                    out.write(chunk)
                    done += len(chunk)
                    progress(done, total)
        names = [file.name for file in opened.info.files]
    return [folder / name for name in names]


def decrypt_legacy(encrypted: Path, key_file: Path, target: Path, *, on_disk: bool) -> list[Path]:
    """Write the plaintext of a file in the demo's format to a tmpfs, or with `on_disk` anywhere.

    Nothing tells a wrong key or a changed file: the format has no authentication. Raises: as `decrypt_capsule`.
    """
    file_size(encrypted, what="a file in the ctr format", largest=MAX_MODEL)
    refuse_taken(target)
    _check_target(target, on_disk=on_disk)
    key = load_key(key_file)
    with _reading(encrypted) as source:
        if source.peek(len(MAGIC)).startswith(MAGIC):
            raise InputError(f"{encrypted} is a capsule; leave --format out")
    with _reading(encrypted) as source, replacing(target, mode=0o600) as out:
        for chunk in decrypt_ctr(source, key):
            out.write(chunk)
    return [target]


@contextmanager
def _reading(path: Path) -> Iterator[BufferedReader]:
    try:
        stream = path.open("rb")
    except OSError as exc:
        raise file_error(path, exc) from exc
    with stream:
        yield stream


@contextmanager
def naming(capsule: Path) -> Iterator[None]:
    """Say of which file a refusal is. Raises: VaultError."""
    try:
        yield
    except VaultError as exc:
        legacy = isinstance(exc, CapsuleFormatError) and capsule.suffix == ".encrypted"
        advice = "; a file of the demo's format wants --format ctr" if legacy else ""
        raise type(exc)(f"{capsule}: {exc}{advice}") from exc


def _check_target(path: Path, *, on_disk: bool) -> None:
    if on_disk:
        return
    parent = Path(
        os.path.realpath(path)
    ).parent  # where it really leads: `..` behind a folder that is not there yet climbs too
    while not parent.exists():
        parent = parent.parent
    require_tmpfs(parent)


def _inside(name: str) -> PurePosixPath:
    """The name as a path that stays below its folder, whatever the capsule says."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise CapsuleIndexError(
            f"the capsule holds a file named {name!r}, which would leave its folder; nothing was written"
        )
    return path


def digest_of(path: Path) -> bytes:
    """SHA-256 of a file: the id by which a manifest names one in the ctr format. Raises: FileInputError."""
    with _reading(path) as stream:
        return sha256_of(stream)


def check_model(model: Path) -> None:
    """Refuse what is no model, and a folder of versions instead of one. Raises: FileInputError, UsageError."""
    if not model.is_dir():
        file_size(model, what="a model", largest=MAX_MODEL)
        return
    try:
        entries = sorted(entry.name for entry in model.iterdir())
    except OSError as exc:
        raise file_error(model, exc) from exc
    if not entries:
        raise FileInputError(f"{model}: the folder is empty; a model was expected")
    versions = [name for name in entries if name.isascii() and name.isdigit() and (model / name).is_dir()]
    if versions:
        raise UsageError(
            f"{model} holds versions ({', '.join(versions[:5])}); name one of them, such as {model / versions[-1]}"
        )
