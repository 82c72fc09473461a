"""What should a person know before this manifest is set?

In: one manifest, or the old and the new. Out: its weak choices, each with its weight and the better form; or, in words,
who gains and who loses what. Nothing here refuses a manifest, and no text repeats what a file, a variable or an argument
contains: it may be a secret.
"""

from tacit.manifest.review.diff import Change, Effect, compare_manifests
from tacit.manifest.review.lint import Finding, Severity, lint_manifest

__all__ = ["Change", "Effect", "Finding", "Severity", "compare_manifests", "lint_manifest"]
