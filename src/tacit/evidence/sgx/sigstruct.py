"""SIGSTRUCT: what the signer of an SGX enclave says of it, as it lies in a `.sig` file or inside a signed enclave.

Layout, little endian, 1808 bytes: header 16, vendor 4, date 4 (BCD), header 16, 88 reserved or swdefined; modulus 384,
exponent 4, signature 384; from 900 on misc 28, attributes 16 and their mask 16, MRENCLAVE 32 at 960, product id 2 at
1024, security version 2 at 1026, reserved 12; q1 and q2 384 each. The signature covers the first 128 bytes and 900 to
1028. MRSIGNER is the SHA-256 of the modulus.

Source: Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)".
"""

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tacit.errors import EvidenceFormatError, EvidenceSignatureError
from tacit.evidence.claims import PackageInfo, Tee

SIZE = 1808  # bytes
_HEADER = bytes.fromhex("06000000e10000000000010000000000")
_HEADER_2 = bytes.fromhex("01010000600000006000000001000000")
_DEBUG = 0x2  # bit of the attributes' flags
_EXPONENT = 3


def parse_sigstruct(raw: bytes) -> PackageInfo:
    """The package that one SIGSTRUCT describes, once its signature holds.

    Raises:
        EvidenceFormatError: not a SIGSTRUCT.
        EvidenceSignatureError: it was not signed by the key in it.
    """
    if len(raw) != SIZE or raw[:16] != _HEADER or raw[24:40] != _HEADER_2:
        raise EvidenceFormatError(f"{len(raw)} bytes that are no SIGSTRUCT; expected {SIZE} with the headers of one")
    modulus = int.from_bytes(raw[128:512], "little")
    exponent = int.from_bytes(raw[512:516], "little")
    signature = raw[516:900][::-1]
    if exponent != _EXPONENT:
        raise EvidenceFormatError(f"a SIGSTRUCT with the exponent {exponent}; expected {_EXPONENT}")
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        key.verify(signature, raw[:128] + raw[900:1028], padding.PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError) as exc:
        raise EvidenceSignatureError(
            "the SIGSTRUCT is not signed by the key in it: it was altered, or damaged on the way; sign the enclave again"
        ) from exc
    # A mask without the bit leaves Debug to whoever starts the enclave, so it counts as allowed.
    flags, mask = (int.from_bytes(raw[at : at + 8], "little") for at in (928, 944))
    return PackageInfo(
        Tee.SGX,
        raw[960:992],
        hashlib.sha256(raw[128:512]).digest(),
        int.from_bytes(raw[1024:1026], "little"),
        int.from_bytes(raw[1026:1028], "little"),
        debug=bool(flags & _DEBUG) or not mask & _DEBUG,
    )


def find_sigstruct(content: bytes) -> PackageInfo:
    """The package of the SIGSTRUCT in a `.sig` file, or of the one inside a signed enclave.

    Raises: EvidenceFormatError, EvidenceSignatureError.
    """
    at = content.find(_HEADER)
    while at >= 0:
        if content[at + 24 : at + 40] == _HEADER_2 and len(content) - at >= SIZE:
            return parse_sigstruct(content[at : at + SIZE])
        at = content.find(_HEADER, at + 1)
    raise EvidenceFormatError(
        "no SIGSTRUCT in it; expected a .sig file, as gramine-sgx-sign writes it, or a signed enclave"
    )
