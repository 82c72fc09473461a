"""What does a person do with a manifest?

In: `tacit manifest set|get|verify|signature|check|lint|diff` and its options. Out: a manifest that is set, fetched or
compared with what a coordinator holds, or lines that say what is wrong, weak or different.
"""

from tacit.cli.manifest.commands import app

__all__ = ["app"]
