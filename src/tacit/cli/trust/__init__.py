"""Whom does a command talk to, and how sure is it of that?

In: what `tacit trust` is told, the options of a command, a coordinator's address. Out: a coordinator that was checked, or
one line that says why it was not believed.
"""

from tacit.cli.trust.command import trust
from tacit.cli.trust.reach import HostArgument as HostArgument
from tacit.cli.trust.reach import InsecureOption as InsecureOption
from tacit.cli.trust.reach import Reached, keep_certificates, note_unpinned, open_store, reach, while_doing

__all__ = ["Reached", "keep_certificates", "note_unpinned", "open_store", "reach", "trust", "while_doing"]
