"""The roots that chains of evidence end at: Intel's and AMD's, pinned here, and simulated ones, which say so in their names.

A root is never taken from evidence, and an anchor vouches for one kind of TEE only. Two fences hold that, and each
would hold alone: an anchor for a real TEE must have a key of its maker, and whatever has SIMULATED in its subject is
simulated. A root of neither kind counts only where the caller said so in a word of its own (`TrustAnchor.foreign`).

Source: Intel SGX Root CA, https://certificates.trustedservices.intel.com/IntelSGXRootCA.der;
AMD's ARKs, https://kdsintf.amd.com/vcek/v1/{Milan,Genoa,Turin}/cert_chain.
"""

from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tacit.errors import UntrustedRootError
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT, is_simulated, public_point
from tacit.evidence.claims import Tee, TrustAnchor

# X ‖ Y of Intel's root key, in every quote's chain since 2018.
INTEL_ROOT_KEY = bytes.fromhex(
    "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
_INTEL_ROOT = b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJv"
    "b3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJ"
    "BgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0Ex"
    "GjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT"
    "AlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL"
    "0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJ"
    "MEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRl"
    "cjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYI"
    "KoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZ"
    "UGOdRQ7cvqRXaqI="
)
INTEL = TrustAnchor(Tee.SGX, "Intel SGX Root CA", _INTEL_ROOT)
INTEL_TDX = TrustAnchor(Tee.TDX, "Intel SGX Root CA", _INTEL_ROOT)
"""The same root: Intel signs both kinds with it, and an anchor vouches for one."""

# SHA-384 of each ARK's public key (SPKI, DER) -> product line.
AMD_ROOT_KEYS = {
    bytes.fromhex(
        "1249f67f15cf229a4069195e1a9ce537d1765ef706a1f4a123c36be9518786515d25ecc007f366b564d2b3f31c48082e"
    ): "Milan",
    bytes.fromhex(
        "32ab53a6ce5ec14926207396e5c475ae768a6a9831b7e860b5acf2e1c1dff222bc5a8bfc43eb5e06393189c1f246d880"
    ): "Genoa",
    bytes.fromhex(
        "3475f08a9727f8ac9a1deaea5f2a2097aa59d64d05c2a678c229c873e6359d3a6926287a2a22cd5f88a385e333a2fcc5"
    ): "Turin",
}
AMD = TrustAnchor(Tee.SNP, "AMD root keys (Milan, Genoa, Turin)", b"")
"""Has no certificate of its own: AMD's chains bring theirs (ARK), and its key must be one of AMD_ROOT_KEYS."""

MAKERS = {Tee.SGX: INTEL, Tee.TDX: INTEL_TDX, Tee.SNP: AMD}
"""The anchor of each real kind."""


def check_kind(anchor: TrustAnchor, kinds: Sequence[Tee], what: str) -> None:
    """Refuse an anchor that does not vouch for evidence of this kind.

    Raises:
        UntrustedRootError: the message names both.
    """
    if anchor.tee not in kinds:
        raise UntrustedRootError(
            f"this is {what} evidence, and the trust anchor '{anchor.name}' vouches for {anchor.tee} alone: "
            "ask for the kind of TEE by its own name"
        )


def check_mark(anchor: TrustAnchor, *, simulated: bool) -> None:
    """Refuse a root whose name says another thing about simulation than its anchor's kind.

    Raises:
        UntrustedRootError: a SIMULATED root for a real TEE, or the other way round.
    """
    if simulated and not anchor.tee.is_simulated:
        raise UntrustedRootError(
            f"the trust anchor '{anchor.name}' is SIMULATED and can never vouch for {anchor.tee.name}; "
            "use --tee simulated"
        )
    if anchor.tee.is_simulated and not simulated:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' is for simulation but is not marked SIMULATED")


@lru_cache(maxsize=KEPT)
def parse_anchor(anchor: TrustAnchor) -> x509.Certificate:
    """The root certificate of an anchor for Intel's layouts that fits its own kind.

    Raises:
        UntrustedRootError: not a root certificate; an anchor for a real TEE that is neither Intel's nor said to be
            foreign; or one whose name and kind differ about simulation.
    """
    try:
        root = x509.load_der_x509_certificate(anchor.root_der)
        point, simulated = public_point(root), is_simulated(root)
        root.verify_directly_issued_by(root)
    except (*FOREIGN_ERRORS, InvalidSignature) as exc:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' is not a P-256 root certificate: {exc}") from exc
    check_mark(anchor, simulated=simulated)
    if not (anchor.tee.is_simulated or anchor.foreign) and point != INTEL_ROOT_KEY:
        raise UntrustedRootError(
            f"the trust anchor '{anchor.name}' is not Intel's root, the only one for {anchor.tee.name}"
        )
    return root


@lru_cache(maxsize=KEPT)
def check_chain_kind(chain: tuple[x509.Certificate, ...], anchor: TrustAnchor, root: x509.Certificate) -> None:
    """Refuse a chain that ends at another root, or mixes simulated certificates with real ones.

    The verifier puts the pinned root in place of the chain's last certificate, so this decides nothing that the
    signatures would not; it gives the true reason, and leaves no byte of the chain unlooked at.

    Raises:
        UntrustedRootError: as above; the message names both sides.
    """
    marks = {is_simulated(certificate) for certificate in chain}
    if not anchor.tee.is_simulated and True in marks:
        raise UntrustedRootError(
            f"this evidence is SIMULATED: it is never accepted where {anchor.tee.name} is asked for"
        )
    if anchor.tee.is_simulated and False in marks:
        raise UntrustedRootError(
            "this evidence has certificates that are not marked SIMULATED: real evidence is never accepted where "
            "simulated evidence is asked for"
        )
    if chain[-1] != root:
        name = chain[-1].subject.rfc4514_string()
        raise UntrustedRootError(
            f"the evidence's chain ends at another root ('{name[:100]}') than the trust anchor '{anchor.name}'; "
            "machines that are to trust each other must share one platform (tacit platform import)"
        )
