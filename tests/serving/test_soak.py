"""The short form of `make soak`: mixed load with reloads loses no good request."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("isolation", ["probe", "process"])
def test_mixed_load_with_reloads_loses_no_good_request(isolation: str) -> None:
    short = ["--seconds=8", "--reloads=4", "--model=mlp"]
    done = subprocess.run(
        [sys.executable, str(SOAK), *short, "--", f"--isolation={isolation}"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Good requests lost: 0. Bad requests answered, or failed otherwise: 0." in done.stdout
