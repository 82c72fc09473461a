"""Whose key is it? Certificates, keys and signing requests of the mesh, and the TLS contexts that use them.

In: names, a clock, a signing request, an issuer. Out: certificates with their keys, in MarbleRun's shapes. Everything
here is a pure function but `tacit.pki.tls`, which is imported by its own name because it needs `ssl`. Further doors:
`keys.generate_key`, `csr.create_csr`.
"""

from tacit.pki.ca import issue_intermediate, issue_marble_root, issue_root, issue_self_signed
from tacit.pki.certificate import CertificateRequest, issue_secret_certificate
from tacit.pki.csr import parse_csr
from tacit.pki.keys import KeyPair, parse_key_pair
from tacit.pki.leaf import issue_leaf

__all__ = [
    "CertificateRequest",
    "KeyPair",
    "issue_intermediate",
    "issue_leaf",
    "issue_marble_root",
    "issue_root",
    "issue_secret_certificate",
    "issue_self_signed",
    "parse_csr",
    "parse_key_pair",
]
