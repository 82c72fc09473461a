"""What does the owner do with model files?

In: `tacit model download|make|convert|encrypt|decrypt|rekey|inspect` and its options. Out: model files, capsules and
keys on disk, each written under a temporary name and renamed when whole, and lines that say what was written.
"""

from tacit.cli.model.commands import app

__all__ = ["app"]
