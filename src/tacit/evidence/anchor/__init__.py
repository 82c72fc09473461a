"""Which roots may vouch, and how is what they sign read? Anchors, certificates, DER and strict JSON: forms, no verdicts.

`roots` has the pinned keys and refuses an anchor that does not fit its kind; the others parse what comes from outside.
"""

from tacit.evidence.anchor.roots import AMD, INTEL, INTEL_TDX, MAKERS

__all__ = ["AMD", "INTEL", "INTEL_TDX", "MAKERS"]
