"""Hosts on one machine: network namespaces joined by a bridge, each with its own addresses and its own hosts file."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_BRIDGE = "tacit0"
_NETWORK = "10.77.0"


class Host:
    """A network namespace with one address; names resolve by `/etc/netns/NAME/hosts`, not by the machine's file."""

    def __init__(self, name: str, number: int) -> None:
        self.name = f"tacit-{name}"
        self.address = f"{_NETWORK}.{number}"

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on this host."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `argv` here to its end."""
        return subprocess.run(
            self.command(argv), env=dict(env), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _remove(hosts: Sequence[Host]) -> None:
    for host in hosts:
        subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)
        folder = Path("/etc/netns") / host.name
        (folder / "hosts").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
    subprocess.run(["ip", "link", "delete", _BRIDGE], check=False, capture_output=True)


@contextmanager
def hosts(names: Sequence[str], *, resolve: Mapping[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts of these names, joined by a bridge; `resolve` maps domain names to the host that answers for them."""
    made = [Host(name, number) for number, name in enumerate(names, start=11)]
    by_name = dict(zip(names, made, strict=True))
    _remove(made)
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("link", "set", _BRIDGE, "up")
        lines = ["127.0.0.1 localhost", *(f"{by_name[host].address} {domain}" for domain, host in resolve.items())]
        for number, host in enumerate(made):
            folder = Path("/etc/netns") / host.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text("\n".join(lines) + "\n")
            _ip("netns", "add", host.name)
            _ip("link", "add", f"tacit-v{number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", f"tacit-v{number}", "master", _BRIDGE, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
        yield by_name
    finally:
        _remove(made)
