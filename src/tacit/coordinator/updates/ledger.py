"""What is held, and the only way to change it: stored first, held then.

Readers take `held`, one value replaced whole, and wait for nobody. Whoever changes has `lock`.
"""

import threading

from tacit.coordinator.sealed.changes import encode_change, encode_snapshot
from tacit.coordinator.sealed.records import Position
from tacit.coordinator.state import Change, Event, Holdings, advance, apply
from tacit.coordinator.store import Store
from tacit.errors import NotSetError
from tacit.manifest import Manifest


class Ledger:
    """Holdings over a store."""

    def __init__(self, store: Store, holdings: Holdings) -> None:
        self.store = store
        self.lock = threading.Lock()
        self.held: tuple[Holdings, Position] = (holdings, store.position)

    @property
    def holdings(self) -> Holdings:
        """What is held now."""
        return self.held[0]

    def opened(self, event: Event) -> tuple[Holdings, Manifest]:
        """What is held, for something that needs a manifest.

        Raises:
            IllegalTransitionError: not in this state.
        """
        holdings = self.holdings
        advance(holdings.state, event)
        return holdings, manifest_of(holdings)

    def change(self, change: Change) -> None:
        """With the lock held: store a change, then hold it.

        Raises:
            StateError: it could not be stored, and nothing has happened.
        """
        after = apply(self.holdings, change)
        if self.store.wants_snapshot:
            self.store.rewrite(encode_snapshot(after))
        else:
            self.store.append(encode_change(change))
        self.hold(after)

    def hold(self, holdings: Holdings) -> None:
        """With the lock held: hold what the store has already."""
        self.held = holdings, self.store.position


def manifest_of(holdings: Holdings) -> Manifest:
    """The manifest.

    Raises:
        NotSetError: there is none yet.
    """
    if holdings.manifest is None:
        raise NotSetError("requested value not set")
    return holdings.manifest
