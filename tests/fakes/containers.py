"""Our images as containers on this machine, by podman on the storage that they were built in."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tacit import __version__

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy" / "images"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tacit-images"
OUT = Path(os.environ.get("TACIT_IMAGES") or _CACHE / "out")
# As build.py names it.
_RUNROOT = Path("/run/tacit-images") / hashlib.sha256(str(OUT.parent.resolve()).encode()).hexdigest()[:8]
STORAGE = ("--root", str(OUT.parent / "storage"), "--runroot", str(_RUNROOT), "--storage-driver", "overlay")
PODMAN = ("podman", *STORAGE, "--cgroup-manager", "cgroupfs", "--runtime", "runc")
# What podman would take by itself is more than some machines give.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


def require_images() -> None:
    """Skip where the images were not built; under TACIT_CI=1 that is a failure."""
    reason = ""
    if os.getuid() != 0 or shutil.which("podman") is None:
        reason = "containers need root and podman"
    elif not (OUT / "digests.json").exists():
        reason = f"no images in {OUT}; build them with `make images`"
    if reason and os.environ.get("TACIT_CI") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def reference(name: str) -> str:
    return f"localhost/{name}:{os.environ.get('TACIT_TEST_TAG') or __version__}"


def package_of(image: str) -> dict[str, str]:
    """What the program of an image is in a manifest, as the build wrote it."""
    found: dict[str, str] = json.loads((OUT / f"{image}.package.json").read_text())
    return found


def podman(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*PODMAN, *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"podman {' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def run_python(image: str, script: str) -> str:
    """What a script says that the Python of an image runs, in a container that can do nothing else."""
    confined = ("--rm", "--network", "none", "--read-only", "--cap-drop", "all", "--tmpfs", "/run/tacit", *LIMITS)
    return podman("run", *confined, "--entrypoint", "/usr/bin/python3.11", reference(image), "-I", "-c", script).stdout
