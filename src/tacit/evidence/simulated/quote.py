"""What the simulated quoting enclave signs: quotes, byte for byte of the layout in `intel.quote`."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import InputError
from tacit.evidence.intel.quote import BODY_DESCRIPTOR, HEADER, QE_VENDOR_INTEL
from tacit.evidence.sgx.report import ATTRIBUTE_DEBUG, ATTRIBUTE_INIT, REPORT, REPORT_SIZE
from tacit.evidence.simulated.authority import QE_SIGNER, QE_VERSION, chain_pem, sign

_ATTRIBUTE_MODE64 = 0x4
_ATTRIBUTE_PROVISION = 0x10
_XFRM = 0xE7  # x87, SSE, AVX, AVX-512: what an enclave on today's hardware has
_QE_AUTH_DATA = b"SIMULATED".ljust(32, b"\0")


@dataclass(frozen=True, slots=True)
class Enclave:
    """What a quote says about a program; `measurement` is MRENCLAVE, `signer` MRSIGNER (32 bytes each)."""

    measurement: bytes
    signer: bytes
    product_id: int
    security_version: int
    attributes: int = ATTRIBUTE_INIT | _ATTRIBUTE_MODE64
    xfrm: int = _XFRM

    @property
    def debug(self) -> bool:
        """Whether the host could read the enclave's memory."""
        return bool(self.attributes & ATTRIBUTE_DEBUG)


QUOTING_ENCLAVE = Enclave(
    measurement=sha256(b"SIMULATED quoting enclave").digest(),
    signer=QE_SIGNER,
    product_id=1,
    security_version=QE_VERSION,
    attributes=ATTRIBUTE_INIT | _ATTRIBUTE_MODE64 | _ATTRIBUTE_PROVISION,
)


def render_report(enclave: Enclave, data: bytes, *, cpu_svn: bytes) -> bytes:
    """A report's 384 bytes over 64 bytes of report data.

    Raises:
        InputError: report data of another size.
    """
    if len(data) != 64:
        raise InputError(f"report data has 64 bytes, not {len(data)}")
    return REPORT.pack(
        cpu_svn, 0, bytes(16), enclave.attributes, enclave.xfrm, enclave.measurement, enclave.signer, bytes(64),
        enclave.product_id, enclave.security_version, 0, bytes(16), data,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuotingKeys:
    """What a quoting enclave signs with; `pck_chain` is leaf first and ends with the root."""

    attestation: ec.EllipticCurvePrivateKey
    pck: ec.EllipticCurvePrivateKey
    pck_chain: Sequence[x509.Certificate]
    cpu_svn: bytes


def issue_quote(
    enclave: Enclave, data: bytes, *, keys: QuotingKeys, quoting_enclave: Enclave = QUOTING_ENCLAVE, version: int = 3
) -> bytes:
    """A quote of an enclave over 64 bytes of report data.

    Raises:
        InputError: report data of another size.
    """
    header = HEADER.pack(version, 2, 0, QE_VERSION, 1, QE_VENDOR_INTEL, b"SIMULATED")
    if version == 5:
        header += BODY_DESCRIPTOR.pack(1, REPORT_SIZE)
    signed = header + render_report(enclave, data, cpu_svn=keys.cpu_svn)
    return sign_quote(signed, version=version, keys=keys, quoting_enclave=quoting_enclave)


def sign_quote(signed: bytes, *, version: int, keys: QuotingKeys, quoting_enclave: Enclave) -> bytes:
    """A quote: header and body as given, with all that the quoting enclave puts behind them."""
    public = keys.attestation.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    bound = sha256(public + _QE_AUTH_DATA).digest() + bytes(32)
    qe_report = render_report(quoting_enclave, bound, cpu_svn=keys.cpu_svn)
    chain = chain_pem(*keys.pck_chain).encode() + b"\0"
    certified = b"".join(
        (
            qe_report,
            sign(keys.pck, qe_report),
            struct.pack("<H", len(_QE_AUTH_DATA)),
            _QE_AUTH_DATA,
            struct.pack("<HI", 5, len(chain)),
            chain,
        )
    )
    if version > 3:
        certified = struct.pack("<HI", 6, len(certified)) + certified
    signature_data = sign(keys.attestation, signed) + public + certified
    return signed + struct.pack("<I", len(signature_data)) + signature_data
