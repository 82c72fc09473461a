"""What can a coordinator be asked?

In: a store, settings and the world around it. Out: one object with a method for each question. `founding` begins a state
or opens it again, `activations` releases, `vouching` signs; `coordinator` has them all, and what users and marbles ask
beside.
"""

from tacit.coordinator.core.coordinator import Coordinator
from tacit.coordinator.core.vouching import Status
from tacit.coordinator.core.world import Settings, World

__all__ = ["Coordinator", "Settings", "Status", "World"]
