"""A pod whose commands run on this machine, over a connection that can break off."""

import contextlib
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fakes.cluster import FakeCluster
from tacit.errors import ClusterAccessError
from tacit.kube.objects import POD, Object

NAMESPACE, NAME = "tensorflow", "tf-server"


class FakePods(FakeCluster):
    """A cluster with one pod; its `breaks` say after how many pieces the next connections are cut."""

    def __init__(self, phase: str = "Running") -> None:
        super().__init__()
        self.breaks: list[int] = []
        self.sent = 0  # bytes that went over the connection
        self.put(
            POD,
            {"metadata": {"name": NAME}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": phase}},
            NAMESPACE,
        )

    async def execute(self, pod: Object, command: Sequence[str], *, content: Iterable[bytes] = ()) -> tuple[int, bytes]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        assert process.stderr
        limit = self.breaks.pop(0) if self.breaks and content else None
        for number, piece in enumerate(content):
            if number == limit:
                process.kill()
                process.communicate()
                raise ClusterAccessError("the connection to the pod broke off")
            with contextlib.suppress(BrokenPipeError):  # the command ended early, as its exit code tells
                process.stdin.write(piece)
                process.stdin.flush()
            self.sent += len(piece)
            process.stdout.readline()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said, complained = process.stdout.read(), process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        process.wait()
        return process.returncode, complained if process.returncode else said


def pod_of(cluster: FakeCluster) -> dict[str, Any]:
    return cluster.objects[POD.name, NAMESPACE, NAME]


def volume(folder: Path) -> Path:
    """A folder that stands for the pod's volume."""
    folder.mkdir()
    return folder
