"""The platform's own certificate (PCK): the extension in which Intel writes down which platform it is.

The extension is a sequence of (OID, value); all OIDs begin with 1.2.840.113741.1.13.1: `.1` PPID (16 bytes), `.2`
sequence of TCB values (`.2.1` to `.2.16` component versions, `.2.17` PCE version, `.2.18` CPUSVN), `.3` PCEID (2 bytes),
`.4` FMSPC (6 bytes), `.5` SGX type; `.6` and `.7` only on platforms with several packages.

Source: Intel SGX PCK Certificate and CRL Profile, section 1.3.5.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from cryptography import x509

from tacit.errors import EvidenceFormatError
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT
from tacit.evidence.anchor.der import OCTETS, OID, Element, parse_one

PCK_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

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


def _values(sequence: Element) -> dict[bytes, Element]:
    """OID (without the common prefix) -> value, for a sequence of (OID, value)."""
    values: dict[bytes, Element] = {}
    for pair in sequence.elements():
        parts = pair.elements()
        if len(parts) != 2 or not parts[0].bytes_of(OID).startswith(_PREFIX):
            raise ValueError("not a sequence of (OID, value)")
        name = parts[0].content.removeprefix(_PREFIX)
        if name in values:
            raise ValueError("an OID stands twice")
        values[name] = parts[1]
    return values


def _take(values: dict[bytes, Element], name: bytes, size: int | None = None) -> Element:
    found = values.get(name)
    if found is None or (size is not None and len(found.bytes_of(OCTETS)) != size):
        raise ValueError(f"the field .{'.'.join(map(str, name))} is missing or of another form")
    return found


def _version(element: Element) -> int:
    if element.number() > 0xFFFF:
        raise ValueError("a security version outside 0 to 65535")
    return element.number()


@lru_cache(maxsize=KEPT)
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
        values = _values(parse_one(extension.value))
        tcb = _values(_take(values, _TCB))
        components = tuple(_version(_take(tcb, bytes((2, index)))) for index in range(1, 17))
        return PckExtension(
            ppid=_take(values, _PPID, 16).content,
            pce_id=_take(values, _PCE_ID, 2).content,
            fmspc=_take(values, _FMSPC, 6).content,
            components=components,
            pce_svn=_version(_take(tcb, _PCE_SVN)),
        )
    except (x509.ExtensionNotFound, *FOREIGN_ERRORS) as exc:
        raise EvidenceFormatError(f"the platform's certificate does not say which platform it is: {exc}") from exc
