"""The steps of verifying an SNP report, as docs/evidence.md numbers them."""

from tacit.evidence.claims import Step

LAYOUT = Step("A1", "layout, version and reserved bytes")
ATTRIBUTES = Step("A2", "known bits of policy, platform and flags")
ANCHOR = Step("A3", "trust anchor of this kind: AMD's pinned root key")
IN_FORCE = Step("A4", "in force: certificates, revocation list")
CHAIN = Step("A5", "certificates lead from the root to the chip's")
REVOCATION = Step("A6", "revocation list: genuine, nothing revoked")
KEY_KIND = Step("A7", "kind of key and product line: as the report says")
TCB = Step("A8", "TCB: the certificate's is the reported one")
CHIP = Step("A9", "chip: the certificate's is the report's")
REPORT = Step("A10", "report signed by the chip's key")

STEPS = (LAYOUT, ATTRIBUTES, ANCHOR, IN_FORCE, CHAIN, REVOCATION, KEY_KIND, TCB, CHIP, REPORT)
