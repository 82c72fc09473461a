"""A model in memory for a reader that wants a path: a private folder on a tmpfs, gone right after reading.

A process that is killed meanwhile leaves it there. So it has the process in its name, and the next one removes it.
"""

import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tacit.serving.bundle import Bundle, check_name
from tacit.serving.engines.examples import ChangedBundle
from tacit.vault import require_tmpfs

WORKERS = "tacit-worker-"  # then the number of the process that it belongs to, and a word of chance
_MODELS = "tacit-model-"  # the same
_OWNED = re.compile(rf"(?:{WORKERS}|{_MODELS})(\d+)-.+")


@contextmanager
def staged(bundle: Bundle, tmpfs: Path) -> Iterator[Path]:
    """A folder (mode 0700) with the bundle's files, on `tmpfs`; removed on leaving, whatever happened.

    What lies in a folder in the clear is linked to, and not copied.

    Raises:
        PlaintextError: `tmpfs` is not memory; nothing was written.
        ModelFormatError: a file's name leads out of the folder.
    """
    require_tmpfs(tmpfs)
    for name in bundle.names:
        check_name(name)
    sweep(tmpfs)
    folder = Path(tempfile.mkdtemp(prefix=f"{_MODELS}{os.getpid()}-", dir=tmpfs))
    try:
        for name in bundle.names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if isinstance(bundle, ChangedBundle) and bundle.others and name != bundle.name:
                target.symlink_to(bundle.others.absolute() / name)
                continue
            # O_EXCL and O_NOFOLLOW: the folder is ours alone, and stays so.
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w+b") as file:
                _fill(file.fileno(), bundle, name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(tmpfs: Path) -> None:
    """Remove what processes that were killed left there, plaintext perhaps."""
    for found in tmpfs.glob("tacit-*-*"):
        owned = _OWNED.fullmatch(found.name)
        try:
            if owned is None or found.is_symlink() or found.lstat().st_uid != os.geteuid():
                continue
            os.kill(int(owned[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(found, ignore_errors=True)
        except OSError:
            continue  # somebody else's, or gone meanwhile


def _fill(descriptor: int, bundle: Bundle, name: str) -> None:
    """Decrypt a file right into its place, without a second copy in this process."""
    size = bundle.size(name)
    if size == 0:
        bundle.read_into(name, memoryview(bytearray()))
        return
    # Taken first: a tmpfs that is full says so here, and not by a signal in the middle of a write.
    os.posix_fallocate(descriptor, 0, size)
    with mmap.mmap(descriptor, size) as memory, memoryview(memory) as target:
        bundle.read_into(name, target)
