"""Machines with a TEE: the pseudo files of kernels and of Gramine in memory, with their rules and their faults.

    machine = FakeGramine(quote)                     # a Kernel; `quote` signs 64 bytes
    machine.faults[QUOTE] = errno.EACCES             # what the next calls on that path end with

A plain machine, with nothing there, is `FakeMachine()`.
"""

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

Quote = Callable[[bytes], bytes]

ATTESTATION = Path("/dev/attestation")
DATA, QUOTE, KIND = ATTESTATION / "user_report_data", ATTESTATION / "quote", ATTESTATION / "attestation_type"


def failure(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


class FakeMachine:
    """A Kernel with nothing there. `calls` is what was asked, in order; `faults` are errors by path."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.faults: dict[Path, int] = {}
        self.short: dict[Path, int] = {}

    def begin(self, call: str, path: Path) -> None:
        self.calls.append((call, str(path)))
        if path in self.faults:
            raise failure(self.faults[path], path)

    def exists(self, path: Path) -> bool:
        return path in self.there()

    def there(self) -> set[Path]:
        return set()

    def read(self, path: Path, *, limit: int) -> bytes:
        self.begin("read", path)
        content = self.open(path)
        if len(content) > limit:
            raise failure(errno.EFBIG, path)
        return content

    def open(self, path: Path) -> bytes:
        raise failure(errno.ENOENT, path)

    def write(self, path: Path, content: bytes) -> int:
        self.begin("write", path)
        if path in self.short:
            content = content[: self.short[path]]
        self.take(path, content)
        return len(content)

    def take(self, path: Path, content: bytes) -> None:
        raise failure(errno.ENOENT, path)

    def make_folder(self, path: Path) -> None:
        self.begin("mkdir", path)
        raise failure(errno.ENOENT, path)

    def remove_folder(self, path: Path) -> None:
        self.begin("rmdir", path)
        raise failure(errno.ENOENT, path)

    def control(self, path: Path, number: int, argument: bytearray) -> None:
        self.begin("ioctl", path)
        raise failure(errno.ENOENT, path)

    def ask_host(self, port: int, message: bytes, *, limit: int) -> bytes:
        self.calls.append(("vsock", str(port)))
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class FakeGramine(FakeMachine):
    """Gramine's `/dev/attestation` in an enclave, as its LibOS does it.

    Each write replaces all 64 bytes: filled up with zeros, or cut, both in silence. Reading the report data gives nothing.
    A quote is made when its file is opened, of what stands then; sealing keys can only be read. Where quotes are switched
    off (`kind` "none"), their file does not exist.
    """

    def __init__(
        self, quote: Quote, *, kind: str = "dcap", seal: bytes = b"a test's CPU", measurement: bytes = b"\x11" * 32
    ) -> None:
        super().__init__()
        self.quote, self.kind = quote, kind
        self.report_data = bytes(64)
        self.between: Callable[[], None] = lambda: None
        # The CPU binds the one key to the enclave, the other to its signer.
        self.keys = {
            ATTESTATION / "keys/_sgx_mrenclave": sha256(seal + measurement).digest()[:16],
            ATTESTATION / "keys/_sgx_mrsigner": sha256(seal + b"signer").digest()[:16],
        }

    def there(self) -> set[Path]:
        return {ATTESTATION, KIND, DATA, *self.keys, *([QUOTE] if self.kind == "dcap" else [])}

    def open(self, path: Path) -> bytes:
        if path == KIND:
            return self.kind.encode()
        if path in self.keys:
            return self.keys[path]
        if path == DATA:
            return b""
        if path != QUOTE or self.kind != "dcap":
            raise failure(errno.ENOENT, path)
        self.between()
        return self.quote(self.report_data)

    def take(self, path: Path, content: bytes) -> None:
        if path != DATA:
            raise failure(errno.EACCES if path in self.there() else errno.ENOENT, path)
        self.report_data = content[:64].ljust(64, b"\0")
