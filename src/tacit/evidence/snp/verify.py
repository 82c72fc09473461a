"""From an SNP report to claims: is this a genuine guest on a genuine chip?

`verify_report` takes a report, its certificates, an anchor and the time, and does these steps in this order:

(A1) Parse the report, every byte of it (`report`).
(A2) Refuse bits of POLICY, PLATFORM_INFO and flags that no known guest has.
(A3) Check the anchor: for a real chip the root's key (ARK) is one of AMD's, pinned by hash, and nothing is SIMULATED;
     for a simulated one it is the anchor's own certificate, and everything is.
(A4) Check that all three certificates and the revocation list are in force.
(A5) Check that the root signed itself and the intermediate, and the intermediate the chip's certificate.
(A6) Check that the revocation list is the root's, and that neither intermediate nor chip stands on it. Without a list
     this is not made, and the claims say so.
(A7) Check that the certificate is of the kind that signed (VCEK or VLEK), below the intermediate for that kind, and that
     certificate, root and the report's CPUID name one product line.
(A8) Check that the TCB in the certificate is the one that the report reports: a key is derived for one TCB.
(A9) Check that the chip in a VCEK is the report's. A VLEK is for all chips of a cloud and names none.
(A10) Check the report's signature by the chip's key (ECDSA P-384, SHA-384).

Source: AMD SEV-SNP ABI (56860), "attestation"; AMD VCEK and VLEK certificate specifications (57230, 58369).
"""

import hmac
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from tacit.errors import (
    CollateralError,
    EvidenceFormatError,
    EvidenceSignatureError,
    RevokedError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT, parse_crl
from tacit.evidence.anchor.dates import check_window
from tacit.evidence.anchor.roots import AMD_ROOT_KEYS, check_kind
from tacit.evidence.claims import REVOCATION_UNCHECKED, Checklist, Claims, Tee, TrustAnchor, naming
from tacit.evidence.snp import steps
from tacit.evidence.snp.certificates import AmdCertificate, ChipIdentity, load_key, parse_identity, verify_issued
from tacit.evidence.snp.collateral import AmdCollateral, read_chain
from tacit.evidence.snp.report import (
    TCB_PLACES,
    VCEK,
    VLEK,
    SnpReport,
    check_snp_attributes,
    parse_snp_report,
    product_of,
    tcb_components,
)

NOT_RATED = "NotRated"
"""The TCB status of an SNP guest: AMD publishes no levels, so a package names the lowest versions itself."""

_Chain = tuple[AmdCertificate, AmdCertificate, AmdCertificate]


def verify_report(raw: bytes, collateral: AmdCollateral, anchor: TrustAnchor, *, now: datetime) -> Claims:
    """What an authentic report says; `now` is aware.

    Raises:
        EvidenceError: the subclass that says why, with the step that refused (see `verify_evidence`).
    """
    done = Checklist(steps.STEPS)
    with done.doing(steps.LAYOUT, raw):
        report = parse_snp_report(raw)
    with done.doing(steps.ATTRIBUTES, raw[:0x50]):
        check_snp_attributes(report)
    with naming(steps.CHAIN):
        chain = read_chain(collateral)
    with done.doing(steps.ANCHOR, chain[2].raw):
        check_anchor(chain, anchor)
    with done.doing(steps.IN_FORCE, now.isoformat().encode()):
        expires = _check_validity(chain, collateral, now)
    with done.doing(steps.CHAIN, b"".join(one.raw for one in chain)):
        for certificate, issuer in zip(chain, (chain[1], chain[2], chain[2]), strict=True):
            verify_issued(certificate, issuer)
        identity = parse_identity(chain[0])
    if collateral.crl:
        with done.doing(steps.REVOCATION, collateral.crl):
            _check_revocation(chain, collateral.crl)
    _verify_chip(report, identity, chain, done)
    return _claims(report, identity, anchor=anchor, expires=expires, now=now, done=done)


def _verify_chip(report: SnpReport, identity: ChipIdentity, chain: _Chain, done: Checklist) -> None:
    """(A7) to (A10): the report is of the chip that the certificate names."""
    with done.doing(steps.KEY_KIND, chain[0].raw + report.raw[0x48:0x4C]):
        _check_key_kind(report, identity, chain)
    with done.doing(steps.TCB, report.reported_tcb):
        _check_tcb(report, identity)
    with done.doing(steps.CHIP, report.chip_id):
        _check_chip(report, identity)
    with done.doing(steps.REPORT, report.signed):
        _verify_signature(report, identity.key)


def check_anchor(chain: _Chain, anchor: TrustAnchor) -> None:
    """(A3) Refuse a chain whose root is not the anchor's.

    Raises:
        UntrustedRootError: another kind, another root, or certificates that differ about simulation.
    """
    check_kind(anchor, (Tee.SNP, Tee.SIMULATED_SNP), "SNP")
    root = chain[2]
    for certificate in chain:
        if certificate.simulated != anchor.tee.is_simulated:
            other = "SIMULATED" if certificate.simulated else "not marked SIMULATED"
            raise UntrustedRootError(
                f"the certificate '{certificate.common_name[:60]}' is {other}: it is never accepted where "
                f"{anchor.tee} evidence is asked for"
            )
    if anchor.root_der:
        if not (anchor.tee.is_simulated or anchor.foreign) and root.key_sha384 not in AMD_ROOT_KEYS:
            raise UntrustedRootError(f"the trust anchor '{anchor.name}' is not one of AMD's, the only ones for SNP")
        if root.raw != anchor.root_der:
            raise UntrustedRootError(f"the chain ends at another root than the trust anchor '{anchor.name}'")
    elif anchor.tee.is_simulated:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' has no certificate")
    elif root.key_sha384 not in AMD_ROOT_KEYS:
        raise UntrustedRootError(
            f"the chain ends at '{root.common_name[:60]}', whose key is not one of AMD's that are pinned here"
        )


def _check_validity(chain: _Chain, collateral: AmdCollateral, now: datetime) -> datetime:
    """(A4) The earliest end of everything that the verdict rests on."""
    windows = [(f"the certificate '{one.common_name[:60]}'", one.begin, one.end) for one in chain]
    if collateral.crl:
        crl = parse_crl(collateral.crl, "AMD")
        windows.append(("AMD's CRL", crl.last_update_utc, crl.next_update_utc or crl.last_update_utc))
    for name, begin, end in windows:
        check_window(name, begin, end, now=now)
    return min(end for _, _, end in windows)


def _check_revocation(chain: _Chain, der: bytes) -> None:
    """(A6) AMD's one list for a product line is signed by its root."""
    leaf, intermediate, root = chain
    crl = parse_crl(der, "AMD")
    _verify_crl(der, root)
    for certificate in (leaf, intermediate):
        # Chips' certificates share the serial number 0, so a list that named it would mean all of them.
        if crl.get_revoked_certificate_by_serial_number(certificate.serial):
            raise RevokedError(f"the certificate '{certificate.common_name[:60]}' was revoked")


@lru_cache(maxsize=KEPT)
def _verify_crl(der: bytes, root: AmdCertificate) -> None:
    crl, key = parse_crl(der, "AMD"), load_key(root.key_der)
    try:
        if crl.issuer.public_bytes() != root.subject or not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("another CA issued it")
        scheme = padding.PSS(padding.MGF1(SHA384()), salt_length=SHA384.digest_size)
        key.verify(crl.signature, crl.tbs_certlist_bytes, scheme, SHA384())
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise CollateralError(f"AMD's CRL is not its root's: {exc or 'its signature does not hold'}") from exc


def _check_key_kind(report: SnpReport, identity: ChipIdentity, chain: _Chain) -> None:
    names = {VCEK: "VCEK", VLEK: "VLEK"}
    if report.signing_key not in names:
        raise EvidenceSignatureError(f"the report says that no key signed it (SIGNING_KEY {report.signing_key})")
    asked = names[report.signing_key]
    found = "VLEK" if identity.cloud is not None else "VCEK"
    below = "VLEK" if "VLEK" in chain[1].common_name else "VCEK"
    if found != asked or below != asked or (identity.chip_id is None) != (asked == "VLEK"):
        raise EvidenceSignatureError(
            f"the report was signed with a {asked}, and its certificate is a {found} below an intermediate for {below}s"
        )
    _check_product(report, identity, chain)


def _check_product(report: SnpReport, identity: ChipIdentity, chain: _Chain) -> None:
    if identity.product not in TCB_PLACES:
        raise EvidenceFormatError(f"the product line '{identity.product[:30]}' is not known here")
    pinned = AMD_ROOT_KEYS.get(chain[2].key_sha384, identity.product)
    by_cpuid = product_of(report.cpuid) if report.cpuid else identity.product
    if not identity.product == pinned == by_cpuid:
        raise EvidenceSignatureError(
            f"the chip's certificate is for {identity.product}, the root for {pinned}, and the report's CPUID says "
            f"{by_cpuid or report.cpuid}"
        )


def _check_tcb(report: SnpReport, identity: ChipIdentity) -> None:
    reported, certified = tcb_components(report.reported_tcb, identity.product), dict(identity.tcb)
    for name, version in reported.items():
        if certified.get(name) != version:
            raise TcbError(
                f"the report says {name} {version}, the chip's certificate is for {certified.get(name)}: fetch the "
                "certificate for the reported TCB"
            )


def _check_chip(report: SnpReport, identity: ChipIdentity) -> None:
    if identity.chip_id is None:
        return  # a VLEK, as (A7) made sure
    # Turin's ids have 8 bytes and are followed by zeros in the report. All zero means masked, which fits no chip.
    expected = identity.chip_id.ljust(64, b"\0")
    if not any(report.chip_id) or not hmac.compare_digest(report.chip_id, expected):
        raise EvidenceSignatureError("the report is of another chip than the certificate, or its chip's id is masked")


def _verify_signature(report: SnpReport, key: ec.EllipticCurvePublicKey) -> None:
    try:
        key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(SHA384()))
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise EvidenceSignatureError("the report's signature does not hold: it was altered") from exc


def _lowest_tcb(tcbs: Iterable[bytes], product: str) -> dict[str, int]:
    found = [tcb_components(tcb, product) for tcb in tcbs]
    return {name: min(one[name] for one in found) for name in found[0]}


def _claims(
    report: SnpReport,
    identity: ChipIdentity,
    *,
    anchor: TrustAnchor,
    expires: datetime,
    now: datetime,
    done: Checklist,
) -> Claims:
    return Claims(
        tee=anchor.tee,
        measurement=report.measurement,
        signer=report.id_key_digest,
        product_id=0,
        security_version=report.guest_svn,
        debug=report.debug,
        report_data=report.report_data,
        tcb_status=NOT_RATED,
        advisories=frozenset(),
        tcb_evaluation_number=0,
        hardware_id=report.chip_id,
        expires=expires,
        checks=done.checks(),
        registers=report.registers,
        weaknesses=report.weaknesses | ({REVOCATION_UNCHECKED} if steps.REVOCATION in done.open else set()),
        product_line=identity.product,
        tcb_versions=_lowest_tcb((report.reported_tcb, report.committed_tcb, report.launch_tcb), identity.product),
        verified_at=now,
    )
