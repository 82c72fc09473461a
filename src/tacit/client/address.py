"""Addresses as people type them: `host`, `host:port`, `127.0.0.1:4433`, `[::1]:4433`."""

import ipaddress
import re
from dataclasses import dataclass

from tacit.errors import InputError

COORDINATOR_PORT = 4433
GRPC_PORT = 8500
REST_PORT = 8501

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, *, default_port: int) -> Address:
    """The address that `text` names; the host in lower case.

    Raises:
        InputError: not a host with an optional port (a scheme such as `https://` included).
    """
    if not isinstance(text, str):  # a variable of the environment that is not set, say
        raise InputError(f"{text!r} is not an address: expected HOST or HOST:PORT")
    if "://" in text or "/" in text:
        raise InputError(f"{text!r} is not an address: give HOST or HOST:PORT, without a scheme or path")
    host, port_text = _split(text)
    if not (_NAME.fullmatch(host) or _is_ipv6(host)):
        raise InputError(f"{text!r} is not an address: expected HOST or HOST:PORT, such as localhost:{default_port}")
    if port_text is None:
        return Address(host.lower(), default_port)
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise InputError(f"{port_text!r} in {text!r} is not a port: expected a number from 1 to 65535")
    return Address(host.lower(), int(port_text))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone has no place in a certificate


def _split(text: str) -> tuple[str, str | None]:
    """Host and port as text; an IPv6 address needs brackets only where a port follows it."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if closed and (not rest or rest.startswith(":")):
            return host, rest[1:] if rest else None
        return "", None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None
