"""AMD's certificates from its key distribution service (KDS), or from one that answers like it.

1.  The chip's certificate (VCEK), by product line, CHIP_ID and the TCB that the report reports.
2.  The two above it, and the revocation list of the product line.

A cloud's certificate (VLEK) is given out to nobody else: it has to come with the report, or be in a bundle. Where a
report brings its certificates along (`brought_along`), the list alone is fetched.

Source: AMD VCEK Certificate and KDS Interface Specification (57230), sections 4.1 to 4.3.
"""

from dataclasses import dataclass, replace
from hashlib import sha256

from tacit.errors import CollateralAbsentError, EvidenceError, EvidenceFormatError
from tacit.evidence.claims import TrustAnchor
from tacit.evidence.fetch.http import Get
from tacit.evidence.snp.carried import split_report
from tacit.evidence.snp.certificates import parse_amd_certificate, parse_identity, verify_issued
from tacit.evidence.snp.collateral import AmdCollateral, read_chain
from tacit.evidence.snp.report import TCB_PLACES, VLEK, SnpReport, product_of, tcb_components
from tacit.evidence.snp.verify import check_anchor

AMD_SERVICE = "https://kdsintf.amd.com"
_TURIN_ID = 8  # bytes of CHIP_ID that Turin uses
_SPL = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}


@dataclass(frozen=True, slots=True)
class AmdPlatform:
    """Which certificates a report needs. `chip_id` is empty for a cloud's key; `product` where the report tells it.

    `cloud` is the SHA-256 of a cloud's certificate that came with the report: two clouds' may be for the same TCB.
    """

    chip_id: bytes
    tcb: bytes
    product: str | None
    cloud: bytes = b""

    def __str__(self) -> str:
        cloud = f"-{self.cloud.hex()[:32]}" if self.cloud else ""
        return f"snp-{self.chip_id.hex() or 'vlek'}-{self.tcb.hex()}{cloud}"


def platform_of_report(report: SnpReport) -> AmdPlatform:
    """What to ask for, as the report has it: nothing of it is proven."""
    chip = b"" if report.signing_key == VLEK else report.chip_id
    return AmdPlatform(chip, report.reported_tcb, None if report.cpuid is None else product_of(report.cpuid))


def platform_of_certificates(collateral: AmdCollateral) -> AmdPlatform:
    """What these certificates are for, as they say themselves.

    Raises:
        CollateralError: not a chip's certificate.
    """
    identity = parse_identity(parse_amd_certificate(collateral.leaf))
    places, tcb = TCB_PLACES.get(identity.product, {}), bytearray(8)
    for name, version in identity.tcb:
        if name in places and version < 256:
            tcb[places[name]] = version
    chip = b"" if identity.chip_id is None else identity.chip_id.ljust(64, b"\0")
    return AmdPlatform(chip, bytes(tcb), identity.product)


def brought_along(evidence: bytes, platform: AmdPlatform, anchor: TrustAnchor) -> AmdCollateral | None:
    """The certificates behind a report, if they lead to the anchor's root and are for this very platform, else None.

    So nobody can put others in the place of what a service would answer: there is one right certificate for a chip and
    its TCB, and this is one that its maker signed.
    """
    try:
        _, carried = split_report(evidence)
        if carried is None:
            return None
        chain = read_chain(carried.collateral)
        check_anchor(chain, anchor)
        for certificate, issuer in zip(chain, (chain[1], chain[2], chain[2]), strict=True):
            verify_issued(certificate, issuer)
        found = platform_of_certificates(carried.collateral)
    except EvidenceError:
        return None
    return carried.collateral if (found.chip_id, found.tcb) == (platform.chip_id, platform.tcb) else None


def of_cloud(platform: AmdPlatform, brought: AmdCollateral) -> AmdPlatform:
    """The platform, told apart by the cloud whose certificate came along; a chip's is told apart by its id already."""
    return platform if platform.chip_id else replace(platform, cloud=sha256(brought.leaf).digest())


def fetch_amd_collateral(
    platform: AmdPlatform, address: str, get: Get, *, brought: AmdCollateral | None = None
) -> AmdCollateral:
    """The certificates for a chip from the service at this address, or its list alone for those that were `brought`.

    Raises:
        CollateralAbsentError: no answer; or for a cloud's key or a masked id, for which nobody has any.
    """
    if brought is not None:
        kind = "vcek" if platform.chip_id else "vlek"
        return replace(brought, crl=_crl(get, f"{address}/{kind}/v1/{platform_of_certificates(brought).product}"))
    if not platform.chip_id:
        raise CollateralAbsentError(
            "the report was signed with a cloud's key (VLEK), whose certificate AMD gives to that cloud alone: it has to "
            "come with the report, or be in a bundle"
        )
    if not any(platform.chip_id):
        raise CollateralAbsentError("the report's CHIP_ID is masked by its host, so nobody can tell whose it is")
    # Before version 3 a report does not say which line its chip is of; Turin's have never been that old.
    lines = (platform.product,) if platform.product else ("Milan", "Genoa")
    refused: CollateralAbsentError | None = None
    for product in lines:
        try:
            leaf = get(_leaf_url(platform, product, address)).body
        except CollateralAbsentError as exc:
            refused = refused or exc
            continue
        line = f"{address}/vcek/v1/{product}"
        chain = get(f"{line}/cert_chain").body.decode("ascii", "replace")
        return AmdCollateral(leaf, chain, _crl(get, line))
    raise refused or CollateralAbsentError("the report's product line is not known here")


def _crl(get: Get, line: str) -> bytes:
    crl = get(f"{line}/crl").body
    if not crl:  # an empty one stands for "not checked", which a service has no say in
        raise CollateralAbsentError(f"the service answered {line}/crl with an empty revocation list")
    return crl


def _leaf_url(platform: AmdPlatform, product: str, address: str) -> str:
    chip = platform.chip_id[:_TURIN_ID] if product == "Turin" else platform.chip_id
    try:
        versions = tcb_components(platform.tcb, product)
    except EvidenceFormatError as exc:
        raise CollateralAbsentError(f"no chip has this report's TCB: {exc}") from exc
    query = "&".join(f"{_SPL[name]}={version:02d}" for name, version in versions.items())
    return f"{address}/vcek/v1/{product}/{chip.hex()}?{query}"
