"""Intel's collateral from a provisioning certification service: Intel's own (PCS), or a cache of it on one's network (PCCS).

1.  TCB info of the platform: its text exactly as it was signed, the signature, and the signer's chain from a header.
2.  QE identity, likewise.
3.  The revocation list of the CA that issued the platform's certificate, with its chain; and the root's.

Which service is asked is the configuration's to say; evidence gives only the platform's family (FMSPC) and the CA.

Source: Intel SGX and TDX PCS API v4, and the PCCS of Intel's DCAP, which gives revocation lists as hex.
"""

import re
from binascii import unhexlify
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec
from cryptography import x509

from tacit.errors import CollateralAbsentError, CollateralError, UntrustedRootError
from tacit.evidence.anchor.certificates import parse_chain
from tacit.evidence.claims import Tee
from tacit.evidence.fetch.http import Answer, Get
from tacit.evidence.intel.collateral import IntelCollateral, parse_signed_object, read_collateral
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.intel.quote import Quote

INTEL_SERVICE = "https://api.trustedservices.intel.com"
_INTEL_ROOT_LIST = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
# People copy the address from the settings of Intel's and Gramine's tools, which has this at its end.
_VERSION_PATH = re.compile(r"/(?:sgx|tdx)/certification/v[34]$")
_CAS = {"Platform": "platform", "Processor": "processor"}


@dataclass(frozen=True, slots=True)
class IntelPlatform:
    """Which collateral a quote needs: its kind (SGX or TDX), the FMSPC (hex), and the CA (`platform` or `processor`)."""

    tee: Tee
    fmspc: str
    ca: str

    def __str__(self) -> str:
        return f"{self.tee}-{self.fmspc}-{self.ca}"


def platform_of_quote(quote: Quote) -> IntelPlatform:
    """What to ask for, as the quote has it: nothing of it is proven.

    Raises:
        EvidenceFormatError: the quote's chain does not parse, or does not say which platform it is.
        UntrustedRootError: the chain has another CA than Intel's two.
    """
    leaf = parse_chain(quote.pck_chain_pem)[0]
    return IntelPlatform(quote.tee, parse_pck_extension(leaf).fmspc.hex(), _ca(leaf.issuer))


def platform_of_collateral(collateral: IntelCollateral) -> IntelPlatform:
    """What this collateral is for, as it says itself.

    Raises:
        CollateralError: it does not parse, or does not say so.
        UntrustedRootError: its list is of another CA than Intel's two.
    """
    info = parse_signed_object(collateral.tcb_info, "TCB info")
    tee = {"SGX": Tee.SGX, "TDX": Tee.TDX}.get(str(info.get("id")))
    fmspc = info.get("fmspc")
    if tee is None or not isinstance(fmspc, str) or not re.fullmatch("[0-9A-Fa-f]{12}", fmspc):
        raise CollateralError("TCB info does not say for which kind and family of platforms (id, fmspc) it is")
    return IntelPlatform(tee, fmspc.lower(), _ca(read_collateral(collateral).pck_crl.issuer))


def _ca(name: x509.Name) -> str:
    """Which of Intel's two CAs below the root has this name; a simulated one says both words too."""
    text = name.rfc4514_string()
    found = [path for word, path in _CAS.items() if f"PCK {word} CA" in text]
    if len(found) != 1:
        raise UntrustedRootError(f"'{text[:100]}' is neither the PCK Platform CA nor the PCK Processor CA")
    return found[0]


def fetch_intel_collateral(platform: IntelPlatform, address: str, get: Get) -> IntelCollateral:
    """The collateral for a platform from the service at this address.

    Raises:
        CollateralAbsentError: no answer, or not what was asked for.
        CollateralError: parts that do not parse.
    """
    address = _VERSION_PATH.sub("", address)
    sgx, kind = f"{address}/sgx/certification/v4", f"{address}/{platform.tee}/certification/v4"
    tcb = get(f"{kind}/tcb?fmspc={platform.fmspc}")
    identity = get(f"{kind}/qe/identity")
    crl = get(f"{sgx}/pckcrl?ca={platform.ca}&encoding=der")
    root = get(_INTEL_ROOT_LIST if address == INTEL_SERVICE else f"{sgx}/rootcacrl")
    tcb_info, tcb_signature = _signed(tcb, "tcbInfo")
    qe_identity, qe_signature = _signed(identity, "enclaveIdentity")
    collateral = IntelCollateral(
        pck_crl_issuer_chain=_chain(crl, "sgx-pck-crl-issuer-chain"),
        root_ca_crl=_list(root),
        pck_crl=_list(crl),
        tcb_info_issuer_chain=_chain(tcb, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_signature,
        qe_identity_issuer_chain=_chain(identity, "sgx-enclave-identity-issuer-chain"),
        qe_identity=qe_identity,
        qe_identity_signature=qe_signature,
    )
    if (found := platform_of_collateral(collateral)) != platform:
        raise CollateralAbsentError(f"the service at {address} was asked for {platform}, and answered for {found}")
    return collateral


def _signed(answer: Answer, name: str) -> tuple[str, bytes]:
    """A signed text, exactly as it stands in the answer, and its signature."""
    try:
        value = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
        return bytes(value[name]).decode(), bytes.fromhex(msgspec.json.decode(value["signature"], type=str))
    except (msgspec.DecodeError, KeyError, ValueError) as exc:
        raise CollateralAbsentError(
            f"the service answered with something else than {name} and its signature; is it a PCCS with version 4?"
        ) from exc


def _chain(answer: Answer, *headers: str) -> str:
    for name in headers:
        if name in answer.headers:
            return unquote(answer.headers[name])
    raise CollateralAbsentError(f"the service's answer has no header {headers[0]}; is it a PCCS with version 4?")


def _list(answer: Answer) -> bytes:
    """A revocation list in DER, or as a PCCS gives it: that in hex."""
    if answer.body[:1] == b"\x30" and not re.fullmatch(rb"[0-9A-Fa-f\s]+", answer.body):
        return answer.body
    try:
        return unhexlify(answer.body.strip())
    except ValueError as exc:
        raise CollateralAbsentError("the service answered with something else than a revocation list") from exc
