"""What the tests of a cluster's programs share."""

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A port that nobody holds at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
