"""The kernel's own reports (configfs TSM, Linux 6.7 and later): a folder is a request, its files are what is asked.

An entry of one's own is the one way to have no other writer: so each report gets a new one, and its `generation`, which
every write counts up, has to say at the end that no other write came between. The kernel takes what was written when the
file is closed, and tells nobody if it refuses it then; that shows in the generation too.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report, drivers/virt/coco (tsm, sev-guest, tdx-guest).
"""

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import TeeError
from tacit.evidence.issue.kernel import Kernel

TSM_FOLDER = Path("/sys/kernel/config/tsm/report")
MAX_BLOB = 32 << 10  # bytes; TSM_REPORT_OUTBLOB_MAX of linux/tsm.h
MAX_CERTIFICATES = 16 << 10  # bytes of the table that the host adds; SEV_FW_BLOB_MAX_SIZE of the kernel
_ATTEMPTS = 5
_PAUSE = 0.2  # seconds, doubled each time; one quote takes about as long
_PASSING = {errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT}
"""The quoting service or the firmware serves somebody else right now."""


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What came: who made it (`tdx_guest`, `sev_guest`), the quote or report, and what the host added to it."""

    provider: str
    outblob: bytes
    auxblob: bytes


def find_provider(kernel: Kernel, name: str) -> str | None:
    """Who makes reports here; None where the interface is there and nobody behind it. Raises: TeeError."""
    entry = TSM_FOLDER / name
    try:
        kernel.make_folder(entry)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise _unusable(entry, exc) from exc
    try:
        return _text(kernel, entry / "provider")
    except OSError as exc:
        raise _unusable(entry, exc) from exc
    finally:
        _remove(kernel, entry)


def fetch_report(kernel: Kernel, data: bytes, *, name: str, sleep: Callable[[float], None]) -> TsmReport:
    """A report over these 64 bytes. `name` is a new one for each call.

    Raises:
        TeeError: none came, or another writer came between.
    """
    entry, pause = TSM_FOLDER / name, _PAUSE
    for attempt in range(_ATTEMPTS):
        try:
            return _fetch_once(kernel, entry, data)
        except OSError as exc:
            if exc.errno not in _PASSING or attempt == _ATTEMPTS - 1:
                raise _unusable(entry, exc) from exc
        sleep(pause)
        pause *= 2
    raise TeeError(f"no report came from {entry}")


def _fetch_once(kernel: Kernel, entry: Path, data: bytes) -> TsmReport:
    kernel.make_folder(entry)
    try:
        provider, writes = _text(kernel, entry / "provider"), 1
        before = _number(kernel, entry / "generation")
        if kernel.exists(entry / "privlevel_floor"):
            # The lowest level that this guest may speak for is its own.
            _write(kernel, entry / "privlevel", b"%d" % _number(kernel, entry / "privlevel_floor"))
            writes += 1
        _write(kernel, entry / "inblob", data)
        outblob = kernel.read(entry / "outblob", limit=MAX_BLOB)
        auxblob = b""
        if kernel.exists(entry / "auxblob"):
            auxblob = kernel.read(entry / "auxblob", limit=MAX_CERTIFICATES)
        after = _number(kernel, entry / "generation")
    finally:
        _remove(kernel, entry)
    if after != before + writes:
        raise TeeError(
            f"{entry} was written {after - before} times while this program wrote {writes} times: another process writes "
            "there, or the kernel refused a value; nothing of it is used"
        )
    return TsmReport(provider, outblob, auxblob)


def _write(kernel: Kernel, path: Path, content: bytes) -> None:
    taken = kernel.write(path, content)
    if taken != len(content):
        raise TeeError(f"{path} took {taken} of {len(content)} bytes, so a report would be over something else")


def _text(kernel: Kernel, path: Path) -> str:
    return kernel.read(path, limit=4096).decode("utf-8", "replace").strip()


def _number(kernel: Kernel, path: Path) -> int:
    text = _text(kernel, path)
    if not text.isascii() or not text.isdigit():
        raise TeeError(f"{path} holds {text[:40]!r}, expected a number")
    return int(text)


def _remove(kernel: Kernel, entry: Path) -> None:
    # What cannot be removed is an empty request that nobody reads; it does not spoil the report.
    with contextlib.suppress(OSError):
        kernel.remove_folder(entry)


def _unusable(entry: Path, exc: OSError) -> TeeError:
    hint = "run this program as root" if exc.errno in (errno.EACCES, errno.EPERM) else "dmesg has the kernel's reason"
    return TeeError(f"the kernel makes no report at {entry.parent}: {exc.strerror or exc}; {hint}")
