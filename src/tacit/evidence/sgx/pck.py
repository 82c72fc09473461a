"""The platform's own certificate (PCK): the extension in which Intel writes down which platform it is.

The extension is a sequence of (OID, value); all OIDs begin with 1.2.840.113741.1.13.1: `.1` PPID (16 bytes), `.2`
sequence of TCB values (`.2.1` to `.2.16` component versions, `.2.17` PCE version, `.2.18` CPUSVN), `.3` PCEID (2 bytes),
`.4` FMSPC (6 bytes), `.5` SGX type; `.6` and `.7` only on platforms with several packages.

Source: Intel SGX PCK Certificate and CRL Profile, section 1.3.5.
"""

from dataclasses import dataclass
from typing import cast

from cryptography import x509

from tacit.errors import EvidenceFormatError
from tacit.evidence.collateral import FOREIGN_ERRORS

PCK_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

_SEQUENCE, _OID, _INTEGER, _OCTETS = 0x30, 0x06, 0x02, 0x04
_PREFIX = bytes.fromhex("2a864886f84d010d01")  # content bytes of PCK_EXTENSION
_PPID, _TCB, _PCE_ID, _FMSPC = b"\x01", b"\x02", b"\x03", b"\x04"
_PCE_SVN = b"\x02\x11"


@dataclass(frozen=True, slots=True)
class PckExtension:
    """Which platform a PCK certificate is for; `components` are its 16 security versions."""

    ppid: bytes
    pce_id: bytes
    fmspc: bytes
    components: tuple[int, ...]
    pce_svn: int


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """(tag, content) of the elements that stand one after the other; content is not looked into."""
    found = []
    while der:
        if len(der) < 2:
            raise ValueError("cut element")
        tag, length, start = der[0], der[1], 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 2 or len(der) < 2 + size:
                raise ValueError("a length of more than 65535, or cut")
            length, start = int.from_bytes(der[2 : 2 + size], "big"), 2 + size
        if length > len(der) - start:
            raise ValueError("cut element")
        found.append((tag, der[start : start + length]))
        der = der[start + length :]
    return found


def _values(sequence: bytes) -> dict[bytes, tuple[int, bytes]]:
    """OID (without the common prefix) -> (tag, content), for a sequence of (OID, value)."""
    values: dict[bytes, tuple[int, bytes]] = {}
    for tag, content in _elements(sequence):
        pair = _elements(content)
        if tag != _SEQUENCE or len(pair) != 2 or pair[0][0] != _OID or not pair[0][1].startswith(_PREFIX):
            raise ValueError("not a sequence of (OID, value)")
        name = pair[0][1].removeprefix(_PREFIX)
        if name in values:
            raise ValueError("an OID stands twice")
        values[name] = pair[1]
    return values


def _take(values: dict[bytes, tuple[int, bytes]], name: bytes, tag: int, size: int | None = None) -> bytes:
    found = values.get(name)
    if found is None or found[0] != tag or (size is not None and len(found[1]) != size):
        raise ValueError(f"the field .{'.'.join(map(str, name))} is missing or of another form")
    return found[1]


def _number(content: bytes) -> int:
    number = int.from_bytes(content, "big", signed=True)
    if not content or not 0 <= number <= 0xFFFF:
        raise ValueError("a security version outside 0 to 65535")
    return number


def parse_pck_extension(certificate: x509.Certificate) -> PckExtension:
    """Which platform the certificate is for.

    Raises:
        EvidenceFormatError: no such extension, or one of another form.
    """
    try:
        # The library has no class for it, so it always comes as bytes.
        extension = cast(
            "x509.UnrecognizedExtension", certificate.extensions.get_extension_for_oid(PCK_EXTENSION).value
        )
        ((tag, content),) = _elements(extension.value)
        if tag != _SEQUENCE:
            raise ValueError("not a sequence")
        values = _values(content)
        tcb = _values(_take(values, _TCB, _SEQUENCE))
        components = tuple(_number(_take(tcb, bytes((2, index)), _INTEGER)) for index in range(1, 17))
        return PckExtension(
            ppid=_take(values, _PPID, _OCTETS, 16),
            pce_id=_take(values, _PCE_ID, _OCTETS, 2),
            fmspc=_take(values, _FMSPC, _OCTETS, 6),
            components=components,
            pce_svn=_number(_take(tcb, _PCE_SVN, _INTEGER)),
        )
    except (x509.ExtensionNotFound, *FOREIGN_ERRORS) as exc:
        raise EvidenceFormatError(f"the platform's certificate does not say which platform it is: {exc}") from exc
