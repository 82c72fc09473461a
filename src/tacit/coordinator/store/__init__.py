"""Where is the state kept, and in which order is it written?

`folder` is the sealed state on a disk, locked for as long as the program lives; `logfiles` are the files of the audit
log beside it; `memory` keeps a state that ends with the process. `backup` copies a folder out and in. Only these, of
the whole coordinator, touch a disk.
"""

from tacit.coordinator.store.folder import DATA_NAME, KEY_NAME, SealedFolder
from tacit.coordinator.store.memory import MemoryStore, Store

__all__ = ["DATA_NAME", "KEY_NAME", "MemoryStore", "SealedFolder", "Store"]
