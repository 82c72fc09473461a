"""The roots that chains of evidence end at: Intel's, pinned here, and simulated ones, which say so in their names.

A root is never taken from evidence, and an anchor vouches for one kind of TEE only. Two fences hold that, and each
would hold alone: an SGX anchor must have Intel's very key, and whatever has SIMULATED in its subject is simulated.

Source: Intel SGX Root CA, https://certificates.trustedservices.intel.com/IntelSGXRootCA.der
"""

from base64 import b64decode
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tacit.errors import UntrustedRootError
from tacit.evidence.claims import Tee, TrustAnchor
from tacit.evidence.collateral import FOREIGN_ERRORS

SIMULATED_MARK = "SIMULATED"

# X ‖ Y of Intel's root key, in every quote's chain since 2018.
INTEL_ROOT_KEY = bytes.fromhex(
    "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
INTEL = TrustAnchor(
    tee=Tee.SGX,
    name="Intel SGX Root CA",
    root_der=b64decode(
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
    ),
)


def public_point(certificate: x509.Certificate) -> bytes:
    """X ‖ Y (64 bytes) of a certificate's P-256 key.

    Raises:
        ValueError: another kind of key.
    """
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if len(point) != 65:
        raise ValueError("the key is not on P-256")
    return point[1:]


def is_simulated(certificate: x509.Certificate) -> bool:
    """Whether a certificate's subject carries the mark of simulation."""
    return any(SIMULATED_MARK in str(attribute.value).upper() for attribute in certificate.subject)


def parse_anchor(anchor: TrustAnchor) -> x509.Certificate:
    """The root certificate of an anchor that fits its own kind.

    Raises:
        UntrustedRootError: not a root certificate; an SGX anchor other than Intel's; a simulated anchor without its
            mark; or a kind of TEE that has no anchor here yet.
    """
    try:
        root = x509.load_der_x509_certificate(anchor.root_der)
        point, simulated = public_point(root), is_simulated(root)
        root.verify_directly_issued_by(root)
    except (*FOREIGN_ERRORS, InvalidSignature) as exc:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' is not a P-256 root certificate: {exc}") from exc
    if anchor.tee is Tee.SGX and simulated:
        raise UntrustedRootError(
            f"the trust anchor '{anchor.name}' is SIMULATED and can never vouch for SGX; use --tee simulated"
        )
    if anchor.tee is Tee.SGX and point != INTEL_ROOT_KEY:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' is not Intel's root, the only one for SGX")
    if anchor.tee is Tee.SIMULATED and not simulated:
        raise UntrustedRootError(f"the trust anchor '{anchor.name}' is for simulation but is not marked SIMULATED")
    if anchor.tee not in (Tee.SGX, Tee.SIMULATED):
        raise UntrustedRootError(f"evidence of {anchor.tee} is not supported yet; there is no trust anchor for it")
    return root


def check_chain_kind(chain: Sequence[x509.Certificate], anchor: TrustAnchor, root: x509.Certificate) -> None:
    """Refuse a chain that ends at another root, or mixes simulated certificates with real ones.

    The verifier puts the pinned root in place of the chain's last certificate, so this decides nothing that the
    signatures would not; it gives the true reason, and leaves no byte of the chain unlooked at.

    Raises:
        UntrustedRootError: as above; the message names both sides.
    """
    marks = {is_simulated(certificate) for certificate in chain}
    if anchor.tee is Tee.SGX and True in marks:
        raise UntrustedRootError("this evidence is SIMULATED: it is never accepted where SGX is asked for")
    if anchor.tee is Tee.SIMULATED and False in marks:
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
