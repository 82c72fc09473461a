"""A real cluster, for tests: kubectl, namespaces of a test's own, and our command line as a person starts it."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAG = os.environ.get("TACIT_TEST_TAG", "")
"""Another tag of our images than the version; for clusters on which several versions are tried."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    code: int
    out: str
    err: str


def kubectl(*words: str, given: str = "", check: bool = True) -> str:
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr}")
    return done.stdout if not done.returncode else done.stderr


def found(*words: str) -> Any:
    """What `kubectl get` says, as a value."""
    return json.loads(kubectl("get", *words, "--output", "json"))


def until(what: Callable[[], Any], *, seconds: float = 60) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(AssertionError):
            held = what()
            if held:
                return held
        if time.monotonic() >= end:
            return what()
        time.sleep(0.5)


@dataclass
class Place:
    """A namespace of a test's own, and what a person does about it."""

    name: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def tacit(self, *words: str, environment: Mapping[str, str] | None = None, code: int | None = 0) -> Done:
        """Our command line, about this namespace."""
        if words[0] == "install" and TAG:
            words = (*words, "--set", f"image.tag={TAG}")
        values = {**os.environ, **self.environment, **(environment or {})}
        start = [sys.executable, "-c", "import tacit.programs.tacit as t; t.main()", "--namespace", self.name, *words]
        done = subprocess.run(start, capture_output=True, text=True, check=False, env=values)
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def kubectl(self, *words: str, given: str = "", check: bool = True) -> str:
        return kubectl("--namespace", self.name, *words, given=given, check=check)

    def apply(self, *values: Mapping[str, Any], check: bool = True) -> str:
        items = {"apiVersion": "v1", "kind": "List", "items": list(values)}
        return self.kubectl("apply", "--filename", "-", given=json.dumps(items), check=check)


@contextlib.contextmanager
def place(folder: Path, *, make: bool = False) -> Iterator[Place]:
    """A namespace with a name of its own; it is gone afterwards, and what was installed for it."""
    name = f"tacit-{secrets.token_hex(4)}"
    environment = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config")}
    held = Place(name, folder, environment)
    free_volumes()
    if make:
        kubectl("create", "namespace", name)
    try:
        yield held
    finally:
        held.tacit("uninstall", code=None)
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        for kind in ("mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"):
            kubectl("delete", kind, f"marble-injector-{name}", "--ignore-not-found")


def free_volumes() -> None:
    """Empty and free the released volumes of a testbed, which are folders of this machine; nothing else does it there."""
    for volume in found("persistentvolumes")["items"]:
        path = Path((volume["spec"].get("hostPath") or {}).get("path", "/nowhere"))
        if volume["status"]["phase"] != "Released" or path.parent.name != "volumes" or not path.is_dir():
            continue
        for entry in path.iterdir():
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
        patch = json.dumps([{"op": "remove", "path": "/spec/claimRef"}])
        kubectl(
            "patch", "persistentvolume", volume["metadata"]["name"], "--type", "json", "--patch", patch, check=False
        )


def a_pod(name: str, image: str, *, labels: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod of one container that does nothing."""
    containers = spec.pop("containers", [{"name": "one", "image": image}])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels or {})},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": containers, **spec},
    }
