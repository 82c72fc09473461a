"""Machines with a TEE: the pseudo files of kernels and of Gramine in memory, with their rules and their faults.

    machine = FakeGramine(quote)                     # a Kernel; `quote` signs 64 bytes
    machine.faults[QUOTE] = errno.EACCES             # what the next calls on that path end with

A plain machine, with nothing there, is `FakeMachine()`.
"""

import ctypes
import errno
import os
import struct
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


TSM = Path("/sys/kernel/config/tsm/report")


class FakeTsm(FakeMachine):
    """The kernel's reports in configfs: a folder is a request, and each write counts its generation up.

    Without a provider no folder can be made (ENXIO). A report is made when it is read and something was written since;
    without 64 bytes it is EINVAL, while another is made EBUSY. What is written into a binary file is taken when it is
    closed: the write itself never fails. SNP has levels and certificates besides.
    """

    def __init__(
        self, provider: str | None, report: Quote, *, floor: int | None = None, certificates: bytes | None = None
    ) -> None:
        super().__init__()
        self.provider, self.report, self.floor, self.certificates = provider, report, floor, certificates
        self.entries: dict[Path, dict[str, object]] = {}
        self.busy = 0
        self.ignores_inblob = False
        self.between: Callable[[Path], None] = lambda entry: None
        self.levels: list[int] = []

    def there(self) -> set[Path]:
        names = {"provider", "generation", "inblob", "outblob"}
        names |= {"privlevel", "privlevel_floor"} if self.floor is not None else set()
        names |= {"auxblob"} if self.certificates is not None else set()
        return {TSM, *self.entries, *(entry / name for entry in self.entries for name in names)}

    def make_folder(self, path: Path) -> None:
        self.begin("mkdir", path)
        if path.parent != TSM:
            raise failure(errno.ENOENT, path)
        if self.provider is None:
            raise failure(errno.ENXIO, path)
        if path in self.entries:
            raise failure(errno.EEXIST, path)
        self.entries[path] = {"generation": 0, "inblob": b"", "made": -1, "outblob": b""}

    def remove_folder(self, path: Path) -> None:
        self.begin("rmdir", path)
        if path not in self.entries:
            raise failure(errno.ENOENT, path)
        del self.entries[path]

    def count(self, entry: Path) -> None:
        """A write to this entry, by whomever."""
        self.entries[entry]["generation"] = int(str(self.entries[entry]["generation"])) + 1

    def open(self, path: Path) -> bytes:
        if path not in self.there() or path.parent not in self.entries:
            raise failure(errno.ENOENT, path)
        entry = self.entries[path.parent]
        if path.name in ("inblob", "privlevel"):
            raise failure(errno.EACCES, path)
        if path.name == "outblob":
            self._make(path, entry)
        found = {
            "provider": f"{self.provider}\n".encode(),
            "generation": f"{entry['generation']}\n".encode(),
            "privlevel_floor": f"{self.floor}\n".encode(),
            "outblob": entry["outblob"],
            "auxblob": self.certificates,
        }[path.name]
        assert isinstance(found, bytes)
        return found

    def _make(self, path: Path, entry: dict[str, object]) -> None:
        if len(entry["inblob"]) != 64:  # type: ignore[arg-type]
            raise failure(errno.EINVAL, path)
        if self.busy:
            self.busy -= 1
            raise failure(errno.EBUSY, path)
        self.between(path.parent)
        if entry["made"] != entry["generation"]:
            entry["outblob"], entry["made"] = self.report(entry["inblob"]), entry["generation"]  # type: ignore[arg-type]

    def take(self, path: Path, content: bytes) -> None:
        if path not in self.there():
            raise failure(errno.ENOENT, path)
        if path.name == "privlevel":
            level = int(content)
            if self.floor is None or not self.floor <= level <= 3:
                raise failure(errno.EINVAL, path)
            self.levels.append(level)
        elif path.name == "inblob":
            if self.ignores_inblob or len(content) > 64:
                return
            self.entries[path.parent]["inblob"] = content
        else:
            raise failure(errno.EACCES, path)
        self.count(path.parent)


TDX_DEVICE, SNP_DEVICE = Path("/dev/tdx_guest"), Path("/dev/sev-guest")


class FakeTdxDevice(FakeMachine):
    """`/dev/tdx_guest` and, beyond vsock, Intel's quoting service on the host, which signs what such a report says."""

    def __init__(self, quote: Quote, *, error: int = 0, extra: bytes = b"") -> None:
        super().__init__()
        self.quote, self.error, self.extra = quote, error, extra
        self.answers = True
        self.change: Callable[[bytes], bytes] = lambda answer: answer

    def there(self) -> set[Path]:
        return {TDX_DEVICE}

    def control(self, path: Path, number: int, argument: bytearray) -> None:
        self.begin("ioctl", path)
        # The number says the size: 64 bytes of report data and 1024 of the report.
        if path != TDX_DEVICE or number != (3 << 30 | (64 + 1024) << 16 | ord("T") << 8 | 1):
            raise failure(errno.ENOTTY, path)
        assert len(argument) == 64 + 1024
        argument[64:] = (b"TDREPORT" + bytes(120) + bytes(argument[:64])).ljust(1024, b"\0")

    def ask_host(self, port: int, message: bytes, *, limit: int) -> bytes:
        self.calls.append(("vsock", str(port)))
        if not self.answers or port != 4050:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        major, minor, kind, size, error = struct.unpack_from("<HHIII", message)
        report_size, ids = struct.unpack_from("<II", message, 16)
        assert (major, minor, kind, size, error) == (1, 1, 0, len(message), 0)
        assert (report_size, ids, len(message)) == (1024, 0, 16 + 8 + 1024)
        quote = b"" if self.error else self.quote(message[24 + 128 : 24 + 192])
        body = struct.pack("<II", len(self.extra), len(quote)) + self.extra + quote
        answer = self.change(struct.pack("<HHIII", 1, 1, 1, 16 + len(body), self.error) + body)
        if len(answer) > limit:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return answer


class FakeSnpDevice(FakeMachine):
    """`/dev/sev-guest`: follows the addresses in its requests as the kernel does, and refuses what that refuses."""

    def __init__(self, report: Quote, *, certificates: bytes = b"", seal: bytes = b"a test's chip") -> None:
        super().__init__()
        self.report, self.certificates, self.seal = report, certificates, seal
        self.status = self.errors = 0
        self.needed = 0
        self.fields: list[int] = []

    def there(self) -> set[Path]:
        return {SNP_DEVICE}

    def control(self, path: Path, number: int, argument: bytearray) -> None:
        self.begin("ioctl", path)
        request = number & 0xFF
        if path != SNP_DEVICE or number & ~0xFF != (3 << 30 | 32 << 16 | ord("S") << 8) or request > 2:
            raise failure(errno.ENOTTY, path)
        version, sent, response, _ = struct.unpack("<B7xQQQ", argument)
        if version != 1 or not sent or not response:
            raise failure(errno.EINVAL, path)
        argument[24:32] = self.errors.to_bytes(8, "little")
        if self.errors:
            return
        {0: self._report, 1: self._key, 2: self._extended}[request](path, sent, response)

    def _report(self, path: Path, sent: int, response: int) -> None:
        data, vmpl, reserved = struct.unpack("<64sI28s", ctypes.string_at(sent, 96))
        if vmpl or any(reserved):
            raise failure(errno.EINVAL, path)
        report = self.report(data)
        answer = (struct.pack("<II24x", self.status, len(report)) + report).ljust(4000, b"\0")
        ctypes.memmove(response, answer, len(answer))

    def _extended(self, path: Path, sent: int, response: int) -> None:
        address, size = struct.unpack("<QI", ctypes.string_at(sent + 96, 12))
        if size % 4096 or size > 0x4000:
            raise failure(errno.EINVAL, path)
        if self.needed > size:
            ctypes.memmove(sent + 104, self.needed.to_bytes(4, "little"), 4)
            raise failure(errno.ENOSPC, path)
        ctypes.memmove(address, self.certificates, len(self.certificates))
        self._report(path, sent, response)

    def _key(self, path: Path, sent: int, response: int) -> None:
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", ctypes.string_at(sent, 32))
        if (root, reserved, vmpl, svn, tcb) != (0, 0, 0, 0, 0):
            raise failure(errno.EINVAL, path)
        self.fields.append(fields)
        key = sha256(self.seal + fields.to_bytes(8, "little")).digest()
        ctypes.memmove(response, struct.pack("<I28x", self.status) + key, 64)
