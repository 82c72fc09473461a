"""A simulated SNP chip: AMD's hierarchy under a root of its own, and the reports that such a chip signs.

Its keys are made only when somebody asks for SNP: two RSA keys of 4096 bits take seconds. Who has them can make any
report of this chip.

Source: AMD SEV-SNP ABI (56860), ATTESTATION_REPORT; AMD VCEK certificate specification (57230).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha384

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tacit.errors import InputError, PlatformError
from tacit.evidence.claims import Tee, TrustAnchor
from tacit.evidence.simulated.authority import CERTIFICATE_LIFE, CLOCK_SKEW, life
from tacit.evidence.simulated.quote import Enclave
from tacit.evidence.snp.certificates import load_key, parse_amd_certificate, parse_identity, verify_issued
from tacit.evidence.snp.collateral import AmdCollateral, pem
from tacit.evidence.snp.report import FIELDS, POLICY_MUST, REPORT_SIZE, SIGNED_SIZE, TCB_PLACES

PRODUCT = "Milan"
_CPUID = {"Milan": (0x19, 0x01, 0x01), "Genoa": (0x19, 0x11, 0x01), "Turin": (0x1A, 0x02, 0x01)}
_TCB = {"fmc": 1, "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
_EXTENSIONS = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
_POLICY = POLICY_MUST | 1 << 16  # SMT allowed, as everywhere
_PSS = padding.PSS(padding.MGF1(SHA384()), salt_length=SHA384.digest_size)
_RSA_SIZE = 4096  # bits, as AMD's
_KEYS = ("ark", "ask", "vcek")
_PUBLIC = (*_KEYS, "crl")


@dataclass(frozen=True, slots=True, repr=False)
class SnpKeys:
    """What nobody else may have: the keys of the hierarchy."""

    ark: rsa.RSAPrivateKey
    ask: rsa.RSAPrivateKey
    vcek: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return "SnpKeys(...)"


@dataclass(frozen=True, slots=True)
class SnpChip:
    """A simulated chip: its certificates (DER) and list. `keys` is None where only its public part is known."""

    ark: bytes
    ask: bytes
    vcek: bytes
    crl: bytes
    keys: SnpKeys | None

    @property
    def signing_keys(self) -> SnpKeys:
        """Its keys. Raises: PlatformError where only the public part is here."""
        if self.keys is None:
            raise PlatformError("only the public part of the simulated SNP chip is here, which can make no report")
        return self.keys

    @property
    def anchor(self) -> TrustAnchor:
        """What a verifier trusts when it trusts this chip."""
        return TrustAnchor(Tee.SIMULATED_SNP, "simulated platform (SNP)", self.ark)

    @property
    def collateral(self) -> AmdCollateral:
        """What a verifier needs beside its reports."""
        return AmdCollateral(self.vcek, pem(self.ask) + pem(self.ark), self.crl)


@dataclass(frozen=True, slots=True)
class Guest:
    """What a report says about a guest; `measurement` has 48 bytes."""

    measurement: bytes
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    guest_svn: int = 0
    policy: int = _POLICY
    vmpl: int = 0
    version: int = 5
    platform_info: int = 0x25
    flags: int = 0
    product: str = PRODUCT
    report_id_ma: bytes = b"\xff" * 32


def guest(enclave: Enclave) -> Guest:
    """The guest in which a program runs that would be this enclave."""
    return Guest(sha384(b"SIMULATED MEASUREMENT " + enclave.measurement).digest())


def render_tcb(product: str = PRODUCT) -> bytes:
    """The 8 bytes of a TCB of the simulated chip."""
    tcb = bytearray(8)
    for name, place in TCB_PLACES[product].items():
        tcb[place] = _TCB[name]
    return bytes(tcb)


def lowest_tcb(product: str = PRODUCT) -> dict[str, int]:
    """The versions of the simulated chip, as a package's MinimumTCB names them."""
    return {name: _TCB[name] for name in TCB_PLACES[product]}


def generate_chip(*, now: datetime, random: Callable[[int], bytes], product: str = PRODUCT) -> SnpChip:
    """A new chip with keys of its own; `random` gives as many random bytes as asked."""
    keys = SnpKeys(
        rsa.generate_private_key(public_exponent=65537, key_size=_RSA_SIZE),
        rsa.generate_private_key(public_exponent=65537, key_size=_RSA_SIZE),
        ec.generate_private_key(ec.SECP384R1()),
    )
    ark = issue_ca(f"ARK-{product}", keys.ark, f"ARK-{product}", keys.ark, now=now)
    ask = issue_ca(f"SEV-{product}", keys.ask, f"ARK-{product}", keys.ark, now=now)
    chip = SnpChip(ark, ask, b"", b"", keys)
    extensions = chip_extensions(product, random(8 if product == "Turin" else 64))
    return replace(chip, vcek=issue_leaf(chip, extensions, now=now), crl=issue_amd_crl(chip, now=now))


def _name(what: str) -> x509.Name:
    return x509.Name(
        (
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED - NOT AMD"),
            x509.NameAttribute(NameOID.COMMON_NAME, what),
        )
    )


def _builder(what: str, issuer: str, now: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(what)).issuer_name(_name(issuer))
    dated = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + CERTIFICATE_LIFE)
    # Real chips' certificates have the serial number 0, which this library does not make.
    return dated.serial_number(x509.random_serial_number())


def issue_ca(what: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, *, now: datetime) -> bytes:
    """DER of a certificate that may sign others."""
    off = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    builder = (
        _builder(what, issuer, now)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **off), critical=True)
    )
    return builder.sign(issuer_key, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


def chip_extensions(product: str, chip_id: bytes) -> dict[str, bytes]:
    """The extensions of a chip's certificate, by the end of their OID below 1.3.6.1.4.1.3704.1."""
    name = product.encode()
    found = {"2": b"\x16" + bytes((len(name),)) + name}
    for component in TCB_PLACES[product]:
        version = _TCB[component]
        # One byte more where the high bit is set, or DER would read it as negative.
        content = version.to_bytes(version.bit_length() // 8 + 1, "big")
        found[f"3.{_EXTENSIONS[component]}"] = b"\x02" + bytes((len(content),)) + content
    return {**found, "4": chip_id}


def issue_leaf(
    chip: SnpChip,
    extensions: dict[str, bytes],
    *,
    now: datetime,
    name: str = "SEV-VCEK",
    key: ec.EllipticCurvePublicKey | None = None,
) -> bytes:
    """DER of a chip's certificate with these extensions."""
    issuer = parse_amd_certificate(chip.ask).common_name
    builder = _builder(name, issuer, now).public_key(key or chip.signing_keys.vcek.public_key())
    for suffix, value in extensions.items():
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{suffix}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    return builder.sign(chip.signing_keys.ask, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


def issue_amd_crl(chip: SnpChip, *, now: datetime, revoked: Sequence[int] = ()) -> bytes:
    """DER of the root's list of revoked serial numbers, good for a year."""
    begin, end = life(now)
    issuer = parse_amd_certificate(chip.ark).common_name
    builder = x509.CertificateRevocationListBuilder().issuer_name(_name(issuer)).last_update(begin).next_update(end)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(chip.signing_keys.ark, SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


def render_chip(chip: SnpChip) -> dict[str, str]:
    """The public part of a chip as it stands in the platform's file."""
    return {name: getattr(chip, name).hex() for name in _PUBLIC}


def render_chip_keys(keys: SnpKeys) -> dict[str, str]:
    """The private part of a chip as it stands in the platform's file."""
    return {
        name: getattr(keys, name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        for name in _KEYS
    }


def parse_chip(public: dict[str, str], private: dict[str, str] | None) -> SnpChip:
    """A chip of its two parts, which belong together.

    Raises:
        EvidenceError: or ValueError, KeyError: the message says what does not fit.
    """
    chip = SnpChip(**{name: bytes.fromhex(public[name]) for name in _PUBLIC}, keys=None)
    ark, ask, vcek = (parse_amd_certificate(der) for der in (chip.ark, chip.ask, chip.vcek))
    for certificate, issuer in ((ark, ark), (ask, ark), (vcek, ask)):
        verify_issued(certificate, issuer)
        if not certificate.simulated:
            raise ValueError("a certificate of the SNP part is not marked SIMULATED")
    parse_identity(vcek)
    if private is None:
        return chip
    found = [load_pem_private_key(private[name].encode(), password=None) for name in _KEYS]
    for key, certificate in zip(found, (ark, ask, vcek), strict=True):
        if key.public_key() != load_key(certificate.key_der):
            raise ValueError(f"the private key of {certificate.common_name[:60]} is not that of its certificate")
    above, below, own = found
    if not (isinstance(above, rsa.RSAPrivateKey) and isinstance(below, rsa.RSAPrivateKey)):
        raise ValueError("a key above the SNP chip's is not RSA")
    if not isinstance(own, ec.EllipticCurvePrivateKey):
        raise ValueError("the SNP chip's key is not on P-384")
    return replace(chip, keys=SnpKeys(above, below, own))


def issue_report(one: Guest, data: bytes, *, chip: SnpChip, tcb: bytes | None = None) -> bytes:
    """A report of a guest over 64 bytes of report data; `tcb` is what it reports, the chip's own if not given.

    Raises:
        InputError: report data of another size.
    """
    if len(data) != 64:
        raise InputError(f"report data has 64 bytes, not {len(data)}")
    tcb = tcb or render_tcb(one.product)
    chip_id = parse_identity(parse_amd_certificate(chip.vcek)).chip_id or b""
    head = FIELDS.pack(
        one.version, one.guest_svn, one.policy, bytes(16), bytes(16), one.vmpl, 1, tcb, one.platform_info, one.flags,
        data, one.measurement, one.host_data, one.id_key_digest, bytes(48), sha384(data).digest()[:32],
        one.report_id_ma, tcb,
    )  # fmt: skip
    cpuid = bytes(_CPUID[one.product]) if one.version >= 3 else b""
    body = head + cpuid.ljust(24, b"\0") + chip_id.ljust(64, b"\0") + tcb + bytes(8) + tcb
    signed = body.ljust(SIGNED_SIZE, b"\0")
    words = decode_dss_signature(chip.signing_keys.vcek.sign(signed, ec.ECDSA(SHA384())))
    return (signed + b"".join(word.to_bytes(72, "little") for word in words)).ljust(REPORT_SIZE, b"\0")
