"""Connections that are lost, as a network or a server loses them, so that the next call makes another."""

from typing import Any


def lose_connections(client: Any) -> None:
    """End those that a client over HTTPS has kept."""
    while (connection := client._channel._take()) is not None:
        connection.close()
