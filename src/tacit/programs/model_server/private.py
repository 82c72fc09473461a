"""The folder in memory in which activation left this process's keys, and its end.

tacit-premain makes it as `tacit-ID-PROCESS-RANDOM` on a tmpfs, with `keys` and `home` in it, and becomes this process.
What it finds of dead processes it sweeps; a process that ends in order takes its own folder with it.
"""

import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from tacit.errors import TacitError
from tacit.vault import require_tmpfs

_NAME = re.compile(r"tacit-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-(?P<process>\d+)-.+")
_PLACES = {
    "TACIT_KEY_DIR": "keys",
    "HOME": "home",
}  # what premain says of the folder, and what it calls the places in it
_ALONE = 0o700


def remove_private_folder(environ: Mapping[str, str], *, process: int | None = None) -> bool:
    """Remove the folder that activation made for this process (or `process`), and nothing else; whether one was removed.

    Whoever sets the environment could name any folder: so its name, owner, mode and file system must be what
    tacit-premain made, and the process in its name this one.
    """
    for variable, place in _PLACES.items():
        named = Path(environ.get(variable, ""))
        if named.name != place or not named.is_absolute() or ".." in named.parts:
            continue
        if _is_ours(named.parent, os.getpid() if process is None else process):
            shutil.rmtree(named.parent, ignore_errors=True)
            return True
    return False


def _is_ours(folder: Path, process: int) -> bool:
    name = _NAME.fullmatch(folder.name)
    if name is None or int(name["process"]) != process:
        return False
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != _ALONE:
            return False
        require_tmpfs(folder)
    except (OSError, TacitError):
        return False
    return True
