"""AMD's certificates: ARK (root), ASK or ASVK (intermediate), VCEK or VLEK (a chip's, or a cloud's for its chips).

Chips' certificates have the serial number 0, which RFC 5280 forbids; the certificate library says that it will refuse
them one day. So they are parsed here by a walk over their DER, and only keys and signatures are the library's.

Source: AMD Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification (57230): extensions below
1.3.6.1.4.1.3704.1 (`.2` product name, `.3.N` TCB components, `.4` chip, `.5` cloud); RFC 5280 for the frame.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha384

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tacit.errors import CollateralError, UntrustedRootError
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT, SIMULATED_MARK
from tacit.evidence.anchor.der import BIT_STRING, BOOLEAN, INTEGER, OCTETS, OID, SET, Element, parse_one

_VERSION, _EXTENSIONS = 0xA0, 0xA3  # context tags of TBSCertificate
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_COMMON_NAME = bytes.fromhex("550403")
_BASIC_CONSTRAINTS, _KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d0f")
_KEY_CERT_SIGN = 0x04  # in the first byte of KeyUsage
_RSA_PSS = bytes.fromhex("2a864886f70d01010a")
_AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_PRODUCT, _CHIP, _CLOUD = _AMD + b"\x02", _AMD + b"\x04", _AMD + b"\x05"
_COMPONENTS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}  # below .3
_MAX_SIZE = 8 * 1024  # bytes; AMD's have 1.2 to 1.7 KiB


@dataclass(frozen=True, slots=True)
class AmdCertificate:
    """A certificate of AMD's hierarchy, nothing of it trusted. Names are DER as they stand; extensions by OID."""

    raw: bytes
    signed: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    common_name: str
    simulated: bool
    begin: datetime
    end: datetime
    key_der: bytes
    extensions: tuple[tuple[bytes, bytes], ...]

    def extension(self, oid: bytes) -> bytes | None:
        """The content of an extension, None where there is none."""
        return dict(self.extensions).get(oid)

    @property
    def key_sha384(self) -> bytes:
        """The SHA-384 of its public key (SPKI, DER), by which roots are pinned."""
        return sha384(self.key_der).digest()

    @property
    def is_ca(self) -> bool:
        """Whether it says that it may sign others."""
        constraints, usage = self.extension(_BASIC_CONSTRAINTS), self.extension(_KEY_USAGE)
        if constraints is None or usage is None:
            return False
        flags, bits = parse_one(constraints).elements(), parse_one(usage).bytes_of(BIT_STRING)
        ca = bool(flags) and flags[0].tag == BOOLEAN and flags[0].content == b"\xff"
        return ca and len(bits) >= 2 and bool(bits[1] & _KEY_CERT_SIGN)


@lru_cache(maxsize=KEPT)
def parse_amd_certificate(der: bytes) -> AmdCertificate:
    """A certificate's parts.

    Raises:
        CollateralError: not a certificate of this form.
    """
    try:
        if len(der) > _MAX_SIZE:
            raise ValueError(f"{len(der)} bytes; at most {_MAX_SIZE} are read")
        return _parse(der)
    except (ValueError, IndexError) as exc:
        raise CollateralError(f"a certificate of AMD's chain that does not parse: {exc}") from exc


def _parse(der: bytes) -> AmdCertificate:
    tbs, algorithm, signature = parse_one(der).elements()
    parts = tbs.elements()
    if parts[0].tag != _VERSION or parse_one(parts[0].content).number() != 2:
        raise ValueError("not an X.509 certificate of version 3")
    serial, inner_algorithm, issuer, validity, subject, key = parts[1:7]
    if inner_algorithm.raw != algorithm.raw:
        raise ValueError("two signature algorithms")
    begin, end = validity.elements()
    bits = signature.bytes_of(BIT_STRING)
    if bits[0] != 0:
        raise ValueError("a signature that is not whole bytes")
    names = _names(subject)
    return AmdCertificate(
        raw=der,
        signed=tbs.raw,
        algorithm=algorithm.elements()[0].bytes_of(OID),
        signature=bits[1:],
        serial=int.from_bytes(serial.bytes_of(INTEGER), "big", signed=True),
        issuer=issuer.raw,
        subject=subject.raw,
        common_name=next((text for oid, text in names if oid == _COMMON_NAME), ""),
        simulated=any(SIMULATED_MARK in text.upper() for _, text in names),
        begin=_parse_time(begin),
        end=_parse_time(end),
        key_der=key.raw,
        extensions=_parse_extensions([one for one in parts[7:] if one.tag == _EXTENSIONS]),
    )


def _names(subject: Element) -> list[tuple[bytes, str]]:
    pairs = [pair.elements() for group in subject.elements() for pair in group.elements(SET)]
    return [(oid.bytes_of(OID), text.content.decode("utf-8", "replace")) for oid, text in pairs]


def _parse_time(element: Element) -> datetime:
    formats = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
    if element.tag not in formats:
        raise ValueError("a time of another form")
    return datetime.strptime(element.content.decode("ascii"), formats[element.tag]).replace(tzinfo=UTC)


def _parse_extensions(fields: list[Element]) -> tuple[tuple[bytes, bytes], ...]:
    if len(fields) != 1:
        raise ValueError("no extensions")
    found: list[tuple[bytes, bytes]] = []
    for extension in parse_one(fields[0].content).elements():
        oid, *critical, value = extension.elements()
        if critical and critical[0].bytes_of(BOOLEAN) != b"\0" and oid.content not in (_BASIC_CONSTRAINTS, _KEY_USAGE):
            raise ValueError("a critical extension that is not known here")
        if oid.bytes_of(OID) in dict(found):
            raise ValueError("an extension that stands twice")
        found.append((oid.content, value.bytes_of(OCTETS)))
    return tuple(found)


@lru_cache(maxsize=KEPT)
def load_key(key_der: bytes) -> PublicKeyTypes:
    """The key of a certificate.

    Raises:
        CollateralError: not one that the library knows.
    """
    try:
        return load_der_public_key(key_der)
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"a certificate of AMD's chain has a key that cannot be used: {exc}") from exc


@lru_cache(maxsize=KEPT)
def verify_issued(certificate: AmdCertificate, issuer: AmdCertificate) -> None:
    """Accept a certificate that this CA issued: by name, CA bit, and RSA-PSS signature (SHA-384, salt 48).

    Raises:
        UntrustedRootError: the message says what does not hold.
    """
    what = f"'{certificate.common_name[:60]}'"
    try:
        if certificate.issuer != issuer.subject:
            raise ValueError(f"its issuer is not '{issuer.common_name[:60]}'")
        if not issuer.is_ca:
            raise ValueError(f"'{issuer.common_name[:60]}' is no CA")
        key = load_key(issuer.key_der)
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 4096 or certificate.algorithm != _RSA_PSS:
            raise ValueError("not signed with RSA-PSS by a key of 4096 bits")
        scheme = padding.PSS(padding.MGF1(SHA384()), salt_length=SHA384.digest_size)
        key.verify(certificate.signature, certificate.signed, scheme, SHA384())
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        reason = str(exc) or "its signature does not hold"
        raise UntrustedRootError(f"the certificate {what} of AMD's chain does not lead to the root: {reason}") from exc


@dataclass(frozen=True, slots=True)
class ChipIdentity:
    """What a chip's certificate says of it. `chip_id` is None in a cloud's certificate (VLEK), which has `cloud`."""

    product: str
    tcb: tuple[tuple[str, int], ...]
    chip_id: bytes | None
    cloud: str | None
    key: ec.EllipticCurvePublicKey


@lru_cache(maxsize=KEPT)
def parse_identity(leaf: AmdCertificate) -> ChipIdentity:
    """What the certificate of a chip says.

    Raises:
        CollateralError: an extension that is missing or of another form, a CA, or a key that is not on P-384.
    """
    try:
        key = load_key(leaf.key_der)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("its key is not on P-384")
        if leaf.is_ca:
            raise ValueError("it is a CA")
        product, chip, cloud = (leaf.extension(oid) for oid in (_PRODUCT, _CHIP, _CLOUD))
        if product is None:
            raise ValueError("it names no product")
        tcb = []
        for name, number in _COMPONENTS.items():
            value = leaf.extension(_AMD + bytes((3, number)))
            if value is not None:
                tcb.append((name, parse_one(value).number()))
        return ChipIdentity(
            # "Milan-B0": the line, without the stepping.
            product=parse_one(product).content.decode("ascii").partition("-")[0],
            tcb=tuple(tcb),
            chip_id=None if chip is None else _octets(chip),
            cloud=None if cloud is None else parse_one(cloud).content.decode("ascii"),
            key=key,
        )
    except FOREIGN_ERRORS as exc:
        raise CollateralError(f"the certificate '{leaf.common_name[:60]}' is not a chip's: {exc}") from exc


def _octets(value: bytes) -> bytes:
    """The chip's id: raw as AMD writes it (64 bytes, 8 on Turin), or as an OCTET STRING, as its specification says."""
    if len(value) in (8, 64):
        return value
    return parse_one(value).bytes_of(OCTETS)
