"""Models at rest: encrypted for a key file, opened again, and given another key.

A key file holds 32 random bytes in base64, as the demo's manifests take them. It is made when it is missing, readable
for its owner alone; one that exists is used and never overwritten.
"""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from tacit.cli.model.files import (
    COPY_SIZE,
    file_error,
    file_size,
    load_file,
    make_folder,
    new_folder,
    refuse_existing,
    replacing,
    store_new,
)
from tacit.cli.model.progress import Advance
from tacit.errors import CapsuleIndexError, FileInputError, InputError, UsageError
from tacit.vault import KEY_SIZE, generate_key, parse_key
from tacit.vault.files import (
    CapsuleInfo,
    decrypt_ctr,
    encrypt_ctr,
    open_capsule,
    rekey_capsule,
    require_tmpfs,
    seal_folder,
)
from tacit.vault.plain import sha256_of

ENCRYPTED = Path("encrypted")  # the folder that the demo's scripts and volumes know
IV_SIZE = 16  # bytes
MODEL_SUFFIXES = (".onnx", ".pb", ".tflite", ".xml", ".bin")
MAX_KEY_FILE = 4096  # bytes
MAX_MODEL = 1 << 40  # bytes


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
    own_name, own_version = name_of(model)
    name, version = name or own_name, own_version if version is None else version
    target = out or ENCRYPTED / f"{name}.capsule"
    refuse_existing(target, force=force)
    with key_for(key_file) as (key, made):
        make_folder(target.parent)
        info = seal_folder(model, target, key, name=name, version=version, progress=progress)
        _let_read(target)
    return Encrypted(target, made, info)


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
    with key_for(key_file) as (key, made):
        make_folder(target.parent)
        encrypt_ctr(model, target, key, iv=os.urandom(IV_SIZE), progress=progress)
        _let_read(target)
    return Encrypted(target, made, None)


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


@contextmanager
def key_for(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The key in a file, or a new one in a new file that goes away again when the block fails; and whether it is new.

    Raises: FileInputError, VaultError.
    """
    if path.exists():
        yield load_key(path), False
        return
    key = generate_key()
    # No newline at the end: the demo puts the file's content into a manifest as it is.
    store_new(path, base64.b64encode(key), mode=0o600)
    try:
        yield key, True
    except BaseException:
        path.unlink(missing_ok=True)
        raise


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
    if out is not None:
        refuse_existing(out, force=force)
    old = load_key(old_key)
    target = out or capsule
    with key_for(new_key) as (new, made):
        if old == new:
            raise InputError(
                f"{new_key} holds the key that the capsule has already; name a new file to have a key made"
            )
        make_folder(target.parent)
        info = rekey_capsule(capsule, target, old, new, progress=progress)
        _let_read(target)
    return Encrypted(target, made, info)


def decrypt_capsule(capsule: Path, key_file: Path, folder: Path, *, on_disk: bool, progress: Advance) -> list[Path]:
    """Write the files of a capsule into a new folder on a tmpfs, or with `on_disk` anywhere, and give their paths.

    Raises: PlaintextError when the folder is on a disk, FileInputError, VaultError.
    """
    file_size(capsule, what="a capsule", largest=MAX_MODEL)
    refuse_existing(folder, force=False, flag="another --out")
    _check_target(folder, on_disk=on_disk)
    with open_capsule(capsule, load_key(key_file)) as opened, new_folder(folder, mode=0o700) as part:
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
    refuse_existing(target, force=False, flag="another --out")
    _check_target(target, on_disk=on_disk)
    key = load_key(key_file)
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


def _let_read(path: Path) -> None:
    """Ciphertext is for every reader: the server that is to open it often runs as another user."""
    try:
        path.chmod(0o644)
    except OSError as exc:
        raise file_error(path, exc) from exc


def _check_target(path: Path, *, on_disk: bool) -> None:
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not on_disk:
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
