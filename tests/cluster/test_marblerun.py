"""MarbleRun's own command line and chart, unchanged, with our images; and our command line about what they installed."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fakes.kubernetes import TAG, Place, a_pod, found, place, until
from tacit import __version__

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
OURS = {"coordinator": "tacit-coordinator", "marbleInjector": "tacit-injector"}
IMAGE = f"localhost/tacit-injector:{TAG or __version__}"


@pytest.fixture(scope="module")
def theirs() -> Path:
    """The folder with MarbleRun's command line and chart; our images get the names that the chart asks for."""
    done = subprocess.run([ROOT / "scripts" / "marblerun.sh"], stdout=subprocess.PIPE, text=True, check=True)
    folder = Path(done.stdout.strip())
    values = yaml.safe_load((folder / "charts" / "values.yaml").read_text())
    testbed = Path(os.environ["KUBECONFIG"]).parent
    for part, name in OURS.items():
        wanted = values[part]
        asked = f"{wanted['repository']}/{wanted['image']}@{wanted['hash']}"
        ours = f"localhost/{name}:{TAG or __version__}"
        tag = [ROOT / "scripts" / "kube-testbed", "tag", "--dir", testbed, ours, asked]
        subprocess.run(tag, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def home(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("theirs"), make=True) as made:
        said = marblerun(theirs, made, "install", "--simulation", "--marblerun-chart-path", str(theirs / "charts"))
        assert "MarbleRun installed successfully" in said
        yield made


def marblerun(theirs: Path, place: Place, *words: str) -> str:
    start = [theirs / "marblerun", *words, "--namespace", place.name]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_its_check_finds_our_pods_ready(theirs: Path, home: Place) -> None:
    said = marblerun(theirs, home, "check")
    assert "marble-injector pods ready: 1/1" in said
    assert "marblerun-coordinator pods ready: 1/1" in said


def test_its_chart_starts_our_coordinator_as_it_starts_its_own(home: Place) -> None:
    assert "UNATTESTED" in home.kubectl("logs", "deployment/marblerun-coordinator")
    assert home.tacit("--kube", "status", "-i").out.endswith("2: Coordinator is ready to accept a manifest.\n")


def test_our_injector_serves_with_the_certificate_that_its_command_line_made(home: Place) -> None:
    labels = {"marblerun/marbletype": "Frontend", "marblerun/resource-injection": "disabled"}
    until(lambda: home.apply(a_pod("marble", IMAGE, labels=labels)))
    pod = found("pod", "marble", "-n", home.name)
    names = {one["name"] for one in pod["spec"]["containers"][0]["env"]}
    assert {"EDG_MARBLE_TYPE", "EDG_MARBLE_UUID_FILE", "EDG_MARBLE_COORDINATOR_ADDR"} <= names


def test_our_check_speaks_of_it_and_our_install_leaves_it_alone(home: Place) -> None:
    assert home.tacit("check").out == "marble-injector pods ready: 1/1\nmarblerun-coordinator pods ready: 1/1\n"
    refused = home.tacit("install", "--unattested", code=1)
    assert "holds marblerun-1.9.0 as the release marblerun" in refused.err


def test_its_command_line_speaks_of_what_ours_installed_and_takes_it_away(theirs: Path, tmp_path: Path) -> None:
    with place(tmp_path) as ours:
        ours.tacit("install", "--unattested")
        said = marblerun(theirs, ours, "check")
        assert "marble-injector pods ready: 2/2" in said
        assert f"Coordinator Version: {__version__}" in marblerun(theirs, ours, "version")
        assert "SGX" in marblerun(theirs, ours, "precheck")
        assert "successfully removed" in marblerun(theirs, ours, "uninstall")
        # What is left is the namespace that ours made for it.
        assert f"Namespace {ours.name} taken away" in ours.tacit("uninstall").out
        assert "nothing is installed" in ours.tacit("uninstall", code=1).err


def test_its_command_line_installs_our_chart(theirs: Path, tmp_path: Path) -> None:
    with place(tmp_path) as ours:
        chart = ROOT / "deploy" / "charts" / "tacit"
        if TAG:
            chart = tmp_path / "chart"
            subprocess.run(["cp", "-r", ROOT / "deploy" / "charts" / "tacit", chart], check=True)
            text = (chart / "values.yaml").read_text().replace('tag: ""', f'tag: "{TAG}"')
            (chart / "values.yaml").write_text(text)
        said = marblerun(theirs, ours, "install", "--simulation", "--marblerun-chart-path", str(chart))
        assert "MarbleRun installed successfully" in said
        assert "marblerun-coordinator pods ready: 1/1" in marblerun(theirs, ours, "check")


def test_our_uninstall_takes_all_of_it_away(home: Place) -> None:
    """The last one here: what its command line installed is gone after it."""
    said = home.tacit("uninstall").out
    assert "Secret marble-injector-webhook-certs taken away" in said
    assert f"CertificateSigningRequest marble-injector.{home.name} taken away" in said
    assert "Nothing is left of it" in said
