"""What every test may use."""

import signal
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

# Whoever starts the tests in the background may have SIGINT ignored, and by nohup SIGHUP; and so would every program that
# they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Nothing is said to a server of these tests that it does not answer, but a busy machine may need more than five seconds.
_DEFAULT = httpx._config.DEFAULT_TIMEOUT_CONFIG
_DEFAULT.connect = _DEFAULT.read = _DEFAULT.write = _DEFAULT.pool = 60.0

# The same examples each time, however busy the machine is: looking for new ones is the fuzzers' task.
settings.register_profile("tacit", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tacit")


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder of recorded and real data that lies beside the project, where a checkout has one."""
    folder = Path(__file__).parents[1].parent / "shared" / "vectors"
    if not folder.is_dir():
        pytest.skip("recorded vectors are not beside this checkout; the project's own fixtures still ran")
    return folder
