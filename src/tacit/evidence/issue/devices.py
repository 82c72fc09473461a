"""The kernel's older way: one device for each kind of guest, and ioctls.

- `/dev/tdx_guest` gives a TDREPORT, which proves something on its own machine only. The host's quoting service makes a
  quote of it, asked over vsock in Intel's protocol.
- `/dev/sev-guest` gives a report, with the host's table of certificates if it has one, and keys.

Source: Linux uapi `tdx-guest.h` and `sev-guest.h`; AMD SEV-SNP ABI (56860), MSG_REPORT_RSP, MSG_KEY_REQ, MSG_KEY_RSP;
Intel DCAP `qgs_msg_lib.h` and the default port of its service (4050). All integers are little endian.
"""

import ctypes
import errno
import struct
from pathlib import Path

from tacit.errors import TeeError
from tacit.evidence.issue.kernel import Kernel
from tacit.evidence.issue.tsm import MAX_BLOB, MAX_CERTIFICATES
from tacit.evidence.snp.report import REPORT_SIZE

TDX_DEVICE, SNP_DEVICE = Path("/dev/tdx_guest"), Path("/dev/sev-guest")

_TD_REPORT_SIZE = 1024
TDX_GET_REPORT = 0xC4405401  # _IOWR('T', 1, 64 + 1024 bytes)
QGS_PORT = 4050
_QGS_HEADER = struct.Struct("<HHIII")  # major, minor, type, size of the whole message, error
_QGS_VERSION = (1, 1)
_GET_QUOTE, _QUOTE = 0, 1

SNP_GET_REPORT, SNP_GET_KEY, SNP_GET_EXTENDED = (0xC0205300 + number for number in range(3))  # _IOWR('S', n, 32 bytes)
_REQUEST = struct.Struct("<B7xQQQ")  # version of the message, addresses of request and response, errors
_REPORT_REQUEST = struct.Struct("<64sI28x")
_EXTENDED_REQUEST = struct.Struct("<96sQI4x")
_KEY_REQUEST = struct.Struct("<IIQIIQ")  # root key, 0, fields, VMPL, SVN, TCB
_RESPONSE_SIZE = 4000
_PAYLOAD = 0x20  # where report and key begin in their responses
_KEY_SIZE = 32
_FIELDS = 0b1111  # GUEST_POLICY, IMAGE_ID, FAMILY_ID, MEASUREMENT


def fetch_td_quote(kernel: Kernel, data: bytes) -> bytes:
    """A quote of this TD over 64 bytes. Raises: TeeError."""
    argument = bytearray(data.ljust(len(data) + _TD_REPORT_SIZE, b"\0"))
    try:
        kernel.control(TDX_DEVICE, TDX_GET_REPORT, argument)
    except OSError as exc:
        raise TeeError(f"{TDX_DEVICE} gives no report: {exc.strerror}; dmesg has the kernel's reason") from exc
    report = bytes(argument[len(data) :])
    size = _QGS_HEADER.size + 8 + len(report)
    request = _QGS_HEADER.pack(*_QGS_VERSION, _GET_QUOTE, size, 0) + struct.pack("<II", len(report), 0) + report
    try:
        answer = kernel.ask_host(QGS_PORT, request, limit=MAX_BLOB)
    except OSError as exc:
        raise TeeError(
            f"the host's quoting service (QGS) does not answer on vsock port {QGS_PORT}: {exc.strerror or exc}; is qgsd "
            "running there, and has this machine a vsock device?"
        ) from exc
    return _parse_answer(answer)


def _parse_answer(answer: bytes) -> bytes:
    if len(answer) < _QGS_HEADER.size + 8:
        raise TeeError(
            f"the host's quoting service answers with {len(answer)} bytes, which is no message of its protocol"
        )
    major, _, kind, size, error = _QGS_HEADER.unpack_from(answer)
    if (major, kind, size) != (_QGS_VERSION[0], _QUOTE, len(answer)):
        raise TeeError(f"the host's quoting service answers with message {kind} of version {major}, {size} bytes")
    if error:
        raise TeeError(f"the host's quoting service refuses with error {error:#x}; its log has the reason")
    id_size, quote_size = struct.unpack_from("<II", answer, _QGS_HEADER.size)
    begin = _QGS_HEADER.size + 8 + id_size
    if begin + quote_size != len(answer):
        raise TeeError(
            f"the host's quoting service promises a quote of {quote_size} bytes, which its answer does not hold"
        )
    return answer[begin:]


def fetch_snp_report(kernel: Kernel, data: bytes, *, vmpl: int = 0) -> tuple[bytes, bytes]:
    """A report of this guest over 64 bytes, and the host's table of certificates, empty where it has none.

    Raises:
        TeeError: the device gives none.
    """
    request = _REPORT_REQUEST.pack(data, vmpl)
    table = ctypes.create_string_buffer(MAX_CERTIFICATES)
    extended = _EXTENDED_REQUEST.pack(request, ctypes.addressof(table), len(table))
    try:
        response = _ask(kernel, SNP_GET_EXTENDED, extended)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise _refused(exc) from exc
        table = ctypes.create_string_buffer(0)
        response = _ask_report(kernel, request)
    status, size = struct.unpack_from("<II", response)
    if status or size != REPORT_SIZE:
        raise TeeError(f"the firmware gives no report: status {status:#x}, {size} bytes (expected 0, {REPORT_SIZE})")
    return response[_PAYLOAD : _PAYLOAD + size], table.raw


def fetch_snp_key(kernel: Kernel, *, vmpl: int = 0) -> bytes:
    """32 bytes that the chip gives to guests of this measurement, policy, family and image id. Raises: TeeError."""
    try:
        response = _ask(kernel, SNP_GET_KEY, _KEY_REQUEST.pack(0, 0, _FIELDS, vmpl, 0, 0), size=64)
    except OSError as exc:
        raise _refused(exc) from exc
    key = response[_PAYLOAD : _PAYLOAD + _KEY_SIZE]
    status = int.from_bytes(response[:4], "little")
    if status or not any(key):
        raise TeeError(f"the firmware gives no key: status {status:#x}")
    return key


def _ask_report(kernel: Kernel, request: bytes) -> bytes:
    try:
        return _ask(kernel, SNP_GET_REPORT, request)
    except OSError as exc:
        raise _refused(exc) from exc


def _ask(kernel: Kernel, number: int, request: bytes, *, size: int = _RESPONSE_SIZE) -> bytes:
    """One request to the firmware, through buffers whose addresses the kernel is told. Raises: OSError, TeeError."""
    sent = ctypes.create_string_buffer(request, len(request))
    response = ctypes.create_string_buffer(size)
    argument = bytearray(_REQUEST.pack(1, ctypes.addressof(sent), ctypes.addressof(response), 0))
    kernel.control(SNP_DEVICE, number, argument)
    errors = _REQUEST.unpack(argument)[3]
    if errors:
        raise TeeError(f"the SNP firmware or the host refuses the request: error {errors:#x}")
    return response.raw


def _refused(exc: OSError) -> TeeError:
    hint = "run this program as root" if exc.errno in (errno.EACCES, errno.EPERM) else "dmesg has the kernel's reason"
    return TeeError(f"{SNP_DEVICE} refuses: {exc.strerror}; {hint}")
