"""The program `helm`: found, started, and what it says turned into one line. Versions 3 and 4 do."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tacit.errors import ClusterAccessError, ClusterConflictError, ClusterRightError, InstallError

RELEASE = "marblerun"  # as MarbleRun's command line calls it, so that either one takes away what the other installed
CHART = "tacit"
_INSIDE = Path(__file__).with_name("charts")  # in a wheel
_BESIDE = Path(__file__).parents[3] / "deploy" / "charts"  # in a checkout
_PENDING = frozenset({"pending-install", "pending-upgrade", "pending-rollback", "uninstalling"})
_VERSION = re.compile(r"v([0-9]+)\.")
_OLDEST = 3
_ADVICE = "Use --debug flag to render out invalid YAML"  # an option of helm's, which nobody here can give


@dataclass(frozen=True, slots=True)
class Release:
    """What helm installed under a name: the chart with its version, and how that ended."""

    chart: str
    status: str
    revision: int

    @property
    def is_pending(self) -> bool:
        """Whether somebody is at it, or was when they were interrupted."""
        return self.status in _PENDING


def chart_folder(name: str) -> Path:
    """A chart of this package. Raises: InstallError."""
    for folder in (_INSIDE / name, _BESIDE / name):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise InstallError(f"the chart {name} is not in this installation of tacit; install the package again")


class Helm:
    """The program, for one namespace."""

    def __init__(self, program: str, namespace: str) -> None:
        self._program, self._namespace = program, namespace

    @classmethod
    async def find(cls, namespace: str) -> "Helm":
        """The helm in the PATH. Raises: InstallError."""
        program = shutil.which("helm")
        if program is None:
            raise InstallError(
                "there is no `helm` in the PATH, and the chart is installed with it; get version 3 or 4 from "
                "https://helm.sh/docs/intro/install/"
            )
        helm = cls(program, namespace)
        code, said, wrong = await helm._start("version", "--short")
        found = _VERSION.search(said)
        if code or found is None or int(found[1]) < _OLDEST:
            raise InstallError(f"{program} is no helm 3 or 4: {_line(said or wrong)[:100]}")
        return helm

    async def release(self, name: str = RELEASE) -> Release | None:
        """What is installed under this name; None for nothing."""
        code, said, wrong = await self._start("history", name, "--max", "1", "--output", "json", *self._place())
        if code and "not found" in wrong:
            return None
        if code:
            raise _explain(wrong)
        entry = json.loads(said)[-1]
        return Release(str(entry["chart"]), str(entry["status"]), int(entry["revision"]))

    async def install(self, chart: Path, values: Mapping[str, Any], more: Sequence[str], name: str = RELEASE) -> None:
        """Install the chart, or bring what is installed to these values. It does not wait for pods.

        `more` is what a person adds: options of helm for further values. Raises: ClusterError.
        """
        given = yaml.safe_dump(dict(values)).encode()
        await self._run("upgrade", "--install", name, str(chart), "--values", "-", *more, given=given)

    async def uninstall(self, name: str = RELEASE) -> None:
        """Take away what was installed, and wait until it is gone. Raises: ClusterError."""
        await self._run("uninstall", name, "--wait", "--timeout", "120s")

    async def _run(self, *words: str, given: bytes = b"") -> str:
        code, said, wrong = await self._start(*words, *self._place(), given=given)
        if code:
            raise _explain(wrong or said)
        return said

    def _place(self) -> tuple[str, str]:
        return "--namespace", self._namespace

    async def _start(self, *words: str, given: bytes = b"") -> tuple[int, str, str]:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self._program, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(os.environ)
            )
            said, wrong = await process.communicate(given)
        except OSError as exc:
            raise InstallError(f"{self._program} cannot be started: {exc.strerror}") from exc
        return process.returncode or 0, said.decode(errors="replace"), wrong.decode(errors="replace")


def _explain(text: str) -> ClusterAccessError | ClusterConflictError | ClusterRightError | InstallError:
    """What helm's last words mean for a person."""
    said = _line(text)
    if "forbidden" in said:
        return ClusterRightError(f"not allowed on this cluster: {said}")
    if "another operation" in said:
        return ClusterConflictError(f"somebody else installs at this moment, or was interrupted: {said}")
    if "cluster unreachable" in said.lower() or "connection refused" in said:
        return ClusterAccessError(f"helm does not reach the cluster: {said}")
    return InstallError(_way_out(said))


def _way_out(said: str) -> str:
    if "cannot be imported into the current release" in said or "invalid ownership metadata" in said:
        return f"something of the same name is there already, and helm did not make it: {said}"
    if (kind := re.search(r'no matches for kind "(\w+)" in version "([\w./-]+)"', said)) is not None:
        return f"this cluster knows no {kind[1]} of {kind[2]}: it is too old for the chart, or the CRD of that kind is missing"
    if "PersistentVolumeClaim" in said and "immutable after creation" in said:
        return (
            "the volume of the sealed state stays as it was made: give the storageClass and storageSize that it was made with, "
            f"or begin anew after `tacit uninstall`, which takes the state away: {said}"
        )
    return f"helm: {said}"


def _line(text: str) -> str:
    """What is wrong, in one line: what follows the last `Error:`, without helm's own preface."""
    _, found, after = text.rpartition("Error: ")
    line = " ".join((after if found else text).replace(_ADVICE, "").split())
    for preface in ("INSTALLATION FAILED: ", "UPGRADE FAILED: "):
        line = line.removeprefix(preface)
    return line[:700]
