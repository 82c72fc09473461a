"""Certificates and contexts that the edge's tests share."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tacit.pki import KeyPair, issue_intermediate, issue_leaf, issue_root, issue_self_signed, parse_csr
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Mesh:
    """An authority, a user, and the server's certificate, which can be renewed."""

    root: KeyPair
    intermediate: KeyPair
    user: KeyPair
    server: KeyPair

    def issue(self, *names: str) -> KeyPair:
        csr = parse_csr(create_csr(generate_key(), names))
        return issue_leaf(
            csr, issuer=self.intermediate, uuid="u", marble_type="t", allowed_names=(*names, "127.0.0.1"), now=NOW
        )

    def credentials(self) -> tuple[bytes, bytes]:
        return self.server.certificate_pem + self.intermediate.certificate_pem, self.server.key_pem


@pytest.fixture
def mesh() -> Mesh:
    root = issue_root([], now=NOW)
    intermediate = issue_intermediate(root, [], now=NOW)
    user = issue_self_signed([], common_name="alice", now=NOW)
    mesh = Mesh(root, intermediate, user, user)
    mesh.server = mesh.issue("localhost")
    return mesh


@pytest.fixture
def unused() -> Iterator[Callable[[], socket.socket]]:
    """Makes listening sockets, and ends them."""
    made: list[socket.socket] = []

    def listen() -> socket.socket:
        sock = socket.create_server(("127.0.0.1", 0))
        made.append(sock)
        return sock

    yield listen
    for sock in made:
        sock.close()
