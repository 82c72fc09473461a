"""Makes SIGSTRUCTs, as a tool that signs enclaves does."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

KEY = rsa.generate_private_key(public_exponent=3, key_size=3072)
HEADER = bytes.fromhex("06000000e10000000000010000000000")
HEADER_2 = bytes.fromhex("01010000600000006000000001000000")


@dataclass
class Signer:
    """Makes a SIGSTRUCT as a signing tool does; each field can be bent before."""

    measurement: bytes = b"\xab" * 32
    product_id: int = 7
    security_version: int = 3
    flags: int = 4
    mask: int = 0xFFFFFFFFFFFFFFFF
    exponent: int = 3
    key: rsa.RSAPrivateKey = field(default_factory=lambda: KEY)

    def sign(self) -> bytes:
        head = HEADER + bytes(4) + (0x20261125).to_bytes(4, "little") + HEADER_2 + bytes(88)
        attributes = self.flags.to_bytes(8, "little") + (3).to_bytes(8, "little")
        mask = self.mask.to_bytes(8, "little") + bytes(8)
        numbers = self.product_id.to_bytes(2, "little") + self.security_version.to_bytes(2, "little")
        body = bytes(28) + attributes + mask + self.measurement + bytes(32) + numbers
        signature = self.key.sign(head + body, padding.PKCS1v15(), SHA256())[::-1]
        return head + self.modulus + self.exponent.to_bytes(4, "little") + signature + body + bytes(12 + 768)

    @property
    def modulus(self) -> bytes:
        return self.key.public_key().public_numbers().n.to_bytes(384, "little")
