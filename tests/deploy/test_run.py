"""What `deploy/images/run.sh` starts, told by a program in podman's place that says what it was given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "deploy" / "images" / "run.sh"
SHOWS = '#!/bin/sh\n[ "$1" = run ] || exit 0\nfor word in "$@"; do echo "$word"; done\n'


def run(folder: Path, what: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    shows = folder / "shows"
    shows.write_text(SHOWS)
    shows.chmod(0o700)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "CONTAINERS": str(shows),
        "TACIT_UNATTESTED": "1",
        **environ,
    }
    return subprocess.run([RUN, what], cwd=folder, env=env, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("what", "variable"),
    [
        ("server", "TACIT_COORDINATOR_PACKAGE"),
        ("server", "TACIT_COORDINATOR_CERTIFICATE"),
        ("server", "TACIT_COLLATERAL_BUNDLE"),
        ("coordinator", "TACIT_COLLATERAL_BUNDLE"),
        ("coordinator", "EDG_STARTUP_MANIFEST"),
    ],
)
def test_a_file_that_a_variable_names_is_there_inside(what: str, variable: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("{}")
    words = run(tmp_path, what, **{variable: "a file"}).stdout.splitlines()
    assert words[words.index(f"{tmp_path.resolve()}/a file:/etc/{variable}:ro") - 1] == "--volume"
    assert words[words.index(f"{variable}=/etc/{variable}") - 1] == "--env"
    gone = run(tmp_path, what, **{variable: "gone"})
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == f"Error: {variable} is gone, and there is no such file\n"


def test_a_variable_with_a_digit_in_its_name_goes_along(tmp_path: Path) -> None:
    """So that the coordinator refuses what it has not, in place of starting without it."""
    assert "EDG_K8S_STATE_NAME" in run(tmp_path, "coordinator", EDG_K8S_STATE_NAME="s").stdout.splitlines()


@pytest.mark.parametrize("variable", ["TACIT_COLLATERAL_CACHE", "TACIT_PCCS", "TACIT_KDS"])
def test_collateral_that_the_coordinator_fetched_stays_with_its_state(variable: str, tmp_path: Path) -> None:
    words = run(tmp_path, "coordinator", **{variable: "/of/this/host"}).stdout.splitlines()
    assert words[words.index("tacit-coordinator-data:/coordinator/data") - 1] == "--volume"
    assert words[words.index("TACIT_COLLATERAL_CACHE=/coordinator/data/collateral") - 1] == "--env"
    assert "TACIT_COLLATERAL_CACHE" not in words


def test_where_nothing_is_fetched_no_folder_is_named_for_it(tmp_path: Path) -> None:
    for what in ("coordinator", "server"):
        assert "TACIT_COLLATERAL_CACHE" not in run(tmp_path, what).stdout
    assert "TACIT_COLLATERAL_CACHE" not in run(tmp_path, "server", TACIT_COLLATERAL_CACHE="/of/this/host").stdout


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["no-such-image"], {}, "no image no-such-image; there are tacit-coordinator"),
        (["--base", "/nowhere"], {}, "no base.tar in /nowhere"),
        ([], {"SOURCE_DATE_EPOCH": "today"}, 'SOURCE_DATE_EPOCH is "today"; expected seconds'),
    ],
)
def test_what_no_image_can_be_built_of_is_one_line(words: list[str], environ: dict[str, str], said: str) -> None:
    env = {"PATH": os.environ["PATH"], **environ}
    command = [sys.executable, RUN.with_name("build.py"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_t22_values_stay_out_of_the_list_of_processes(tmp_path: Path) -> None:
    done = run(tmp_path, "server", EDG_MARBLE_TYPE="canary-5e1d", TACIT_PCCS="https://canary-5e1d")
    words = done.stdout.splitlines()
    assert done.returncode == 0
    assert {"EDG_MARBLE_TYPE", "TACIT_PCCS", "TACIT_UNATTESTED"} <= set(words)
    assert "canary-5e1d" not in done.stdout
