"""Hosts on one machine: each has its own network, its own names and its own folders at the root, and nothing outlives it.

with hosts(["server", "client"], resolve={"grpc.example.com": "server"}) as by_name:
    by_name["client"].run(["curl", "https://grpc.example.com"], env={...})

A host is a process that does nothing, in a network and a mount namespace of its own. Its root is a folder into which
the machine's own folders are mounted, so that programs find everything, while `/etc/hosts`, `/dev` and whatever is made
at the root (`/models`) belong to this host alone. When the process ends, all of it is gone.
"""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

_NETWORK = "10.77.0"
_TOOLS = ("unshare", "nsenter", "ip", "mount", "chroot", "env")
_UNPRIVILEGED = os.geteuid() != 0

# $1: an empty folder for the root, $2: the hosts file. It says "ready" and lives until its standard input ends.
_HOLDER = r"""
set -e
root=$1
mount -t tmpfs -o mode=0755 tmpfs "$root"
for path in /* ; do
    name=$root$path
    case $path in /dev | /models | /encrypted) continue ;; esac
    if [ -L "$path" ]; then cp -P "$path" "$name"
    elif [ -d "$path" ]; then mkdir "$name"; mount --rbind "$path" "$name"
    else : > "$name"; mount --bind "$path" "$name"; fi
done
mkdir "$root/dev"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    [ -e "/dev/$name" ] || continue
    : > "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$2" "$root/etc/hosts"
ip link set lo up
exec chroot "$root" sh -c 'echo ready; exec cat'
"""


class Host:
    """One host; `address` is where the others reach it."""

    def __init__(self, name: str, address: str, pid: int) -> None:
        self.name = name
        self.address = address
        self._pid = pid

    def command(self, argv: Sequence[str | Path], *, cwd: Path | None = None) -> list[str]:
        """The command line that becomes `argv` on this host: same process id, so signals reach the program itself."""
        user = ["--user", "--preserve-credentials"] if _UNPRIVILEGED else []
        place = ["env", "-C", str(cwd or "/")]
        return ["nsenter", *user, f"--target={self._pid}", "--mount", "--net", "--root", "--", *place, *map(str, argv)]

    def run(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None, seconds: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run `argv` here to its end."""
        command = self.command(argv, cwd=cwd)
        return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=seconds, check=False)

    def start(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, log: IO[bytes]
    ) -> "subprocess.Popen[bytes]":
        """Start `argv` here, with its output in a file."""
        command = self.command(argv, cwd=cwd)
        return subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


class ThisMachine(Host):
    """This machine itself, without a namespace: for what takes free ports and no names."""

    def __init__(self) -> None:
        super().__init__("this machine", "127.0.0.1", os.getpid())

    def command(self, argv: Sequence[str | Path], *, cwd: Path | None = None) -> list[str]:
        """The command line that becomes `argv`."""
        return ["env", "-C", str(cwd or "/"), *map(str, argv)]


@contextmanager
def hosts(names: Sequence[str], *, resolve: Mapping[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts of these names, joined by a switch; `resolve` maps domain names to the host that answers for them.

    Skips the test with one line where the system cannot do it, and fails it there under `TACIT_CI=1`.
    """
    _require_namespaces()
    addresses = {name: f"{_NETWORK}.{number}" for number, name in enumerate(names, start=11)}
    lines = [
        "127.0.0.1 localhost",
        "::1 localhost",
        *(f"{addresses[host]} {domain}" for domain, host in resolve.items()),
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tacit-hosts-")))
        switch = stack.enter_context(_host(folder, "switch", lines, "", _unshare()))
        # Who is not root is it in one user namespace, the switch's, which then owns every host's network.
        inside = [*_enter_user(switch._pid), "unshare", "--mount", "--net"]
        made = {name: stack.enter_context(_host(folder, name, lines, addresses[name], inside)) for name in names}
        _join(switch, made)
        yield made


@contextmanager
def named_machine(resolve: Mapping[str, str]) -> Iterator[Host]:
    """This machine with its own network, and names of its own: domain to address. For what reaches a cluster."""
    _require_namespaces()
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {domain}" for domain, address in resolve.items())]
    with tempfile.TemporaryDirectory(prefix="tacit-hosts-") as folder:
        separate = [word for word in _unshare() if word != "--net"]
        with _host(Path(folder), "machine", lines, "127.0.0.1", separate) as host:
            yield host


def _join(switch: Host, made: Mapping[str, Host]) -> None:
    """Cables from every host to a bridge, which is in a namespace too: no name on the machine is taken."""
    _ip(switch, "link", "add", "switch", "type", "bridge")
    _ip(switch, "link", "set", "switch", "up")
    for number, host in enumerate(made.values()):
        cable = f"cable{number}"
        _ip(switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(host._pid))
        _ip(switch, "link", "set", cable, "master", "switch", "up")
        _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip(host, "link", "set", "eth0", "up")


@contextmanager
def _host(folder: Path, name: str, lines: Sequence[str], address: str, separate: Sequence[str]) -> Iterator[Host]:
    root = folder / name
    root.mkdir()
    names = folder / f"{name}.hosts"
    names.write_text("\n".join(lines) + "\n")
    command = [*separate, "sh", "-c", _HOLDER, "host", str(root), str(names)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise AssertionError(f"no host {name}: {holder.communicate()[1]}")
        yield Host(name, address, holder.pid)
    finally:
        holder.kill()
        holder.communicate()


def _enter_user(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--user", "--preserve-credentials", "--"] if _UNPRIVILEGED else []


def _unshare() -> list[str]:
    return ["unshare", *(["--map-root-user"] if _UNPRIVILEGED else []), "--mount", "--net"]


def _ip(host: Host, *words: str) -> None:
    done = host.run(["ip", *words], env=os.environ)
    assert done.returncode == 0, done.stderr


@functools.cache
def _why_not() -> str:
    """Why there can be no hosts on this system; empty where there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (util-linux, iproute2)"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces for this user: {tried.stderr.strip()}"


def _require_namespaces() -> None:
    reason = _why_not()
    if reason and os.environ.get("TACIT_CI") == "1":
        pytest.fail(f"needs network namespaces: {reason}")
    if reason:
        pytest.skip(f"needs network namespaces: {reason}")
