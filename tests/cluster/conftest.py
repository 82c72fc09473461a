"""The cluster that KUBECONFIG names, and the images that scripts/cluster.sh built for it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class Cluster:
    """A cluster, by its kubeconfig, and the folder with what our images measure as."""

    def __init__(self, kubeconfig: Path, images: Path) -> None:
        self.kubeconfig = kubeconfig
        self.images = images

    def kubectl(self, *words: str, seconds: float = 120) -> str:
        """What kubectl prints. Raises: AssertionError where it fails."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            ["kubectl", *words], env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def tell(self, *namespaces: str) -> None:
        """Print what became of the pods, for whoever reads why a test failed."""
        for name in namespaces:
            for words in (
                ("get", "pods", "-o", "wide"),
                ("get", "events", "--sort-by=.lastTimestamp"),
                ("logs", "--selector=marblerun/marbletype", "--tail=30", "--prefix"),
                ("logs", "--selector=app.kubernetes.io/name=coordinator", "--tail=30", "--prefix"),
            ):
                try:
                    print(self.kubectl("-n", name, *words))
                except AssertionError as exc:
                    print(exc)

    def forget(self, *namespaces: str) -> None:
        """Take namespaces away with all that is in them, and the injector's rule, which would hold up pods."""
        for name in namespaces:
            self.kubectl("delete", "mutatingwebhookconfiguration", f"marble-injector-{name}", "--ignore-not-found")
            self.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=90s")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster; where there is none, the test says what it lacks."""
    lacking = [name for name in ("KUBECONFIG", "TACIT_IMAGES") if not os.environ.get(name)]
    lacking += [program for program in ("kubectl", "helm") if shutil.which(program) is None]
    if lacking:
        pytest.fail(f"no {', '.join(lacking)}; `make cluster` starts a cluster and sets them")
    return Cluster(Path(os.environ["KUBECONFIG"]), Path(os.environ["TACIT_IMAGES"]))
