"""Corners of the data port that no client reaches: grpcio calls them from threads of its own, or never in a test."""

import socket
from typing import Any

import pytest

from tacit.edge import data
from tacit.edge.data import _certificate, _configure, _renew, serve_grpc_data
from tacit.errors import PkiError, PortInUseError


class Context:
    """What grpcio tells of a connection whose client showed this certificate."""

    def __init__(self, *pem: bytes) -> None:
        self._shown = {"x509_pem_cert": pem} if pem else {}

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return self._shown


def test_a_clients_certificate_is_given_as_der(mesh: Any) -> None:
    assert _certificate(Context(mesh.user.certificate_pem)) == mesh.user.certificate_der
    assert _certificate(Context()) is None


def test_a_certificate_that_only_grpcio_can_read_is_none() -> None:
    assert _certificate(Context(b"nonsense")) is None


def test_a_renewal_that_fails_leaves_what_there_is(mesh: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = mesh.issue("localhost")
    assert _renew(mesh.credentials, None) is not None
    assert _renew(lambda: (other.certificate_pem, mesh.server.key_pem), None) is None
    assert "previous certificate stays" in caplog.text


def test_what_a_renewal_survives_is_refused_at_the_start(mesh: Any) -> None:
    with pytest.raises(PkiError):
        _configure(lambda: (mesh.server.certificate_pem, mesh.user.key_pem), None)


async def test_a_port_that_is_taken_between_two_looks_is_named(monkeypatch: pytest.MonkeyPatch, unused: Any) -> None:
    monkeypatch.setattr(data, "bind", lambda _host, _port: socket.socket())
    port = unused().getsockname()[1]
    with pytest.raises(PortInUseError, match="while it was opened"):
        await serve_grpc_data({}, host="127.0.0.1", port=port, credentials=None, client_roots=None, max_message=1)
