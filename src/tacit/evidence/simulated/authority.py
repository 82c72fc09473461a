"""The maker of simulated platforms: a root, certificates, revocation lists and collateral, of Intel's shapes.

Every subject carries SIMULATED, so that no anchor for real hardware accepts what comes from here.
Collateral is good for a year; certificates for twenty, because a new root means that everybody has to trust anew.

Source: Intel SGX PCK Certificate and CRL Profile; Intel PCS API v4 (TCB info version 3, QE identity version 2).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tacit.evidence.intel.collateral import IntelCollateral
from tacit.evidence.intel.pck import PCK_EXTENSION

CERTIFICATE_LIFE = timedelta(days=20 * 365)
COLLATERAL_LIFE = timedelta(days=365)
# Machines' clocks differ: what is made now is already in force on one that is late.
CLOCK_SKEW = timedelta(hours=1)

ROOT, PCK_CA, PCK, TCB_SIGNER = "Root CA", "PCK Platform CA", "PCK Certificate", "TCB Signing"
QE_SIGNER = bytes.fromhex("5349" * 16)  # MRSIGNER of the simulated quoting enclave: ASCII "SI"
QE_VERSION = 1
EVALUATION_NUMBER = 1


@dataclass(frozen=True, slots=True)
class Platform:
    """Which simulated platform: what Intel writes into a PCK certificate. `components` are 16 versions."""

    ppid: bytes
    fmspc: bytes = b"SIMSGX"
    pce_id: bytes = bytes(2)
    components: tuple[int, ...] = (1,) * 16
    pce_svn: int = 1


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.certificate.subject.rfc4514_string()})"


def _name(what: str) -> x509.Name:
    return x509.Name(
        (
            x509.NameAttribute(NameOID.COMMON_NAME, f"SIMULATED SGX {what}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED - NOT INTEL"),
        )
    )


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size,)) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


def _entry(suffix: Sequence[int], value: bytes) -> bytes:
    return _der(0x30, _der(0x06, bytes.fromhex("2a864886f84d010d01") + bytes(suffix)) + value)


def _number(value: int) -> bytes:
    # One byte more than needed where the high bit is set, or DER would read it as negative.
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def render_pck_extension(platform: Platform) -> bytes:
    """DER of the extension that `sgx.pck` parses."""
    versions = (*platform.components, platform.pce_svn)
    tcb = b"".join(_entry((2, index), _number(version)) for index, version in enumerate(versions, 1))
    tcb += _entry((2, 18), _der(0x04, bytes(platform.components)))
    return _der(
        0x30,
        _entry((1,), _der(0x04, platform.ppid))
        + _entry((2,), _der(0x30, tcb))
        + _entry((3,), _der(0x04, platform.pce_id))
        + _entry((4,), _der(0x04, platform.fmspc))
        + _entry((5,), _der(0x0A, b"\x01"))
        + _entry((6,), _der(0x04, bytes(16)))
        + _entry((7,), _der(0x30, b"".join(_entry((7, one), _der(0x01, b"\0")) for one in (1, 2, 3)))),
    )


def issue_certificate(
    what: str,
    key: ec.EllipticCurvePublicKey,
    issuer: Signer | ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    ca_depth: int | None = None,
    platform: Platform | None = None,
) -> x509.Certificate:
    """A certificate of the simulated hierarchy.

    `issuer` is a key for a root, which signs itself. `ca_depth` is the number of CAs that may follow below, None for a
    certificate that signs no others; `platform` makes it a PCK certificate.
    """
    signing_key, issuer_name = (
        (issuer.key, issuer.certificate.subject) if isinstance(issuer, Signer) else (issuer, _name(what))
    )
    ca = ca_depth is not None
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(what))
        .issuer_name(issuer_name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=ca_depth), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if platform is not None:
        extension = x509.UnrecognizedExtension(PCK_EXTENSION, render_pck_extension(platform))
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, SHA256())


def issue_crl(issuer: Signer, *, begin: datetime, end: datetime, revoked: Sequence[int] = ()) -> bytes:
    """DER of the issuer's list of revoked serial numbers."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(begin)
        .next_update(end)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, SHA256()).public_bytes(Encoding.DER)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """An ECDSA P-256 SHA-256 signature as r ‖ s (64 bytes), as quotes and collateral carry it."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def chain_pem(*certificates: x509.Certificate) -> str:
    """PEM of a chain, leaf first."""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def tcb_info(platform: Platform, *, begin: datetime, end: datetime, status: str = "UpToDate") -> dict[str, Any]:
    """What is said about platforms of this kind: the one level that they have is `status`."""
    level = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": version} for version in platform.components],
            "pcesvn": platform.pce_svn,
        },
        "tcbDate": _time(begin),
        "tcbStatus": status,
    }
    return {
        "id": "SGX",
        "version": 3,
        **_window(begin, end),
        "fmspc": platform.fmspc.hex().upper(),
        "pceId": platform.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tcbLevels": [level],
    }


def qe_identity(*, begin: datetime, end: datetime, status: str = "UpToDate") -> dict[str, Any]:
    """What is said about the simulated quoting enclave."""
    return {
        "id": "QE",
        "version": 2,
        **_window(begin, end),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 1,
        "tcbLevels": [{"tcb": {"isvsvn": QE_VERSION}, "tcbDate": _time(begin), "tcbStatus": status}],
    }


def render_text(value: Mapping[str, Any]) -> str:
    """The text of TCB info or QE identity, exactly as it gets signed."""
    return json.dumps(value, separators=(",", ":"))


def issue_collateral(
    root: Signer,
    pck_ca: Signer,
    tcb_signer: Signer,
    *,
    platform: Platform,
    now: datetime,
) -> IntelCollateral:
    """Collateral that says of this platform that it is up to date, for a year from `now`."""
    begin, end = life(now)
    info, identity = tcb_info(platform, begin=begin, end=end), qe_identity(begin=begin, end=end)
    return sign_collateral(root, pck_ca, tcb_signer, info=info, identity=identity, window=(begin, end))


def life(now: datetime) -> tuple[datetime, datetime]:
    """Begin and end of collateral that is made now."""
    return (now - CLOCK_SKEW).replace(microsecond=0), (now + COLLATERAL_LIFE).replace(microsecond=0)


def sign_collateral(
    root: Signer,
    pck_ca: Signer,
    tcb_signer: Signer,
    *,
    info: Mapping[str, Any],
    identity: Mapping[str, Any],
    window: tuple[datetime, datetime],
) -> IntelCollateral:
    """Collateral with these two texts, signed, and lists on which nothing stands."""
    info_text, identity_text = render_text(info), render_text(identity)
    signers = chain_pem(tcb_signer.certificate, root.certificate)
    begin, end = window
    return IntelCollateral(
        pck_crl_issuer_chain=chain_pem(pck_ca.certificate, root.certificate),
        root_ca_crl=issue_crl(root, begin=begin, end=end),
        pck_crl=issue_crl(pck_ca, begin=begin, end=end),
        tcb_info_issuer_chain=signers,
        tcb_info=info_text,
        tcb_info_signature=sign(tcb_signer.key, info_text.encode()),
        qe_identity_issuer_chain=signers,
        qe_identity=identity_text,
        qe_identity_signature=sign(tcb_signer.key, identity_text.encode()),
    )


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _window(begin: datetime, end: datetime) -> dict[str, str]:
    return {"issueDate": _time(begin), "nextUpdate": _time(end)}
