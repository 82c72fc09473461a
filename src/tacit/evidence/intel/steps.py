"""The steps of verifying one of Intel's quotes, as docs/evidence.md numbers them."""

from tacit.evidence.claims import Step

LAYOUT = Step("I1", "layout, lengths and padding")
ATTRIBUTES = Step("I2", "known attributes")
ANCHOR = Step("I3", "trust anchor of this kind, at the chain's end")
IN_FORCE = Step("I4", "in force: certificates, CRLs, TCB info, QE identity")
CHAIN = Step("I5", "PCK chain and TCB signers lead to the anchor")
REVOCATION = Step("I6", "root CRL and PCK CRL: genuine, nothing revoked")
TCB_INFO = Step("I7", "TCB info: signed, for this platform")
QE_IDENTITY = Step("I8", "QE identity: signed, for this kind")
QE_REPORT = Step("I9", "quoting enclave: signed by the PCK key, Intel's")
KEY_BINDING = Step("I10", "attestation key bound by the quoting enclave")
QUOTE = Step("I11", "quote signed by the attestation key")
TDX_MODULE = Step("I12", "TDX module: Intel's")
LEVELS = Step("I13", "TCB levels of platform and parts")

_FOR_ALL = (
    LAYOUT, ATTRIBUTES, ANCHOR, IN_FORCE, CHAIN, REVOCATION, TCB_INFO, QE_IDENTITY, QE_REPORT, KEY_BINDING, QUOTE,
)  # fmt: skip
SGX_STEPS = (*_FOR_ALL, LEVELS)
TDX_STEPS = (*_FOR_ALL, TDX_MODULE, LEVELS)
