"""Tacit: machine-learning models that run in trusted execution environments, and clients that check before they speak.

    import tacit

    session = tacit.connect("coordinator.example.org:4433")
    labels = session.model("digits", address="server.example.org:8500").predict(images)

What to expect of the coordinator was said before, with `tacit trust` and `tacit manifest verify`.

The client is imported when `connect` is first named, so that a server in a TEE does not carry it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tacit.client.session import Model, Session, connect

__version__ = "0.1.0"
__all__ = ["Model", "Session", "__version__", "connect"]


def __getattr__(name: str) -> object:
    if name in {"connect", "Session", "Model"}:
        from tacit.client import session

        return getattr(session, name)
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")
