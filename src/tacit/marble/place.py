"""Puts files where the manifest wants them, keys and models only where memory is; `write` says how a file is written."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from tacit.errors import FileInputError, InputError, ManifestError, PlaintextError
from tacit.manifest.codec import parse_package
from tacit.manifest.model import Package
from tacit.marble.activate import DEVICE_PATH, is_cut_uuid, parse_uuid
from tacit.marble.write import KEY_FOLDERS, check_links, make_folders, store_file
from tacit.pki.keys import CERTIFICATE_ERRORS
from tacit.vault import decrypt_ctr, open_capsule, parse_key, require_tmpfs

Say = Callable[[str], None]

RETRY_SECONDS = 10.0  # as the original's decryption step waits for the encrypted model
_MAX_KEY_FILE = 4096  # bytes
_MAX_CERTIFICATES = 1 << 20  # bytes
_MAX_PACKAGE = 1 << 16  # bytes
_PIECE = 1 << 20  # bytes
_MAX_UUID_FILE = 64  # bytes; a longer one is not a uuid


def load_or_store_uuid(path: Path, new: str, say: Say) -> tuple[str, bool]:
    """The id kept in `path`, or `new` written there (0600, no line end), and whether it was kept.

    A file that holds the beginning of an id alone is what an interrupted start left; it is said and replaced. Anything
    else that is no id is a person's mistake, and replacing it could lose the id that this marble's secrets hang on.

    Raises:
        InputError: the file holds something else.
        FileInputError: it can neither be read nor written.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_UUID_FILE).decode("utf-8", "replace")
    except FileNotFoundError:
        _store_uuid(path, new)
        return new, False
    except OSError as exc:
        raise FileInputError(
            f"cannot read the marble's id from {path}: {exc.strerror}; EDG_MARBLE_UUID_FILE names it"
        ) from exc
    if is_cut_uuid(text):
        say(f"warning: {path} holds {len(text.strip())} of an id's 36 characters; a new id takes its place")
        _store_uuid(path, new)
        return new, False
    try:
        return parse_uuid(text), True
    except InputError as exc:
        raise InputError(
            f"{exc}; {path} should hold 36 characters, as EDG_MARBLE_UUID_FILE names it. Without that file this "
            "marble gets a new id, and other secrets of its own"
        ) from exc


def _store_uuid(path: Path, new: str) -> None:
    """Raises: FileInputError."""
    try:
        store_file(path, new.encode())
    except FileInputError as exc:
        raise FileInputError(
            f"{exc}; the marble's id is kept there, and EDG_MARBLE_UUID_FILE names another file"
        ) from exc


def load_certificates(path: Path) -> bytes:
    """The certificates (PEM) in a file. Raises: FileInputError."""
    source = "TACIT_COORDINATOR_CERTIFICATE names it, and `tacit certificate intermediate` writes it"
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_CERTIFICATES)
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}; {source}") from exc
    try:
        x509.load_pem_x509_certificates(raw)
    except CERTIFICATE_ERRORS as exc:
        raise FileInputError(f"{path} holds no certificate in PEM that can be read; {source}") from exc
    return raw


def load_package(path: Path) -> Package:
    """The package in a file. Raises: FileInputError, with every defect in one line."""
    source = "TACIT_COORDINATOR_PACKAGE names it, and `tacit package-info coordinator --output json` writes it"
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_PACKAGE + 1)
    except OSError as exc:
        raise FileInputError(f"cannot read {path}: {exc.strerror}; {source}") from exc
    if len(raw) > _MAX_PACKAGE:
        raise FileInputError(f"{path} has more than {_MAX_PACKAGE >> 10} KiB and is no package; {source}")
    try:
        return parse_package(raw)
    except ManifestError as exc:
        raise FileInputError(f"{path}: {'; '.join(line.strip() for line in str(exc).splitlines())}; {source}") from exc


def make_memory_folder(parent: Path, uuid: str) -> Path:
    """A new folder (0700) of this process on a tmpfs, with `keys` and `home` in it; dead processes' are removed.

    The folder is locked by an open file that outlives `exec`, so it counts as alive exactly as long as the server does.

    Raises:
        PlaintextError: `parent` is not in memory.
        FileInputError: it cannot be written to.
    """
    try:
        require_tmpfs(parent)
        _sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=".tacit-", dir=parent))  # 0700
        for name in ("keys", "home"):
            (made / name).mkdir(mode=0o700)
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock, True)
        # Named only once it is locked: a sweep in another process never sees it unlocked.
        with suppress_missing_call():
            made = made.rename(parent / f"tacit-{uuid}-{os.getpid()}{made.name.removeprefix('.tacit')}")
        return made
    except OSError as exc:
        raise FileInputError(
            f"cannot make a folder in {parent}: {exc.strerror}; TACIT_MEMORY_DIR names another tmpfs"
        ) from exc


def remove_memory_folder(folder: Path | None) -> None:
    """For a command that will not be started: its keys do not stay behind. None is no folder."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def suppress_missing_call() -> Iterator[None]:
    """For what Gramine cannot do (ENOSYS), and need not: there is no other process on an enclave's tmpfs."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise


def store_files(files: Mapping[str, bytes], say: Say) -> None:
    """Write the manifest's files at their paths as they are, and say which reach a disk. Raises: FileInputError."""
    on_disk = []
    for name, content in files.items():
        path = Path(name)
        if path.is_fifo():
            say(f"{name} is a pipe; what it gets waits for its reader")
        store_file(path, content)
        try:
            require_tmpfs(path)
        except PlaintextError:
            if path.is_file() and not path.absolute().as_posix().startswith(DEVICE_PATH):
                on_disk.append(name)
    if on_disk:
        say(
            f"warning: {', '.join(on_disk)} on a disk, not in memory: the machine's owner can read what the manifest "
            "put there. In a real TEE use a tmpfs or an encrypted mount"
        )


def wait_for_file(path: Path, say: Say, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once `path` is a file; while it has not arrived, say so and look again every ten seconds."""
    while not path.is_file():
        say(f"{path} is not there yet; trying again in {RETRY_SECONDS:.0f} seconds")
        sleep(RETRY_SECONDS)


def require_memory_for_model(base: Path) -> Path:
    """The folder for version 1 of a decrypted model below `base`, made if need be, on a tmpfs.

    Raises:
        PlaintextError: it would lie on a disk.
        FileInputError: it cannot be made.
    """
    existing = next(part for part in (base.absolute(), *base.absolute().parents) if part.exists())
    try:
        require_tmpfs(existing)
    except PlaintextError as exc:
        raise PlaintextError(
            f"the decrypted model would lie on a disk: --model_base_path={base} is not in memory. Mount a tmpfs "
            "there (`mount -t tmpfs -o size=2g,mode=0700 tmpfs PATH`), or start tacit-serve, which opens encrypted models itself"
        ) from exc
    folder = base / "1"
    try:
        check_links(folder)
        make_folders(folder)
    except OSError as exc:
        raise FileInputError(f"cannot make {folder}: {exc.strerror}") from exc
    require_tmpfs(folder)  # it may have been there, as a link
    return folder


def decrypt_model(source: Path, key_file: Path, folder: Path) -> None:
    """Write the plaintext of `source` into `folder`, which was checked to be memory; its folders are checked here.

    By its name a `.capsule` is one, with all its files; anything else is the demo's own format, one `saved_model.pb`.

    Raises:
        FileInputError: the key or the model cannot be read, or the memory is full.
        VaultError: the key does not fit, or the model was altered (the demo's format cannot tell).
        PlaintextError: a folder that is there leads out of memory.
    """
    try:
        with key_file.open("rb") as file:
            key = parse_key(file.read(_MAX_KEY_FILE))
        if source.suffix == ".capsule":
            with open_capsule(source, key) as capsule:
                for name in (file.name for file in capsule.info.files):
                    make_folders((folder / name).parent)
                    require_tmpfs((folder / name).parent)
                    with capsule.open(name) as plain, _replacing(folder / name) as target, target.open("wb") as out:
                        shutil.copyfileobj(plain, out, _PIECE)
            return
        with source.open("rb") as sealed, _replacing(folder / "saved_model.pb") as target, target.open("wb") as out:
            out.writelines(decrypt_ctr(sealed, key))
    except OSError as exc:
        raise FileInputError(f"cannot decrypt {source} into {folder}: {exc.filename or ''} {exc.strerror}") from exc


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, that takes the place of `path` when the block ends well, and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Remove the folders of our own that no living process holds."""
    for folder in parent.glob("tacit-*-*"):
        if not KEY_FOLDERS.fullmatch(folder.name):
            continue  # another program's, which knows nothing of our lock
        try:
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile: its owner's sweep was faster
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its server lives
        finally:
            os.close(lock)
